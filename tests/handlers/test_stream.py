"""/stream through a real server: every shipped stream in every format, and a user's own."""

import asyncio
import csv
import io
import itertools
import json
import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from handlers.limits import Limits
from handlers.stream import NamedStreamResource, StreamsResource
from handlers.writers import Writers
from media.generated import Stream, StreamRequest, generated
from media.records import FORMATS, Event, Format, Item
from media.rows import rows
from media.subscriptions import Channels
from tests.conftest import AccessLog, ExpectLog
from tests.serving import Response, Route, eventually, request, serving

RECORDS = [{"id": 1, "name": "하나"}, {"id": 2, "name": 'two, "2"'}]


def routes_of(**streams: Stream) -> list[Route]:
    """Routes of a user's streams, and of their list, under /own."""
    arguments: dict[str, object] = {"delivery": None, "streams": streams, "channels": Channels({})}
    listed = {**arguments, "writers": Writers()}
    return [("/own", StreamsResource, listed), ("/own/(?P<name>.+)", NamedStreamResource, arguments)]


async def two_records(request: StreamRequest) -> AsyncGenerator[Item, None]:
    """Two records."""
    for record in RECORDS:
        yield record
        await asyncio.sleep(0)


def content(format_name: str, body: bytes) -> list[dict[str, object]]:
    """The records of a body in a format."""
    text = body.decode()
    if format_name == "csv":
        return [{**row, "id": int(row["id"])} for row in csv.DictReader(io.StringIO(text, newline=""))]
    if format_name == "json":
        return list(json.loads(text))
    if format_name == "sse":
        *events, end = text.split("\n\n")[:-1]
        assert end == "event: end\nid: (end)\ndata: {}"
        return [json.loads(event.partition("data: ")[2]) for event in events]
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.gen_test
async def test_the_list_of_streams(tmp_path: Path) -> None:
    """Each with its title, what it can be had as, whether it ends, and an address that answers."""
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/streams")
        listed = {stream["name"]: stream for stream in json.loads(response.body)["streams"]}
        assert set(listed) == {"lines", "hello", "clock", "events", "large.csv", "large.html"}
        for name, stream in listed.items():
            own = {"events": {"channel"}, "large.csv": {"key"}}.get(name, set())
            assert set(stream) == {"name", "title", "media_types", "live", "url", "parameters"} | own
            assert stream["live"] == (name in ("lines", "clock", "events"))
            for media_type in stream["media_types"]:
                head = await server.get(stream["url"], "HEAD", accept=media_type.partition(";")[0])
                assert (head.status, head.headers["Content-Type"]) == (200, media_type)
    assert listed["lines"]["media_types"][0] == "text/plain; charset=utf-8"
    assert listed["large.csv"]["media_types"][0] == "text/csv; charset=utf-8; header=present"
    assert listed["large.csv"]["key"] == "id"
    assert listed["hello"]["media_types"] == ["text/plain; charset=utf-8"]


TARGETS = [
    "/stream",
    "/stream/lines",
    "/stream/clock",
    "/stream/hello",
    "/stream/large.csv",
    "/large.csv",
    "/my-large-page.html",
]
OWN_TYPES = {
    "/stream/hello": "text/plain; charset=utf-8",
    "/my-large-page.html": "text/html; charset=utf-8",
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.gen_test
async def test_every_stream_in_every_format(tmp_path: Path, form: Format) -> None:
    """By the address or by Accept; a stream of bytes has the one type that it has."""
    asked = [
        (f"&format={form.name}", "text/x-none"),
        ("", form.media_type.partition(";")[0]),
    ]
    async with serving(tmp_path, scan=False) as server:
        for target, (query, accept), method in itertools.product(TARGETS, asked, ("GET", "HEAD")):
            wanted = request(f"{target}?rows=3{query}", method, connection="close", accept=accept)
            async with server.connect(wanted) as client:
                await client.until(b"\r\n\r\n")
                if method == "GET":
                    await client.first_chunk()
            response = Response.parsed(client.received, head=method == "HEAD")
            assert response.status == 200
            assert response.headers["Content-Type"] == OWN_TYPES.get(target, form.media_type)
            coded = response.headers["Content-Type"] != "text/event-stream"
            assert response.headers["Vary"] == ("Accept, Accept-Encoding" if coded else "Accept")
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Accel-Buffering"] == "no"
            assert not {"Content-Length", "ETag", "Last-Modified", "Accept-Ranges"} & set(response.headers)
            assert (response.body != b"") == (method == "GET")


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.gen_test
async def test_records_in_every_format(tmp_path: Path, name: str) -> None:
    """They come back as they went in."""
    routes = routes_of(two=generated(two_records, title="Two"))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.get(f"/own/two?format={name}")
    assert response.whole
    assert content(name, response.body) == RECORDS


@pytest.mark.gen_test
async def test_the_first_format_is_for_who_has_no_wish(tmp_path: Path) -> None:
    """Also for who wants what there is not."""
    routes = routes_of(two=generated(two_records, title="Two", first="csv"))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        for accept in ("*/*", "image/png", "text/html,application/xml;q=0.9,*/*;q=0.8"):
            response = await server.get("/own/two", accept=accept)
            assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
        [listed] = json.loads((await server.get("/own")).body)["streams"]
    assert (listed["name"], listed["title"]) == ("two", "Two")
    assert listed["media_types"][0] == "text/csv; charset=utf-8; header=present"


@pytest.mark.parametrize("name", ["missing", "LINES", "lines/", "two/three", "%EC%84%B8"])
@pytest.mark.gen_test
async def test_a_stream_that_is_not_there(tmp_path: Path, name: str) -> None:
    """404."""
    async with serving(tmp_path, scan=False) as server:
        assert (await server.get(f"/stream/{name}")).status == 404


@pytest.mark.gen_test
async def test_what_a_generator_knows_of_its_request(tmp_path: Path) -> None:
    """Arguments, headers by lower-case name, the last event's id, path and address."""
    seen: list[StreamRequest] = []

    async def look(request: StreamRequest) -> AsyncGenerator[Item, None]:
        seen.append(request)
        yield Event("x", id="1")

    routes = routes_of(look=generated(look, title="Look"))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        await server.get("/own/look?a=1&a=2&b=%EC%84%B8&last_event_id=5", x_own="yes")
        await server.get("/own/look?last_event_id=5", last_event_id="7")
        await server.get("/own/look")
    first, second, third = seen
    assert first.args == {"a": "2", "b": "세", "last_event_id": "5"}
    assert first.headers["x-own"] == "yes"
    assert (first.path, first.remote_address) == ("/own/look", "127.0.0.1")
    assert (first.last_event_id, second.last_event_id, third.last_event_id) == ("5", "7", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "beat"),
    [
        ("format=text", b" "),
        ("format=text&heartbeat=0", b""),
        ("format=sse", b":\n"),
        ("format=ndjson", b"\n"),
        ("format=json", b" "),
        ("format=csv", b""),
    ],
)
@pytest.mark.gen_test
async def test_heartbeats_of_the_formats(tmp_path: Path, query: str, beat: bytes) -> None:
    """Between two records, and nowhere else."""

    async def slow(request: StreamRequest) -> AsyncGenerator[Item, None]:
        yield RECORDS[0]
        await asyncio.sleep(0.25)
        yield RECORDS[1]

    routes = routes_of(slow=generated(slow, title="Slow"))
    limits = Limits(heartbeat_seconds=0.1)
    async with serving(tmp_path, limits=limits, scan=False, routes=routes) as server:
        response = await server.get(f"/own/slow?{query}")
    name = re.findall("format=([a-z]+)", query)[0]
    quiet = response.body
    if beat:
        assert beat in (response.chunks or [])
        chunks = [chunk for chunk in response.chunks or [] if chunk != beat]
        quiet = b"".join(chunks)
    assert content(name, quiet) == RECORDS
    assert len(quiet) + 2 * len(beat) == len(response.body)


@pytest.mark.parametrize("heartbeat", ["2", "", "yes"])
@pytest.mark.gen_test
async def test_a_malformed_wish_for_heartbeats(tmp_path: Path, heartbeat: str) -> None:
    """400, as every flag."""
    async with serving(tmp_path, scan=False) as server:
        assert (await server.get(f"/stream?heartbeat={heartbeat}")).status == 400


@pytest.mark.gen_test
async def test_a_generator_of_the_wrong_type(tmp_path: Path, expect_log: ExpectLog) -> None:
    """A stream of bytes that yields a record is told at once, not left hanging."""
    expect_log("millrace", 40, "TypeError")

    async def wrong(request: StreamRequest) -> AsyncGenerator[bytes, None]:
        yield {"n": 1}  # type: ignore[misc]

    routes = routes_of(wrong=generated(wrong, title="Wrong", media_type="audio/wav"))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        assert (await server.get("/own/wrong")).status == 500


@pytest.mark.parametrize("name", ["text", "sse", "json"])
@pytest.mark.gen_test
async def test_lines_until_the_server_drains(tmp_path: Path, access_log: AccessLog, name: str) -> None:
    """Line by line, and a regular end; events say when to come back."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(request(f"/stream?sleep=0.02&format={name}", connection="close")) as client,
    ):
        await client.until(b" s] ", times=5)
        server.open_streams.drain()
        received, _ = await client.rest()
        await eventually(lambda: access_log.endings)
    response = Response.parsed(received)
    assert response.whole
    text = response.body.decode()
    if name == "sse":
        *lines, last, end = text.split("\n\n")
        assert re.fullmatch("retry: [0-9]+", last)
        assert end == ""
        lines = [line.partition("data: ")[2] for line in lines]
    elif name == "json":
        lines = json.loads(text)
    else:
        lines = text.splitlines()
        assert text.endswith("\n")
    assert all(re.match(r"\[ {9}0 s\] ", line) for line in lines)
    assert access_log.endings == [("drained", len(response.body))]


@pytest.mark.gen_test
async def test_events_go_on_behind_the_last_one(tmp_path: Path) -> None:
    """`lines` numbers its lines, and a client that comes back gets the next."""
    async with serving(tmp_path, scan=False) as server:
        for headers, first in (({}, b"id: 1\n"), ({"last_event_id": "41"}, b"id: 42\n")):
            async with server.connect(request("/stream?sleep=0&format=sse", **headers)) as client:
                await client.until(b"\n\n", times=2)
                assert client.received.partition(b"id: ")[2].startswith(first.removeprefix(b"id: "))


@pytest.mark.parametrize("target", ["/large.csv", "/stream/large.csv"])
@pytest.mark.gen_test
async def test_rows(tmp_path: Path, target: str) -> None:
    """As many as were asked for, in order, with a header."""
    async with serving(tmp_path, scan=False) as server:
        response = await server.get(f"{target}?rows=4500")
    rows = list(csv.DictReader(io.StringIO(response.body.decode(), newline="")))
    assert response.whole
    assert [int(row["id"]) for row in rows] == list(range(1, 4501))
    assert set(rows[0]) == {"id", "name", "quantity", "price", "day"}


@pytest.mark.gen_test
async def test_a_page_of_rows(tmp_path: Path) -> None:
    """Rendered as it is sent, to its end."""
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/my-large-page.html?rows=2500")
    page = response.body.decode()
    assert response.whole
    assert page.count("<tr") >= 2500
    assert page.rstrip().endswith("</html>")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in a task", "in a thread"])
@pytest.mark.parametrize("name", ["json", "ndjson", "csv", "sse"])
@pytest.mark.gen_test
async def test_draining_loses_no_item_that_was_made(tmp_path: Path, name: str, kind: str) -> None:
    """Of a client that reads slowly too: what waits for it is whole, and the end goes with it."""
    made = 0

    def numbers() -> Iterator[Item]:
        nonlocal made
        while True:
            yield {"n": made, "filling": "x" * 2000}
            made += 1

    async def in_a_task(request: StreamRequest) -> AsyncGenerator[Item, None]:
        for record in numbers():
            yield record

    def in_a_thread(request: StreamRequest) -> Iterator[Item]:
        yield from numbers()

    function = in_a_task if kind == "in a task" else in_a_thread
    routes = routes_of(numbers=generated(function, live=True))
    target = request(f"/own/numbers?format={name}", connection="close")
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(target, receive_bytes=8192) as client,
    ):
        await client.read(1000)
        await asyncio.sleep(0.2)  # until nothing more goes into the socket
        server.open_streams.drain()
        received, _ = await client.rest()
    response = Response.parsed(received)
    assert response.whole
    if name == "csv":
        body = [int(row["n"]) for row in csv.DictReader(io.StringIO(response.body.decode(), newline=""))]
    else:
        text = response.body.decode()
        lines = re.findall(r"^(?:data: )?({.*})$", text, re.MULTILINE)
        listed = json.loads(text) if name == "json" else list(map(json.loads, lines))
        body = [record["n"] for record in listed]
    assert body == list(range(len(body)))
    assert made - 1 <= len(body) <= made + 1


@pytest.mark.parametrize("count", [True, False])
@pytest.mark.gen_test
async def test_rows_are_counted(count: bool, tmp_path: Path) -> None:
    """For HEAD, too, and with the rest of them; who does not count says nothing of it."""
    select = "SELECT value AS id FROM json_each('[1,2,3]')"
    routes = routes_of(orders=rows("sqlite+aiosqlite://", select, key="id", count=count))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        for target, method in (
            ("/own/orders", "GET"),
            ("/own/orders", "HEAD"),
            ("/own/orders?after=2", "GET"),
        ):
            response = await server.get(target, method)
            assert (response.status, response.headers.get("X-Total-Count")) == (200, "3" if count else None)
        assert response.body == b"3\r\n"
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=absent"


@pytest.mark.gen_test
async def test_rows_go_on_behind_any_id(tmp_path: Path) -> None:
    """It comes in UTF-8, and behind the last there is nothing. What is no UTF-8 is an id that nobody gave."""
    select = 'SELECT value AS id FROM json_each(\'["강","바람"]\')'
    routes = routes_of(orders=rows("sqlite+aiosqlite://", select, key="id"))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        found = []
        for key in ("강".encode(), "바람".encode(), b"\xb0"):
            asked = request("/own/orders?format=sse", connection="close", last_event_id="KEY")
            response = await server.exchange(asked.replace(b"KEY", key))
            found.append((response.status, response.body.count(b"data: ")))
    assert found == [(200, 2), (204, 0), (200, 3)]
