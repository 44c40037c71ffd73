"""A user's stream in every format, through a real server and back through parsers that others wrote."""

import asyncio
import csv
import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import orjson
import pytest
import zstandard

from handlers.limits import Limits
from handlers.resource import FAILED, NOTHING_HERE
from media.generated import StreamRequest, generated
from media.records import FORMATS, Event, Item
from media.source import BadRequest, Busy, NotFound
from tests.conftest import AccessLog, ExpectLog
from tests.handlers.test_stream import routes_of
from tests.serving import Client, Response, eventually, request, serving

ODD: list[dict[str, Any]] = [
    {"id": 1, "text": 'a, "b"\r\nc\n\rd; e\ttab', "n": 2**63, "more": None},
    {"id": 2, "text": "=1+1", "n": 2**64, "more": {"a": [1, {"b": None}], "c": 'x"y'}},
    {"id": 3, "text": "🎵 바람 \u2028 \0", "n": -(10**40), "more": Decimal("1.10")},
    {"id": 4, "text": "", "n": 0.1, "more": date(2024, 2, 29)},
    {"id": 5, "text": " \n", "n": True, "more": datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)},
    {"id": 6, "text": "data: x\n\nid: 7", "n": float("nan"), "more": [1, "a"]},
]
AS_JSON = [
    {**record, "n": None if record["n"] != record["n"] else record["n"], "more": more}
    for record, more in zip(
        ODD,
        [None, ODD[1]["more"], "1.10", "2024-02-29", "2024-02-29T01:02:03+00:00", [1, "a"]],
        strict=True,
    )
]
AS_FIELDS = [
    [str(record["id"]), record["text"], n, more]
    for record, n, more in zip(
        ODD,
        [str(2**63), str(2**64), str(-(10**40)), "0.1", "true", "nan"],
        [
            "",
            '{"a":[1,{"b":null}],"c":"x\\"y"}',
            "1.10",
            "2024-02-29",
            "2024-02-29T01:02:03+00:00",
            '[1,"a"]',
        ],
        strict=True,
    )
]


def odd(request: StreamRequest) -> Iterator[Item]:
    """From a thread."""
    yield from ODD


async def odd_async(request: StreamRequest) -> AsyncIterator[Item]:
    """From a task."""
    for record in ODD:
        yield record
        await asyncio.sleep(0)


def events_of(body: bytes) -> list[httpx_sse.ServerSentEvent]:
    """As httpx-sse reads them."""
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=body)
    return list(httpx_sse.EventSource(response).iter_sse())


def items_of(form: str, body: bytes) -> list[Any]:
    """The items of a whole body, as the format's own parser gives them."""
    text = body.decode("utf-8")
    match form:
        case "csv":
            return list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:]
        case "json":
            assert isinstance(orjson.loads(body), list)  # the stricter one, which keeps no large integers
            return list(json.loads(text))
        case "sse":
            *events, end = events_of(body)
            assert (end.event, end.id, end.data) == ("end", "(end)", "{}")
            return [json.loads(event.data) for event in events]
    # Only where lines of NDJSON end: a text may hold other line breaks.
    lines = [line for line in text.split("\n") if line.strip()]
    for line in lines:
        orjson.loads(line)
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_odd_values_come_back(tmp_path: Path, form: str, coding: str) -> None:
    """From tasks and threads, coded or not; what looks like a formula is sent as it is."""
    routes = routes_of(odd=generated(odd), odd_async=generated(odd_async))
    decode: Mapping[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
        "": bytes,
    }
    async with serving(tmp_path, scan=False, routes=routes) as server:
        for name in ("odd", "odd_async"):
            target = f"/own/{name}?format={form}"
            response = await server.get(target, accept_encoding=coding)
            head = await server.get(target, "HEAD", accept_encoding=coding)
            expected = "" if form == "sse" or coding == "identity" else coding
            assert response.headers.get("Content-Encoding", "") == expected
            assert response.headers["Vary"] == ("Accept" if form == "sse" else "Accept, Accept-Encoding")
            assert response.whole
            body = decode[expected](response.body)
            assert items_of(form, body) == (AS_FIELDS if form == "csv" else AS_JSON)
            for each in (response, head):
                del each.headers["Date"], each.headers["X-Request-Id"]
                each.headers.pop("Transfer-Encoding", "")
            assert head.headers == response.headers
            assert b"=1+1" in body


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_lines_and_events_come_back(tmp_path: Path, form: str) -> None:
    """A text of several lines is one event, one string, one field; as text it is its lines."""

    async def lines(request: StreamRequest) -> AsyncIterator[Item]:
        yield "a\nb"
        yield Event("c", id="7", event="tick", retry=2500)
        yield Event({"d": 1})

    if form == "csv":  # lines have one column, records have others

        async def lines(request: StreamRequest) -> AsyncIterator[Item]:
            yield "a\nb"
            yield Event("c", id="7", event="tick", retry=2500)

    async with serving(tmp_path, scan=False, routes=routes_of(lines=generated(lines))) as server:
        body = (await server.get(f"/own/lines?format={form}")).body
    match form:
        case "text":
            assert body == b'a\nb\nc\n{"d":1}\n'
        case "csv":
            assert items_of("csv", body) == [["a\nb"], ["c"]]
        case "sse":
            events = [(event.event, event.data, event.id, event.retry) for event in events_of(body)]
            assert events[:3] == [
                ("message", "a\nb", "1", None),
                ("tick", "c", "7", 2500),
                ("message", '{"d":1}', "3", None),
            ]
        case _:
            assert items_of(form, body) == ["a\nb", "c", {"d": 1}]


# --- an array of every length ---


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_an_array_of_every_length(tmp_path: Path, length: int, kind: str) -> None:
    """It is one, also with nothing in it."""

    async def task(request: StreamRequest) -> AsyncIterator[Item]:
        for number in range(length):
            yield {"n": number}

    def thread(request: StreamRequest) -> Iterator[Item]:
        return ({"n": number} for number in range(length))

    async with serving(tmp_path, scan=False, routes=routes_of(own=generated(locals()[kind]))) as server:
        response = await server.get("/own/own?format=json")
    assert response.whole
    assert orjson.loads(response.body) == [{"n": number} for number in range(length)]


@pytest.mark.slow
@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_a_live_array_is_whole_wherever_the_server_drains(
    tmp_path: Path, kind: str, coding: str
) -> None:
    """Before its first item, behind any of them, and between two that were made together."""
    began = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    lengths = (0, 1, 2, 5, 1000)

    async def task(request: StreamRequest) -> AsyncIterator[Item]:
        for number in range(int(request.args["n"])):
            yield {"n": number}
        began.release()
        await asyncio.sleep(60)

    def thread(request: StreamRequest) -> Iterator[Item]:
        yield from ({"n": number} for number in range(int(request.args["n"])))
        loop.call_soon_threadsafe(began.release)
        asyncio.run_coroutine_threadsafe(gone.wait(), loop).result()

    gone = asyncio.Event()
    routes = routes_of(own=generated(locals()[kind], live=True))
    targets = [f"/own/own?format=json&n={length}" for length in lengths]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        bodies = [asyncio.ensure_future(server.get(target, accept_encoding=coding)) for target in targets]
        for _ in targets:
            await began.acquire()
        server.open_streams.drain()
        responses = await asyncio.gather(*bodies)
        gone.set()
    for length, response in zip(lengths, responses, strict=True):
        assert (response.status, response.whole) == (200, True)
        body = gzip.decompress(response.body) if coding == "gzip" else response.body
        assert orjson.loads(body) == [{"n": number} for number in range(length)]


# --- heartbeats ---


@pytest.mark.slow
@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.gen_test
async def test_heartbeats_are_harmless_to_parsers(tmp_path: Path, coding: str) -> None:
    """Before the first item, between two, behind the last: as they come, read by the format's own parser."""
    released = [asyncio.Event() for _ in range(3)]

    async def slow(request: StreamRequest) -> AsyncIterator[Item]:
        for number, event in enumerate(released):
            await event.wait()
            if number < 2:
                yield {"id": number, "text": "a\nb"}

    routes = routes_of(slow=generated(slow))
    limits = Limits(heartbeat_seconds=0.1)
    async with serving(tmp_path, limits=limits, scan=False, routes=routes) as server:
        bodies = {
            form: asyncio.ensure_future(server.get(f"/own/slow?format={form}", accept_encoding=coding))
            for form in FORMATS
        }
        await asyncio.sleep(1.4)  # the headers go out after a second, and then there is a heartbeat
        for event in released:
            event.set()
            await asyncio.sleep(0.4)
        responses = {form: await body for form, body in bodies.items()}
    for form, response in responses.items():
        assert response.whole
        coded = "Content-Encoding" in response.headers
        assert coded == (coding == "gzip" and form != "sse")
        body = gzip.decompress(response.body) if coded else response.body
        beat = FORMATS[form].heartbeat
        assert body.startswith(beat)
        assert not beat or len(response.chunks or []) >= 6
        expected = [{"id": 0, "text": "a\nb"}, {"id": 1, "text": "a\nb"}]
        assert items_of(form, body) == ([["0", "a\nb"], ["1", "a\nb"]] if form == "csv" else expected)


# --- as they come ---


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_each_item_is_seen_when_it_is_made(tmp_path: Path, kind: str, coding: str) -> None:
    """In every format: the next one is not made before the client has decoded this one."""
    queues: dict[str, asyncio.Queue[int]] = {form: asyncio.Queue() for form in FORMATS}
    loop = asyncio.get_running_loop()

    async def task(request: StreamRequest) -> AsyncIterator[Item]:
        while number := await queues[request.args["format"]].get():
            yield {"n": f"<{number}>"}

    def thread(request: StreamRequest) -> Iterator[Item]:
        queue = queues[request.args["format"]]
        while number := asyncio.run_coroutine_threadsafe(queue.get(), loop).result():
            yield {"n": f"<{number}>"}

    async def follow(client: Client, form: str) -> None:
        for number in range(1, 6):
            queues[form].put_nowait(number)
            while f"<{number}>".encode() not in _so_far(client):
                assert await client.read()
        queues[form].put_nowait(0)
        await client.rest()
        assert Response.parsed(client.received).whole

    routes = routes_of(own=generated(locals()[kind]))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        for form in FORMATS:
            wanted = request(f"/own/own?format={form}", accept_encoding=coding, connection="close")
            async with server.connect(wanted) as client:
                await follow(client, form)


def _so_far(client: Client) -> bytes:
    if b"\r\n\r\n" not in client.received:
        return b""
    response = Response.parsed(client.received)
    match response.headers.get("Content-Encoding"):
        case "gzip":
            return zlib.decompressobj(31).decompress(response.body)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(response.body)
    return response.body


# --- errors ---

EARLY: dict[str, tuple[BaseException, int, str, str | None]] = {
    # what the function raises, status, detail, Retry-After
    "not_found": (NotFound("There is no sensor 7."), 404, "There is no sensor 7.", None),
    "not_found_without_words": (NotFound(), 404, NOTHING_HERE, None),
    "bad_request": (BadRequest("since must be a day"), 400, "since must be a day", None),
    "busy": (Busy("Ten exports run.", retry_after=30), 503, "Ten exports run.", "30"),
    "busy_without_words": (Busy(), 503, "The server is busy; try again later.", "1"),
    "busy_for_a_moment": (Busy(retry_after=0.2), 503, "The server is busy; try again later.", "1"),  # type: ignore[arg-type]
    "bug": (ZeroDivisionError("a secret"), 500, FAILED, None),
    "exit": (SystemExit("a secret"), 500, FAILED, None),
    "cancelled": (asyncio.CancelledError("a secret"), 500, FAILED, None),
}


@pytest.mark.parametrize("case", EARLY)
@pytest.mark.gen_test
async def test_an_error_before_the_first_item_is_a_status(
    tmp_path: Path, expect_log: ExpectLog, case: str
) -> None:
    """In every format, and in each kind of function; the user's words if they are meant for the client."""
    error, status, detail, retry_after = EARLY[case]
    if status >= 500:
        expect_log("millrace", 40 if status == 500 else 30, type(error).__name__)

    async def task(request: StreamRequest) -> AsyncIterator[Item]:
        raise error
        yield {}

    def thread(request: StreamRequest) -> Iterator[Item]:
        raise error
        yield {}

    async def result(request: StreamRequest) -> list[Item]:
        raise error

    routes = routes_of(task=generated(task), thread=generated(thread), result=generated(result))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        for name in ("task", "thread", "result"):
            for form in FORMATS:
                response = await server.get(f"/own/{name}?format={form}", accept_encoding="gzip")
                problem = json.loads(response.body)
                assert (response.status, problem["detail"]) == (status, detail)
                assert response.headers["Content-Type"] == "application/problem+json"
                assert response.headers.get("Retry-After") == retry_after
                assert b"secret" not in response.body
            head = await server.get(f"/own/{name}", "HEAD")
            assert head.status == 200  # nothing has been asked to begin


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a secret"), NotFound("It has gone.")], ids=["bug", "gone"]
)
@pytest.mark.gen_test
async def test_an_error_behind_an_item_is_an_honest_end(
    tmp_path: Path, expect_log: ExpectLog, access_log: AccessLog, version: str, error: Exception
) -> None:
    """The items arrive, and no body looks whole; events say why."""
    bug = isinstance(error, ZeroDivisionError)
    expect_log("millrace.serve", 40 if bug else 30, type(error).__name__)

    async def task(request: StreamRequest) -> AsyncIterator[Item]:
        yield {"n": 1}
        await asyncio.sleep(0.01)
        raise error

    def thread(request: StreamRequest) -> Iterator[Item]:
        yield {"n": 1}
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result()
        raise error

    loop = asyncio.get_running_loop()
    routes = routes_of(task=generated(task), thread=generated(thread))
    async with serving(tmp_path, scan=False, routes=routes) as server:
        for name in ("task", "thread"):
            for form in FORMATS:
                ask = partial(request, f"/own/{name}?format={form}", version=version)
                response = await server.exchange(ask(connection="close"))
                assert response.status == 200
                assert response.reset if version == "1.0" else not response.whole
                begun = {"json": b'[{"n":1}', "csv": b"n\r\n1\r\n", "sse": b'id: 1\ndata: {"n":1}\n\n'}
                expected = begun.get(form, b'{"n":1}\n')
                if form != "sse":
                    assert expected == response.body
                    continue
                _, told = events_of(response.body)
                assert response.body.startswith(expected)
                assert told.event == "error"
                words = (500, FAILED) if bug else (404, "It has gone.")
                assert (told.json()["status"], told.json()["detail"]) == words
        await eventually(lambda: len(access_log) == 2 * len(FORMATS))
    assert {outcome for outcome, _ in access_log.endings} == {"failed"}
