"""A Millrace in the test's own process, on a port of its own, and a client that shows every byte."""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tornado.httputil import HTTPHeaders
from tornado.netutil import bind_sockets
from tornado.web import Application

from handlers.coding import LEVEL
from handlers.cors import Cors
from handlers.delivery import Delivery, NginxFiles, StreamResource
from handlers.fanout import TICK_SECONDS, Fanout
from handlers.limits import Limits, RateLimit
from handlers.open_streams import OpenStreams
from handlers.serve import serve
from handlers.writers import Writers
from media.catalogue import Catalogue
from media.generated import Stream
from media.live import Mounts
from media.shipped import STREAMS
from media.source import Body, Chunks, Facts, Feed, Following, Source
from media.subscriptions import ChannelRow
from server import httpserver
from server.app import make_app
from server.forwarded import trusted
from server.httpserver import AHEAD_BYTES
from server.resources import Resources, Scanner, tables

Route = tuple[str, type, Mapping[str, object]]


@dataclass
class Server:
    """`resources` are those of the app `http` serves; `port` listens on 127.0.0.1."""

    resources: Resources
    port: int
    http: httpserver.Server

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_streams(self) -> OpenStreams:
        """The responses being sent."""
        return self.resources.delivery.open_streams

    async def get(self, target: str, method: str = "GET", **headers: str) -> "Response":
        """One request on a connection of its own; `if_range="x"` is the header `If-Range: x`."""
        return await self.exchange(request(target, method, connection="close", **headers))

    async def exchange(self, request: bytes) -> "Response":
        """Send these bytes, read until the server closes."""
        async with self.connect(request) as client:
            received, reset = await client.rest()
            return Response.parsed(received, reset=reset, head=request.startswith(b"HEAD "))

    @asynccontextmanager
    async def connect(self, request: bytes = b"", *, receive_bytes: int = 0) -> "AsyncIterator[Client]":
        """A connection on which `request` has been sent.

        Args:
            receive_bytes: of the client's receive buffer, about; 0: as the system has it.
        """
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            client = Client(sock)
            await client.send(request)
            yield client
        finally:
            sock.close()


class Client:
    """One connection. Nothing is read that is not asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = b""

    async def send(self, data: bytes) -> None:
        """All of it."""
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self, most: int = 65536) -> bytes:
        """What has come, at least a byte; empty: the server has closed.

        Raises:
            ConnectionResetError: it broke the connection.
        """
        more = await asyncio.get_running_loop().sock_recv(self.socket, most)
        self.received += more
        return more

    async def until(self, marker: bytes, times: int = 1) -> bytes:
        """Read until `marker` has come so often; everything so far."""
        while self.received.count(marker) < times:
            if not await self.read():
                raise EOFError(f"closed before {marker!r}: {self.received[-200:]!r}")
        return self.received

    async def first_chunk(self) -> None:
        """Read until the first chunk of the one response is there, of whatever length."""
        top, _, _ = (await self.until(b"\r\n\r\n")).partition(b"\r\n\r\n")
        while not _dechunked(self.received[len(top) + 4 :])[0]:
            if not await self.read():
                raise EOFError(f"closed before the first chunk: {self.received!r}")

    async def rest(self) -> tuple[bytes, bool]:
        """Everything until the server closes, and whether it did so by a reset."""
        try:
            while await self.read():
                pass
        except ConnectionResetError:
            return self.received, True
        return self.received, False

    def reset(self) -> None:
        """Close, and tell the server that nothing is read any more."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Close, as a program does that ends."""
        self.socket.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)


@dataclass
class Response:
    """What came back. `whole`: the body ended as its framing says; `chunks` are None if not chunked."""

    status: int
    headers: HTTPHeaders
    body: bytes
    chunks: list[bytes] | None
    whole: bool
    reset: bool

    @classmethod
    def parsed(cls, received: bytes, *, reset: bool = False, head: bool = False) -> "Response":
        """The one response in `received`; what stands behind it makes it not whole."""
        response, behind = cls._first(received, head)
        if response.chunks is None:
            response.body += behind
        response.whole = response.whole and not reset and not behind
        response.reset = reset
        return response

    @classmethod
    def all(cls, received: bytes, methods: Sequence[str]) -> "list[Response]":
        """The responses to pipelined requests with these methods, nothing behind them."""
        responses = []
        for method in methods:
            response, received = cls._first(received, method == "HEAD")
            responses.append(response)
        assert received == b""
        return responses

    @classmethod
    def _first(cls, received: bytes, head: bool) -> "tuple[Response, bytes]":
        top, _, rest = received.partition(b"\r\n\r\n")
        status_line, _, header_lines = top.decode("latin-1").partition("\r\n")
        headers = HTTPHeaders.parse(header_lines)
        status = int(status_line.split()[1])
        if head or status in (204, 304):
            return cls(status, headers, b"", None, True, False), rest
        if headers.get("Transfer-Encoding") == "chunked":
            chunks, whole, rest = _dechunked(rest)
            return cls(status, headers, b"".join(chunks), chunks, whole, False), rest
        length = int(headers.get("Content-Length", len(rest)))
        return cls(status, headers, rest[:length], None, len(rest) >= length, False), rest[length:]


def _dechunked(rest: bytes) -> tuple[list[bytes], bool, bytes]:
    chunks: list[bytes] = []
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return chunks, rest.startswith(b"\r\n"), rest[2:]
        if not rest:
            break
        chunks.append(rest[:length])
        rest = rest[length + 2 :]
    return chunks, False, b""


def request(target: str, method: str = "GET", version: str = "1.1", **headers: str) -> bytes:
    """A request as it goes out; `if_range="x"` is the header `If-Range: x`."""
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class SourceResource(StreamResource):
    """Answers with what `make()` gives."""

    def initialize(self, delivery: Delivery, make: Callable[[], Source]) -> None:  # type: ignore[override]
        super().initialize(delivery)
        self.make = make

    async def answer(self, **parts: str) -> None:
        await serve(self, self.make())


def source_route(path: str, make: Callable[[], Source]) -> Route:
    """A route that answers with the source that `make` makes."""
    return path, SourceResource, {"delivery": None, "make": make}


def chunks_route(
    path: str, chunks: Callable[[], Chunks], media_type: str = "text/plain", **facts: object
) -> Route:
    """A route that answers with these chunks, and with these facts about them."""

    @asynccontextmanager
    async def make() -> AsyncGenerator[Body, None]:
        yield Body(Facts(media_type, **facts), chunks)  # type: ignore[arg-type]

    return source_route(path, make)


def feed_route(
    path: str, feed: Feed, opening: bytes = b"", own: Callable[[bytes], bytes] | None = None
) -> Route:
    """A route on which `feed` is followed from now on; the rest as Following has it."""

    @asynccontextmanager
    async def make() -> AsyncGenerator[Body, None]:
        following = Following(feed, feed.newest, opening, own)
        yield Body(Facts("text/plain", live=True), following.chunks, following=following)

    return source_route(path, make)


class Script:
    """A source that a test leads by the hand: it yields what is put in, and tells when it was closed."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.started = asyncio.Event()
        self.closed = asyncio.Event()

    async def chunks(self) -> Chunks:
        """What was put in, until None."""
        self.started.set()
        try:
            while (item := await self.items.get()) is not None:
                yield item
        finally:
            self.closed.set()

    def put(self, *items: bytes | None) -> None:
        """Have these yielded; None ends the body."""
        for item in items:
            self.items.put_nowait(item)


async def eventually(condition: Callable[[], object], seconds: float = 5) -> float:
    """Wait until `condition()` is true. Gives the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"not within {seconds} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


@asynccontextmanager
async def serving(
    root: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008, frozen
    scan: bool = True,
    compression: int = LEVEL,
    routes: "Sequence[Route]" = (),
    nginx: NginxFiles | None = None,
    encryption: ssl.SSLContext | None = None,
    proxies: str = "",
    rate_limit: int = 0,
    channels: Mapping[str, Stream | ChannelRow] | None = None,
    tick_seconds: float = TICK_SECONDS,
    grace_seconds: float = 10,
    source_seconds: float = 10,
    writers: Writers = Writers(loopback=True),  # noqa: B008, frozen
    cors: Cors = Cors(),  # noqa: B008, frozen
) -> AsyncIterator[Server]:
    """Millrace with the library `root`, and `routes` beside its own; the catalogue lies beside `root`.

    Args:
        scan: False: there is no catalogue, for tests that ask for no tracks; it would take longest of all.
        proxies: that are trusted.
        rate_limit: bytes a second.
        routes: their arguments may hold `"delivery": None`: it is filled in.
        encryption: None: plain HTTP.
        channels: beside those that come with Millrace; streams, too.
    """
    catalogue = Catalogue(f"sqlite+aiosqlite:///{root}.sqlite3")
    async with catalogue if scan else nullcontext():
        rate = RateLimit(rate_limit)
        delivery = Delivery(
            limits,
            OpenStreams(),
            rate,
            compression=compression,
            nginx=nginx,
            fanout=Fanout(tick_seconds),
        )
        scanner = Scanner(root, catalogue, progress=False)
        streams, live_channels = tables({**STREAMS, **(channels or {})})
        mounts = Mounts(live_channels.ids, grace_seconds=grace_seconds)
        resources = Resources(
            root,
            catalogue,
            scanner,
            delivery,
            streams,
            live_channels,
            writers=writers,
            mounts=mounts,
            cors=cors,
            source_seconds=source_seconds,
        )
        if scan:
            await resources.scanner.start()
        app: Application = make_app(resources)
        for pattern, handler, arguments in routes:
            app.add_handlers(".*", [(pattern, handler, {**arguments, "delivery": delivery})])
        server = httpserver.Server(
            app,
            repeats=delivery.repeats,
            limits=limits,
            proxies=trusted(proxies),
            max_body_size=AHEAD_BYTES,
            max_buffer_size=AHEAD_BYTES,
            ssl_options=encryption,
        )
        sockets = bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
        server.add_sockets(sockets)
        resources.accepting = True
        try:
            yield Server(resources, sockets[0].getsockname()[1], server)
        finally:
            server.stop()
            delivery.open_streams.break_off()
            await server.close_all_connections()
            await asyncio.wait_for(delivery.open_streams.ended(), 10)
            await resources.end_runs(5)
            await resources.scanner.stop()
