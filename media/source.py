"""What a stream is: Facts, Body, Source, and the ways it can fail.

A *Source* is an async context manager that yields a Body; it can be entered once.
Everything that Millrace sends goes through it, and only `handlers/serve.py` enters one.

The contract (`tests/media/test_source_contract.py` holds every source to it):

1. Making a source does no I/O: one that is never entered has nothing to close.
2. Entering acquires what is needed to say what the body is, and no more.
   A file is opened and fstat'ed; a query does not start.
   So HEAD, 304, 412 and 416 cost no work.
3. Iterating starts the work.
   Chunks are never empty, bounded in size (`CHUNK_LIMIT`, or the one record or page that is larger),
   and end where a heartbeat may stand.
4. Leaving releases everything exactly once on every path:
   finished, broken off, failed, cancelled, never iterated.
5. If the length is known, the chunks add up to it or SourceBroken is raised.
6. `slice(a, b)` equals `whole[a:b]`.
7. Only SourceErrors leave a source for reasons outside the program. A bug stays a bug.
8. Cancellation passes through.

The tree of errors:

    Exception
    └── SourceError
        ├── BadParameter      the client asked for something malformed      → 400
        │   └── BadRequest    so says a user's own function
        ├── SourceNotFound    there is no such thing                        → 404
        │   └── NotFound      so says a user's own function, and the client is told its words
        ├── SourceEnded       nothing is left behind what the client has    → 204
        ├── SourceBusy        not now; `retry_after` says when              → 503
        │   └── Busy          so says a user's own function
        ├── SourceFailed      the program broke what many follow            → 500
        └── SourceBroken      the outside broke it: upstream, database, disk → 502
            ├── SourceSlow    it did not answer in time                     → 504
            └── FellBehind    a follower of a feed was too slow              → its connection is broken
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

CHUNK_LIMIT = 1024 * 1024
"""The most bytes in a chunk that is in memory, where a source cuts what it has."""

RUN_BYTES = 64 * 1024
"""The most bytes of a feed that are sent at once, or the one piece that is larger."""

OFFERING_SECONDS = 1.0
"""How long who makes news faster than it can be sent is held up, at most."""


class SourceError(Exception):
    """A failure outside the program. `serve` maps each subclass to one status."""


class BadParameter(SourceError):
    """A parameter is malformed. The text is sent to the client: it says what would be right."""


class BadRequest(BadParameter):
    """For a function of a user's: what is asked for is malformed. The client is told the text."""


class SourceNotFound(SourceError):
    """There is no such thing. The text is for the log; the client learns only that it is missing."""


class NotFound(SourceNotFound):
    """For a function of a user's: there is no such thing. The client is told the text."""


class SourceEnded(SourceError):
    """Nothing is left behind what the client has seen: an EventSource that gets 204 stops asking."""


class SourceBusy(SourceError):
    """It cannot be had now, but `retry_after` seconds later it may."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(SourceBusy):
    """For a function of a user's: it cannot be had now, but `retry_after` seconds later. The client is told
    the text."""

    def __init__(self, message: str = "", *, retry_after: int = 1) -> None:
        super().__init__(message, retry_after)


class SourceFailed(SourceError):
    """What many follow failed by a fault of the program. The log has it once, and not for each of them."""


class SourceBroken(SourceError):
    """The outside broke the body. Before the first byte a 502, after it the connection is aborted."""


class SourceSlow(SourceBroken):
    """The outside did not answer in time: before the first byte a 504."""


class FellBehind(SourceBroken):
    """What a follower of a feed has not been sent yet is no longer kept."""


@dataclass(frozen=True, slots=True)
class FileRegion:
    """The bytes from `start` to `stop` of an open file, which the kernel can send by itself.

    At least a few kilobytes (what is short is read), and at most `media.files.REGION_BYTES`.

    The descriptor belongs to the source and is open until the source is left: who needs it longer has it
    duplicated. The bytes were in the page cache a moment ago.
    """

    descriptor: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


Chunk = bytes | memoryview | FileRegion
"""A piece of a body. A memoryview belongs to the receiver: nobody writes to it again."""

Chunks = AsyncGenerator[Chunk, None]
"""What a body is iterated as. Whoever iterates it closes it (`contextlib.aclosing`)."""

ByteChunks = AsyncGenerator[bytes | memoryview, None]
"""Chunks that are in memory."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a body before its first byte.

    Args:
        media_type: as it stands in Content-Type, parameters included.
        length: bytes, or None if it is known only at the end.
        etag: entity tag as it stands in ETag, quotes and `W/` included (RFC 9110 §8.8.3).
            None: the body is generated and must not be kept.
        modified: aware, in UTC; sent with a resolution of one second.
        live: endless. A server that shuts down ends it at a chunk, and it is whole as far as it goes.
        heartbeat: bytes that may stand between any two chunks to show that the server lives.
            Empty: nothing may.
        coding: content coding that the bytes have, `gzip` or another (RFC 9110 §8.4.1). Empty: none.
        count: items in all, whichever of them the body has, or None if they were not counted.
    """

    media_type: str
    length: int | None = None
    etag: str | None = None
    modified: datetime | None = None
    live: bool = False
    heartbeat: bytes = b""
    coding: str = ""
    count: int | None = None


Changed = Callable[[], None]
Offered = Callable[[], Awaitable[None]]

Cursor = tuple[int, ...]
"""A place in a feed: what is behind it has not been sent yet. Equal ones are the same place."""


class Feed(Protocol):
    """What many are sent alike: pieces in order, kept for a while. One object for all who follow it."""

    @property
    def newest(self) -> Cursor:
        """The place behind everything that there is."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""

    @property
    def failure(self) -> SourceError | None:
        """Why it ended before it was whole; None: it has not, or did not."""

    def after(self, cursor: Cursor, most_bytes: int) -> tuple[bytes, Cursor]:
        """The pieces behind `cursor`, whole and joined, and the place behind them.

        At least one if there is any; otherwise no more than `most_bytes`.

        Raises:
            FellBehind: some of them are no longer kept.
        """

    def lost(self, cursor: Cursor) -> bool:
        """Whether `after` would raise."""

    def attach(self, changed: Changed, offered: Offered | None = None) -> None:
        """Have `changed` called, from within the loop, at each new piece and at the end.

        Args:
            offered: waits until what there is now has been sent to everybody who takes something.
        """

    def detach(self, changed: Changed) -> None:
        """No longer."""


class Watched:
    """The part of a feed that tells of what is new."""

    def __init__(self) -> None:
        self._watchers: dict[Changed, Offered | None] = {}

    def attach(self, changed: Changed, offered: Offered | None = None) -> None:
        """Have `changed` called when there is something new; `offered` as a Feed has it."""
        self._watchers[changed] = offered

    def detach(self, changed: Changed) -> None:
        """No longer."""
        self._watchers.pop(changed, None)

    async def offered(self) -> None:
        """Wait until what there is now has been sent to everybody who takes something.

        For who makes news faster than it can be sent. No subscriber is waited for, and nobody is for longer
        than OFFERING_SECONDS: clients that begin at the whole history again and again would hold it up.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(OFFERING_SECONDS):
                for offered in tuple(self._watchers.values()):
                    if offered is not None:
                        await offered()

    def _tell(self) -> None:
        for changed in tuple(self._watchers):  # one may detach another
            changed()


class First(Protocol):
    """What a client is sent of its own before it follows a feed, such as what the feed no longer keeps."""

    @property
    def cursor(self) -> Cursor:
        """Where in the feed it goes on, once its chunks have ended."""

    def chunks(self) -> "ByteChunks":
        """What is missing up to a place that the feed keeps. Called again, it goes on from the cursor."""


@dataclass(frozen=True, slots=True)
class Following:
    """One client's way along a feed.

    Args:
        cursor: where it begins.
        opening: what it is sent first.
        first: what it is sent behind that; then `first.cursor` is where it begins. None: nothing.
        own: makes of each run of bytes what this client is sent, which may hold something of its own;
            called once for each, in order. None: they are sent as they are.
        begin: starts what makes the feed, if nobody has, and waits until there is a first piece or none will
            come. May be cancelled; raises the SourceError for which there is none. None: it is there.
    """

    feed: Feed
    cursor: Cursor
    opening: bytes = b""
    own: Callable[[bytes], bytes] | None = None
    first: First | None = None
    begin: Callable[[], Awaitable[None]] | None = None

    async def begun(self, seconds: float) -> None:
        """Have it begin, and wait until it has, but no longer than this.

        Raises:
            SourceError: there is nothing, and there will be nothing.
        """
        if self.begin is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.begin()

    async def chunks(self) -> "ByteChunks":
        """All of it, for whoever cannot be sent what the others are: each run when it is asked for.

        Raises:
            SourceError: the feed has failed.
        """
        if self.begin is not None:
            await self.begin()
        async with aclosing(self.beginning()) as beginning:
            async for chunk in beginning:
                yield chunk
        cursor = self.cursor if self.first is None else self.first.cursor
        changed = asyncio.Event()
        self.feed.attach(changed.set)
        try:
            while True:
                changed.clear()
                while cursor != self.feed.newest:
                    run, cursor = self.feed.after(cursor, RUN_BYTES)
                    if self.own is not None:
                        run = self.own(run)
                    if run:
                        yield run
                if self.feed.ended:
                    if self.feed.failure is not None:
                        raise self.feed.failure.with_traceback(None)
                    return
                await changed.wait()
        finally:
            self.feed.detach(changed.set)

    async def beginning(self) -> "ByteChunks":
        """What the client is sent of its own, up to where it follows."""
        if self.opening:
            yield self.opening
        if self.first is not None:
            async with aclosing(self.first.chunks()) as first:
                async for chunk in first:
                    yield chunk


@dataclass(frozen=True, slots=True)
class Passed:
    """What another server has answered: conditions, ranges and codings are done, and it is sent as it is.

    Args:
        headers: that belong to its content, and may be sent by us. Each name once.
    """

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Body:
    """The body of one response.

    Args:
        facts: what the headers say of it.
        chunks: starts the work and gives the whole body. Called at most once.
        slice: gives the bytes from a start to a stop (half-open, within the length);
            may be called several times, one after the other.
            None: the body cannot be cut.
        ending: gives what makes a live body whole that is ended between two chunks: what is still to be sent,
            and the bracket that closes an array.
        path: of the file whose bytes, all and as they are, are the body; empty: it is no file.
        following: the same bytes as the chunks, of a feed that others follow too. None: they are its own.
        passed: its status and headers, where another server has made them. None: they come of the facts.
    """

    facts: Facts
    chunks: Callable[[], Chunks]
    slice: Callable[[int, int], Chunks] | None = None
    ending: Callable[[], bytes] = bytes
    path: str = ""
    following: Following | None = None
    passed: Passed | None = None


Source = AbstractAsyncContextManager[Body]
