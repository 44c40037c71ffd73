"""The items of a user's function, as they are made: gathered for whoever sends them.

Theory of operation. A function's generator runs in a task of its own, or in a thread of its own if it is not
async, and puts each item into a *heap* as it is made. Whoever sends takes the heap when it is ready for more.
So the items that come without a wait between them go out together, at 1 µs each for a record in CSV, and one
that is followed by a wait goes out at once; nobody has to flush.

After 64 KiB, or 2 ms, the generator waits until its heap has been taken. That is the backpressure: it is
never further ahead of its client than one heap. And it is the turn that the loop gets of a generator that
never waits for anything.

An item is written into the heap before the generator goes on: one that changes the record it gave, and gives
it again, gives two different ones.

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
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints

from media.parameters import Declared
from media.source import SourceBusy

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

    def add(self, item: Any) -> int:
        """Take one. It may be changed afterwards. Gives the bytes that wait to be taken."""

    def take(self) -> Sequence[T_co]:
        """What there is, in the order in which it came."""


class _OneByOne:
    """Items as they are: the next one is made when this one has been taken."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def add(self, item: Any) -> int:
        self.items.append(item)
        return HEAP_BYTES

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
        if not callable(function):
            raise TypeError(f"{function!r} is not a function: give the function itself, and do not call it")
        bare, given = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
        called = bare if inspect.isroutine(bare) or inspect.isclass(bare) else type(bare).__call__
        name = getattr(bare, "__name__", type(bare).__name__)
        self._function = function
        # Of a method getdoc has also what it inherits, such as "Call self as a function."
        words = inspect.cleandoc(called.__doc__ or "") or inspect.getdoc(bare) or name
        self.title = words.partition("\n")[0].rstrip(".")
        self._is_async_generator = inspect.isasyncgenfunction(called)
        self._is_async = self._is_async_generator or inspect.iscoroutinefunction(called)
        self._is_generator = inspect.isgeneratorfunction(called)
        try:
            signature = inspect.signature(function)
            # What a partial was given is the user's to choose, and not a client's.
            taken = [each for each in signature.parameters.values() if each.name not in given]
            loose = [each.name for each in taken[1:] if each.kind is each.POSITIONAL_OR_KEYWORD]
            taken = [each for each in taken if each.kind is each.KEYWORD_ONLY]
            signature.bind(None, **{each.name: None for each in taken})
        except (TypeError, ValueError):
            raise TypeError(
                f"{name}() must take the request, and nothing else but keyword-only parameters (behind a *)"
            ) from None
        if loose:  # no query would ever set it, and nobody would say so
            right = f"{name}(request, *, {loose[0]})"
            raise TypeError(f'{name}() must have "{loose[0]}" behind a *, for clients to give: {right}')
        self._declared = Declared(_fields(taken, called))

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
        if self._is_async_generator:
            return made()  # type: ignore[no-any-return]
        heap = _OneByOne()
        return _iterated(made) if self._is_async else _taken(_Thread(made, heap), heap)

    def gathered(self, request: "StreamRequest", heap: Heap[T]) -> AsyncGenerator[T, None]:
        """What `heap` makes of the items. Nothing runs before it is iterated.

        Raises:
            BadParameter: at once, as `items`.
        """
        return _taken(self._producer(self._made(request), heap), heap)

    def result(self, request: "StreamRequest", heap: Heap[T]) -> Callable[[], Awaitable[Any]]:
        """For whoever can make something of a value too: gives what is called, once, for what there is.

        Of a function that yields, or returns an iterator, an async generator of what `heap` makes of the
        items, which is to be closed; of any other function what it returns.

        Raises:
            BadParameter: at once, as `items`.
        """
        return partial(self._result, self._made(request), heap)

    async def _result(self, made: Callable[[], Any], heap: Heap[Any]) -> Any:
        if self._is_async_generator or self._is_generator:
            return _taken(self._producer(made, heap), heap)
        result = await (made() if self._is_async else asyncio.to_thread(made))
        if inspect.isawaitable(result):
            result = await result
        if hasattr(result, "__aiter__"):
            return gathered(lambda: result, heap)
        if hasattr(result, "__next__") and not self._is_async:
            return _taken(_Thread(lambda: result, heap), heap)
        return result

    def _made(self, request: "StreamRequest") -> Callable[[], Any]:
        return partial(self._function, request, **self._declared.read(request.args))

    def _producer(self, made: Callable[[], Any], heap: Heap[Any]) -> "_Task | _Thread":
        return _Task(made, heap) if self._is_async else _Thread(made, heap)


def gathered(made: Callable[[], AsyncIterable[Any]], heap: Heap[T]) -> AsyncGenerator[T, None]:
    """What `heap` makes of the items of what `made` gives, which run in a task of their own."""
    return _taken(_Task(made, heap), heap)


async def _taken(producer: "_Task | _Thread", heap: Heap[T]) -> AsyncGenerator[T, None]:
    """What is in the heap of a producer, whenever there is something."""
    producer.start()
    try:
        while True:
            ended = await producer.news()
            for taken in producer.take():
                yield taken
            if not ended:
                continue
            if producer.handed is None:
                break
            producer = _Task(producer.handed, heap)  # what a function in a thread gave is async
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
    """What an async function gives, made in a task that stops where its heap is full."""

    handed: Callable[[], Any] | None = None

    def __init__(self, made: Callable[[], Any], heap: Heap[Any]) -> None:
        self._made = made
        self._heap = heap
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
            heap, clock = self._heap, time.monotonic
            add = heap.add
            wait_at = clock() + AHEAD_SECONDS
            async with aclosing(await _opened(self._made)) as items:
                async for item in items:
                    size = add(item)
                    if not self._fresh:
                        self._tell()
                    if self._stopped:  # it swallowed its cancellation
                        break
                    if size >= HEAP_BYTES or clock() >= wait_at:
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
        """Wait until the heap has been taken."""
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
                self._heap.add(item)
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
    """What any other function gives, made in a thread that stops where its heap is full."""

    places = threading.BoundedSemaphore(MOST_THREADS)

    def __init__(self, made: Callable[[], Any], heap: Heap[Any]) -> None:
        self._made = made
        self._heap = heap
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
        heap, lock = self._heap, self._lock
        for item in _iterable(made):
            with lock:
                if self._stopped:
                    return
                size = heap.add(item)
                if not self._told:
                    self._told = True
                    self._loop.call_soon_threadsafe(self._begun)
                if size >= HEAP_BYTES:
                    self._loop.call_soon_threadsafe(self._news.set)
                    self._changed.wait_for(lambda: self._stopped or not self._told)
                    if self._stopped:
                        return  # type: ignore[unreachable] # it is reached: stop() was called meanwhile

    def _begun(self) -> None:
        """There is a first item. One that follows the last heap closely waits for others: to take each by
        itself made two threads change places 3,000 times a second, and half of the rows."""
        if self._loop.time() >= self._taken_at + JOINED_SECONDS:
            self._news.set()
        else:
            self._loop.call_later(JOINED_SECONDS, self._news.set)

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


async def _opened(made: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    """What an async function gives, as a generator; a plain iterable is one that does not block."""
    result = made()
    if inspect.isawaitable(result):
        result = await result
    if isinstance(result, AsyncGenerator):
        return result
    return _closed(result) if hasattr(result, "__aiter__") else _one_by_one(_iterable(result))


async def _iterated(made: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    async with aclosing(await _opened(made)) as items:
        async for item in items:
            yield item


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
    return result  # type: ignore[no-any-return]


def _fields(parameters: Iterable[inspect.Parameter], called: Function) -> dict[str, tuple[Any, object]]:
    """The types and defaults of these parameters. What others are annotated with need not be there:
    `Request` may be imported for type checkers alone."""
    annotations = {each.name: each.annotation for each in parameters if each.annotation is not each.empty}
    defined = called.__init__ if inspect.isclass(called) else inspect.unwrap(called)
    known = getattr(defined, "__globals__", {})
    hints = get_type_hints(SimpleNamespace(__annotations__=annotations), known, include_extras=True)
    return {
        each.name: (hints.get(each.name, str), ... if each.default is each.empty else each.default)
        for each in parameters
    }
