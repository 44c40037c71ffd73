"""What a function makes, as it makes it: gathering, backpressure, and every end."""

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from media import producing
from media.functions import Call
from media.generated import Encoded, Pieces, StreamRequest
from media.producing import BUFFER_BYTES
from media.records import FORMATS
from media.source import NotFound, SourceBusy
from tests.conftest import ExpectLog
from tests.media.buffers import REQUEST, Items, all_of
from tests.serving import eventually

# --- gathered as they come ---


async def numbers(request: StreamRequest) -> AsyncIterator[int]:
    """Without a wait between them."""
    for number in (1, 2, 3):
        yield number


async def returned(result: Any, request: StreamRequest) -> Any:
    """Returns what it was given."""
    return result


@pytest.mark.parametrize(
    "function",
    [numbers, partial(returned, [1, 2, 3]), lambda request: numbers(request)],
    ids=["yielded", "returned", "from_a_thread"],
)
@pytest.mark.gen_test
async def test_what_comes_without_a_wait_goes_together(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One buffer, one chunk."""
    monkeypatch.setattr(producing, "AHEAD_SECONDS", 60)  # the machine may be busy
    async with aclosing(Call(function).gathered(REQUEST, Items())) as taken:
        assert [buffer async for buffer in taken] == [[1, 2, 3]]


@pytest.mark.gen_test
async def test_many_rows_are_few_chunks() -> None:
    """About 64 KiB each, from a task and from a thread."""

    def rows() -> Iterator[dict[str, int]]:
        return ({"id": number, "square": number * number} for number in range(20_000))

    async def task(request: StreamRequest) -> AsyncIterator[dict[str, int]]:
        for row in rows():
            yield row

    bodies = []
    for function in (task, lambda request: rows()):
        encoder = FORMATS["csv"].encoder(())
        async with aclosing(Call(function).gathered(REQUEST, Encoded(encoder))) as taken:
            chunks = [chunk async for chunk in taken]
        assert max(map(len, chunks)) < BUFFER_BYTES + 1000
        assert len(chunks) < 2000
        bodies.append(b"".join(chunks))
    assert bodies[0] == bodies[1]
    assert bodies[0].count(b"\r\n") == 20_001


@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_an_item_that_is_followed_by_a_wait_goes_out_at_once(kind: str) -> None:
    """Nothing else has to come, and no time has to pass."""
    waits: Any = asyncio.Event() if kind == "task" else threading.Event()

    async def task(request: StreamRequest) -> AsyncIterator[str]:
        yield "a"
        yield "b"
        await waits.wait()
        yield "c"

    def thread(request: StreamRequest) -> Iterator[str]:
        yield "a"
        yield "b"
        waits.wait()
        yield "c"

    async with aclosing(Call(locals()[kind]).gathered(REQUEST, Items())) as taken:
        seen = await anext(taken)
        while seen != ["a", "b"]:  # a thread's may come in two
            seen += await anext(taken)
        waits.set()
        assert await anext(taken) == ["c"]


@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_nobody_is_further_ahead_than_a_buffer(kind: str) -> None:
    """However long its client takes nothing."""
    made = 0

    def numbers() -> Iterator[int]:
        nonlocal made
        while made < 10_000:
            made += 1
            yield made

    async def task(request: StreamRequest) -> AsyncIterator[int]:
        for number in numbers():
            yield number

    def thread(request: StreamRequest) -> Iterator[int]:
        return numbers()

    seen: list[int] = []
    async with aclosing(Call(locals()[kind]).gathered(REQUEST, Items(10))) as taken:
        for _ in range(5):
            seen += await anext(taken)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert made <= len(seen) + 10
    assert seen == list(range(1, len(seen) + 1))


@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_a_record_that_is_changed_and_given_again_is_two(kind: str) -> None:
    """It is written before the function goes on; bytes that are written over are copied."""

    def records(record: Any) -> Iterator[Any]:
        for number in range(3):
            if isinstance(record, dict):
                record["n"] = number
            else:
                record[:] = b"%d" % number
            yield record

    async def task(request: StreamRequest, record: Any = None) -> AsyncIterator[Any]:
        for each in records(record):
            yield each

    for record, buffer, expected in (
        ({}, Encoded(FORMATS["ndjson"].encoder(())), b'{"n":0}\n{"n":1}\n{"n":2}\n'),
        (bytearray(b"-"), Pieces(), b"012"),
    ):
        function = partial(task if kind == "task" else lambda request, record: records(record), record=record)
        assert b"".join([chunk async for chunk in Call(function).gathered(REQUEST, buffer)]) == expected


@pytest.mark.gen_test
async def test_a_generator_that_never_waits_leaves_the_loop_its_turns() -> None:
    """Its client takes nothing meanwhile, and others are served."""

    async def greedy(request: StreamRequest) -> AsyncIterator[int]:
        while True:
            yield 1

    async with aclosing(Call(greedy).gathered(REQUEST, Items(10**9))) as taken:
        for _ in range(20):
            assert await anext(taken)


# --- how it ends ---


@pytest.mark.gen_test
async def test_a_client_that_leaves_cancels_it_where_it_waits() -> None:
    """Its `finally` has run, to its end, when the items are closed."""
    waiting, ended = asyncio.Event(), []

    async def sleeps(request: StreamRequest) -> AsyncIterator[str]:
        try:
            yield "a"
            waiting.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            ended.append("closed")

    async with aclosing(Call(sleeps).gathered(REQUEST, Items())) as taken:
        await anext(taken)
        await waiting.wait()
    assert ended == ["cancelled", "closed"]


@pytest.mark.gen_test
async def test_one_that_waits_for_its_client_is_closed_where_it_is() -> None:
    """At its yield, as any generator; a thread's makes no further item."""
    ended, made = [], []

    def numbers() -> Iterator[int]:
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            ended.append(True)

    async def task(request: StreamRequest) -> AsyncIterator[int]:
        for number in numbers():
            yield number

    for function in (task, lambda request: numbers()):
        made.clear()
        async with aclosing(Call(function).gathered(REQUEST, Items(3))) as taken:
            first = len(await anext(taken))  # three, or what was there after 2 ms
            await eventually(lambda: len(made) > first if function is task else len(made) == first + 3)  # noqa: B023
            count = len(made)
        if function is task:
            gc.collect()  # the generator inside was left, not closed: that is the user's
        await eventually(lambda: ended)
        ended.clear()
        assert len(made) == count


@pytest.mark.gen_test
async def test_one_that_swallows_its_cancellation_is_closed_at_its_next_item() -> None:
    """And what it makes of it goes nowhere."""
    waiting, ended = asyncio.Event(), []

    async def stubborn(request: StreamRequest) -> AsyncIterator[int]:
        try:
            while True:
                try:
                    waiting.set()
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ended.append("swallowed")
                yield 1
        finally:
            ended.append("closed")

    taken = Call(stubborn).gathered(REQUEST, Items())
    going = asyncio.ensure_future(anext(taken))
    await waiting.wait()
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    await taken.aclose()
    assert ended == ["swallowed", "closed"]


@pytest.mark.gen_test
async def test_a_second_cancellation_reaches_it_too() -> None:
    """One that goes on waiting after the first; whoever closes it, and is hurried, hurries it."""
    waiting, swallowed = asyncio.Event(), []

    async def stubborn(request: StreamRequest) -> AsyncIterator[int]:
        for _ in range(3):
            try:
                waiting.set()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.append(True)
        yield 1

    taken = Call(stubborn).gathered(REQUEST, Items())
    going = asyncio.ensure_future(anext(taken))
    for count in range(3):
        await waiting.wait()
        waiting.clear()
        assert len(swallowed) == count
        going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert len(swallowed) == 3


@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_one_that_fails_while_it_is_closed_is_logged(kind: str, expect_log: ExpectLog) -> None:
    """There is nobody left to tell."""
    expect_log("millrace.producing", 30, "ZeroDivisionError: at the end")

    async def task(request: StreamRequest) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ZeroDivisionError("at the end")

    def thread(request: StreamRequest) -> Iterator[int]:
        try:
            yield 1
        finally:
            raise ZeroDivisionError("at the end")

    threads = threading.active_count()
    async with aclosing(Call(locals()[kind]).gathered(REQUEST, Items(1))) as taken:
        await anext(taken)
    await eventually(lambda: threading.active_count() <= threads)


FAILURES = [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration,
            asyncio.CancelledError, BaseException]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("kind", ["task", "thread", "returning_async", "returning"])
@pytest.mark.gen_test
async def test_whatever_it_raises_fails_its_stream_alone(
    kind: str, before: int, failure: type[BaseException]
) -> None:
    """An exception like others for who sends: not one that ends a loop, a task, a generator."""

    async def task(request: StreamRequest) -> AsyncIterator[int]:
        for number in range(before):
            yield number
        raise failure("theirs")

    def thread(request: StreamRequest) -> Iterator[int]:
        yield from range(before)
        raise failure("theirs")

    async def returning_async(request: StreamRequest) -> list[int]:
        raise failure("theirs")

    def returning(request: StreamRequest) -> list[int]:
        raise failure("theirs")

    seen: list[int] = []
    with pytest.raises(RuntimeError) as caught:  # noqa: PT012, what came before counts
        async for buffer in Call(locals()[kind]).gathered(REQUEST, Items()):
            seen += buffer
    cause = caught.value
    while isinstance(cause.__cause__, BaseException) and type(cause) is RuntimeError:
        cause = cause.__cause__  # type: ignore[assignment]
    assert isinstance(cause, failure)
    assert seen == (list(range(before)) if "returning" not in kind else [])


@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_an_error_arrives_behind_the_items_before_it(kind: str) -> None:
    """As it was raised, traceback and all."""

    async def task(request: StreamRequest) -> AsyncIterator[int]:
        yield 1
        raise NotFound("the file has gone")

    def thread(request: StreamRequest) -> Iterator[int]:
        yield 1
        raise NotFound("the file has gone")

    seen = []
    with pytest.raises(NotFound, match="the file has gone") as caught:  # noqa: PT012
        async for buffer in Call(locals()[kind]).gathered(REQUEST, Items()):
            seen.append(buffer)
    assert seen == [[1]]
    assert caught.traceback[-1].name == kind


@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_an_item_that_the_buffer_refuses_fails_it(kind: str) -> None:
    """And closes the generator."""
    closed = []

    async def task(request: StreamRequest) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    def thread(request: StreamRequest) -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    with pytest.raises(TypeError, match="items are dict, str or Event, not int"):
        async for _ in Call(locals()[kind]).gathered(REQUEST, Encoded(FORMATS["text"].encoder(()))):
            pass
    assert closed == [True]


# --- what it may hold across its yield ---


@pytest.mark.gen_test
async def test_a_lock_is_held_and_left_by_the_same_task() -> None:
    """Also by who leaves in the middle."""
    lock = asyncio.Lock()

    async def holding(request: StreamRequest) -> AsyncIterator[int]:
        async with lock:
            while True:
                yield 1

    for _ in range(2):
        async with aclosing(Call(holding).gathered(REQUEST, Items(1))) as taken:
            await anext(taken)
            assert lock.locked()
        assert not lock.locked()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.gen_test
async def test_a_time_out_that_runs_out_while_its_client_is_slow(wrapped: bool) -> None:
    """It is told of it at its yield, and may say so: a further item is one like others."""

    async def timed(request: StreamRequest) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0.02):
                while True:
                    yield "a"
        except TimeoutError:
            yield "it is over"

    function = partial(returned, timed(REQUEST)) if wrapped else timed
    async with aclosing(Call(function).gathered(REQUEST, Items(1))) as taken:
        assert await anext(taken) == ["a"]
        await asyncio.sleep(0.05)
        rest = [item for buffer in [buffer async for buffer in taken] for item in buffer]
    assert set(rest[:-1]) <= {"a"}
    assert rest[-1] == "it is over"


@pytest.mark.gen_test
async def test_a_time_out_that_nobody_catches_fails_the_stream() -> None:
    """As a TimeoutError, and not as a cancellation."""

    async def timed(request: StreamRequest) -> AsyncIterator[str]:
        async with asyncio.timeout(0.02):
            while True:
                yield "a"

    async with aclosing(Call(timed).gathered(REQUEST, Items(1))) as taken:
        await anext(taken)
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            async for _ in taken:
                pass


@pytest.mark.gen_test
async def test_a_time_out_that_it_leaves_for_is_its_end() -> None:
    """It returns when it is told, and the body is whole."""

    async def timed(request: StreamRequest) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0.02):
                while True:
                    yield "a"
        except TimeoutError:
            return

    async with aclosing(Call(timed).gathered(REQUEST, Items(1))) as taken:
        await anext(taken)
        await asyncio.sleep(0.05)
        assert {item for buffer in [buffer async for buffer in taken] for item in buffer} <= {"a"}


@pytest.mark.gen_test
async def test_a_task_group_is_left_with_its_tasks() -> None:
    """When its client leaves, none of them runs on."""
    ended = []

    async def child() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def group(request: StreamRequest) -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())
            tasks.create_task(child())
            while True:
                yield 1
                await asyncio.sleep(0.001)

    async with aclosing(Call(group).gathered(REQUEST, Items(1))) as taken:
        await anext(taken)
        await anext(taken)
    assert ended == [True, True]


@pytest.mark.gen_test
async def test_a_task_of_its_group_that_fails_fails_the_stream() -> None:
    """Also while it waits for its client at a yield."""
    fails = asyncio.Event()

    async def child() -> None:
        await fails.wait()
        raise ZeroDivisionError("a child")

    async def group(request: StreamRequest) -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())
            while True:
                yield 1

    async with aclosing(Call(group).gathered(REQUEST, Items(1))) as taken:
        await anext(taken)
        fails.set()
        with pytest.raises(ExceptionGroup) as caught:
            async for _ in taken:
                pass
    assert caught.group_contains(ZeroDivisionError, match="a child")


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="none")


@pytest.mark.parametrize("kind", ["task", "thread"])
@pytest.mark.gen_test
async def test_context_variables(kind: str) -> None:
    """It has those of the request, its own stay from item to item, and nobody else sees them."""

    async def task(request: StreamRequest) -> AsyncIterator[str]:
        yield VARIABLE.get()
        VARIABLE.set("its own")
        await asyncio.sleep(0)
        yield VARIABLE.get()

    def thread(request: StreamRequest) -> Iterator[str]:
        yield VARIABLE.get()
        VARIABLE.set("its own")
        yield VARIABLE.get()

    token = VARIABLE.set("of the request")
    try:
        assert await all_of(locals()[kind]) == ["of the request", "its own"]
        assert VARIABLE.get() == "of the request"
    finally:
        VARIABLE.reset(token)


# --- threads ---


@pytest.mark.gen_test
async def test_a_thread_that_blocks_is_left_and_closed_at_its_next_item() -> None:
    """Nobody waits for it; its `finally` runs in its own thread."""
    blocked, go_on, ended = threading.Event(), threading.Event(), []

    def blocks(request: StreamRequest) -> Iterator[str]:
        try:
            yield "a"
            blocked.set()
            go_on.wait(20)
            yield "b"
            ended.append("went on")
        finally:
            ended.append(threading.current_thread().name)

    async with aclosing(Call(blocks).gathered(REQUEST, Items())) as taken:
        assert await anext(taken) == ["a"]
        await eventually(blocked.is_set)
    assert not ended
    go_on.set()
    await eventually(lambda: ended)
    assert ended == ["a user's generator"]


@pytest.mark.parametrize("blocks_in", ["call", "item"])
@pytest.mark.gen_test
async def test_a_client_may_leave_a_function_that_has_not_returned(blocks_in: str) -> None:
    """Who waits for a call that blocks is cancelled at once, and takes no thread of others' work."""
    blocked, go_on, closed = threading.Event(), threading.Event(), []

    class Result:
        def __iter__(self) -> Iterator[int]:
            if blocks_in == "item":
                blocked.set()
                go_on.wait(20)
            yield 1

        def close(self) -> None:
            closed.append(True)

    def blocks(request: StreamRequest) -> Result:
        if blocks_in == "call":
            blocked.set()
            go_on.wait(20)
        return Result()

    waiting = asyncio.ensure_future(anext(Call(blocks).gathered(REQUEST, Items())))
    await eventually(blocked.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await eventually(lambda: closed)


@pytest.mark.gen_test
async def test_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused as busy; a place is free again when its generator has ended."""
    monkeypatch.setattr(producing._Thread, "places", threading.BoundedSemaphore(2))
    monkeypatch.setattr(producing, "MOST_THREADS", 2)

    def one(request: StreamRequest) -> Iterator[int]:
        while True:
            yield 1

    first, second, third = [Call(one).gathered(REQUEST, Items(1)) for _ in range(3)]
    async with aclosing(first), aclosing(second):
        await anext(first)
        await anext(second)
        with pytest.raises(SourceBusy, match="2 generators run in threads"):
            await anext(third)
    again = Call(one).gathered(REQUEST, Items(1))
    await eventually(lambda: producing._Thread.places._value == 2)
    async with aclosing(again):
        assert await anext(again) == [1]
    await eventually(lambda: producing._Thread.places._value == 2)


@pytest.mark.gen_test
async def test_a_system_without_threads_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no place is lost by it."""

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    places = producing._Thread.places._value
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(SourceBusy, match="no more threads"):
        await all_of(lambda request: iter((1,)))
    assert producing._Thread.places._value == places


def test_a_loop_that_is_closed_under_a_thread() -> None:
    """The thread ends, and closes its generator."""
    go_on, ended = threading.Event(), threading.Event()

    def blocks(request: StreamRequest) -> Iterator[str]:
        try:
            yield "a"
            go_on.wait(20)
            yield "b"
        finally:
            ended.set()

    taken: list[AsyncGenerator[Any, None]] = []

    async def begin() -> None:
        taken.append(Call(blocks).gathered(REQUEST, Items()))
        assert await anext(taken[0]) == ["a"]

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    go_on.set()
    assert ended.wait(20)
    closing: Awaitable[None] = taken[0].aclose()
    with pytest.raises(StopIteration):
        closing.__await__().send(None)  # type: ignore[attr-defined]


@pytest.mark.gen_test
async def test_an_item_that_is_slow_to_be_written_holds_up_its_thread_alone() -> None:
    """The loop goes on while a client leaves; what was being written is whole then."""
    asked, may = threading.Event(), threading.Event()

    class Slow(dict[str, int]):
        def items(self) -> Any:
            asked.set()
            assert may.wait(10)
            return super().items()

    class Buffer(Items):
        def add(self, item: Any) -> int:
            return super().add(dict(item.items()))

    buffer = Buffer()
    taken = Call(lambda request: iter([Slow(n=1)])).gathered(REQUEST, buffer)
    going = asyncio.ensure_future(anext(taken))
    await asyncio.to_thread(asked.wait, 10)
    going.cancel()
    await asyncio.sleep(0.01)  # it waits for the item, and the loop for nobody
    assert not going.done()
    may.set()
    with pytest.raises(asyncio.CancelledError):
        await going
    await taken.aclose()
    assert buffer.items == [{"n": 1}]
