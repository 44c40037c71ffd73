"""Jobs over HTTP: who starts and ends them, and what is said of them."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from handlers.cors import Cors
from handlers.writers import Writers
from media.channel import History
from media.generated import Stream
from media.shared import shared
from media.source import NotFound, SourceBroken
from tests.conftest import ExpectLog
from tests.handlers.running import (
    FORM,
    JSON,
    WARNING,
    Function,
    asked,
    count,
    data_of,
    ended,
    events,
    facts,
    following,
    post,
)
from tests.serving import Response, eventually, serving


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
            expect_log("millrace.serve", WARNING, "broke off: Busy")
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


@pytest.mark.gen_test
async def test_arguments_that_say_that_they_are_too_large(tmp_path: Path) -> None:
    """Who waits for 100 (Continue) is told before they come."""
    async with (
        serving(tmp_path, scan=False, channels={"s": shared(count, detached=True)}) as server,
        server.connect(
            asked(
                method="POST",
                **{"Content-Type": FORM, "Content-Length": "65537", "Expect": "100-continue"},
            )
        ) as client,
    ):
        response = Response.parsed((await client.rest())[0])
    assert (response.status, response.headers["Connection"]) == (413, "close")
