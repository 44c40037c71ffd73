"""The socket of a TLS connection: who breaks it makes no noise, and only a whole body ends in peace.

A client that distrusts the certificate, speaks plain HTTP or is a port scan is an outcome, not an error:
Tornado would log a warning for each, and for some a traceback. Here all that is a reset, which is quiet.

TLS tells an end from a broken connection by an alert, close_notify (RFC 8446 §6.1). Tornado never sends it,
and where a body has a length or chunks nobody misses it. One that ends with its connection (HTTP/1.0) is
whole only with it: `FAREWELL`, written behind the body, sends it. No other end has it.
"""

import errno
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_MARK = bytes(4096)  # of what has 2048 bytes or less Tornado's write buffer makes a copy
FAREWELL = memoryview(_MARK)
"""Written to an encrypted stream, not these bytes go out but close_notify. Nothing may follow."""


class EncryptedSocket(ssl.SSLSocket):
    """An SSLSocket that fails, where it fails for good, with ConnectionResetError."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as error:
            raise _reset(error) from error

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0) -> int:
        try:
            return super().recv_into(buffer, nbytes, flags)
        except OSError as error:
            raise _reset(error) from error

    def send(self, data: "ReadableBuffer", flags: int = 0) -> int:
        try:
            if isinstance(data, memoryview) and data.obj is _MARK:
                return self._say_farewell(len(data))
            return super().send(data, flags)
        except OSError as error:
            raise _reset(error) from error

    def _say_farewell(self, length: int) -> int:
        with suppress(ssl.SSLWantReadError):  # it is sent; the client's own is not waited for
            self.unwrap()
        return length


def _reset(error: OSError) -> OSError:
    """What `error` is for Tornado: itself where the socket is only not ready."""
    if isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError | BlockingIOError):
        return error
    return ConnectionResetError(errno.ECONNRESET, str(error))
