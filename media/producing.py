"""The items of a user's function, as they are made: gathered for whoever sends them.

Theory of operation. A function's generator runs in a task of its own, or in a thread of its own if it is not
async, and puts each item into a *heap* as it is made. Whoever sends takes the heap when it is ready for more.
So the items that come without a wait between them go out together, at 2 µs each for a record in CSV, and one
that is followed by a wait goes out at once; nobody has to flush.

After 64 KiB, or 2 ms, the generator waits until its heap has been taken. That is the backpressure: it is
never further ahead of its client than one heap. And it is the turn that the loop gets of a generator that
never waits for anything.

An item is written into the heap before the generator goes on: one that changes the record it gave, and gives
it again, gives two different ones.

The task is there so that a generator has one life. It may hold a task group, a time-out or a lock across its
`yield`, which it enters and leaves in the same task; a client that leaves cancels it where it waits. A thread
cannot be cancelled: a generator that is not async is closed at its next item.
"""

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints

from media.parameters import Declared
from media.records import Encoder
from media.source import CHUNK_LIMIT, SourceBusy

if TYPE_CHECKING:
    from media.generated import StreamRequest

HEAP_BYTES = 64 * 1024
"""A generator goes on until so much waits to be sent."""

AHEAD_SECONDS = 0.002
"""Or for so long: then what it made is taken, and the loop has a turn."""

JOINED_SECONDS = 0.005
"""What a thread makes within it goes together."""

MOST_THREADS = 256
"""Generators that are not async, at once; one that blocks for long after its client has left counts too."""

log = logging.getLogger("millrace.producing")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Function = Callable[..., Any]
"""Of the request, and of its declared parameters by name."""


class Heap(Protocol[T_co]):
    """What takes items as they are made, and gives them on."""

    def add(self, item: Any) -> None:
        """Take one. It may be changed afterwards."""

    @property
    def full(self) -> bool:
        """Whether enough waits to be taken."""

    def take(self) -> Sequence[T_co]:
        """What there is, in the order in which it came."""


class Encoded:
    """Items as bytes of a format."""

    def __init__(self, encoder: Encoder) -> None:
        self.add = encoder.add
        self._encoder = encoder

    @property
    def full(self) -> bool:
        return self._encoder.size >= HEAP_BYTES

    def take(self) -> list[bytes]:
        return [taken] if (taken := self._encoder.take()) else []


class Pieces:
    """Bytes as they are; text as UTF-8. Empty ones are left out, larger ones than CHUNK_LIMIT are cut."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, item: Any) -> None:
        if isinstance(item, str):
            item = item.encode("utf-8", "replace")
        elif not isinstance(item, bytes):
            if not isinstance(item, bytearray | memoryview):
                raise TypeError(
                    f"the items of a stream with a media_type are bytes, not {type(item).__name__}"
                )
            item = bytes(item)  # whose it is may write to it again
        self._size += len(item)
        if len(item) > CHUNK_LIMIT:
            self._pieces += [item[at : at + CHUNK_LIMIT] for at in range(0, len(item), CHUNK_LIMIT)]
        elif item:
            self._pieces.append(item)

    @property
    def full(self) -> bool:
        return self._size >= HEAP_BYTES

    def take(self) -> list[bytes]:
        taken, self._pieces, self._size = self._pieces, [], 0
        return taken


class _OneByOne:
    """Items as they are: the next one is made when this one has been taken."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.add = self.items.append

    @property
    def full(self) -> bool:
        return bool(self.items)

    def take(self) -> list[Any]:
        taken = self.items[:]
        self.items.clear()
        return taken


class Call:
    """A function of a user's that gives the items of a stream, checked as far as that goes without a call.

    It is an async generator function; or a generator function, which runs in a thread; or an async function
    that returns an async iterator, or an iterable that does not block; or another one, called in a thread,
    that returns an async iterator, or an iterable, which is iterated in a thread. Its first parameter is the
    request; those that are keyword-only are what a client may give in the query, with the types that they are
    annotated with (text, where they are not).

    Raises:
        TypeError: it is none of these.
    """

    def __init__(self, function: Function) -> None:
        name = getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise TypeError(f"{function!r} is not a function: give the function itself, and do not call it")
        called = function if not hasattr(function, "func") else function.func  # of a functools.partial
        if not inspect.isroutine(called):
            called = type(called).__call__
        self._function = function
        self.title = (inspect.getdoc(called) or name).partition("\n")[0].rstrip(".")
        self._is_async_generator = inspect.isasyncgenfunction(called)
        self._is_async = self._is_async_generator or inspect.iscoroutinefunction(called)
        self._is_generator = inspect.isgeneratorfunction(called)
        try:
            inspect.signature(function).bind_partial(None)
        except TypeError:
            raise TypeError(f"{name}() must take the request as its first parameter") from None
        self._declared = Declared(_fields(function, called))

    @property
    def parameters(self) -> tuple[Mapping[str, object], ...]:
        """As /streams lists them."""
        return self._declared.listed

    def items(self, request: "StreamRequest") -> AsyncGenerator[Any, None]:
        """The items, the next one made when this one has been taken. To be closed, as any generator.

        Raises:
            BadParameter: at once, the request's parameters are not what the function takes.
        """
        made = self._made(request)
        if self._is_async:
            return self._iterated(made)
        return self._gathered(made, _OneByOne())

    def gathered(self, request: "StreamRequest", heap: Heap[T]) -> AsyncGenerator[T, None]:
        """What `heap` makes of the items. Nothing runs before it is iterated.

        Raises:
            BadParameter: at once, as `items`.
        """
        return self._gathered(self._made(request), heap)

    def _made(self, request: "StreamRequest") -> Callable[[], Any]:
        return partial(self._function, request, **self._declared.read(request.args))

    def _iterated(self, made: Callable[[], Any]) -> AsyncGenerator[Any, None]:
        return made() if self._is_async_generator else _of_result(made)

    async def _gathered(self, made: Callable[[], Any], heap: Heap[T]) -> AsyncGenerator[T, None]:
        producer = await self._producer(made, heap)
        producer.start()
        try:
            while True:
                ended = await producer.news()
                for taken in producer.take():
                    yield taken
                if ended:
                    break
            if producer.failure is not None:
                raise producer.failure
        finally:
            await producer.stop()

    async def _producer(self, made: Callable[[], Any], heap: Heap[Any]) -> "_Task | _Thread":
        if self._is_async:
            return _Task(self._iterated(made), heap)
        if self._is_generator:
            return _Thread(made, heap)
        result = await asyncio.to_thread(made)
        if hasattr(result, "__aiter__"):
            return _Task(_closed(result), heap)
        return _Thread(lambda: result, heap)


class _Task:
    """A generator that runs in a task, and stops where its heap is full."""

    def __init__(self, items: AsyncGenerator[Any, None], heap: Heap[Any]) -> None:
        self._items = items
        self._heap = heap
        self.failure: BaseException | None = None
        self._ended = self._stopped = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._fresh = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="a user's generator")

    async def _run(self) -> None:
        try:
            heap, clock = self._heap, time.monotonic
            add = heap.add
            wait_at = clock() + AHEAD_SECONDS
            async with aclosing(self._items) as items:
                async for item in items:
                    add(item)
                    if not self._fresh:
                        self._tell()
                    if heap.full or clock() >= wait_at:
                        self._room = asyncio.get_running_loop().create_future()
                        await self._room
                        wait_at = clock() + AHEAD_SECONDS
                    if self._stopped:  # it swallowed its cancellation
                        break
        except BaseException as error:  # SystemExit too: it would end the loop from a task
            if not self._stopped:
                self.failure = error
            elif not isinstance(error, asyncio.CancelledError):
                log.warning("a generator failed while it was being closed", exc_info=error)
        finally:
            self._ended = True
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

    def take(self) -> Sequence[Any]:
        """What there is; the generator goes on."""
        taken = self._heap.take()
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
    """A generator that runs in a thread, and stops where its heap is full."""

    running = 0

    def __init__(self, made: Callable[[], Any], heap: Heap[Any]) -> None:
        self._made = made
        self._heap = heap
        self.failure: BaseException | None = None
        self._ended = self._stopped = self._told = False
        self._lock = threading.Lock()  # a Condition's own way in is in Python, and costs 0.3 µs an item
        self._changed = threading.Condition(self._lock)
        self._news = asyncio.Event()
        self._taken_at = 0.0

    def start(self) -> None:
        if _Thread.running >= MOST_THREADS:
            raise SourceBusy(f"{MOST_THREADS} generators run in threads")
        self._loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        _Thread.running += 1
        # A daemon: one that blocks must not hold up the end of the process.
        threading.Thread(
            target=context.run, args=(self._run,), name="a user's generator", daemon=True
        ).start()

    def _run(self) -> None:
        try:
            made = self._made()
            try:
                self._put_all(made)
            finally:
                if (close := getattr(made, "close", None)) is not None:
                    close()
        except BaseException as error:
            self.failure = error
            if self._stopped:
                log.warning("a generator failed while it was being closed", exc_info=error)
        finally:
            self._ended = True
            with suppress(RuntimeError):  # the loop has ended before it
                self._loop.call_soon_threadsafe(self._gone)

    def _put_all(self, made: Iterable[Any]) -> None:
        heap, lock = self._heap, self._lock
        for item in _iterable(made):
            with lock:
                if self._stopped:
                    return
                heap.add(item)
                if not self._told:
                    self._told = True
                    self._loop.call_soon_threadsafe(self._begun)
                if heap.full:
                    self._loop.call_soon_threadsafe(self._news.set)
                    self._changed.wait_for(lambda: self._stopped or not self._told)

    def _begun(self) -> None:
        """There is a first item. One that follows the last heap closely waits for others: to take each by
        itself made two threads change places 3,000 times a second, and half of the rows."""
        if self._loop.time() >= self._taken_at + JOINED_SECONDS:
            self._news.set()
        else:
            self._loop.call_later(JOINED_SECONDS, self._news.set)

    def _gone(self) -> None:
        _Thread.running -= 1
        self._news.set()

    async def news(self) -> bool:
        """As that of a task."""
        await self._news.wait()
        return self._ended

    def take(self) -> Sequence[Any]:
        """What there is; the generator goes on."""
        with self._changed:
            taken = self._heap.take()
            self._told = False
            self._taken_at = self._loop.time()
            if not self._ended:
                self._news.clear()
            self._changed.notify()
        return taken

    async def stop(self) -> None:
        """Have it closed at its next item. It is not waited for: a thread may block for long."""
        with self._changed:
            self._stopped = True
            self._changed.notify()


async def _of_result(made: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    """The items of what an async function returns; a plain iterable is one that does not block."""
    result = await made()
    if hasattr(result, "__aiter__"):
        async with aclosing(_closed(result)) as items:
            async for item in items:
                yield item
        return
    for item in _iterable(result):
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
    return result  # type: ignore[no-any-return]


def _fields(function: Function, called: Function) -> dict[str, tuple[Any, object]]:
    """The keyword-only parameters, with their types and defaults."""
    signature = inspect.signature(function)
    hints = get_type_hints(called, include_extras=True)
    return {
        name: (hints.get(name, str), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
