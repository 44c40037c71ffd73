"""A file, or a slice of it, and safe names under a root.

A file is opened once and measured on the handle, so that its name, its length and its bytes cannot disagree:
one that is replaced by a rename goes on as it was opened.
Nothing here blocks the loop: what the page cache holds is read at once (`preadv` with RWF_NOWAIT,
0.7 µs a call when warm) or is the kernel's to send, anything else goes through a thread first.
"""

import errno
import logging
import os
import stat
import unicodedata
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiofiles.os

from media.source import (
    CHUNK_LIMIT,
    Body,
    ByteChunks,
    Chunks,
    Facts,
    FileRegion,
    SourceBroken,
    SourceBusy,
    SourceNotFound,
)

READ_BYTES = 256 * 1024
"""Bytes a read. 64 KiB cost 39 % more CPU a byte and 1 MiB 21 % less, but a slow client holds two of them in
memory (docs/benchmarks.md)."""

LEAST_REGION_BYTES = 64 * 1024
"""What is shorter is read: one write with the headers is cheaper than two calls."""

REGION_BYTES = 16 * 1024 * 1024
"""The longest region. How much of it is sent at a time is the stream's affair (handlers/outgoing.py). With
4 MiB, 64 downloads cost a fifth more CPU a byte."""

_PROBE_BYTES = 256 * 1024  # how far apart a region is probed for what is not in the page cache

log = logging.getLogger("millrace.files")

# O_NONBLOCK: opening a FIFO would wait for its writer; a regular file ignores it.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux 4.14; elsewhere every read goes through a thread
# EAGAIN: not in the page cache. EOPNOTSUPP: a file system that cannot tell.
_NOT_AT_ONCE = {errno.EAGAIN, errno.EOPNOTSUPP}
# ENXIO, ENODEV: a socket, a device without a driver.
_GONE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
    *(errno.ENXIO, errno.ENODEV),
}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_LONGEST_PATH = 4096  # PATH_MAX; looking for each folder of a longer name would take the loop a while
_LAST_SECOND = 253402300799  # of the year 9999, where datetime ends and file systems do not
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open regular file and what fstat said of it. `descriptor` is closed by whoever opened it."""

    descriptor: int
    length: int
    modified: datetime
    etag: str
    path: str


@asynccontextmanager
async def file(root: Path | None, name: str, media_type: str) -> AsyncGenerator[Body, None]:
    """The source of the file `name`, byte for byte; root and name as `opened` has them."""
    with opened(root, name) as handle:
        facts = Facts(media_type, length=handle.length, etag=handle.etag, modified=handle.modified)

        def cut(start: int, stop: int) -> Chunks:
            return regions(handle.descriptor, start, stop)

        yield Body(facts, chunks=lambda: cut(0, handle.length), slice=cut, path=handle.path)


@contextmanager
def opened(root: Path | None, name: str) -> Iterator[OpenFile]:
    """Open the file `name` (relative, '/' between folders) under `root`, and close it on leaving.

    Args:
        root: None: `name` is a path that no client has a part in, and may lead anywhere.

    Raises:
        SourceNotFound: there is no such regular file, it lies outside the root, is hidden or forbidden.
        SourceBusy: the process has no descriptor left.
        SourceBroken: the disk failed.
    """
    try:
        path = name if root is None else resolve(root, name)
        descriptor = os.open(path, _OPEN)
    except OSError as error:
        raise _source_error(error, name) from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise SourceNotFound(f"not a regular file: {name!r}")
        yield OpenFile(
            descriptor,
            length=facts.st_size,
            modified=modified(facts),
            etag=_entity_tag(facts),
            path=path,
        )
    finally:
        os.close(descriptor)


def read_again(path: str, etag: str, start: int, buffer: memoryview) -> bool:
    """Fill `buffer` with the bytes from `start` on of a file that was opened before at `path`.

    False: there is no file with this entity tag any more, or the page cache has not all of the bytes.
    """
    if not _NOWAIT:
        return False
    try:
        descriptor = os.open(path, _OPEN)
    except OSError:
        return False
    try:
        if _entity_tag(os.fstat(descriptor)) != etag:
            return False
        return not buffer or os.preadv(descriptor, [buffer], start, _NOWAIT) == len(buffer)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _entity_tag(facts: os.stat_result) -> str:
    """Of size, mtime in nanoseconds and inode: changes whenever the bytes may have (RFC 9110 §8.8.1)."""
    return f'"{facts.st_size:x}-{facts.st_mtime_ns:x}-{facts.st_ino:x}"'


def modified(facts: os.stat_result) -> datetime:
    """When a file changed, in UTC and whole seconds; what a datetime cannot hold becomes its nearest."""
    return datetime.fromtimestamp(max(0, min(facts.st_mtime_ns // 1_000_000_000, _LAST_SECOND)), UTC)


def resolve(root: Path, name: str) -> str:
    """The path of `name` under `root`, symlinks followed; it may not exist.

    A name is found in either normal form, whole or folder by folder: macOS writes NFD, everyone types NFC.

    Raises:
        SourceNotFound: the name is empty, absolute, hidden, or leads out of the root.
    """
    parts = name.split("/")
    unsafe = "\0" in name or "\\" in name or any(part == "" or part.startswith(".") for part in parts)
    if unsafe or len(name) > _LONGEST_PATH:
        raise SourceNotFound(f"not a name in the library: {name[:300]!r}")
    top = os.path.realpath(root)
    path = top
    try:
        for part in parts:
            path = os.path.join(path, _as_on_disk(path, part))
        real = os.path.realpath(path)
    except UnicodeEncodeError as error:  # a lone surrogate: no file has such a name
        raise SourceNotFound(f"not a name in the library: {name[:300]!r}") from error
    if not real.startswith(os.path.join(top, "")):
        raise SourceNotFound(f"leads out of the library: {name!r}")
    if real != path and any(part.startswith(".") for part in Path(real).relative_to(top).parts):
        raise SourceNotFound(f"leads to a hidden file: {name!r}")
    return real


async def regions(
    descriptor: int, start: int, stop: int, boundary: Callable[[int, int], int] | None = None
) -> Chunks:
    """The bytes from `start` to `stop` of an open file, for the kernel to send; a short rest is read.

    What is not in the page cache is read ahead in a thread, at most CHUNK_LIMIT at a time: to send it the
    kernel would hold the loop until the disk answers. Probes tell what is there, and may miss a page between
    two of them. So from the first that fails on they are not asked any more: behind it the disk is at work.

    Args:
        boundary: gives, for a descriptor and a position, the nearest one up to there where a chunk may end.

    Raises:
        SourceBroken: the file ends before `stop`, or the disk failed.
    """
    cold = False
    while stop - start >= LEAST_REGION_BYTES:
        end = start
        if not cold:
            end += _resident_bytes(descriptor, start, min(stop, start + REGION_BYTES))
        if end == start:
            cold = True
            end = min(stop, start + CHUNK_LIMIT)
            await _read_ahead(descriptor, start, end)
        if boundary is not None and end < stop:
            end = boundary(descriptor, end)
        yield FileRegion(descriptor, start, end)
        start = end
    async with aclosing(read(descriptor, start, stop)) as chunks:
        async for chunk in chunks:
            yield chunk


async def loaded(chunks: Chunks) -> ByteChunks:
    """The same with every region read into memory, for who cannot hand one to the kernel."""
    async with aclosing(chunks):
        async for chunk in chunks:
            if not isinstance(chunk, FileRegion):
                yield chunk
                continue
            async with aclosing(read(chunk.descriptor, chunk.start, chunk.stop)) as pieces:
                async for piece in pieces:
                    yield piece


async def read(descriptor: int, start: int, stop: int, chunk_bytes: int = READ_BYTES) -> ByteChunks:
    """The bytes from `start` to `stop` of an open file, at most `chunk_bytes` at a time.

    Raises:
        SourceBroken: the file ends before `stop`, or the disk failed.
    """
    while start < stop:
        chunk = await read_once(descriptor, start, min(chunk_bytes, stop - start))
        if not chunk:
            raise _shrank(start)
        start += len(chunk)
        yield chunk


async def read_once(descriptor: int, start: int, length: int) -> memoryview:
    """Up to `length` bytes from `start`: at once if the page cache has them, else through a thread.

    At least one, if there is any: of a run that the page cache has only the beginning of, that comes alone.

    Raises:
        SourceBroken: the disk failed.
    """
    buffer = bytearray(length)
    try:
        if _NOWAIT:
            try:
                return memoryview(buffer)[: os.preadv(descriptor, [buffer], start, _NOWAIT)]
            except OSError as error:
                if error.errno not in _NOT_AT_ONCE:
                    raise
        # Where this wait is cancelled the thread reads on into a buffer that nobody sees.
        return memoryview(buffer)[: await _preadv_in_thread(descriptor, [buffer], start)]
    except OSError as error:
        raise _unreadable(start) from error


async def read_full(descriptor: int, start: int, length: int) -> bytes:
    """`length` bytes from `start`, or what there is up to the end of the file.

    Raises:
        SourceBroken: the disk failed.
    """
    data = bytes(await read_once(descriptor, start, length))
    while len(data) < length:
        more = await read_once(descriptor, start + len(data), length - len(data))
        if not more:
            break
        data += more
    return data


_preadv_in_thread = aiofiles.os.wrap(os.preadv)


def _resident_bytes(descriptor: int, start: int, stop: int) -> int:
    """How many bytes from `start` on are in the page cache, up to `stop`, as far as probes show."""
    if not _NOWAIT:
        return 0
    probe = bytearray(1)
    known = start
    for at in (*range(start, stop, _PROBE_BYTES), stop - 1):
        try:
            if not os.preadv(descriptor, [probe], at, _NOWAIT):
                raise _shrank(at)
        except OSError as error:
            if error.errno not in _NOT_AT_ONCE:
                raise _unreadable(at) from error
            return known - start
        known = at
    return stop - start


async def _read_ahead(descriptor: int, start: int, stop: int) -> None:
    """Bring the bytes from `start` to `stop` into the page cache."""
    try:
        # Where this wait is cancelled the thread reads on, for nobody.
        if not await _read_through(descriptor, start, stop):
            raise _shrank(stop)
    except OSError as error:
        raise _unreadable(start) from error


@aiofiles.os.wrap
def _read_through(descriptor: int, start: int, stop: int) -> bool:
    """Whether the file reaches to `stop`."""
    os.posix_fadvise(descriptor, stop, REGION_BYTES, os.POSIX_FADV_WILLNEED)  # what comes next
    buffer = bytearray(READ_BYTES)
    while start < stop and (length := os.preadv(descriptor, [buffer], start)):
        start += length
    return start >= stop


def _shrank(position: int) -> SourceBroken:
    return SourceBroken(f"the file shrank: it ends before byte {position}, and more was promised")


def _unreadable(position: int) -> SourceBroken:
    return SourceBroken(f"reading at byte {position} failed")


def _as_on_disk(folder: str, part: str) -> str:
    """`part` in the normal form in which `folder` holds it; as it came if it is there or nowhere."""
    if part.isascii() or os.path.lexists(os.path.join(folder, part)):
        return part
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, part)
        if os.path.lexists(os.path.join(folder, other)):
            return other
    return part


def _source_error(error: OSError, name: str) -> SourceNotFound | SourceBusy | SourceBroken:
    if error.errno in _GONE:
        return SourceNotFound(f"no such file: {name[:300]!r}")
    if error.errno in _FORBIDDEN:
        log.warning("cannot read %r: permission denied", name)
        return SourceNotFound(f"unreadable: {name!r}")
    if error.errno in _EXHAUSTED:
        return SourceBusy(f"cannot open {name!r}: {error.strerror}")
    return SourceBroken(f"cannot open {name!r}: {error.strerror}")
