"""A user's function: every kind of it, and its parameters."""

from __future__ import annotations  # what users write, too: the annotations of their functions are text

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import Field

from media.functions import Call
from media.generated import StreamRequest
from media.source import BadParameter
from tests.media.buffers import REQUEST, Items, all_of

if TYPE_CHECKING:
    from somewhere_that_is_not_there import Request


async def yields(request: Request) -> AsyncIterator[int]:
    """An async generator."""
    for number in (1, 2, 3):
        yield number


def yields_in_a_thread(request: Request) -> Iterator[int]:
    """A plain one."""
    yield from (1, 2, 3)


async def returns_an_async_generator(request: Request) -> AsyncIterator[int]:
    """After it has waited."""
    await asyncio.sleep(0)
    return yields(request)


async def returns_a_list(request: Request) -> list[int]:
    """All at once."""
    return [1, 2, 3]


def returns_a_generator(request: Request) -> Iterator[int]:
    """Of another function."""
    return yields_in_a_thread(request)


def returns_async(request: Request) -> AsyncIterator[int]:
    """From a thread."""
    return yields(request)


class Countdown:
    """An async iterator that is no generator, and can be closed."""

    closed = False

    def __init__(self) -> None:
        self.numbers = iter((1, 2, 3))

    def __aiter__(self) -> Countdown:
        return self

    async def __anext__(self) -> int:
        try:
            return next(self.numbers)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """To be seen."""
        self.closed = True


class Ticker:
    """A class of a user's."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    async def ticks(self, request: Request) -> AsyncIterator[int]:
        """A method."""
        for number in self.numbers:
            yield number

    def __call__(self, request: Request) -> Iterator[int]:
        """Called itself."""
        return iter(self.numbers)

    @staticmethod
    def fixed(request: Request) -> list[int]:
        """Without itself."""
        return [1, 2, 3]


class AsyncTicker(Ticker):
    """One that is called async."""

    async def __call__(self, request: Request) -> AsyncIterator[int]:  # type: ignore[override]
        """Called itself, and awaits nothing."""
        for number in self.numbers:
            yield number


class Silent(Ticker):
    """A class whose call has no words."""

    def __call__(self, request: Request) -> Iterator[int]:
        return iter(self.numbers)


class Numbers:
    """A class that is called with the request, and iterated."""

    def __init__(self, request: Request, *, every: Annotated[int, Field(ge=1)] = 1) -> None:
        self.request = request

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2, 3))


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """As decorators are written that know nothing of generators."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


async def of(request: Request, *numbers: int) -> AsyncIterator[int]:
    """With more of its own."""
    for number in numbers:
        yield number


FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    # the function, and its title
    "async_generator": (yields, "An async generator"),
    "generator": (yields_in_a_thread, "A plain one"),
    "async_that_returns_async": (returns_an_async_generator, "After it has waited"),
    "async_that_returns_a_list": (returns_a_list, "All at once"),
    "returns_a_generator": (returns_a_generator, "Of another function"),
    "returns_async": (returns_async, "From a thread"),
    "returns_an_iterator": (lambda request: iter((1, 2, 3)), "<lambda>"),
    "returns_an_async_iterator": (lambda request: Countdown(), "<lambda>"),
    "returns_an_awaitable": (lambda request: returns_a_list(request), "<lambda>"),
    "lambda_of_an_async_generator": (lambda request: yields(request), "<lambda>"),
    "method": (Ticker(1, 2, 3).ticks, "A method"),
    "static_method": (Ticker.fixed, "Without itself"),
    "callable": (Ticker(1, 2, 3), "Called itself"),
    "callable_without_words": (Silent(1, 2, 3), "A class whose call has no words"),
    "async_callable": (AsyncTicker(1, 2, 3), "Called itself, and awaits nothing"),
    "class": (Numbers, "A class that is called with the request, and iterated"),
    "partial": (partial(partial(yields)), "An async generator"),
    "partial_of_a_callable": (partial(Ticker(1, 2, 3)), "Called itself"),
    "decorated": (decorated(yields), "An async generator"),
    "decorated_async": (decorated(returns_a_list), "All at once"),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.gen_test
async def test_every_kind_of_function(kind: str) -> None:
    """Its items come in order, also where they could be a value; the title is what its docstring says."""
    function, title = FUNCTIONS[kind]
    assert await all_of(function) == [1, 2, 3]
    result = await Call(function).result(REQUEST, Items())()
    if isinstance(result, AsyncGenerator):
        async with aclosing(result) as taken:
            result = [item for buffer in [buffer async for buffer in taken] for item in buffer]
    assert list(result) == [1, 2, 3]
    assert Call(function).title == title


@pytest.mark.parametrize("wrapped", [
    lambda iterator: (lambda request: iterator),
    lambda iterator: partial(_async, iterator),
], ids=["from_a_thread", "from_a_task"])  # fmt: skip
@pytest.mark.gen_test
async def test_an_iterator_of_any_kind_is_closed(wrapped: Callable[[Any], Callable[..., Any]]) -> None:
    """If it can be; to its end or not."""
    for stop_after in (1, 5):
        iterator = Countdown()
        async with aclosing(Call(wrapped(iterator)).gathered(REQUEST, Items(1))) as taken:
            for _ in range(stop_after):
                await anext(taken, None)
        assert iterator.closed


async def _async(result: Any, request: Request) -> Any:
    return result


NO_FUNCTIONS: dict[str, tuple[Any, str]] = {
    "number": (5, "5 is not a function: give the function itself"),
    "generator_object": ((number for number in ()), "is not a function: give the function itself"),
    "no_request": (lambda: None, r"<lambda>\(\) must take the request"),
    "more_than_the_request": (
        lambda request, other: None,
        r"<lambda>\(\) must take the request, and nothing",
    ),
    "a_default_that_no_client_could_change": (
        lambda request, every=1.0, *, name="": None,
        r'<lambda>\(\) must have "every" behind a \*, for clients to give: <lambda>\(request, \*, every\)',
    ),
    "a_builtin_without_a_signature": (max, r"max\(\) must take the request"),
}


@pytest.mark.parametrize("kind", NO_FUNCTIONS)
def test_what_is_no_function(kind: str) -> None:
    """Said when the table is made, and not to the first client."""
    function, words = NO_FUNCTIONS[kind]
    with pytest.raises(TypeError, match=words):
        Call(function)


@pytest.mark.parametrize("result", [None, "text", b"bytes", {"a": 1}, 5], ids=type)
@pytest.mark.parametrize("kind", [lambda result, request: result, _async], ids=["in_a_thread", "in_a_task"])
@pytest.mark.gen_test
async def test_a_result_that_has_no_items(kind: Callable[..., Any], result: object) -> None:
    """Such as a text, which would be letter by letter."""
    with pytest.raises(TypeError, match=f"returns an iterator, not {type(result).__name__}"):
        await all_of(partial(kind, result))


# --- parameters ---


async def shows(
    request: Request,
    *,
    every: float = 1.0,
    name: str,
    times: int | None = None,
    plain="x",  # type: ignore[no-untyped-def]
) -> AsyncIterator[object]:
    """What it was given."""
    yield (every, name, times, plain)


@pytest.mark.gen_test
async def test_parameters_are_given_by_name_and_type() -> None:
    """Annotated as text or not, those that are keyword-only; the request's type need not be there."""
    given = StreamRequest({"every": "0.5", "name": "n", "times": "3", "format": "csv", "unknown": "1"})
    assert await all_of(shows, given) == [(0.5, "n", 3, "x")]
    assert await all_of(shows, StreamRequest({"name": ""})) == [(1.0, "", None, "x")]
    names = ["every", "name", "times", "plain"]
    assert [parameter["name"] for parameter in Call(shows).parameters] == names
    assert [parameter["required"] for parameter in Call(shows).parameters] == [False, True, False, False]


@pytest.mark.parametrize("value", [{"n": 1}, [1, 2], "text", 5, None])
@pytest.mark.gen_test
async def test_a_value(value: object) -> None:
    """What a function returns that is to be had as it is."""

    async def awaited(request: Request) -> object:
        return value

    for function in (awaited, lambda request: value, lambda request: awaited(request)):
        assert await Call(function).result(REQUEST, Items())() is value


@pytest.mark.parametrize("take", ["result", "gathered"])
def test_a_wrong_parameter_is_refused_before_anything_runs(take: str) -> None:
    """At once, by name."""
    call = Call(shows)
    begin = partial(call.result if take == "result" else call.gathered, buffer=Items())
    with pytest.raises(BadParameter, match=r'^every must be a valid number, not "x"$'):
        begin(StreamRequest({"every": "x", "name": "n"}))
    with pytest.raises(BadParameter, match=r"^name must be given$"):
        begin(REQUEST)


def test_a_class_declares_by_what_makes_it() -> None:
    """Its types are found where it is defined."""
    assert Call(Numbers).parameters == (
        {"name": "every", "required": False, "default": 1, "minimum": 1, "type": "integer"},
    )


@pytest.mark.gen_test
async def test_what_a_partial_was_given_is_no_parameter() -> None:
    """A client cannot choose another file than the one that the user chose."""
    chosen = partial(shows, name="chosen")
    assert [parameter["name"] for parameter in Call(chosen).parameters] == ["every", "times", "plain"]
    assert await all_of(chosen, StreamRequest({"name": "/etc/passwd"})) == [(1.0, "chosen", None, "x")]


def test_a_parameter_that_cannot_be_one() -> None:
    """Of a type that nothing can be made into, or a name that every stream has a meaning for."""

    async def wrong(request: Request, *, format: str) -> AsyncIterator[str]:  # noqa: A002
        yield format

    async def no_type(request: Request, *, lock: Nowhere) -> AsyncIterator[str]:  # type: ignore[name-defined] # noqa: F821
        yield ""

    with pytest.raises(TypeError, match='"format" has a meaning of its own'):
        Call(wrong)
    with pytest.raises(NameError, match="Nowhere"):
        Call(no_type)
