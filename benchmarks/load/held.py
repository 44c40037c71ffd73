"""Subscribers to whom nothing happens but heartbeats: their memory, and the server's CPU time meanwhile."""

import json
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from benchmarks.load import found
from benchmarks.load.endless import opened, subscription
from benchmarks.measure import BenchmarkError, pss_bytes, usage

LATE_SECONDS = 1
"""How late a heartbeat may be."""


@dataclass(frozen=True, slots=True)
class Job:
    """Whom to subscribe to at 127.0.0.1, how often, and how long the server lets pass between heartbeats."""

    server_pid: int
    port: int
    target: str
    subscribers: int
    heartbeat_seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement.

    Attributes:
        idle_bytes: of the server's memory (PSS), for each subscriber.
        opening_seconds: until all were subscribed.
        cpu_share: of its core that the server used while every subscriber got a heartbeat.
    """

    idle_bytes: float
    opening_seconds: float
    cpu_share: float


def measured(job: Job) -> Reading:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: a subscriber was refused, or had no heartbeat.
    """
    return Reading(**found("held", job, job.heartbeat_seconds))


def run(job: Job) -> Reading:
    """Subscribe, wait for the heartbeats, and count them."""
    with ExitStack() as stack:
        return _read(job, stack)


def _read(job: Job, stack: ExitStack) -> Reading:
    wish = subscription(job.port, job.target)
    first = opened(stack, job.port, wish, 1)  # what is loaded late is loaded now
    before, began = pss_bytes(job.server_pid), time.perf_counter()
    rest = opened(stack, job.port, wish, job.subscribers - 1, 1)
    opening_seconds = time.perf_counter() - began
    cpu, began = usage(job.server_pid).cpu_seconds, time.perf_counter()
    time.sleep(job.heartbeat_seconds + LATE_SECONDS)
    cpu_share = (usage(job.server_pid).cpu_seconds - cpu) / (time.perf_counter() - began)
    idle_bytes = (pss_bytes(job.server_pid) - before) / (job.subscribers - 1)
    silent = sum(not _heard(subscriber.connection) for subscriber in (*first, *rest))
    if silent:
        raise BenchmarkError(f"{silent} of {job.subscribers} subscribers had no heartbeat, or were let go")
    return Reading(idle_bytes, opening_seconds, cpu_share)


def _heard(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(4096))
    except BlockingIOError:
        return False


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
