"""The items of a user's function, as they are made: gathered for whoever sends them.

Theory of operation. A function's generator runs in a task of its own, or in a thread of its own if it is not
async, and puts each item into a *buffer* as it is made. Whoever sends takes what is in it when it is ready
for more. So the items that come without a wait between them go out together, at 1 µs each for a record in
CSV, and one that is followed by a wait goes out at once; nobody has to flush.

After 64 KiB, or 2 ms, the generator waits until its buffer has been taken. That is the backpressure: it is
never further ahead of its client than one buffer. And it is the turn that the loop gets of a generator that
never waits for anything.

An item is written into the buffer before the generator goes on: one that changes the record it gave, and
gives it again, gives two different ones.

The task is there so that a generator has one life. It may hold a task group, a time-out or a lock across its
`yield`, which it enters and leaves in the same task, and which may cancel it there. A client that leaves
cancels it where it waits, and that may be at its `yield`, too. A thread cannot be cancelled: a generator that
is not async is closed at its next item.

Whatever a function raises fails its stream and nothing else: SystemExit would end the loop from a task, and a
CancelledError that nobody asked for would leave a response without an end.
"""

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from media.source import SourceBusy

if TYPE_CHECKING:
    pass

BUFFER_BYTES = 64 * 1024
"""A generator goes on until so much waits to be sent."""

AHEAD_SECONDS = 0.002
"""Or for so long: then what it made is taken, and the loop has a turn."""

JOINED_SECONDS = 0.005
"""What a thread makes within it goes together."""

LOCK_SECONDS = 0.001
"""How often a lock is asked for while a thread writes an item."""

MOST_THREADS = 256
"""Generators that are not async, at once; one that blocks for long after its client has left counts too."""

log = logging.getLogger("millrace.producing")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Buffer(Protocol[T_co]):
    """What takes items as they are made, and gives them on."""

    def add(self, item: Any) -> int:
        """Take one. It may be changed afterwards. Gives the bytes that wait to be taken."""

    def take(self) -> Sequence[T_co]:
        """What there is, in the order in which it came."""


def in_task(made: Callable[[], Any], buffer: Buffer[T]) -> AsyncGenerator[T, None]:
    """What `buffer` makes of the items of what `made` gives, run in a task of its own when this is iterated.

    To be closed, which cancels it where it waits, and waits until it has ended.

    Args:
        made: gives an async iterator, or an iterable that does not block; or is an async function that does.

    Raises:
        Exception: what it raised, behind the items before that.
        TypeError: what it gives has no items.
    """
    return _taken(_Task(made, buffer), buffer)


def in_thread(made: Callable[[], Any], buffer: Buffer[T]) -> AsyncGenerator[T, None]:
    """The same in a thread of its own. Closed, it ends at its next item, and is not waited for.

    Args:
        made: gives an iterable; or an async iterator, which then runs in a task.

    Raises:
        SourceBusy: MOST_THREADS run.
        Exception, TypeError: as `in_task`.
    """
    return _taken(_Thread(made, buffer), buffer)


async def _taken(producer: "_Task | _Thread", buffer: Buffer[T]) -> AsyncGenerator[T, None]:
    """What is in the buffer of a producer, whenever there is something."""
    producer.start()
    try:
        while True:
            ended = await producer.news()
            for taken in await producer.take():
                yield taken
            if not ended:
                continue
            if producer.handed is None:
                break
            producer = _Task(producer.handed, buffer)  # what a function in a thread gave is async
            producer.start()
        if producer.failure is not None:
            raise _outcome(producer.failure)
    finally:
        await producer.stop()


def _outcome(failure: BaseException) -> Exception:
    """A failure as those who send know it: nothing that ends a loop, a task or a generator of theirs."""
    if isinstance(failure, Exception) and not isinstance(failure, StopIteration | StopAsyncIteration):
        return failure
    raised = RuntimeError(f"a stream's function raised {type(failure).__name__}")
    raised.__cause__ = failure
    return raised


class _Task:
    """What an async function gives, made in a task that stops where its buffer is full."""

    handed: Callable[[], Any] | None = None

    def __init__(self, made: Callable[[], Any], buffer: Buffer[Any]) -> None:
        self._made = made
        self._buffer = buffer
        self.failure: BaseException | None = None
        self._ended = self._stopped = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._fresh = False

    def start(self) -> None:
        """Once, before anything else."""
        self._task = asyncio.create_task(self._run(), name="a user's generator")

    async def _run(self) -> None:
        try:
            buffer, clock = self._buffer, time.monotonic
            add = buffer.add
            wait_at = clock() + AHEAD_SECONDS
            async with aclosing(await _opened(self._made)) as items:
                async for item in items:
                    size = add(item)
                    if not self._fresh:
                        self._tell()
                    if self._stopped:  # it swallowed its cancellation
                        break
                    if size >= BUFFER_BYTES or clock() >= wait_at:
                        await self._taken(items)
                        wait_at = clock() + AHEAD_SECONDS
        except BaseException as error:  # SystemExit too: it would end the loop from a task
            if not self._stopped:
                self.failure = error
            elif not isinstance(error, asyncio.CancelledError):
                log.warning("a generator failed while it was being closed", exc_info=error)
        finally:
            self._ended = True
            self._tell()

    async def _taken(self, items: AsyncGenerator[Any, None]) -> None:
        """Wait until the buffer has been taken."""
        while True:
            self._room = asyncio.get_running_loop().create_future()
            try:
                return await self._room
            except asyncio.CancelledError as error:
                # By us, or by a time-out or a task group that it holds across its yield: they have to learn
                # of it there. Closed, a task group would make a failure of the GeneratorExit.
                try:
                    item = await items.athrow(error)
                except StopAsyncIteration:
                    return None
                if self._stopped:
                    return None
                self._buffer.add(item)
                self._tell()

    def _tell(self) -> None:
        self._fresh = True
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def news(self) -> bool:
        """Wait until there is something to take, or it has ended: gives which, and then what is left can be
        taken at once."""
        while not self._fresh:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._ended

    async def take(self) -> Sequence[Any]:
        """What there is; the generator goes on."""
        taken = self._buffer.take()
        self._fresh = self._ended
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return taken

    async def stop(self) -> None:
        """Cancel it where it waits, and see it closed. Cancelled meanwhile, it is cancelled again."""
        self._stopped = True
        while not self._task.done():
            self._task.cancel()
            with suppress(asyncio.CancelledError):  # one is on its way already
                await asyncio.wait({self._task})


class _Thread:
    """What any other function gives, made in a thread that stops where its buffer is full."""

    places = threading.BoundedSemaphore(MOST_THREADS)

    def __init__(self, made: Callable[[], Any], buffer: Buffer[Any]) -> None:
        self._made = made
        self._buffer = buffer
        self.failure: BaseException | None = None
        self.handed: Callable[[], Any] | None = None
        """Gives the same as the function, which is async, and so nothing for a thread."""
        self._ended = self._stopped = self._told = False
        self._lock = threading.Lock()  # a Condition's own way in is in Python, and costs 0.3 µs an item
        self._changed = threading.Condition(self._lock)
        self._news = asyncio.Event()
        self._taken_at = 0.0

    def start(self) -> None:
        """Once, before anything else.

        Raises:
            SourceBusy: there are too many threads.
        """
        if not self.places.acquire(blocking=False):
            raise SourceBusy(f"{MOST_THREADS} generators run in threads")
        self._loop = asyncio.get_running_loop()
        run = partial(contextvars.copy_context().run, self._run)
        try:
            # A daemon: one that blocks must not hold up the end of the process.
            threading.Thread(target=run, name="a user's generator", daemon=True).start()
        except RuntimeError as error:
            self.places.release()
            raise SourceBusy("the system gives no more threads") from error

    def _run(self) -> None:
        try:
            result = self._made()
            if hasattr(result, "__aiter__") or inspect.isawaitable(result):
                self.handed = lambda: result
                return
            try:
                self._put_all(result)
            finally:
                if (close := getattr(result, "close", None)) is not None:
                    close()
        except BaseException as error:
            self.failure = error
            if self._stopped:
                log.warning("a generator failed while it was being closed", exc_info=error)
        finally:
            self.places.release()
            self._ended = True
            with suppress(RuntimeError):  # the loop has ended before it
                self._loop.call_soon_threadsafe(self._news.set)

    def _put_all(self, made: Iterable[Any]) -> None:
        buffer, lock = self._buffer, self._lock
        for item in _iterable(made):
            with lock:
                if self._stopped:
                    return
                size = buffer.add(item)
                if not self._told:
                    self._told = True
                    self._loop.call_soon_threadsafe(self._begun)
                if size >= BUFFER_BYTES:
                    self._loop.call_soon_threadsafe(self._news.set)
                    self._changed.wait_for(lambda: self._stopped or not self._told)
                    if self._stopped:
                        return  # type: ignore[unreachable] # it is reached: stop() was called meanwhile

    def _begun(self) -> None:
        """There is a first item. One that follows the last taking closely waits for others: to take each by
        itself made two threads change places 3,000 times a second, and half of the rows."""
        if self._loop.time() >= self._taken_at + JOINED_SECONDS:
            self._news.set()
        else:
            self._loop.call_later(JOINED_SECONDS, self._news.set)

    async def news(self) -> bool:
        """As that of a task."""
        await self._news.wait()
        return self._ended

    async def take(self) -> Sequence[Any]:
        """What there is; the generator goes on."""
        await self._locked()
        try:
            taken = self._buffer.take()
            self._told = False
            self._taken_at = self._loop.time()
            if not self._ended:
                self._news.clear()
            self._changed.notify()
        finally:
            self._lock.release()
        return taken

    async def stop(self) -> None:
        """Have it closed at its next item. It is not waited for: a thread may block for long."""
        self._stopped = True
        await self._locked()  # an item that is being written is whole before anybody takes the last
        self._changed.notify()
        self._lock.release()

    async def _locked(self) -> None:
        """Have the lock. The loop goes on meanwhile: a mapping of a user's may be slow to be read."""
        while not self._lock.acquire(blocking=False):  # noqa: ASYNC110, a thread's way would cost each item
            await asyncio.sleep(LOCK_SECONDS)


async def _opened(made: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    """What an async function gives, as a generator; a plain iterable is one that does not block."""
    result = made()
    if inspect.isawaitable(result):
        result = await result
    if isinstance(result, AsyncGenerator):
        return result
    return _closed(result) if hasattr(result, "__aiter__") else _one_by_one(_iterable(result))


async def _one_by_one(result: Iterable[Any]) -> AsyncGenerator[Any, None]:
    for item in result:
        yield item


async def _closed(result: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """The items of an iterator of whatever kind, which is closed with them."""
    try:
        async for item in result:
            yield item
    finally:
        if (aclose := getattr(result, "aclose", None)) is not None:
            await aclose()


def _iterable(result: Any) -> Iterable[Any]:
    if isinstance(result, str | bytes | Mapping) or not hasattr(result, "__iter__"):
        raise TypeError(
            f"a stream's function yields its items or returns an iterator, not {type(result).__name__}"
        )
    items: Iterable[Any] = result
    return items
