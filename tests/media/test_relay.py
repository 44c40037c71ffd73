"""Another server's response, passed on: how it ends, how fast it comes, and who shares it."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from media.relay import relay
from tests.conftest import AccessLog, ExpectLog
from tests.media.relaying import CHUNKED, OK, SSE, broken, in_turn, refused, relaying
from tests.media.upstreams import (
    Answer,
    Exchange,
    reset_after,
    saying,
    silent_after,
)
from tests.serving import Response, eventually, request

# --- endings ---

ENDINGS: Mapping[str, tuple[Answer, bytes]] = {
    "short_of_its_length": (saying(OK + b"Content-Length: 9\r\n\r\n", b"part"), b"part"),
    "reset_before_its_length": (reset_after(OK + b"Content-Length: 9\r\n\r\n", b"part"), b"part"),
    "no_last_chunk": (saying(CHUNKED, b"4\r\npart\r\n"), b"part"),
    "in_a_chunk": (saying(CHUNKED, b"9\r\npart"), b"part"),
    "in_a_chunk_size": (saying(CHUNKED, b"4\r\npart\r\n1"), b"part"),
    "no_end_of_trailers": (saying(CHUNKED, b"4\r\npart\r\n0\r\n"), b"part"),
    "malformed_chunk": (saying(CHUNKED, b"4\r\npart\r\nxyz\r\n"), b"part"),
    "reset_between_chunks": (reset_after(CHUNKED, b"4\r\npart\r\n"), b"part"),
    "reset_without_framing": (reset_after(OK + b"\r\n", b"part"), b"part"),
    "reset_events": (reset_after(SSE, b"data: pa"), b"data: pa"),
    "idle": (silent_after(OK + b"Content-Length: 9\r\n\r\n", b"part"), b"part"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.gen_test
async def test_what_breaks_off_there_breaks_off_here(
    name: str, version: str, tmp_path: Path, expect_log: ExpectLog, access_log: AccessLog
) -> None:
    """In every framing, and nothing of ours stands behind it. What came before arrives, but for a reset."""
    broken(expect_log, "broke off")
    answer, body = ENDINGS[name]
    async with relaying(tmp_path, answer, idle_seconds=0.3) as (server, there):
        received = await server.exchange(request("/stream/r", version=version, connection="close"))
        await eventually(lambda: there.open == 0)
        await eventually(lambda: len(access_log))
    assert (received.status, received.whole) == (200, False)
    assert received.body == body or (received.reset and body.startswith(received.body))
    assert received.reset == (version == "1.0" and "Content-Length" not in received.headers)
    assert [outcome for outcome, _ in access_log.endings] == ["failed"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("said", [
    (OK + b"Content-Length: 5\r\n\r\n", b"whole"),
    (CHUNKED, b"5\r\nwhole\r\n0\r\nX-Sum: 1\r\n\r\n"), (OK + b"\r\n", b"whole"),
    (b"HTTP/1.0 200 OK\r\n\r\n", b"whole"), (OK + b"Content-Length: 5\r\n\r\n", b"whole and more"),
], ids=["length", "chunks", "close", "1.0", "more"])  # fmt: skip
@pytest.mark.gen_test
async def test_what_is_whole_there_is_whole_here(
    said: tuple[bytes, ...], version: str, tmp_path: Path
) -> None:
    """In every framing."""
    async with relaying(tmp_path, saying(*said)) as (server, there):
        received = await server.exchange(request("/stream/r", version=version, connection="close"))
        await eventually(lambda: there.open == 0)
    assert (received.status, received.body, received.whole) == (200, b"whole", True)


@pytest.mark.slow
@pytest.mark.gen_test
async def test_events_may_be_silent(tmp_path: Path) -> None:
    """No idle limit for them, nor a heartbeat of ours: they are someone else's bytes."""

    async def answer(exchange: Exchange) -> None:
        await exchange.say(SSE, b"data: par")
        await asyncio.sleep(1)
        await exchange.say(b"t\n\n")

    async with relaying(tmp_path, answer, idle_seconds=0.1) as (server, _):
        response = await server.get("/stream/r")
    assert (response.body, response.whole) == (b"data: part\n\n", True)


# --- as it comes, and no faster than it is taken ---


@pytest.mark.gen_test
async def test_each_piece_arrives_as_it_comes(tmp_path: Path) -> None:
    """The other server does not say the next before the client has the last."""
    taken = asyncio.Queue[None]()

    async def answer(exchange: Exchange) -> None:
        await exchange.say(SSE)
        for number in range(5):
            await exchange.say(b"data: %d\n\n" % number)
            await taken.get()

    async with relaying(tmp_path, answer) as (server, _), server.connect(request("/stream/r")) as client:
        for number in range(5):
            await client.until(b"data: %d\n\n" % number)
            taken.put_nowait(None)
        assert b"\r\n0\r\n\r\n" in await client.until(b"0\r\n\r\n")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_slow_client_slows_the_other_server(tmp_path: Path) -> None:
    """What it does not take stays in the kernels' buffers."""
    said = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal said
        exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await exchange.say(OK + b"Content-Length: 1000000000\r\n\r\n")
        while True:
            await exchange.say(bytes(65536))
            said += 65536

    async with relaying(tmp_path, answer) as (server, there):
        async with server.connect(request("/stream/r"), receive_bytes=16384) as client:
            await client.until(b"\r\n\r\n")
            before = -1
            while before != said:  # until the buffers are full
                before = said
                await asyncio.sleep(0.5)
            assert said < 32_000_000
            for _ in range(200):
                await client.read()
            await eventually(lambda: said > before)
        assert await eventually(lambda: there.open == 0) < 3


# --- shared: one connection for all clients ---


RETRY = b"retry: 1\n\n"  # 0.1 s, which is the least
NDJSON = OK + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def said_in(received: bytes) -> list[tuple[str, str]]:
    """The name and the data of each event, without those that only say where the stream stands."""
    body = Response.parsed(received).body.decode()
    found = []
    for event in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
        if "data" in fields:
            found.append((fields.get("event", ""), fields["data"]))
    return found


SHARED: Mapping[str, tuple[tuple[Answer, ...], list[tuple[str, str]], list[str | None]]] = {
    "one_connection": (
        (silent_after(SSE, b"id: 1\ndata: a\n\nevent: add\ndata: last\n\n"),),
        [("", "a"), ("add", "last")],
        [None],
    ),
    "goes_on_behind_the_last_id": (
        (
            saying(SSE, RETRY, b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"),
            silent_after(SSE, b"id: 3\ndata: last\n\n"),
        ),
        [("", "a"), ("", "b"), ("", "last")],
        [None, "2"],
    ),
    "half_an_event_is_none": (
        (
            reset_after(SSE, RETRY, b"id: 1\ndata: a\n\nid: 2\ndata: b"),
            silent_after(SSE, b"id: 2\ndata: last\n\n"),
        ),
        [("", "a"), ("", "last")],
        [None, "1"],
    ),
    "no_ids": (
        (saying(SSE, RETRY, b"data: a\n\n"), silent_after(SSE, b"data: last\n\n")),
        [("", "a"), ("gap", "{}"), ("", "last")],
        [None, None],
    ),
    "an_id_that_a_header_can_have": (
        (saying(SSE, RETRY, b"id: a\t\xe2\x80\x8b\ndata: a\n\n"), silent_after(SSE, b"data: last\n\n")),
        [("", "a"), ("", "last")],
        [None, "a\t\u200b".encode().decode("latin-1")],
    ),
    **{
        f"an_id_that_no_header_can_have_{name}": (
            (saying(SSE, RETRY, b"id: " + last_id + b"\ndata: a\n\n"), silent_after(SSE, b"data: last\n\n")),
            [("", "a"), ("gap", "{}"), ("", "last")],
            [None, None],
        )
        for name, last_id in (("control", b"a\x01b"), ("space", b" a"), ("long", b"a" * 4097))
    },
    "it_says_the_gap": (
        (
            saying(SSE, RETRY, b"id: 1\ndata: a\n\n"),
            silent_after(SSE, b'id: 7\nevent: gap\ndata: {"x":1}\n\ndata: last\n\n'),
        ),
        [("", "a"), ("gap", "{}"), ("", "last")],
        [None, "1"],
    ),
    "down_for_a_while": (
        (
            saying(SSE, RETRY, b"id: 1\ndata: a\n\n"),
            saying(),
            saying(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"),
            silent_after(SSE, b"data: last\n\n"),
        ),
        [("", "a"), ("", "last")],
        [None, "1", "1", "1"],
    ),
    "no_content_is_the_end": (
        (saying(SSE, RETRY, b"id: 1\ndata: a\n\n"), saying(b"HTTP/1.1 204 X\r\n\r\n")),
        [("", "a"), ("end", "{}")],
        [None, "1"],
    ),
    "a_millrace_ends": (
        (saying(SSE, b"id: 1\ndata: a\n\nevent: end\nid: (end)\ndata: {}\n\n"),),
        [("", "a"), ("end", "{}")],
        [None],
    ),
    "an_end_of_its_own": (
        (silent_after(SSE, b"event: end\ndata: a\n\ndata: last\n\n"),),
        [("upstream-end", "a"), ("", "last")],
        [None],
    ),
    "lines": (
        (
            saying(
                NDJSON, chunk(b'{"n":123456789012345678901}\n\n['), chunk(b"1]\n"), chunk(b"2"), b"0\r\n\r\n"
            ),
        ),
        [("", '{"n":123456789012345678901}'), ("", "[1]"), ("", "2"), ("end", "{}")],
        [None],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.gen_test
async def test_what_is_shared_comes_to_all(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over one connection, made anew when it breaks; the clients stay."""
    answers, expected, ids = SHARED[name]
    async with relaying(tmp_path, in_turn(*answers), shared=True) as (server, there):
        asked = request("/stream/r", accept="text/event-stream", connection="close")
        again = request("/stream/r", accept="text/event-stream", last_event_id="earliest")
        async with server.connect(asked) as first, server.connect() as second:
            await first.until(expected[0][1].encode())
            if expected[-1][1] == "last":
                await second.send(again)
                received = [await client.until(b"data: last\n\n") for client in (first, second)]
            else:
                received = [(await first.rest())[0]]
        for each in received:
            told = said_in(each)
            assert [(event, "{}" if event == "gap" else data) for event, data in told] == expected
        assert [exchange.headers.get("last-event-id") for exchange in there.asked] == ids
        assert {exchange.headers["accept-encoding"] for exchange in there.asked} == {"identity"}
    assert there.open == 0
    assert "Traceback" not in caplog.text


@pytest.mark.slow
@pytest.mark.gen_test
async def test_lines_that_break_off_have_a_gap(tmp_path: Path, expect_log: ExpectLog) -> None:
    """They have no ids: what is missing is not known."""
    expect_log("millrace.relay", logging.WARNING, "it is asked again")
    answers = in_turn(saying(NDJSON, chunk(b"1\n2")), silent_after(NDJSON, chunk(b"3\n")))
    async with (
        relaying(tmp_path, answers, shared=True) as (server, _),
        server.connect(request("/stream/r", accept="application/x-ndjson")) as client,
    ):
        received = await client.until(b'"data":3')
    assert received.index(b'"data":1') < received.index(b'"gap"') < received.index(b'"data":3')
    assert b'"data":2' not in received


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Type: text/html\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
    ],
    ids=["nothing", "404", "page", "coded"],
)
@pytest.mark.gen_test
async def test_what_cannot_be_shared_is_502(said: bytes, tmp_path: Path, expect_log: ExpectLog) -> None:
    """At the start; and it is asked once."""
    refused(expect_log, " 502: ")
    async with relaying(tmp_path, saying(said), shared=True) as (server, there):
        assert (await server.get("/stream/r")).status == 502
        assert len(there.asked) == 1


@pytest.mark.gen_test
async def test_one_connection_for_each_value_of_a_parameter(tmp_path: Path) -> None:
    """Which has to be given."""
    async with relaying(tmp_path, silent_after(SSE, b"data: a\n\n"), shared=True, args=["city"]) as (
        server,
        there,
    ):
        async with (
            server.connect(request("/stream/r?city=a")) as one,
            server.connect(request("/stream/r?city=a")) as same,
            server.connect(request("/stream/r?city=b")) as other,
        ):
            await one.until(b"data: a")
            await other.until(b"data: a")
            await same.until(b"\r\n\r\n")
            assert sorted(exchange.line for exchange in there.asked) == [
                "GET /?city=a HTTP/1.1", "GET /?city=b HTTP/1.1",
            ]  # fmt: skip
        assert (await server.get("/stream/r")).status == 400
    assert there.open == 0


# --- whoever leaves ---


@pytest.mark.parametrize("said", [(), (OK,), (OK + b"Content-Length: 9\r\n\r\n",), (SSE, b"data: 1\n\n")])
@pytest.mark.gen_test
async def test_a_client_that_leaves_ends_the_connection_there(
    said: tuple[bytes, ...], tmp_path: Path, access_log: AccessLog
) -> None:
    """Within a second, also while nothing comes, and before there are headers."""
    async with relaying(tmp_path, silent_after(*said)) as (server, there):
        async with server.connect(request("/stream/r")) as client:
            await eventually(lambda: there.asked)
            client.close()
        assert await eventually(lambda: there.open == 0) < 3
        await eventually(lambda: len(access_log))
    assert [outcome for outcome, _ in access_log.endings] == ["disconnected"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.gen_test
async def test_draining_ends_events_regularly(version: str, tmp_path: Path) -> None:
    """As far as they go; and no word of ours is put behind half an event."""
    async with relaying(tmp_path, silent_after(SSE, b"data: 1\n\ndata: 2")) as (server, there):
        asked = request("/stream/r", version=version, connection="close")
        async with server.connect(asked) as client:
            await client.until(b"data: 2")
            server.open_streams.drain()
            received, reset = await client.rest()
        await eventually(lambda: there.open == 0)
    assert not reset
    assert received.endswith(b"data: 2" if version == "1.0" else b"data: 2\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n",
        b"Content-Type: text/event-stream\r\nContent-Length: 9\r\n",
    ],
    ids=["plain", "coded", "length"],
)
@pytest.mark.gen_test
async def test_draining_leaves_what_has_an_end_of_its_own(head: bytes, tmp_path: Path) -> None:
    """It would not be whole: it may go on, and is broken off in the end."""
    async with (
        relaying(tmp_path, silent_after(OK + head + b"\r\n", b"part")) as (server, _),
        server.connect(request("/stream/r")) as client,
    ):
        await client.until(b"part")
        server.open_streams.drain()
        await asyncio.sleep(0.05)
        assert len(server.open_streams) == 1
        server.open_streams.break_off()
        received, _ = await client.rest()
    assert received.rpartition(b"part")[2] in (b"", b"\r\n")


@pytest.mark.gen_test
async def test_what_the_table_calls_live_is_drained(tmp_path: Path) -> None:
    """A radio station, say."""
    radio = silent_after(OK + b"Content-Type: audio/mpeg\r\n\r\n", b"sound")
    async with (
        relaying(tmp_path, radio, live=True, idle_seconds=0.01) as (server, _),
        server.connect(request("/stream/r", connection="close")) as client,
    ):
        await client.until(b"sound")
        server.open_streams.drain()
        received, _ = await client.rest()
    assert received.endswith(b"sound\r\n0\r\n\r\n")


def test_a_row_says_where_it_comes_from() -> None:
    """Where it has no title: without path or query, that may hold a key."""
    assert relay("https://example.org/a?key=1").title == "What example.org sends"
    assert relay("https://example.org/", title="Weather").title == "Weather"
