"""Who follows a channel: the table of channels, and the sources of those who ask for one.

`sse`, `ndjson` and `text` go on for ever (`media/events.py`); `json` is a long poll: one array of what came
behind an id.

What a client missed is said: an event named `gap` stands where events are no longer known. Its data are
`last_event_id`, from the client, and `first_id`, the id of the first event that is still known, or null.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from media.channel import Channel, History, Ids
from media.decoding import utf8
from media.events import Events, Position
from media.generated import Stream, StreamRequest, heartbeat
from media.parameters import number
from media.records import FORMATS, Format, ndjson_event, sse_event, sse_retry
from media.source import (
    Body,
    ByteChunks,
    Facts,
    FellBehind,
    Following,
    Source,
)
from media.values import to_json

MOST_WAIT_SECONDS = 3600

POLL_EVENTS = 1000
POLL_BYTES = 1024 * 1024
"""The most events of one long poll, and of their bytes, or the one event that is larger; the rest comes with
the next."""

BEGIN_SECONDS = 1.0
"""How long a poll that does not want to wait does so for what only begins with it."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a channel or a mount may be called. A comma would name several channels; what ends in `.json` is no
mount."""

MOST_TOGETHER = 100
"""The most channels on one connection."""

FOLLOWED = tuple(FORMATS[name] for name in ("sse", "ndjson", "text", "json"))


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """A channel in the table of streams: what is published to it is what its clients get."""

    title: str
    history: History = field(default_factory=History)


def channel(*, title: str = "", history: int | History = 1000) -> ChannelRow:
    """A channel that is published to over HTTP. `history`: so many events, or the bounds themselves."""
    return ChannelRow(
        title or "What is published here",
        history if isinstance(history, History) else History(events=history),
    )


class Channels:
    """The channels of a process, and their feeds."""

    def __init__(self, rows: Mapping[str, ChannelRow]) -> None:
        self.ids = Ids()
        self._rows = dict(rows)
        self._channels = {name: Channel(name, self.ids, row.history) for name, row in rows.items()}
        self._feeds: dict[tuple[tuple[str, ...], str], Events] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def get(self, name: str) -> Channel | None:
        """The channel of this name."""
        return self._channels.get(name)

    def facts(self, name: str) -> dict[str, object]:
        """What there is to be said of one: its events since the start, its history, and who follows it."""
        channel = self._channels[name]
        subscribers = sum(feed.subscribers for (names, _), feed in self._feeds.items() if name in names)
        return {
            "published": channel.published,
            "remembered": channel.remembered,
            "last_event_id": self.ids.of(channel.newest),
            "subscribers": subscribers,
        }

    def stream(self, name: str) -> Stream | None:
        """The stream of one channel, or of several with commas between their names.

        None: there is none of one of these names, or they are too many.
        """
        names = tuple(dict.fromkeys(name.split(",")))
        if len(names) > MOST_TOGETHER or not all(each in self._channels for each in names):
            return None
        names = tuple(sorted(names))
        title = self._rows[names[0]].title if len(names) == 1 else "Several channels"

        def open_(request: StreamRequest, form: Format | None) -> Source:
            assert form is not None
            return subscribed(partial(self._feed, names), request, form)

        return Stream(title, open_, formats=FOLLOWED, live=True)

    def _feed(self, names: tuple[str, ...], form: str) -> "Events":
        """The feed of all who follow these channels in this format.

        It is forgotten with its last subscriber: there may be as many as combinations of names.
        """
        feed = self._feeds.get((names, form))
        if feed is None:
            channels = [self._channels[name] for name in names]
            feed = Events(channels, form, forget=lambda: self._feeds.pop((names, form)))
            self._feeds[names, form] = feed
        return feed


def subscribed(find: Callable[[str], "Events"], request: StreamRequest, form: Format) -> Source:
    """What a client is sent that asks for a feed: `find` gives it by the name of its format."""
    if form.name == "json":
        return _polled(find, request)
    return Subscription(partial(find, form.name), request, form)


@asynccontextmanager
async def _polled(find: Callable[[str], "Events"], request: StreamRequest) -> AsyncGenerator[Body, None]:
    wait_seconds = number(request.args, "wait", 0, most=MOST_WAIT_SECONDS, unit="seconds")
    form = FORMATS["json"]
    facts = Facts(form.media_type, live=True, heartbeat=form.heartbeat)
    feed = find("ndjson")
    poll = _Poll(feed, feed.position(request.last_event_id), wait_seconds)
    feed.enter()
    try:
        yield Body(facts, chunks=poll.chunks, ending=poll.answer)
    finally:
        feed.leave()


class Subscription:
    """What a subscriber is sent, behind what it saw last: a source.

    Written out, because thousands are open at a time: a generator with its context manager takes 0.6 KB more.

    Args:
        find: the feed, when the source is entered.
        otherwise: what stands for the last event id where the client does not say one.
    """

    __slots__ = ("_feed", "_find", "_form", "_otherwise", "_request")

    def __init__(
        self,
        find: Callable[[], "Events"],
        request: StreamRequest,
        form: Format,
        otherwise: str | None = None,
    ) -> None:
        self._find: Callable[[], Events] | None = find
        self._request: StreamRequest | None = request
        self._form, self._otherwise = form, otherwise

    async def __aenter__(self) -> Body:
        if self._request is None or self._find is None:
            raise RuntimeError("a source is entered once")
        form, request = self._form, self._request
        facts = Facts(form.media_type, live=True, heartbeat=heartbeat(form, request))
        self._feed = self._find()
        self._find = self._request = None
        position = self._feed.position(request.last_event_id or self._otherwise)
        opening = _opening(form, position)
        following = Following(self._feed, position.cursor, opening, begin=self._feed.begin)
        self._feed.enter()
        return Body(facts, chunks=following.chunks, following=following)

    async def __aexit__(self, *failure: object) -> None:
        self._feed.leave()


class _Poll:
    """One long poll: what came behind the position, at once or as soon as there is something."""

    def __init__(self, feed: Events, position: Position, wait_seconds: float) -> None:
        self._feed = feed
        self._position = position
        self._wait_seconds = wait_seconds
        self._answered = False

    async def chunks(self) -> ByteChunks:
        """The answer, when there is one.

        Raises:
            SourceError: there is none, for the feed has failed.
        """
        feed = self._feed
        if feed.begin is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds or BEGIN_SECONDS):
                    await feed.begin()
        if self._wait_seconds and self._is_empty and not feed.ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds):
                    await feed.changed()
        if feed.failure is not None and self._is_empty:
            raise feed.failure.with_traceback(None)
        yield self.answer()

    @property
    def _is_empty(self) -> bool:
        return not self._position.gap and self._position.cursor == self._feed.newest

    def answer(self) -> bytes:
        """The whole body, of what there is now; nothing, if it has been given."""
        if self._answered:
            return b""
        self._answered = True
        try:
            events, cursor = self._feed.pieces(self._position.cursor, POLL_BYTES, POLL_EVENTS)
        except FellBehind:  # while it waited, more came at once than is kept
            self._position = self._feed.position(self._position.id)
            events, cursor = self._feed.pieces(self._position.cursor, POLL_BYTES, POLL_EVENTS)
        if self._position.gap:
            events.insert(0, ndjson_event(self._position.gap, self._position.id, "gap"))
        listed = b",\n".join(line.removesuffix(b"\n") for line in events)
        id_ = to_json(self._feed.id_at(cursor))
        return b'{"events": [' + listed + b'], "last_event_id": ' + id_ + b"}\n"


def _opening(form: Format, position: Position) -> bytes:
    """What a subscriber is sent first: when to come back, and where it stands, or what it missed."""
    if form.name == "sse":
        retry = sse_retry()
        if position.gap:
            return retry + sse_event(position.gap, position.id, "gap")
        # An id without data is remembered, and no event (HTML Living Standard §9.2.6): who has seen nothing
        # yet can say so.
        return retry.removesuffix(b"\n") + utf8(f"id: {position.id}\n\n")
    if form.name == "ndjson" and position.gap:
        return ndjson_event(position.gap, position.id, "gap")
    return b""
