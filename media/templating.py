"""A Jinja2 template as it renders: the first part is on its way before the last row is made.

Pieces go out as Jinja2 makes them; the pump gathers what comes without a wait in between.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from media.decoding import utf8
from media.generated import Stream, StreamRequest
from media.records import Format, Record
from media.source import Body, Chunks, Facts

if TYPE_CHECKING:
    from jinja2 import Environment, Template

TEMPLATES = Path(__file__).parent / "templates"


def template(
    name: str,
    *,
    title: str,
    folder: Path = TEMPLATES,
    **context: Callable[[StreamRequest], AsyncGenerator[Record, None]],
) -> Stream:
    """The stream of an HTML template; autoescaped.

    Args:
        name: of the file in `folder`.
        context: a name in the template → a function of the request that gives an async generator;
            the template iterates it with a plain `{% for %}`. A function may raise BadParameter.
    """

    @asynccontextmanager
    async def open_(request: StreamRequest, form: Format | None) -> AsyncGenerator[Body, None]:
        async with AsyncExitStack() as stack:
            made = {}
            for key, function in context.items():
                made[key] = await stack.enter_async_context(aclosing(function(request)))

            async def chunks() -> Chunks:
                page = await asyncio.to_thread(_load, folder, name)
                async with aclosing(page.generate_async(request=request, **made)) as pieces:
                    async for piece in pieces:
                        if piece:
                            yield utf8(piece)

            yield Body(Facts("text/html; charset=utf-8"), chunks=chunks)

    return Stream(title, open_, media_type="text/html; charset=utf-8")


def _load(folder: Path, name: str) -> "Template":
    """Blocking: finds and compiles the template, and imports what does so."""
    return _environment(folder).get_template(name)


@cache
def _environment(folder: Path) -> "Environment":
    # Here and not above: 2.3 MB of memory that only a request for a page needs.
    from jinja2 import Environment, FileSystemLoader

    return Environment(
        loader=FileSystemLoader(folder),
        enable_async=True,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
