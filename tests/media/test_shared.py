"""Runs of a shared function, without a server: when one begins and ends, and what its followers are given."""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from media import runs, subscriptions
from media.channel import LAG_BYTES, History
from media.generated import Stream, StreamRequest
from media.records import END_ID, FORMATS, Event
from media.shared import JOB_HISTORY, Runs, shared
from media.source import (
    BadParameter,
    Body,
    Busy,
    NotFound,
    SourceBroken,
    SourceEnded,
    SourceError,
)
from tests.conftest import ExpectLog
from tests.serving import eventually

ERROR = 40


async def three(request: StreamRequest, *, to: int = 3) -> AsyncGenerator[Any, None]:
    """Three records. And more."""
    for n in range(to):
        yield {"n": n}
        await asyncio.sleep(0)


def runs_of(stream: Stream) -> Runs:
    assert stream.runs is not None
    return stream.runs


@asynccontextmanager
async def followed(
    stream: Stream, form: str = "text", last_event_id: str | None = None, **args: str
) -> AsyncIterator[Body]:
    async with stream.open(StreamRequest(args, last_event_id=last_event_id), FORMATS[form]) as body:
        yield body


async def all_of(stream: Stream, form: str = "text", last_event_id: str | None = None, **args: str) -> bytes:
    """What one client is sent."""
    async with followed(stream, form, last_event_id, **args) as body, aclosing(body.chunks()) as chunks:
        received = [bytes(chunk) async for chunk in chunks]  # type: ignore[arg-type]
    assert all(received)
    return b"".join(received)


async def closed(stream: Stream) -> None:
    assert stream.close is not None
    await stream.close()


# --- the row ---


@pytest.mark.parametrize(
    ("arguments", "title", "parameters"),
    [
        ({}, "Three records. And more", ["to"]),
        ({"title": "T", "key": "k"}, "T", ["k", "to"]),
        ({"key": "to"}, "Three records. And more", ["to"]),
    ],
)
def test_a_row(arguments: dict[str, Any], title: str, parameters: list[str]) -> None:
    """Made without a loop, and listed with the key's parameter."""
    stream = shared(three, **arguments)
    assert (stream.title, [parameter["name"] for parameter in stream.parameters]) == (title, parameters)
    assert all(parameter["required"] for parameter in stream.parameters if parameter["name"] != "to")
    assert [form.name for form in stream.formats] == ["sse", "ndjson", "text", "json"]
    assert stream.live


@pytest.mark.parametrize(
    ("arguments", "history"),
    [
        ({}, History(events=1000)),
        ({"history": 5}, History(events=5)),
        ({"history": History(1, 2, 3)}, History(1, 2, 3)),
        ({"detached": True}, JOB_HISTORY),
        ({"detached": True, "history": 5}, History(events=5)),
    ],
)
def test_what_is_kept(arguments: dict[str, Any], history: History) -> None:
    """Of a job all of it, up to a size."""
    assert runs_of(shared(three, **arguments))._history == history


# --- a run ---


@pytest.mark.gen_test
async def test_a_run_is_iterated_like_any_body() -> None:
    """Without a fan-out; the second client comes when it has ended, and gets another."""
    stream = shared(three)
    for _ in range(2):
        assert await all_of(stream) == b'{"n":0}\n{"n":1}\n{"n":2}\n'
    assert (await all_of(stream, "ndjson", to="0")).endswith(b'"event":"end","data":{}}\n')
    assert runs_of(stream).facts() == {"running": 0, "subscribers": 0, "published": 6}
    await closed(stream)


@pytest.mark.parametrize(
    "function",
    [
        lambda request: (n for n in ("a", Event("b\nc", event="x"), {"d": 1})),
        lambda request: iter(["a", Event("b\nc", id="ignored", event="x"), {"d": 1}]),
    ],
    ids=["a generator", "an iterator"],
)
@pytest.mark.gen_test
async def test_a_function_that_is_not_async(function: Any) -> None:
    """It runs in a thread; its items are published by the loop."""
    stream = shared(function)
    body = (await all_of(stream, "sse")).decode()
    assert [line for line in body.splitlines() if line.startswith(("data:", "event:"))] == [
        "data: a", "event: x", "data: b", "data: c", 'data: {"d":1}', "event: end", "data: {}",
    ]  # fmt: skip
    assert "ignored" not in body
    await closed(stream)


@pytest.mark.gen_test
async def test_a_record_may_be_changed_and_given_again() -> None:
    """Each is written when it is given."""

    async def same(request: StreamRequest) -> AsyncGenerator[Any, None]:
        record = {"n": 0}
        for record["n"] in range(3):
            yield record

    stream = shared(same)
    assert await all_of(stream) == b'{"n":0}\n{"n":1}\n{"n":2}\n'
    await closed(stream)


@pytest.mark.parametrize(
    ("arguments", "args", "error", "words"),
    [
        ({}, {"to": "x"}, BadParameter, "to must be"),
        ({"key": "k"}, {}, BadParameter, "k must be given"),
        ({"detached": True}, {}, NotFound, "POST starts it"),
    ],
)
@pytest.mark.gen_test
async def test_what_cannot_be_followed(
    arguments: dict[str, Any], args: dict[str, str], error: type[SourceError], words: str
) -> None:
    """Nothing is left of it."""
    stream = shared(three, **arguments)
    for form in ("text", "json"):
        with pytest.raises(error, match=words):
            await all_of(stream, form, **args)
    assert runs_of(stream)._runs == {}


@pytest.mark.gen_test
async def test_a_poll_waits_a_moment_for_what_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is answered without an event where there is none."""
    monkeypatch.setattr(subscriptions, "BEGIN_SECONDS", 0.05)

    async def silent(request: StreamRequest) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(60)
        yield ""

    stream = shared(silent)
    assert json.loads(await all_of(stream, "json"))["events"] == []
    assert runs_of(stream).facts()["running"] == 1
    await closed(stream)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=30)
async def test_a_generator_goes_no_further_than_its_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until what there is has been offered to those who follow."""
    monkeypatch.setattr(runs, "OFFERED_BYTES", 10_000)
    most, many, waits = 0, 50_000, 0

    async def tight(request: StreamRequest) -> AsyncGenerator[Any, None]:
        for _ in range(many):
            yield "x" * 1000

    stream = shared(tight)
    async with followed(stream) as body:
        assert body.following is not None
        feed = body.following.feed
        cursor = body.following.cursor

        async def offered() -> None:
            nonlocal cursor, most, waits
            waits += 1
            most = max(most, feed.newest[0] - cursor[0])
            await asyncio.sleep(0)
            cursor = feed.newest

        feed.attach(lambda: None, offered)
        await body.following.begun(1)
        await eventually(lambda: feed.ended, 20)
    assert waits > 10
    assert most * 1400 < LAG_BYTES
    await closed(stream)


@pytest.mark.gen_test
async def test_a_follower_that_comes_back_keeps_it_going() -> None:
    """The time that it lingers begins anew."""
    begun, ended = 0, asyncio.Event()

    async def counting(request: StreamRequest) -> AsyncGenerator[Any, None]:
        nonlocal begun
        begun += 1
        try:
            yield "a"
            await asyncio.sleep(60)
        finally:
            ended.set()

    stream = shared(counting, linger=60)
    timers = []
    for _ in range(3):
        async with followed(stream) as body:
            assert body.following is not None
            await body.following.begun(1)
            assert all(timer.cancelled() for timer in timers)
        [run] = runs_of(stream)._runs.values()
        assert run._timer is not None
        timers.append(run._timer)
    assert not timers[-1].cancelled()
    run.later(0, runs_of(stream)._drop)
    assert begun == 1
    await asyncio.wait_for(ended.wait(), 5)
    await eventually(lambda: not runs_of(stream)._closing)
    assert runs_of(stream)._runs == {}


@pytest.mark.gen_test
async def test_one_that_has_ended_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is forgotten, whether somebody came or not."""
    monkeypatch.setattr("media.shared.RETURN_SECONDS", 0.1)
    stream = shared(three, linger=0.01)
    body = (await all_of(stream, "sse")).decode()
    ids = [line.removeprefix("id: ") for line in body.splitlines() if line.startswith("id: ")]
    assert (await all_of(stream, "sse", ids[2])).count(b"data: ") == 2
    await eventually(lambda: not runs_of(stream)._runs)
    with pytest.raises(SourceEnded):
        await all_of(stream, "sse", END_ID)


@pytest.mark.gen_test
async def test_the_end_of_the_process_ends_all(expect_log: ExpectLog) -> None:
    """Generators that do not close are left, and told of."""
    expect_log("millrace.shared", 30, "generators that did not close within 0.05 s: 1")
    expect_log("millrace.shared", 30, " b: the job is cancelled, for the server ends")
    go_on, ended = asyncio.Event(), list[str]()

    async def stubborn(request: StreamRequest, *, key: str) -> AsyncGenerator[Any, None]:
        try:
            yield "a"
            await asyncio.sleep(60)
        finally:
            if key == "a":
                await go_on.wait()
            ended.append(key)

    stream, job = shared(stubborn, key="key"), shared(stubborn, key="key", detached=True)
    await runs_of(job).start(StreamRequest({"key": "b"}), 5)
    async with followed(stream, key="a") as body, aclosing(body.chunks()) as chunks:
        await anext(chunks)
        await runs_of(stream).close(0.05)
        with pytest.raises(Busy, match="shutting down"):
            await anext(chunks)
    await closed(job)
    assert ended == ["b"]
    go_on.set()
    await eventually(lambda: ended == ["b", "a"])
    await closed(stream)


@pytest.mark.gen_test
async def test_one_that_was_never_begun_ends_too() -> None:
    """Its follower is told when it begins."""
    stream = shared(three)
    async with followed(stream) as body:
        await closed(stream)
        assert body.following is not None
        with pytest.raises(Busy, match="shutting down"):
            await body.following.begun(1)


@pytest.mark.gen_test
async def test_a_generator_that_fails_while_it_closes(expect_log: ExpectLog) -> None:
    """The log has it, and nobody else."""
    expect_log("millrace.producing", 30, "ZeroDivisionError")

    async def failing(request: StreamRequest) -> AsyncGenerator[Any, None]:
        try:
            yield "a"
            await asyncio.sleep(60)
        finally:
            raise ZeroDivisionError

    stream = shared(failing)
    async with followed(stream) as body:
        assert body.following is not None
        await body.following.begun(1)
    await closed(stream)


@pytest.mark.gen_test
async def test_one_that_is_ended_as_it_begins_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not complained of: there is nothing to close."""
    monkeypatch.setattr(runs, "CLEANUP_SECONDS", 0.01)
    called = []
    stream = shared(lambda request: called.append(request) or [], detached=True)
    starting = asyncio.create_task(runs_of(stream).start(StreamRequest(), 5))
    asyncio.get_running_loop().call_soon(lambda: runs_of(stream)._drop(*runs_of(stream)._runs.values()))
    with pytest.raises(SourceBroken):
        await starting
    await asyncio.sleep(0.05)
    assert called == []


# --- jobs ---


@pytest.mark.gen_test
async def test_a_job_is_ended_before_another_begins() -> None:
    """With `again` the new generator waits until the old one is closed."""
    log: list[str] = []

    async def work(request: StreamRequest, *, name: str) -> AsyncGenerator[Any, None]:
        log.append(f"begin {name}")
        try:
            yield "a"
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            log.append(f"end {name}")

    stream = shared(work, detached=True)
    jobs = runs_of(stream)
    first, fresh = await jobs.start(StreamRequest({"name": "1"}), 5)
    assert fresh
    assert await jobs.start(StreamRequest({"name": "ignored"}), 5) == (first, False)
    for name in ("2", "3"):
        _, fresh = await jobs.start(StreamRequest({"name": name}), 5, again=True)
        assert fresh
    for name in ("never", "4"):  # the first of them has no time to begin
        await jobs.start(StreamRequest({"name": name}), 0.001 if name == "never" else 5, again=True)
    await jobs.end(StreamRequest())
    assert log == [f"{what} {n}" for n in range(1, 5) for what in ("begin", "end")]
    with pytest.raises(NotFound):
        await jobs.end(StreamRequest())


@pytest.mark.gen_test
async def test_a_job_that_is_begun_anew_again_and_again(expect_log: ExpectLog) -> None:
    """While its first generator closes: however many they were, the last of them waits for that one alone."""
    expect_log("millrace.shared", 30, "the job is cancelled, for the server ends")
    closing, log = asyncio.Event(), []

    async def work(request: StreamRequest, *, name: str) -> AsyncGenerator[Any, None]:
        log.append(f"begin {name}")
        try:
            yield "a"
            await asyncio.sleep(60)
        finally:
            await closing.wait()
            log.append(f"end {name}")

    stream = shared(work, detached=True)
    jobs = runs_of(stream)
    await jobs.start(StreamRequest({"name": "first"}), 5)
    for _ in range(1500):  # more than Python has frames
        await jobs.start(StreamRequest({"name": "never"}), 0, again=True)
    asyncio.get_running_loop().call_later(0.05, closing.set)
    run, _ = await jobs.start(StreamRequest({"name": "last"}), 5, again=True)
    assert (run.state, run.items) == ("running", 1)
    assert log == ["begin first", "end first", "begin last"]
    await closed(stream)


@pytest.mark.gen_test
async def test_a_job_that_is_forgotten_leaves_nothing_behind() -> None:
    """Neither its end nor a watcher that leaves after it has it kept as the result of a job is."""

    async def work(request: StreamRequest) -> AsyncGenerator[Any, None]:
        yield "a"
        await asyncio.sleep(60)

    stream = shared(work, detached=True)
    jobs = runs_of(stream)
    run = weakref.ref((await jobs.start(StreamRequest(), 5))[0])
    async with followed(stream):
        await jobs.end(StreamRequest())
    gc.collect()
    assert run() is None


@pytest.mark.gen_test
async def test_results_of_jobs_make_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept as long as was said: another job is refused."""
    monkeypatch.setattr("media.shared.MOST_RUNS", 2)
    stream = shared(three, detached=True, key="k")
    jobs = runs_of(stream)
    for key in ("a", "b"):
        await jobs.start(StreamRequest({"k": key}), 5)
    with pytest.raises(Busy):
        await jobs.start(StreamRequest({"k": "c"}), 5)
    await eventually(lambda: not jobs.facts()["running"])
    with pytest.raises(Busy):
        await jobs.start(StreamRequest({"k": "c"}), 5)
    assert (await jobs.start(StreamRequest({"k": "a"}), 5))[1] is False
    assert (await jobs.start(StreamRequest({"k": "a"}), 5, again=True))[1] is True
    await eventually(lambda: not jobs.facts()["running"])
    await closed(stream)
