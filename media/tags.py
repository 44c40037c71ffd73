"""What the tags of an audio file say, and the picture in them.

Tags are what strangers wrote and what a damaged disk made of it: every text comes out as one printable line,
every number within its limits, and reading ends after a bounded effort. All of it blocks.
"""

import os
import threading
from dataclasses import dataclass
from typing import BinaryIO

from tinytag import TinyTag, TinyTagException

PICTURE_LIMIT = 16 * 1024 * 1024
"""The largest embedded picture that is served, in bytes."""

DURATION_LIMIT = 30 * 24 * 3600
"""Seconds; a longer track is a broken header."""

TEXT_LIMIT = 500
"""Characters kept of a title, an artist, an album."""

# What reading the tags of one file may cost: a damaged or sparse file sends the parser through all of it
# in steps of four bytes. Ogg needs two reads a page, so these are about two gigabytes of it.
_READS_LIMIT = 1_000_000
_READ_BYTES_LIMIT = 256 * 1024 * 1024

_PICTURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class Tags:
    """What is known of a track; None: the tags do not say, or nothing that could be true."""

    title: str | None
    artist: str | None
    album: str | None
    disc_number: int | None
    track_number: int | None
    duration_seconds: float | None
    has_cover: bool


def read(file: BinaryIO, name: str, media_type: str, stop: threading.Event) -> tuple[Tags, str | None]:
    """The tags of an open file, and what is wrong with them.

    Gives up once `stop` is set, as if the file were damaged there. Never raises for what is in the file.
    `name` tells the format where the first bytes do not.
    """
    found, problem = _tags_or_problem(file, name, media_type, stop)
    tags = Tags(
        title=_text(found.title),
        artist=_text(found.artist) or _text(found.albumartist),
        album=_text(found.album),
        disc_number=_number(found.disc),
        track_number=_number(found.track),
        duration_seconds=_duration(found.duration),
        has_cover=_cover(found) is not None,
    )
    return tags, problem


def picture(file: BinaryIO, name: str) -> tuple[str, bytes] | None:
    """The media type and the bytes of the picture embedded in an open audio file, the front cover first.

    None: there is none that a browser shows, it is larger than PICTURE_LIMIT, or the file cannot be read.
    The type is what the bytes say: what the tag claims would be sent to browsers under our name.
    """
    try:
        return _cover(_tags(file, name, threading.Event(), duration=False))
    except (OSError, TinyTagException):
        return None


def _tags_or_problem(
    file: BinaryIO, name: str, media_type: str, stop: threading.Event
) -> tuple[TinyTag, str | None]:
    """The tags, and what is wrong with them. Where the audio is damaged its tags may still be whole."""
    if os.fstat(file.fileno()).st_size == 0:
        return TinyTag(), "it is empty"
    if media_type == "audio/webm":  # tinytag does not read Matroska
        return TinyTag(), None
    problem = None
    # The frames of ADTS are none that tinytag knows: it would go through the file in search of one.
    for duration in (True, False) if media_type != "audio/aac" else (False,):
        try:
            tags = _tags(file, name, stop, duration=duration)
        except TinyTagException as error:
            problem = problem or str(error) or type(error).__name__
        else:
            if duration and not tags.samplerate:
                problem = "there is no audio in it"
            return tags, problem
    return TinyTag(), problem


def _tags(file: BinaryIO, name: str, stop: threading.Event, *, duration: bool) -> TinyTag:
    """What tinytag finds; whatever its parsers raise, also on garbage, is a TinyTagException."""
    limited = _Limited(file, os.fstat(file.fileno()).st_size, stop)
    return TinyTag.get(name, limited, image=True, duration=duration)  # type: ignore[arg-type]


class _Enough(TinyTagException):
    """The limits of one file are reached, or the scan is to stop."""


class _Limited:
    """The part of a file that tinytag uses, with an end to its patience: raises _Enough at the limits.

    A damaged header announces gigabytes; a read never asks for more than the file has.
    """

    def __init__(self, file: BinaryIO, length: int, stop: threading.Event) -> None:
        self._file = file
        self._length = length
        self._stop = stop
        self._reads = 0
        self._bytes = 0
        self.tell = file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, length: int) -> bytes:
        length = max(0, min(length, self._length - self._file.tell()))
        self._reads += 1
        self._bytes += length
        if self._stop.is_set() or self._reads > _READS_LIMIT or self._bytes > _READ_BYTES_LIMIT:
            raise _Enough("too much to read before their end")
        return self._file.read(length)


def _cover(tags: TinyTag) -> tuple[str, bytes] | None:
    image = tags.images.front_cover or tags.images.any
    if image is None or len(image.data) > PICTURE_LIMIT:
        return None
    for start, media_type in _PICTURES:
        if image.data.startswith(start):
            return media_type, image.data
    if image.data[:4] == b"RIFF" and image.data[8:12] == b"WEBP":
        return "image/webp", image.data
    return None


def _text(value: str | None) -> str | None:
    """One line of printable text, or None if nothing is left."""
    if not value:
        return None
    printable = "".join(char if char.isprintable() else " " for char in value[:TEXT_LIMIT])
    return " ".join(printable.split()) or None


def _number(value: int | None) -> int | None:
    return value if value is not None and 0 < value < 10_000 else None


def _duration(seconds: float | None) -> float | None:
    # A comparison with NaN is false.
    return float(seconds) if seconds is not None and 0 < seconds <= DURATION_LIMIT else None
