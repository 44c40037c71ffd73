"""What a server does beside the tiny requests, until SIGTERM: downloads, a cold file, slow readers.

It runs at a lower priority than they, so that their client is on time.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import library
from benchmarks.load.exchange import BUFFER_BYTES, Exchange, request
from benchmarks.load.transfer import Transfer
from benchmarks.measure import BenchmarkError

SLOW_BYTES_PER_SECOND = 10_000
SLOW_BUFFER_BYTES = 16 * 1024
"""Of a slow reader's kernel; else the first seconds of its download would come at full speed."""

_NICE = 10
_TICK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """What to download from 127.0.0.1, and how: see KINDS. `path` is where the file lies."""

    kind: str
    port: int
    target: str
    path: str
    connections: int


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of bodies over all connections, and in which time."""

    received_bytes: int
    seconds: float


class Terminated(Exception):
    """SIGTERM has come."""


def run(job: Job) -> Received:
    """Go on until SIGTERM, after an empty line when everything has begun."""
    exchanges: list[Exchange] = []
    began = time.perf_counter()
    with suppress(Terminated):
        KINDS[job.kind](job, _opened(job, exchanges))
    seconds = time.perf_counter() - began
    return Received(sum(exchange.received_bytes for exchange in exchanges), seconds)


def _opened(job: Job, exchanges: list[Exchange]) -> Iterator[Exchange]:
    """The job's connections, each opened when it is asked for, and kept in the list."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    receive_bytes = SLOW_BUFFER_BYTES if job.kind == "slow" else 0
    for _ in range(job.connections):
        exchanges.append(Exchange(job.port, buffer, discards=True, receive_bytes=receive_bytes))
        yield exchanges[-1]


def _downloads(job: Job, opened: Iterator[Exchange]) -> None:
    """As fast as the server can."""
    exchanges = {exchange.socket.fileno(): exchange for exchange in opened}
    transfer = Transfer(exchanges, [request(job.port, job.target)])
    transfer.go_on(0)
    print(flush=True)
    while True:
        transfer.go_on(time.perf_counter() + 1)


def _cold(job: Job, opened: Iterator[Exchange]) -> None:
    """One after the other, each time from the disk."""
    (exchange,) = opened
    begun = False
    while True:
        library.drop(Path(job.path))
        exchange.ask(request(job.port, job.target))
        while not exchange.complete:
            exchange.receive()
            if not begun:
                print(flush=True)
            begun = True


def _slow(job: Job, opened: Iterator[Exchange]) -> None:
    """Each takes SLOW_BYTES_PER_SECOND, a little ten times a second."""
    most = int(SLOW_BYTES_PER_SECOND * _TICK_SECONDS)
    exchanges = []
    for exchange in opened:  # one after the other: a listening socket's backlog is shorter than the job
        exchange.ask(request(job.port, job.target))
        while not exchange.received_bytes:
            exchange.receive(most)
        exchanges.append(exchange)
    print(flush=True)
    due = time.perf_counter()
    while True:
        for exchange in exchanges:
            if select.select([exchange.socket], [], [], 0)[0]:
                exchange.receive(most)
        due += _TICK_SECONDS
        time.sleep(max(0.0, due - time.perf_counter()))


KINDS = {"downloads": _downloads, "cold": _cold, "slow": _slow}


def _terminate(*_: object) -> None:
    raise Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    os.nice(_NICE)
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
