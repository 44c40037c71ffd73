"""Live audio: mounts, what comes from their sources, and where a listener begins.

Theory of operation. A *source* is somebody who sends sound: a program that broadcasts, or a station. It
claims a mount, and what it sends is cut into pieces that are never divided: frames, pages, clusters
(`media/frames.py`). About a quarter of a second of them is a *stretch*, and stretches are what a feed keeps
and listeners are sent: one send for a thousand listeners each quarter second costs 4 % of a core, one a frame
costs 10 %.

A listener begins so many seconds back that its player need not wait (the burst), at a stretch where a decoder
can begin, with the headers in front that it needs. A *feed* is what one decoder can play on: a source that
comes back with the same type goes on in the same feed, and another type, or a WebM's second header, is a new
feed; the old one ends, and with it its listeners.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from media.channel import Channel, History, Ids
from media.frames import Piece, parser
from media.records import to_json
from media.source import Body, Cursor, Facts, FellBehind, Following, SourceBusy, SourceNotFound
from media.subscriptions import Events

STRETCH_SECONDS = 0.25

LAG_SECONDS = 15.0
"""How much longer than the burst a listener may be behind; 250 KB of 128 kbit/s."""

KEPT_BYTES = 16 * 1024 * 1024
"""The most a feed keeps, whatever its seconds say."""

AHEAD_SECONDS = 10.0
"""How far a source may be ahead of real time before it is read no further."""

TITLE_CHARACTERS = 500

MOST_MOUNTS = 100

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""What a mount may be called. What ends in `.json` is not one."""

Kind = Literal["live", "station"]


class MountBusy(SourceBusy):
    """The mount has a source."""


class Preempted(Exception):
    """A live source has taken the mount over."""


@dataclass(frozen=True, slots=True)
class Playing:
    """What is heard now: said by the source, one line each; empty: it does not say."""

    title: str = ""
    link: str = ""


@dataclass(slots=True)
class _Stretch:
    number: int
    data: bytes
    begins: float  # seconds of sound before it, since the feed began
    head: bytes | None


class AudioFeed:
    """Sound of one type: a Feed.

    Args:
        burst_seconds: how far back a listener begins.
    """

    def __init__(self, media_type: str, burst_seconds: float) -> None:
        self.media_type = media_type
        self.ended = False
        self.listeners = 0
        self._burst_seconds = burst_seconds
        self._stretches: list[_Stretch] = []
        self._number = 0
        self._seconds = 0.0
        self._size = 0
        self._watchers: list[Callable[[], None]] = []

    @property
    def newest(self) -> Cursor:
        return (self._number,)

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
            run.append(stretch.data)
            size, number = size + len(stretch.data), stretch.number
            if size >= most_bytes:
                break
        return run[0] if len(run) == 1 else b"".join(run), (number,)

    def lost(self, cursor: Cursor) -> bool:
        return bool(self._stretches) and cursor[0] < self._stretches[0].number - 1

    def attach(self, changed: Callable[[], None]) -> None:
        self._watchers = [*self._watchers, changed]

    def detach(self, changed: Callable[[], None]) -> None:
        self._watchers = [watcher for watcher in self._watchers if watcher != changed]

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
            self._stretches[gone].begins < oldest or self._size > KEPT_BYTES
        ):
            self._size -= len(self._stretches[gone].data)
            gone += 1
        del self._stretches[:gone]

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()


class Session:
    """One source on a mount, from its claim to its end.

    Args:
        facts: about the broadcast, by the names of their headers: `icy-name`, `icy-genre` and others.
    """

    def __init__(self, mount: "Mount", kind: Kind, media_type: str, facts: Mapping[str, str]) -> None:
        self.kind, self.media_type, self.facts = kind, media_type, facts
        self._mount = mount
        self._parser = parser(media_type)
        self._feed: AudioFeed | None = None
        self._pieces: list[bytes] = []
        self._seconds = 0.0
        self._head: bytes | None = None
        self._plays_until = 0.0

    def take(self, data: bytes) -> float:
        """Take what the source has sent. Gives the seconds to wait before it is asked for more.

        Raises:
            FormatError: it is not of the type that was announced.
            Preempted: it is no longer heard.
        """
        return self.play(self._parser.feed(data))

    def play(self, pieces: list[Piece]) -> float:
        """The same for what is in pieces already."""
        if self._mount.session is not self:
            raise Preempted
        seconds = 0.0
        for piece in pieces:
            if self._pieces and self._seconds >= STRETCH_SECONDS:
                self._flush()
            if not self._pieces:
                self._head = piece.head
            self._pieces.append(piece.data)
            self._seconds += piece.seconds
            seconds += piece.seconds
            if piece.title is not None:
                self._mount.play(Playing(one_line(piece.title)))
        if self._seconds >= STRETCH_SECONDS:
            self._flush()
        now = time.monotonic()
        self._plays_until = max(self._plays_until, now) + seconds
        return max(0.0, self._plays_until - now - AHEAD_SECONDS)

    def close(self) -> None:
        """The source has ended: what it sent is heard to its end. May be called again."""
        if self._mount.session is self:
            self._flush()
            self._mount.leave(self)

    def _flush(self) -> None:
        if not self._pieces:
            return
        if self._feed is None:
            # Only now: a source that sends nothing, or nonsense, ends nobody's feed.
            self._feed = self._mount.feed_for(self.media_type)
        self._feed.publish(b"".join(self._pieces), self._seconds, self._head)
        self._pieces.clear()
        self._seconds = 0.0


class Mount:
    """A place where live audio is heard.

    Args:
        grace_seconds: how long listeners are held without a source.
        forget: called when the last source has gone for good.
    """

    def __init__(
        self,
        name: str,
        ids: Ids,
        *,
        burst_seconds: float,
        grace_seconds: float,
        forget: Callable[["Mount"], None],
    ) -> None:
        self.name = name
        self.session: Session | None = None
        self.playing = Playing()
        self.since = datetime.now(UTC)
        self.news = Channel(name, ids, History(events=1, seconds=0))
        """What is playing, as one event at each change."""
        self.news_feed = Events((self.news,), "sse")
        self.vacant = asyncio.Event()
        """Set while there is no source."""
        self.vacant.set()
        self.has_station = False
        """A station is to be heard here whenever nobody else is: the mount stays."""
        self._feed: AudioFeed | None = None
        self._burst_seconds = burst_seconds
        self._grace_seconds = grace_seconds
        self._forget = forget
        self._grace: asyncio.TimerHandle | None = None
        self._facts: Mapping[str, str] = {}

    @property
    def media_type(self) -> str:
        """Of what is heard, or will be as soon as the source has sent something."""
        if self._feed is not None:
            return self._feed.media_type
        return self.session.media_type if self.session else ""

    @property
    def listeners(self) -> int:
        """Who is connected."""
        return self._feed.listeners if self._feed else 0

    @property
    def facts(self) -> Mapping[str, str]:
        """About the broadcast; see Session."""
        return self._facts

    def claim(self, kind: Kind, media_type: str, facts: Mapping[str, str] | None = None) -> Session:
        """Become the source. A live one takes over from a station.

        Raises:
            MountBusy: there is one already.
            ValueError: no parser knows this type; the text names those that there are.
        """
        if self.session is not None and not (kind == "live" and self.session.kind == "station"):
            raise MountBusy(f"{self.name} has a source")
        session = Session(self, kind, media_type, facts or {})
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        self._feed = self._feed or AudioFeed(media_type, self._burst_seconds)
        self._become(session)
        return session

    def leave(self, session: Session) -> None:
        """The source `session` has ended."""
        assert self.session is session
        self._become(None)
        if not self.has_station:
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(self._grace_seconds, self.end)

    def end(self) -> None:
        """Nobody is heard here any more: the listeners are ended, and the mount is forgotten.

        May be called again.
        """
        if self._grace is not None:
            self._grace.cancel()
        if self._feed is not None:
            self._feed.end()
        self._forget(self)

    def play(self, playing: Playing) -> None:
        """Say what is heard from now on."""
        if playing != self.playing:
            self._say(playing)

    def _become(self, session: Session | None) -> None:
        self.session = session
        if session is None:
            self.vacant.set()
        else:
            self.vacant.clear()
            self._facts = session.facts
        self._say(Playing())

    def _say(self, playing: Playing) -> None:
        self.playing, self.since = playing, datetime.now(UTC)
        self.news.publish(to_json(self.now_playing()), json=True, event="now-playing")

    def now_playing(self) -> dict[str, object]:
        """What there is to be said, as JSON."""
        return {
            "name": self.name,
            "title": self.playing.title,
            "link": self.playing.link,
            "media_type": self.media_type,
            "listeners": self.listeners,
            "source": self.session.kind if self.session else None,
            "since": self.since.isoformat(timespec="milliseconds"),
        }

    def feed_for(self, media_type: str) -> AudioFeed:
        """What a source of this type goes on with: the feed that there is, if a decoder can play on."""
        feed = self._feed
        if feed is None or feed.media_type != media_type or media_type.endswith("/webm"):
            if feed is not None:
                feed.end()
            feed = self._feed = AudioFeed(media_type, self._burst_seconds)
        return feed

    @asynccontextmanager
    async def heard(self, own: Callable[[bytes], bytes] | None = None) -> AsyncGenerator[Body, None]:
        """What a listener is sent: a source in the sense of `media/source.py`.

        Args:
            own: as Following has it.

        Raises:
            SourceNotFound: nobody has been heard here yet.
        """
        feed = self._feed
        if feed is None:
            raise SourceNotFound(f"nobody is heard on {self.name}")
        cursor, head = feed.beginning()
        following = Following(feed, cursor, head, own)
        feed.listeners += 1
        try:
            yield Body(Facts(feed.media_type, live=True), chunks=following.chunks, following=following)
        finally:
            feed.listeners -= 1


class Mounts:
    """The mounts of a process, by name.

    Args:
        ids: of their news.
        burst_seconds: of sound that a listener gets at once.
        grace_seconds: how long listeners are held without a source.
    """

    def __init__(self, ids: Ids, *, burst_seconds: float = 5, grace_seconds: float = 10) -> None:
        self._ids = ids
        self._burst_seconds = burst_seconds
        self._grace_seconds = grace_seconds
        self._mounts: dict[str, Mount] = {}

    def __iter__(self) -> Iterator[Mount]:
        return iter(tuple(self._mounts.values()))

    def get(self, name: str) -> Mount:
        """The mount of this name.

        Raises:
            SourceNotFound: there is none.
        """
        mount = self._mounts.get(name)
        if mount is None:
            raise SourceNotFound(f"no mount {name!r}")
        return mount

    def claim(
        self, name: str, kind: Kind, media_type: str, facts: Mapping[str, str] | None = None
    ) -> Session:
        """Become the source of the mount of this name, which need not have been there.

        Raises:
            MountBusy: it has one.
            SourceBusy: there are too many mounts.
            ValueError: no parser knows this type; the text names those that there are.
        """
        mount = self._mounts.get(name)
        if mount is None:
            if len(self._mounts) >= MOST_MOUNTS:
                raise SourceBusy(f"there are {MOST_MOUNTS} mounts")
            mount = Mount(
                name,
                self._ids,
                burst_seconds=self._burst_seconds,
                grace_seconds=self._grace_seconds,
                forget=self._forget,
            )
        session = mount.claim(kind, media_type, facts)
        self._mounts[name] = mount
        return session

    def _forget(self, mount: Mount) -> None:
        if self._mounts.get(mount.name) is mount:
            del self._mounts[mount.name]


def one_line(text: str) -> str:
    """Text of a stranger as one printable line."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:TITLE_CHARACTERS]


class IcyBlocks:
    """Puts titles between the bytes of one listener: a block after each `INTERVAL` bytes.

    A block is its length in units of 16 bytes, and as many bytes of text; a single zero says that nothing has
    changed (as SHOUTcast began it and Icecast does it; there is no standard).
    """

    INTERVAL = 16_000

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._until = self.INTERVAL
        self._told: Playing | None = None

    def __call__(self, run: bytes) -> bytes:
        """The same bytes with the blocks that are due."""
        if len(run) < self._until:
            self._until -= len(run)
            return run
        parts: list[bytes] = []
        start = 0
        while len(run) - start >= self._until:
            parts += run[start : start + self._until], self._block()
            start += self._until
            self._until = self.INTERVAL
        self._until -= len(run) - start
        return b"".join([*parts, run[start:]])

    def _block(self) -> bytes:
        playing = self._mount.playing
        if playing == self._told:
            return b"\0"
        self._told = playing
        # A quote is not escaped by anybody: players look for the first one with a semicolon behind it.
        title, link = (text.replace("';", "' ;") for text in (playing.title, playing.link))
        text = f"StreamTitle='{title}';" + (f"StreamUrl='{link}';" if link else "")
        encoded = text.encode()[: 255 * 16]
        units = (len(encoded) + 15) // 16
        return bytes([units]) + encoded.ljust(units * 16, b"\0")
