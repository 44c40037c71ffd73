"""Tags: what is read of them, what stands instead of what cannot be true, and the picture in a file."""

import os
import struct
import threading
from pathlib import Path

import mutagen.id3
import pytest

from media import tags
from media.tags import Tags, picture
from tests.media.audio_files import FRAME, PNG, mp3, wav

NOTHING = Tags(None, None, None, None, None, None, False)


def read(path: Path, media_type: str = "audio/mpeg", *, stopped: bool = False) -> tuple[Tags, str | None]:
    stop = threading.Event()
    if stopped:
        stop.set()
    with path.open("rb") as file:
        return tags.read(file, path.name, media_type, stop)


# --- tags ---


def test_all_tags(tmp_path):
    """Texts are one printable line each; a number may have its total beside it."""
    made = mp3(
        tmp_path / "a.mp3",
        title="밤 편지",
        artist="A\0B",
        album="  C\n D ",
        number="7/12",
        disc="2/2",
        cover=PNG,
    )
    found, problem = read(made)
    assert problem is None
    assert found.duration_seconds == pytest.approx(100 * 1152 / 44100, rel=0.02)
    assert found == Tags("밤 편지", "A", "C D", 2, 7, found.duration_seconds, True)


def test_no_tags(tmp_path):
    """What the tags do not say is None; an album's artist stands in for the track's."""
    made = wav(tmp_path / "a.wav", title=None, album_artist="Several", number="0", seconds=0)
    assert read(made, "audio/wav") == (Tags(None, "Several", None, None, None, None, False), None)


@pytest.mark.parametrize("title", [" \n\t", "\u200b"])
def test_text_of_nothing_printable(tmp_path, title):
    """It counts as none."""
    assert read(mp3(tmp_path / "a.mp3", title=title))[0].title is None


def test_long_text_is_cut(tmp_path):
    """A title keeps its first 500 characters."""
    assert read(mp3(tmp_path / "a.mp3", title="가" * 501))[0].title == "가" * tags.TEXT_LIMIT


@pytest.mark.parametrize(("number", "known"), [("9999", 9999), ("10000", None), ("0", None), ("x", None)])
def test_number_within_its_limits(tmp_path, number, known):
    """A track number has at most four digits."""
    assert read(mp3(tmp_path / "a.mp3", number=number))[0].track_number == known


def test_absurd_duration_is_unknown(tmp_path):
    """A header that announces years is not believed."""
    made = wav(tmp_path / "a.wav")
    raw = bytearray(made.read_bytes())
    raw[24:28] = struct.pack("<I", 1)  # one sample a second
    raw[40:44] = struct.pack("<I", 2**31)
    made.write_bytes(raw)
    assert read(made, "audio/wav")[0].duration_seconds is None


@pytest.mark.parametrize(
    ("name", "media_type", "content"),
    [
        ("a.webm", "audio/webm", b"\x1aE\xdf\xa3" + bytes(100)),
        ("b.aac", "audio/aac", (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(10)) * 50),
    ],
)
def test_formats_without_tags_of_ours(tmp_path, name, media_type, content):
    """WebM and bare ADTS say nothing, and nothing is wrong with them."""
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name, media_type) == (NOTHING, None)


# --- damage ---


@pytest.mark.parametrize(
    ("name", "media_type", "content", "says"),
    [
        ("empty.mp3", "audio/mpeg", b"", "it is empty"),
        ("empty.webm", "audio/webm", b"", "it is empty"),
        ("zeros.mp3", "audio/mpeg", bytes(5000), "there is no audio in it"),
        ("text.flac", "audio/flac", b"This is no FLAC file.", "Invalid FLAC header"),
        ("text.aac", "audio/aac", b"This is no AAC file.", "No tag reader found"),
    ],
)
def test_what_is_wrong(tmp_path, name, media_type, content, says):
    """A file without a readable tag gives none, and one reason."""
    (tmp_path / name).write_bytes(content)
    found, problem = read(tmp_path / name, media_type)
    assert found == NOTHING
    assert says in problem


def test_tags_of_endless_audio_are_kept(tmp_path, monkeypatch):
    """Where the search for the audio reaches a limit, in reads or in bytes, the title is still the tag's."""
    made = mp3(tmp_path / "a.mp3", frames=0, title="Still here")
    os.truncate(made, 200_000)
    for limit in ("_READS_LIMIT", "_READ_BYTES_LIMIT"):
        with monkeypatch.context() as patch:
            patch.setattr(tags, limit, 10_000)
            found, problem = read(made)
        assert (found.title, found.duration_seconds) == ("Still here", None)
        assert problem == "too much to read before their end"


def test_stopped_reading_gives_up(tmp_path):
    """A scan that is cancelled does not wait for the end of the file in hand."""
    assert read(mp3(tmp_path / "a.mp3", title="A"), stopped=True) == (
        NOTHING,
        "too much to read before their end",
    )


# --- pictures ---


def picture_in(path):
    """The picture of the file at `path`."""
    with path.open("rb") as file:
        return picture(file, path.name)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "image/jpeg"),
        (b"GIF89a" + bytes(100), "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(100), "image/webp"),
        (b"<script>alert(1)</script>", None),
        (b"RIFF\x10\0\0\0WAVE", None),
    ],
    ids=["png", "jpeg", "gif", "webp", "script", "wave"],
)
def test_picture_is_what_its_bytes_say(tmp_path, data, media_type):
    """Whatever type the tag claims, a browser gets an image or nothing."""
    made = mp3(tmp_path / "a.mp3", cover=data, claims="text/html")
    assert picture_in(made) == (None if media_type is None else (media_type, data))


def test_front_cover_is_preferred(tmp_path):
    """Of several pictures the front cover is given, wherever it stands."""
    made = tmp_path / "a.mp3"
    made.write_bytes(FRAME * 10)
    id3 = mutagen.id3.ID3()
    for kind, data in ((4, PNG + b"back"), (3, PNG + b"front")):
        id3.add(mutagen.id3.APIC(encoding=0, mime="image/png", type=kind, desc=str(kind), data=data))
    id3.save(made)
    assert picture_in(made) == ("image/png", PNG + b"front")


def test_any_picture_rather_than_none(tmp_path):
    """Without a front cover another picture is given."""
    made = mp3(tmp_path / "a.mp3")
    id3 = mutagen.id3.ID3()
    id3.add(mutagen.id3.APIC(encoding=0, mime="image/png", type=4, data=PNG))
    id3.save(made)
    assert picture_in(made) == ("image/png", PNG)


@pytest.mark.parametrize("content", [b"", b"This is no FLAC file."])
def test_no_picture(tmp_path, content):
    """An empty or broken file has none."""
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert picture_in(path) is None


def test_picture_that_is_too_large(tmp_path, monkeypatch):
    """Beyond the limit it counts as none."""
    made = mp3(tmp_path / "a.mp3", cover=PNG)
    monkeypatch.setattr(tags, "PICTURE_LIMIT", len(PNG))
    assert picture_in(made) is not None
    monkeypatch.setattr(tags, "PICTURE_LIMIT", len(PNG) - 1)
    assert picture_in(made) is None
