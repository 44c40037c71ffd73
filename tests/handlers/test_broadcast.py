"""Sources of live audio: how a body comes, who may send one, and how it ends."""

import asyncio
import base64
import json
import logging
import re
from pathlib import Path

import pytest

from handlers.limits import Limits
from handlers.writers import Writers
from media.live import Session
from server import tls
from tests.certificates import make_pair
from tests.conftest import AccessLog, ExpectLog
from tests.serving import Response, Server, eventually, request, serving

FRAME = b"\xff\xfb\x90\x64" + bytes(413)
"""MP3 of 128 kbit/s and 44.1 kHz: 26 ms."""

TARGET = "/audio/live/radio"
WAYS = ("unframed", "SOURCE", "chunked", "length")


def mp3(seconds: float) -> bytes:
    """So many seconds."""
    return FRAME * round(seconds * 44_100 / 1152)


def head(way: str, length: int = 10**9, target: str = TARGET, **more: str) -> bytes:
    """The header of a source's request."""
    headers = {"content_type": "audio/mpeg", **more}
    if way == "SOURCE":
        return request(target, "SOURCE", "1.0", **headers)
    if way == "chunked":
        headers["transfer_encoding"] = "chunked"
    elif way == "length":
        headers["content_length"] = str(length)
    return request(target, "PUT", **headers)


def part(way: str, data: bytes) -> bytes:
    """Some of its body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if way == "chunked" else data


async def playing(server: Server, name: str = "radio") -> dict[str, object]:
    """What the server says is playing."""
    told: dict[str, object] = json.loads((await server.get(f"/audio/live/{name}.json")).body)
    return told


def live(server: Server) -> list[str]:
    """The mounts that have a live source."""
    return [mount.name for mount in server.resources.mounts if mount.source == "live"]


def problem(received: bytes) -> tuple[int, str]:
    """Status and detail of the last answer."""
    answer = Response.parsed(received[received.rindex(b"HTTP/1.1 ") :])
    return answer.status, json.loads(answer.body)["detail"]


async def hears(server: Server, sound: bytes) -> None:
    """A listener who joins now is sent this."""
    async with server.connect(request(TARGET)) as listener:
        await listener.until(sound)


# --- the ways of a body ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.gen_test
async def test_a_source_is_heard(tmp_path: Path, access_log: AccessLog, way: str) -> None:
    """However its body is framed: at once, and to its end, which is a good one."""
    sound = mp3(1)
    async with serving(tmp_path, scan=False) as server:
        async with server.connect(head(way, 2 * len(sound))) as source:
            if way in ("unframed", "SOURCE"):
                assert b" 200 OK" in await source.until(b"\r\n\r\n")
            await source.send(part(way, sound))
            await eventually(lambda: live(server))
            await hears(server, FRAME * 15)
            assert len(server.open_streams) >= 1
            await source.send(part(way, sound))
            if way == "chunked":
                await source.send(b"0\r\n\r\n")
            if way in ("chunked", "length"):
                assert Response.parsed(await source.until(b"\r\n\r\n")).status == 200
            else:
                source.close()
            await eventually(lambda: not live(server))
        await eventually(lambda: any(" PUT " in line or " SOURCE " in line for line in access_log.lines))
        (line,) = [line for line in access_log.lines if " PUT " in line or " SOURCE " in line]
        assert f" 200 complete {2 * len(sound)} B " in line
        await eventually(lambda: not len(server.open_streams))


@pytest.mark.parametrize("way", ["chunked", "length"])
@pytest.mark.parametrize("ends", ["close", "reset"])
@pytest.mark.gen_test
async def test_a_framed_body_that_breaks_off(
    tmp_path: Path, access_log: AccessLog, way: str, ends: str
) -> None:
    """It is logged as disconnected, and what came of it was heard."""
    async with serving(tmp_path, scan=False) as server:
        async with server.connect(head(way) + part(way, mp3(1))) as source:
            await eventually(lambda: live(server))
            await hears(server, FRAME)
            getattr(source, ends)()
            await eventually(lambda: not live(server))
        await eventually(lambda: any(" PUT " in line for line in access_log.lines))
        assert " disconnected " in next(line for line in access_log.lines if " PUT " in line)
        await eventually(lambda: not len(server.open_streams))
        await hears(server, FRAME)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.gen_test
async def test_100_continue_comes_before_the_body(tmp_path: Path, way: str) -> None:
    """A source that waits for it gets it when it is the source, and no other answer before its end."""
    if way == "SOURCE":
        way = "unframed"
    async with serving(tmp_path, scan=False) as server:
        async with server.connect(head(way, len(FRAME) * 20, expect="100-continue")) as source:
            assert (await source.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            assert live(server) == ["radio"]
            await source.send(part(way, FRAME * 20))
            if way == "chunked":
                await source.send(b"0\r\n\r\n")
            if way != "unframed":
                assert b"HTTP/1.1 200 OK" in await source.until(b"HTTP/1.1 200 OK")
        await eventually(lambda: not live(server))


@pytest.mark.gen_test
async def test_more_than_the_length_is_no_sound(tmp_path: Path) -> None:
    """What stands behind the body is another request, and a bad one."""
    async with serving(tmp_path, scan=False) as server:
        async with server.connect(head("length", len(mp3(1))) + mp3(8)) as source:
            received, _ = await source.rest()
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert live(server) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["SOURCE", "chunked"])
@pytest.mark.gen_test
async def test_a_source_faster_than_sound_waits(tmp_path: Path, way: str) -> None:
    """Ten seconds are taken at once, and the rest when it is due."""
    sound = mp3(600)
    async with serving(tmp_path, scan=False) as server, server.connect(head(way, len(sound))) as source:
        sending = asyncio.ensure_future(source.send(part(way, sound)))
        await eventually(lambda: live(server))
        feed = server.resources.mounts.get("radio")._feed
        assert feed is not None
        before = await eventually(lambda: feed._seconds >= 10) and feed._seconds
        await asyncio.sleep(1)
        assert before <= feed._seconds < before + 5
        assert before < 20
        assert not sending.done()
        sending.cancel()
        await asyncio.wait({sending})


@pytest.mark.slow
@pytest.mark.gen_test
async def test_what_is_in_the_kernel_at_the_end_is_heard(tmp_path: Path) -> None:
    """A source that sends ahead and closes: the watch does not take its end for a client that has left."""
    sound = mp3(12.5)
    limits = Limits(stall_seconds=0.5)
    async with (
        serving(tmp_path, scan=False, limits=limits) as server,
        server.connect(head("SOURCE")) as source,
    ):
        await source.until(b"\r\n\r\n")
        await source.send(sound)
        source.close()
        feed = server.resources.mounts.get("radio")._feed
        assert feed is not None
        await eventually(lambda: not live(server), 15)
        assert feed._seconds == pytest.approx(12.5, abs=0.1)


# --- who may ---


@pytest.mark.parametrize("expects", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("change", "status", "detail"),
    [
        ({}, 401, "the user source"),
        ({"authorization": "Basic " + base64.b64encode(b"source:wrong").decode()}, 401, "password"),
        ({"authorization": "Basic " + base64.b64encode(b"admin:right").decode()}, 401, "the user source"),
        ({"content_type": "video/mp4"}, 415, "audio/webm"),
        ({"busy": "1"}, 403, "has a source already"),
    ],
    ids=["no password", "wrong password", "wrong user", "type", "busy"],
)
@pytest.mark.gen_test
async def test_a_source_is_refused_before_its_body(
    tmp_path: Path, way: str, expects: bool, change: dict[str, str], status: int, detail: str
) -> None:
    """With a status that it can read, its connection closed behind it; who is the source stays it."""
    right = {"authorization": "Basic " + base64.b64encode(b"source:right").decode()}
    headers = change if status == 401 else {**right, **change}
    if expects and way != "SOURCE":
        headers["expect"] = "100-continue"
    writers = Writers(password="right")
    async with serving(tmp_path, scan=False, writers=writers) as server, server.connect() as first:
        if headers.pop("busy", ""):
            await first.send(head("SOURCE", **right) + mp3(1))
            await eventually(lambda: live(server))
        async with server.connect(head(way, **headers)) as source:
            received, _ = await source.rest()
            assert received.startswith(b"HTTP/1.1 ")
            assert problem(received)[0] == status
            assert detail in problem(received)[1]
            assert (b"www-authenticate: basic" in received.lower()) is (status == 401)
            assert b"\r\nConnection: close\r\n" in received
        assert live(server) == (["radio"] if status == 403 else [])


@pytest.mark.parametrize("method", ["SOURCE", "GET"])
@pytest.mark.gen_test
async def test_several_processes_have_no_live_audio(tmp_path: Path, method: str) -> None:
    """The listeners of a source might be at another process, and so might a title."""
    target = TARGET if method == "SOURCE" else f"/admin/metadata?mode=updinfo&mount={TARGET}&song=a"
    writers = Writers(loopback=True, processes=2)
    async with (
        serving(tmp_path, scan=False, writers=writers) as server,
        server.connect(request(target, method, connection="close")) as source,
    ):
        status, detail = problem((await source.rest())[0])
    assert status == 503
    assert "--processes 1" in detail


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", TARGET, "GET, HEAD, OPTIONS, PUT, SOURCE"),
        ("DELETE", TARGET, "GET, HEAD, OPTIONS, PUT, SOURCE"),
        ("PUT", f"{TARGET}.json", "GET, HEAD, OPTIONS"),
        ("PUT", "/audio/live", "GET, HEAD, OPTIONS"),
        ("OPTIONS", TARGET, "GET, HEAD, OPTIONS, PUT, SOURCE"),
        ("OPTIONS", f"{TARGET}.json", "GET, HEAD, OPTIONS"),
    ],
)
@pytest.mark.gen_test
async def test_methods(tmp_path: Path, method: str, target: str, allow: str) -> None:
    """What a mount, and what is told of it, answers; also before there is a source."""
    async with serving(tmp_path, scan=False) as server:
        answer = await server.get(target, method)
    assert answer.status == (204 if method == "OPTIONS" else 405)
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize("name", ["a%2Fb", "%E2%82%AC", "x" * 101, ".hidden", "a,b", ""])
@pytest.mark.gen_test
async def test_names_that_no_mount_has(tmp_path: Path, name: str) -> None:
    """404, also for a source."""
    asked = head("SOURCE", target=f"/audio/live/{name}")
    async with serving(tmp_path, scan=False) as server, server.connect(asked) as source:
        assert b" 404 " in (await source.rest())[0]


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(most_streams=1), 503), (Limits(most_streams_per_client=1), 429)],
    ids=["in all", "of one client"],
)
@pytest.mark.gen_test
async def test_sources_count_as_streams(tmp_path: Path, limits: Limits, status: int) -> None:
    """From their first byte on; beside one no listener is let in, and no other source."""
    async with serving(tmp_path, scan=False, limits=limits) as server:
        async with server.connect(head("length") + mp3(1)) as source:
            await eventually(lambda: live(server))
            assert (await server.get(TARGET)).status == status
            async with server.connect(head("SOURCE", target="/audio/live/other")) as other:
                received, _ = await other.rest()
                assert problem(received)[0] == status
                assert b"Retry-After" in received
            source.close()
        await eventually(lambda: not len(server.open_streams))


# --- how it ends ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.gen_test
async def test_a_silent_source_is_let_go(tmp_path: Path, access_log: AccessLog, way: str) -> None:
    """With 408 where a status can still be sent; the mount is free then."""
    async with serving(tmp_path, scan=False, source_seconds=0.3) as server:
        async with server.connect(head(way) + part(way, mp3(1))) as source:
            received, _ = await source.rest()
            if way in ("chunked", "length"):
                assert problem(received) == (
                    408,
                    "The source sent nothing for 0.3 seconds (--source-timeout).",
                )
            else:
                assert b" 200 OK" in received
            assert live(server) == []
        await eventually(lambda: len(access_log))
        assert " stalled " in access_log.lines[0]
        await eventually(lambda: not len(server.open_streams))


@pytest.mark.gen_test
async def test_any_silence_may_be_allowed(tmp_path: Path) -> None:
    """With 0; the source is still ended with the server."""
    async with (
        serving(tmp_path, scan=False, source_seconds=0) as server,
        server.connect(head("SOURCE")) as source,
    ):
        await source.until(b"\r\n\r\n")
        assert live(server) == ["radio"]
        server.open_streams.drain()
        await asyncio.wait_for(source.rest(), 5)
        assert live(server) == []


@pytest.mark.gen_test
async def test_a_server_has_so_many_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """A source of one more is refused, and the log says why."""
    expect_log("millrace", logging.WARNING, "there are 1 mounts")
    monkeypatch.setattr("media.live.MOST_MOUNTS", 1)
    async with serving(tmp_path, scan=False) as server, server.connect(head("SOURCE")) as source:
        await source.until(b"\r\n\r\n")
        async with server.connect(head("SOURCE", target="/audio/live/other")) as other:
            assert problem((await other.rest())[0])[0] == 503
        assert live(server) == ["radio"]


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_source_that_goes_on_is_kept(tmp_path: Path) -> None:
    """Its silence is counted from its last byte on, and while it is ahead of real time not at all."""
    ahead = head("length") + mp3(11.5)
    async with (
        serving(tmp_path, scan=False, source_seconds=1) as server,
        server.connect(ahead) as source,
    ):
        for number in range(10):
            await asyncio.sleep(0.3)
            if number > 4:
                await source.send(FRAME)
            assert live(server) == ["radio"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.gen_test
async def test_another_format_than_was_said(tmp_path: Path, access_log: AccessLog, way: str) -> None:
    """415 where a status can still be sent, else the connection is closed; listeners are held."""
    async with serving(tmp_path, scan=False, grace_seconds=60) as server:
        async with server.connect(head(way) + part(way, mp3(1))) as source:
            await eventually(lambda: live(server))
            async with server.connect(request(TARGET)) as listener:
                await listener.until(FRAME)
                await source.send(part(way, b"OggS" + bytes(60_000)))
                received, _ = await source.rest()
                if way in ("chunked", "length"):
                    assert problem(received)[0] == 415
                    assert "Ogg" in problem(received)[1]
                else:
                    assert b" 200 OK" in received
                assert live(server) == []
                async with server.connect(head("SOURCE") + mp3(2)) as again:
                    await listener.until(FRAME * 60)
                    again.close()
        assert [" 415 " in line or " failed " in line for line in access_log.lines[:1]] == [True]


@pytest.mark.parametrize("body", [b"", b"x" * 1000])
@pytest.mark.gen_test
async def test_a_body_without_sound(tmp_path: Path, body: bytes) -> None:
    """415 at its end, where it was too short to be refused before; it may be a proxy that made it empty."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(head("length", len(body)) + body) as source,
    ):
        received = await source.until(b"}")
        assert problem(received) == (
            415,
            f"There is no sound of this type in the {len(body)} bytes of the body.",
        )
        assert live(server) == []


@pytest.mark.gen_test
async def test_another_format_behind_100_continue(tmp_path: Path) -> None:
    """A source whose body has no frame reads the status, too, and its connection is closed."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(head("unframed", expect="100-continue")) as source,
    ):
        await source.until(b"\r\n\r\n")
        await source.send(b"OggS" + bytes(1000))
        received, _ = await source.rest()
        assert problem(received)[0] == 415
        assert live(server) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.gen_test
async def test_a_program_error_frees_the_mount(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """Nothing of ours that goes wrong keeps a source from coming back."""

    def take(session: Session, data: bytes) -> float:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Session, "take", take)
    framed = way in ("chunked", "length")
    expect_log("tornado.application" if framed else "millrace", logging.ERROR, "RuntimeError: a bug")
    if not framed:
        expect_log("tornado.general", logging.ERROR, "Cannot send error response")
    async with serving(tmp_path, scan=False) as server:
        async with server.connect(head(way) + part(way, mp3(1))) as source:
            await asyncio.wait_for(source.rest(), 5)
            await eventually(lambda: not live(server))
        await eventually(lambda: not len(server.open_streams))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.gen_test
async def test_a_server_that_shuts_down_ends_its_sources(
    tmp_path: Path, access_log: AccessLog, way: str
) -> None:
    """At once; another is refused, and its listeners end as after a whole body."""
    async with serving(tmp_path, scan=False) as server:
        async with server.connect(head(way) + part(way, mp3(1))) as source:
            await eventually(lambda: live(server))
            async with server.connect(request(TARGET)) as listener:
                await listener.until(FRAME)
                server.open_streams.drain()
                received, _ = await source.rest()
                if way in ("chunked", "length"):
                    assert problem(received) == (503, "The server is shutting down.")
                assert (await listener.until(b"\r\n0\r\n\r\n")).count(FRAME) >= 10
            async with server.connect(head(way)) as other:
                assert problem((await other.rest())[0]) == (503, "The server is shutting down.")
        await eventually(lambda: not len(server.open_streams))
        await eventually(lambda: len(access_log) == 3)
        assert " drained " in next(line for line in access_log.lines if "GET" not in line)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.gen_test
async def test_a_source_is_broken_off(tmp_path: Path, access_log: AccessLog, way: str) -> None:
    """When the time of the drain is over, whatever it waits for."""
    async with serving(tmp_path, scan=False) as server:
        async with server.connect(head(way) + part(way, mp3(15))) as source:
            await eventually(lambda: live(server))
            server.open_streams.break_off()
            await asyncio.wait_for(source.rest(), 5)
            await eventually(lambda: not len(server.open_streams))
        await eventually(lambda: len(access_log))
        assert " drained " in access_log.lines[0]


# --- titles ---


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("song=One", "One"),
        ("song=H%C3%A9", "Hé"),
        ("song=H%E9", "Hé"),
        ("song=H%E9&charset=ISO-8859-1", "Hé"),
        ("song=%C4%EE%E6%E4%FC&charset=windows-1251", "Дождь"),
        ("song=H%C3%A9&charset=utf-8", "Hé"),
        ("artist=A&title=T", "A - T"),
        ("title=T", "T"),
        ("song=", ""),
        ("song=a%0D%0Ab%00c", "a b c"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.gen_test
async def test_titles(tmp_path: Path, method: str, query: str, title: str) -> None:
    """As source clients send them, in whatever encoding, as a query or as a form."""
    query = f"mode=updinfo&mount={TARGET}&{query}"
    async with serving(tmp_path, scan=False) as server, server.connect(head("SOURCE") + mp3(1)):
        await eventually(lambda: live(server))
        if method == "GET":
            answer = await server.get(f"/admin/metadata?{query}")
        else:
            form = "application/x-www-form-urlencoded"
            head_ = request(
                "/admin/metadata",
                "POST",
                connection="close",
                content_type=form,
                content_length=str(len(query)),
            )
            answer = await server.exchange(head_ + query.encode())
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/xml; charset=utf-8")
        assert b"<return>1</return>" in answer.body
        assert (await playing(server))["title"] == title


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        (f"mount={TARGET}&song=a", 400, "mode must be updinfo"),
        ("mode=updinfo&mount=/audio/live/none&song=a", 404, "nothing here"),
        (f"mode=updinfo&mount={TARGET}&song=a&charset=nonsense", 400, "text encoding"),
        (f"mode=updinfo&mount={TARGET}&song=a&charset=idna", 400, "text encoding"),
        ("mode=updinfo&mount=/audio/live/station&song=a", 404, "Nobody sends live audio"),
    ],
)
@pytest.mark.gen_test
async def test_titles_that_are_refused(tmp_path: Path, query: str, status: int, detail: str) -> None:
    """What is malformed, what is not there, and what a station plays, which says so itself."""
    async with serving(tmp_path, scan=False) as server:
        server.resources.mounts.claim("station", "station", "audio/mpeg")
        async with server.connect(head("SOURCE") + mp3(1)):
            await eventually(lambda: live(server))
            answer = await server.get(f"/admin/metadata?{query}")
    assert answer.status == status
    assert detail in json.loads(answer.body)["detail"]


@pytest.mark.gen_test
async def test_titles_need_the_password(tmp_path: Path) -> None:
    """The source's own."""
    async with serving(tmp_path, scan=False, writers=Writers(password="right")) as server:
        server.resources.mounts.claim("radio", "live", "audio/mpeg")
        target = f"/admin/metadata?mode=updinfo&mount={TARGET}&song=a"
        assert (await server.get(target)).status == 401
        right = "Basic " + base64.b64encode(b"source:right").decode()
        assert (await server.get(target, authorization=right)).status == 200
        server.resources.mounts.get("radio").end()


@pytest.mark.gen_test
async def test_what_a_source_says_of_itself(tmp_path: Path) -> None:
    """Listeners get it, in UTF-8, whatever it was in; nothing of it is a header of its own."""
    said = {
        "ice_name": "Дождь",
        "ice_genre": "a\tb",
        "icy_url": "http://example.org/",
        "ice_bitrate": "128",
    }
    header = head("SOURCE", **said)[:-2] + b"Ice-Description: caf\xe9\r\n\r\n"
    async with serving(tmp_path, scan=False) as server, server.connect(header + mp3(1)):
        await eventually(lambda: live(server))
        for asks in ({}, {"icy_metadata": "1"}):
            async with server.connect(request(TARGET, **asks)) as listener:
                top = (await listener.until(b"\r\n\r\n")).partition(b"\r\n\r\n")[0]
            lines = [re.sub(b"^[^:]*", lambda name: name[0].lower(), line) for line in top.split(b"\r\n")]
            assert "icy-name: Дождь".encode() in lines
            assert b"icy-genre: a b" in lines
            assert b"icy-url: http://example.org/" in lines
            assert b"icy-br: 128" in lines
            assert "icy-description: café".encode() in lines


# --- encrypted ---


@pytest.mark.slow
@pytest.mark.parametrize("way", ["SOURCE", "chunked"])
@pytest.mark.gen_test
async def test_a_source_over_tls(tmp_path: Path, way: str) -> None:
    """It is heard, also by a listener over TLS."""
    pair = make_pair(tmp_path)
    encryption = await asyncio.to_thread(tls.load, pair.certificate, pair.key)
    async with serving(tmp_path, scan=False, encryption=encryption) as server:
        _, source = await asyncio.open_connection("127.0.0.1", server.port, ssl=pair.trusting())
        source.write(head(way) + part(way, mp3(1)))
        await eventually(lambda: live(server))
        sound, listener = await asyncio.open_connection("127.0.0.1", server.port, ssl=pair.trusting())
        listener.write(request(TARGET, icy_metadata="1"))
        await asyncio.wait_for(sound.readuntil(FRAME * 20), 5)
        source.close()
        await eventually(lambda: not live(server))
        listener.close()
        await eventually(lambda: not len(server.open_streams))
