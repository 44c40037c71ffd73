"""Answers that do not end: event streams and live audio, a connection each, opened some at a time."""

import resource
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.load import SILENCE_SECONDS
from benchmarks.measure import BenchmarkError

AT_A_TIME = 100
"""Fewer than a listening socket's backlog of 128: one too many would be tried again after a second."""

OF_AN_ADDRESS = 500
"""Connections from each of 127.0.0.2, 127.0.0.3, …: a server may limit those of one, Millrace to 1000."""

SPARE_DESCRIPTORS = 100
"""Beside the connections, of the load and of the server."""


@dataclass(frozen=True, slots=True)
class Endless:
    """A connection whose headers have come, and what came of the body with them; it does not block."""

    connection: socket.socket
    begin: bytes


def subscription(port: int, target: str) -> str:
    """A request for events."""
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"


def opened(stack: ExitStack, port: int, wish: str, count: int, already: int = 0) -> Sequence[Endless]:
    """Ask for the same `count` times, when there are `already` some; the stack closes the connections.

    Raises:
        BenchmarkError: another status than 200, no headers within SILENCE_SECONDS, or more than the
            descriptors that a process may have.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if already + count + SPARE_DESCRIPTORS > most:
        raise BenchmarkError(
            f"{already + count} connections are more than the {most} descriptors of a process"
        )
    found: list[Endless] = []
    while len(found) < count:
        connections = []
        for number in range(len(found), min(len(found) + AT_A_TIME, count)):
            source = f"127.0.0.{2 + (already + number) // OF_AN_ADDRESS % 250}"
            # Port 0 here would be looked for before it is known who is asked: too few for ten thousands.
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((source, 0))
            connection.settimeout(SILENCE_SECONDS)
            connection.connect(("127.0.0.1", port))
            connection.sendall(wish.encode())
            connections.append(connection)
        found += [_begun(connection) for connection in connections]
    return found


_IP_BIND_ADDRESS_NO_PORT = 24  # ip(7); Python has no name for it


def _begun(connection: socket.socket) -> Endless:
    head, end, begin = b"", b"", b""
    received = b""
    while not end:
        try:
            more = connection.recv(65536)
        except TimeoutError:
            raise BenchmarkError(f"no headers came for {SILENCE_SECONDS} s") from None
        received += more
        head, end, begin = received.partition(b"\r\n\r\n")
        if not more or not received.startswith(b"HTTP/1.") or (end and head.split()[1] != b"200"):
            raise BenchmarkError(f"expected a 200, not {received.decode('latin-1')!r}")
    connection.setblocking(False)
    return Endless(connection, begin)
