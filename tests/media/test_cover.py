"""The picture embedded in an audio file."""

import os
import struct
import zlib
from pathlib import Path

import pytest
from mutagen.id3 import APIC, ID3

from media.cover import cover
from media.source import CHUNK_LIMIT, SourceNotFound


def png(extra: int = 0) -> bytes:
    """One pixel, with a chunk of `extra` bytes that means nothing."""

    def part(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    filler = part(b"fiLl", b"\0" * extra) if extra else b""
    pixel = part(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + filler + pixel + part(b"IEND", b"")


def track(folder: Path, picture: bytes | None, name: str = "song.mp3") -> Path:
    """A library with one MP3: tags, and a frame of silence."""
    path = folder / name
    path.write_bytes(b"\xff\xfb\x90\x00" + b"\0" * 413)
    if picture is not None:
        tags = ID3()
        tags.add(APIC(encoding=3, mime="image/png", type=3, desc="", data=picture))
        tags.save(path)
    return folder


def descriptors() -> set[str]:
    return {entry.name for entry in os.scandir("/proc/self/fd")}


@pytest.mark.gen_test
async def test_the_picture_of_a_track(tmp_path: Path) -> None:
    """With its length and an entity tag of its own; the file is closed before it is sent."""
    picture = png()
    before = len(descriptors())
    async with cover(track(tmp_path, picture), "song.mp3") as body:
        assert len(descriptors()) == before
        assert body.facts.media_type == "image/png"
        assert body.facts.length == len(picture)
        assert body.facts.etag is not None
        assert body.facts.etag.endswith('-cover"')
        assert body.facts.modified is not None
        assert b"".join([bytes(chunk) async for chunk in body.chunks()]) == picture


@pytest.mark.gen_test
async def test_a_large_picture_is_cut(tmp_path: Path) -> None:
    """Into bounded chunks, and at any byte."""
    picture = png(CHUNK_LIMIT + 1000)
    async with cover(track(tmp_path, picture), "song.mp3") as body:
        assert body.slice is not None
        lengths = [len(chunk) async for chunk in body.chunks()]
        assert lengths == [CHUNK_LIMIT, len(picture) - CHUNK_LIMIT]
        assert (
            b"".join([bytes(chunk) async for chunk in body.slice(7, CHUNK_LIMIT + 9)])
            == picture[7 : CHUNK_LIMIT + 9]
        )


@pytest.mark.parametrize("name", ["song.mp3", "missing.mp3", "../song.mp3", "folder"])
@pytest.mark.gen_test
async def test_no_picture_is_not_found(name: str, tmp_path: Path) -> None:
    """Nor is one of a file that is not there."""
    track(tmp_path, None)
    (tmp_path / "folder").mkdir()
    before = len(descriptors())
    with pytest.raises(SourceNotFound):
        async with cover(tmp_path, name):
            pass
    assert len(descriptors()) == before
