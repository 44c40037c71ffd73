"""Downloads that are broken off with a reset, some at a time."""

import json
import socket
import struct
import sys
from dataclasses import asdict, dataclass

from benchmarks.load import found
from benchmarks.load.exchange import Exchange, request
from benchmarks.measure import BenchmarkError


@dataclass(frozen=True, slots=True)
class Job:
    """How many connections in all, and open at a time."""

    port: int
    target: str
    connections: int
    at_a_time: int


@dataclass(frozen=True, slots=True)
class Done:
    """How many were reset after their first bytes."""

    resets: int


def done(job: Job) -> Done:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: the server refused, or sent nothing.
    """
    return Done(**found("resets", job, seconds=0))


def run(job: Job) -> Done:
    """Open some, take the first bytes of each, reset them; and again."""
    buffer = memoryview(bytearray(4096))
    resets = 0
    while resets < job.connections:
        exchanges = [Exchange(job.port, buffer) for _ in range(job.at_a_time)]
        for exchange in exchanges:
            exchange.ask(request(job.port, job.target))
        for exchange in exchanges:
            while not exchange.receive(len(buffer)):
                pass
        for exchange in exchanges:
            # SO_LINGER 0: close() sends a reset, and what was received is thrown away.
            exchange.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            exchange.socket.close()
        resets += len(exchanges)
    return Done(resets)


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
