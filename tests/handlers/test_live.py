"""Listeners of live audio: what they are sent, how it ends, and what is playing."""

import json
from pathlib import Path

import pytest

from handlers.cors import Cors
from handlers.limits import Limits
from media.icy import IcyBlocks
from media.live import Playing
from media.pieces import Piece
from tests.conftest import AccessLog
from tests.serving import Client, Response, Server, eventually, request, serving

TARGET = "/audio/live/radio"
NEWS = f"{TARGET}.json"


def send(server: Server, data: bytes, seconds: float = 1, media_type: str = "audio/mpeg") -> None:
    """Have a live source send this, as one stretch."""
    mounts = server.resources.mounts
    sessions = [mount.session for mount in mounts if mount.session is not None]
    session = sessions[0] if sessions else mounts.claim("radio", "live", media_type)
    session.play([Piece(data, seconds)])


def over(server: Server) -> None:
    """The source and its listeners end."""
    mount = server.resources.mounts.get("radio")
    if mount.session is not None:
        mount.session.close()
    mount.end()


def listeners(server: Server) -> object:
    """As the mounts' list says."""
    return server.resources.mounts.get("radio").listeners


async def body(client: Client) -> bytes:
    """What has come behind the header so far."""
    return (await client.until(b"\r\n\r\n")).partition(b"\r\n\r\n")[2]


# --- what listeners get ---


@pytest.mark.parametrize(
    ("version", "icy", "chunked", "closes", "titles"),
    [
        ("1.1", None, True, False, False),
        ("1.1", "0", False, True, False),
        ("1.1", "1", False, True, True),
        ("1.0", None, False, False, False),
        ("1.0", "1", False, True, True),
    ],
)
@pytest.mark.gen_test
async def test_listeners(
    tmp_path: Path, version: str, icy: str | None, chunked: bool, closes: bool, titles: bool
) -> None:
    """A browser gets chunks, a radio bytes as they are, and titles only if it asks; all end as whole."""
    async with serving(tmp_path, scan=False) as server:
        send(server, b"a" * 20_000)
        server.resources.mounts.get("radio").play(Playing("One"))
        asks = {"icy_metadata": icy} if icy else {}
        async with server.connect(request(TARGET, version=version, **asks)) as client:
            await client.until(b"aaaa")
            assert listeners(server) == 1
            send(server, b"b" * 100)
            await client.until(b"bbbb")
            over(server)
            if chunked:
                await client.until(b"\r\n0\r\n\r\n")
                client.close()
                answer = Response.parsed(client.received)
            else:
                received, reset = await client.rest()
                answer = Response.parsed(received, reset=reset)
                # Old radios look for these very letters; Tornado alone would write Icy-Metaint.
                assert (b"\r\nicy-metaint: " in received) is titles
    assert (answer.status, answer.whole) == (200, True)
    assert answer.headers["Content-Type"] == "audio/mpeg"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Accept-Ranges"] == "none"
    assert answer.headers["icy-name"] == "radio"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert ("Transfer-Encoding" in answer.headers) is chunked
    assert ("Connection" in answer.headers) is closes
    assert answer.headers.get("icy-metaint") == (str(IcyBlocks.INTERVAL) if titles else None)
    block = b"\x02StreamTitle='One';".ljust(33, b"\0") if titles else b""
    assert answer.body == b"a" * 16_000 + block + b"a" * 4000 + b"b" * 100


@pytest.mark.parametrize("media_type", ["audio/ogg", "audio/webm"])
@pytest.mark.gen_test
async def test_only_frames_have_titles_between_them(tmp_path: Path, media_type: str) -> None:
    """In pages and blocks they would be damage."""
    async with serving(tmp_path, scan=False) as server:
        send(server, b"a" * 20_000, media_type=media_type)
        async with server.connect(request(TARGET, icy_metadata="1")) as client:
            assert b"icy-metaint" not in await client.until(b"\r\n\r\n")
        over(server)


@pytest.mark.gen_test
async def test_a_range_is_ignored(tmp_path: Path) -> None:
    """Chromium asks for bytes from 0 on; what is live has no bytes that can be asked for."""
    async with serving(tmp_path, scan=False) as server:
        send(server, b"abc")
        for wanted in ("bytes=0-", "bytes=5-9"):
            async with server.connect(request(TARGET, range=wanted)) as client:
                received = await client.until(b"abc")
                assert received.startswith(b"HTTP/1.1 200 OK")
                assert b"Content-Range" not in received
        over(server)


@pytest.mark.gen_test
async def test_a_page_of_another_origin_reads_what_radios_do(tmp_path: Path) -> None:
    """If it is allowed: it may ask for titles, and see how often they come."""
    cors = Cors(frozenset({"https://example.org"}))
    async with serving(tmp_path, scan=False, cors=cors) as server:
        send(server, b"abc")
        asked = {"origin": "https://example.org", "access_control_request_method": "GET"}
        granted = await server.get(TARGET, "OPTIONS", **asked, access_control_request_headers="icy-metadata")
        assert "Icy-MetaData" in granted.headers["Access-Control-Allow-Headers"]
        async with server.connect(request(TARGET, origin="https://example.org", icy_metadata="1")) as client:
            received = await client.until(b"abc")
        assert b"Access-Control-Allow-Origin: https://example.org" in received
        exposed = received.partition(b"Access-Control-Expose-Headers: ")[2].partition(b"\r\n")[0]
        assert {b"icy-name", b"icy-metaint", b"icy-description"} <= set(exposed.split(b", "))
        over(server)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.gen_test
async def test_head_is_as_get(tmp_path: Path, method: str) -> None:
    """The same headers, at once, and nobody listens."""
    async with serving(tmp_path, scan=False) as server:
        server.resources.mounts.claim("radio", "live", "audio/mpeg", {"icy-genre": "Folk"})
        async with server.connect(request(TARGET, method)) as client:
            received = await client.until(b"\r\n\r\n")
            await eventually(lambda: listeners(server) == (1 if method == "GET" else 0))
        assert b"icy-genre: Folk" in received.replace(b"Icy-Genre", b"icy-genre")
        assert b"Content-Type: audio/mpeg" in received
        await eventually(lambda: listeners(server) == 0)
        over(server)


@pytest.mark.gen_test
async def test_where_nobody_was_heard(tmp_path: Path) -> None:
    """404, for listeners and for who asks what is playing; and after the last listener was ended."""
    async with serving(tmp_path, scan=False) as server:
        for target in (TARGET, NEWS, f"{NEWS}?format=sse"):
            refused = await server.get(target)
            assert refused.status == 404
            assert b"/audio/live lists what is" in refused.body
        send(server, b"a")
        over(server)
        for target in (TARGET, NEWS):
            assert (await server.get(target)).status == 404


@pytest.mark.gen_test
async def test_listeners_are_counted_and_logged(tmp_path: Path, access_log: AccessLog) -> None:
    """In the list and in what is playing; the log has how it ended, and when the first byte went out."""
    async with serving(tmp_path, scan=False) as server:
        send(server, b"abc")
        async with server.connect(request(TARGET)) as first, server.connect(request(TARGET)) as second:
            await first.until(b"abc")
            await second.until(b"abc")
            for target in ("/audio/live", NEWS):
                told = json.loads((await server.get(target)).body)
                told = told["mounts"][0] if "mounts" in told else told
                assert told["listeners"] == 2
            first.close()
            await eventually(lambda: listeners(server) == 1)
            over(server)
            await second.until(b"\r\n0\r\n\r\n")
        await eventually(lambda: not len(server.open_streams))
    lines = [line for line in access_log.lines if f" {TARGET} " in line]
    assert [line.split(" 200 ")[1].partition(" first ")[0] for line in lines] == [
        "disconnected 3 B",
        "complete 3 B",
    ]


# --- who does not keep up ---


@pytest.mark.gen_test
async def test_a_listener_that_stays_behind_is_let_go(tmp_path: Path, access_log: AccessLog) -> None:
    """When what it has not been sent is no longer kept; the others hear all of it."""
    async with serving(tmp_path, scan=False) as server:
        send(server, b"0")
        async with (
            server.connect(request(TARGET), receive_bytes=4096) as slow,
            server.connect(request(TARGET, icy_metadata="0")) as quick,
        ):
            await slow.until(b"0")
            await quick.until(b"\r\n\r\n0")
            for number in range(1, 60):
                send(server, bytes([number]) * 500_000)
                while quick.received.count(bytes([number])) < 400_000:
                    quick.received = b""
                    await quick.until(bytes([number]), 499_000)
            await eventually(lambda: listeners(server) == 1)
            received, _ = await slow.rest()
            assert not received.endswith(b"\r\n0\r\n\r\n")
        over(server)
        await eventually(lambda: len(access_log) == 2)
    assert " behind " in access_log.lines[0]


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_listener_that_never_reads_is_stalled(tmp_path: Path, access_log: AccessLog) -> None:
    """After the stall limit, by a reset."""
    limits = Limits(stall_seconds=1)
    async with serving(tmp_path, scan=False, limits=limits) as server:
        send(server, bytes(6_000_000))
        async with server.connect(request(TARGET), receive_bytes=4096) as client:
            await eventually(lambda: listeners(server) == 1)
            await eventually(lambda: listeners(server) == 0, 15)
            assert (await client.rest())[1]
        over(server)
        await eventually(lambda: len(access_log))
    assert " stalled " in access_log.lines[0]


@pytest.mark.parametrize("limits", [Limits(most_streams=1), Limits(most_streams_per_client=1)])
@pytest.mark.gen_test
async def test_listeners_are_streams(tmp_path: Path, limits: Limits) -> None:
    """One more than there may be is refused, with a time to come back at."""
    async with serving(tmp_path, scan=False, limits=limits) as server:
        send(server, b"abc")
        async with server.connect(request(TARGET)) as client:
            await client.until(b"abc")
            refused = await server.get(TARGET)
            assert refused.status in (429, 503)
            assert "Retry-After" in refused.headers
        over(server)


@pytest.mark.gen_test
async def test_a_listener_may_be_slowed_down(tmp_path: Path) -> None:
    """With --rate-limit each is sent its own, titles and all."""
    async with serving(tmp_path, scan=False, rate_limit=1_000_000) as server:
        send(server, b"a" * 16_000)
        async with server.connect(request(TARGET, icy_metadata="1")) as client:
            await client.until(b"StreamTitle='';")
            send(server, b"bcd")
            await client.until(b"bcd")
        await eventually(lambda: listeners(server) == 0)
        over(server)


# --- what is playing ---


@pytest.mark.gen_test
async def test_the_mounts(tmp_path: Path) -> None:
    """Their list, and what each is playing."""
    async with serving(tmp_path, scan=False) as server:
        assert json.loads((await server.get("/audio/live")).body) == {"mounts": []}
        send(server, b"a")
        server.resources.mounts.get("radio").play(Playing("One", "/audio/1"))
        mounts = await server.get("/audio/live")
        one = await server.get(NEWS)
        over(server)
    assert mounts.headers["Content-Type"] == one.headers["Content-Type"] == "application/json"
    assert json.loads(mounts.body) == {
        "mounts": [
            {
                "name": "radio",
                "title": "One",
                "url": TARGET,
                "media_type": "audio/mpeg",
                "listeners": 0,
                "source": "live",
                "events_url": f"{NEWS}?format=sse",
            }
        ]
    }
    told = json.loads(one.body)
    assert told.pop("since").endswith("+00:00")
    assert told == {
        "name": "radio",
        "title": "One",
        "link": "/audio/1",
        "media_type": "audio/mpeg",
        "listeners": 0,
        "source": "live",
    }


@pytest.mark.parametrize(
    ("target", "accept", "media_type"),
    [
        (NEWS, "*/*", "application/json"),
        (NEWS, "text/event-stream", "text/event-stream"),
        (NEWS, "text/html", "application/json"),
        (f"{NEWS}?format=sse", "application/json", "text/event-stream"),
        (f"{NEWS}?format=json", "text/event-stream", "application/json"),
        (f"{NEWS}?format=csv", "*/*", "application/problem+json"),
    ],
)
@pytest.mark.gen_test
async def test_what_is_playing_has_two_formats(
    tmp_path: Path, target: str, accept: str, media_type: str
) -> None:
    """By ?format= or Accept; another is 400."""
    async with serving(tmp_path, scan=False) as server:
        send(server, b"a")
        async with server.connect(request(target, accept=accept)) as client:
            received = await client.until(b"\r\n\r\n")
        over(server)
    assert f"Content-Type: {media_type}\r\n".encode() in received
    assert (b" 400 " in received) is ("csv" in target)


def titles(received: bytes) -> list[tuple[str, object]]:
    """Of the events that have come, title and source."""
    text = received.decode()
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return [(event["title"], event["source"]) for event in events]


@pytest.mark.parametrize("seen", [None, "0-5", "nonsense"])
@pytest.mark.gen_test
async def test_what_is_playing_as_events(tmp_path: Path, seen: str | None) -> None:
    """At once and at each change, whatever was seen before; also the source that leaves, and the next."""
    headers = {"last_event_id": seen} if seen else {}
    async with serving(tmp_path, scan=False, grace_seconds=0.01) as server:
        send(server, b"a")
        mount = server.resources.mounts.get("radio")
        async with server.connect(request(f"{NEWS}?format=sse", **headers)) as client:
            await client.until(b"\n\n", 1)
            await eventually(lambda: mount.news_feed.subscribers)
            for title in ("One", "Two"):
                mount.play(Playing(title))
                await client.until(f'"{title}"'.encode())
            assert mount.session is not None
            mount.session.close()
            await client.until(b'"source":null')
            await eventually(lambda: not mount.media_type)
            send(server, b"b")
            await client.until(b'"source":"live"', 4)
            assert titles(client.received) == [
                ("", "live"),
                ("One", "live"),
                ("Two", "live"),
                ("", None),
                ("", "live"),
            ]
            assert b"event: gap" not in client.received
            assert client.received.count(b"event: now-playing\n") == 5
            server.open_streams.drain()
            await client.until(b"\r\n0\r\n\r\n")
        over(server)
