"""Shared streams over HTTP: who begins them, who follows them, and what is left of them."""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from handlers import pump
from handlers.limits import Limits
from media import runs
from media import shared as shared_streams
from media.generated import StreamRequest
from media.records import Event
from media.shared import shared
from media.source import Busy, NotFound, SourceBroken
from tests.conftest import AccessLog, ExpectLog
from tests.handlers.running import (
    ERROR,
    MIB,
    WARNING,
    Function,
    asked,
    descriptors,
    ended,
    events,
    facts,
    following,
    post,
)
from tests.serving import Client, eventually, serving

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
