"""/text?follow=1 and ?tail=N through a real server: what is sent, and how each response ends."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from handlers.limits import Limits
from media import window
from media.channel import Channel, History
from media.events import Events
from media.growing import growing_files
from media.source import Body, ByteChunks, Cursor, Facts, Following
from tests.conftest import AccessLog
from tests.media.following import append, following, move, numbered, rewrite
from tests.media.test_records import events_of
from tests.serving import Response, eventually, request, serving, source_route

TEXTS = {
    "log": b"one\ntwo\nthree\n",
    "unfinished": b"one\ntwo\nthree",
    "empty": b"",
    "marked": b"\xef\xbb\xbfone\r\ntwo\r\n",
    "korean": "바람이 불어오는 곳\n강물 위에 달빛이\n그곳으로 가네".encode("cp949"),
    "wide": "바람\n곳\n".encode("utf-16"),
    "binary": bytes(range(32)) * 100,
    "song.mp3": b"ID3",
    ".hidden": b"hidden\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Some texts, and what is none."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    (folder / "out").symlink_to("/etc/passwd")
    return folder


def asked(target: str, version: str = "1.1", **headers: str) -> bytes:
    return request(f"/text/{target}", version=version, connection="close", **headers)


def lines_of(body: bytes) -> list[str]:
    return [event.data for event in events_of(body) if event.event == "message"]


# --- the last lines of a text that is not followed ---


@pytest.mark.parametrize(("target", "body"), [
    ("log?tail=2", "two\nthree\n"), ("log?tail=0", ""), ("log?tail=3", "one\ntwo\nthree\n"),
    ("log?tail=99", "one\ntwo\nthree\n"), ("unfinished?tail=1", "three"), ("unfinished?tail=2", "two\nthree"),
    ("unfinished?tail=0", ""), ("empty?tail=5", ""), ("marked?tail=1", "two\r\n"),
    ("log?tail=2&pace=0.001", "two\nthree\n"),
    ("korean?encoding=cp949&tail=1", "그곳으로 가네"),
    ("korean?encoding=cp949&tail=2", "강물 위에 달빛이\n그곳으로 가네"),
    ("korean?encoding=cp949&tail=9", "바람이 불어오는 곳\n강물 위에 달빛이\n그곳으로 가네"),
    ("korean?encoding=cp949&tail=0", ""), ("wide?tail=1", "곳\n"), ("wide?tail=2", "바람\n곳\n"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_the_last_lines(root: Path, target: str, body: str) -> None:
    """As text and as events, whose ids are those of the whole text."""
    async with serving(root, scan=False) as server:
        response = await server.get(f"/text/{target}")
        assert (response.status, response.body.decode(), response.whole) == (200, body, True)
        assert "Content-Length" not in response.headers
        events = events_of((await server.get(f"/text/{target}&format=sse")).body)
        all_events = events_of(
            (await server.get(re.sub("tail=[0-9]+", "format=sse", f"/text/{target}"))).body
        )
    assert [event.data for event in events[:-1]] == body.splitlines()
    assert events == all_events[len(all_events) - len(events) :]


@pytest.mark.gen_test
async def test_the_last_lines_of_a_long_text(root: Path) -> None:
    """Found from its end on, and where it is decoded from its beginning."""
    rewrite(root / "log", numbered(0, 100_000))
    rewrite(root / "wide", numbered(0, 30_000).encode("utf-16"))
    async with serving(root, scan=False) as server:
        for name, last in (("log", 100_000), ("wide", 30_000)):
            for lines in (1, 2000, 29_999):
                response = await server.get(f"/text/{name}?tail={lines}")
                assert response.body.decode() == numbered(last - lines, last)


@pytest.mark.gen_test
async def test_an_id_wins_over_the_last_lines(root: Path) -> None:
    """Who comes back goes on, and does not begin again."""
    async with serving(root, scan=False) as server:
        response = await server.get("/text/log?tail=0&format=sse", last_event_id="4")
        assert lines_of(response.body) == ["two", "three"]


# --- statuses ---


@pytest.mark.parametrize(("target", "status", "told"), [
    ("none?follow=1", 404, ""), ("out?follow=1", 404, ""), (".hidden?follow=1", 404, ""),
    ("binary?follow=1", 404, ""), ("song.mp3?follow=1", 404, ""), ("wide?follow=1", 400, "utf-16"),
    ("log?follow=1&encoding=utf-16", 400, "utf-16"), ("log?follow=1&pace=1", 400, "pace"),
    ("log?follow=1&tail=-1", 400, "tail"), ("log?tail=x", 400, "tail"), ("log?follow=2", 400, "follow"),
    ("log?follow=1&last_event_id=x", 400, "last_event_id"), ("log?follow=1&format=csv", 400, "format"),
    ("log?follow=1&heartbeat=x", 400, "heartbeat"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_what_cannot_be_followed(root: Path, target: str, status: int, told: str) -> None:
    """It is said before the first byte, and nothing is left open."""
    async with serving(root, scan=False) as server:
        response = await server.get(f"/text/{target}")
        assert response.status == status
        assert told in json.loads(response.body)["detail"]
        assert len(growing_files()) == 0


@pytest.mark.gen_test
async def test_head_starts_nothing(root: Path) -> None:
    """The headers are those of GET."""
    async with serving(root, scan=False) as server:
        response = await server.get("/text/log?follow=1&format=sse", "HEAD")
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        assert len(growing_files()) == 0


# --- following ---


@pytest.mark.parametrize(("query", "accept", "media_type"), [
    ("", "", "text/plain; charset=utf-8"), ("", "text/event-stream", "text/event-stream"),
    ("&format=ndjson", "", "application/x-ndjson"), ("&format=sse", "text/plain", "text/event-stream"),
])  # fmt: skip
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.gen_test
async def test_a_text_is_followed(
    root: Path, query: str, accept: str, media_type: str, version: str, access_log: AccessLog
) -> None:
    """From its beginning on, until the server drains: then the body is whole as far as it goes."""
    log = root / "log"
    async with (
        serving(root, scan=False) as server,
        server.connect(asked(f"log?follow=1{query}", version, accept=accept)) as client,
    ):
        await client.until(b"three")
        append(log, "four\n")
        await client.until(b"four")
        move(log)
        append(log, "new\n")
        await client.until(b"new")
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
        await eventually(lambda: len(access_log) == 1)
        assert len(growing_files()) == 0
    assert response.whole
    assert response.headers["Content-Type"] == media_type
    words = ["one", "two", "three", "four", "new"]
    if media_type == "text/event-stream":
        assert lines_of(response.body) == words
        assert response.body.count(b"event: rotated") == 1
        assert re.match(rb"retry: \d+\n\n", response.body)
        assert re.search(rb"\n\nretry: \d+\n\n$", response.body)
    elif media_type == "application/x-ndjson":
        lines = [json.loads(line) for line in response.body.splitlines()]
        assert [line["data"] for line in lines if line["event"] == "message"] == words
        assert [line["event"] for line in lines].count("rotated") == 1
    else:
        assert response.body.decode().split() == words
    assert access_log.endings == [("drained", len(response.body))]


@pytest.mark.gen_test
async def test_a_rotation_that_text_says_nothing_of_is_no_chunk(root: Path) -> None:
    """One of no bytes would be the end of the body, for all but the first."""
    log = root / "log"
    async with serving(root, scan=False) as server, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(server.connect(asked("log?follow=1&tail=1"))) for _ in range(3)
        ]
        for client in clients:
            await client.until(b"three")
        append(log, "four\n")
        for client in clients:
            await client.until(b"four")  # from one place on
        async with following(log, root=server.resources.root) as other:
            await other.until("four")
            move(log)
            append(log, "ne")
            await other.until("rotated")
        append(log, "w\n")
        for client in clients:
            await client.until(b"new")
        server.open_streams.drain()
        bodies = [Response.parsed((await client.rest())[0]) for client in clients]
    assert [(body.body, body.whole) for body in bodies] == [(b"three\nfour\nnew\n", True)] * 3


@pytest.mark.gen_test
async def test_a_silent_file_has_a_heartbeat(root: Path) -> None:
    """Also while one is waited for that is not read any further."""
    async with (
        serving(root, scan=False, limits=Limits(heartbeat_seconds=0.05)) as server,
        server.connect(asked("empty?follow=1&format=sse")) as events,
        server.connect(asked("log?follow=1&tail=0&heartbeat=0")) as text,
        server.connect(asked("log?follow=1&last_event_id=14&format=ndjson")) as ndjson,
    ):
        await events.until(b"\r\n:\n\r\n", 3)
        await ndjson.until(b"\r\n\n\r\n", 3)
        append(root / "log", "x\n")
        await text.until(b"x\n")
        assert text.received.endswith(b"\r\n\r\n2\r\nx\n\r\n")


@pytest.mark.gen_test
async def test_who_leaves_is_forgotten(root: Path, access_log: AccessLog) -> None:
    """Whether it is still being sent what there was, or follows."""
    rewrite(root / "long", numbered(0, 500_000))
    async with serving(root, scan=False) as server:
        async with server.connect(asked("long?follow=1"), receive_bytes=4096) as client:
            await client.until(b"000001")
            assert len(growing_files()) == 1
        async with server.connect(asked("log?follow=1")) as client:
            await client.until(b"three")
        await eventually(lambda: len(access_log) == 2)
        assert [outcome for outcome, _ in access_log.endings] == ["disconnected", "disconnected"]
        assert len(growing_files()) == 0


@pytest.mark.slow
@pytest.mark.gen_test
async def test_many_follow(root: Path) -> None:
    """Each of 200 sees each line once, wherever it began; it is read once."""
    log = root / "log"
    rewrite(log, numbered(0, 1000))
    async with serving(root, scan=False) as server, AsyncExitStack() as stack:
        clients = []
        for number in range(200):
            tail = 10 if number % 2 else 1000
            target = asked(f"log?follow=1&tail={tail}&format=sse")
            clients.append((tail, await stack.enter_async_context(server.connect(target))))
            if number % 20 == 0:
                append(log, numbered(1000 + number, 1020 + number))
        await asyncio.gather(*(client.until(b"001199 line\n\n") for _, client in clients))
        append(log, numbered(1200, 1300))
        await asyncio.gather(*(client.until(b"001299 line\n\n") for _, client in clients))
        growing = growing_files().hold(server.resources.root, "log")
        assert growing.read_bytes == 1300 * 12
        await growing_files().release(growing)
    for tail, client in clients:
        seen = [int(line) for line in re.findall(rb"data: (\d{6}) line\n", client.received)]
        assert seen == list(range(seen[0], 1300))
        assert 1300 - seen[0] >= tail


@pytest.mark.slow
@pytest.mark.gen_test
async def test_who_is_slow_beside_others_resumes(
    root: Path, access_log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is let go, and has every line once all the same; one that is slow and alone is not."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 300_000)
    monkeypatch.setattr(window, "AHEAD_BYTES", 100_000)
    log, last = root / "log", 400_000
    rewrite(log, numbered(0, 10))
    async with serving(root, scan=False) as server:
        slow = asked("log?follow=1&format=sse")
        async with server.connect(slow, receive_bytes=4096) as client:
            await client.until(b"000009")
            async with following(log, root=server.resources.root) as quick:
                append(log, numbered(10, last))
                await quick.until(f"{last - 1:06d} line\n")
                await eventually(lambda: len(access_log) == 1, 20)
                assert access_log.endings[0][0] == "behind"
                received, _ = await client.rest()
        *_, body = received.partition(b"\r\n\r\n")
        text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", b"\r\n" + body)
        whole = text[: text.rindex(b"\n\n") + 2]
        events = events_of(whole)
        async with server.connect(asked("log?follow=1&format=sse", last_event_id=events[-1].id)) as again:
            await again.until(f"{last - 1:06d} line\n\n".encode())
            server.open_streams.drain()
            rest = Response.parsed((await again.rest())[0])
    seen = [int(line[:6]) for line in (*lines_of(whole), *lines_of(rest.body))]
    assert seen == list(range(last))


@pytest.mark.gen_test
async def test_at_a_limited_rate(root: Path) -> None:
    """It is sent by itself, and sees the same."""
    async with (
        serving(root, scan=False, rate_limit=1_000_000) as server,
        server.connect(asked("log?follow=1&format=sse&tail=2")) as client,
    ):
        await client.until(b"three")
        append(root / "log", "four\n")
        await client.until(b"four")
        server.open_streams.drain()
        assert lines_of(Response.parsed((await client.rest())[0]).body) == ["two", "three", "four"]


# --- what a client is sent of its own, of any feed ---


class Missed:
    """What precedes a feed: it is called again where others were quicker meanwhile."""

    def __init__(self, channel: Channel, times: int) -> None:
        self.channel, self.times = channel, times
        self.cursor: Cursor = (0,)

    async def chunks(self) -> ByteChunks:
        self.times -= 1
        yield b"missed\n"
        self.cursor = (self.channel.newest,)
        if self.times:
            for _ in range(3):
                self.channel.publish(b"lost")


@pytest.mark.gen_test
async def test_what_a_client_is_sent_first_goes_on_until_the_feed_keeps_its_place(tmp_path: Path) -> None:
    """Then it is sent what all are."""
    published = Channel(lag_bytes=1, history=History(0))
    feed = Events((published,), "text")

    @asynccontextmanager
    async def make() -> AsyncGenerator[Body, None]:
        following = Following(feed, (0,), b"opening\n", first=Missed(published, times=3))
        yield Body(Facts("text/plain", live=True), following.chunks, following=following)

    async with (
        serving(tmp_path, scan=False, routes=[source_route("/first", make)]) as server,
        server.connect(request("/first", connection="close")) as client,
    ):
        await client.until(b"missed", 3)
        await eventually(lambda: server.resources.delivery.open_streams)
        await asyncio.sleep(0.02)
        published.publish(b"news")
        await client.until(b"news")
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
    assert response.body == b"opening\nmissed\nmissed\nmissed\nnews\n"
