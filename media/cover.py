"""The picture embedded in an audio file, as a source."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from media.files import opened
from media.source import CHUNK_LIMIT, Body, Chunks, Facts, SourceBusy, SourceNotFound
from media.tags import picture


@asynccontextmanager
async def cover(root: Path, name: str) -> AsyncGenerator[Body, None]:
    """The source of the front cover in the audio file `name` under `root`; held in memory, 16 MiB at most.

    The parser of the tags may hold more for a moment: media/tags.py has its limits.

    Raises:
        SourceNotFound: there is no such file, or no picture in it.
    """
    with opened(root, name) as handle:
        # Tags lie anywhere in a file, and a parser reads them: both belong in a thread.
        # A descriptor of its own: the caller may be cancelled and close his under the thread.
        try:
            own = os.dup(handle.descriptor)
        except OSError as error:
            raise SourceBusy(f"no descriptor for the cover of {name!r}") from error
        found = await asyncio.to_thread(_picture_and_close, own, name)
        if found is None:
            raise SourceNotFound(f"no picture in {name!r}")
    media_type, content = found
    facts = Facts(media_type, len(content), f'{handle.etag[:-1]}-cover"', handle.modified)

    async def cut(start: int, stop: int) -> Chunks:
        for begin in range(start, stop, CHUNK_LIMIT):
            yield content[begin : min(stop, begin + CHUNK_LIMIT)]

    yield Body(facts, chunks=lambda: cut(0, len(content)), slice=cut)


def _picture_and_close(descriptor: int, name: str) -> tuple[str, bytes] | None:
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return picture(file, name)
    finally:
        os.close(descriptor)
