"""A user's function: what it takes of a request, and its items as they are made (`media/producing.py`)."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from media.parameters import Declared
from media.producing import Buffer, in_task, in_thread

if TYPE_CHECKING:
    from media.generated import StreamRequest

T = TypeVar("T")
Function = Callable[..., Any]
"""Of the request, and of its declared parameters by name."""


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

    def gathered(self, request: "StreamRequest", buffer: Buffer[T]) -> AsyncGenerator[T, None]:
        """What `buffer` makes of the items. Nothing runs before it is iterated.

        To be closed, as any generator.

        Raises:
            BadParameter: at once, the request's parameters are not what the function takes.
        """
        return self._run(self._made(request), buffer)

    def result(self, request: "StreamRequest", buffer: Buffer[T]) -> Callable[[], Awaitable[Any]]:
        """For whoever can make something of a value too: gives what is called, once, for what there is.

        Of a function that yields, or returns what can be iterated and is no collection, an async generator of
        what `buffer` makes of the items, which is to be closed; of any other function what it returns.

        Raises:
            BadParameter: at once, as `gathered`.
        """
        return partial(self._result, self._made(request), buffer)

    async def _result(self, made: Callable[[], Any], buffer: Buffer[Any]) -> Any:
        if self._is_async_generator or self._is_generator:
            return self._run(made, buffer)
        result = await (made() if self._is_async else asyncio.to_thread(made))
        if inspect.isawaitable(result):
            result = await result
        if hasattr(result, "__aiter__"):
            return in_task(lambda: result, buffer)
        if isinstance(result, Iterable) and not isinstance(result, Collection) and not self._is_async:
            return in_thread(lambda: result, buffer)
        return result

    def _made(self, request: "StreamRequest") -> Callable[[], Any]:
        return partial(self._function, request, **self._declared.read(request.args))

    def _run(self, made: Callable[[], Any], buffer: Buffer[T]) -> AsyncGenerator[T, None]:
        return in_task(made, buffer) if self._is_async else in_thread(made, buffer)


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
