"""A connection on which one thing is asked after another: a client's side of HTTP/1.1, and no more."""

import re
import socket
from collections.abc import Sequence

from benchmarks.measure import BenchmarkError

BUFFER_BYTES = 1024 * 1024

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def request(port: int, target: str, first: int | None = None, length: int = 0) -> str:
    """A GET, of the `length` bytes from `first` on if that is given."""
    wanted = "" if first is None else f"Range: bytes={first}-{first + length - 1}\r\n"
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{wanted}\r\n"


class Exchange:
    """A connection that can be asked again and again. Whoever makes it closes its `socket`.

    `receive` fills the buffer, which others may share, as nothing of it is needed later.
    With `discards` the kernel throws bodies away without copying them here (MSG_TRUNC, tcp(7)): a client that
    copied was at its limit before nginx was. With `receive_bytes` the kernel's own buffer is that small.

    Attributes:
        complete: whether all has come of what was asked for last.
        received_bytes: of all the bodies.
    """

    def __init__(
        self,
        port: int,
        buffer: memoryview,
        statuses: Sequence[int] = (200,),
        *,
        discards: bool = False,
        receive_bytes: int = 0,
    ) -> None:
        self.socket = socket.socket()
        if receive_bytes:  # before connecting: the window is agreed on then
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.received_bytes = 0
        self.complete = True
        self._buffer = buffer
        self._flags = socket.MSG_TRUNC if discards else 0
        self._statuses = tuple(f"HTTP/1.1 {status} ".encode() for status in statuses)
        self._head: bytes | None = None  # what has come of the headers; None: they are complete
        self._remaining = 0

    def ask(self, request: str) -> None:
        """Send a request, once the one before is complete."""
        self._head = b""
        self.complete = False
        self.socket.sendall(request.encode())

    def receive(self, most: int = BUFFER_BYTES) -> int:
        """Take what is there, at most so much; gives the bytes of the body.

        They lie at the beginning of the buffer, unless they were discarded.

        Raises:
            BenchmarkError: another status than those expected, no length, or not as many bytes as that.
        """
        count = self.socket.recv_into(self._buffer, most, self._flags if self._head is None else 0)
        if not count:
            raise BenchmarkError("the server closed the connection before the end")
        if self._head is not None:
            count = self._open(self._head + self._buffer[:count])
        self._remaining -= count
        if self._remaining < 0:
            raise BenchmarkError("the server sent more than it announced")
        self.complete = self._head is None and not self._remaining
        self.received_bytes += count
        return count

    def _open(self, received: bytes) -> int:
        """Read the headers if they are complete; gives the bytes of the body behind them."""
        head, end, body = received.partition(b"\r\n\r\n")
        if not end:
            self._head = received
            return 0
        length = _LENGTH.search(head)
        if not head.startswith(self._statuses) or length is None:
            wanted = " or ".join(status.decode().split()[1] for status in self._statuses)
            raise BenchmarkError(f"expected a {wanted} with a length, not {head.decode('latin-1')!r}")
        self._head, self._remaining = None, int(length[1])
        self._buffer[: len(body)] = body
        return len(body)
