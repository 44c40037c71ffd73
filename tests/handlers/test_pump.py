"""The pump through a real server: what goes out when, and how every response ends."""

import asyncio
import os
import re
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tornado.netutil import bind_unix_socket
from tornado.web import Application

from handlers import body_writer, pump
from handlers.delivery import Delivery
from handlers.limits import Limits
from handlers.open_streams import OpenStreams, Outcome
from handlers.serve import serve
from media.channel import Channel
from media.events import Events
from media.source import Body, Chunks, Facts, Following
from server import httpserver
from tests.conftest import AccessLog, ExpectLog
from tests.serving import (
    Client,
    Response,
    Script,
    Server,
    SourceResource,
    chunks_route,
    eventually,
    feed_route,
    request,
    serving,
    source_route,
)

QUICK = Limits(heartbeat_seconds=0.1, stall_seconds=0.6)
MIB = 1024 * 1024


@pytest.fixture
def script(io_loop: object) -> Script:
    """A source under the test's control."""
    return Script()


def one_by_one(*items: bytes, pause_seconds: float = 0) -> Callable[[], Chunks]:
    """A source of these items; it awaits nothing if there is no pause."""

    async def chunks() -> Chunks:
        for item in items:
            yield item
            if pause_seconds:
                await asyncio.sleep(pause_seconds)

    return chunks


def failing(error: BaseException, *items: bytes, pause_seconds: float = 0) -> Callable[[], Chunks]:
    """A source of these items that then raises."""

    async def chunks() -> Chunks:
        for item in items:
            yield item
            await asyncio.sleep(pause_seconds)
        raise error

    return chunks


async def endless() -> Chunks:
    """A producer that never awaits."""
    while True:
        yield bytes(65536)


# --- gathering ---


@pytest.mark.gen_test
async def test_a_tight_producer_is_gathered(tmp_path: Path) -> None:
    """Chunks that come without a wait between them share few writes, and none is lost."""
    items = [f"{number:>99}\n".encode() for number in range(5000)]
    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", one_by_one(*items))]) as server:
        response = await server.get("/s")
    assert response.whole
    assert response.body == b"".join(items)
    assert response.chunks is not None
    assert len(response.chunks) < 30
    assert max(map(len, response.chunks)) <= body_writer.GATHER_BYTES + 100


@pytest.mark.gen_test
async def test_items_of_a_slow_producer_leave_at_once(tmp_path: Path, script: Script) -> None:
    """A chunk is never held back for one that is still to be made."""
    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        for number in range(20):
            script.put(b"line %d\n" % number)
            await client.until(b"line %d\n" % number)
        script.put(None)
        await client.until(b"0\r\n\r\n")
    assert Response.parsed(client.received).chunks == [b"line %d\n" % number for number in range(20)]


@pytest.mark.gen_test
async def test_hello_comes_in_three_chunks(tmp_path: Path) -> None:
    """Pieces with a turn of the loop between them are three HTTP chunks."""
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/stream/hello?name=%EC%84%B8%EA%B3%84")
    assert response.chunks == [b"Hello ", "세계".encode(), b"!"]


@pytest.mark.gen_test
async def test_large_and_empty_chunks(tmp_path: Path) -> None:
    """A chunk larger than what is gathered goes out as it is; an empty one never ends the body."""
    large = os.urandom(3 * MIB)
    items = (b"", b"a", b"", large, memoryview(large)[: MIB // 2], b"", b"z")
    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", one_by_one(*items))]) as server:  # type: ignore[arg-type]
        response = await server.get("/s")
    assert response.whole
    assert response.body == b"a" + large + large[: MIB // 2] + b"z"


@pytest.mark.gen_test
async def test_an_empty_body(tmp_path: Path) -> None:
    """A source without a chunk is a whole response without a body."""
    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", one_by_one())]) as server:
        response = await server.get("/s")
    assert (response.status, response.chunks, response.whole) == (200, [], True)


# --- headers ---


@pytest.mark.gen_test
async def test_headers_wait_for_the_first_chunk(tmp_path: Path, script: Script) -> None:
    """Within the first second they leave with it, in one packet."""
    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.read(), 0.2)
        script.put(b"first")
        assert (await client.read()).endswith(b"\r\n\r\n5\r\nfirst\r\n")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_headers_leave_after_a_second(tmp_path: Path, script: Script) -> None:
    """A source that is slow to begin does not keep the client without an answer."""
    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        began = time.monotonic()
        assert (await client.read()).endswith(b"\r\n\r\n")
        assert 0.95 < time.monotonic() - began < 2
        script.put(b"first", None)
        await client.until(b"0\r\n\r\n")
    assert Response.parsed(client.received).body == b"first"


@pytest.mark.gen_test
async def test_a_failure_before_the_first_byte_is_a_status(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """Nothing was sent: the client gets a problem document, and the connection goes on."""
    expect_log("millrace", 40, "RuntimeError: secret")
    routes = [chunks_route("/s", failing(RuntimeError("secret")))]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s") + request("/healthz", connection="close")) as client,
    ):
        received, _ = await client.rest()
    failed, after = Response.all(received, ["GET", "GET"])
    assert (failed.status, failed.headers["Content-Type"]) == (500, "application/problem+json")
    assert b"secret" not in failed.body
    assert after.status == 200


@pytest.mark.parametrize("pause_seconds", [0.0, 0.05], ids=["gathered", "sent"])
@pytest.mark.gen_test
async def test_a_failure_after_the_first_byte_breaks_the_body(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog, pause_seconds: float
) -> None:
    """What came before it still arrives; the end does not."""
    expect_log("millrace.serve", 40, "RuntimeError: secret")
    routes = [
        chunks_route("/s", failing(RuntimeError("secret"), b"one\n", b"two\n", pause_seconds=pause_seconds))
    ]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.get("/s")
        await eventually(lambda: access_log.endings)
    assert (response.status, response.body, response.whole) == (200, b"one\ntwo\n", False)
    assert not response.reset
    assert access_log.endings == [("failed", 8)]


@pytest.mark.gen_test
async def test_a_failure_behind_the_headers_breaks_the_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """Headers that left because the source was slow cannot be a status any more."""
    monkeypatch.setattr(pump, "HEADERS_SECONDS", 0.05)
    expect_log("millrace.serve", 40, "RuntimeError: late")

    async def late() -> Chunks:
        await asyncio.sleep(0.2)
        raise RuntimeError("late")
        yield b""

    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", late)]) as server:
        response = await server.get("/s")
    assert (response.status, response.chunks, response.whole) == (200, [], False)


@pytest.mark.gen_test
async def test_a_failure_of_a_known_length_is_short(tmp_path: Path, expect_log: ExpectLog) -> None:
    """The client has fewer bytes than it was promised."""
    expect_log("millrace.serve", 40, "RuntimeError")
    routes = [chunks_route("/s", failing(RuntimeError(), b"abc", pause_seconds=0.02), length=10)]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.get("/s")
    assert (response.body, response.headers["Content-Length"], response.whole) == (b"abc", "10", False)


@pytest.mark.parametrize("pause_seconds", [0, 0.02])
@pytest.mark.parametrize(
    ("items", "status", "text"),
    [
        ((b"abc",), 200, "3 bytes where 10 were promised"),
        ((b"abc", b"defghijklm"), 200, "more than the 10 bytes"),
        ((b"abc", b"x" * 70_000), 200, "more than the 10 bytes"),
        ((b"abc" * 5,), 502, "more than the 10 bytes"),
        ((), 502, "0 bytes where 10 were promised"),
    ],
    ids=["less", "more", "far", "at-once", "nothing"],
)
@pytest.mark.gen_test
async def test_another_length_than_promised_is_a_failure(
    tmp_path: Path,
    access_log: AccessLog,
    expect_log: ExpectLog,
    items: tuple[bytes, ...],
    status: int,
    text: str,
    pause_seconds: float,
) -> None:
    """A source whose chunks do not add up to its length never makes a whole body."""
    expect_log("millrace" if status == 502 else "millrace.serve", 30, text)
    routes = [chunks_route("/s", one_by_one(*items, pause_seconds=pause_seconds), length=10)]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.get("/s")
        await eventually(lambda: access_log.endings)
    assert (response.status, response.whole) == (status, status == 502)
    if status == 200:
        assert response.body == b"abc"
        assert access_log.endings == [("failed", 3)]


@pytest.mark.parametrize(
    ("items", "status"),
    [
        (("text",), 500),
        (("text" * 20_000,), 500),
        ((b"bytes", "text"), 500),
        ((b"x" * 70_000, "text"), 200),
    ],
    ids=["first", "large", "gathered", "later"],
)
@pytest.mark.gen_test
async def test_text_for_bytes_is_a_failure(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog, items: tuple[bytes, ...], status: int
) -> None:
    """A user's generator that yields the wrong type is told in the log; no client is left waiting for it."""
    expect_log("millrace" if status == 500 else "millrace.serve", 40, "TypeError")
    async with serving(
        tmp_path, scan=False, routes=[chunks_route("/s", one_by_one(*items, pause_seconds=0))]
    ) as server:
        response = await server.get("/s")
        await eventually(lambda: access_log.endings)
    assert response.status == status
    assert response.whole == (status == 500)


# --- heartbeat ---


@pytest.mark.slow
@pytest.mark.gen_test
async def test_heartbeats_fill_silence(tmp_path: Path, script: Script) -> None:
    """They come in the interval that is set, between chunks, and the source is not disturbed."""
    routes = [chunks_route("/s", script.chunks, heartbeat=b"~")]
    async with (
        serving(tmp_path, scan=False, limits=Limits(heartbeat_seconds=0.5), routes=routes) as server,
        server.connect(request("/s")) as client,
    ):
        began = time.monotonic()
        script.put(b"first")
        await client.until(b"1\r\n~\r\n", times=3)
        assert 1.5 <= time.monotonic() - began < 2.5
        script.put(b"last", None)
        await client.until(b"0\r\n\r\n")
    body = Response.parsed(client.received).body
    assert body.startswith(b"first~~~")
    assert body.replace(b"~", b"") == b"firstlast"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_no_heartbeat_while_chunks_flow(tmp_path: Path) -> None:
    """A stream that is never silent for so long shows life by itself."""
    items = [b"%d " % number for number in range(15)]
    routes = [chunks_route("/s", one_by_one(*items, pause_seconds=0.1), heartbeat=b"~")]
    limits = Limits(heartbeat_seconds=1)
    async with serving(tmp_path, scan=False, limits=limits, routes=routes) as server:
        response = await server.get("/s")
    assert response.body == b"".join(items)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "heartbeat"),
    [(QUICK, b""), (Limits(heartbeat_seconds=0, stall_seconds=0.6), b"~"), (Limits(0, 0), b"~")],
    ids=["none", "off", "all-off"],
)
@pytest.mark.gen_test
async def test_no_heartbeat_where_none_may_stand(tmp_path: Path, limits: Limits, heartbeat: bytes) -> None:
    """Neither in a format that has none, nor when they are switched off."""
    routes = [chunks_route("/s", one_by_one(b"a", b"b", pause_seconds=0.3), heartbeat=heartbeat)]
    async with serving(tmp_path, scan=False, limits=limits, routes=routes) as server:
        response = await server.get("/s")
    assert response.body == b"ab"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_heartbeats_follow_headers_that_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    """None before the headers; behind them they show life though there never was a chunk."""
    monkeypatch.setattr(pump, "HEADERS_SECONDS", 0.6)
    routes = [chunks_route("/s", script.chunks, heartbeat=b"~")]
    async with serving(tmp_path, scan=False, limits=Limits(heartbeat_seconds=0.5), routes=routes) as server:
        began = time.monotonic()
        async with server.connect(request("/s")) as client:
            assert (await client.read()).endswith(b"\r\n\r\n")
            assert time.monotonic() - began >= 0.6
            await client.until(b"1\r\n~\r\n", times=2)
            assert 1.6 <= time.monotonic() - began < 2.6


@pytest.mark.slow
@pytest.mark.gen_test
async def test_no_heartbeat_while_a_write_is_in_flight(tmp_path: Path, script: Script) -> None:
    """A client that reads slowly finds none in what it was sent meanwhile."""
    large = os.urandom(12 * MIB)
    routes = [chunks_route("/s", script.chunks, heartbeat=b"~")]
    limits = Limits(heartbeat_seconds=0.05, stall_seconds=5)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=routes) as server,
        server.connect(request("/s", connection="close"), receive_bytes=16384) as client,
    ):
        script.put(large)
        await asyncio.sleep(0.4)
        script.put(b"end", None)
        received, _ = await client.rest()
    assert Response.parsed(received).body == large + b"end"


# --- disconnect ---


def leave_by_closing(client: Client) -> None:
    """FIN."""
    client.close()


def leave_by_reset(client: Client) -> None:
    """RST."""
    client.reset()


leaving = pytest.mark.parametrize("leave", [leave_by_closing, leave_by_reset], ids=["fin", "rst"])


@leaving
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.gen_test
async def test_a_silent_source_is_closed_when_the_client_leaves(
    tmp_path: Path, access_log: AccessLog, leave: Callable[[Client], None], begun: bool
) -> None:
    """Within a second, although it sleeps for a minute."""
    sleeping, closed = asyncio.Event(), asyncio.Event()

    async def sleeper() -> Chunks:
        try:
            if begun:
                yield b"first"
            sleeping.set()
            await asyncio.sleep(60)
            yield b"never"
        finally:
            closed.set()

    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", sleeper)]) as server,
        server.connect(request("/s")) as client,
    ):
        await sleeping.wait()
        leave(client)
        await asyncio.wait_for(closed.wait(), 1)
        await eventually(lambda: access_log.endings)
        assert len(server.open_streams) == 0
    assert access_log.endings == [("disconnected", 5 if begun else 0)]


@leaving
@pytest.mark.gen_test
async def test_a_client_leaves_while_a_write_is_blocked(
    tmp_path: Path, access_log: AccessLog, script: Script, leave: Callable[[Client], None]
) -> None:
    """What it was being sent is dropped, and the source closed."""
    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s"), receive_bytes=8192) as client,
    ):
        script.put(bytes(16 * MIB), b"more", b"more")
        await client.read(100)
        leave(client)
        await asyncio.wait_for(script.closed.wait(), 1)
        await eventually(lambda: access_log.endings)
        assert len(server.open_streams) == 0
    assert access_log.endings == [("disconnected", 16 * MIB)]


@leaving
@pytest.mark.gen_test
async def test_a_client_leaves_a_tight_producer(
    tmp_path: Path, access_log: AccessLog, leave: Callable[[Client], None]
) -> None:
    """A source that never awaits ends with its client."""
    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", endless)]) as server,
        server.connect(request("/s")) as client,
    ):
        await client.read()
        leave(client)
        await eventually(lambda: access_log.endings, 1)
    assert access_log.endings[0][0] == "disconnected"


@leaving
@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_client_that_pipelines_leaves(
    tmp_path: Path, access_log: AccessLog, script: Script, leave: Callable[[Client], None]
) -> None:
    """Behind a waiting request Tornado does not read the end; the pump sees it when it next looks."""
    async with (
        serving(tmp_path, scan=False, limits=QUICK, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        script.put(b"first")
        await client.until(b"first")
        await client.send(request("/healthz"))
        await asyncio.sleep(0.05)
        leave(client)
        await asyncio.wait_for(script.closed.wait(), 1)
        await eventually(lambda: access_log.endings)
    assert access_log.endings[0] == ("disconnected", 5)


@pytest.mark.gen_test
async def test_a_client_that_half_closes_has_left(
    tmp_path: Path, access_log: AccessLog, script: Script
) -> None:
    """One that will send nothing more cannot be told from one that has gone: the stream ends."""
    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        script.put(b"first")
        await client.until(b"first")
        client.half_close()
        await asyncio.wait_for(script.closed.wait(), 1)
        received, _ = await client.rest()
    assert not Response.parsed(received).whole
    assert access_log.endings == [("disconnected", 5)]


@pytest.mark.slow
@pytest.mark.gen_test
async def test_garbage_behind_a_request_is_not_piled_up(
    tmp_path: Path, access_log: AccessLog, script: Script
) -> None:
    """2 MB sent ahead stay with the kernel; the stream goes on, and the garbage closes the connection."""
    async with (
        serving(tmp_path, scan=False, limits=QUICK, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        script.put(b"first")
        await client.until(b"first")
        garbage = bytes(2_000_000)
        tracemalloc.start()
        sending = asyncio.create_task(client.send(garbage))
        await asyncio.sleep(0.3)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        script.put(b"second", None)
        received, _ = await client.rest()
        sending.cancel()
        await asyncio.wait({sending})
    assert peak < MIB
    assert b"second" in received
    assert access_log.endings == [("complete", 11)]


@leaving
@pytest.mark.gen_test
async def test_a_client_leaves_while_the_source_is_entered(
    tmp_path: Path, access_log: AccessLog, leave: Callable[[Client], None]
) -> None:
    """What is slow to open is given up within a second, and closed."""
    entering, closed = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncGenerator[Body, None]:
        try:
            entering.set()
            await asyncio.sleep(60)
            yield Body(Facts("text/plain"), endless)
        finally:
            closed.set()

    async with (
        serving(tmp_path, scan=False, routes=[source_route("/s", slow)]) as server,
        server.connect(request("/s")) as client,
    ):
        await entering.wait()
        assert len(server.open_streams) == 1
        leave(client)
        await asyncio.wait_for(closed.wait(), 1)
        await eventually(lambda: access_log.endings)
    assert access_log.endings == [("disconnected", 0)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.gen_test
async def test_a_source_that_cannot_be_interrupted_is_entered_for_nobody(
    tmp_path: Path, access_log: AccessLog, method: str
) -> None:
    """One that has swallowed the cancellation is closed as soon as it is open."""
    entering, closed = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def stubborn() -> AsyncGenerator[Body, None]:
        entering.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        try:
            yield Body(Facts("text/plain"), endless)
        finally:
            closed.set()

    async with (
        serving(tmp_path, scan=False, routes=[source_route("/s", stubborn)]) as server,
        server.connect(request("/s", method)) as client,
    ):
        await entering.wait()
        client.close()
        await asyncio.wait_for(closed.wait(), 1)
        await eventually(lambda: access_log.endings)
    assert access_log.endings == [("disconnected", 0)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.gen_test
async def test_a_client_that_left_before_gets_no_source(
    tmp_path: Path, access_log: AccessLog, script: Script, method: str
) -> None:
    """A handler that was busy before it had a source enters none for a client that has gone."""
    asked, answer = asyncio.Event(), asyncio.Event()

    class Late(SourceResource):
        async def answer(self, **parts: str) -> None:
            asked.set()
            await answer.wait()
            await serve(self, self.make())

    async with (
        serving(tmp_path, scan=False, routes=[("/s", Late, chunks_route("", script.chunks)[2])]) as server,
        server.connect(request("/s", method)) as client,
    ):
        await asked.wait()
        client.reset()
        await asyncio.sleep(0.02)
        answer.set()
        await eventually(lambda: access_log.endings)
    assert access_log.endings == [("disconnected", 0)]
    assert not script.started.is_set()


# --- sources that do not behave ---


async def until_cancelled(started: asyncio.Event) -> None:
    """Sleep for a minute."""
    started.set()
    await asyncio.sleep(60)


@pytest.mark.gen_test
async def test_a_source_that_swallows_its_cancellation(tmp_path: Path, access_log: AccessLog) -> None:
    """It is asked for nothing more, and closed."""
    started, closed, after = asyncio.Event(), asyncio.Event(), []

    async def stubborn() -> Chunks:
        try:
            yield b"first"
            with suppress(asyncio.CancelledError):
                await until_cancelled(started)
            yield b"second"
            after.append("asked again")
        finally:
            closed.set()

    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", stubborn)]) as server,
        server.connect(request("/s")) as client,
    ):
        await started.wait()
        client.reset()
        await asyncio.wait_for(closed.wait(), 1)
        await eventually(lambda: access_log.endings)
    assert after == []
    assert access_log.endings == [("disconnected", 5)]


@pytest.mark.gen_test
async def test_a_source_that_fails_while_it_is_closed(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """The outcome stands; the log has the failure."""
    expect_log("millrace.pump", 40, "RuntimeError: in finally")
    started = asyncio.Event()

    async def clumsy() -> Chunks:
        try:
            yield b"first"
            await until_cancelled(started)
        finally:
            raise RuntimeError("in finally")

    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", clumsy)]) as server,
        server.connect(request("/s")) as client,
    ):
        await started.wait()
        client.reset()
        await eventually(lambda: access_log.endings)
        assert len(server.open_streams) == 0
    assert access_log.endings == [("disconnected", 5)]


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_source_that_is_slow_to_close_is_cancelled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """Its clean-up has its time; then it is reported, and cancelled until it ends."""
    monkeypatch.setattr(pump, "CLEANUP_SECONDS", 0.1)
    expect_log("millrace.pump", 30, "still open 0.1 s after it was cancelled")
    started, cancelled = asyncio.Event(), []

    async def slow() -> Chunks:
        try:
            yield b"first"
            await until_cancelled(started)
        finally:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append("again")
                await asyncio.sleep(60)

    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", slow)]) as server,
        server.connect(request("/s")) as client,
    ):
        await started.wait()
        client.reset()
        seconds = await eventually(lambda: access_log.endings)
        assert len(server.open_streams) == 0
    assert cancelled == ["again"]
    assert 0.2 <= seconds < 1.5
    assert access_log.endings == [("disconnected", 5)]


@pytest.mark.parametrize("items", [(), (b"first",)], ids=["at-once", "later"])
@pytest.mark.gen_test
async def test_a_cancellation_of_the_sources_own_making_is_a_failure(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog, items: tuple[bytes, ...]
) -> None:
    """A library that lets CancelledError out never ends a body as if it were whole."""
    expect_log("millrace.serve" if items else "millrace", 40, "CancelledError")
    routes = [chunks_route("/s", failing(asyncio.CancelledError(), *items, pause_seconds=0.01))]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.get("/s")
        await eventually(lambda: access_log.endings)
    assert response.status == (200 if items else 500)
    assert response.whole == (not items)
    assert access_log.endings[0][0] == ("failed" if items else "complete")


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.gen_test
async def test_a_task_that_somebody_else_cancels(tmp_path: Path, access_log: AccessLog, begun: bool) -> None:
    """It takes its cancellation, and the body is not ended as if it were whole."""
    tasks: list[asyncio.Task[object] | None] = []

    async def chunks() -> Chunks:
        if begun:
            yield b"first"
        tasks.append(asyncio.current_task())
        await asyncio.sleep(60)
        yield b"never"

    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks)]) as server,
        server.connect(request("/s", connection="close")) as client,
    ):
        await eventually(lambda: tasks)
        assert tasks[0] is not None
        tasks[0].cancel()
        received, _ = await client.rest()
        await asyncio.wait({tasks[0]})
    assert tasks[0].cancelled()
    response = Response.parsed(received)
    assert (response.status, response.whole) == ((200, False) if begun else (500, True))
    assert access_log.endings[0][0] == ("failed" if begun else "complete")


@pytest.mark.gen_test
async def test_both_cancellations_at_once(tmp_path: Path, access_log: AccessLog) -> None:
    """The pump takes back its own, and lets the other one through."""
    tasks: list[asyncio.Task[object] | None] = []

    async def chunks() -> Chunks:
        try:
            yield b"first"
            await asyncio.sleep(60)
        finally:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(2)

    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        await client.until(b"first")
        client.reset()
        await eventually(lambda: tasks)
        assert tasks[0] is not None
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})
    assert tasks[0].cancelled()
    assert tasks[0].cancelling() == 1
    assert access_log.endings[0][0] == "disconnected"


def open_descriptors() -> int:
    """How many there are; one is of this function."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_two_hundred_clients_leave_nothing_behind(tmp_path: Path, access_log: AccessLog) -> None:
    """No task, no descriptor, no registered pump, and every generator closed."""
    opened: list[int] = []
    closed: list[int] = []

    async def sleeper() -> Chunks:
        opened.append(1)
        try:
            yield b"first"
            await asyncio.sleep(60)
        finally:
            closed.append(1)

    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", sleeper)]) as server:
        tasks, descriptors = len(asyncio.all_tasks()), open_descriptors()
        clients = [server.connect(request("/s")) for _ in range(200)]
        connected = [await client.__aenter__() for client in clients]
        await eventually(lambda: len(opened) == 200)
        assert len(server.open_streams) == 200
        for number, client in enumerate(connected):
            (leave_by_reset if number % 2 else leave_by_closing)(client)
        await eventually(lambda: len(access_log) == 200)
        for client in clients:
            await client.__aexit__(None, None, None)
        await eventually(lambda: len(asyncio.all_tasks()) == tasks)
        assert len(closed) == 200
        assert len(server.open_streams) == 0
        assert open_descriptors() == descriptors
    assert set(access_log.endings) <= {("disconnected", 5), ("disconnected", 0)}


# --- draining ---


@pytest.mark.parametrize(
    ("media_type", "farewell"),
    [("text/event-stream", b"retry: "), ("text/plain", b"")],
    ids=["events", "text"],
)
@pytest.mark.gen_test
async def test_a_live_stream_is_ended_by_draining(
    tmp_path: Path, access_log: AccessLog, script: Script, media_type: str, farewell: bytes
) -> None:
    """Behind the chunk that is on its way, and whole; events say when to come back."""
    routes = [chunks_route("/s", script.chunks, media_type, live=True)]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s", connection="close")) as client,
    ):
        script.put(b"first\n\n")
        await client.until(b"first\n\n")
        server.open_streams.drain()
        received, _ = await client.rest()
        await asyncio.wait_for(server.open_streams.ended(), 1)
    assert script.closed.is_set()
    response = Response.parsed(received)
    assert response.whole
    assert response.body.startswith(b"first\n\n" + farewell)
    if farewell:
        assert 1000 <= int(response.body.removeprefix(b"first\n\nretry: ").removesuffix(b"\n\n")) <= 5000
    assert access_log.endings == [("drained", len(response.body))]


@pytest.mark.gen_test
async def test_a_live_stream_begun_while_draining_ends_at_once(
    tmp_path: Path, access_log: AccessLog, script: Script
) -> None:
    """Its source is not even started."""
    routes = [chunks_route("/s", script.chunks, "text/event-stream", live=True)]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        server.open_streams.drain()
        response = await server.get("/s")
    assert (response.status, response.whole) == (200, True)
    assert response.body.startswith(b"retry: ")
    assert not script.started.is_set()
    assert access_log.endings[0][0] == "drained"


@pytest.mark.gen_test
async def test_finite_bodies_go_on_while_draining(
    tmp_path: Path, access_log: AccessLog, script: Script
) -> None:
    """Those that are open, and those that begin; until they are broken off."""
    routes = [chunks_route("/s", script.chunks), chunks_route("/short", one_by_one(b"short"))]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s", connection="close")) as client,
    ):
        script.put(b"one")
        await client.until(b"one")
        server.open_streams.drain()
        script.put(b"two")
        await client.until(b"two")
        assert (await server.get("/short")).body == b"short"
        server.open_streams.break_off()
        received, _ = await client.rest()
        await asyncio.wait_for(server.open_streams.ended(), 1)
    response = Response.parsed(received)
    assert (response.body, response.whole) == (b"onetwo", False)
    assert access_log.endings == [("complete", 5), ("drained", 6)]


@pytest.mark.gen_test
async def test_a_source_that_is_being_entered_is_broken_off(tmp_path: Path, access_log: AccessLog) -> None:
    """It counts as open: the server does not close beneath it what it needs."""
    entering = asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncGenerator[Body, None]:
        entering.set()
        await asyncio.sleep(60)
        yield Body(Facts("text/plain"), endless)

    async with (
        serving(tmp_path, scan=False, routes=[source_route("/s", slow)]) as server,
        server.connect(request("/s")) as client,
    ):
        await entering.wait()
        server.open_streams.drain()
        await asyncio.sleep(0)
        assert len(server.open_streams) == 1
        server.open_streams.break_off()
        received, _ = await client.rest()
    assert received == b""
    assert access_log.endings == [("drained", 0)]


@pytest.mark.gen_test
async def test_draining_waits_for_what_is_in_flight(
    tmp_path: Path, access_log: AccessLog, script: Script
) -> None:
    """A stream counts as open until its last words are with the kernel."""
    large = os.urandom(12 * MIB)
    routes = [chunks_route("/s", script.chunks, "text/event-stream", live=True)]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s", connection="close"), receive_bytes=65536) as client,
    ):
        script.put(large)
        await client.read(100)
        server.open_streams.drain()
        await asyncio.wait_for(script.closed.wait(), 1)
        await asyncio.sleep(0.05)
        assert len(server.open_streams) == 1
        received, _ = await client.rest()
    response = Response.parsed(received)
    assert response.whole
    assert response.body.startswith(large + b"retry: ")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_last_words_are_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access_log: AccessLog, script: Script
) -> None:
    """A client that does not take them keeps nobody from shutting down."""
    monkeypatch.setattr(pump, "CLEANUP_SECONDS", 0.1)
    routes = [chunks_route("/s", script.chunks, "text/event-stream", live=True)]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s"), receive_bytes=8192) as client,
    ):
        script.put(bytes(12 * MIB))
        await client.read(100)
        server.open_streams.drain()
        await asyncio.wait_for(server.open_streams.ended(), 1)
        await eventually(lambda: access_log.endings)
    assert access_log.endings[0][0] == "drained"


@pytest.mark.gen_test
async def test_a_source_that_begins_the_drain_itself(tmp_path: Path, access_log: AccessLog) -> None:
    """The cancellation comes where the task waits, and never in what it does afterwards.

    What was made before that is sent.
    """
    servers: list[Server] = []
    left: list[str] = []

    @asynccontextmanager
    async def source() -> AsyncGenerator[Body, None]:
        async def chunks() -> Chunks:
            yield b"first"
            servers[0].open_streams.drain()
            yield b"second"

        yield Body(Facts("text/plain", live=True), chunks)
        await asyncio.sleep(0.01)
        left.append("in order")

    async with serving(tmp_path, scan=False, routes=[source_route("/s", source)]) as server:
        servers.append(server)
        response = await server.get("/s")
        await asyncio.wait_for(server.open_streams.ended(), 1)
    assert (response.body, response.whole) == (b"firstsecond", True)
    assert left == ["in order"]
    assert access_log.endings == [("drained", 11)]


def test_outcomes_have_the_names_of_the_contract() -> None:
    """As the log and the metrics show them."""
    assert list(Outcome) == ["complete", "disconnected", "stalled", "behind", "drained", "failed"]


# --- fairness ---


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_tight_producer_starves_nobody(tmp_path: Path) -> None:
    """Beside four that never await, and clients that take all they can, others are answered."""
    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", endless)]) as server:

        async def read_on() -> int:
            length = 0
            async with server.connect(request("/s")) as client:
                while more := await asyncio.get_running_loop().sock_recv(client.socket, MIB):
                    length += len(more)
                    lengths[asyncio.current_task()] = length
            return length

        lengths: dict[object, int] = {}
        readers = [asyncio.create_task(read_on()) for _ in range(4)]
        await eventually(lambda: len(lengths) == 4)
        for _ in range(10):
            began = time.process_time()  # the wait is our own work; what other programs do is not
            assert (await server.get("/healthz")).status == 200
            assert time.process_time() - began < 0.5
        assert min(lengths.values()) > max(lengths.values()) / 20
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


# --- HTTP ---


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.gen_test
async def test_a_body_to_an_old_client_ends_with_the_connection(
    tmp_path: Path, access_log: AccessLog, connection: str
) -> None:
    """HTTP/1.0 knows no chunks: whatever it asks for, the end of the body is the end of the connection."""
    routes = [chunks_route("/s", one_by_one(b"one\n", b"two\n", pause_seconds=0.01))]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.exchange(request("/s", version="1.0", connection=connection))
    assert (response.status, response.body, response.reset) == (200, b"one\ntwo\n", False)
    assert "Transfer-Encoding" not in response.headers
    assert response.headers.get("Connection", "close") == "close"
    assert access_log.endings == [("complete", 8)]


@pytest.mark.gen_test
async def test_a_broken_body_to_an_old_client_is_a_reset(tmp_path: Path, expect_log: ExpectLog) -> None:
    """An end would look like success."""
    expect_log("millrace.serve", 40, "RuntimeError")
    routes = [chunks_route("/s", failing(RuntimeError(), b"one\n", pause_seconds=0.05))]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.exchange(request("/s", version="1.0"))
    assert (response.body, response.reset) == (b"one\n", True)


@pytest.mark.gen_test
async def test_a_broken_body_of_known_length_to_an_old_client_is_short(
    tmp_path: Path, expect_log: ExpectLog
) -> None:
    """It can count, and what was sent still arrives."""
    expect_log("millrace.serve", 40, "RuntimeError")
    routes = [chunks_route("/s", failing(RuntimeError(), b"one\n"), length=100)]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.exchange(request("/s", version="1.0"))
    assert (response.body, response.whole, response.reset) == (b"one\n", False, False)


@pytest.mark.gen_test
async def test_an_old_client_keeps_its_connection_over_a_known_length(tmp_path: Path) -> None:
    """Two requests of HTTP/1.0 with keep-alive, one after the other."""
    routes = [chunks_route("/s", one_by_one(b"one\n"), length=4)]
    asked = request("/s", version="1.0", connection="keep-alive")
    async with serving(tmp_path, scan=False, routes=routes) as server, server.connect(asked) as client:
        await client.until(b"one\n")
        await client.send(request("/s", version="1.0"))
        received, _ = await client.rest()
    first, second = Response.all(received, ["GET", "GET"])
    assert (first.body, second.body) == (b"one\n", b"one\n")
    assert first.headers["Connection"] == "Keep-Alive"


@pytest.mark.parametrize(
    "methods", [["GET", "GET"], ["GET", "HEAD", "OPTIONS", "GET", "GET"]], ids=["two", "five"]
)
@pytest.mark.gen_test
async def test_requests_in_one_packet(tmp_path: Path, methods: list[str]) -> None:
    """They are answered in their order, each whole, streams among them."""
    routes = [chunks_route("/s", one_by_one(b"one\n", b"two\n", pause_seconds=0.01))]
    asked = [request("/s", method) for method in methods] + [request("/healthz", connection="close")]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(b"".join(asked)) as client,
    ):
        received, _ = await client.rest()
    *responses, last = Response.all(received, [*methods, "GET"])
    for method, response in zip(methods, responses, strict=True):
        assert response.whole
        assert response.status == (204 if method == "OPTIONS" else 200)
        assert response.body == (b"one\ntwo\n" if method == "GET" else b"")
    assert last.body == b"ok\n"


@pytest.mark.gen_test
async def test_a_connection_goes_on_behind_a_stream(tmp_path: Path) -> None:
    """A stream that has ended leaves its connection to the next request."""
    routes = [chunks_route("/s", one_by_one(b"one\n", b"two\n", pause_seconds=0.01))]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s")) as client,
    ):
        await client.until(b"0\r\n\r\n")
        await client.send(request("/stream", "HEAD") + request("/s", connection="close"))
        received, _ = await client.rest()
    assert [response.body for response in Response.all(received, ["GET", "HEAD", "GET"])] == [
        b"one\ntwo\n",
        b"",
        b"one\ntwo\n",
    ]


@pytest.mark.gen_test
async def test_a_head_says_nothing_of_an_unknown_length(tmp_path: Path, script: Script) -> None:
    """A length of 0 would be a lie (RFC 9110 §8.6); the source is not started."""
    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", script.chunks)]) as server:
        response = await server.get("/s", "HEAD")
    assert (response.status, response.whole) == (200, True)
    assert "Content-Length" not in response.headers
    assert not script.started.is_set()


@pytest.mark.gen_test
async def test_a_last_write_that_fails_is_no_complete_response(tmp_path: Path, access_log: AccessLog) -> None:
    """The client left without the loop having had a turn to notice."""
    clients: list[Client] = []

    async def chunks() -> Chunks:
        yield b"first"
        await eventually(lambda: clients)
        yield b"second"  # the wait was long: the loop gets a turn here
        clients[0].reset()
        yield bytes(100_000)

    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks)]) as server,
        server.connect(request("/s")) as client,
    ):
        await client.until(b"first")
        clients.append(client)
        await eventually(lambda: access_log.endings)
    assert access_log.endings[0][0] == "disconnected"


@pytest.mark.gen_test
async def test_a_failure_that_leaves_nothing_to_send(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """What was gathered cannot be sent either: the first failure is the one in the log."""
    expect_log("millrace.serve", 40, "RuntimeError: first")

    async def chunks() -> Chunks:
        yield bytes(100_000)
        yield "text"  # type: ignore[misc]
        raise RuntimeError("first")

    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks)]) as server:
        response = await server.get("/s")
        await eventually(lambda: access_log.endings)
    assert (response.body, response.whole) == (bytes(100_000), False)
    assert access_log.endings == [("failed", 100_000)]


@pytest.mark.parametrize("before", [(), (b"before",)], ids=["first", "later"])
@pytest.mark.gen_test
async def test_chunks_that_cannot_be_joined(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog, before: tuple[bytes, ...]
) -> None:
    """What the loop finds out while it sends what is gathered is a failure of the body, not a gap in it."""
    expect_log("millrace.serve" if before else "millrace", 40, "TypeError")

    async def chunks() -> Chunks:
        for chunk in before:
            yield chunk
            await asyncio.sleep(0)
        yield "two "  # type: ignore[misc]
        yield "texts"  # type: ignore[misc]
        await asyncio.sleep(60)

    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks)]) as server:
        response = await server.get("/s")
        await eventually(lambda: access_log.endings)
    assert (response.status, response.whole) == ((200, False) if before else (500, True))


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_stream_over_a_socket_that_is_not_tcp(tmp_path: Path, script: Script) -> None:
    """Behind a proxy on the same machine: heartbeats go on, and a client that leaves is noticed."""
    delivery = Delivery(QUICK, OpenStreams())
    path, handler, arguments = chunks_route("/s", script.chunks, heartbeat=b"~")
    app = Application([(path, handler, {**arguments, "delivery": delivery})], log_function=id)
    server = httpserver.Server(app, repeats=delivery.repeats, limits=QUICK)
    listening = bind_unix_socket(str(tmp_path / "socket"))
    server.add_socket(listening)
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
    writer.write(request("/s"))
    script.put(b"first")
    await reader.readuntil(b"first")
    await reader.readuntil(b"~")
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(script.closed.wait(), 1)
    server.stop()
    await server.close_all_connections()
    await delivery.open_streams.ended()


# --- what many follow ---


@pytest.fixture
def published() -> Channel:
    """A channel that only the test knows."""
    return Channel()


@pytest.mark.parametrize("length", [0, 1, 20_000, 3 * MIB])
@pytest.mark.gen_test
async def test_an_opening_of_any_length_comes_first(
    tmp_path: Path, access_log: AccessLog, published: Channel, length: int
) -> None:
    """With the headers, at once; what was published meanwhile follows it."""
    opening = os.urandom(length)
    routes = [feed_route("/s", Events((published,), "text"), opening)]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s", connection="close"), receive_bytes=65536) as client,
    ):
        await eventually(lambda: len(server.open_streams) == 1)
        await asyncio.sleep(0)
        published.publish(b"behind it")
        await client.until(b"behind it")
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
    assert response.whole
    assert response.body == opening + b"behind it\n"
    assert access_log.endings == [("drained", length + len(b"behind it\n"))]


@pytest.mark.gen_test
async def test_the_first_byte_of_a_silent_feed_are_its_headers(
    tmp_path: Path, access_log: AccessLog, published: Channel
) -> None:
    """In the log it would else be the end, hours later."""
    routes = [feed_route("/s", Events((published,), "text"))]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        async with server.connect(request("/s")) as client:
            await client.until(b"\r\n\r\n")
            await asyncio.sleep(0.2)
        await eventually(lambda: access_log.lines)
    found = re.search(r"first ([0-9.]+) ms total ([0-9.]+) ms", access_log.lines[0])
    assert found is not None
    assert float(found[1]) + 150 < float(found[2])


@pytest.mark.gen_test
async def test_an_opening_that_cannot_be_sent_is_no_complete_response(
    tmp_path: Path, access_log: AccessLog, published: Channel
) -> None:
    """The client has reset the connection, and the loop has had no turn to notice."""
    clients: list[Client] = []

    @asynccontextmanager
    async def make() -> AsyncGenerator[Body, None]:
        feed = Events((published,), "text")
        following = Following(feed, feed.newest, b"opening")
        await eventually(lambda: clients)
        clients[0].reset()
        yield Body(Facts("text/plain", live=True), following.chunks, following=following)

    async with (
        serving(tmp_path, scan=False, routes=[source_route("/s", make)]) as server,
        server.connect(request("/s")) as client,
    ):
        clients.append(client)
        await eventually(lambda: access_log.endings)
    assert access_log.endings == [("disconnected", len(b"opening"))]


@pytest.mark.parametrize("end", ["drain", "break_off"])
@pytest.mark.gen_test
async def test_how_a_server_ends_who_follows(
    tmp_path: Path, access_log: AccessLog, published: Channel, end: str
) -> None:
    """An endless body is whole wherever it ends."""
    routes = [feed_route("/s", Events((published,), "text"), b"opening")]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s", connection="close")) as client,
    ):
        await client.until(b"opening")
        getattr(server.open_streams, end)()
        received, _ = await client.rest()
        await asyncio.wait_for(server.open_streams.ended(), 1)
        assert published._watchers == {}
    assert Response.parsed(received).body == b"opening"
    assert Response.parsed(received).whole
    assert access_log.endings[0][0] == "drained"
