"""Publishing: what a body becomes, who may, and what is said to what cannot be published."""

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from handlers.fanout import SLICE
from handlers.limits import Limits
from handlers.writers import Writers
from media.subscriptions import channel
from tests.conftest import AccessLog
from tests.serving import Client, Response, Server, eventually, request, serving

TEXT, JSON, LINES = "text/plain", "application/json", "application/x-ndjson"
ALLOW = "GET, HEAD, OPTIONS"
ALLOW_OF_CHANNEL = "GET, HEAD, OPTIONS, POST, DELETE"
TOKEN = Writers(token="s3cret")


async def publish(
    server: Server, body: bytes, media_type: str = TEXT, target: str = "/stream/events", **headers: str
) -> Response:
    """One POST on a connection of its own."""
    length = str(len(body))
    head = request(
        target, "POST", connection="close", content_type=media_type, content_length=length, **headers
    )
    return await server.exchange(head + body)


async def published(server: Server) -> list[dict[str, object]]:
    """The events of the channel."""
    answer = await server.get("/stream/events?format=json&last_event_id=earliest")
    events: list[dict[str, object]] = json.loads(answer.body)["events"]
    return events


@pytest.mark.parametrize(
    ("media_type", "body", "data"),
    [
        (TEXT, b"Hello", ["Hello"]),
        (TEXT, b"", [""]),
        (TEXT, b"a\0b\rc\r\nd\n", ["a\0b\rc\r\nd\n"]),
        (TEXT + "; charset=UTF-8", "ä€🎵".encode(), ["ä€🎵"]),
        (JSON, b'{"a": [1, null]}', [{"a": [1, None]}]),
        (JSON, b' \r\n{\n "a":\r\n 1\n}\n', [{"a": 1}]),
        (JSON, b'"a\\nb\\u0000"', ["a\nb\0"]),
        (LINES, b'1\n"two"\n{"three": 3}\n', [1, "two", {"three": 3}]),
        (LINES, b"\n 1 \r\n\r\n\t\n2", [1, 2]),
        (LINES, b"", []),
    ],
)
@pytest.mark.gen_test
async def test_a_body_becomes_events(
    tmp_path: Path, media_type: str, body: bytes, data: list[object]
) -> None:
    """Text and JSON are one event, NDJSON one a line, and the answer has the id of the last."""
    async with serving(tmp_path, scan=False) as server:
        answer = await publish(server, body, media_type)
        events = await published(server)
    assert (answer.status, answer.headers["Content-Type"]) == (202, JSON)
    assert [event["data"] for event in events] == data
    last = events[-1]["id"] if events else None
    assert json.loads(answer.body) == {"id": last, "published": len(data)}


def begun(target: str = "/stream/events", media_type: str = LINES, **headers: str) -> bytes:
    """The head of a POST whose body comes in chunks."""
    return request(target, "POST", content_type=media_type, transfer_encoding="chunked", **headers)


def chunk(data: bytes) -> bytes:
    """A chunk of that body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def answered(client: Client) -> Response:
    """The one answer on a connection that stays open."""
    await client.until(b"\r\n\r\n")
    while not (response := Response.parsed(client.received)).whole:
        assert await client.read()
    return response


@pytest.mark.gen_test
async def test_events_have_the_name_that_is_given(tmp_path: Path) -> None:
    """`?event=`, for one and for many."""
    async with serving(tmp_path, scan=False) as server:
        await publish(server, b"x", TEXT, "/stream/events?event=%C3%A4%20b")
        await publish(server, b"1\n2\n", LINES, "/stream/events?event=n")
        assert [event["event"] for event in await published(server)] == ["ä b", "n", "n"]


@pytest.mark.parametrize(
    ("data", "lines"),
    [(b"a\rb\r\nc\n\nd", b"data: a\ndata: b\ndata: c\ndata: \ndata: d\n\n"), (b"a\0b", b"data: a\0b\n\n")],
)
@pytest.mark.gen_test
async def test_breaks_in_the_data_become_lines_of_an_event(tmp_path: Path, data: bytes, lines: bytes) -> None:
    """Server-sent events know one kind of line break."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(request("/stream/events?format=sse")) as client,
    ):
        await client.until(b"id: ")
        await publish(server, data)
        assert lines in await client.until(b"\n\n", 2)


@pytest.mark.parametrize(
    ("media_type", "body", "target", "headers", "status", "detail"),
    [
        ("", b"x", "", {}, 415, "text/plain or application/json (one event) or application/x-ndjson"),
        ("json", b"1", "", {}, 415, "not json: curl"),
        ("application/x-www-form-urlencoded", b"x", "", {}, 415, "curl sends it with -H"),
        ("text/plain; charset=latin-1", b"x", "", {}, 415, "The body must be UTF-8."),
        (TEXT, b"x", "", {"content_encoding": "gzip"}, 415, "without Content-Encoding"),
        (TEXT, b"\xff", "", {}, 400, "UTF-8"),
        (JSON, b'"\xff"', "", {}, 400, "JSON, in UTF-8"),
        (JSON, b"", "", {}, 400, "one value of JSON"),
        (JSON, b"1 2", "", {}, 400, "one value of JSON"),
        (JSON, b"NaN", "", {}, 400, "one value of JSON"),
        (JSON, b"[" * 60000, "", {}, 400, "one value of JSON"),
        (TEXT, bytes(64 * 1024 + 1), "", {}, 413, "at most 65536 bytes"),
        (JSON, b" " * (64 * 1024 + 1), "", {}, 413, "at most 65536 bytes"),
        (LINES, b"x" * (64 * 1024 + 1), "", {}, 413, "at most 65536 bytes"),
        (TEXT, b"x", "?event=", {}, 400, "event must not be empty"),
        (TEXT, b"x", "?event=a%0Ab", {}, 400, "without line breaks and NUL"),
        (TEXT, b"x", "?event=a%0Db", {}, 400, "without line breaks and NUL"),
        (TEXT, b"x", "?event=a%00b", {}, 400, "without line breaks and NUL"),
        (TEXT, b"x", "?event=" + "a" * 257, {}, 400, "at most 256 bytes"),
        (TEXT, b"x", "?event=%FF", {}, 400, "UTF-8"),
        (TEXT, b"x", "?event=gap", {}, 400, "must not be gap"),
        (TEXT, b"x", ",more", {}, 400, "one channel at a time"),
        (TEXT, b"x", ",nowhere", {}, 404, "--channels declares more"),
    ],
)  # fmt: skip
@pytest.mark.gen_test
async def test_what_cannot_be_published_is_refused(
    tmp_path: Path,
    media_type: str,
    body: bytes,
    target: str,
    headers: dict[str, str],
    status: int,
    detail: str,
) -> None:
    """With what would be right, and nothing of it is published."""
    async with serving(tmp_path, scan=False, channels={"more": channel(title="")}) as server:
        answer = await publish(server, body, media_type, f"/stream/events{target}", **headers)
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
        assert detail in json.loads(answer.body)["detail"]
        assert await published(server) == []


@pytest.mark.parametrize(
    ("writers", "authorization", "status", "detail"),
    [
        (TOKEN, "", 401, "Authorization: Bearer TOKEN"),
        (TOKEN, "Basic czpzM2NyZXQ=", 401, "Authorization: Bearer TOKEN"),
        (TOKEN, "Bearer other", 403, "not the one"),
        (TOKEN, "Bearer s3cret", 202, ""),
        (Writers(), "", 403, "--publish-token"),
        (Writers(loopback=True), "", 202, ""),
        (Writers(loopback=True, processes=2), "", 503, "start it with --processes 1"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.gen_test
async def test_who_may(
    tmp_path: Path, writers: Writers, authorization: str, status: int, detail: str, method: str
) -> None:
    """With the token, or from this machine where none is set; in the only process."""
    async with serving(tmp_path, scan=False, writers=writers) as server:
        headers = {"authorization": authorization} if authorization else {}
        answer = await server.get("/stream/events", method, content_type=LINES, **headers)
        open_ = json.loads((await server.get("/streams")).body)["streams"]
    assert answer.status == (204 if (status, method) == (202, "DELETE") else status)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert not detail or detail in json.loads(answer.body)["detail"]
    [facts] = [stream["channel"] for stream in open_ if stream["name"] == "events"]
    assert facts["publishing"] == (writers == Writers(loopback=True))


@pytest.mark.parametrize(
    ("path", "method", "status", "allow"),
    [
        ("/stream/events", "OPTIONS", 204, ALLOW_OF_CHANNEL),
        ("/stream/%65vents", "OPTIONS", 204, ALLOW_OF_CHANNEL),
        ("/stream/events", "PUT", 405, ALLOW_OF_CHANNEL),
        ("/stream/events", "BREW", 405, ALLOW_OF_CHANNEL),
        ("/stream/lines", "OPTIONS", 204, ALLOW),
        ("/stream/lines", "POST", 405, ALLOW),
        ("/stream/lines", "DELETE", 405, ALLOW),
        ("/stream", "POST", 405, ALLOW),
        ("/large.csv", "POST", 405, ALLOW),
        ("/stream/nowhere", "POST", 404, None),
        ("/stream/nowhere", "DELETE", 404, None),
        ("/nowhere", "POST", 404, None),
    ],
)
@pytest.mark.gen_test
async def test_methods(tmp_path: Path, path: str, method: str, status: int, allow: str | None) -> None:
    """A channel is published to; what else there is, is only read."""
    async with serving(tmp_path, scan=False) as server:
        answer = await server.get(path, method)
        assert (answer.status, answer.headers.get("Allow")) == (status, allow)


@pytest.mark.gen_test
async def test_the_history_is_cleared(tmp_path: Path) -> None:
    """Who comes back for it is told of the gap; a body is of no use."""
    async with serving(tmp_path, scan=False) as server:
        id_ = json.loads((await publish(server, b"1\n2\n", LINES)).body)["id"]
        first = id_.replace("-2", "-1")
        cleared = await server.exchange(
            request("/stream/events", "DELETE", connection="close", content_length="4") + b"body"
        )
        assert (cleared.status, cleared.body) == (204, b"")
        assert await published(server) == []
        missed = await server.get(f"/stream/events?format=json&last_event_id={first}")
        assert json.loads(missed.body)["events"] == [
            {"id": id_, "event": "gap", "data": {"last_event_id": first, "first_id": None}}
        ]


@pytest.mark.gen_test
async def test_a_bad_line_ends_a_body(tmp_path: Path) -> None:
    """What came before it stays published, and the answer says how far that is; the connection goes on."""
    async with serving(tmp_path, scan=False) as server:
        body = b"1\n\n2\n{bad\n" + b"3\n" * 200_000
        head = request("/stream/events", "POST", content_type=LINES, content_length=str(len(body)))
        async with server.connect(head + body + request("/healthz")) as client:
            await client.until(b"ok\n")
            refused, healthy = Response.all(client.received, ["POST", "GET"])
        events = await published(server)
    facts = json.loads(refused.body)
    assert (refused.status, healthy.status) == (400, 200)
    assert facts["detail"].startswith("Line 4 is refused, and all behind it. It must be one value of JSON")
    assert (facts["line"], facts["published"], facts["id"]) == (4, 2, events[1]["id"])
    assert [event["data"] for event in events] == [1, 2]


@pytest.mark.parametrize(
    "body", [b"1\n" + b"x" * 70_000, b"1\n" + b"x" * 70_000 + b"\n2\n", b"1\n[\n", b"1\n["]
)
@pytest.mark.gen_test
async def test_a_line_that_is_no_event(tmp_path: Path, body: bytes) -> None:
    """Too long before it has an end, or with it; no JSON, with or without its end."""
    async with serving(tmp_path, scan=False) as server:
        answer = await publish(server, body, LINES)
        facts = json.loads(answer.body)
        assert (answer.status, facts["line"]) == (413 if b"x" in body else 400, 2)
        assert [event["data"] for event in await published(server)] == [1]


@pytest.mark.gen_test
async def test_a_line_is_published_when_it_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not when the body is; of a body that breaks off a line without its end is no event."""
    caplog.set_level(logging.INFO, "millrace.publish")
    async with serving(tmp_path, scan=False) as server:
        events = server.resources.channels.get("events")
        assert events is not None
        async with server.connect(begun() + chunk(b'{"a":')) as client:
            await client.send(chunk(b"1}\n2"))
            await eventually(lambda: events.published == 1)
            await client.send(chunk(b"0\n3"))
            await eventually(lambda: events.published == 2)
        await eventually(lambda: "broke off its body; published: 2" in caplog.text)
        assert [event["data"] for event in await published(server)] == [{"a": 1}, 20]
        assert not server.open_streams


@pytest.mark.gen_test
async def test_space_round_a_line_does_not_count(tmp_path: Path) -> None:
    """Wherever a chunk ends, be it between the CR and the LF of the largest line."""
    largest = b'"' + b"x" * 65_534 + b'"'
    chunks = [b" " * 65_536, b" ", largest, b" " * 65_536, b"\r", b"\n1\n", largest, b" " * 65_536, b"2\n"]
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(begun() + b"".join(map(chunk, chunks)) + b"0\r\n\r\n") as client,
    ):
        refused = await answered(client)
        assert (refused.status, json.loads(refused.body)["line"]) == (413, 3)
        assert [event["data"] for event in await published(server)] == ["x" * 65_534, 1]


@pytest.mark.parametrize("media_type", [TEXT, LINES])
@pytest.mark.gen_test
async def test_an_event_that_grows_too_large(tmp_path: Path, media_type: str) -> None:
    """Its length is not known before; the client still sends when it is answered."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(begun(media_type=media_type) + chunk(bytes(60_000))) as client,
    ):
        await client.send(chunk(b"x" * 10_000))
        assert (await answered(client)).status == 413
        await client.send(chunk(bytes(1_000_000)) + b"0\r\n\r\n" + request("/healthz"))
        await client.until(b"ok\n")
        assert await published(server) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"authorization": "Bearer s3cret", "content_type": TEXT}, 413)],
    ids=["token", "length"],
)
@pytest.mark.gen_test
async def test_a_refusal_arrives_while_the_client_sends(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    """Before the body is read; and who reads nothing until it has sent everything gets it, too."""
    length = 8_000_000  # above --max-body, for which Tornado has a 400 of its own
    async with serving(tmp_path, scan=False, writers=TOKEN) as server:
        head = request("/stream/events", "POST", content_length=str(length), **headers)
        async with server.connect(head) as client:
            assert (await answered(client)).status == status
        async with server.connect(head) as client:
            await client.send(bytes(length) + request("/healthz"))
            await client.until(b"ok\n")
            refused, healthy = Response.all(client.received, ["POST", "GET"])
            assert (refused.status, healthy.status) == (status, 200)


@pytest.mark.gen_test
async def test_what_follows_a_refusal_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on sending for too long is cut off."""
    monkeypatch.setattr("handlers.publish.LINGER_SECONDS", 0.2)
    async with (
        serving(tmp_path, scan=False, writers=TOKEN) as server,
        server.connect(begun()) as client,
    ):
        assert (await answered(client)).status == 401

        async def flood() -> None:
            while True:
                await client.send(chunk(b"1\n"))
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await flood()


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"authorization": "Bearer s3cret"}, 413), ({"authorization": "Bearer s3cret"}, 202)],
)
@pytest.mark.gen_test
async def test_who_waits_for_100_is_refused_before_it(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    """It never sends its body, and the connection ends: the next request could be taken for it."""
    length = 70_000 if status == 413 else 5
    headers = {**headers, "expect": "100-continue", "content_type": TEXT, "content_length": str(length)}
    async with (
        serving(tmp_path, scan=False, writers=TOKEN) as server,
        server.connect(request("/stream/events", "POST", **headers)) as client,
    ):
        if status == 202:
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 (Continue)\r\n\r\n"
            client.received = b""
            await client.send(b"Hello")
            assert (await answered(client)).status == 202
        else:
            received, reset = await client.rest()
            answer = Response.parsed(received, reset=reset)
            assert (answer.status, answer.headers["Connection"], answer.whole) == (status, "close", True)


@pytest.mark.gen_test
async def test_a_drain_ends_a_body_of_many_events(tmp_path: Path, access_log: AccessLog) -> None:
    """It is told how far it came; who begins one then is told when to come back."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(begun() + chunk(b"1\n2\n3")) as client,
    ):
        await eventually(lambda: server.open_streams)
        events = server.resources.channels.get("events")
        assert events is not None
        await eventually(lambda: events.published == 2)
        server.open_streams.drain()
        answer = await answered(client)
        facts = json.loads(answer.body)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (facts["published"], facts["id"]) == (2, events.ids.of(events.newest))
        assert facts["detail"].startswith("The server is shutting down. Published so far: 2, the last as ")
        assert not server.open_streams
        assert (await publish(server, b"1\n", LINES)).status == 503
        assert events.published == 2


@pytest.mark.gen_test
async def test_what_a_drain_could_not_end_is_broken_off(tmp_path: Path) -> None:
    """By the end of its connection."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(begun() + chunk(b"1\n")) as client,
    ):
        await eventually(lambda: server.open_streams)
        server.open_streams.break_off()
        received, _ = await client.rest()
        assert received == b""
        await eventually(lambda: not server.open_streams)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=30)
async def test_a_body_may_trickle_and_not_be_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The least rate is not for what is published as it happens; --body-timeout is for its silence."""
    caplog.set_level(logging.INFO, "millrace.connections")
    limits = Limits(stall_seconds=0.5, body_seconds=2)
    async with (
        serving(tmp_path, scan=False, limits=limits) as server,
        server.connect(begun()) as client,
    ):
        for _ in range(10):
            await client.send(chunk(b"1\n"))
            await asyncio.sleep(0.3)
        events = server.resources.channels.get("events")
        assert events is not None
        await eventually(lambda: events.published == 10)
        assert "let go" not in caplog.text
        await asyncio.wait_for(client.rest(), 15)
    assert "its request's body has stopped" in caplog.text


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_a_body_is_published_to_more_than_are_sent_to_in_one_turn(tmp_path: Path) -> None:
    """What is waited for comes to an end, wherever in a round of sending the wait begins."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, scan=False))
        for _ in range(SLICE + 50):
            client = await stack.enter_async_context(server.connect(request("/stream/events?format=text")))
            await client.until(b"\r\n\r\n")
        for size in range(1000, 3000, 250):
            answer = await publish(server, b"1\n" * size, LINES)
            assert json.loads(answer.body)["published"] == size


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_a_large_body_starves_nobody(tmp_path: Path) -> None:
    """A request beside it is answered, and who follows has every event, where no history helps."""
    many = 30_000
    body = b"".join(b'{"n":%d}\n' % number for number in range(many))

    async def follow(client: Client) -> bytes:
        pieces = []
        while not pieces or b'{"n":%d}' % (many - 1) not in pieces[-1][-200:]:
            pieces.append(await client.read(1 << 20))
            client.received = b""
        return b"".join(pieces)

    none = channel(title="", history=0)
    async with (
        serving(tmp_path, scan=False, channels={"brief": none}) as server,
        server.connect(request("/stream/brief?format=text", version="1.0")) as client,
    ):
        await client.until(b"\r\n\r\n")
        following = asyncio.create_task(follow(client))
        publishing = asyncio.create_task(publish(server, body, LINES, "/stream/brief"))
        beside = 0
        while not publishing.done():
            assert (await server.get("/healthz")).status == 200
            beside += 1
        assert (await publishing).status == 202
        assert (await asyncio.wait_for(following, 30)).split() == body.split()
        assert beside > 5
