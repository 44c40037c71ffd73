"""The sockets that the process listens on."""

import errno
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tornado.netutil import bind_sockets

from server.settings import Settings, SettingsError

log = logging.getLogger("millrace")


class _Listening(socket.socket):
    """A listening socket that turns clients away while the process has no descriptor left for them.

    Tornado would fail at each turn of the loop, because they are still there: half a CPU, and 1.4 MB of
    tracebacks a second. One descriptor is kept to take them in and close them at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setblocking(False)
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._warned_at = -math.inf

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket's; BlockingIOError also where a client was turned away."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._turn_away()
            raise BlockingIOError from error

    def close(self) -> None:
        """Close it, and the descriptor that is kept."""
        if self.fileno() != -1:
            os.close(self._spare)
        super().close()

    def _turn_away(self) -> None:
        if time.monotonic() > self._warned_at + 10:
            self._warned_at = time.monotonic()
            log.error("no descriptor is left: clients are turned away; raise the limit of open files")
        os.close(self._spare)
        try:
            super().accept()[0].close()
        except BlockingIOError:
            pass
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Listen, so that a port in use stops the start at once; connections wait until the server is ready."""
    try:
        sockets = bind_sockets(settings.port, settings.address, reuse_port=False)
    except OSError as error:
        where = f"{settings.address} port {settings.port}"
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(
            f"--port and --address must name a place that is free to listen on, not {where}: {reason}"
        ) from error
    ours = [_Listening(fileno=bound.detach()) for bound in sockets]
    try:
        yield list(ours)
    finally:
        for bound in ours:
            bound.close()
