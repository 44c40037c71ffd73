"""`tail -F` as a source: where a client begins in a file that grows, and what it is sent until it follows.

A client begins at the beginning, some lines before the end, or behind the id that it saw last. What lies
between there and what is kept of the file (`media/growing.py`) is read from the disk for this client alone,
when it is ready for it; then it follows, and is sent what all are.
"""

import mimetypes
import os
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path

from media.decoding import EncodingCache
from media.files import READ_BYTES, opened
from media.files import file as whole_file
from media.generated import Stream, StreamRequest, heartbeat
from media.growing import Growing, before, growing_files, read_behind
from media.lines import (
    FOLLOWED_FORMATS,
    UTF_8,
    Rotated,
    Run,
    Splitter,
    check_followable,
    encoded,
    id_of,
    last_bytes,
    mark_of,
    read_id,
    said,
)
from media.parameters import whole
from media.records import FORMATS, Format, sse_retry
from media.source import Body, ByteChunks, Cursor, Facts, Following, Source
from media.text import encoding_of, lines_back
from media.window import Generation

FOLLOWED = tuple(FORMATS[name] for name in FOLLOWED_FORMATS)
"""What a file can be followed as."""

TAIL_LINES = 10
"""What a row begins with, as tail does."""

MOST_TAIL = 1_000_000_000

_PARAMETERS = (
    {
        "name": "tail",
        "required": False,
        "type": "integer",
        "minimum": 0,
        "maximum": MOST_TAIL,
        "default": TAIL_LINES,
    },
)


def tail_lines(args: Mapping[str, str], default: int | None) -> int | None:
    """The parameter `tail`: so many lines before the end. None: from the beginning on.

    Raises:
        BadParameter: it is no whole number.
    """
    return whole(args, "tail", 0, least=0, most=MOST_TAIL) if "tail" in args else default


def file(
    path: str | os.PathLike[str],
    media_type: str | None = None,
    *,
    follow: bool = False,
    encoding: str = UTF_8,
    title: str = "",
) -> Stream:
    """A file by its path, whole, with ranges and conditions; or as it grows, as `tail -F` does.

    Followed, it is lines: `?tail=N` begins so many before the end (TAIL_LINES; 0: with what is new). One that
    is not there yet is waited for.

    Args:
        media_type: of the whole file; None: as its name ends.
        encoding: of a file that is followed.

    Raises:
        BadParameter: a file of this encoding cannot be followed.
    """
    name = os.path.abspath(path)
    title = title or Path(name).name
    if not follow:
        known = media_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Stream(title, lambda request, form: whole_file(None, name, known), media_type=known)
    check_followable(encoding)

    def open_(request: StreamRequest, form: Format | None) -> Source:
        assert form is not None
        lines = tail_lines(request.args, TAIL_LINES)
        return Followed(None, name, request, form, lines=lines, encoding=encoding)

    return Stream(title, open_, formats=FOLLOWED, live=True, parameters=_PARAMETERS)


class Followed:
    """A file as it grows, for one client: a source.

    Args:
        root: the library that the file lies in; None: `name` is a path.
        lines: so many before the end are where a client begins that has seen nothing; None: all.
        encoding: of the file; empty: what `encodings` find out, of a text that has to be there.
    """

    __slots__ = ("_encoding", "_encodings", "_form", "_growing", "_lines", "_name", "_request", "_root")

    def __init__(
        self,
        root: Path | None,
        name: str,
        request: StreamRequest,
        form: Format,
        *,
        lines: int | None,
        encoding: str = "",
        encodings: EncodingCache | None = None,
    ) -> None:
        self._root, self._name, self._form = root, name, form
        self._request: StreamRequest | None = request
        self._lines, self._encoding, self._encodings = lines, encoding, encodings
        self._growing: Growing | None = None

    async def __aenter__(self) -> Body:
        request, form = self._request, self._form
        if request is None:
            raise RuntimeError("a source is entered once")
        self._request = None
        last_event_id = request.last_event_id
        seen = None if last_event_id is None else read_id(last_event_id)
        facts = Facts(form.media_type, live=True, heartbeat=heartbeat(form, request))
        growing = self._growing = growing_files().hold(self._root, self._name)
        try:
            encoding = await self._found_encoding(growing)
        except BaseException:
            await growing_files().release(growing)
            raise
        first = First(growing, form.name, encoding, self._lines, last_event_id, seen)
        opening = sse_retry() if form.name == "sse" else b""
        following = Following(growing.window.feed(form.name, encoding), (0,), opening, first=first)
        return Body(facts, chunks=following.chunks, following=following)

    async def __aexit__(self, *failure: object) -> None:
        assert self._growing is not None
        await growing_files().release(self._growing)

    async def _found_encoding(self, growing: Growing) -> str:
        """What the file is encoded in.

        Raises:
            SourceNotFound: there is no such text.
            BadParameter: it is one that cannot be followed.
        """
        if self._encodings is None:
            growing.window.encoding = self._encoding
            return self._encoding
        with opened(self._root, self._name) as handle:
            if growing.encoding is None or self._encoding:
                found = await encoding_of(handle, self._name, self._encodings, self._encoding)
                check_followable(found.name)
                if self._encoding:
                    return found.name
                growing.encoding = growing.window.encoding = found.name
        return growing.encoding


class First:
    """What one client is sent before it follows: from its place to one that the feed keeps.

    Args:
        seen: position and mark of the id that the client saw last; None: it has seen nothing.
    """

    __slots__ = (
        "_before",
        "_encoding",
        "_file",
        "_form",
        "_growing",
        "_last_event_id",
        "_lines",
        "_position",
        "_seen",
        "cursor",
        "joined",
    )

    def __init__(
        self,
        growing: Growing,
        form: str,
        encoding: str,
        lines: int | None,
        last_event_id: str | None,
        seen: tuple[int, str] | None,
    ) -> None:
        self._growing, self._form, self._encoding = growing, form, encoding
        self._lines, self._last_event_id, self._seen = lines, last_event_id, seen
        self._file: Generation | None = None
        self.joined = False
        """Whether it is at a place that the feed keeps, or was when it was last asked."""
        self._position = 0
        self._before = b""  # the `last_bytes` there
        self.cursor: Cursor = (0,)

    async def chunks(self) -> ByteChunks:
        growing, told = self._growing, b""
        await growing.started()
        if self._file is None and not self._kept():
            if growing.file is None:  # whatever it will be, it is all new
                self._join(growing.window.newest)
                return
            with growing.file.held():
                told = await self._begin(growing.file)
        self.joined = False
        while not self.joined:
            if told:
                yield told
            assert self._file is not None
            file = self._file
            with file.held():
                async with aclosing(self._rest_of(file)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            told = b"" if self.joined else self._leave(file)
        if told:
            yield told

    def _kept(self) -> bool:
        """Whether the place that the client came back for is kept, of a file that has gone, too; go there."""
        position, mark = self._seen or (0, "")
        for block in reversed(self._growing.window.blocks):
            if mark and block.run.has(position, mark):
                self._file, self._position = block.file, position
                self._before = block.run.behind(position).before
                return True
        return False

    async def _begin(self, file: Generation) -> bytes:
        """Find the client's place. Gives what it is told where that is not the one that it came back for."""
        self._file = file
        if self._seen is not None:
            return await self._resumed(file, *self._seen)
        if self._lines is not None:
            position, lines = self._growing.window.back(file, self._lines)
            self._position = await lines_back(file.descriptor, position, lines) if lines else position
            self._before = await before(file.descriptor, self._position)
        return b""

    async def _resumed(self, file: Generation, position: int, mark: str) -> bytes:
        if position <= os.fstat(file.descriptor).st_size:
            there = await before(file.descriptor, position)
            if not mark or mark_of(there, file.inode) == mark:
                self._position, self._before = position, there
                return b""
        return said(Rotated("unknown", id_of(0, b"", file.inode), self._last_event_id), self._form)

    async def _rest_of(self, file: Generation) -> ByteChunks:
        """What one file has up to a place that the feed keeps, and joins there; or all that there is."""
        growing, window, splitter = self._growing, self._growing.window, Splitter()
        read, seen = self._position, self._before
        while not self._joins(file):
            block = window.at(file, self._position)
            if block is None and self._position > window.stop:  # the client knows more than is read yet
                window.taken(window.newest)
                growing.wake()
                await window.changed()
                continue
            if block is not None and block.file is file and block.run.start < self._position:
                yield self._passed(block.run.behind(self._position))
                continue
            stop = window.stop if block is None else block.run.start if block.file is file else None
            most = READ_BYTES if stop is None else min(READ_BYTES, stop - read)
            data = await read_behind(file.descriptor, read, seen, most) if file.open else None
            runs = splitter.feed(data or b"")
            read, seen = read + len(data or b""), last_bytes(seen, data or b"")
            if data is not None and (not data or read == stop) and (rest := splitter.flush()):
                runs.append(rest)
            for run in runs:
                yield self._passed(Run(run, self._position, self._before, file.inode))
            if not data:
                return

    def _joins(self, file: Generation) -> bool:
        """Join the feed, if the client is at a place that it keeps."""
        window = self._growing.window
        block = window.at(file, self._position)
        if block is None:
            joins, number = self._position == window.stop, window.newest
        else:
            joins = block.file is file and self._position in (block.run.start, block.run.stop)
            number = block.number - (self._position != block.run.stop)
        if joins:
            self._join(number)
        return joins

    def _leave(self, file: Generation) -> bytes:
        """Go on behind a file that has nothing more for this client. Gives what it is told."""
        growing, window = self._growing, self._growing.window
        block = window.at(file, self._position)
        if block is not None and block.rotated is not None and block.file.number == file.number + 1:
            self._join(block.number - 1)  # and the feed tells it
            return b""
        unfinished = bool(self._before) and not self._before.endswith(b"\n")
        if block is not None and block.file is not file and growing.file is not None:
            self._file, self._position, self._before = growing.file, 0, b""
            rotated = Rotated("replaced", id_of(0, b"", growing.file.inode), unfinished=unfinished)
            return said(rotated, self._form)
        # What the client was to have is no longer on the disk: it goes on with what is kept.
        there = block.run if block is not None else Run(b"", window.stop, b"", file.inode)
        self._join(window.newest if block is None else block.number - 1)
        self._position, self._before = there.start, there.before
        id_ = id_of(there.start, there.before, there.inode)
        return said(Rotated("truncated", id_, unfinished=unfinished), self._form)

    def _passed(self, run: Run) -> bytes:
        """A run for this client, which is behind it then."""
        self._position, self._before = run.stop, last_bytes(run.before, run.data)
        return encoded(run, self._form, self._encoding)

    def _join(self, number: int) -> None:
        self.cursor, self.joined = (number,), True
        self._growing.window.taken(number)
