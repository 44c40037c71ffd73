"""Stations: tracks of the library, one after the other, as a source of live audio.

Theory of operation. A station goes through *rounds*. A round is the list of tracks as it is when the round
begins: those of a playlist in its order, or all of the library shuffled. What the catalogue knows of a track
is asked for when its turn comes. A track is read 16 KiB at a time and given to the mount frame by frame.

The clock is a sum: when the last frame that was given will have been heard, from the durations of all frames
since the start, against time.monotonic. How long a sleep really took is not in it, so nothing drifts.
"""

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing, suppress
from pathlib import Path

from media.catalogue import Catalogue, Track
from media.database import CatalogueError
from media.files import opened, read, resolve
from media.frames import parser
from media.live import Mount, MountBusy, Mounts, Playing, Preempted, Session
from media.pieces import FormatError, Piece
from media.source import SourceError, SourceNotFound
from media.stretches import STRETCH_SECONDS

MEDIA_TYPE = "audio/mpeg"
"""What a station sends. A track of another type would end the feed, and with it its listeners."""

AHEAD_SECONDS = 1.0
"""How far a station is ahead of real time: as long as the disk may be silent before listeners notice.
What they have in hand besides is the burst."""

LATE_SECONDS = 5.0
"""Who is later than this (the process was stopped) does not make it up: listeners have waited as long, and
would stay as far behind."""

AGAIN_SECONDS = 5.0
"""How long a station without a track waits before it looks again, unless it is told to before."""

READ_BYTES = 16 * 1024
"""A second of 128 kbit/s."""

PLAYLIST_BYTES = 4 * 1024 * 1024
"""The longest playlist, some 40,000 entries."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

log = logging.getLogger("millrace.station")


class Station:
    """Plays into one mount for as long as `run` runs.

    Args:
        playlist: an M3U file; None: everything, shuffled.
        root: the library.
        clock, sleep: of the loop, in seconds.
    """

    def __init__(
        self,
        name: str,
        playlist: Path | None,
        *,
        root: Path,
        catalogue: Catalogue,
        mounts: Mounts,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self._playlist = playlist
        self._root = root
        self._catalogue = catalogue
        self._mounts = mounts
        self._clock = clock
        self._sleep = sleep
        self._session: Session | None = None
        self._mount: Mount | None = None
        self._until = 0.0  # when what was given will have been heard
        self._latest: int | None = None  # the track that was played last
        self._entries: list[str] = []  # of the playlist when it could be read
        self._told: set[str] = set()  # in the log, in this round
        self._told_before: set[str] = set()  # and in the one before
        self._scanned = False  # since the start, so that what is not in the catalogue is not there
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Play until cancelled; the mount is left then."""
        try:
            while True:
                self._look.clear()
                if not await self._round():
                    self._fall_silent()
                    await self._wait()
        finally:
            self._fall_silent()

    def look_again(self) -> None:
        """The library has been scanned: a station that has no track looks at once."""
        self._scanned = True
        self._look.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(AGAIN_SECONDS):
                await self._look.wait()
        except TimeoutError:
            pass

    # --- what is played ---

    async def _round(self) -> bool:
        """Play each track of a round; whether there was one that could be."""
        played = False
        self._told_before, self._told = self._told, set()
        try:
            for number in await self._order():
                played = await self._play(number) or played
        except CatalogueError as error:
            self._tell("catalogue", logging.WARNING, "the catalogue failed: %s", error)
            return played
        if not played and self._scanned:
            self._tell("nothing", logging.WARNING, "there is nothing to play")
        return played

    async def _order(self) -> list[int]:
        """The tracks of the next round, by id."""
        ids = await self._catalogue.ids(MEDIA_TYPE)
        if self._playlist is not None:
            return await asyncio.to_thread(self._listed, self._playlist, ids)
        if await self._catalogue.count() > len(ids):
            self._tell("others", logging.INFO, "tracks that are no MP3 are not played")
        return await asyncio.to_thread(shuffled, ids.values(), self._latest)

    def _listed(self, playlist: Path, ids: dict[str, int]) -> list[int]:
        """The tracks that a playlist names, in its order. Blocking."""
        try:
            with playlist.open("rb") as file:
                self._entries = entries(file.read(PLAYLIST_BYTES + 1))
        except (OSError, ValueError) as error:
            # As an editor saves it, it may not be there for a moment: what it said is good for a round more.
            self._pass_over(str(playlist), str(error))
        found = []
        for entry in self._entries:
            try:
                path = track_path(entry, playlist, self._root)
            except SourceNotFound as error:
                self._pass_over(entry, str(error))
                continue
            if path in ids:
                found.append(ids[path])
            elif not path.lower().endswith(".mp3"):
                self._pass_over(entry, "it is no MP3")
            elif self._scanned:
                self._pass_over(entry, "it is not in the catalogue")
        return found

    async def _play(self, number: int) -> bool:
        """Play the track with this id to its end, or until a live source takes over; whether it was heard."""
        await self._vacancy()
        track = await self._catalogue.track(number)
        if track is None:
            return False  # it has gone since the round began
        try:
            await self._send(track)
        except (Preempted, MountBusy):
            # Of a track that was cut off an hour ago nobody wants the rest: the next one comes then.
            self._session = None
            log.info("the station %s waits: a live source is on its mount", self.name)
        except (SourceError, FormatError) as error:
            self._pass_over(track.path, str(error))
            return False
        self._latest = number
        return True

    async def _send(self, track: Track) -> None:
        """Give the mount all frames of a track, each in its time.

        Raises:
            SourceError, FormatError: it cannot be read, or is no MP3. Some of it may have been heard.
            Preempted, MountBusy: there is a live source.
        """
        frames = parser(MEDIA_TYPE)
        playing = Playing(
            f"{track.artist} - {track.title}" if track.artist else track.title, f"/audio/{track.id}"
        )
        heard = False
        with opened(self._root, track.path) as file:
            async with aclosing(read(file.descriptor, 0, file.length, READ_BYTES)) as chunks:
                async for chunk in chunks:
                    await self._sleep(0)  # a tag may be long, and none of it is paced
                    for piece in frames.feed(bytes(chunk)):
                        mount = self._give(piece)
                        if not heard:
                            mount.play(playing)
                            heard = True
                        await self._pace()
        if not heard:
            raise FormatError("there is no sound in it")

    # --- the mount ---

    async def _vacancy(self) -> None:
        """Wait until nobody else is heard on the mount."""
        if self._session is not None:
            return
        try:
            self._mount = self._mounts.get(self.name)
        except SourceNotFound:
            return
        self._mount.has_station = True  # who listens to the source that ends will hear the station
        await self._mount.vacant.wait()

    def _give(self, piece: Piece) -> Mount:
        """One frame to the mount, which is claimed by the first.

        Raises:
            Preempted, MountBusy: there is a live source.
        """
        if self._session is None:
            self._session = self._mounts.claim(self.name, "station", MEDIA_TYPE)
            self._mount = self._mounts.get(self.name)
            self._mount.has_station = True
            self._until = self._clock()
        self._session.play([piece])  # what it says of waiting is less strict than the clock here
        self._until += piece.seconds
        assert self._mount is not None
        return self._mount

    async def _pace(self) -> None:
        """Wait while what was given is more than AHEAD_SECONDS ahead, a stretch at a time."""
        now = self._clock()
        if self._until < now - LATE_SECONDS:
            self._until = now
        if self._until >= now + AHEAD_SECONDS + STRETCH_SECONDS:
            await self._sleep(self._until - now - AHEAD_SECONDS)

    def _fall_silent(self) -> None:
        """Leave the mount: its listeners are held as after any other source, and then ended."""
        mount, session = self._mount, self._session
        self._mount = self._session = None
        if mount is None:
            return
        mount.has_station = False
        if session is not None:
            session.close()
        elif mount.vacant.is_set():
            mount.end()

    # --- the log ---

    def _pass_over(self, what: str, why: str) -> None:
        self._tell(what, logging.WARNING, "%r is passed over: %s", what, why)

    def _tell(self, key: str, level: int, text: str, *values: object) -> None:
        """A line in the log, once for as many rounds as it is so."""
        if key not in self._told and key not in self._told_before:
            log.log(level, f"the station %s: {text}", self.name, *values)
        self._told.add(key)


def shuffled(numbers: Collection[int], latest: int | None) -> list[int]:
    """All of them, each once, in random order; not `latest` at the beginning if there is another."""
    order = list(numbers)
    random.shuffle(order)
    if len(order) > 1 and order[0] == latest:
        other = random.randrange(1, len(order))
        order[0], order[other] = order[other], order[0]
    return order


def entries(data: bytes) -> list[str]:
    """What an M3U file lists, comments and directives left out: UTF-8, and what is not that is Latin-1.

    Raises:
        ValueError: it is longer than PLAYLIST_BYTES.
    """
    if len(data) > PLAYLIST_BYTES:
        raise ValueError(f"it has more than {PLAYLIST_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = (line.strip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line and not line.startswith("#")]


def track_path(entry: str, playlist: Path, root: Path) -> str:
    """The path below `root` that an entry of a playlist means, as the catalogue has it. Blocking.

    Relative to the playlist's folder, and if there is no such file, to the library.

    Raises:
        SourceNotFound: it is an address, lies outside the library, or is not there.
    """
    if _ADDRESS.match(entry):
        raise SourceNotFound("it is an address, not a file of the library")
    entry = entry.replace("\\", "/")  # as Windows writes it; no name in the library has one
    top = os.path.realpath(root)
    for folder in (os.path.realpath(playlist.parent), top):
        path = os.path.normpath(os.path.join(folder, entry))
        if path.startswith(os.path.join(top, "")):
            with suppress(SourceNotFound, OSError):  # hidden, a link that leads outside, too long
                found = Path(resolve(root, os.path.relpath(path, top)))
                if found.is_file():
                    return found.relative_to(top).as_posix()
    raise SourceNotFound("there is no such file in the library")
