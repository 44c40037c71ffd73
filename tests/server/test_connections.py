"""The watch through a real server: who is let go, and who is not."""

import asyncio
import logging
import socket
import ssl
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tornado.iostream import IOStream
from tornado.web import stream_request_body

from handlers.delivery import StreamResource
from handlers.limits import Limits
from media.source import Chunks
from server import connections, tls
from server.connections import Watch, _Window
from tests.certificates import Pair, make_pair
from tests.conftest import AccessLog
from tests.serving import Route, Script, chunks_route, eventually, request, serving

QUICK = Limits(heartbeat_seconds=0.1, stall_seconds=0.6)
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The certificate of a server with TLS."""
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def encryption(pair: Pair) -> ssl.SSLContext:
    """The server's context."""
    return tls.load(pair.certificate, pair.key)


@pytest.fixture(scope="module")
def trusting(pair: Pair) -> ssl.SSLContext:
    """The client's."""
    return pair.trusting()


async def endless() -> Chunks:
    """A producer that never awaits."""
    while True:
        yield bytes(65536)


class Large(StreamResource):
    """Answers with what no kernel takes at once, and is finished."""

    async def answer(self, **parts: str) -> None:
        self.finish(bytes(32 * MIB))


class Waiting(StreamResource):
    """Writes by itself, and finishes only when its connection is closed."""

    async def answer(self, **parts: str) -> None:
        self.write(bytes(32 * MIB))
        self.flush()
        stream = self.request.connection.stream  # type: ignore[union-attr]
        await eventually(stream.closed)
        self.finish()


def route(handler: type) -> Route:
    """A route of its own for it."""
    return "/h", handler, {"delivery": None}


# --- taking ---


@pytest.mark.slow
@pytest.mark.parametrize("with_tcp_info", [True, False], ids=["tcp-info", "other-systems"])
@pytest.mark.gen_test(timeout=20)
async def test_a_client_that_does_not_read_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access_log: AccessLog, with_tcp_info: bool
) -> None:
    """After the stall limit, not before, by a reset; meanwhile nothing is piled up for it."""
    if not with_tcp_info:
        monkeypatch.setattr(connections, "_TCP_INFO", None)
    routes = [chunks_route("/s", endless)]
    tracemalloc.start()
    try:
        async with (
            serving(tmp_path, scan=False, limits=QUICK, routes=routes) as server,
            server.connect(request("/s"), receive_bytes=16384) as client,
        ):
            seconds = await eventually(lambda: access_log.endings)
            _, reset = await client.rest()
            assert len(server.open_streams) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    [(outcome, sent)] = access_log.endings
    assert outcome == "stalled"
    assert reset
    assert 0.6 <= seconds < 2
    assert sent < 16 * MIB  # what the kernel takes
    assert peak < 2 * MIB


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_slow_client_that_goes_on_is_not_cut(tmp_path: Path, access_log: AccessLog) -> None:
    """20 KB/s for three times the stall limit; its buffer is so small that each 0.1 s of it can be seen.

    A kernel opens the window anew for a whole packet as it lies in its queue, on loopback one of 64 KB.
    """
    routes = [chunks_route("/s", endless)]
    limits = Limits(stall_seconds=1.2)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=routes) as server,
        server.connect(request("/s"), receive_bytes=2048) as client,
    ):
        until = time.monotonic() + 3.6
        while time.monotonic() < until:
            assert await client.read(1000)
            await asyncio.sleep(0.05)
        assert access_log.endings == []
        client.reset()
        await eventually(lambda: access_log.endings)
    assert access_log.endings[0][0] == "disconnected"


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_client_stalls_on_what_only_the_kernel_holds(tmp_path: Path, access_log: AccessLog) -> None:
    """Everything was written, the source is silent, and the client does not take it: that is a stall too."""
    script = Script()
    async with (
        serving(tmp_path, scan=False, limits=QUICK, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s"), receive_bytes=8192),
    ):
        began = time.monotonic()
        script.put(bytes(200_000))
        await eventually(lambda: access_log.endings)
        seconds = time.monotonic() - began
        assert script.closed.is_set()
    assert access_log.endings == [("stalled", 200_000)]
    assert 0.6 <= seconds < 2


@pytest.mark.slow
@pytest.mark.gen_test
async def test_without_a_limit_nobody_stalls(tmp_path: Path, access_log: AccessLog) -> None:
    """0 is none."""
    limits = Limits(heartbeat_seconds=0.1, stall_seconds=0)
    async with (
        serving(
            tmp_path, scan=False, limits=limits, routes=[chunks_route("/s", endless, heartbeat=b"~")]
        ) as server,
        server.connect(request("/s"), receive_bytes=8192),
    ):
        await asyncio.sleep(1.2)
        assert access_log.endings == []
        assert len(server.open_streams) == 1


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_silence_is_no_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access_log: AccessLog
) -> None:
    """What is sent behind a long silence has the whole limit to arrive, over however slow a network."""
    script = Script()
    on_its_way = 1
    monkeypatch.setattr(connections, "tcp_facts", lambda stream: (1, 1000, 0, on_its_way))
    limits = Limits(stall_seconds=1.2)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        script.put(b"first")
        await client.until(b"first")
        on_its_way = 0
        await asyncio.sleep(1.5)
        on_its_way = 1  # and nothing of it is acknowledged for longer than a look at the client takes
        script.put(b"second")
        await client.until(b"second")
        await asyncio.sleep(0.5)
        on_its_way = 0
        await asyncio.sleep(0.4)
        assert access_log.endings == []


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_client_that_trickles_is_let_go(tmp_path: Path, access_log: AccessLog) -> None:
    """It goes on, but at fewer bytes a second than it must."""
    limits = Limits(stall_seconds=1.2, min_rate=MIB)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=[chunks_route("/s", endless)]) as server,
        server.connect(request("/s"), receive_bytes=2048) as client,
    ):
        began = time.monotonic()
        while not access_log.endings:
            await client.read(1000)
            await asyncio.sleep(0.02)
        assert 1.2 <= time.monotonic() - began < 5
    assert access_log.endings[0][0] == "stalled"


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_slow_source_is_not_its_clients_fault(tmp_path: Path, access_log: AccessLog) -> None:
    """Who has taken all that there was has taken enough, whatever the rate."""

    async def slow() -> Chunks:
        for _ in range(12):
            yield b"a line\n"
            await asyncio.sleep(0.1)

    limits = Limits(stall_seconds=0.4, min_rate=MIB)
    async with serving(tmp_path, scan=False, limits=limits, routes=[chunks_route("/s", slow)]) as server:
        response = await server.get("/s")
    assert response.whole
    assert access_log.endings == [("complete", 12 * 7)]


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_what_a_finished_handler_left_has_a_limit_too(tmp_path: Path) -> None:
    """Tornado holds the rest of an answer, and nobody waits for it."""
    async with (
        serving(tmp_path, scan=False, limits=QUICK, routes=[route(Large)]) as server,
        server.connect(request("/h"), receive_bytes=8192) as client,
    ):
        began = time.monotonic()
        await client.read(1)
        await asyncio.sleep(2)
        _, reset = await client.rest()
        assert reset
        assert time.monotonic() - began < 4
        assert len(client.received) < 32 * MIB


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_handler_that_is_not_a_stream_sees_how_it_ended(
    tmp_path: Path, access_log: AccessLog
) -> None:
    """In the log a client that was let go is told from one that left."""
    async with (
        serving(tmp_path, scan=False, limits=QUICK, routes=[route(Waiting)]) as server,
        server.connect(request("/h"), receive_bytes=8192),
    ):
        await eventually(lambda: access_log.endings)
    assert access_log.endings[0][0] == "stalled"


# --- sending ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "more", "why"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X-a: b\r\n", "header trickles"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n", b"abc", "body trickles"),
        (b"G", b"", "header trickles"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n", b"", "body trickles"),
    ],
    ids=["header", "body", "header-silent", "body-silent"],
)
@pytest.mark.parametrize("kept_alive", [False, True], ids=["first", "second"])
@pytest.mark.gen_test(timeout=20)
async def test_a_request_that_trickles_is_let_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, begin: bytes, more: bytes, why: str, kept_alive: bool
) -> None:
    """Its header has a time, its body a rate; on a connection that has been used as on a new one."""
    caplog.set_level(logging.INFO, "millrace.connections")
    limits = Limits(stall_seconds=1, header_seconds=1)
    async with (
        serving(tmp_path, scan=False, limits=limits) as server,
        server.connect(request("/healthz") if kept_alive else b"") as client,
    ):
        if kept_alive:
            await client.until(b"ok\n")
            await asyncio.sleep(0.5)  # a look has been
        began = time.monotonic()
        await client.send(begin)
        closed = asyncio.create_task(client.rest())
        while not closed.done() and time.monotonic() < began + 5:
            await asyncio.wait({closed}, timeout=0.1)
            with suppress(ConnectionError):
                await client.send(more)
        assert closed.done()
        await closed
        assert time.monotonic() - began >= 0.9
    assert f"127.0.0.1 is let go: its request's {why}" in caplog.text


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_body_that_comes_fast_enough_is_read(tmp_path: Path) -> None:
    """For longer than the window, at twice the rate."""
    limits = Limits(stall_seconds=0.5, min_rate=1000, header_seconds=0.5)
    body = bytes(3000)
    async with (
        serving(tmp_path, scan=False, limits=limits) as server,
        server.connect(request("/healthz", content_length="3000", connection="close")) as client,
    ):
        for start in range(0, 3000, 200):
            await client.send(body[start : start + 200])
            await asyncio.sleep(0.1)
        await client.until(b"ok\n")


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_idle_is_not_slow(tmp_path: Path) -> None:
    """A connection between two requests is not in the middle of one, nor one that has sent nothing yet."""
    limits = Limits(stall_seconds=0.3, header_seconds=0.3)
    async with (
        serving(tmp_path, scan=False, limits=limits) as server,
        server.connect(request("/healthz")) as used,
        server.connect() as fresh,
    ):
        await used.until(b"ok\n")
        await asyncio.sleep(1.5)
        for client in (used, fresh):
            await client.send(request("/readyz", connection="close"))
            received, reset = await client.rest()
            assert received.endswith(b"ok\n")
            assert not reset


@pytest.mark.slow
@pytest.mark.gen_test(timeout=30)
async def test_an_idle_connection_is_closed(tmp_path: Path, access_log: AccessLog) -> None:
    """Before its first request, and behind one: in peace. One that is being answered is not idle."""

    async def slow() -> Chunks:
        for _ in range(6):
            await asyncio.sleep(0.5)
            yield b"still here\n"

    limits = Limits(idle_seconds=1)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=[chunks_route("/slow", slow)]) as server,
        server.connect(request("/healthz")) as used,
        server.connect() as fresh,
        server.connect(request("/slow")) as busy,
    ):
        await used.until(b"ok\n")
        for client in (used, fresh):
            _, reset = await client.rest()
            assert not reset
        await busy.until(b"still here\n", 6)
    assert {outcome for outcome, _ in access_log.endings} == {"complete"}


# --- the watch itself ---


@pytest.mark.parametrize(
    ("looks", "over"),
    [
        ([(0, 0), (9, 0)], False),
        ([(0, 0), (10, 0)], True),
        ([(0, 5), (6, 14), (10, 14)], True),
        ([(0, 5), (6, 15), (12, 15), (15, 16)], False),
        ([(0, 5), (6, 15), (12, 15), (16, 16)], True),
        ([(0, 5), (20, 15), (30, 25), (39, 26)], False),
    ],
    ids=["early", "nothing", "little", "another-window", "its-end", "late-looks"],
)
def test_a_window(looks: list[tuple[float, int]], over: bool) -> None:
    """10 bytes more within 10 seconds; each look is a time and what was reached."""
    window = _Window()
    answers = [window.is_over(reached, 10, now, 10) for now, reached in looks]
    assert answers == [False] * (len(looks) - 1) + [over]


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (Limits(), 5),
        (Limits(stall_seconds=8), 2),
        (Limits(stall_seconds=0.1), 0.25),
        (Limits(header_seconds=10), 2.5),
        (Limits(stall_seconds=0, min_rate=0, header_seconds=0), 5),
        (Limits(stall_seconds=0), 5),
    ],
)
@pytest.mark.gen_test
async def test_how_often_it_looks(monkeypatch: pytest.MonkeyPatch, limits: Limits, seconds: float) -> None:
    """Four times within the shortest limit, between a quarter of a second and five."""
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    monkeypatch.setattr(
        loop, "call_later", lambda seconds, *rest: waits.append(seconds) or call_later(seconds, *rest)
    )
    near, far = socket.socketpair()
    stream = IOStream(near)
    watch = Watch(limits)
    connection = watch.over(stream, "")
    watch.ended(connection)
    stream.close()
    far.close()
    assert waits == [seconds]


@pytest.mark.slow
@pytest.mark.gen_test(timeout=30)
async def test_a_look_at_many_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs some milliseconds, with turns of the loop between; afterwards nothing is left of them."""
    costs: list[float] = []
    look = Watch._look_on

    def measured(self: Watch, waiting: list[connections.Connection]) -> None:
        began = time.thread_time()
        look(self, waiting)
        costs.append(time.thread_time() - began)
        assert len(waiting) <= 600

    monkeypatch.setattr(Watch, "_look_on", measured)
    limits = Limits(stall_seconds=2)
    async with serving(tmp_path, scan=False, limits=limits) as server:
        clients = [server.connect() for _ in range(600)]
        for client in clients:
            await client.__aenter__()
        costs.clear()
        await eventually(lambda: len(costs) >= 6)
        for client in clients:
            await client.__aexit__(None, None, None)
    assert sorted(costs)[len(costs) // 2] < 0.01


@pytest.mark.gen_test
async def test_a_socket_whose_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that does not count either is never late: nobody is let go on a guess."""
    near, far = socket.socketpair()
    stream = IOStream(near)
    stream.write(bytes(4 * MIB)).add_done_callback(lambda done: done.exception())
    assert stream.writing()
    assert connections.tcp_facts(stream) == (0, 0, 0, 0)
    stream.close()
    far.close()


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_handshake_is_no_header(
    tmp_path: Path, encryption: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """A client that connects before it has a question may wait with it, over TLS too."""
    limits = Limits(stall_seconds=1, header_seconds=1)
    async with serving(tmp_path, scan=False, limits=limits, encryption=encryption) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
        await asyncio.sleep(2.5)
        writer.write(request("/healthz", connection="close"))
        assert (await reader.read()).endswith(b"ok\n")
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_handshake_that_does_not_end_is_let_go(tmp_path: Path, encryption: ssl.SSLContext) -> None:
    """It has the time of a header."""
    limits = Limits(stall_seconds=1, header_seconds=1)
    async with (
        serving(tmp_path, scan=False, limits=limits, encryption=encryption) as server,
        server.connect(b"\x16\x03\x01") as client,
    ):
        await asyncio.wait_for(client.rest(), 8)


# --- receiving what is sent as it happens ---


@stream_request_body
class Taking(StreamResource):
    """Takes a body that may be silent for so long (`?silence=`); after its first byte it may begin anew."""

    SUPPORTED_METHODS = ("POST",)

    def prepare(self) -> None:
        self.stream: Any = self.request.connection.stream  # type: ignore[union-attr]
        self.stream.receive_seconds = float(self.args["silence"])

    def data_received(self, data: bytes) -> None:
        if data == b"!":
            self.stream.receive_seconds = 1

    async def post(self, **parts: str) -> None:
        self.finish(b"taken")


def taking(silence: str) -> bytes:
    """The head of a request that it takes."""
    return request(f"/h?silence={silence}", "POST", content_length="5")


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.gen_test(timeout=30)
async def test_a_body_whose_silence_is_limited(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    encryption: ssl.SSLContext,
    trusting: ssl.SSLContext,
    encrypted: bool,
) -> None:
    """It has no rate; one that is silent for too long is let go, also where TLS has its own stream."""
    caplog.set_level(logging.INFO, "millrace.connections")
    routes = [route(Taking)]
    context = encryption if encrypted else None
    async with serving(tmp_path, scan=False, limits=QUICK, routes=routes, encryption=context) as server:
        connecting = asyncio.open_connection(
            "127.0.0.1",
            server.port,
            ssl=trusting if encrypted else None,
            server_hostname="localhost" if encrypted else None,
        )
        reader, writer = await connecting
        writer.write(taking("1.5"))
        for _ in range(5):
            await asyncio.sleep(0.4)
            writer.write(b"x")
        assert b"taken" in await reader.readuntil(b"taken")
        assert "let go" not in caplog.text
        began = time.monotonic()
        writer.write(taking("1.5"))
        with suppress(ConnectionError):
            assert await reader.read() == b""
        assert time.monotonic() - began > 1
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
    assert "its request's body has stopped" in caplog.text


@pytest.mark.slow
@pytest.mark.gen_test(timeout=30)
async def test_the_next_request_has_a_rate_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What its handler asked for is for one body."""
    caplog.set_level(logging.INFO, "millrace.connections")
    async with (
        serving(tmp_path, scan=False, limits=QUICK, routes=[route(Taking)]) as server,
        server.connect(taking("inf") + b"12345") as client,
    ):
        await client.until(b"taken")
        await client.send(request("/healthz", content_length="9000"))
        await client.rest()
    assert "its request's body trickles" in caplog.text


@pytest.mark.slow
@pytest.mark.gen_test(timeout=30)
async def test_a_body_that_is_not_read_is_not_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as its handler says so; the time begins when it says otherwise."""
    caplog.set_level(logging.INFO, "millrace.connections")
    async with (
        serving(tmp_path, scan=False, limits=QUICK, routes=[route(Taking)]) as server,
        server.connect(taking("inf")) as client,
    ):
        await asyncio.sleep(2)
        assert "let go" not in caplog.text
        began = time.monotonic()
        await client.send(b"!")
        await client.rest()
        assert time.monotonic() - began > 0.9
    assert "its request's body has stopped" in caplog.text
