"""A source of live audio, and all its listeners, in one thread.

The source sends a frame when it is due, as an encoder does. The listeners look four times a second, and their
kernels keep the rest until then, so that the load is no match for the server. What the first one receives is
compared with what the source sends; of the others the bytes are counted, and thrown away unread (MSG_TRUNC).
"""

import base64
import json
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import SILENCE_SECONDS, found
from benchmarks.load.endless import AT_A_TIME, Endless, opened
from benchmarks.measure import BenchmarkError, usage

FRAME_BYTES, FRAME_SECONDS = 384, 0.024
"""Of MPEG-1 layer III at 48 kHz and 128 kbit/s, where no frame is padded."""

BYTES_PER_SECOND = FRAME_BYTES / FRAME_SECONDS

BEFORE_SECONDS = 1.0
"""Of audio before the first listener."""

BURST_SECONDS = 15
BURST_OVER = 0.5
"""How long the burst may take that listeners begin with. It is over when in a time of BEFORE_SECONDS they
receive at most that share more, or less, than the source sends."""

LOOK_SECONDS = 0.25

TOLERANCE, TOLERANCE_SECONDS = 0.05, 0.5
"""How far a listener's bytes may be from the source's: a share, or what a server sends in one piece."""

_BUFFER_BYTES = 1024 * 1024
_BUFFER = bytearray(_BUFFER_BYTES)


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with 127.0.0.1.

    Args:
        target: the source PUTs to it as user `source`, listeners GET it.
        path: an MP3 of frames of FRAME_BYTES, which the source repeats.
    """

    server_pid: int
    port: int
    target: str
    password: str
    path: str
    listeners: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """Shares of a core, and the least and the most that listeners received, as shares of their due."""

    cpu_share: float
    load_share: float
    least: float
    most: float


def measured(job: Job) -> Reading:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: a listener did not receive the stream at its rate, or received something else.
    """
    return Reading(**found("listeners", job, job.seconds))


def run(job: Job) -> Reading:
    """Begin with the source, let the listeners join, and measure when they have had their burst."""
    with ExitStack() as stack:
        return _read(job, stack)


def _read(job: Job, stack: ExitStack) -> Reading:
    source = Source(job, stack)
    source.go_on(BEFORE_SECONDS, ())
    # HTTP/1.0: an answer without chunks, whose bytes are those of the stream.
    wish = f"GET {job.target} HTTP/1.0\r\nHost: 127.0.0.1:{job.port}\r\n\r\n"
    listeners = [Listener(endless, keeps=True) for endless in opened(stack, job.port, wish, 1)]
    while (count := len(listeners)) < job.listeners:
        some = opened(stack, job.port, wish, min(AT_A_TIME, job.listeners - count), count)
        listeners += map(Listener, some)
        source.go_on(0, listeners)
    source.get_over_burst(listeners)
    already = [listener.received_bytes for listener in listeners]
    began, cpu, load = time.perf_counter(), usage(job.server_pid).cpu_seconds, time.process_time()
    source.go_on(job.seconds, listeners)
    seconds, load_seconds = time.perf_counter() - began, time.process_time() - load
    cpu_seconds = usage(job.server_pid).cpu_seconds - cpu
    received = [listener.received_bytes - then for listener, then in zip(listeners, already, strict=True)]
    least, most = check(received, seconds)
    source.compare(listeners[0].kept)
    return Reading(cpu_seconds / seconds, load_seconds / seconds, least, most)


def check(received: Sequence[int], seconds: float) -> tuple[float, float]:
    """The least and the most of what listeners received in this time, as shares of their due.

    Raises:
        BenchmarkError: they are too far from it.
    """
    due = seconds * BYTES_PER_SECOND
    least, most = min(received) / due, max(received) / due
    tolerance = max(TOLERANCE, TOLERANCE_SECONDS / seconds)
    if not 1 - tolerance <= least <= most <= 1 + tolerance:
        raise BenchmarkError(f"listeners received from {least:.1%} to {most:.1%} of the stream's rate")
    return least, most


class Source:
    """A source client that has been let in; sends the frames of a file again and again, each when it is due.

    Raises:
        BenchmarkError: the server does not want it.
    """

    def __init__(self, job: Job, stack: ExitStack) -> None:
        self._content = Path(job.path).read_bytes()
        frames = len(self._content) // FRAME_BYTES
        self._frames = [self._content[FRAME_BYTES * n : FRAME_BYTES * (n + 1)] for n in range(frames)]
        credentials = base64.b64encode(f"source:{job.password}".encode()).decode()
        connection = socket.create_connection(("127.0.0.1", job.port), SILENCE_SECONDS)
        self._connection = stack.enter_context(connection)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sendall(
            f"PUT {job.target} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\n"
            f"Authorization: Basic {credentials}\r\n"
            "Content-Type: audio/mpeg\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        answer = self._connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 100 "):
            raise BenchmarkError(f"the source expected a 100, not {answer.decode('latin-1')!r}")
        self._began = time.perf_counter()
        self._sent = 0  # frames

    def go_on(self, seconds: float, listeners: Sequence["Listener"]) -> None:
        """Send what is due for so long, the listeners looking meanwhile and at the end."""
        now = time.perf_counter()
        end, look = now + seconds, now + LOOK_SECONDS
        while True:
            while (due := self._began + self._sent * FRAME_SECONDS) <= now:
                self._connection.sendall(self._frames[self._sent % len(self._frames)])
                self._sent += 1
            if now >= min(look, end):
                for listener in listeners:
                    listener.receive()
                look += LOOK_SECONDS
            if now >= end:
                return
            time.sleep(max(0.0, min(due, look, end) - time.perf_counter()))
            now = time.perf_counter()

    def get_over_burst(self, listeners: Sequence["Listener"]) -> None:
        """Go on until all have had their burst.

        Raises:
            BenchmarkError: that takes more than BURST_SECONDS.
        """
        due = BEFORE_SECONDS * BYTES_PER_SECOND * len(listeners)
        deadline = time.perf_counter() + BURST_SECONDS
        while time.perf_counter() < deadline:
            before = sum(listener.received_bytes for listener in listeners)
            self.go_on(BEFORE_SECONDS, listeners)
            received = sum(listener.received_bytes for listener in listeners) - before
            if abs(received / due - 1) <= BURST_OVER:
                return
        raise BenchmarkError(f"listeners do not receive at the stream's rate after {BURST_SECONDS} s")

    def compare(self, received: bytearray) -> None:
        """See whether this is a part of the stream.

        Raises:
            BenchmarkError: it is not.
        """
        repeats = len(received) // len(self._content) + 2
        if received not in self._content * repeats:
            raise BenchmarkError("a listener received other bytes than the source sent")


class Listener:
    """Who receives the stream; the first of them keeps what it received."""

    def __init__(self, endless: Endless, *, keeps: bool = False) -> None:
        self.connection = endless.connection
        self.kept = bytearray(endless.begin)
        self.received_bytes = 0
        self._keeps = keeps

    def receive(self) -> None:
        """Take what has come.

        Raises:
            BenchmarkError: the server has closed the connection.
        """
        try:
            if self._keeps:
                received = self.connection.recv(_BUFFER_BYTES)
                self.kept += received
                count = len(received)
            else:
                count = self.connection.recv_into(_BUFFER, _BUFFER_BYTES, socket.MSG_TRUNC)
        except BlockingIOError:
            return
        if not count:
            raise BenchmarkError("the server closed the connection of a listener")
        self.received_bytes += count


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
