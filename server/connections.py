"""The watch over the open connections: it lets those go that have stopped, trickle, or left unseen.

Theory of operation. Tornado has no limit for a connection that does not take what it is sent: a body, but
also what it still holds of an answer whose handler has long finished. Its limit for one that is silent while
a request is due costs a timer a request, a tenth of a small answer. So one timer looks at every connection
in turn.

*Sending.* What tells is what the client's kernel has acknowledged (TCP_INFO), and how much more is on its
way. The time that a write takes does not: a socket turns writable only when a third of its buffer is free,
and a client that took 64 KB/s was cut after 2 s. Each look may begin a *window*: within `stall_seconds` the
client has to take as much as `min_rate` asks for, or, if that is less, all that was on its way when the
window began. So nobody is let go because the source is silent or slow, or because we hold it back ourselves.

*Receiving.* The body of a request has to come at `min_rate`, or, where its handler has set the stream's
`receive_seconds`, must only not be silent for so long: what is sent as it happens has no rate. Its header has
to come within `header_seconds` of its first byte, so that it cannot be sent byte by byte for as long as a
connection may be idle (`idle_seconds`).
A TLS handshake has the same time; what came of it does not count as a header that has begun.

A look costs 3 µs a connection, and the loop gets a turn after each LOOK_AT_ONCE of them.
"""

import asyncio
import fcntl
import logging
import math
import socket
import ssl
import struct
import sys
import termios
from enum import Enum

from tornado.iostream import IOStream

from handlers.limits import Limits
from handlers.outgoing import ClientStalled, reset

LEAST_LOOK_SECONDS = 0.25
MOST_LOOK_SECONDS = 5.0
"""How often every connection is looked at: four times within the stall limit, but between these."""

LOOK_AT_ONCE = 200
"""So many connections between two turns of the loop: 0.6 ms."""

RATE_SECONDS = 30.0
"""The window of the least rate where there is no stall limit."""

# Elsewhere it is laid out otherwise: there what the kernel has taken counts as taken.
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_INFO_BYTES = 136  # Linux 4.1 has as many
_CLOSE, _CLOSE_WAIT = 7, 8  # states of TCP, in the numbers of tcp_info: the client has reset, or has closed

log = logging.getLogger("millrace.connections")


class Phase(Enum):
    """What a connection is about."""

    WAITING = "for a request's header"
    RECEIVING = "its body"
    ANSWERING = "the request is whole, and its answer not yet with the kernel"


class _Window:
    """The time that one direction has to get on: `target` bytes are reached by its end. -1: there is none."""

    __slots__ = ("since", "target")

    def __init__(self) -> None:
        self.since, self.target = 0.0, -1

    def is_over(self, reached: int, more: int, now: float, seconds: float) -> bool:
        """Whether `reached` is too few; if it is enough, another window for `more` begins."""
        if self.target < 0 or reached >= self.target:
            self.since, self.target = now, reached + more
            return False
        return now >= self.since + seconds


class Connection:
    """One that is open, as the watch knows it."""

    __slots__ = (
        "_asked_at",
        "_before",
        "_handshake",
        "address",
        "phase",
        "received",
        "receiving",
        "sending",
        "stream",
        "waiting_since",
    )

    def __init__(self, stream: IOStream, address: str) -> None:
        self.stream, self.address = stream, address
        self.received = 0
        """Bytes of requests' bodies."""
        self.sending, self.receiving = _Window(), _Window()
        self.phase = Phase.WAITING
        self.waiting_since: float | None = None
        """For a request; None: the next look tells."""
        # What had come when the connection began to wait; None: the next look tells.
        self._before: int | None = 0
        self._asked_at: float | None = None
        self._handshake = stream.socket if isinstance(stream.socket, ssl.SSLSocket) else None

    def waits(self) -> None:
        """For its next request: the one before has been answered."""
        self.phase, self.waiting_since, self._asked_at, self._before = Phase.WAITING, None, None, None

    def receives(self) -> None:
        """A header has come, and what belongs to it may follow."""
        self.phase, self.receiving.target = Phase.RECEIVING, -1
        self.stream.receive_seconds = None  # type: ignore[attr-defined] # a TLS stream has it from here

    def answers(self) -> None:
        """The request is whole."""
        self.phase = Phase.ANSWERING

    def is_asking_since(self, come: int, now: float) -> float | None:
        """When the header that it waits for, or the handshake, was first seen to come. None: nothing has."""
        if self._handshake is not None and self._handshake.version() is not None:
            # It is over: a browser that connects ahead has asked nothing yet.
            self._handshake = self._before = self._asked_at = None
        if self._before is None:
            self._before = come
        if self._asked_at is None and come > self._before:
            self._asked_at = now
        return self._asked_at


class Watch:
    """Looks at the open connections as long as there are any. It begins and ends by itself."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: set[Connection] = set()
        self._timer: asyncio.Handle | None = None
        self._seconds = limits.stall_seconds or (RATE_SECONDS if limits.min_rate else 0)
        self._least = int(limits.min_rate * self._seconds)  # bytes in a window
        each = self._seconds, limits.header_seconds, limits.idle_seconds
        shortest = min(filter(None, each), default=math.inf)
        self._look_seconds = min(MOST_LOOK_SECONDS, max(LEAST_LOOK_SECONDS, shortest / 4))

    def over(self, stream: IOStream, address: str) -> Connection:
        """A connection that was accepted from `address`, to be given back to `ended`."""
        connection = Connection(stream, address)
        self._open.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._look_seconds, self._look_around)
        return connection

    def ended(self, connection: Connection) -> None:
        """It is closed, or about to be."""
        self._open.discard(connection)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_around(self) -> None:
        self._look_on(list(self._open))

    def _look_on(self, waiting: list[Connection]) -> None:
        loop = asyncio.get_running_loop()
        # First: what goes wrong with one connection must not be the end of the watch.
        if len(waiting) > LOOK_AT_ONCE:
            self._timer = loop.call_soon(self._look_on, waiting[LOOK_AT_ONCE:])
        else:
            self._timer = loop.call_later(self._look_seconds, self._look_around)
        now = loop.time()
        for connection in waiting[:LOOK_AT_ONCE]:
            if not connection.stream.closed():
                self._look_at(connection, now)

    def _look_at(self, connection: Connection, now: float) -> None:
        state, taken, come, outstanding = tcp_facts(connection.stream)
        if state in (_CLOSE, _CLOSE_WAIT) and connection.phase is Phase.ANSWERING:
            # Tornado does not see it while a pipelined request lies in its buffer: it no longer reads then.
            # A handler that reads by itself, a body without a frame, does so to its end.
            if connection.stream.receive_seconds is None:  # type: ignore[attr-defined]
                connection.stream.close()
            return
        if not outstanding or not self._seconds:
            connection.sending.target = -1
        elif connection.sending.is_over(taken, max(1, min(outstanding, self._least)), now, self._seconds):
            _let_go(connection, "it takes no more")
            return
        match connection.phase:
            case Phase.RECEIVING:
                self._look_at_receiving(connection, now)
            case Phase.WAITING:
                self._look_at_waiting(connection, come, now)

    def _look_at_receiving(self, connection: Connection, now: float) -> None:
        silence: float | None = connection.stream.receive_seconds  # type: ignore[attr-defined]
        window = connection.receiving
        if silence == math.inf:
            window.target = -1  # the next window begins when somebody reads again
        elif silence is not None:
            if window.is_over(connection.received, 1, now, silence):
                _let_go(connection, "its request's body has stopped")
        elif self._least and window.is_over(connection.received, self._least, now, self._seconds):
            _let_go(connection, "its request's body trickles")

    def _look_at_waiting(self, connection: Connection, come: int, now: float) -> None:
        if connection.waiting_since is None:
            connection.waiting_since = now
        asking_since = connection.is_asking_since(come, now)
        if asking_since is None:
            if self._limits.idle_seconds and now >= connection.waiting_since + self._limits.idle_seconds:
                connection.stream.close()
        elif self._limits.header_seconds and now >= asking_since + self._limits.header_seconds:
            _let_go(connection, "its request's header trickles")


def _let_go(connection: Connection, why: str) -> None:
    """By a reset: an end could look like that of the body."""
    log.info("%s is let go: %s", connection.address, why)
    reset(connection.stream, ClientStalled(why))


def tcp_facts(stream: IOStream) -> tuple[int, int, int, int]:
    """(state, bytes that the client has taken, bytes that have come from it, bytes on their way to it).

    Where the kernel does not tell: 0, what it has taken itself, 0, and 1 for any number of bytes.
    """
    sock: socket.socket | None = stream.socket
    writing = int(stream.writing())
    facts = b""
    if sock is not None and _TCP_INFO is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        facts = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    if sock is None or len(facts) < _TCP_INFO_BYTES:
        written = getattr(stream, "written_bytes", None)
        return 0, written or 0, 0, 0 if written is None else writing
    # struct tcp_info: tcpi_state is a u8 at byte 0, tcpi_bytes_acked and tcpi_bytes_received are u64 from
    # byte 120 on.
    taken, come = struct.unpack_from("=QQ", facts, 120)
    # SIOCOUTQ: what the kernel holds, sent or not, because it is not acknowledged.
    queued: int = struct.unpack("=i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return facts[0], taken, come, queued or writing
