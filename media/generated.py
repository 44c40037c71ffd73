"""A stream whose items a function makes, one generator for each client.

The function takes the StreamRequest and yields records (dict), lines (str), Events, or bytes;
bytes go out as they are, under the media type that the stream declares.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from media.decoding import utf8
from media.functions import Call, Function
from media.parameters import flag
from media.records import END_ID, FORMATS, Encoder, Format
from media.source import CHUNK_LIMIT, Body, ByteChunks, Chunks, Facts, Source, SourceEnded

if TYPE_CHECKING:
    from media.shared import Runs


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a stream may know of the request that asks for it.

    Args:
        args: the query's parameters, the last value of each name.
        headers: by lower-case name.
        last_event_id: what the client saw last, or None if it begins.
        path: of the URL, decoded.
        remote_address: of the client.
        method: GET, HEAD or POST.
    """

    args: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    last_event_id: str | None = None
    path: str = ""
    remote_address: str = ""
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Stream:
    """A named stream: how it is listed, and how a request becomes a source.

    Args:
        title: one line for people.
        open: makes the source, in one of `formats`; in None where the stream has a media type of its own.
        formats: of records and lines, the first being the one for clients without a wish.
        media_type: of a stream of bytes; None for records and lines.
        live: endless.
        parameters: of its own, as /streams lists them.
        close: releases what all its clients share; called once, when the process ends.
        runs: of a function that all its clients share; None: each has its own.
        key: a column; `?after=` with a value of it goes on behind that row. Empty: there is none.
    """

    title: str
    open: Callable[[StreamRequest, Format | None], Source]
    formats: tuple[Format, ...] = ()
    media_type: str | None = None
    live: bool = False
    parameters: tuple[Mapping[str, object], ...] = ()
    close: Callable[[], Awaitable[None]] | None = None
    runs: "Runs | None" = None
    key: str = ""

    @property
    def media_types(self) -> list[str]:
        """What this stream can be had as, the default first."""
        return [self.media_type] if self.media_type else [form.media_type for form in self.formats]


def formats_from(first: str) -> tuple[Format, ...]:
    """Every format, the one named `first` in front.

    Raises:
        ValueError: there is none of that name.
    """
    if first not in FORMATS:
        raise ValueError(f'first must be {", ".join([*FORMATS][:-1])} or {[*FORMATS][-1]}, not "{first}"')
    return (FORMATS[first], *(form for name, form in FORMATS.items() if name != first))


class Encoded:
    """Items as bytes of a format."""

    def __init__(self, encoder: Encoder) -> None:
        self.add = encoder.add
        self._encoder = encoder

    def take(self) -> list[bytes]:
        return [taken] if (taken := self._encoder.take()) else []


class Pieces:
    """Bytes as they are; text as UTF-8. Empty ones are left out, larger ones than CHUNK_LIMIT are cut."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, item: Any) -> int:
        if isinstance(item, str):
            item = utf8(item)
        elif not isinstance(item, bytes):
            if not isinstance(item, bytearray | memoryview):
                raise TypeError(
                    f"the items of a stream with a media_type are bytes, not {type(item).__name__}"
                )
            item = bytes(item)  # whose it is may write to it again
        self._size += len(item)
        if len(item) > CHUNK_LIMIT:
            self._pieces += [item[at : at + CHUNK_LIMIT] for at in range(0, len(item), CHUNK_LIMIT)]
        elif item:
            self._pieces.append(item)
        return self._size

    def take(self) -> list[bytes]:
        taken, self._pieces, self._size = self._pieces, [], 0
        return taken


def generated(
    function: Function,
    *,
    title: str = "",
    first: str = "ndjson",
    media_type: str | None = None,
    live: bool = False,
) -> Stream:
    """The stream of a function that yields its items, called once for each client (`media.functions.Call`).

    Args:
        title: one line for people; empty: the first of the function's docstring.
        first: name of the format for clients without a wish.
        media_type: of a function that yields bytes, or text that is sent as it is; None: of one that yields
            records, lines and Events.
        live: endless: a server that shuts down ends it between two items, and it is whole as far as it goes.

    Raises:
        TypeError: there is no such function.
        ValueError: there is no such format, or media type.
    """
    call = Call(function)
    if media_type is not None and "/" not in media_type:
        raise ValueError(f'media_type must be such as text/plain, not "{media_type}"')

    def open_(request: StreamRequest, form: Format | None) -> Source:
        if media_type is not None:
            return _as_it_is(call, request, media_type, live)
        assert form is not None
        return _in_format(call, request, form, live)

    formats = () if media_type else formats_from(first)
    return Stream(
        title or call.title, open_, formats, media_type=media_type, live=live, parameters=call.parameters
    )


@asynccontextmanager
async def _as_it_is(
    call: Call, request: StreamRequest, media_type: str, live: bool
) -> AsyncGenerator[Body, None]:
    pieces = call.gathered(request, Pieces())
    yield Body(Facts(media_type, live=live), chunks=lambda: pieces)


@asynccontextmanager
async def _in_format(
    call: Call, request: StreamRequest, form: Format, live: bool
) -> AsyncGenerator[Body, None]:
    if not live:
        refuse_if_ended(request, form)
    facts = Facts(form.media_type, live=live, heartbeat=heartbeat(form, request))
    encoder = form.encoder(())
    chunks = call.gathered(request, Encoded(encoder))

    def ending() -> bytes:
        # With the items that nobody has taken yet. Who follows events comes back: that is no end of them.
        return encoder.take() + (b"" if form.name == "sse" else encoder.end())

    yield Body(facts, chunks=lambda: encoded(chunks, encoder), ending=ending)


def refuse_if_ended(request: StreamRequest, form: Format) -> None:
    """Let an EventSource stop that has seen the end and, as they all do, comes back.

    Raises:
        SourceEnded: it has.
    """
    if form.name == "sse" and request.last_event_id == END_ID:
        raise SourceEnded("the client has seen the end")


async def encoded(chunks: ByteChunks, encoder: Encoder) -> Chunks:
    """The items as a body. Its beginning waits for the first item, so that a failing start is a status."""
    begin = encoder.begin()
    async with aclosing(chunks):
        async for chunk in chunks:
            yield begin + chunk if begin else chunk
            begin = b""
    if end := begin + encoder.end():
        yield end


def heartbeat(form: Format, request: StreamRequest) -> bytes:
    """A format's heartbeat; in plain text it can be declined, because a reader sees the space."""
    return form.heartbeat if form.name != "text" or flag(request.args, "heartbeat", True) else b""
