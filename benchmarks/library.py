"""The folder that every peer serves: a large track of noise and small texts, in the page cache and on disk.

Also what the page cache has of a file, and how to take it out.
"""

import ctypes
import hashlib
import mmap
import os
import time
import wave
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import BenchmarkError

LARGE = "noise.wav"
TEXTS = [f"note-{number}.txt" for number in range(500)]
"""More than the 256 that Millrace remembers how to answer (`handlers/repeats.py`)."""

TEXT_BYTES = 2048

DROP_SECONDS = 5
"""How long pages may be in use after a download: sendfile lends them to the socket until they arrive."""

_MIB = 1024 * 1024
_LINE = b"A mill race is the channel that carries water to the wheel.\n"
_COLD_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Library:
    """A folder with LARGE and TEXTS; `large_bytes` is the length of LARGE."""

    folder: Path
    large_bytes: int

    def digest(self, name: str, start: int = 0, stop: int | None = None) -> str:
        """The BLAKE2b of a file, or of a part of it, in hex. What was read is in the page cache."""
        digest = hashlib.blake2b()
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            left = (self.large_bytes if stop is None else stop) - start
            while left > 0 and (chunk := file.read(min(left, _MIB))):
                digest.update(chunk)
                left -= len(chunk)
        return digest.hexdigest()


def make_library(folder: Path, large_mib: int) -> Library:
    """Make the files; LARGE is noise, a track without tags."""
    folder.mkdir()
    for name in TEXTS:
        (folder / name).write_bytes((_LINE * TEXT_BYTES)[: TEXT_BYTES - 1] + b"\n")
    with wave.open(str(folder / LARGE), "wb") as track:
        track.setnchannels(2)
        track.setsampwidth(2)
        track.setframerate(44100)
        for _ in range(large_mib):
            track.writeframesraw(os.urandom(_MIB))
    with (folder / LARGE).open("rb") as file:
        os.fsync(file.fileno())  # else it would be written out while something is measured
    return Library(folder, (folder / LARGE).stat().st_size)


def warm(path: Path) -> None:
    """Have all of a file in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(_MIB):
            pass


def drop(path: Path) -> None:
    """Take a file, whose pages were written out, from the page cache.

    Raises:
        BenchmarkError: it is still there after DROP_SECONDS, as on a tmpfs.
    """
    deadline = time.monotonic() + DROP_SECONDS
    with path.open("rb") as file:
        while True:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            share = resident(path)
            if share <= _COLD_SHARE:
                return
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{share:.0%} of a file stay in the page cache; is TMPDIR a folder on a disk?"
                )
            time.sleep(0.01)


def resident(path: Path) -> float:
    """How much of a file the page cache has, from 0 to 1.

    By mincore(2) and not by RWF_NOWAIT, which overlayfs refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        length = len(pages)
        flags = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(pages)  # ACCESS_COPY, because this wants to be able to write
        try:
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(length), flags)
        finally:
            del start  # a map that something points into cannot be closed, and the load may be ended here
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return sum(flag & 1 for flag in flags) / len(flags)
