"""One CSV after another over a connection each: for a while it is measured, then it goes on until SIGTERM.

A row is counted by its MARK, so that neither CSV nor chunks are parsed here; of a few rows, asked for first,
every byte is compared. SIGTERM ends it in the middle of a body.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException

from benchmarks.load import SILENCE_SECONDS
from benchmarks.measure import BenchmarkError, usage
from benchmarks.orders import MARK

LOOK_SECONDS = 0.001
"""Between two looks at what has come. A client that slept until a row woke it would use 88 % of its core, and
wake on the server's account: 50,000 times a second."""

_BUFFER_BYTES = 1024 * 1024  # more than comes between two looks
_END = b"\r\n0\r\n\r\n"  # the chunk that ends a body, behind the last line and its chunk
_NICE = 10  # lower than those who count milliseconds beside it


@dataclass(frozen=True, slots=True)
class Job:
    """What to ask of 127.0.0.1.

    Args:
        target: a CSV, which has as many rows as `?rows=` says.
        rows: of each body.
        compared_rows: of the one that is compared with `digest`, the BLAKE2b in hex.
    """

    server_pid: int
    port: int
    target: str
    rows: int
    compared_rows: int
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What came in the time that was measured, and what the server used for it.

    `load_share` is how much of its core the client used: near 1 the client was the limit.
    """

    rows: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    load_share: float


class Download:
    """One body, without looking at its bytes. Whoever makes it closes its `socket`.

    Attributes:
        rows: that have come.
        complete: whether all have, and the end.
    """

    def __init__(self, job: Job, buffer: bytearray) -> None:
        self.socket = socket.create_connection(("127.0.0.1", job.port), SILENCE_SECONDS)
        self.rows = 0
        self.complete = False
        self._wanted = job.rows
        self._buffer = buffer
        self._last = b""
        wish = f"GET {job.target}?rows={job.rows} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\n\r\n"
        self.socket.sendall(wish.encode())

    def receive(self) -> int:
        """Take what is there; gives how many rows came with it.

        Raises:
            BenchmarkError: another status than 200, more rows or fewer, or nothing for SILENCE_SECONDS.
        """
        try:
            count = self.socket.recv_into(self._buffer)
        except TimeoutError:
            raise BenchmarkError(f"the server has sent nothing for {SILENCE_SECONDS} s") from None
        if not self._last and not self._buffer.startswith(b"HTTP/1.1 200 ", 0, count):
            raise BenchmarkError(f"expected a 200, not {bytes(self._buffer[:count])[:500]!r}")
        rows = self._buffer.count(MARK, 0, count)
        self.rows += rows
        self._last = (self._last + self._buffer[max(0, count - len(_END)) : count])[-len(_END) :]
        self.complete = self._last == _END
        if self.rows > self._wanted or not count or (self.complete and self.rows < self._wanted):
            raise BenchmarkError(f"{self.rows} rows came where {self._wanted} were asked for")
        return rows


def run(job: Job) -> Reading:
    """Compare, measure, say so with an empty line, and go on until SIGTERM."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    compare(job)
    buffer = bytearray(_BUFFER_BYTES)
    began, before, load_before = time.perf_counter(), usage(job.server_pid), time.process_time()
    rows, reading = 0, None
    download = Download(job, buffer)
    while not (ended and download.rows and not download.complete):
        rows += download.receive()
        if reading is None and (seconds := time.perf_counter() - began) >= job.seconds:
            after = usage(job.server_pid)
            cpu_seconds = after.cpu_seconds - before.cpu_seconds
            load_share = (time.process_time() - load_before) / seconds
            reading = Reading(rows, seconds, cpu_seconds, after.peak_rss_bytes, load_share)
            os.nice(_NICE)
            print(flush=True)
        if download.complete:
            download.socket.close()
            download = Download(job, buffer)
        time.sleep(LOOK_SECONDS)
    download.socket.close()
    assert reading is not None  # SIGTERM comes after the empty line
    return reading


def compare(job: Job) -> None:
    """Ask for a few rows, and look at every byte.

    Raises:
        BenchmarkError: they are not those of the digest.
    """
    connection = HTTPConnection("127.0.0.1", job.port, timeout=SILENCE_SECONDS)
    connection.request("GET", f"{job.target}?rows={job.compared_rows}")
    try:
        body = connection.getresponse().read()
    except HTTPException as error:
        raise BenchmarkError(f"no whole answer: {error!r}") from error
    finally:
        connection.close()
    if hashlib.blake2b(body).hexdigest() != job.digest:
        raise BenchmarkError(f"the rows are others than those asked for; they begin with {body[:200]!r}")


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
