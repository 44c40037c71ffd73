"""Other servers, on real sockets: they say what a test has them say, byte by byte."""

import asyncio
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field


class Exchange:
    """One request that came, and the connection on which it did."""

    def __init__(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.line = lines[0]
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        self.writer = writer

    async def say(self, *parts: bytes) -> None:
        """Send these bytes; waits until the other side takes them."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def silence(self) -> None:
        """Say nothing any more, and wait until the other side has left."""
        await asyncio.sleep(3600)

    def reset(self) -> None:
        """Break the connection."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Answer = Callable[[Exchange], Awaitable[None]]


@dataclass
class Upstream:
    """What was asked so far, and how many connections are open. `url` has no slash at the end."""

    url: str = ""
    asked: list[Exchange] = field(default_factory=list)
    open: int = 0


@asynccontextmanager
async def upstream(answer: Answer, encryption: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """A server that has `answer` answer each request. One that returns has its connection closed."""
    there = Upstream()
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.open += 1
        working: list[asyncio.Future[object]] = []
        try:
            exchange = Exchange((await reader.readuntil(b"\r\n\r\n"))[:-4], writer)
            there.asked.append(exchange)
            working = [asyncio.ensure_future(answer(exchange)), asyncio.ensure_future(reader.read())]
            await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.open -= 1
            writer.close()  # before anything is awaited: the test may end meanwhile
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            with suppress(OSError):
                await writer.wait_closed()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_quietly(converse(reader, writer)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=encryption)
    scheme = "https" if encryption else "http"
    there.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield there
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tuple(tasks))
        await server.wait_closed()


async def _quietly(work: Awaitable[None]) -> None:
    """What a client does to its connection is no failure of the test."""
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        await work


def saying(*parts: bytes) -> Answer:
    """Sends these, and closes."""

    async def answer(exchange: Exchange) -> None:
        await exchange.say(*parts)

    return answer


def silent_after(*parts: bytes) -> Answer:
    """Sends these, and stays."""

    async def answer(exchange: Exchange) -> None:
        await exchange.say(*parts)
        await exchange.silence()

    return answer


def reset_after(*parts: bytes) -> Answer:
    """Sends these, and breaks the connection when they have arrived."""

    async def answer(exchange: Exchange) -> None:
        await exchange.say(*parts)
        await asyncio.sleep(0.05)  # a reset overtakes what the other side has not read
        exchange.reset()

    return answer


_OK = b"HTTP/1.1 200 OK\r\n"
_PARTS = (bytes(40_000),) * 8

BY_PATH: dict[str, Answer] = {
    "/length": saying(_OK + b"Content-Type: audio/wav\r\nContent-Length: 320000\r\n\r\n", *_PARTS),
    "/chunks": saying(
        _OK + b"Content-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n",
        *(b"9C40\r\n" + part + b"\r\n" for part in _PARTS),
        b"0\r\n\r\n",
    ),
    "/close": saying(_OK + b"Content-Type: audio/wav\r\n\r\n", *_PARTS),
    "/events": silent_after(
        _OK + b"Content-Type: text/event-stream\r\n\r\n", *[b"data: %s\n\n" % (b"x" * 50_000)] * 8
    ),
    "/short": saying(_OK + b"Content-Length: 320001\r\n\r\n", *_PARTS),
    "/reset": reset_after(_OK + b"\r\n", *_PARTS),
    "/no_last_chunk": saying(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "/nobody": saying(),
}
"""What `another_process` answers."""


@contextmanager
def another_process() -> Iterator[str]:
    """Answers `BY_PATH` in a process of its own. Gives its URL, without a slash at the end."""
    command = [sys.executable, "-m", "tests.media.upstreams"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def _serve() -> None:
    async def answer(exchange: Exchange) -> None:
        await BY_PATH[exchange.line.split()[1]](exchange)

    async with upstream(answer) as there:
        sys.stdout.write(f"{there.url}\n")
        sys.stdout.flush()
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(_serve())
