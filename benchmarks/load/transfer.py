"""Asks for one file, or for ranges of one, again and again over some connections.

It compares one whole answer with the digest before it measures.
While it measures it checks status and length, and takes no byte.
"""

import hashlib
import json
import select
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle

from benchmarks.load import SILENCE_SECONDS, found
from benchmarks.load.exchange import BUFFER_BYTES, Exchange
from benchmarks.measure import BenchmarkError, usage

RAMP_SECONDS = 0.5
"""Downloads before the measurement begins, so that what is on its way is the same at both its ends.

64 connections have up to 600 MB in the sockets' buffers. A measurement that is shorter has as short a ramp.
"""


@dataclass(frozen=True, slots=True)
class Job:
    """What to ask of 127.0.0.1.

    Args:
        requests: as of `exchange.request`, asked in turn.
        status: of every answer.
        digest: the BLAKE2b of the first answer's body, in hex; empty: it is not looked at.
    """

    server_pid: int
    port: int
    requests: tuple[str, ...]
    connections: int
    seconds: float
    digest: str = ""
    status: int = 200


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement: what the client received, and what the server used for it.

    `each_bytes` is what each connection received, `load_share` how much of its core the client used:
    near 1 the client was the limit.
    """

    each_bytes: tuple[int, ...]
    requests: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    load_share: float

    @property
    def received_bytes(self) -> int:
        """Over all connections."""
        return sum(self.each_bytes)


def measured(job: Job) -> Reading:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: the server sent wrong bytes, or none.
    """
    return Reading(**found("transfer", job, job.seconds))


def run(job: Job) -> Reading:
    """Check one answer, then measure."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    if job.digest:
        check(Exchange(job.port, buffer, (job.status,)), job.requests[0], job.digest, buffer)
    exchanges = {}
    for _ in range(job.connections):
        exchange = Exchange(job.port, buffer, (job.status,), discards=True)
        exchanges[exchange.socket.fileno()] = exchange
    transfer = Transfer(exchanges, job.requests)
    transfer.go_on(time.perf_counter() + min(RAMP_SECONDS, job.seconds))
    asked = transfer.requests
    already = [exchange.received_bytes for exchange in exchanges.values()]
    began, before, load_before = time.perf_counter(), usage(job.server_pid), time.process_time()
    transfer.go_on(began + job.seconds)
    seconds, after = time.perf_counter() - began, usage(job.server_pid)
    load_seconds = time.process_time() - load_before
    for exchange in exchanges.values():
        exchange.socket.close()
    return Reading(
        tuple(now.received_bytes - then for now, then in zip(exchanges.values(), already, strict=True)),
        transfer.requests - asked,
        seconds,
        after.cpu_seconds - before.cpu_seconds,
        after.peak_rss_bytes,
        load_seconds / seconds,
    )


class Transfer:
    """Answers that follow each other on each of some exchanges, which are known by their descriptors.

    `requests` counts those that are complete.
    """

    def __init__(self, exchanges: Mapping[int, Exchange], requests: Sequence[str]) -> None:
        self._exchanges = exchanges
        self._wishes = cycle(requests)
        self._poll = select.epoll()
        self.requests = 0
        for descriptor, exchange in exchanges.items():
            self._poll.register(descriptor, select.EPOLLIN)
            exchange.ask(next(self._wishes))

    def go_on(self, until: float) -> None:
        """Until this time of `perf_counter`, and until something has come.

        Raises:
            BenchmarkError: as of `Exchange.receive`, or nothing comes for SILENCE_SECONDS.
        """
        received = False
        while not received or time.perf_counter() < until:
            ready = self._poll.poll(SILENCE_SECONDS)
            if not ready:
                raise BenchmarkError(f"the server has sent nothing for {SILENCE_SECONDS} s")
            for descriptor, _ in ready:
                exchange = self._exchanges[descriptor]
                received = bool(exchange.receive()) or received
                if exchange.complete:
                    self.requests += 1
                    exchange.ask(next(self._wishes))


def check(exchange: Exchange, wish: str, digest: str, buffer: memoryview) -> None:
    """Ask once, compare, and close.

    Raises:
        BenchmarkError: the body has another digest.
    """
    with exchange.socket:
        found = hashlib.blake2b()
        exchange.ask(wish)
        while not exchange.complete:
            count = exchange.receive()
            found.update(buffer[:count])
    if found.hexdigest() != digest:
        raise BenchmarkError(f"the bytes are not those of the file: {wish!r}")


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
