"""Stations: which tracks, in which order, at which pace, and who is heard instead."""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path

import pytest

from media.catalogue import Catalogue
from media.channel import Ids
from media.database import CatalogueError
from media.frames import parser
from media.library import scan
from media.live import Mounts
from media.source import SourceNotFound
from media.station import AHEAD_SECONDS, MEDIA_TYPE, PLAYLIST_BYTES, Station, entries, shuffled, track_path
from media.stretches import STRETCH_SECONDS
from tests.conftest import ExpectLog
from tests.media.audio_files import FRAME, wav
from tests.serving import eventually

FRAME_SECONDS = 1152 / 44100


class Clock:
    """Goes on only by who sleeps, each time a little too long, and stands at `stop`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stop = 1000.0
        self._goes = asyncio.Event()
        self._late = random.Random(1)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """What a station sleeps by."""
        await asyncio.sleep(0)
        if seconds:
            self.now += seconds + self._late.uniform(0, 0.05)
        while seconds and self.now >= self.stop:
            self._goes.clear()
            await self._goes.wait()

    def free(self) -> None:
        """Go on as long as somebody sleeps."""
        self.stop = math.inf
        self._goes.set()

    async def run(self, seconds: float) -> None:
        """Until so much later somebody has slept."""
        self.stop = self.now + seconds
        self._goes.set()
        await eventually(lambda: self.now >= self.stop, 25)


class Radio:
    """A station, its library and a listener who hears all.

    `heard` are the letters of the tracks, one a frame.
    """

    def __init__(self, root: Path, playlist: Path | None, catalogue: Catalogue, grace_seconds: float) -> None:
        self.root, self.catalogue = root, catalogue
        self.clock = Clock()
        self.mounts = Mounts(Ids(), grace_seconds=grace_seconds)
        self.station = Station(
            "radio",
            playlist,
            root=root,
            catalogue=catalogue,
            mounts=self.mounts,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        self.station.look_again()
        self.heard = ""
        self.ended = False
        self._listening = asyncio.Event()

    async def run(self, seconds: float) -> None:
        """So much later, all of it heard."""
        await self._listening.wait()
        await self.clock.run(seconds)
        await asyncio.sleep(0)  # the listener's turn

    @property
    def tracks(self) -> str:
        """A letter for each track that was heard, whatever of it."""
        return "".join(letter for letter, _ in groupby(self.heard))

    async def scan(self) -> None:
        """As on SIGHUP."""
        await scan(self.root, self.catalogue)
        self.station.look_again()

    async def listen(self) -> None:
        """From the beginning to the end."""
        await eventually(lambda: [*self.mounts], 25)
        rest = b""
        async with self.mounts.get("radio").heard() as body:
            self._listening.set()
            async for chunk in body.chunks():
                rest += bytes(chunk)  # type: ignore[arg-type]
                whole = len(rest) // len(FRAME)
                self.heard += "".join(chr(rest[number * len(FRAME) + 4]) for number in range(whole))
                rest = rest[whole * len(FRAME) :]
        self.ended = True


def track(path: Path, seconds: float = 5.0) -> Path:
    """An MP3 whose frames hold the first letter of its name."""
    frame = FRAME[:4] + path.name[:1].encode() * (len(FRAME) - 4)
    path.write_bytes(frame * math.ceil(seconds / FRAME_SECONDS))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty library."""
    folder = tmp_path / "library"
    folder.mkdir()
    return folder


@asynccontextmanager
async def radio(root: Path, playlist: Path | None = None, grace_seconds: float = 10) -> AsyncIterator[Radio]:
    """On air, with its clock standing."""
    async with Catalogue(f"sqlite+aiosqlite:///{root}.sqlite3") as catalogue:
        await scan(root, catalogue)
        made = Radio(root, playlist, catalogue, grace_seconds)
        tasks = [asyncio.create_task(made.station.run()), asyncio.create_task(made.listen())]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            for task, ending in zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
                if not isinstance(ending, asyncio.CancelledError):
                    task.result()


# --- playlists ---


@pytest.mark.parametrize(
    ("data", "listed"),
    [
        pytest.param(b"a.mp3\nb.mp3\n", ["a.mp3", "b.mp3"], id="plain"),
        pytest.param(
            b"#EXTM3U\r\n#EXTINF:10,A\r\na.mp3\r\n\r\nb.mp3", ["a.mp3", "b.mp3"], id="extended, CRLF"
        ),
        pytest.param(b"a.mp3\rb.mp3\r", ["a.mp3", "b.mp3"], id="CR"),
        pytest.param(b"\xef\xbb\xbf#EXTM3U\na.mp3\n", ["a.mp3"], id="BOM"),
        pytest.param(b"\xef\xbb\xbfa.mp3\n", ["a.mp3"], id="BOM before a name"),
        pytest.param("물소리.mp3\n".encode(), ["물소리.mp3"], id="UTF-8"),
        pytest.param("Für Élise.mp3\n".encode("latin-1"), ["Für Élise.mp3"], id="Latin-1"),
        pytest.param("a\u2028\x85b.mp3\n".encode(), ["a\u2028\x85b.mp3"], id="no line break in M3U"),
        pytest.param(b"  a b.mp3 \t\n", ["a b.mp3"], id="white space around"),
        pytest.param(b"a.mp3\na.mp3\n", ["a.mp3", "a.mp3"], id="twice"),
        pytest.param(b"", [], id="empty"),
    ],
)
def test_entries_of_a_playlist(data: bytes, listed: list[str]) -> None:
    """Names as they stand, without what is for other programs."""
    assert entries(data) == listed


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("c.mp3", "lists/c.mp3"),
        ("./c.mp3", "lists/c.mp3"),
        ("../a.mp3", "a.mp3"),
        ("a.mp3", "a.mp3"),
        ("albums/b.mp3", "albums/b.mp3"),
        (r"..\albums\b.mp3", "albums/b.mp3"),
        ("../lists/../albums/b.mp3", "albums/b.mp3"),
        ("../link.mp3", "albums/b.mp3"),
        ("ROOT/albums/b.mp3", "albums/b.mp3"),
        ("u\u0308.mp3", "ü.mp3"),
    ],
)
def test_entry_is_a_track(root: Path, entry: str, path: str) -> None:
    """Relative to the playlist first, and else to the library; in the catalogue's own spelling."""
    library(root)
    assert track_path(entry.replace("ROOT", str(root)), root / "lists" / "x.m3u", root) == path


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("http://example.org/a.mp3", "an address"),
        ("file:///a.mp3", "an address"),
        ("nothing.mp3", "no such file"),
        ("albums", "no such file"),
        (".", "no such file"),
        ("../../outside.mp3", "no such file"),
        ("/etc/passwd", "no such file"),
        (r"C:\Music\a.mp3", "no such file"),
        ("../out.mp3", "no such file"),
        ("../.hidden.mp3", "no such file"),
        ("a\0.mp3", "no such file"),
        ("a" * 5000, "no such file"),
        ("a" * 300, "no such file"),
    ],
)
def test_entry_is_none(root: Path, entry: str, why: str) -> None:
    """Addresses, what is not there, and what lies outside or hidden, also behind a link."""
    library(root)
    with pytest.raises(SourceNotFound, match=why):
        track_path(entry, root / "lists" / "x.m3u", root)


def library(root: Path) -> None:
    for folder in ("albums", "lists"):
        (root / folder).mkdir()
    for name in ("a.mp3", "albums/b.mp3", "lists/c.mp3", "ü.mp3", ".hidden.mp3", "../outside.mp3"):
        (root / name).touch()
    (root / "link.mp3").symlink_to("albums/b.mp3")
    (root / "out.mp3").symlink_to("../outside.mp3")


def test_a_playlist_may_lie_in_a_hidden_folder(root: Path) -> None:
    """Its entries are found in the library."""
    library(root)
    (root / ".lists").mkdir()
    assert track_path("a.mp3", root / ".lists" / "x.m3u", root) == "a.mp3"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_shuffled(count: int) -> None:
    """Each track once, another one than the latest in front, and not always the same order."""
    orders = {tuple(shuffled(range(count), 1)) for _ in range(200)}
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert not any(order[0] == 1 for order in orders if count > 1)
    assert len(orders) == {0: 1, 1: 1, 2: 1, 3: 4}.get(count, 200)


# --- what is heard ---


@pytest.mark.gen_test
async def test_playlist_is_played_in_its_order(root: Path) -> None:
    """And from its beginning again, every frame of each track, with artist and title or the file's name."""
    for name in "abc":
        track(root / f"{name}.mp3", 5)
    (root / "x.m3u").write_text("c.mp3\na.mp3\nc.mp3\n")
    async with radio(root, root / "x.m3u") as on_air:
        await on_air.run(1)
        mount = on_air.mounts.get("radio")
        ids = await on_air.catalogue.ids(MEDIA_TYPE)
        assert (mount.playing.title, mount.playing.link) == ("c", f"/audio/{ids['c.mp3']}")
        assert mount.session
        assert mount.session.kind == "station"
        await on_air.run(25)
        assert on_air.tracks.startswith("cac")
        runs = [len(list(run)) for _, run in groupby(on_air.heard)]
        assert set(runs[:-1]) <= {math.ceil(5 / FRAME_SECONDS), 2 * math.ceil(5 / FRAME_SECONDS)}


@pytest.mark.gen_test
async def test_everything_is_shuffled_in_rounds(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each MP3 once a round, none twice in a row; that there are other tracks is one line."""
    caplog.set_level(logging.INFO)
    for name in "abcd":
        track(root / f"{name}.mp3", 1)
    wav(root / "wave.wav")
    async with radio(root) as on_air:
        await on_air.run(41)
        played = on_air.tracks[:40]
        assert all(set(played[start : start + 4]) == set("abcd") for start in range(0, 40, 4))
    assert [record.message for record in caplog.records] == [
        "the station radio: tracks that are no MP3 are not played"
    ]


@pytest.mark.gen_test
async def test_a_changed_playlist_counts_in_the_next_round(root: Path) -> None:
    """One that has gone for a moment, or that is far too long, changes nothing."""
    for name in "abc":
        track(root / f"{name}.mp3", 1)
    playlist = root / "x.m3u"
    playlist.write_text("a.mp3\nb.mp3\n")
    async with radio(root, playlist) as on_air:
        await on_air.run(3)
        playlist.write_text("c.mp3\n")
        await on_air.run(6)
        assert on_air.tracks in ("ababc", "abababc")


@pytest.mark.gen_test
async def test_a_playlist_that_cannot_be_read(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it said before is played on; one line says why."""
    track(root / "a.mp3", 1)
    playlist = root / "x.m3u"
    playlist.write_text("a.mp3\n")
    async with radio(root, playlist) as on_air:
        await on_air.run(3)
        playlist.unlink()
        await on_air.run(5)
        playlist.write_bytes(b"#" * (PLAYLIST_BYTES + 1))
        await on_air.run(5)
        assert len(on_air.heard) * FRAME_SECONDS > 12
    assert [record.message.count("No such file") for record in caplog.records] == [1]


@pytest.mark.gen_test
async def test_what_cannot_be_played_is_passed_over(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others are heard, without a gap, and the log has one line for each, however many rounds."""
    (root / "text.mp3").write_bytes(b"It was a bright cold day in April. " * 5000)
    (root / "short.mp3").write_bytes(FRAME[:100])
    wav(root / "wave.wav")
    for name in ("a.mp3", "b.mp3", "gone.mp3"):
        track(root / name, 1)
    names = ["text.mp3", "a.mp3", "http://example.org/", "wave.wav", "gone.mp3", "new.mp3", "short.mp3"]
    (root / "x.m3u").write_text("\n".join([*names, "b.mp3"]))
    async with radio(root, root / "x.m3u") as on_air:
        track(root / "new.mp3", 1)
        (root / "gone.mp3").unlink()
        caplog.clear()
        await on_air.run(6)
        assert on_air.tracks.startswith("abab")
    said = sorted(record.message.removeprefix("the station radio: ") for record in caplog.records)
    assert [line.partition(" is passed over: ")[::2] for line in said] == [
        ("'gone.mp3'", "there is no such file in the library"),
        ("'http://example.org/'", "it is an address, not a file of the library"),
        ("'new.mp3'", "it is not in the catalogue"),
        ("'short.mp3'", "there is no sound in it"),
        ("'text.mp3'", said[4].partition(": ")[2]),
        ("'wave.wav'", "it is no MP3"),
    ]
    assert "65536 bytes without MP3" in said[4]


@pytest.mark.gen_test
async def test_a_file_that_vanished_since_the_round_began(root: Path, expect_log: ExpectLog) -> None:
    """It is passed over; one that the catalogue has forgotten by then too, without a word."""
    for name in ("a.mp3", "b.mp3", "c.mp3"):
        track(root / name, 5)
    (root / "x.m3u").write_text("a.mp3\nb.mp3\nc.mp3\n")
    expect_log("millrace.station", logging.WARNING, "'b.mp3' is passed over: no such file")
    async with radio(root, root / "x.m3u") as on_air:
        await on_air.run(1)
        (root / "b.mp3").unlink()
        await on_air.run(6)
        assert on_air.tracks == "ac"
        expect_log("millrace.station", logging.WARNING, "no such file in the library")
        (root / "c.mp3").unlink()
        await on_air.scan()
        await on_air.run(15)
        assert on_air.tracks == "aca"


@pytest.mark.gen_test
async def test_before_the_first_scan_nothing_is_missed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the catalogue does not know yet is no line in the log; what is not there after the scan is one."""
    (root / "x.m3u").write_text("a.mp3\n")
    async with Catalogue(f"sqlite+aiosqlite:///{root}.sqlite3") as catalogue:
        track(root / "a.mp3")
        station = Station("radio", root / "x.m3u", root=root, catalogue=catalogue, mounts=Mounts(Ids()))
        task = asyncio.create_task(station.run())
        await asyncio.sleep(0.05)
        assert not caplog.records
        station.look_again()
        await eventually(lambda: len(caplog.records) == 2)
        task.cancel()
        await asyncio.wait({task})
    assert [line.message for line in caplog.records] == [
        "the station radio: 'a.mp3' is passed over: it is not in the catalogue",
        "the station radio: there is nothing to play",
    ]


@pytest.mark.gen_test
async def test_a_station_without_tracks_waits(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is no mount, and one line in the log; tracks that a scan finds are heard at once."""
    async with radio(root) as on_air:
        await eventually(lambda: caplog.records)
        await on_air.scan()
        assert not [*on_air.mounts]
        assert [line.message for line in caplog.records] == ["the station radio: there is nothing to play"]
        track(root / "a.mp3")
        await on_air.scan()
        await on_air.run(3)
        assert on_air.tracks == "a"


@pytest.mark.gen_test
async def test_a_station_that_has_lost_its_tracks_falls_silent(root: Path, expect_log: ExpectLog) -> None:
    """Its listeners are held as after any source, and the mount goes; it comes back with a new track."""
    track(root / "a.mp3", 2)
    expect_log("millrace.station", logging.WARNING, "there is nothing to play")
    async with radio(root, grace_seconds=0.1) as on_air:
        await on_air.run(1)
        (root / "a.mp3").unlink()
        await on_air.scan()
        on_air.clock.free()
        await eventually(lambda: on_air.ended)
        await eventually(lambda: not [*on_air.mounts])
        assert on_air.tracks == "a"
        track(root / "b.mp3", 2)
        await on_air.scan()
        await eventually(lambda: [*on_air.mounts])
        assert on_air.mounts.get("radio").playing.title == "b"


# --- the pace ---


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_no_drift_in_an_hour(root: Path) -> None:
    """However late each sleep ends: what was given is AHEAD_SECONDS ahead of the clock, first and last."""
    for name, seconds in (("a", 181.3), ("b", 7.7), ("c", 64.1)):
        track(root / f"{name}.mp3", seconds)
    async with radio(root) as on_air:
        began = on_air.clock.now
        for seconds in (60, 3540):
            await on_air.run(seconds)
            ahead = len(on_air.heard) * FRAME_SECONDS - (on_air.clock.now - began)
            # What a mount holds back for its next stretch is not heard, and a sleep is up to 50 ms late.
            assert AHEAD_SECONDS - STRETCH_SECONDS - 0.1 < ahead < AHEAD_SECONDS + STRETCH_SECONDS, ahead


@pytest.mark.gen_test
async def test_a_clock_that_jumps_is_followed(root: Path) -> None:
    """A second is made up for. A minute, in which the process stood still, is not: nobody was heard in it."""
    track(root / "a.mp3", 30)
    async with radio(root) as on_air:
        for missing, made_up in ((1, True), (60, False)):
            await on_air.run(10)
            before, now = len(on_air.heard), on_air.clock.now
            on_air.clock.now += missing
            await on_air.run(10)
            heard = (len(on_air.heard) - before) * FRAME_SECONDS
            lost = on_air.clock.now - now - heard
            assert abs(lost - (0 if made_up else missing - AHEAD_SECONDS)) < 2 * STRETCH_SECONDS + 1.1


# --- live sources ---


@pytest.mark.gen_test
async def test_a_live_source_takes_over(root: Path) -> None:
    """The same listener hears it, and then the station again, with its next track from the beginning."""
    for name in "ab":
        track(root / f"{name}.mp3", 5)
    (root / "x.m3u").write_text("a.mp3\nb.mp3\n")
    async with radio(root, root / "x.m3u", grace_seconds=0) as on_air:
        await on_air.run(2)
        mount = on_air.mounts.get("radio")
        live = on_air.mounts.claim("radio", "live", MEDIA_TYPE)
        frame = FRAME[:4] + b"L" * 413
        live.play(parser(MEDIA_TYPE).feed(frame * 50))
        on_air.clock.free()
        await asyncio.sleep(0.05)
        assert mount.session is live
        assert mount.playing.title == ""
        on_air.clock.stop = on_air.clock.now
        live.close()
        await eventually(lambda: mount.playing.title == "b")
        await on_air.run(6)
        assert on_air.tracks == "aLba"
        assert on_air.heard.count("b") == math.ceil(5 / FRAME_SECONDS)
        assert not on_air.ended


@pytest.mark.gen_test
async def test_a_station_waits_for_a_source_that_was_there_first(root: Path) -> None:
    """And is heard by its listeners, whom nobody ends, when it leaves."""
    track(root / "a.mp3", 5)
    async with Catalogue(f"sqlite+aiosqlite:///{root}.sqlite3") as catalogue:
        await scan(root, catalogue)
        on_air = Radio(root, None, catalogue, 0)
        live = on_air.mounts.claim("radio", "live", MEDIA_TYPE)
        tasks = [asyncio.create_task(on_air.station.run()), asyncio.create_task(on_air.listen())]
        try:
            live.play(parser(MEDIA_TYPE).feed((FRAME[:4] + b"L" * 413) * 50))
            await asyncio.sleep(0.05)
            live.close()
            await on_air.run(3)
            assert on_air.tracks == "La"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.mark.gen_test
async def test_a_cancelled_station_leaves_its_mount(root: Path) -> None:
    """As any other source does."""
    track(root / "a.mp3")
    async with radio(root) as on_air:
        await on_air.run(1)
        mount = on_air.mounts.get("radio")
    assert mount.session is None
    assert not mount.has_station
    mount.end()


@pytest.mark.gen_test
async def test_a_catalogue_that_fails_is_waited_for(
    root: Path, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line in the log; the station looks again."""
    track(root / "a.mp3")
    expect_log("millrace.station", logging.WARNING, "the catalogue failed")

    async def failing(self: Catalogue, media_type: str) -> dict[str, int]:
        raise CatalogueError("the disk is full")

    monkeypatch.setattr(Catalogue, "ids", failing)
    async with radio(root) as on_air:
        await asyncio.sleep(0.05)
        monkeypatch.undo()
        on_air.station.look_again()
        await on_air.run(2)
        assert on_air.tracks == "a"
