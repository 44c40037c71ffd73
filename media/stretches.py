"""Stretches of sound: what a feed keeps of live audio, and where a listener begins.

About half a second of pieces is a *stretch*, and stretches are what listeners are sent: one send for a
thousand listeners each half second costs 2 % of a core, one each quarter 4 %, one a frame 10 %.

A listener begins so many seconds back that its player need not wait (the burst), at a stretch where a decoder
can begin, with the headers in front that it needs.
"""

from dataclasses import dataclass

from media.source import Cursor, FellBehind, Watched

STRETCH_SECONDS = 0.5
STRETCH_BYTES = 64 * 1024
"""A stretch ends with the piece that reaches one of these: what says that it plays no time ends, too."""

LAG_SECONDS = 15.0
"""How much longer than the burst a listener may be behind; 250 KB of 128 kbit/s."""

KEPT_BYTES = 16 * 1024 * 1024
KEPT_STRETCHES = 2000
"""The most a feed keeps, whatever its seconds say."""


@dataclass(slots=True)
class _Stretch:
    number: int
    data: bytes
    begins: float  # seconds of sound before it, since the feed began
    head: bytes | None


class AudioFeed(Watched):
    """Sound of one type: a Feed.

    Args:
        burst_seconds: how far back a listener begins.
    """

    def __init__(self, media_type: str, burst_seconds: float) -> None:
        super().__init__()
        self.media_type = media_type
        self.ended = False
        self.failure = None  # what a mount plays is whole as far as it goes
        self.listeners = 0
        self._burst_seconds = burst_seconds
        self._stretches: list[_Stretch] = []
        self._number = 0
        self._seconds = 0.0
        self._size = 0

    @property
    def newest(self) -> Cursor:
        return (self._number,)

    @property
    def begun(self) -> bool:
        """Whether there has been sound. Until then it is only waited for."""
        return self._number > 0

    def publish(self, data: bytes, seconds: float, head: bytes | None) -> None:
        """A stretch; `head` as a Piece has it."""
        self._number += 1
        self._stretches.append(_Stretch(self._number, data, self._seconds, head))
        self._seconds += seconds
        self._size += len(data)
        self._forget()
        self._tell()

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._tell()

    def after(self, cursor: Cursor, most_bytes: int) -> tuple[bytes, Cursor]:
        if self.lost(cursor):
            raise FellBehind(f"the sound behind number {cursor[0]} is no longer kept")
        run: list[bytes] = []
        size, number = 0, cursor[0]
        for index in range(self._index(number), len(self._stretches)):
            stretch = self._stretches[index]
            size += len(stretch.data)
            if run and size > most_bytes:
                break
            run.append(stretch.data)
            number = stretch.number
        return run[0] if len(run) == 1 else b"".join(run), (number,)

    def lost(self, cursor: Cursor) -> bool:
        return bool(self._stretches) and cursor[0] < self._stretches[0].number - 1

    def beginning(self) -> tuple[Cursor, bytes]:
        """Where a listener begins, and what it needs in front."""
        latest = None
        for stretch in reversed(self._stretches):
            if latest is not None and stretch.begins < self._seconds - self._burst_seconds:
                break
            if stretch.head is not None:
                latest = stretch
        if latest is not None and latest.head is not None:
            return (latest.number - 1,), latest.head
        # Nobody can begin anywhere: only headers have come, and they are in the stretches themselves.
        return (self._stretches[0].number - 1 if self._stretches else self._number,), b""

    def _index(self, number: int) -> int:
        return number + 1 - self._stretches[0].number if self._stretches else 0

    def _forget(self) -> None:
        oldest = self._seconds - self._burst_seconds - LAG_SECONDS
        gone = 0
        while gone < len(self._stretches) - 1 and (
            self._stretches[gone].begins < oldest
            or self._size > KEPT_BYTES
            or len(self._stretches) - gone > KEPT_STRETCHES
        ):
            self._size -= len(self._stretches[gone].data)
            gone += 1
        del self._stretches[:gone]
