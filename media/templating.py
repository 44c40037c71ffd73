"""A Jinja2 template as it renders: the first part is on its way before the last row is made.

Pieces go out as Jinja2 makes them; the pump gathers what comes without a wait in between.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from media.decoding import utf8
from media.generated import Stream, StreamRequest
from media.records import Format, Record
from media.source import Body, Chunks, Facts

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
    environment = Environment(
        loader=FileSystemLoader(folder),
        enable_async=True,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    @asynccontextmanager
    async def open_(request: StreamRequest, form: Format | None) -> AsyncGenerator[Body, None]:
        async with AsyncExitStack() as stack:
            made = {}
            for key, function in context.items():
                made[key] = await stack.enter_async_context(aclosing(function(request)))

            async def chunks() -> Chunks:
                # Finding and compiling a template reads files.
                page = await asyncio.to_thread(environment.get_template, name)
                async with aclosing(page.generate_async(request=request, **made)) as pieces:
                    async for piece in pieces:
                        if piece:
                            yield utf8(piece)

            yield Body(Facts("text/html; charset=utf-8"), chunks=chunks)

    return Stream(title, open_, media_type="text/html; charset=utf-8")
