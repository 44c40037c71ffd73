"""A Jinja2 template as it renders: the first part is on its way before the last row is made.

Theory of operation. The template renders in a task of its own, and so does each function whose items it
iterates (`media/producing.py`). What it makes without a wait in between goes out together, 64 KiB or 2 ms of
it at a time; what stands before a wait goes out while it waits.

What can still become a status has to be known before the first byte. So values are there before the template
begins, and it begins when each function has made its first item, or after FIRST_SECONDS: a page whose first
row takes longer than that is on its way without it.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from media.decoding import utf8
from media.functions import Call
from media.generated import Stream, StreamRequest
from media.producing import BUFFER_BYTES, in_task
from media.records import Format
from media.source import CHUNK_LIMIT, Body, Facts, Source

if TYPE_CHECKING:
    from jinja2 import Environment, Template

TEMPLATES = Path(__file__).parent / "templates"
"""Those that come with Millrace."""

FIRST_SECONDS = 1.0
"""How long a page's beginning waits for the first items: as long as the headers wait for a first chunk."""

BUFFER_ITEMS = 100
"""What is made ahead of the template, at most. One at a time would change between two tasks for each."""

PLAIN = (".txt", ".txt.j2", ".txt.jinja")
"""How the names of templates end that make plain text: nothing in it is escaped."""

_OURS = ("request", "flush")

_END: Any = object()

Result = Callable[[], Awaitable[Any]]


def template(
    name: str | Path,
    *,
    title: str = "",
    folder: Path | None = None,
    media_type: str | None = None,
    **context: Any,
) -> Stream:
    """The stream of a Jinja2 template, which has `request`, `flush()` and the context; escaped, but PLAIN.

    It is read and compiled at once, so that what is wrong with it stops the start; a file that has changed is
    read again by the next request.

    Args:
        name: of the file in `folder`, which what it includes lies in too; or its whole path.
        title: one line for people; empty: the template's name.
        folder: None: that of the module that calls.
        media_type: None: HTML, or plain text as its name ends.
        context: names in the template. A function is called with the request (`media.functions.Call`, or one
            that returns a value: a record, a list), and its items are iterated with a plain `{% for %}`.
            Anything else is there as it is.

    Raises:
        ValueError: there is no such template, or it cannot be compiled.
        TypeError: there can be no such name in it, or no such function.
    """
    if folder is None:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        folder = Path(frame.f_back.f_code.co_filename).parent
    file = folder / name
    if Path(name).is_absolute():
        folder, name = file.parent, file.name
    if taken := [key for key in _OURS if key in context]:
        raise TypeError(f"{taken[0]!r} has a meaning of its own in every template")
    page = _Page(folder, str(name), context)
    if folder != TEMPLATES:  # ours would have the process hold 2.3 MB that only a request for a page needs
        page.check()
    plain = str(name).endswith(PLAIN)
    media_type = media_type or f"text/{'plain' if plain else 'html'}; charset=utf-8"

    def open_(request: StreamRequest, form: Format | None) -> Source:
        return page.open(request, media_type)

    return Stream(title or file.name, open_, media_type=media_type, parameters=page.parameters)


class _Page:
    """A template and what it is made from."""

    def __init__(self, folder: Path, name: str, context: Mapping[str, Any]) -> None:
        self._folder, self._name = folder, name
        self._calls = {key: Call(value) for key, value in context.items() if callable(value)}
        self._values = {key: value for key, value in context.items() if not callable(value)}

    @property
    def parameters(self) -> tuple[Mapping[str, object], ...]:
        """Those of all its functions: two may share one."""
        listed = [parameter for call in self._calls.values() for parameter in call.parameters]
        return tuple({str(parameter["name"]): parameter for parameter in listed}.values())

    def check(self) -> None:
        """Compile it, and what it includes: that would hold up the loop later. Blocking.

        Raises:
            ValueError: there is none, or something is wrong in it or in what it includes.
        """
        from jinja2 import TemplateNotFound, TemplateSyntaxError

        try:
            self._load()
            self._load_included(self._name, set())
        except TemplateNotFound as error:
            raise ValueError(f"there is no template {error.name} in {self._folder}") from error
        except TemplateSyntaxError as error:
            raise ValueError(f"{error.name or self._name}, line {error.lineno}: {error.message}") from error

    def _load_included(self, name: str, known: set[str]) -> None:
        from jinja2 import TemplateNotFound
        from jinja2.meta import find_referenced_templates

        environment = _environment(self._folder)
        assert environment.loader is not None
        source, _, _ = environment.loader.get_source(environment, name)
        for included in find_referenced_templates(environment.parse(source)):
            if included is not None and included not in known:
                known.add(included)
                with suppress(TemplateNotFound):  # it may be one of several, or "ignore missing"
                    environment.get_template(included)
                    self._load_included(included, known)

    @asynccontextmanager
    async def open(self, request: StreamRequest, media_type: str) -> AsyncGenerator[Body, None]:
        """The source of one response.

        Raises:
            BadParameter: a function's.
        """
        results = {key: call.result(request, _Items()) for key, call in self._calls.items()}
        pieces = in_task(lambda: self._pieces(request, results), _Text())
        yield Body(Facts(media_type), chunks=lambda: pieces)

    async def _pieces(
        self, request: StreamRequest, results: Mapping[str, Result]
    ) -> AsyncGenerator[str, None]:
        page = await asyncio.to_thread(self._load)
        async with AsyncExitStack() as stack:
            made = await _begun(results, stack)
            rendered = page.generate_async(self._values, request=request, **made)
            async with aclosing(rendered) as pieces:
                async for piece in pieces:
                    yield piece

    def _load(self) -> "Template":
        """Blocking: finds and compiles the template, unless it is as it was, and imports what does so."""
        return _environment(self._folder).get_template(self._name)


class _Text:
    """A buffer of text, which becomes bytes as one."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0

    def add(self, item: str) -> int:
        self._pieces.append(item)
        self._size += len(item)
        return self._size

    def take(self) -> list[bytes]:
        taken = utf8("".join(self._pieces))
        self._pieces, self._size = [], 0
        return [taken[at : at + CHUNK_LIMIT] for at in range(0, len(taken), CHUNK_LIMIT)]


class _Items:
    """A buffer of items as they are. A record or a list is copied: its function may change it afterwards."""

    def __init__(self) -> None:
        self._items: list[Any] = []

    def add(self, item: Any) -> int:
        self._items.append(item.copy() if type(item) in (dict, list) else item)
        return BUFFER_BYTES if len(self._items) >= BUFFER_ITEMS else 0

    def take(self) -> list[Any]:
        taken, self._items = self._items, []
        return taken


async def _begun(results: Mapping[str, Result], stack: AsyncExitStack) -> dict[str, Any]:
    """What the functions give, values and items, the latter begun. `stack` closes them.

    Raises:
        Exception: what a function raises for its value, or within FIRST_SECONDS for its first item.
    """
    made: dict[str, Any] = {}
    firsts: set[asyncio.Future[Any]] = set()
    for key, result in results.items():
        made[key] = value = await result()
        if isinstance(value, AsyncGenerator):
            made[key], first = await stack.enter_async_context(_ahead(value))
            firsts.add(first)
    if firsts:
        done, _ = await asyncio.wait(firsts, timeout=FIRST_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        for first in done:
            first.result()
    return made


@asynccontextmanager
async def _ahead(
    items: AsyncGenerator[Any, None],
) -> AsyncGenerator[tuple[AsyncGenerator[Any, None], asyncio.Future[Any]], None]:
    """The items, of which the first is being made already, and that one."""

    async def all_items() -> AsyncGenerator[Any, None]:
        if (item := await first) is not _END:
            yield item
            async for item in items:
                yield item

    async with aclosing(items):
        first = asyncio.ensure_future(anext(items, _END))
        try:
            # Jinja2 does not close what it iterates.
            async with aclosing(all_items()) as whole:
                yield whole, first
        finally:
            first.cancel()
            await asyncio.wait({first})
            if not first.cancelled():
                first.exception()  # it may be that nobody has asked for it


async def _flush() -> str:
    """In a template: what stands before it is sent before it goes on. Nothing waits for it by itself but what
    blocks the loop: one turn takes what is made to the pump, another one to the connection."""
    for _ in range(2):
        await asyncio.sleep(0)
    return ""


@cache
def _environment(folder: Path) -> "Environment":
    # Here and not above: 2.3 MB of memory that only a request for a page needs.
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(folder),
        enable_async=True,
        autoescape=lambda name: name is None or not name.endswith(PLAIN),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["flush"] = _flush  # imported macros have it too
    return environment
