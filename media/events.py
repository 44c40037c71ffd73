"""The events of channels as bytes of each format: a feed (`media.source.Feed`), and a client's place in it.

`sse` and `ndjson` give every event its id, so that a client can resume; `text` is the data alone, for people
and pipes.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from media.channel import Channel, Ids, Published
from media.records import sse_event
from media.source import Changed, Cursor, Offered, SourceEnded, SourceError
from media.values import to_json

EARLIEST = "earliest"
"""As last event id: everything that the history has."""

POLLS_AT_ONCE = 20
"""So many are answered in a turn of the loop, 18 ms: beside 1,000 a request waited 0.9 s."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client goes on: `gap` is what it is told if it missed something."""

    cursor: Cursor
    id: str
    gap: bytes = b""


class Events:
    """The events of one channel or of several as bytes of a format: a Feed.

    Args:
        forget: is called when the last subscriber has left.
        begin: as Following has it.
        from_first: who does not say what it saw last begins at the first event, and not at the newest.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        form: str,
        forget: Callable[[], object] = lambda: None,
        begin: Callable[[], Awaitable[None]] | None = None,
        *,
        from_first: bool = False,
    ) -> None:
        self._channels = tuple(channels)
        self._encode = _ENCODE[form]
        self._ids = channels[0].ids
        self._forget = forget
        self.begin = begin
        self._from_first = from_first
        self._waiting: dict[asyncio.Future[None], None] = {}
        self.subscribers = 0

    def enter(self) -> None:
        """Count one subscriber more."""
        self.subscribers += 1

    def leave(self) -> None:
        """One less; `forget` is called when it was the last."""
        self.subscribers -= 1
        if not self.subscribers:
            self._forget()

    @property
    def ended(self) -> bool:
        return self._channels[0].ended  # what has an end is never one of several

    @property
    def failure(self) -> SourceError | None:
        return self._channels[0].failure

    @property
    def newest(self) -> Cursor:
        channels = self._channels
        if len(channels) == 1:
            return (channels[0].newest,)
        return (max(channel.newest for channel in channels),) * len(channels)

    def after(self, cursor: Cursor, most_bytes: int) -> tuple[bytes, Cursor]:
        pieces, cursor = self.pieces(cursor, most_bytes)
        return b"".join(pieces), cursor

    def pieces(self, cursor: Cursor, most_bytes: int, most: int | None = None) -> tuple[list[bytes], Cursor]:
        """The same, each event by itself, and `most` of them at most."""
        encode, ids = self._encode, self._ids
        pieces: list[bytes] = []
        size = last = 0
        for entry in self._behind(cursor):
            piece = encode(entry, ids)
            size += len(piece)
            if pieces and (size > most_bytes or len(pieces) == most):
                return pieces, tuple(max(number, last) for number in cursor)
            pieces.append(piece)
            last = entry.number
        return pieces, self.newest

    def _behind(self, cursor: Cursor) -> Iterator[Published]:
        runs = [channel.after(number) for channel, number in zip(self._channels, cursor, strict=True)]
        return runs[0] if len(runs) == 1 else heapq.merge(*runs, key=attrgetter("number"))

    def lost(self, cursor: Cursor) -> bool:
        return any(channel.lost(number) for channel, number in zip(self._channels, cursor, strict=True))

    def attach(self, changed: Changed, offered: Offered | None = None) -> None:
        for channel in self._channels:
            channel.attach(changed, offered)

    def detach(self, changed: Changed) -> None:
        for channel in self._channels:
            channel.detach(changed)

    def id_at(self, cursor: Cursor) -> str:
        """What a client at this place is to say that it saw last."""
        return self._ids.of(min(cursor))

    async def changed(self) -> None:
        """Wait for the next event. Of many who wait, POLLS_AT_ONCE go on in each turn of the loop."""
        woken = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self.attach(self._wake_all)
        self._waiting[woken] = None
        try:
            await woken
        finally:
            if woken in self._waiting:  # it was cancelled
                del self._waiting[woken]
                if not self._waiting:
                    self.detach(self._wake_all)

    def _wake_all(self) -> None:
        waiting = tuple(self._waiting)
        self._waiting.clear()
        self.detach(self._wake_all)
        self._wake(waiting, 0)

    def _wake(self, waiting: "Sequence[asyncio.Future[None]]", start: int) -> None:
        for woken in waiting[start : start + POLLS_AT_ONCE]:
            if not woken.done():
                woken.set_result(None)
        if start + POLLS_AT_ONCE < len(waiting):
            asyncio.get_running_loop().call_soon(self._wake, waiting, start + POLLS_AT_ONCE)

    def position(self, last_event_id: str | None) -> Position:
        """Where who saw `last_event_id` last goes on; with None, or one never given, at the newest.

        An id stands for a place in all channels at once, also one that another channel gave. So of several
        channels of which one remembers less than the others, a client may be told twice of the same gap.

        Raises:
            SourceEnded: nothing is left behind it, and nothing will come.
            SourceError: the same, for this failure.
        """
        position = self._position(last_event_id)
        if self.ended and position.cursor == self.newest and not position.gap:
            raise self.failure.with_traceback(None) if self.failure else SourceEnded("that was all")
        return position

    def _position(self, last_event_id: str | None) -> Position:
        if last_event_id is None and self._from_first:
            last_event_id = self._ids.of(0)
        seen = None if last_event_id is None else self._ids.number(last_event_id)
        if seen is None and last_event_id != EARLIEST:
            return Position(self.newest, self.id_at(self.newest))
        forgotten = [channel.forgotten for channel in self._channels]
        cursor = tuple(max(seen or 0, floor) for floor in forgotten)
        first = next(self._behind(cursor), None)
        if first is None:
            cursor = self.newest
        # The last place from which nothing is missed: it may well be that of an event of another channel.
        id_ = self.id_at(cursor if first is None else (first.number - 1,))
        if seen is None or seen >= max(forgotten):
            return Position(cursor, id_)
        first_id = None if first is None else self._ids.of(first.number)
        return Position(cursor, id_, to_json({"last_event_id": last_event_id, "first_id": first_id}))


def _sse(entry: Published, ids: Ids) -> bytes:
    if entry.sse is None:
        entry.sse = sse_event(entry.data, ids.of(entry.number), entry.event)
    return entry.sse


def _ndjson(entry: Published, ids: Ids) -> bytes:
    if entry.ndjson is None:
        data = entry.data if entry.json else to_json(entry.data.decode())
        event = to_json(entry.event or "message")
        id_ = ids.of(entry.number).encode()
        channel = b'"channel":"%s",' % entry.channel.encode() if entry.channel else b""
        entry.ndjson = b'{"id":"%s",%b"event":%s,"data":%s}\n' % (id_, channel, event, data)
    return entry.ndjson


def _text(entry: Published, ids: Ids) -> bytes:
    return entry.data + b"\n" if entry.number != ids.end else b""


_ENCODE: dict[str, Callable[[Published, Ids], bytes]] = {"sse": _sse, "ndjson": _ndjson, "text": _text}
