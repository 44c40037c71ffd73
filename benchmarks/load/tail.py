"""Writes lines to a file and receives them as every follower of it, in one thread."""

import json
import re
import select
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles

from benchmarks.load import found
from benchmarks.load.endless import opened, subscription
from benchmarks.load.fanout import IN_FLIGHT, SETTLING_SECONDS, Audience, Pace, paced
from benchmarks.measure import BenchmarkError, pss_bytes

WARMING_LINES = 5


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with 127.0.0.1.

    Args:
        path: of the file that is written to.
        target: followers GET it, and get what is new of it as events.
        seconds: of lines at full speed, as many as all followers take.
        steady_seconds: of one line each INTERVAL_SECONDS (`fanout`).
    """

    server_pid: int
    port: int
    path: str
    target: str
    followers: int
    seconds: float
    steady_seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement.

    Attributes:
        pace: with IN_FLIGHT lines on their way.
        p50_ms, p99_ms: of all deliveries at the steady rate, since the line was written.
        idle_bytes: of the server's memory (PSS), for each follower before there were lines.
        read_times: how often the server read each byte that was written at full speed.
    """

    pace: Pace
    p50_ms: float
    p99_ms: float
    idle_bytes: float
    read_times: float


def measured(job: Job) -> Reading:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: a follower did not get every line.
    """
    answer = found("tail", job, job.seconds + job.steady_seconds)
    return Reading(Pace(**answer.pop("pace")), **answer)


def run(job: Job) -> Reading:
    """Measure memory, then the steady rate, then full speed."""
    with ExitStack() as stack:
        return _read(job, stack)


def _read(job: Job, stack: ExitStack) -> Reading:
    poll = stack.enter_context(select.epoll())
    log = Log(job.path, stack)
    audience = Audience(poll, log)
    wish = subscription(job.port, job.target)
    audience.join(opened(stack, job.port, wish, 1))
    time.sleep(SETTLING_SECONDS)
    for _ in range(WARMING_LINES):
        audience.publish(1)
        audience.settle()
    before = pss_bytes(job.server_pid)
    audience.join(opened(stack, job.port, wish, job.followers - 1, 1))
    time.sleep(SETTLING_SECONDS)
    idle_bytes = (pss_bytes(job.server_pid) - before) / (job.followers - 1)
    audience.steady(job.steady_seconds)
    percentiles = quantiles(audience.latencies_ns, n=100, method="inclusive")
    written, already_read = log.written, _read_bytes(job.server_pid)
    pace = paced(job.server_pid, audience, job.seconds, IN_FLIGHT)
    read_times = (_read_bytes(job.server_pid) - already_read) / (log.written - written)
    audience.compare()
    return Reading(pace, percentiles[49] / 1e6, percentiles[98] / 1e6, idle_bytes, read_times)


def _read_bytes(pid: int) -> int:
    """What a process has read of files; what it receives from sockets is not counted (proc(5))."""
    return int(re.findall(r"^rchar: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)[0])


class Log:
    """The file, as a program writes to its log: a Publisher of lines."""

    def __init__(self, path: str, stack: ExitStack) -> None:
        self._file = stack.enter_context(open(path, "ab", buffering=0))  # noqa: PTH123, SIM115
        self.written = 0

    def publish(self, texts: Sequence[str]) -> int:
        lines = "".join(f"{text}\n" for text in texts).encode()
        if lines:
            self.written += self._file.write(lines)
        return len(texts)

    def receive(self, descriptor: int) -> None:
        raise NotImplementedError("a file answers nothing")

    def finish(self) -> bool:
        return True


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
