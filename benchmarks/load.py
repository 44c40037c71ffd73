"""The load: downloads one file again and again over some connections, on bare sockets.

A process of its own (`python -m benchmarks.load`, started by a scenario). It compares one whole download with
the digest before it measures; while it measures it checks status and length, and looks at no byte.
"""

import hashlib
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.measure import LOAD_CORE, BenchmarkError, pinned, usage

RAMP_SECONDS = 0.2
"""Downloads before the measurement begins, so that what is on its way is the same at both its ends."""

SILENCE_SECONDS = 30
"""How long a server may send nothing."""

_BUFFER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """What to download from 127.0.0.1. `digest` is the BLAKE2b of the whole file, in hex."""

    server_pid: int
    port: int
    target: str
    digest: str
    connections: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement: what the client received, and what the server used for it.

    `load_share` is how much of its core the client used: near 1 the client was the limit.
    """

    received_bytes: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    load_share: float


def measured(job: Job) -> Reading:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: the server sent wrong bytes, or none.
    """
    with pinned([sys.executable, "-m", "benchmarks.load", json.dumps(asdict(job))], LOAD_CORE) as process:
        try:
            answer, _ = process.communicate(timeout=job.seconds + 4 * SILENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError("the load did not end") from None
        if process.returncode:
            raise BenchmarkError("the load failed")
    return Reading(**json.loads(answer))


def run(job: Job) -> Reading:
    """Check one download, then measure."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    _check(job, buffer)
    with selectors.DefaultSelector() as selector:
        downloads = [Download(job.port, job.target, buffer) for _ in range(job.connections)]
        for download in downloads:
            selector.register(download.socket, selectors.EVENT_READ, download)
        _receive(selector, time.perf_counter() + RAMP_SECONDS)
        began, before, load_before = time.perf_counter(), usage(job.server_pid), time.process_time()
        received_bytes = _receive(selector, began + job.seconds)
        seconds, after = time.perf_counter() - began, usage(job.server_pid)
        load_seconds = time.process_time() - load_before
        for download in downloads:
            download.socket.close()
    cpu_seconds = after.cpu_seconds - before.cpu_seconds
    return Reading(received_bytes, seconds, cpu_seconds, after.peak_rss_bytes, load_seconds / seconds)


class Download:
    """A connection that can be asked for one target again and again."""

    def __init__(self, port: int, target: str, buffer: memoryview) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_SECONDS)
        self._request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._buffer = buffer
        self.ask()

    @property
    def complete(self) -> bool:
        """Whether everything has come that was asked for."""
        return self._head is None and not self._remaining

    def ask(self) -> None:
        """Begin the download (again)."""
        self._head: bytes | None = b""  # what has come of the headers; None: they are complete
        self._remaining = 0
        self.socket.sendall(self._request)

    def receive(self) -> int:
        """Take what is there into the buffer; gives the bytes of the body, which lie at its beginning."""
        count = self.socket.recv_into(self._buffer)
        if not count:
            raise BenchmarkError("the server closed the connection before the end")
        if self._head is not None:
            count = self._open(self._head + self._buffer[:count])
        self._remaining -= count
        if self._remaining < 0:
            raise BenchmarkError("the server sent more than it announced")
        return count

    def _open(self, received: bytes) -> int:
        """Read the headers if they are complete; gives the bytes of the body behind them."""
        head, end, body = received.partition(b"\r\n\r\n")
        if not end:
            self._head = received
            return 0
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise BenchmarkError(f"expected a 200 with a length, not {head.decode('latin-1')!r}")
        self._head, self._remaining = None, int(length[1])
        self._buffer[: len(body)] = body
        return len(body)


def _check(job: Job, buffer: memoryview) -> None:
    digest = hashlib.blake2b()
    download = Download(job.port, job.target, buffer)
    with download.socket:
        while not download.complete:
            count = download.receive()
            digest.update(buffer[:count])
    if digest.hexdigest() != job.digest:
        raise BenchmarkError(f"the bytes of {job.target} are not those of the file")


def _receive(selector: selectors.BaseSelector, until: float) -> int:
    """Download until this time, and until something has come; gives the bytes of the bodies."""
    received_bytes = 0
    while not received_bytes or time.perf_counter() < until:
        ready = selector.select(timeout=SILENCE_SECONDS)
        if not ready:
            raise BenchmarkError(f"the server has sent nothing for {SILENCE_SECONDS} s")
        for key, _ in ready:
            received_bytes += key.data.receive()
            if key.data.complete:
                key.data.ask()
    return received_bytes


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
