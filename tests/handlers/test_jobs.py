"""Shared streams and jobs over HTTP: who begins them, who follows them, and what is said of them."""

import asyncio
import json
import os
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from handlers import pump
from handlers.cors import Cors
from handlers.limits import Limits
from handlers.writers import Writers
from media import runs
from media import shared as shared_streams
from media.channel import History
from media.generated import Stream, StreamRequest
from media.records import Event
from media.shared import shared
from media.source import Busy, NotFound, SourceBroken
from tests.conftest import AccessLog, ExpectLog
from tests.serving import Client, Response, Server, eventually, request, serving

MIB = 1024 * 1024
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
WARNING, ERROR = 30, 40


class Function:
    """A user's function that a test leads by the hand: it yields what is put in."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        self.requests: list[StreamRequest] = []
        self.running = 0

    async def __call__(self, request: StreamRequest) -> AsyncGenerator[Any, None]:
        """Items, as a test puts them in."""
        self.requests.append(request)
        self.running += 1
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.running -= 1

    def put(self, *items: Any) -> None:
        """Have these yielded; None ends it, an exception is raised."""
        for item in items:
            self.items.put_nowait(item)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def count(request: StreamRequest, *, to: int = 10) -> AsyncGenerator[Any, None]:
    """Numbers from 0 on."""
    for n in range(to):
        yield {"n": n}


def asked(target: str = "s", method: str = "GET", **headers: str) -> bytes:
    """A request on a connection that ends with it; as SSE, if the target does not say otherwise."""
    return request(
        f"/stream/{target}", method, **{"accept": "text/event-stream", "connection": "close", **headers}
    )


async def following(server: Server, count: int, name: str = "s") -> None:
    """Wait until so many are."""
    await eventually(lambda: facts(server, name)["subscribers"] == count)
    await asyncio.sleep(0)


def facts(server: Server, name: str = "s") -> dict[str, Any]:
    found = server.resources.streams[name].runs
    assert found is not None
    return found.facts()


def events(stream: bytes) -> list[tuple[str, str, str]]:
    """Those of a stream of SSE: name, id and data."""
    found = []
    for block in stream.decode().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.split("\n"))
        if "data" in fields:
            found.append((fields.get("event", ""), fields.get("id", ""), fields["data"]))
    return found


def data_of(stream: bytes) -> list[Any]:
    """What the events of a run hold, in the order in which they came."""
    return [json.loads(data) for name, _, data in events(stream) if not name]


async def ended(client: Client) -> Response:
    """The response, read to its end."""
    received, reset = await client.rest()
    return Response.parsed(received, reset=reset)


async def post(
    server: Server, target: str = "s", body: bytes = b"", media_type: str = "", **headers: str
) -> Response:
    """Start a job."""
    if media_type:
        headers["content_type"] = media_type
    return await server.exchange(asked(target, "POST", content_length=str(len(body)), **headers) + body)


# --- one generator for all ---


@pytest.mark.gen_test
async def test_one_generator_is_for_all(tmp_path: Path) -> None:
    """The first sees everything, those after it what comes then, and the end ends them all."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function)}) as server:
        async with server.connect(asked()) as first, server.connect(asked()) as second:
            await eventually(lambda: function.requests)
            function.put("a")
            await following(server, 2)
            await first.until(b"data: a\n\n")
            async with (
                server.connect(asked()) as third,
                server.connect(asked("s?last_event_id=earliest")) as fourth,
            ):
                await following(server, 4)
                function.put(Event({"b": 1}, event="x"), None)
                responses = [await ended(client) for client in (first, second, third, fourth)]
        assert [response.whole for response in responses] == [True] * 4
        seen = [[(name, data) for name, _, data in events(response.body)] for response in responses]
        rest = [("x", '{"b":1}'), ("end", "{}")]
        assert seen[0] == seen[3] == [("", "a"), *rest]
        assert seen[2] == rest
        assert (len(function.requests), function.running) == (1, 0)


MESSAGES = (
    '{"id":"ID-1","event":"message","data":{"n":0}}',
    '{"id":"ID-2","event":"message","data":{"n":1}}',
    '{"id":"(end)","event":"end","data":{}}',
)
SSE = 'id: ID-1\ndata: {"n":0}\n\nid: ID-2\ndata: {"n":1}\n\nevent: end\nid: (end)\ndata: {}\n\n'


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("s?format=text", '{"n":0}\n{"n":1}\n'),
        ("s?format=ndjson", "".join(f"{message}\n" for message in MESSAGES)),
        ("s?format=sse", SSE),
    ],
)
@pytest.mark.parametrize("rate_limit", [0, 10 * MIB], ids=["followed", "paced"])
@pytest.mark.gen_test
async def test_it_comes_in_every_format_of_a_channel(
    tmp_path: Path, target: str, expected: str, rate_limit: int
) -> None:
    """Also to who is sent it the ordinary way. The end is an event, but where there are only lines."""
    streams = {"s": shared(lambda request: iter([{"n": 0}, {"n": 1}]))}
    async with serving(tmp_path, scan=False, channels=streams, rate_limit=rate_limit) as server:
        response = await server.exchange(asked(target, accept="*/*"))
    assert response.whole
    body = re.sub(r"\b[0-9a-f]{10,16}-", "ID-", response.body.decode())
    if "sse" in target:
        _, _, body = body.partition("\n\n")
        assert body.startswith("id: ID-")
        body = re.sub(r"^retry.*\n\n|^id: ID-0\n\n", "", body)
    assert body.endswith(expected)


@pytest.mark.parametrize("rate_limit", [0, 10 * MIB], ids=["followed", "paced"])
@pytest.mark.gen_test
async def test_polls_come_to_the_end(tmp_path: Path, rate_limit: int) -> None:
    """Each goes on with the id of the one before."""
    streams = {"s": shared(lambda request: iter([{"n": 0}, {"n": 1}]))}
    polled, last = [], ""
    async with serving(tmp_path, scan=False, channels=streams, rate_limit=rate_limit) as server:
        while last != "(end)":
            response = await server.exchange(asked(f"s?format=json&wait=60&last_event_id={last}"))
            answer = json.loads(response.body)
            last = answer["last_event_id"]
            polled += [event["data"] for event in answer["events"]]
    assert polled == [{"n": 0}, {"n": 1}, {}]


@pytest.mark.parametrize("last_event_id", ["(end)", "newest"])
@pytest.mark.gen_test
async def test_who_has_seen_the_end_is_told_so(tmp_path: Path, last_event_id: str) -> None:
    """An EventSource stops on 204; the function is not called again."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function)}) as server:
        function.put("a", "b", None)
        response = await server.exchange(asked())
        last = events(response.body)[-2][1]
        if last_event_id == "newest":  # the end is still to come
            again = await server.exchange(asked(last_event_id=last))
            assert [name for name, _, _ in events(again.body)] == ["end"]
        assert (await server.exchange(asked(last_event_id="(end)"))).status == 204
        assert len(function.requests) == 1


@pytest.mark.gen_test
async def test_a_run_that_has_ended_is_for_who_comes_back(tmp_path: Path) -> None:
    """Behind an id there is its rest; without one, a new run begins."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function)}) as server:
        function.put("a", "b", None)
        ids = [id_ for _, id_, _ in events((await server.exchange(asked())).body)]
        rest = await server.exchange(asked(last_event_id=ids[0]))
        assert [data for _, _, data in events(rest.body)] == ["b", "{}"]
        function.put("c", None)
        fresh = await server.exchange(asked())
        assert [data for _, _, data in events(fresh.body)] == ["c", "{}"]
        function.put("d", None)
        gap = events((await server.exchange(asked(last_event_id=ids[0]))).body)
        assert [name for name, _, _ in gap] == ["gap", "", "end"]
        assert json.loads(gap[0][2]) == {"last_event_id": ids[0], "first_id": None}
        assert len(function.requests) == 3


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (NotFound("No such city."), 404, "No such city."),
        (Busy("Later.", retry_after=7), 503, "Later."),
        (SourceBroken("the database"), 502, "could not be read"),
        (ZeroDivisionError("mine"), 500, "The server failed"),
        (b"bytes", 500, "The server failed"),
        (Event("x", event="gap"), 500, "The server failed"),
        (Event("x", event="a\nb"), 500, "The server failed"),
        (SystemExit(3), 500, "The server failed"),
        (asyncio.CancelledError(), 500, "The server failed"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("target", ["s", "s?format=json"])
@pytest.mark.gen_test
async def test_a_failing_start_is_a_status(
    tmp_path: Path, target: str, error: Any, status: int, detail: str, expect_log: ExpectLog
) -> None:
    """For all who wait for it, and forgotten: the next client calls the function again."""
    function = Function()
    if status == 500:
        expect_log("millrace.shared", ERROR, "/stream/s failed")
    if status >= 500:
        expect_log("millrace", WARNING, f"{status}: ")
    async with serving(tmp_path, scan=False, channels={"s": shared(function)}) as server:
        async with server.connect(asked(target)) as first, server.connect(asked(target)) as second:
            await eventually(lambda: function.requests and facts(server)["subscribers"] == 2)
            function.put(error)
            for client in (first, second):
                response = await ended(client)
                assert (response.status, response.headers["Content-Type"]) == (
                    status,
                    "application/problem+json",
                )
                assert detail in json.loads(response.body)["detail"]
        function.put("a", None)
        assert (await server.exchange(asked())).status == 200
    assert (len(function.requests), function.running) == (2, 0)


@pytest.mark.gen_test
async def test_a_failure_breaks_off(tmp_path: Path, expect_log: ExpectLog, access_log: AccessLog) -> None:
    """An event stream is told; who comes back gets a status and stops; the next client begins anew."""
    function = Function()
    expect_log("millrace.shared", ERROR, "ZeroDivisionError: mine")
    expect_log("millrace.serve", WARNING, "broke off: SourceFailed: /stream/s failed")
    expect_log("millrace", WARNING, "500: SourceFailed")
    async with serving(tmp_path, scan=False, channels={"s": shared(function)}) as server:
        async with server.connect(asked()) as sse, server.connect(asked("s?format=text")) as text:
            await following(server, 2)
            function.put("a", ZeroDivisionError("mine"))
            sse_response, text_response = await ended(sse), await ended(text)
        assert not sse_response.whole
        assert not text_response.whole
        assert text_response.body == b"a\n"
        first, error = events(sse_response.body)
        assert error[0] == "error"
        assert json.loads(error[2])["status"] == 500
        assert (await server.exchange(asked(last_event_id=first[1]))).status == 500
        assert (await server.exchange(asked("s?format=json", last_event_id=first[1]))).status == 500
        assert len(function.requests) == 1
        function.put("b", None)
        assert [data for _, _, data in events((await server.exchange(asked())).body)] == ["b", "{}"]


@pytest.mark.gen_test
async def test_head_starts_nothing(tmp_path: Path) -> None:
    """It has the headers of a GET."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function)}) as server:
        response = await server.exchange(asked(method="HEAD"))
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        assert facts(server) == {"running": 0, "subscribers": 0, "published": 0}
    assert function.requests == []


@pytest.mark.gen_test
async def test_headers_do_not_wait_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a client that leaves meanwhile hold anything."""
    monkeypatch.setattr(pump, "HEADERS_SECONDS", 0.05)
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, linger=0)}) as server:
        async with server.connect(asked()) as client:
            await client.until(b"\r\n\r\n")
            assert b" 200 " in client.received
        await eventually(lambda: not function.running)
        monkeypatch.setattr(pump, "HEADERS_SECONDS", 60)
        async with server.connect(asked()):
            await eventually(lambda: function.running)
        await eventually(lambda: not function.running)
        assert facts(server) == {"running": 0, "subscribers": 0, "published": 0}


@pytest.mark.gen_test
async def test_a_poll_begins_it_and_goes_on_by_id(tmp_path: Path) -> None:
    """A poll that does not wait does so for the first item."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function)}) as server:
        function.put("a")
        answer = json.loads((await server.exchange(asked("s?format=json"))).body)
        assert [event["data"] for event in answer["events"]] == ["a"]
        last = answer["last_event_id"]
        async with server.connect(asked(f"s?format=json&wait=60&last_event_id={last}")) as client:
            await following(server, 1)
            function.put("b")
            answer = json.loads((await ended(client)).body)
        assert [event["data"] for event in answer["events"]] == ["b"]
        last = answer["last_event_id"]
        async with server.connect(asked(f"s?format=json&wait=60&last_event_id={last}")) as client:
            await following(server, 1)
            function.put(None)
            answer = json.loads((await ended(client)).body)
        assert answer["last_event_id"] == "(end)"
        assert (await server.exchange(asked("s?format=json&wait=60&last_event_id=(end)"))).status == 204


# --- who has left ---


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_the_generator_is_closed_when_it_has_nobody(tmp_path: Path) -> None:
    """A while after the last client has left; one that comes back before goes on with it."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, linger=0.5)}) as server:
        function.put("a")
        async with server.connect(asked()) as client:
            await client.until(b"data: a\n\n")
        await following(server, 0)
        function.put("b")
        async with server.connect(asked(last_event_id=events(client.received)[-1][1])) as client:
            await client.until(b"data: b\n\n")
        await following(server, 0)
        assert function.running == 1
        assert await eventually(lambda: not function.running) < 0.5 + 1
        assert facts(server) == {"running": 0, "subscribers": 0, "published": 2}
        assert len(function.requests) == 1


@pytest.mark.gen_test
async def test_a_generator_that_does_not_close_is_told_of(
    tmp_path: Path, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is forgotten all the same: the next client gets another."""
    monkeypatch.setattr(runs, "CLEANUP_SECONDS", 0.05)
    expect_log("millrace.shared", WARNING, "/stream/s is still open 0.05 s after it was cancelled")
    closing, closed = asyncio.Event(), asyncio.Event()

    async def slow(request: StreamRequest) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await asyncio.sleep(60)
        finally:
            closing.set()
            await closed.wait()

    async with serving(tmp_path, scan=False, channels={"s": shared(slow, linger=0)}) as server:
        for _ in range(2):
            async with server.connect(asked()) as client:
                await client.until(b"data: a\n\n")
            await closing.wait()
            closing.clear()
        await asyncio.sleep(0.1)
        closed.set()


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_clients_that_are_killed_leave_nothing(tmp_path: Path) -> None:
    """At 50 random points, before the headers, within them, and behind any number of items."""

    async def busy(request: StreamRequest, *, name: str) -> AsyncGenerator[Any, None]:
        while True:
            yield {"name": name, "filling": "x" * 100}
            await asyncio.sleep(0.001)

    seed = random.randrange(10**9)
    chance = random.Random(seed)
    streams = {"s": shared(busy, linger=0.1, key="name"), "job": shared(busy, key="name", detached=True)}
    async with serving(tmp_path, scan=False, channels=streams) as server:
        assert (await post(server, "job?name=x")).status == 202
        before, tasks = descriptors(), len(asyncio.all_tasks())
        for _ in range(50):
            target = (
                chance.choice(["s", "job"]) + "?name=" + chance.choice("xy" if chance.random() < 0.2 else "x")
            )
            form = chance.choice(["", "&format=text", "&format=ndjson", "&format=json&wait=5"])
            async with server.connect(asked(target + form)) as client:
                wanted = chance.choice([0, 1, 100, 5000])
                while len(client.received) < wanted and await client.read(1000):
                    pass
                if chance.random() < 0.5:
                    client.reset()
        took = await eventually(lambda: len(asyncio.all_tasks()) == tasks and descriptors() == before)
        assert took < 1, seed
        assert facts(server) == {"running": 0, "subscribers": 0, "published": facts(server)["published"]}
        assert facts(server, "job")["running"] == 1
        assert (await server.exchange(asked("job?name=x", "DELETE"))).status == 204


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_a_thousand_followers_share_one_generator(tmp_path: Path) -> None:
    """Each of them sees every item, in order."""
    function = Function()
    streams = {"s": shared(function)}
    async with serving(
        tmp_path, scan=False, channels=streams, limits=Limits(most_streams_per_client=0)
    ) as server:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(server.connect(asked("s?format=text"))) for _ in range(1000)
            ]
            await following(server, 1000)
            for n in range(20):
                function.put(f"line {n}")
            function.put(None)
            bodies = [(await ended(client)).body for client in clients]
        assert Counter(bodies) == {b"".join(b"line %d\n" % n for n in range(20)): 1000}
        assert len(function.requests) == 1


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_a_tight_generator_outruns_nobody(tmp_path: Path, access_log: AccessLog) -> None:
    """It never waits for anything; who reads is sent all of it, and a request beside it is answered."""
    many, begun = 200_000, asyncio.Event()

    async def tight(request: StreamRequest) -> AsyncGenerator[Any, None]:
        await begun.wait()
        for n in range(many):
            yield {"n": n, "filling": "x" * 80}

    async def read(client: Client) -> tuple[int, bool]:
        lines = 0
        rest = b""
        while more := await client.read(MIB):
            client.received = b""
            lines += more.count(b'"n":')
            rest = (rest + more)[-20:]
        return lines, rest.endswith(b"0\r\n\r\n")

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, scan=False, channels={"s": shared(tight)}))
        targets = ("s?format=ndjson", "s?format=text", "s?format=sse")
        clients = [await stack.enter_async_context(server.connect(asked(target))) for target in targets]
        reading = [asyncio.create_task(read(client)) for client in clients]
        await following(server, 3)
        begun.set()
        assert (await server.get("/healthz")).status == 200
        assert await asyncio.gather(*reading) == [(many, True)] * 3
    await eventually(lambda: len(access_log) == 4)
    assert {outcome for outcome, _ in access_log.endings} == {"complete"}


# --- keys ---


@pytest.mark.gen_test
async def test_each_value_of_a_key_has_a_generator(tmp_path: Path) -> None:
    """It is checked before anything begins, and /streams lists it."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, key="city")}) as server:
        async with (
            server.connect(asked("s?city=a")),
            server.connect(asked("s?city=b")),
            server.connect(asked("s?city=a&x=1")),
        ):
            await following(server, 3)
            await eventually(lambda: len(function.requests) == 2)
            assert facts(server)["running"] == 2
        for target, detail in (
            ("s", "city must be given"),
            ("s?city=", "city must"),
            ("s?city=" + "x" * 201, "200 characters"),
        ):
            response = await server.exchange(asked(target))
            assert response.status == 400
            assert detail in json.loads(response.body)["detail"]
        listed = {
            stream["name"]: stream for stream in json.loads((await server.get("/streams")).body)["streams"]
        }
        assert listed["s"]["shared"]["running"] == 2


@pytest.mark.gen_test
async def test_there_are_no_more_runs_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """One that has ended makes room; beyond that it is busy."""
    expect_log("millrace", WARNING, "503: Busy")
    monkeypatch.setattr(shared_streams, "MOST_RUNS", 2)
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, key="k")}) as server:
        function.put("a", None)
        await server.exchange(asked("s?k=over"))
        async with server.connect(asked("s?k=1")), server.connect(asked("s?k=2")):
            await following(server, 2)
            response = await server.exchange(asked("s?k=3"))
            assert (response.status, response.headers["Retry-After"]) == (503, "1")


# --- jobs ---


@pytest.mark.gen_test
async def test_a_job_goes_on_without_anybody(tmp_path: Path) -> None:
    """Three watch it and are cut, two come back by id: every item once; its result is there afterwards."""
    function = Function()
    async with serving(
        tmp_path, scan=False, channels={"s": shared(function, detached=True, linger=0)}
    ) as server:
        function.put({"n": 0}, {"n": 1})
        started = await post(server)
        said = json.loads(started.body)
        assert (started.status, started.headers["Location"]) == (202, "/stream/s")
        assert (said["state"], said["url"], said["ended"]) == ("running", "/stream/s", None)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.connect(asked())) for _ in range(3)]
            for client in clients:
                await client.until(b'data: {"n":1}\n\n')
            function.put({"n": 2})
            for client in clients:
                await client.until(b'data: {"n":2}\n\n')
                client.reset()
        await following(server, 0)
        function.put({"n": 3})
        await eventually(lambda: facts(server)["published"] == 4)
        for client in clients[:2]:
            last = events(client.received)[-1][1]
            async with server.connect(asked(last_event_id=last)) as again:
                await again.until(b'data: {"n":3}\n\n')
                function.put(*[None] * (client is clients[1]))
                if client is clients[1]:
                    await again.rest()
            assert data_of(client.received) + data_of(again.received) == [{"n": n} for n in range(4)]
        result = await server.exchange(asked())
        assert result.whole
        assert data_of(result.body) == [{"n": n} for n in range(4)]
        said = json.loads((await post(server)).body)
        assert (said["state"], said["items"], said["last_event_id"]) == ("ended", 4, "(end)")
        assert said["began"] <= said["ended"]
    assert len(function.requests) == 1


@pytest.mark.parametrize(
    ("media_type", "body", "args"),
    [
        ("", b"", {"x": "1"}),
        (FORM, b"x=2&y=%C3%A4+b&z=", {"x": "2", "y": "ä b", "z": ""}),
        (
            JSON,
            b'{"x": 2.5, "y": "z", "n": null, "b": true, "l": [1]}',
            {"x": "2.5", "y": "z", "b": "true", "l": "[1]"},
        ),
    ],
)
@pytest.mark.gen_test
async def test_a_job_has_arguments(
    tmp_path: Path, media_type: str, body: bytes, args: dict[str, str], expect_log: ExpectLog
) -> None:
    """From the query, a form or JSON."""
    expect_log("millrace.shared", WARNING, "/stream/s a%20b: the job is cancelled, for the server ends")
    function = Function()
    function.put("a")
    async with serving(
        tmp_path, scan=False, channels={"s": shared(function, detached=True, key="k")}
    ) as server:
        response = await post(server, "s?k=a%20b&x=1", body, media_type)
        assert (response.status, response.headers["Location"]) == (202, "/stream/s?k=a%20b")
    [called] = function.requests
    assert (called.args, called.method) == ({"k": "a b", **args}, "POST")


@pytest.mark.parametrize(
    ("target", "media_type", "body", "status", "detail"),
    [
        ("s", "", b"", 400, "k must be given"),
        ("s?k=1", "text/plain", b"x", 415, "x-www-form-urlencoded or application/json, not text/plain"),
        ("s?k=1", "", b"x", 415, "not absent"),
        ("s?k=1", JSON, b"[1]", 400, "an object of JSON"),
        ("s?k=1", JSON, b"{", 400, "one object of JSON"),
        ("s?k=1", FORM, b"a=%FF", 400, "percent-encoded UTF-8"),
        ("s?k=1", FORM, b"a=" + b"x" * 65536, 413, "at most 65536 bytes"),
        ("s?k=1&to=x", "", b"", 400, "to must be a valid integer"),
        ("s?k=1&again=x", "", b"", 400, "again must be 0 or 1"),
    ],
)  # fmt: skip
@pytest.mark.gen_test
async def test_a_job_that_cannot_be_started(
    tmp_path: Path, target: str, media_type: str, body: bytes, status: int, detail: str
) -> None:
    """The answer says why, and nothing is left of it."""
    async with serving(tmp_path, scan=False, channels={"s": shared(count, detached=True, key="k")}) as server:
        response = await post(server, target, body, media_type)
        assert response.status == status
        assert detail in json.loads(response.body)["detail"]
        assert (await server.exchange(asked("s?k=1"))).status == 404


@pytest.mark.gen_test
async def test_a_job_is_started_once(
    tmp_path: Path, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started again it is as it was; one that failed is begun anew, and so is any with again=1."""
    monkeypatch.setattr("handlers.jobs.HEADERS_SECONDS", 0.05)
    expect_log("millrace.shared", WARNING, "the job is cancelled")
    expect_log("millrace.shared", WARNING, "/stream/s failed: SourceBroken: it")
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, detached=True)}) as server:
        function.put("a")
        assert (await post(server)).status == 202
        assert (await post(server)).status == 200
        function.put(SourceBroken("it"))
        await eventually(lambda: not function.running)
        function.put("b")
        assert (await post(server)).status == 202
        async with server.connect(asked()) as client:
            await client.until(b"data: b\n\n")
            function.put("c")
            assert (await post(server, "s?again=1")).status == 202
            expect_log("millrace.serve", WARNING, "broke off: NotFound")
            response = await ended(client)
        assert not response.whole
        assert len(function.requests) == 3
        await eventually(lambda: function.running == 1)


@pytest.mark.gen_test
async def test_a_failing_start_of_a_job_is_a_status(tmp_path: Path) -> None:
    """It is not there then."""
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, detached=True)}) as server:
        function.put(NotFound("No such report."))
        response = await post(server)
        assert (response.status, json.loads(response.body)["detail"]) == (404, "No such report.")
        response = await server.exchange(asked())
        assert response.status == 404
        assert "POST starts it" in json.loads(response.body)["detail"]


@pytest.mark.gen_test
async def test_a_job_that_failed_says_so(
    tmp_path: Path, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it gave is there, and its end is broken off; without an item the failure is the status."""
    monkeypatch.setattr("handlers.jobs.HEADERS_SECONDS", 0.05)
    expect_log("millrace.shared", WARNING, "failed: SourceBroken: it")
    expect_log("millrace.serve", WARNING, "broke off: SourceBroken: it")
    expect_log("millrace", WARNING, "502: SourceBroken: it")
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, detached=True)}) as server:
        function.put("a", SourceBroken("it"))
        assert (await post(server)).status == 202
        await eventually(lambda: not function.running)
        response = await server.exchange(asked())
        assert not response.whole
        assert [name for name, _, _ in events(response.body)] == ["", "error"]
        assert (await server.exchange(asked(last_event_id=events(response.body)[0][1]))).status == 502
        assert (await post(server)).status == 202
        function.put(SourceBroken("it"))
        await eventually(lambda: not function.running)
        assert (await server.exchange(asked())).status == 502


@pytest.mark.gen_test
async def test_a_job_is_ended_by_delete(tmp_path: Path, expect_log: ExpectLog) -> None:
    """Its generator is closed by then, its followers are told, and it is forgotten."""
    expect_log("millrace.serve", WARNING, "broke off: NotFound: The job was ended by a DELETE.")
    function = Function()
    async with serving(tmp_path, scan=False, channels={"s": shared(function, detached=True)}) as server:
        assert (await server.exchange(asked(method="DELETE"))).status == 404
        function.put("a")
        await post(server)
        async with server.connect(asked()) as client:
            await client.until(b"data: a\n\n")
            assert (await server.exchange(asked(method="DELETE"))).status == 204
            assert function.running == 0
            response = await ended(client)
        assert not response.whole
        assert events(response.body)[-1][0] == "error"
        assert (await server.exchange(asked())).status == 404


@pytest.mark.gen_test
async def test_the_result_of_a_job_is_forgotten(tmp_path: Path) -> None:
    """After `keep` seconds."""
    function = Function()
    async with serving(
        tmp_path, scan=False, channels={"s": shared(function, detached=True, keep=0.05)}
    ) as server:
        function.put("a", None)
        assert (await post(server)).status == 202
        await eventually(lambda: not server.resources.streams["s"].runs._runs)  # type: ignore[union-attr]
        assert (await server.exchange(asked())).status == 404
        assert facts(server)["published"] == 1


@pytest.mark.gen_test
async def test_what_left_the_history_of_a_job_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher begins at its beginning, and is told what it cannot be given."""
    monkeypatch.setattr("media.channel.LAG_BYTES", 1)
    streams = {"s": shared(count, detached=True, history=History(events=4))}
    async with serving(tmp_path, scan=False, channels=streams) as server:
        await post(server)
        found = events((await server.exchange(asked())).body)
    assert [name for name, _, _ in found] == ["gap", "", "", "", "end"]
    assert json.loads(found[0][2])["first_id"] == found[1][1]
    assert found[1][2] == '{"n":7}'


@pytest.mark.parametrize(
    ("writers", "headers", "status"),
    [
        (Writers(token="t", loopback=True), {}, 401),
        (Writers(token="t", loopback=True), {"authorization": "Bearer x"}, 403),
        (Writers(token="t", loopback=True), {"authorization": "Bearer t"}, 202),
        (Writers(), {}, 403),
        (Writers(loopback=True, processes=2), {}, 503),
    ],
)  # fmt: skip
@pytest.mark.gen_test
async def test_who_may_start_a_job(
    tmp_path: Path, writers: Writers, headers: dict[str, str], status: int
) -> None:
    """Whoever may publish."""
    async with serving(
        tmp_path, scan=False, channels={"s": shared(count, detached=True)}, writers=writers
    ) as server:
        assert (await post(server, **headers)).status == status


@pytest.mark.gen_test
async def test_methods_of_a_job(tmp_path: Path) -> None:
    """Those of a channel; a shared stream is only read."""
    streams: dict[str, Stream] = {
        "s": shared(count, detached=True),
        "other": shared(count),
        "a/ä": shared(count, detached=True),
    }
    allow = "GET, HEAD, OPTIONS"
    async with serving(tmp_path, scan=False, channels=streams, cors=Cors(frozenset({"*"}))) as server:
        for method, target, status, allowed in (
            ("OPTIONS", "s", 204, f"{allow}, POST, DELETE"),
            ("OPTIONS", "other", 204, allow),
            ("PUT", "s", 405, f"{allow}, POST, DELETE"),
            ("POST", "other", 405, allow),
        ):
            response = await server.exchange(asked(target, method))
            assert (response.status, response.headers["Allow"]) == (status, allowed)
        preflight = await server.exchange(
            asked("s", "OPTIONS", origin="http://x", access_control_request_method="DELETE")
        )
        assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
        started = await post(server, "a/%C3%A4")
        assert (started.status, started.headers["Location"]) == (202, "/stream/a/%C3%A4")
        assert (await server.exchange(asked("a/%C3%A4"))).whole
        listed = {
            stream["name"]: stream for stream in json.loads((await server.get("/streams")).body)["streams"]
        }
        assert listed["s"]["job"] == {"publishing": True}
        assert listed["a/ä"]["shared"] == {"running": 0, "subscribers": 0, "published": 10}


@pytest.mark.gen_test
async def test_a_server_that_drains_starts_nothing(tmp_path: Path) -> None:
    """Neither a job nor, for a client that comes then, a shared stream."""
    function = Function()
    async with serving(
        tmp_path, scan=False, channels={"s": shared(function), "job": shared(count, detached=True)}
    ) as server:
        server.resources.delivery.open_streams.drain()
        assert (await post(server, "job")).status == 503
        assert (await server.exchange(asked())).whole
    assert function.requests == []


@pytest.mark.gen_test
async def test_who_waits_for_a_first_item_when_the_server_drains(
    tmp_path: Path, expect_log: ExpectLog
) -> None:
    """It is no fault of what the stream is made from: who asks again soon is answered."""
    expect_log("millrace.shared", WARNING, "/stream/job: the job is cancelled, for the server ends")
    expect_log("millrace", WARNING, "503: Busy: The server is shutting down.")
    watched, job = Function(), Function()
    streams = {"s": shared(watched), "job": shared(job, detached=True)}
    async with serving(tmp_path, scan=False, channels=streams) as server:
        waiting = [asyncio.create_task(server.exchange(asked())), asyncio.create_task(post(server, "job"))]
        await eventually(lambda: watched.running and job.running)
        server.resources.delivery.open_streams.drain()
        await server.resources.end_runs(5)
        for response in await asyncio.gather(*waiting):
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert b"shutting down" in response.body
