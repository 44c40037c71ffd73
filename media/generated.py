"""A stream whose items an async generator function makes, one generator for each client.

The function takes the StreamRequest and yields records (dict), lines (str), Events, or bytes;
bytes go out as they are, under the media type that the stream declares.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from media.parameters import flag
from media.records import END_ID, FORMATS, Encoder, Format, Item
from media.source import CHUNK_LIMIT, Body, Chunks, Facts, Source, SourceEnded


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a stream may know of the request that asks for it.

    Args:
        args: the query's parameters, the last value of each name.
        headers: by lower-case name.
        last_event_id: what the client saw last, or None if it begins.
        path: of the URL, decoded.
        remote_address: of the client.
    """

    args: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    last_event_id: str | None = None
    path: str = ""
    remote_address: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """A named stream: how it is listed, and how a request becomes a source.

    Args:
        title: one line for people.
        open: makes the source, in one of `formats`; in None where the stream has a media type of its own.
        formats: of records and lines, the first being the one for clients without a wish.
        media_type: of a stream of bytes; None for records and lines.
        live: endless.
    """

    title: str
    open: Callable[[StreamRequest, Format | None], Source]
    formats: tuple[Format, ...] = ()
    media_type: str | None = None
    live: bool = False

    @property
    def media_types(self) -> list[str]:
        """What this stream can be had as, the default first."""
        return [self.media_type] if self.media_type else [form.media_type for form in self.formats]


def formats_from(first: str) -> tuple[Format, ...]:
    """Every format, the one named `first` in front."""
    return (FORMATS[first], *(form for name, form in FORMATS.items() if name != first))


def generated(
    function: Callable[[StreamRequest], AsyncGenerator[Item, None]],
    *,
    title: str,
    first: str = "ndjson",
    live: bool = False,
) -> Stream:
    """The stream of a function that yields records, lines or Events; `first` is its default format."""

    @asynccontextmanager
    async def open_(request: StreamRequest, form: Format | None) -> AsyncGenerator[Body, None]:
        assert form is not None
        if not live:
            refuse_if_ended(request, form)
        async with aclosing(function(request)) as items:
            facts = Facts(form.media_type, live=live, heartbeat=heartbeat(form, request))
            encoder = form.encoder(())
            yield Body(facts, chunks=lambda: encoded(items, encoder), ending=encoder.end)

    return Stream(title, open_, formats=formats_from(first), live=live)


def generated_bytes(
    function: Callable[[StreamRequest], AsyncGenerator[bytes, None]],
    *,
    title: str,
    media_type: str,
    live: bool = False,
) -> Stream:
    """The stream of a function that yields bytes of one media type.

    Empty pieces are left out, larger ones than CHUNK_LIMIT are cut.
    """

    @asynccontextmanager
    async def open_(request: StreamRequest, form: Format | None) -> AsyncGenerator[Body, None]:
        async with aclosing(function(request)) as pieces:
            yield Body(Facts(media_type, live=live), chunks=lambda: _bounded(pieces))

    return Stream(title, open_, media_type=media_type, live=live)


def refuse_if_ended(request: StreamRequest, form: Format) -> None:
    """Let an EventSource stop that has seen the end and, as they all do, comes back.

    Raises:
        SourceEnded: it has.
    """
    if form.name == "sse" and request.last_event_id == END_ID:
        raise SourceEnded("the client has seen the end")


async def encoded(items: AsyncGenerator[Item, None], encoder: Encoder) -> Chunks:
    """The items as a body. Its beginning waits for the first item, so that a failing start is a status."""
    begin = encoder.begin()
    async with aclosing(items):
        async for item in items:
            chunk = encoder.encode((item,))
            yield begin + chunk if begin else chunk
            begin = b""
    if end := begin + encoder.end():
        yield end


def heartbeat(form: Format, request: StreamRequest) -> bytes:
    """A format's heartbeat; in plain text it can be declined, because a reader sees the space."""
    return form.heartbeat if form.name != "text" or flag(request.args, "heartbeat", True) else b""


async def _bounded(pieces: AsyncGenerator[bytes, None]) -> Chunks:
    async with aclosing(pieces):
        async for piece in pieces:
            for start in range(0, len(piece), CHUNK_LIMIT):
                yield piece[start : start + CHUNK_LIMIT]  # of a small piece no copy
