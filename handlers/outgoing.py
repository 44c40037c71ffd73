"""The stream of a connection that can send regions of files by the kernel (`sendfile`).

Theory of operation. Tornado's write buffer knows only bytes. A region stands in it as a *placeholder*: a view
of as many bytes of a mapping that is never touched and so costs no memory. Where Tornado is about to send a
part of it, `write_to_fd` has the kernel send the same part of the file instead. Framing, Content-Length,
write futures, closing, keep-alive and pipelining stay Tornado's.

Two things are easily wrong:

* A region lives as long as it is in the write buffer, and the source that gave it may be left before that.
  So the stream has a descriptor of its own: of a number that is used again another file would be sent.
* The write buffer copies what has 2048 bytes or less, and a copied placeholder would be zeros on the wire.

Turns. Tornado writes until the socket is full, and a client on the same machine empties it as fast. So a
stream sends its share of TURN_BYTES and then says "not now"; the loop comes back to it in its next turn, at
once if nobody else is waiting.
"""

import errno
import mmap
import os
import socket
import struct
from typing import Any

from tornado.iostream import IOStream

from media.files import REGION_BYTES
from media.source import FileRegion, SourceBusy

SUPPORTED = hasattr(os, "sendfile") and hasattr(os, "RWF_NOWAIT")
"""Linux: elsewhere nothing tells what is in the page cache, and sendfile has other arguments."""

TURN_BYTES = 4 * 1024 * 1024
"""What all streams with a region send together before the loop turns."""

LEAST_TURN_BYTES = 256 * 1024
"""What each sends at least."""

_COPIED_BYTES = 2048  # what Tornado's write buffer copies
_PLACEHOLDER = mmap.mmap(-1, REGION_BYTES)
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW}  # a file that cannot be mapped (sendfile(2))


class RegionBroken(ConnectionResetError):
    """The file is shorter than its region, or its disk failed. Tornado would log any other error."""


class ClientStalled(ConnectionResetError):
    """The client takes or sends too little, and was let go."""


class Outgoing(IOStream):
    """An IOStream whose write buffer may hold regions of files, one at a time."""

    # Not in its dictionary: with more than 30 names that takes 1 KB more (Python shares keys of up to 30).
    __slots__ = (
        "_descriptor",
        "_stop",
        "_turn_bytes",
        "receive_seconds",
        "takes_regions",
        "unsent_bytes",
        "written_bytes",
    )

    _sending = 0  # streams that have a region, of the whole process

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        super().set_nodelay(True)
        self._descriptor = -1
        self._stop = 0
        self._turn_bytes = 0
        self.unsent_bytes = 0
        """What the kernel has not taken of the last region."""
        self.takes_regions = SUPPORTED
        """Whether a `placeholder` may be asked for."""
        self.written_bytes = 0
        """What the kernel has taken."""
        self.receive_seconds: float | None = None
        """How long the body of this request may be silent; inf: for ever. None: it has to come at the least
        rate. The watch goes by it, and sets it to None for each request."""

    def placeholder(self, region: FileRegion) -> memoryview:
        """What is written in place of `region`. The one before it has been sent, or the stream is closed.

        The region has more than 2048 bytes and at most REGION_BYTES. Its descriptor may be closed afterwards.

        Raises:
            SourceBusy: the process has no descriptor left.
        """
        assert not self.closed()
        assert self._descriptor == -1
        assert _COPIED_BYTES < len(region) <= REGION_BYTES
        try:
            self._descriptor = os.dup(region.descriptor)
        except OSError as error:
            raise SourceBusy("no descriptor for what is sent") from error
        self._stop, self.unsent_bytes = region.stop, len(region)
        Outgoing._sending += 1
        return memoryview(_PLACEHOLDER)[: len(region)]

    def send_now(self, data: bytes) -> int:
        """Give the kernel what it takes at once, of what is for many alike. Gives the bytes taken.

        Nothing waits to be written, and nobody else writes meanwhile: what is left over is `write`'s.
        This is one call, where a write and its future cost two to five times as much.
        """
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.close(exc_info=True)
            return 0
        self.written_bytes += sent
        return sent

    def write_to_fd(self, data: memoryview) -> int:
        """Send `data`, or of a placeholder what it stands for. Gives the bytes sent; 0: later."""
        sent = self._send_region() if data.obj is _PLACEHOLDER else super().write_to_fd(data)
        self.written_bytes += sent
        return sent

    def set_nodelay(self, value: bool) -> None:
        """On from the start: what is written is whole. Tornado turns it on and off for each response."""

    def close_fd(self) -> None:
        self._release()
        super().close_fd()

    def _send_region(self) -> int:
        share = max(LEAST_TURN_BYTES, TURN_BYTES // Outgoing._sending)
        if self._turn_bytes >= share:
            self._turn_bytes = 0
            return 0
        start = self._stop - self.unsent_bytes
        length = min(self.unsent_bytes, share - self._turn_bytes)
        try:
            sent = _sendfile(self.socket, self._descriptor, start, length)
        except BlockingIOError:
            self._turn_bytes = 0
            raise
        self._turn_bytes += sent
        self.unsent_bytes -= sent
        if not self.unsent_bytes:
            self._release()
        return sent

    def _release(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1
            Outgoing._sending -= 1


def reset(stream: IOStream, why: ClientStalled | None = None) -> None:
    """Close `stream` so that the kernel drops what it still holds, and its client sees no end but a break.

    Args:
        why: is the stream's error from then on.
    """
    close_by_reset(stream, True)
    stream.close(exc_info=why or False)


def close_by_reset(stream: IOStream, yes: bool) -> None:
    """Have closing `stream` be a reset from now on, or not. The end of the process, too, is a closing."""
    if not stream.closed():
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", yes, 0))


def _sendfile(to: socket.socket, descriptor: int, start: int, length: int) -> int:
    """Send up to `length` bytes of the file from `start` on; more than none.

    Raises:
        BlockingIOError: the socket is full.
        RegionBroken: the file ends before, or cannot be read.
        OSError: the connection failed.
    """
    try:
        sent = os.sendfile(to.fileno(), descriptor, start, length)
    except OSError as error:
        if error.errno == errno.EIO:
            raise RegionBroken(errno.ECONNRESET, f"reading at byte {start} failed") from error
        if error.errno not in _UNSUPPORTED:
            raise
        sent = to.send(os.pread(descriptor, min(length, LEAST_TURN_BYTES), start))
    if not sent:
        raise RegionBroken(errno.ECONNRESET, f"the file shrank: it ends before byte {start}")
    return sent
