"""The library: what a scan finds in a real folder, what it opens, and what it makes of damaged files."""

import asyncio
import logging
import os
import random
import threading
import tracemalloc
from pathlib import Path

import pytest

from media import library, tags
from media.catalogue import Catalogue
from media.library import MEDIA_TYPES, LibraryError, ScanResult, TextFile, scan, text_files
from media.source import SourceBroken
from tests.media.audio_files import PNG, mp3, wav


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "음악 library"
    folder.mkdir()
    return folder


@pytest.fixture
def database(tmp_path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'tracks.sqlite3'}"


async def ids(catalogue: Catalogue) -> dict[str, int]:
    return {track.path: track.id for track in (await catalogue.tracks(limit=20_000))[0]}


def counted(result: ScanResult) -> tuple[int, ...]:
    """added, changed, moved, removed, unchanged, failed"""
    return (result.added, result.changed, result.moved, result.removed, result.unchanged, result.failed)


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- what a scan finds ---


@pytest.mark.gen_test
async def test_tags_of_a_file(root, database, caplog):
    """Title, artist, album, number, duration, cover and length are those of the file."""
    made = mp3(root / "a.mp3", title="밤 편지", artist="A\0B", album="  C\n D ", number="7/12", cover=PNG)
    async with Catalogue(database) as catalogue:
        assert counted(await scan(root, catalogue)) == (1, 0, 0, 0, 0, 0)
        track = await catalogue.track(1)
        assert (track.title, track.artist, track.album, track.track_number) == ("밤 편지", "A", "C D", 7)
        assert track.duration_seconds == pytest.approx(100 * 1152 / 44100, rel=0.02)
        assert (track.media_type, track.length, track.has_cover) == ("audio/mpeg", made.stat().st_size, True)
    assert warned(caplog) == []


@pytest.mark.gen_test
async def test_what_is_missing_in_the_tags(root, database, caplog):
    """Without a title it is the file name without its end; an album's artist stands in for the track's."""
    wav(root / "01 - 가을.밤.WAV", title=None, album_artist="Several", number="0", seconds=0)
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        track = await catalogue.track(1)
        assert (track.title, track.artist, track.album) == ("01 - 가을.밤", "Several", None)
        assert (track.track_number, track.duration_seconds, track.has_cover) == (None, None, False)
    assert warned(caplog) == []


@pytest.mark.gen_test
async def test_only_audio_is_catalogued_in_order_of_names(root, database):
    """By the end of the name in any case; hidden files and folders do not exist."""
    for name in ("b.wav", "a/z.WAV", "a/b/c.wav", "c d.oga.wav", ".hidden.wav", ".hidden/a.wav", "a.wav.txt"):
        wav(root / name)
    (root / "folder.wav").mkdir()
    os.mkfifo(root / "pipe.wav")
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        assert await ids(catalogue) == {"a/b/c.wav": 1, "a/z.WAV": 2, "b.wav": 3, "c d.oga.wav": 4}


@pytest.mark.gen_test
async def test_symlinks(root, database, tmp_path, caplog):
    """One to a file inside counts; one that leads out, to a hidden file, to a folder or nowhere does not."""
    wav(root / "a" / "real.wav")
    wav(root / ".hidden" / "b.wav")
    wav(tmp_path / "outside" / "c.wav")
    wav(tmp_path / "음악 library 2" / "d.wav")  # its path begins with the root's
    for name, target in {
        "inside.wav": "a/real.wav",
        "out.wav": tmp_path / "outside" / "c.wav",
        "beside.wav": tmp_path / "음악 library 2" / "d.wav",
        "hidden.wav": ".hidden/b.wav",
        "nowhere.wav": "nothing",
        "itself.wav": "itself.wav",
        "loop": ".",
        "folder": "a",
        "folder out": tmp_path / "outside",
        "a/up": "..",
    }.items():
        (root / name).symlink_to(target)
    (tmp_path / "link to root").symlink_to(root)
    async with Catalogue(database) as catalogue:
        await scan(tmp_path / "link to root", catalogue)
        assert set(await ids(catalogue)) == {"inside.wav", "a/real.wav"}


@pytest.mark.gen_test
async def test_names_that_cannot_be_served(root, database, caplog):
    """A name that is not UTF-8, or has a backslash, is skipped with one warning; odd ones are not."""
    odd = ["a'\"%?#\n.wav", "e\u0301.wav", "é.wav", "x" * 251 + ".wav"]
    for name in [*odd, "back\\slash.wav", os.fsdecode(b"caf\xe9.wav")]:
        wav(root / "plain.wav", title=ascii(name)).rename(root / name)
    (root / os.fsdecode(b"folder \xff")).mkdir()
    async with Catalogue(database) as catalogue:
        assert counted(await scan(root, catalogue)) == (4, 0, 0, 0, 0, 0)
        assert set(await ids(catalogue)) == set(odd)
    assert sorted(warned(caplog)) == [
        r"skipped 'back\\slash.wav': there is a backslash in its name",
        r"skipped 'caf\udce9.wav': its name is not UTF-8",
        r"skipped 'folder \udcff': its name is not UTF-8",
    ]


# --- the second scan ---


@pytest.mark.gen_test
async def test_everything_that_happens_between_two_scans(root, database):
    """Real files that are retagged, moved, swapped, copied, deleted and brought back keep their ids."""
    for name in ("changed", "moved", "one", "other", "copied", "deleted", "same", "touched"):
        wav(root / f"{name}.wav")
    async with Catalogue(database) as catalogue:
        assert counted(await scan(root, catalogue)) == (8, 0, 0, 0, 0, 0)
        before = await ids(catalogue)
        wav(root / "changed.wav", title="New title")
        (root / "deep").mkdir()
        (root / "moved.wav").rename(root / "deep" / "moved.wav")
        (root / "one.wav").rename(root / "swap")
        (root / "other.wav").rename(root / "one.wav")
        (root / "swap").rename(root / "other.wav")
        for name in ("one", "other", "touched"):  # renaming alone leaves length and mtime alike
            os.utime(root / f"{name}.wav", ns=(before[f"{name}.wav"], before[f"{name}.wav"]))
        (root / "copy.wav").write_bytes((root / "copied.wav").read_bytes())
        deleted = (root / "deleted.wav").read_bytes()
        (root / "deleted.wav").unlink()

        assert counted(await scan(root, catalogue)) == (1, 2, 3, 1, 2, 0)
        after = await ids(catalogue)
        assert after["deep/moved.wav"] == before["moved.wav"]
        assert (after["one.wav"], after["other.wav"]) == (before["other.wav"], before["one.wav"])
        assert after["copy.wav"] == 9
        assert {name: after[name] for name in ("changed.wav", "copied.wav", "same.wav", "touched.wav")} == {
            name: before[name] for name in ("changed.wav", "copied.wav", "same.wav", "touched.wav")
        }
        assert (await catalogue.track(before["changed.wav"])).title == "New title"

        (root / "deleted.wav").write_bytes(deleted)
        assert counted(await scan(root, catalogue)) == (1, 0, 0, 0, 8, 0)
        assert (await ids(catalogue))["deleted.wav"] == before["deleted.wav"]
        assert counted(await scan(root, catalogue)) == (0, 0, 0, 0, 9, 0)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.gen_test(timeout=190)
async def test_unchanged_library_of_10000_files_is_not_opened(root, database, monkeypatch):
    """The second scan asks the folder, not the files."""
    sample = root / "sample.webm"  # the quickest to read, and one file on the disk: 10,000 take seconds
    sample.write_bytes(b"\x1aE\xdf\xa3")
    for folder in (root / f"{number:02d}" for number in range(100)):
        folder.mkdir()
        for number in range(100):
            (folder / f"{number}.webm").hardlink_to(sample)
    async with Catalogue(database) as catalogue:
        assert (await scan(root, catalogue)).added == 10_001
        opened = []
        monkeypatch.setattr(library, "_contents", lambda file, path, stop: opened.append(path))
        result = await scan(root, catalogue)
        assert counted(result) == (0, 0, 0, 0, 10_001, 0)
        assert opened == []


# --- damage ---


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.mp3", b"", "it is empty"),
        ("zeros.mp3", bytes(5000), "there is no audio in it"),
        ("text.flac", b"This is no FLAC file.", "Invalid FLAC header"),
        ("cut.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1", "unpack_from requires a buffer"),
        ("text.ogg", b"OggS" + bytes(40), "there is no audio in it"),
        ("text.m4a", "가나다".encode(), "Invalid MP4 header"),
        ("text.aac", b"This is no AAC file.", "No tag reader found"),
        ("huge.mp3", b"ID3\x04\0\0\x7f\x7f\x7f\x7fTIT2\x7f\x7f\x7f\x7f\0\0\x03", "no audio in it"),
    ],
)
async def test_broken_file_is_catalogued_by_its_name(root, database, caplog, name, content, says):
    """Its title is the file name, and one warning names the file; the next scan says nothing more."""
    (root / name).write_bytes(content)
    async with Catalogue(database) as catalogue:
        assert counted(await scan(root, catalogue)) == (1, 0, 0, 0, 0, 1)
        track = await catalogue.track(1)
        assert (track.title, track.duration_seconds, track.length) == (Path(name).stem, None, len(content))
        assert len(warned(caplog)) == 1
        assert repr(name) in warned(caplog)[0]
        assert says in warned(caplog)[0]
        assert counted(await scan(root, catalogue)) == (0, 0, 0, 0, 1, 0)
        assert len(warned(caplog)) == 1


@pytest.mark.gen_test
async def test_tags_of_damaged_audio_are_kept(root, database, caplog):
    """Where only the audio is damaged the title is still the tag's."""
    made = mp3(root / "a.mp3", frames=0, title="Still here")
    with made.open("ab") as out:
        out.write(bytes(2000))
    async with Catalogue(database) as catalogue:
        assert (await scan(root, catalogue)).failed == 1
        assert (await catalogue.track(1)).title == "Still here"
    assert len(warned(caplog)) == 1


@pytest.mark.gen_test
async def test_sparse_file_of_five_gigabytes(root, database, caplog, monkeypatch):
    """The parser's patience with one file is bounded; its tags are still found."""
    monkeypatch.setattr(tags, "_READS_LIMIT", 10_000)
    made = mp3(root / "a.mp3", frames=0, title="Large")
    os.truncate(made, 5 * 10**9)
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        track = await catalogue.track(1)
        assert (track.title, track.duration_seconds, track.length) == ("Large", None, 5 * 10**9)
    assert warned(caplog) == ["the tags of 'a.mp3' are not complete: too much to read before their end"]


@pytest.mark.slow
@pytest.mark.gen_test(timeout=50)
async def test_garbage_of_every_kind_is_survived(root, database, caplog):
    """Random and cut files of every format, with and without a plausible beginning, are all catalogued."""
    caplog.set_level(logging.CRITICAL, "millrace.library")
    chance = random.Random(8)
    whole = {".wav": wav(root / "x.wav", cover=PNG).read_bytes(), ".mp3": mp3(root / "x.mp3").read_bytes()}
    heads = [
        b"ID3\x04\0\0\0\0\x01\x00",
        b"OggS\0\2",
        b"fLaC",
        b"\0\0\0\x20ftypM4A ",
        b"RIFF\xff\0\0\0WAVEfmt ",
        b"",
    ]
    made = 2
    for end in MEDIA_TYPES:
        for number in range(60):
            body = chance.randbytes(chance.randrange(300))
            if end in whole and number % 2:
                body = whole[end][: chance.randrange(len(whole[end]))]
            (root / f"{number}{end}").write_bytes(chance.choice(heads) * (number % 2 == 0) + body)
            made += 1
    async with Catalogue(database) as catalogue:
        assert (await scan(root, catalogue)).added == made
        for track in (await catalogue.tracks(limit=made))[0]:
            assert track.title
            assert track.duration_seconds is None or 0 < track.duration_seconds <= tags.DURATION_LIMIT


# --- what cannot be read ---


def forbid(monkeypatch, name: str, error: type[OSError] = PermissionError) -> None:
    """Everything under this name is unreadable. chmod would not stop a test that runs as root."""

    def refuse(function):
        def call(path, *args, **kwargs):
            if name in os.fspath(path):
                raise error(13, os.strerror(13), os.fspath(path))
            return function(path, *args, **kwargs)

        return call

    monkeypatch.setattr(Path, "open", refuse(Path.open))
    monkeypatch.setattr(os, "scandir", refuse(os.scandir))


@pytest.mark.gen_test
async def test_unreadable_file(root, database, caplog):
    """It is skipped with a warning; one that was known stays known, and is tried again."""
    wav(root / "a.wav")
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        wav(root / "a.wav", title="Changed")
        wav(root / "b.wav")
        with pytest.MonkeyPatch.context() as patch:
            forbid(patch, ".wav")
            assert counted(await scan(root, catalogue)) == (0, 0, 0, 0, 0, 2)
        assert await ids(catalogue) == {"a.wav": 1}
        assert warned(caplog) == [f"cannot read '{name}.wav': Permission denied" for name in "ab"]
        assert counted(await scan(root, catalogue)) == (1, 1, 0, 0, 0, 0)


@pytest.mark.gen_test
async def test_unreadable_folder(root, database, caplog):
    """It is skipped with one warning, and nobody says of its tracks that they have gone."""
    for name in ("a/b/c.wav", "a/d.wav", "e.wav"):
        wav(root / name)
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        before = await ids(catalogue)
        with pytest.MonkeyPatch.context() as patch:
            forbid(patch, "library/a")
            assert counted(await scan(root, catalogue)) == (0, 0, 0, 0, 1, 0)
        assert await ids(catalogue) == before
    assert warned(caplog) == ["skipped 'a': Permission denied"]


@pytest.mark.gen_test
async def test_symlinks_that_cannot_be_followed(root, database, caplog):
    """One through a file, or in a circle, is skipped."""
    (root / "a.wav").symlink_to("b.wav/c")
    (root / "b.wav").symlink_to("b.wav")
    async with Catalogue(database) as catalogue:
        assert counted(await scan(root, catalogue)) == (0, 0, 0, 0, 0, 0)
    assert all(message.startswith("skipped ") for message in warned(caplog))


@pytest.mark.gen_test
@pytest.mark.parametrize("error", ["missing", "a file", "forbidden"])
async def test_root_that_cannot_be_read_changes_nothing(root, database, error, monkeypatch):
    """A library that is not there at a re-scan is an error, and its tracks have not gone."""
    wav(root / "a.wav")
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        if error == "forbidden":
            forbid(monkeypatch, "library")
        else:
            root.rename(root.with_name("elsewhere"))
        if error == "a file":
            root.write_bytes(b"")
        with pytest.raises(LibraryError, match=r"the library .* cannot be read: "):
            await scan(root, catalogue)
        with pytest.raises(SourceBroken):
            list(text_files(root))
        assert await ids(catalogue) == {"a.wav": 1}


@pytest.mark.gen_test
async def test_file_that_vanishes_during_the_scan(root, database, caplog, monkeypatch):
    """It is not catalogued, or has gone, without a word."""
    wav(root / "a.wav")
    wav(root / "b.wav")
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        wav(root / "a.wav", title="Changed")
        wav(root / "c.wav")
        forbid(monkeypatch, ".wav", FileNotFoundError)
        assert counted(await scan(root, catalogue)) == (0, 0, 0, 1, 1, 0)
        assert await ids(catalogue) == {"b.wav": 2}
    assert warned(caplog) == []


# --- while it runs ---


@pytest.mark.gen_test
async def test_cancelled_scan_stops_at_the_next_file(root, database, monkeypatch):
    """What was written stays, the thread has ended, and the next scan goes on from there."""
    monkeypatch.setattr(library, "BATCH_FILES", 2)
    for number in range(8):
        wav(root / f"{number}.wav")
    reached, go_on, opened = threading.Event(), threading.Event(), []
    contents = library._contents

    def wait_at_the_fifth(file, path, stop):
        opened.append(path)
        if path == "4.wav":
            reached.set()
            go_on.wait(5)
        return contents(file, path, stop)

    monkeypatch.setattr(library, "_contents", wait_at_the_fifth)
    async with Catalogue(database) as catalogue:
        work = asyncio.create_task(scan(root, catalogue))
        await asyncio.to_thread(reached.wait, 5)
        work.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await work
        assert opened[-1] == "4.wav"
        assert await ids(catalogue) == {"0.wav": 1, "1.wav": 2, "2.wav": 3, "3.wav": 4}
        assert counted(await scan(root, catalogue)) == (4, 0, 0, 0, 4, 0)


@pytest.mark.gen_test
async def test_cancelled_walk_stops(root, database, monkeypatch):
    """A scan that is cancelled while it looks through the folders writes nothing."""
    for number in range(3):
        wav(root / f"{number}.wav")
    seen, files = [], library._files
    reached, go_on = threading.Event(), threading.Event()

    def slowly(*args):
        for file in files(*args):
            seen.append(file)
            reached.set()
            go_on.wait(5)
            yield file

    monkeypatch.setattr(library, "_files", slowly)
    async with Catalogue(database) as catalogue:
        work = asyncio.create_task(scan(root, catalogue))
        await asyncio.to_thread(reached.wait, 5)
        work.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await work
        assert len(seen) == 1
        assert await ids(catalogue) == {}


@pytest.mark.gen_test
async def test_cancelled_scan_does_not_wait_for_a_disk_that_hangs(root, database, monkeypatch):
    """The thread is left behind after a bounded time."""
    monkeypatch.setattr(library, "_STOP_SECONDS", 0.02)
    reached, go_on, ended, walk = threading.Event(), threading.Event(), threading.Event(), library._walk

    def hanging(*args):
        reached.set()
        go_on.wait(5)
        ended.set()
        return walk(*args)

    monkeypatch.setattr(library, "_walk", hanging)
    async with Catalogue(database) as catalogue:
        work = asyncio.create_task(scan(root, catalogue))
        await asyncio.to_thread(reached.wait, 5)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert not ended.is_set()
        go_on.set()
        await asyncio.to_thread(ended.wait, 5)


@pytest.mark.gen_test
async def test_new_tracks_appear_while_the_scan_goes_on(root, database, monkeypatch):
    """What moved waits for the end, so that its id is not given away; what is new does not."""
    monkeypatch.setattr(library, "BATCH_FILES", 1)
    wav(root / "z.wav")
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        (root / "z.wav").rename(root / "a.wav")
        wav(root / "b.wav")
        wav(root / "c.wav")
        seen, add = [], catalogue.add

        async def watched(found):
            number = await add(found)
            seen.append(await ids(catalogue))
            return number

        monkeypatch.setattr(catalogue, "add", watched)
        assert counted(await scan(root, catalogue)) == (2, 0, 1, 0, 0, 0)
        assert seen == [{"z.wav": 1, "b.wav": 2}, {"z.wav": 1, "b.wav": 2, "c.wav": 3}]
        assert await ids(catalogue) == {"a.wav": 1, "b.wav": 2, "c.wav": 3}


@pytest.mark.gen_test
async def test_two_scans_at_once(root, database):
    """Two processes that scan one library do not double a track."""
    for number in range(20):
        wav(root / f"{number:02d}.wav")
    async with Catalogue(database) as one, Catalogue(database) as other:
        results = await asyncio.gather(scan(root, one), scan(root, other))
        assert sum(result.added for result in results) == 20
        assert len(await ids(one)) == 20


@pytest.mark.slow
@pytest.mark.gen_test
async def test_what_was_looked_at_is_forgotten(root, database):
    """A folder of thousands is listed at once, but what is known of each file goes with it."""
    for number in range(2000):
        (root / f"{number:04d}.txt").touch()
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue)
        tracemalloc.start()
        await scan(root, catalogue)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2000 * 650  # bytes a file; 377 were measured, and 980 when each kept its stat


@pytest.mark.gen_test
@pytest.mark.parametrize("progress", [True, False])
async def test_progress_bar(root, database, capsys, progress):
    """It is drawn on stderr, and only when asked for."""
    wav(root / "a.wav")
    async with Catalogue(database) as catalogue:
        await scan(root, catalogue, progress=progress)
    out, drawn = capsys.readouterr()
    assert out == ""
    assert ("1/1" in drawn) == progress == bool(drawn)


# --- texts ---


def test_text_files(root, tmp_path):
    """Every text by name, with length and time; no audio, nothing binary, hidden or outside."""
    contents = {
        "text_sample": "가사\n".encode(),
        "b.txt": b"",
        "a/c.lrc": b"[00:01.00]\tla\r\n",
        "cp949.txt": "한국어".encode("cp949"),
        "utf16.txt": "\ufeff한국어".encode("utf-16-le"),
        "utf16 without mark.txt": "ab".encode("utf-16-le"),
        "cover.png": PNG,
        "song.mp3": b"text",
        ".hidden": b"text",
        "back\\slash": b"text",
        os.fsdecode(b"\xff.txt"): b"text",
    }
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(0, 1_234_567_890_987_654_321))
    (tmp_path / "outside.txt").write_bytes(b"text")
    (root / "out.txt").symlink_to(tmp_path / "outside.txt")
    (root / "latest.txt").symlink_to("b.txt")
    found = list(text_files(root))
    assert [file.name for file in found] == [
        "a/c.lrc",
        "b.txt",
        "cp949.txt",
        "latest.txt",
        "text_sample",
        "utf16.txt",
    ]
    assert found[4] == TextFile("text_sample", 7, found[0].modified)
    assert found[0].modified.isoformat() == "2009-02-13T23:31:30+00:00"


def test_unreadable_text_is_left_out(root, monkeypatch):
    """What nobody could read over HTTP either is not listed."""
    (root / "a.txt").write_bytes(b"text")
    forbid(monkeypatch, "a.txt")
    assert list(text_files(root)) == []


# --- content identity ---


def test_content_identity(tmp_path):
    """Length, start, middle and end decide; what lies between the windows does not."""
    path = tmp_path / "a"

    def identity(content: bytes) -> str:
        path.write_bytes(content)
        with path.open("rb") as file:
            return library._content_id(file, len(content))

    size = 10 * library.WINDOW_BYTES
    plain = identity(bytes(size))
    assert identity(b"") == ""
    assert len({identity(bytes(length)) for length in (1, 2, size, size + 1)}) == 4
    for place in (0, size // 2, size - 1):
        assert identity(bytes(place) + b"x" + bytes(size - place - 1)) != plain
    assert identity(bytes(size // 4) + b"x" + bytes(size - size // 4 - 1)) == plain


def test_a_text_changed_beyond_all_dates_is_listed(tmp_path):
    """A file system may hold a time that no datetime does."""
    (tmp_path / "old.txt").write_text("words")
    os.utime(tmp_path / "old.txt", (-1_000_000_000, -1_000_000_000))

    (listed,) = text_files(tmp_path)

    assert listed.modified.isoformat() == "1970-01-01T00:00:00+00:00"


@pytest.mark.gen_test
async def test_a_track_from_the_far_future_is_catalogued(tmp_path, monkeypatch):
    """Beyond 2262 nanoseconds do not fit a database's 64 bits; it counts as unchanged all the same."""
    (tmp_path / "music").mkdir()
    wav(tmp_path / "music" / "a.wav")
    os.utime(tmp_path / "music" / "a.wav", (2**34 - 1, 2**34 - 1))
    async with Catalogue(f"sqlite+aiosqlite:///{tmp_path}/t.sqlite3") as catalogue:
        assert (await scan(tmp_path / "music", catalogue)).added == 1
        assert (await scan(tmp_path / "music", catalogue)).unchanged == 1
