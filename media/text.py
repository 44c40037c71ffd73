"""A text file of the library: as it is, as UTF-8, line by line, or as events.

One that is UTF-8 already is sent byte for byte and can be cut; any other is decoded on its way.
As events, the id of a line is the byte offset just behind it in the UTF-8 text,
so that a client that comes back goes on exactly there.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path, PurePosixPath

from media import decoding
from media.files import READ_BYTES, OpenFile, opened, read, read_full, regions
from media.library import MEDIA_TYPES, SIDECARS
from media.records import FORMATS, sse_event, sse_line
from media.source import (
    CHUNK_LIMIT,
    BadParameter,
    Body,
    ByteChunks,
    Chunks,
    Facts,
    SourceEnded,
    SourceNotFound,
)

PLAIN = FORMATS["text"].media_type
EVENTS = FORMATS["sse"]

LINE_BYTES = CHUNK_LIMIT // 2
"""The longest line that can be an event or be paced; plain text has no limit."""

_GATHER_BYTES = 64 * 1024
_MARK = b"\xef\xbb\xbf"


@asynccontextmanager
async def text(
    root: Path,
    name: str,
    encodings: decoding.EncodingCache,
    *,
    encoding: str = "",
    pace_seconds: float = 0,
    tail: int | None = None,
    codings: Sequence[str] = (),
) -> AsyncGenerator[Body, None]:
    """The source of a text file as `text/plain` in UTF-8, or of the same coded where that lies beside it.

    Args:
        encodings: what earlier requests found out.
        encoding: Python's name of the file's encoding, where the client knows it; empty: find out.
        pace_seconds: the pause after every line; 0: none.
        tail: so many lines, the last ones, are all that is sent; None: all are.
        codings: content codings that the client takes, best first, each one of `SIDECARS`.

    Raises:
        SourceNotFound: there is no such file, or it is not text.
    """
    with ExitStack() as stack:
        handle = stack.enter_context(opened(root, name))
        found = await encoding_of(handle, name, encodings, encoding)

        def cut(start: int, stop: int) -> Chunks:
            return regions(handle.descriptor, start, stop, decoding.code_point_boundary)

        def chunks() -> ByteChunks:
            raw = _utf8(handle, found, 0) if tail is None else _last_lines(handle, found, tail)
            return _paced(raw, pace_seconds) if pace_seconds else raw

        if pace_seconds or tail is not None:
            yield Body(Facts(PLAIN), chunks=chunks)
        elif found.clean:
            for coding in codings:
                if sidecar := _sidecar(root, name + SIDECARS[coding], handle, stack):
                    yield _coded(sidecar, coding)
                    return
            facts = Facts(PLAIN, length=handle.length, etag=handle.etag, modified=handle.modified)
            yield Body(facts, chunks=lambda: cut(0, handle.length), slice=cut, path=handle.path)
        else:
            facts = Facts(PLAIN, etag=f'W/{handle.etag[:-1]}-{found.name}"', modified=handle.modified)
            yield Body(facts, chunks=chunks)


@asynccontextmanager
async def text_events(
    root: Path,
    name: str,
    encodings: decoding.EncodingCache,
    *,
    encoding: str = "",
    after: int | None = None,
    pace_seconds: float = 0,
    tail: int | None = None,
) -> AsyncGenerator[Body, None]:
    """The source of a text file as server-sent events, one a line, then `event: end`.

    Args:
        after: bytes of the UTF-8 text that the client has; None: it begins.
        tail: so many lines before the end is where it begins then; None: at the beginning.

    Raises:
        SourceNotFound: there is no such file, or it is not text.
        SourceEnded: the client has it all.
    """
    with opened(root, name) as handle:
        found = await encoding_of(handle, name, encodings, encoding)
        if after is not None and after >= await _utf8_length(handle, found):
            raise SourceEnded(f"{after} is the end of {name!r}")
        facts = Facts(EVENTS.media_type, heartbeat=EVENTS.heartbeat)
        lines = tail if after is None else None
        yield Body(facts, chunks=lambda: _events(handle, found, after or 0, lines, pace_seconds))


async def split_lines(raw: ByteChunks) -> AsyncGenerator[list[bytes], None]:
    """The lines of each chunk that are complete with it, their ends included; the last may have none.

    Raises:
        BadParameter: a line is longer than `LINE_BYTES`.
    """
    rest = b""
    async with aclosing(raw):
        async for chunk in raw:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES or any(len(line) > LINE_BYTES for line in lines):
                raise BadParameter(
                    f"format and pace must be left out: a line of this text is longer than {LINE_BYTES} bytes"
                )
            if lines:
                yield [line + b"\n" for line in lines]
    if rest:
        yield [rest]


async def encoding_of(
    handle: OpenFile, name: str, encodings: decoding.EncodingCache, asked: str
) -> decoding.Encoding:
    if PurePosixPath(name).suffix.lower() in MEDIA_TYPES:
        raise SourceNotFound(f"not text: {name!r} is a track")
    found = await encodings.encoding_of(handle.descriptor)
    if asked and not (found and found.clean and asked == "utf-8"):
        # UTF-16 without a mark is full of NULs: only who knows it can say so.
        if found is None and not asked.startswith(("utf-16", "utf-32")):
            raise SourceNotFound(f"not text: {name!r}")
        return decoding.Encoding(asked, clean=False)
    if found is None:
        raise SourceNotFound(f"not text: {name!r}")
    return found


def _sidecar(root: Path, name: str, text: OpenFile, stack: ExitStack) -> OpenFile | None:
    """The file `name`, opened on `stack`, if it can be `text` coded; None: it cannot, or is not there.

    One that is older is of another text. Whole seconds are compared: brotli copies a file's time without the
    rest. One that is no shorter, or empty, is no gain: it is being written, or the text is short.
    """
    try:
        sidecar = stack.enter_context(opened(root, name))
    except SourceNotFound:
        return None
    fits = sidecar.modified >= text.modified and 0 < sidecar.length < text.length
    return sidecar if fits else None


def _coded(sidecar: OpenFile, coding: str) -> Body:
    """A body of its own: its tag, its length and its ranges are those of the coded bytes."""

    def cut(start: int, stop: int) -> Chunks:
        return regions(sidecar.descriptor, start, stop)

    facts = Facts(PLAIN, sidecar.length, sidecar.etag, sidecar.modified, coding=coding)
    return Body(facts, chunks=lambda: cut(0, sidecar.length), slice=cut)


def _utf8(handle: OpenFile, encoding: decoding.Encoding, start: int) -> ByteChunks:
    """The text from the byte `start` of its UTF-8 on."""
    if encoding.clean:
        return decoding.whole_code_points(read(handle.descriptor, start, handle.length))
    return _behind(decoding.to_utf8(read(handle.descriptor, 0, handle.length), encoding.name), start)


async def _behind(raw: ByteChunks, start: int) -> ByteChunks:
    """What comes after the first `start` bytes."""
    async with aclosing(raw):
        async for chunk in raw:
            if start < len(chunk):
                yield chunk[start:]
            else:
                await asyncio.sleep(0)  # what is left out never comes to the pump, which gives turns
            start = max(0, start - len(chunk))


async def _utf8_length(handle: OpenFile, encoding: decoding.Encoding) -> int:
    if encoding.clean:
        return handle.length
    length = 0
    async with aclosing(_utf8(handle, encoding, 0)) as chunks:
        async for chunk in chunks:
            length += len(chunk)
            await asyncio.sleep(0)
    return length


async def _tail_start(handle: OpenFile, encoding: decoding.Encoding, lines: int) -> int:
    """Where in the UTF-8 text its last `lines` lines begin. What has no end is the last one."""
    length = handle.length
    if encoding.clean:
        unfinished = await read_full(handle.descriptor, max(0, length - 1), 1) not in (b"", b"\n")
        return await lines_back(handle.descriptor, length, lines - unfinished) if lines else length
    # The file is decoded twice and once more to be sent: its lines cannot be found from its end on.
    count, length, last = 0, 0, b""
    async with aclosing(_utf8(handle, encoding, 0)) as chunks:
        async for chunk in chunks:
            last = bytes(chunk)
            count, length = count + last.count(b"\n"), length + len(last)
            await asyncio.sleep(0)
    skipped = count + (not last.endswith(b"\n") and length > 0) - lines
    return length if not lines else await _line_start(_utf8(handle, encoding, 0), skipped)


async def _line_start(raw: ByteChunks, lines: int) -> int:
    """Where the line begins that so many are before."""
    position = 0
    async with aclosing(raw):
        async for chunk in raw:
            if lines <= 0:
                return position
            data = bytes(chunk)
            ends = data.count(b"\n")
            if ends >= lines:
                return position + len(data) - len(data.split(b"\n", lines)[-1])
            position, lines = position + len(data), lines - ends
            await asyncio.sleep(0)
    return position


async def lines_back(descriptor: int, stop: int, lines: int, least: int = 0) -> int:
    """Where the last `lines` lines before `stop` begin. What has no end is none.

    Args:
        least: where it is not looked any further, and what it gives then; at least 0.

    Raises:
        SourceBroken: the disk failed.
    """
    least = max(0, least)
    while stop > least:
        start = max(least, stop - READ_BYTES)
        chunk = await read_full(descriptor, start, stop - start)
        ends = chunk.count(b"\n")
        if ends > lines:
            return start + len(chunk) - len(chunk.split(b"\n", ends - lines)[-1])
        lines -= ends
        stop = start
        await asyncio.sleep(0)
    return least


async def _last_lines(handle: OpenFile, encoding: decoding.Encoding, lines: int) -> ByteChunks:
    start = await _tail_start(handle, encoding, lines)
    async with aclosing(_utf8(handle, encoding, start)) as raw:
        async for chunk in raw:
            yield chunk


async def _paced(raw: ByteChunks, seconds: float) -> ByteChunks:
    async with aclosing(split_lines(raw)) as batches:
        async for lines in batches:
            for line in lines:
                yield line
                await asyncio.sleep(seconds)


async def _events(
    handle: OpenFile, encoding: decoding.Encoding, position: int, tail: int | None, pace_seconds: float
) -> ByteChunks:
    """The text from `position` on, or its last lines, as events, gathered unless they are paced."""
    if tail is not None:
        position = await _tail_start(handle, encoding, tail)
    raw = _utf8(handle, encoding, position)
    gathered: list[bytes] = []
    gathered_bytes = 0
    # The mark is no part of the first line. Nor is the rest of a code point where a client made up its id.
    trim: Callable[[bytes], bytes] | None = _without_continuations if position else _without_mark
    async with aclosing(split_lines(raw)) as batches:
        async for lines in batches:
            for line in lines:
                position += len(line)
                shown, trim = trim(line) if trim else line, None
                event = sse_line(shown, b"%d" % position)
                if pace_seconds:
                    yield event
                    await asyncio.sleep(pace_seconds)
                    continue
                gathered.append(event)
                gathered_bytes += len(event)
                if gathered_bytes >= _GATHER_BYTES:
                    yield b"".join(gathered)
                    gathered.clear()
                    gathered_bytes = 0
    # With an id: a client that comes back after an empty file, too, learns that it has everything.
    end = sse_event(json.dumps({"length": position}).encode(), str(position), "end")
    yield b"".join([*gathered, end])


def _without_mark(line: bytes) -> bytes:
    return line.removeprefix(_MARK)


def _without_continuations(line: bytes) -> bytes:
    return line.lstrip(decoding.CONTINUATIONS)
