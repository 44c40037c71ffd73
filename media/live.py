"""Live audio: mounts, what comes from their sources, and what they say is playing.

Theory of operation. A *source* is somebody who sends sound: a program that broadcasts, or a station. It
claims a mount, and what it sends is cut into pieces that are never divided: frames, pages, blocks
(`media/pieces.py`), and gathered to the stretches of a feed (`media/stretches.py`).

A *feed* is what one decoder can play on: a source that comes back with the same type goes on in the same
feed, and another type, or a WebM's second header, is a new feed; the old one ends, and with it its listeners.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from media.channel import Channel, History, Ids
from media.events import Events
from media.frames import parser
from media.pieces import TITLE_CHARACTERS, Piece
from media.source import Body, Facts, Following, SourceBusy, SourceNotFound
from media.stretches import STRETCH_BYTES, STRETCH_SECONDS, AudioFeed
from media.values import to_json

AHEAD_SECONDS = 10.0
"""How far a source may be ahead of real time before it is read no further."""

MOST_BYTES_PER_SECOND = 1_500_000
"""No sound has more (FLAC of 192 kHz and 24 bits: half of it): what says so is taken no faster than this."""

MOST_MOUNTS = 100

NEWS_BYTES = 256 * 1024
"""How much news of a mount followers may be behind by, some 400 titles: only the newest is of use to one who
comes back. It is kept as long as the mount is, also where nobody follows."""

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


class Session:
    """One source on a mount, from its claim to its end.

    Args:
        facts: about the broadcast, by the names of their headers: `icy-name`, `icy-genre` and others.
    """

    def __init__(self, mount: "Mount", kind: Kind, media_type: str, facts: Mapping[str, str]) -> None:
        self.kind, self.facts = kind, facts
        self.media_type = media_type.partition(";")[0].strip().lower()
        """Without parameters: what is compared, and told to listeners."""
        self._mount = mount
        self._parser = parser(media_type)
        self._feed: AudioFeed | None = None
        self._pieces: list[bytes] = []
        self._seconds, self._size = 0.0, 0
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
            self._add(piece)
            seconds += max(piece.seconds, len(piece.data) / MOST_BYTES_PER_SECOND)
            if piece.title is not None:
                self._mount.play(Playing(piece.title))
        now = time.monotonic()
        self._plays_until = max(self._plays_until, now) + seconds
        return max(0.0, self._plays_until - now - AHEAD_SECONDS)

    @property
    def heard(self) -> bool:
        """It has sent some sound, or headers of some."""
        return self._feed is not None or bool(self._pieces)

    def close(self) -> None:
        """The source has ended: what it sent is heard to its end. May be called again."""
        if self._mount.session is self:
            self._flush()
            self._mount.leave(self)

    def _add(self, piece: Piece) -> None:
        if self._head is None and piece.head is not None:
            # One may begin here, and listeners begin where a stretch does: headers alone are one.
            self._flush()
        if not self._pieces:
            self._head = piece.head
        self._pieces.append(piece.data)
        self._seconds += piece.seconds
        self._size += len(piece.data)
        if self._seconds >= STRETCH_SECONDS or self._size >= STRETCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._pieces:
            return
        if self._feed is None:
            # Only now: a source that sends nothing, or nonsense, ends nobody's feed.
            self._feed = self._mount.feed_for(self.media_type)
        self._feed.publish(b"".join(self._pieces), self._seconds, self._head)
        self._pieces.clear()
        self._seconds, self._size = 0.0, 0


class Mount:
    """A place where live audio is heard.

    Args:
        grace_seconds: how long listeners are held without a source.
    """

    def __init__(self, name: str, ids: Ids, *, burst_seconds: float, grace_seconds: float) -> None:
        self.name = name
        self.session: Session | None = None
        self.playing = Playing()
        self.since = datetime.now(UTC)
        self.news = Channel(name, ids, History(events=1, seconds=0), lag_bytes=NEWS_BYTES)
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
        self._grace: asyncio.TimerHandle | None = None
        self.facts: Mapping[str, str] = {}
        """About the broadcast; see Session."""

    @property
    def source(self) -> Kind | None:
        """Who is heard."""
        return self.session.kind if self.session else None

    @property
    def off_air(self) -> bool:
        """Nobody is heard here or will be."""
        return not (self.session or self._feed or self.has_station)

    @property
    def over(self) -> bool:
        """The same, and nobody waits for news of it: it may be forgotten."""
        return self.off_air and not self.news_feed.subscribers

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
        self._feed = self._feed or AudioFeed(session.media_type, self._burst_seconds)
        self._become(session)
        return session

    def leave(self, session: Session) -> None:
        """The source `session` has ended."""
        assert self.session is session
        self._become(None)
        if not session.heard and not self.listeners:
            self.end()
        elif not self.has_station:
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(self._grace_seconds, self.end)

    def end(self) -> None:
        """Nobody is heard here any more: the listeners are ended. May be called again."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._feed is not None:
            self._feed.end()
            self._feed = None

    def play(self, playing: Playing) -> None:
        """Say what is heard from now on, until the source changes."""
        playing = Playing(one_line(playing.title), one_line(playing.link))
        if playing != self.playing:
            self._say(playing)

    def _become(self, session: Session | None) -> None:
        self.session = session
        if session is None:
            self.vacant.set()
        else:
            self.vacant.clear()
            self.facts = session.facts
        self._say(Playing())

    def _say(self, playing: Playing) -> None:
        self.playing, self.since = playing, datetime.now(UTC)
        # A copy: what orjson 3.13 gives holds 4 KB whatever its length, and the channel would keep that.
        news = bytes(memoryview(to_json(self.now_playing())))
        self.news.publish(news, json=True, event="now-playing")

    def now_playing(self) -> dict[str, object]:
        """What there is to be said, as JSON."""
        return {
            "name": self.name,
            "title": self.playing.title,
            "link": self.playing.link,
            "media_type": self.media_type,
            "listeners": self.listeners,
            "source": self.source,
            "since": self.since.isoformat(timespec="milliseconds"),
        }

    def feed_for(self, media_type: str) -> AudioFeed:
        """What a source of this type goes on with: the feed that there is, if a decoder can play on."""
        feed = self._feed
        if feed is None or feed.media_type != media_type or (feed.begun and media_type.endswith("/webm")):
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
        following = Following(feed, cursor, own(head) if own and head else head, own)
        feed.listeners += 1
        try:
            yield Body(Facts(feed.media_type, live=True), chunks=following.chunks, following=following)
        finally:
            feed.listeners -= 1


class Mounts:
    """The mounts of a process, by name.

    One that is over is forgotten when next somebody looks. Until then, who follows its news hears of the next
    source of that name.

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
        self._mounts = {name: mount for name, mount in self._mounts.items() if not mount.over}
        return iter(tuple(self._mounts.values()))

    def get(self, name: str) -> Mount:
        """The mount of this name.

        Raises:
            SourceNotFound: there is none.
        """
        mount = self._mounts.get(name)
        if mount is None or mount.over:
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
            if sum(not mount.off_air for mount in self) >= MOST_MOUNTS:
                raise SourceBusy(f"there are {MOST_MOUNTS} mounts")
            mount = Mount(
                name, self._ids, burst_seconds=self._burst_seconds, grace_seconds=self._grace_seconds
            )
        session = mount.claim(kind, media_type, facts)
        self._mounts[name] = mount
        return session


def one_line(text: str) -> str:
    """Text of a stranger as one printable line."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:TITLE_CHARACTERS]
