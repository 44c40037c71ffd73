"""Events that are published to many: their ids, a bounded history, and where in it a subscriber stands.

Theory of operation. A channel is a log. Its entries have numbers that rise, and one sequence of numbers
serves all channels of a process: so one number says where a subscriber of several channels stands, too. An id
is the number behind the *epoch*, which tells one run of the process from another: a number of yesterday's is
never mistaken for one of today's.

A subscriber is a *cursor*: the number of the last entry it was sent, for each channel that it follows. What
it is to be sent next lies in the log, for all of them once; so history and live events are one thing, and
meet without loss or doubling. Nothing is queued for anybody.

Two windows decide what is kept. The *history* is what a client may resume from. The *lag* is what those who
are connected may be behind by, so that a channel without history loses nobody who was busy for a moment. An
entry that has left both is gone: a subscriber who had not been sent it fell behind, and a client that comes
back for it is told of the gap.
"""

import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from media.decoding import utf8
from media.records import END_ID
from media.source import BadParameter, FellBehind, SourceError, Watched

LAG_BYTES = 8 * 1024 * 1024
"""How much subscribers that are connected may be behind by, also where the history is shorter. A megabyte was
20 ms of a body of small events: everybody who listened was let go."""

END = "end"
"""The name of the event that ends a channel that has an end."""

EVENT_NAME_BYTES = 256
"""The longest name of an event."""

ENTRY_BYTES = 400
"""What an event counts for in a history besides its data: about what it costs."""

_ID = re.compile(r"([0-9a-f]{1,16})-([0-9]{1,15})")
_CUT_ENTRIES = 1024
_CUT_SHARE = 8
"""So many that are gone, or an eighth of the list, and it is cut: moving the rest costs 1 µs a thousand."""


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of a channel: an event that is beyond one of these bounds is forgotten.

    Args:
        events: the newest so many; 0: there is no history.
        size: of their data together, and ENTRY_BYTES for each; bytes. In each of SSE and NDJSON that was
            asked for they are kept once more: at most about three times as much, where JSON escapes little.
        seconds: since it was published; 0: any age.

    Raises:
        TypeError: one is no number from 0 up. It would be found out by the first who publishes.
    """

    events: int = 1000
    size: int = 8 * 1024 * 1024
    seconds: float = 3600

    def __post_init__(self) -> None:
        for name, bound in (("events", self.events), ("size", self.size), ("seconds", self.seconds)):
            if not isinstance(bound, int | float) or not bound >= 0:
                raise TypeError(f"the {name} of a history must be a number from 0 up, not {bound!r}")


@dataclass(slots=True)
class Published:
    """One event in the log.

    Args:
        data: UTF-8: text, or JSON without line breaks.
        json: which of the two.
        event: the name of its kind; empty: a plain message.
        at: on the channel's clock.
        sse: as a server-sent event, once it was asked for; and so `ndjson`, as a line.
    """

    channel: str
    number: int
    data: bytes
    json: bool
    event: str
    at: float
    sse: bytes | None = None
    ndjson: bytes | None = None

    @property
    def size(self) -> int:
        """What it counts for."""
        return len(self.data) + ENTRY_BYTES


class Ids:
    """The ids of a process: one epoch, and a number for each event of any of its channels."""

    def __init__(self, epoch: str = "") -> None:
        # Microseconds: it rises from run to run, and two runs never begin in the same one.
        self.epoch = epoch or f"{time.time_ns() // 1000:x}"
        self.newest = 0
        self.end = -1
        """The number of the event that ends what they are of, once there is one: its id is END_ID."""

    def next(self) -> int:
        """The number of the next event."""
        self.newest += 1
        return self.newest

    def of(self, number: int) -> str:
        """The id that goes with a number."""
        return f"{self.epoch}-{number}" if number != self.end else END_ID

    def number(self, id_: str) -> int | None:
        """The number of an id; -1: it is of another run. None: it is none that a channel gives."""
        found = _ID.fullmatch(id_)
        if found is None:
            return None
        if found[1] != self.epoch:
            return -1
        number = int(found[2])
        return number if number <= self.newest else None


class _Window:
    """The newest entries of a log, within bounds. `first` counts all entries that there ever were."""

    __slots__ = ("first", "forgotten", "size")

    def __init__(self) -> None:
        self.first, self.size = 0, 0
        self.forgotten = 0
        """The number of the newest that is beyond."""

    def forget(self, entry: Published) -> None:
        """The oldest one."""
        self.first += 1
        self.size -= entry.size
        self.forgotten = entry.number


class Channel(Watched):
    """One channel. All calls come from the loop's thread; none waits.

    Args:
        clock: seconds that only rise.
        lag_bytes: how much of it is kept for those who are connected; None: LAG_BYTES.
    """

    def __init__(
        self,
        name: str = "",
        ids: Ids | None = None,
        history: History = History(),
        clock: Callable[[], float] = time.monotonic,
        lag_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.ids = ids or Ids()
        self.history = history
        self.published = 0
        """Events, since the process began."""
        self.newest = 0
        """The number of the last one; 0: there was none."""
        self.ended = False
        """Nothing more will come."""
        self.failure: SourceError | None = None
        """Why it ended before it was whole."""
        self._clock = clock
        self._lag_bytes = lag_bytes
        self._entries: list[Published] = []
        self._gone = 0  # entries that were cut off in front of the list
        self._remembered = _Window()
        self._lagging = _Window()

    def publish(self, data: bytes, *, json: bool = False, event: str = "") -> str:
        """Publish one event. Gives its id.

        Args:
            data: UTF-8, which the caller has seen to.
            json: it is one value of JSON. Line breaks between its tokens become spaces.

        Raises:
            BadParameter: the event's name has a line break or a NUL, or is too long.
        """
        if event:
            check_name(event)
        if json and (b"\n" in data or b"\r" in data):
            data = data.replace(b"\n", b" ").replace(b"\r", b" ")  # in strings there are none (RFC 8259 §7)
        number = self.ids.next()
        entry = Published(self.name, number, data, json, event, self._clock())
        self._entries.append(entry)
        self.newest = number
        self.published += 1
        self._remembered.size += entry.size
        self._lagging.size += entry.size
        self._forget()
        self._tell()
        return self.ids.of(number)

    def end(self, failure: SourceError | None = None) -> None:
        """Have it end: its followers are ended when they have been sent all of it.

        Args:
            failure: for which it is not whole. None: it is, and an event named `end`, with END_ID, says so.
        """
        self.ended, self.failure = True, failure
        if failure is None:
            self.ids.end = self.ids.newest + 1
            self.publish(b"{}", json=True, event=END)
        else:
            self._tell()

    def clear(self) -> None:
        """Forget the history. Who comes back for it is told of the gap; who is connected loses nothing."""
        while self._remembered.first < self._gone + len(self._entries):
            self._remembered.forget(self._entries[self._remembered.first - self._gone])
        self._cut()

    @property
    def forgotten(self) -> int:
        """The number of the newest event that can no longer be resumed from; 0: all can."""
        self._forget()
        return self._remembered.forgotten

    @property
    def remembered(self) -> int:
        """Events in the history."""
        self._forget()
        return self._gone + len(self._entries) - self._remembered.first

    def after(self, number: int) -> Iterator[Published]:
        """The events behind `number`, the oldest first, to be taken before the next is published.

        Raises:
            FellBehind: some of them are no longer kept.
        """
        if self.lost(number):
            raise FellBehind(f"the events behind number {number} are no longer kept")
        if number >= self.newest:
            return iter(())
        place = bisect_right(self._entries, number, key=_number)
        entries = self._entries
        return (entries[index] for index in range(place, len(entries)))

    def lost(self, number: int) -> bool:
        """Whether events behind `number` are no longer kept."""
        return number < min(self._remembered.forgotten, self._lagging.forgotten)

    def _forget(self) -> None:
        """What is beyond the bounds, of the windows and then of the log."""
        remembered, lagging, bounds = self._remembered, self._lagging, self.history
        oldest_at = self._clock() - bounds.seconds if bounds.seconds else float("-inf")
        stop = self._gone + len(self._entries)
        while remembered.first < stop:
            entry = self._entries[remembered.first - self._gone]
            within = stop - remembered.first <= bounds.events and remembered.size <= bounds.size
            if within and entry.at >= oldest_at:
                break
            remembered.forget(entry)
        lag_bytes = LAG_BYTES if self._lag_bytes is None else self._lag_bytes
        while lagging.size > lag_bytes and lagging.first < stop - 1:  # the newest one stays
            lagging.forget(self._entries[lagging.first - self._gone])
        self._cut()

    def _cut(self) -> None:
        gone = min(self._remembered.first, self._lagging.first) - self._gone
        if gone >= _CUT_ENTRIES or gone * _CUT_SHARE > len(self._entries):
            del self._entries[:gone]
            self._gone += gone


def check_name(event: str) -> None:
    """See that `event` can be the name of one.

    Raises:
        BadParameter: it cannot.
    """
    if any(character in event for character in "\r\n\0") or len(utf8(event)) > EVENT_NAME_BYTES:
        raise BadParameter(
            f"event must be a name without line breaks and NUL, of at most {EVENT_NAME_BYTES} bytes"
        )


def _number(entry: Published) -> int:
    return entry.number
