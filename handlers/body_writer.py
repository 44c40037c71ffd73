"""The bytes of one response's body on their way to its connection, behind the headers. Only the pump has one.

Chunks that come without a wait between them are gathered, up to 64 KiB: what is gathered goes out when the
loop next turns, so a chunk is never held back for one that is still to be made. A source of single rows is
sent as fast as one that makes blocks, and a slow source's line leaves at once.

Tornado never resolves the first of two pending write futures of a connection, so no write begins before the
one before it has ended: while something is gathered nothing is in flight, and a heartbeat waits for both.
"""

import asyncio
from collections.abc import Callable

from handlers.coding import Coder
from handlers.resource import Resource
from media.source import Chunk, FileRegion

GATHER_BYTES = 64 * 1024
"""Chunks are gathered up to this size: 470,000 rows a CPU-second, against 32,000 written one by one."""

_SMALL_BYTES = 16 * 1024  # a first chunk up to this size shares one write with the headers


class BodyWriter:
    """Gathers chunks and writes them, one write at a time.

    Args:
        response: has none of its headers sent.
        failed: is told what went wrong in a write: who caused it may be the loop, and nobody above it.
    """

    __slots__ = (
        "_connection",
        "_due",
        "_failed",
        "_gathered",
        "_gathered_bytes",
        "_in_flight",
        "_loop",
        "_response",
        "coder",
        "first_byte_seconds",
        "given_bytes",
        "headers_sent",
        "last_write",
    )

    def __init__(self, response: Resource, failed: Callable[[Exception], None]) -> None:
        self._response, self._failed = response, failed
        self._connection = response.connection
        self._loop = asyncio.get_running_loop()
        self.coder: Coder | None = None
        """What everything goes through that is sent. None: it is sent as it is."""
        self.headers_sent = False
        self.given_bytes = 0
        """Of the body, to the connection."""
        self.first_byte_seconds: float | None = None
        self.last_write = self._loop.time()
        """When something was written last."""
        self._gathered: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        self._in_flight: asyncio.Future[None] | None = None
        self._due: asyncio.Handle | None = None

    @property
    def begun(self) -> bool:
        """Whether headers are out, or a chunk is about to be."""
        return self.headers_sent or bool(self._gathered)

    def note_first_byte(self) -> None:
        """It is on its way now, if none was before."""
        if self.first_byte_seconds is None:
            self.first_byte_seconds = self._response.request.request_time()

    def hold(self) -> None:
        """Leave what is gathered until it is asked for."""
        if self._due is not None:
            self._due.cancel()

    def keep(self, chunk: bytes | memoryview) -> None:
        """Gather a chunk that nothing goes out for."""
        self._gathered.append(chunk)

    def gather(self, chunk: Chunk) -> None:
        """Take a chunk to be sent, with its neighbours if it is in memory. Nothing is in flight."""
        if not chunk:
            return
        if isinstance(chunk, FileRegion):
            stream = self._connection.stream
            if not stream.closed():
                placeholder = stream.placeholder(chunk)  # while its failing can still be a status
                self.flush()
                self.write(placeholder)
            return
        self._gathered.append(chunk)
        self._gathered_bytes += len(chunk)
        if self._gathered_bytes >= GATHER_BYTES:
            self.flush()
        elif len(self._gathered) == 1:
            self._due = self._loop.call_soon(self.flush)

    @property
    def busy(self) -> bool:
        """Whether a write is in flight: the kernel has not taken all of it."""
        return self._in_flight is not None and not self._in_flight.done()

    @property
    def quiet(self) -> bool:
        """Whether a heartbeat may go out now: the headers have, and nothing else is about to."""
        return self.headers_sent and not self._gathered and not self.busy

    async def idle(self) -> None:
        """Wait until nothing is in flight. Cancelled, it leaves the write as it is."""
        if self._in_flight is not None and not self._in_flight.done():
            await asyncio.wait((self._in_flight,))

    async def written(self, whole: bool = False) -> None:
        """Wait until everything is with the kernel; `whole`: the end of a coded body too."""
        await self.idle()
        self.flush(whole)
        await self.idle()

    def flush(self, whole: bool = False) -> None:
        """Hand what is gathered to the connection; the headers alone if it is nothing and they are due."""
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if gathered or not self.headers_sent or (whole and self.coder is not None):
            self.write(*gathered, whole=whole)

    def write(self, *chunks: bytes | memoryview, whole: bool = False) -> None:
        """Give the chunks to the connection as one, coded, behind the headers if these are not sent."""
        self.last_write = self._loop.time()
        if self._connection.stream.closed():
            return
        try:
            chunk = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if self.coder is not None:
                chunk = self.coder.coded(chunk, last=whole)
            self._write_bytes(chunk)
        except Exception as error:  # the caller may be the loop, and nobody above it
            self._failed(error)

    def _write_bytes(self, chunk: bytes | memoryview) -> None:
        if not self.headers_sent:
            memoryview(chunk)  # text for bytes raises here, while it can still be a status
            if self._response.unframed:
                self.headers_sent = True
                self._in_flight = self._response.begin_unframed(chunk)
                self._count(len(chunk))
                return
            if len(chunk) <= _SMALL_BYTES:
                self._response.write(bytes(chunk))
                self._count(len(chunk))
                chunk = b""
            self.headers_sent = True
            self._in_flight = self._response.flush()
        if chunk:
            self._in_flight = self._connection.write(chunk)
            self._count(len(chunk))

    def _count(self, length: int) -> None:
        self.given_bytes += length
        if length:
            self.note_first_byte()
