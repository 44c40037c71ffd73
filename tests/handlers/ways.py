"""The ways in which a server can send the same answers: the battery runs whole in each of them.

All but the first make regions of nearly everything (`LEAST_REGIONS`), so that its small files go the way of
large ones. Each shows that it is what it says: `Served.taken`.
"""

import asyncio
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from handlers.repeats import Repeats
from media import files
from server import tls
from tests.certificates import make_pair
from tests.end_to_end.process import Process
from tests.serving import Response, serving

LEAST_REGIONS = 2049
"""Bytes of the shortest region that a stream takes."""

PROCESS = f"""
import os, sys, run, media.files
media.files.LEAST_REGION_BYTES = {LEAST_REGIONS}
if "off" in sys.argv:
    os.sendfile = lambda *_: os.abort()
sys.exit(run.main())
"""


@dataclass
class Served:
    """A server that all rows share.

    Args:
        taken: after an answer with a body, whether it came this way.
        trusting: of a client over TLS.
        twice: each request is sent twice, and the second answer counts.
        contents: by path.
    """

    port: int
    taken: Callable[[], bool]
    trusting: ssl.SSLContext | None = None
    twice: bool = False
    contents: dict[str, bytes] = field(default_factory=dict)

    def exchange(self, lines: list[bytes]) -> Response:
        """Send these lines as they are on a new connection, read until the server closes."""
        asked = b"\r\n".join([*lines, b"Host: localhost", b""])
        method = asked.partition(b" ")[0].decode()
        if not self.twice:
            received = self._received(asked + b"Connection: close\r\n\r\n")
            return Response.parsed(received, head=method == "HEAD")
        end = b"HEAD /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        received = self._received((asked + b"\r\n") * 2 + end)
        first, second, _ = Response.all(received, [method, method, "HEAD"])
        assert first.status == second.status
        assert set(first.headers) == set(second.headers)
        return second

    def _received(self, asked: bytes) -> bytes:
        with ExitStack() as stack:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=10))
            if self.trusting:
                # A body that has a length ends without close_notify (handlers/encrypted.py).
                client = stack.enter_context(self.trusting.wrap_socket(client, server_hostname="localhost"))
            client.sendall(asked)
            return b"".join(iter(lambda: client.recv(65536), b""))


@contextmanager
def in_thread(
    root: Path,
    encryption: ssl.SSLContext | None = None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Iterator[int]:
    """A server in a thread of its own; gives its port."""
    ready, stop = threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with serving(root, encryption=encryption) as server:
            ports.append(server.port)
            ready.set()
            await asyncio.to_thread(stop.wait)

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        yield ports[0]
    finally:
        stop.set()
        thread.join()


@contextmanager
def results(owner: object, name: str) -> Iterator[list[object]]:
    """What each call of this function gives meanwhile."""
    given: list[object] = []
    real = getattr(owner, name)

    def watched(*args: object) -> object:
        given.append(real(*args))
        return given[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, watched)
        yield given


@contextmanager
def regions() -> Iterator[list[object]]:
    """Regions of nearly everything; gives what each call of sendfile gives."""
    with pytest.MonkeyPatch.context() as patch, results(os, "sendfile") as sent:
        patch.setattr(files, "LEAST_REGION_BYTES", LEAST_REGIONS)
        yield sent


@contextmanager
def read(root: Path) -> Iterator[Served]:
    """As it is with small files: one write with the headers."""
    with results(os, "sendfile") as sent, in_thread(root) as port:
        yield Served(port, lambda: not sent)


@contextmanager
def sent_by_the_kernel(root: Path) -> Iterator[Served]:
    with regions() as sent, in_thread(root) as port:
        yield Served(port, lambda: any(sent))


@contextmanager
def repeated(root: Path) -> Iterator[Served]:
    """The second time without a handler."""
    with results(Repeats, "send") as repeats, in_thread(root) as port:
        yield Served(port, lambda: any(repeats), twice=True)


@contextmanager
def on_uvloop(root: Path) -> Iterator[Served]:
    loops: list[asyncio.AbstractEventLoop] = []

    def new_loop() -> asyncio.AbstractEventLoop:
        loops.append(uvloop.new_event_loop())
        return loops[0]

    with regions() as sent, in_thread(root, new_loop=new_loop) as port:
        yield Served(port, lambda: loops[0].is_running() and any(sent))


@contextmanager
def over_tls(root: Path) -> Iterator[Served]:
    pair = make_pair(root.parent / "pair")
    with regions() as sent, in_thread(root, tls.load(pair.certificate, pair.key)) as port:
        yield Served(port, lambda: not sent, trusting=pair.trusting())


@contextmanager
def in_two_processes(root: Path) -> Iterator[Served]:
    with process(root, "--processes", "2") as server:
        children = Path(f"/proc/{server.popen.pid}/task/{server.popen.pid}/children")
        yield Served(server.port, lambda: len(children.read_text().split()) == 2)


@contextmanager
def with_sendfile_off(root: Path) -> Iterator[Served]:
    """A process that a call of sendfile would end."""
    with process(root, "--sendfile", "off") as server:
        yield Served(server.port, lambda: server.popen.poll() is None)


@contextmanager
def process(root: Path, *flags: str) -> Iterator[Process]:
    """`run.py` in a process of its own, but for the regions."""
    command = (sys.executable, "-c", PROCESS)
    server = Process(root.parent / "process", ("--media", str(root), *flags), command=command)
    try:
        yield server.started()
    finally:
        server.stop()


WAYS: dict[str, Callable[[Path], AbstractContextManager[Served]]] = {
    "read": read,
    "sendfile": sent_by_the_kernel,
    "repeated": repeated,
    "uvloop": on_uvloop,
    "tls": over_tls,
    "processes": in_two_processes,
    "sendfile-off": with_sendfile_off,
}
