"""Another server's response, passed on as it comes.

Only the URL in the table is asked, never one of the client's. The client's conditions, ranges and codings go
to the other server, and what it answers comes back as it is: status, bytes, Content-Encoding, validators.
What this adds is an honest ending. A response that breaks off there breaks off here, in every framing.

A shared relay asks once for all its clients. What comes is taken apart into items, and these are a shared
stream (`media/shared.py`) like any other, with ids of its own. Towards the other server it does what an
EventSource does: it comes back, with the last id that it has seen.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from media.channel import END, check_name
from media.eventsource import EventStream, Lines
from media.generated import Stream, StreamRequest
from media.hops import can_be_told, passed_headers
from media.records import END_ID, Event, Format, Json
from media.runs import GAP
from media.shared import shared as shared_stream
from media.source import BadParameter, Body, Facts, Passed, Source, SourceBroken, SourceError
from media.upstream import Asking, Upstream

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0
CONNECTIONS = 100

LEAST_RETRY_SECONDS, MOST_RETRY_SECONDS = 0.1, 60.0
"""How long to wait before a shared connection that broke is made anew, whatever the other server's `retry`
says; after each one that brought nothing it is twice as long."""

RETRY_SECONDS = 1.0
"""Where it says none."""

_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")

log = logging.getLogger("millrace.relay")


def relay(
    url: str,
    *,
    title: str = "",
    headers: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
    sent_on: Sequence[str] = (),
    connect_seconds: float = CONNECT_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
    connections: int = CONNECTIONS,
    live: bool = False,
    shared: bool = False,
) -> Stream:
    """The stream that another server sends, as it sends it.

    Args:
        url: http or https, without a user: credentials belong in `headers`.
        headers: sent with every request, in place of the client's.
        args: the parameters of the client's query that are sent on, behind those of the URL.
        sent_on: headers of the client that are sent on besides SENT_ON.
        connect_seconds: for a free connection, and for its beginning; 0: any time.
        idle_seconds: until the headers come, and between two pieces of a body that is not live; 0: any time.
        connections: the most at once.
        live: endless; an event stream is it by itself. Draining ends it, and it is whole as far as it goes.
        shared: it is an event stream or NDJSON, and asked once for all clients, however long it is silent;
            with one of `args`, which then must be given, once for each of its values.

    Raises:
        ValueError: the URL cannot be asked, a header is not for others, or what is to be shared depends on
            more than one thing of the client's.
    """
    upstream = Upstream(
        url,
        headers or {},
        args,
        sent_on,
        connect_seconds=connect_seconds,
        idle_seconds=idle_seconds,
        connections=connections,
    )
    title = title or f"What {urlsplit(url).hostname} sends"
    if shared:
        if len(args) > 1 or sent_on:
            raise ValueError(
                "a relay's connection that is shared may depend on one of args, and on no header"
            )
        return shared_stream(partial(_items, upstream), title=title, key=args[0] if args else None)

    def open_(request: StreamRequest, form: Format | None) -> Source:
        return _passed_on(upstream, request, live, idle_seconds)

    listed = tuple({"name": name, "required": False} for name in args)
    return Stream(title, open_, live=live, parameters=listed)


@asynccontextmanager
async def _passed_on(
    upstream: Upstream, request: StreamRequest, live: bool, idle_seconds: float
) -> AsyncGenerator[Body, None]:
    asking = Asking(upstream, request)
    try:
        yield _body(asking, await asking.answer(), request, live, idle_seconds)
    finally:
        await asking.leave()


def _body(
    asking: Asking, response: "httpx.Response", request: StreamRequest, live: bool, idle_seconds: float
) -> Body:
    """What is passed on of a response.

    Raises:
        SourceBroken: its headers are malformed.
    """
    headers = passed_headers(response.headers.raw)
    if response.status_code in (204, 205):
        headers.pop("Content-Length", None)
    media_type = headers.get("Content-Type", "application/octet-stream")
    length = headers.get("Content-Length")
    is_events = media_type.partition(";")[0].strip().lower() == "text/event-stream"
    # One of known length is whole only as it is promised, and a coded one only with the end of its coding.
    endless = (live or is_events) and length is None and "Content-Encoding" not in headers
    sent = request.method != "HEAD" and response.status_code not in (204, 304)
    facts = Facts(media_type, length=int(length) if length and sent else None, live=endless)
    limit = None if live or is_events or not idle_seconds else idle_seconds
    return Body(facts, chunks=lambda: asking.chunks(limit), passed=Passed(response.status_code, headers))


async def _items(upstream: Upstream, request: StreamRequest) -> AsyncGenerator[Event | Json, None]:
    """What another server sends, over as many connections as it takes.

    Raises:
        SourceError: the first of them brought no answer.
    """
    watching = _Watching(upstream, request.args)
    while not watching.ended:
        try:
            async with aclosing(watching.items()) as items:
                async for item in items:
                    yield item
        except SourceError as error:
            if not watching.answered:
                raise
            level = logging.WARNING if watching.fruitless < 2 else logging.DEBUG
            log.log(level, "%s: %s; it is asked again", upstream.called, error)
        if not watching.ended:
            await asyncio.sleep(watching.pause_seconds())


class _Watching:
    """What is known of another server's stream from one connection to the next.

    Args:
        args: of the client that began it.
    """

    def __init__(self, upstream: Upstream, args: Mapping[str, str]) -> None:
        self._upstream, self._args = upstream, args
        self._last_id = ""
        self._retry_seconds = RETRY_SECONDS
        self.answered = False
        """There was a stream once."""
        self.ended = False
        """Nothing more will come, says the other server."""
        self.fruitless = 0
        """Connections in a row that brought nothing."""

    async def items(self) -> AsyncGenerator[Event | Json, None]:
        """Those of one connection, as they come.

        Raises:
            SourceError: there is none, or it breaks off.
        """
        headers = {"accept": f"text/event-stream, {_NDJSON[0]}", "accept-encoding": "identity"}
        seen = self._last_id if can_be_told(self._last_id) else None
        asking = Asking(self._upstream, StreamRequest(self._args, headers, seen))
        self.fruitless += 1
        try:
            response = await asking.answer()
            if response.status_code == 204:  # on which an EventSource stops
                self.ended = True
                return
            reader = self._reader(response)
            if self.answered and seen is None:
                yield GAP  # it cannot be told where to go on
            self.answered = True
            async with aclosing(asking.chunks(None)) as pieces:
                async for piece in pieces:
                    for item in reader.items(piece):
                        self.fruitless = 0
                        if self._ends(item):
                            return
                        yield _own(item)
                    self._note(reader)
            if isinstance(reader, Lines):
                for line in reader.rest():
                    yield line
                self.ended = True
        finally:
            await asking.leave()

    def pause_seconds(self) -> float:
        """How long to wait before the next connection: not all at once, when the other server is back."""
        seconds = self._retry_seconds * float(2 ** min(self.fruitless, 16))
        return min(MOST_RETRY_SECONDS, seconds) * random.uniform(0.5, 1)

    def _reader(self, response: "httpx.Response") -> EventStream | Lines:
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code != 200:
            raise SourceBroken(f"the other server said {response.status_code}")
        if response.headers.get("content-encoding", "identity") == "identity":
            if media_type == "text/event-stream":
                return EventStream(self._last_id)
            if media_type in _NDJSON:
                return Lines()
        raise SourceBroken("what is to be shared is no event stream, and no NDJSON")

    def _note(self, reader: EventStream | Lines) -> None:
        if isinstance(reader, EventStream):
            self._last_id = reader.last_id
            if reader.retry_milliseconds is not None:
                seconds = reader.retry_milliseconds / 1000
                self._retry_seconds = min(MOST_RETRY_SECONDS, max(LEAST_RETRY_SECONDS, seconds))

    def _ends(self, item: Event | Json) -> bool:
        """Whether it is how a Millrace says that a stream has ended."""
        self.ended = isinstance(item, Event) and (item.id, item.event) == (END_ID, END)
        return self.ended


def _own(item: Event | Json) -> Event | Json:
    """An item of another server as one of ours: `gap` and `end` have a meaning of their own here."""
    if isinstance(item, Json) or not item.event:
        return item
    if item.event == "gap":
        return GAP
    if item.event == END:
        return Event(item.data, event=f"upstream-{END}")
    try:
        check_name(item.event)
    except BadParameter:
        return Event(item.data)
    return item
