"""A file or a slice of it, safe names under a root, and reads that never block the loop."""

import asyncio
import errno
import logging
import os
import socket
import unicodedata
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from media import files
from media.files import file, loaded, opened, read, read_again, regions, resolve
from media.source import CHUNK_LIMIT, SourceBroken, SourceBusy, SourceError, SourceNotFound
from tests.conftest import ExpectLog

NFC = unicodedata.normalize("NFC", "가수 é")
NFD = unicodedata.normalize("NFD", "가수 é")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A root with everything in it and beside it that a name could lead to."""
    root = tmp_path / "library"
    (root / "folder" / "deeper").mkdir(parents=True)
    (root / "plain.txt").write_bytes(b"plain")
    (root / "folder" / "deeper" / "it.txt").write_bytes(b"deep")
    (root / ".hidden").write_bytes(b"hidden")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(b"hidden")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "library-2").mkdir()
    (tmp_path / "library-2" / "secret.txt").write_bytes(b"secret")
    (root / "out").symlink_to(tmp_path / "secret.txt")
    (root / "out_folder").symlink_to(tmp_path)
    (root / "sibling").symlink_to(tmp_path / "library-2")
    (root / "in").symlink_to(root / "folder" / "deeper" / "it.txt")
    (root / "in_folder").symlink_to(root / "folder")
    (root / "out_and_in").symlink_to(tmp_path / "library" / "plain.txt")
    (root / "to_hidden").symlink_to(root / ".hidden")
    (root / "to_hidden_folder").symlink_to(root / ".git")
    (root / "loop").symlink_to(root / "loop")
    (root / "nowhere").symlink_to(root / "missing")
    os.mkfifo(root / "fifo")
    return root


def content(root: Path, name: str) -> bytes:
    with opened(root, name) as handle:
        return os.read(handle.descriptor, 100)


async def sliced(root: Path, name: str, start: int, stop: int) -> bytes:
    async with file(root, name, "audio/mpeg") as body:
        assert body.slice is not None
        return b"".join([bytes(chunk) async for chunk in loaded(body.slice(start, stop))])


# --- names ---

SAFE = {
    "plain": ("plain.txt", b"plain"),
    "in_a_folder": ("folder/deeper/it.txt", b"deep"),
    "symlink_inside": ("in", b"deep"),
    "folder_symlink_inside": ("in_folder/deeper/it.txt", b"deep"),
    "absolute_symlink_inside": ("out_and_in", b"plain"),
}


@pytest.mark.parametrize("case", SAFE)
def test_a_name_in_the_library(case: str, library: Path) -> None:
    """Symlinks may lead anywhere inside."""
    name, expected = SAFE[case]
    assert content(library, name) == expected


UNSAFE = {
    "empty": "", "parent": "..", "parent_file": "../secret.txt", "over_a_folder": "folder/../../secret.txt",
    "dot": ".", "dot_file": "./plain.txt", "absolute": "/etc/passwd", "absolute_twice": "//etc/passwd",
    "back_inside": "folder/../plain.txt", "nul": "plain.txt\0", "nul_inside": "a\0b", "only_nul": "\0",
    "backslash": "folder\\deeper\\it.txt", "backslash_parent": "..\\secret.txt",
    "empty_part": "folder//deeper/it.txt",
    "slash_at_the_end": "plain.txt/", "hidden": ".hidden", "hidden_folder": ".git/config",
    "symlink_out": "out", "folder_symlink_out": "out_folder/secret.txt", "sibling": "sibling/secret.txt",
    "symlink_to_hidden": "to_hidden", "symlink_to_hidden_folder": "to_hidden_folder/config",
    "symlink_loop": "loop", "in_a_loop": "loop/x", "dangling": "nowhere", "missing": "missing",
    "missing_folder": "missing/it.txt", "under_a_file": "plain.txt/it.txt", "folder": "folder",
    "fifo": "fifo", "too_long": "x" * 256, "far_too_long": "x" * 10_000, "deep": "x/" * 9000 + "x",
    "deep_not_ascii": "é/" * 4000 + "é", "lone_half": "a\ud800", "lone_half_in_folder": "\udcff/it.txt",
    "half_behind_a_missing_folder": "é/\udc80",
}  # fmt: skip


@pytest.mark.parametrize("case", UNSAFE)
def test_a_name_that_is_not_in_the_library(case: str, library: Path) -> None:
    """All alike: what lies outside, is hidden or is no file cannot be told from what is missing."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with pytest.raises(SourceNotFound) as error, opened(library, UNSAFE[case]):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208
    assert len(str(error.value)) < 4000


def test_a_socket_is_no_file(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one fails in a way of its own."""
    monkeypatch.chdir(library)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        with pytest.raises(SourceNotFound), opened(library, "socket"):
            pass


def test_the_root_may_be_hidden_or_a_symlink(tmp_path: Path) -> None:
    """Only what is below it counts."""
    (tmp_path / ".music").mkdir()
    (tmp_path / ".music" / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / ".music")
    assert content(tmp_path / ".music", "a") == content(tmp_path / "link", "a") == b"a"


def test_everything_is_below_the_root_folder_of_the_system(library: Path) -> None:
    """`--media /` is unusual, and works."""
    assert content(Path("/"), str(library / "plain.txt").removeprefix("/")) == b"plain"


@pytest.mark.parametrize("on_disk", [f"{NFC}/{NFC}", f"{NFD}/{NFD}", f"{NFC}/{NFD}", f"{NFD}/{NFC}"])
@pytest.mark.parametrize("asked", [f"{NFC}/{NFC}", f"{NFD}/{NFD}", f"{NFC}/{NFD}", f"{NFD}/{NFC}"])
def test_either_normal_form_finds_the_file(on_disk: str, asked: str, tmp_path: Path) -> None:
    """Folder by folder: each may have been written on another system."""
    path = tmp_path / on_disk
    path.parent.mkdir()
    path.write_bytes(b"it")
    assert content(tmp_path, asked) == b"it"


def test_where_both_forms_are_there_each_finds_its_own(tmp_path: Path) -> None:
    """Linux holds them side by side."""
    (tmp_path / NFC).write_bytes(b"nfc")
    (tmp_path / NFD).write_bytes(b"nfd")
    assert (content(tmp_path, NFC), content(tmp_path, NFD)) == (b"nfc", b"nfd")


def test_a_name_of_255_bytes(tmp_path: Path) -> None:
    """The longest that there is."""
    name = "물" * 85
    (tmp_path / name).write_bytes(b"it")
    assert content(tmp_path, name) == b"it"


def test_resolving_does_not_need_a_file(library: Path) -> None:
    """Whether it is there is for who opens it."""
    assert resolve(library, "folder/new") == os.path.realpath(library / "folder" / "new")


# --- what a file is ---


def test_what_is_known_of_a_file(library: Path) -> None:
    """Its length, its time in whole seconds, and a strong entity tag."""
    os.utime(library / "plain.txt", ns=(0, 1_700_000_000_999_999_999))
    with opened(library, "plain.txt") as handle:
        assert handle.length == 5
        assert handle.modified == datetime.fromtimestamp(1_700_000_000, UTC)
        assert handle.etag.startswith('"')
        assert handle.etag.endswith('"')
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle.descriptor)


def grown(path: Path) -> None:
    path.write_bytes(b"plain and more")
    os.utime(path, ns=(0, 1000))


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 1001))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"PLAIN")
    os.utime(other, ns=(0, 1000))
    other.rename(path)


@pytest.mark.parametrize("change", [grown, touched, replaced])
def test_the_entity_tag_changes_with_the_file(change: Callable[[Path], None], library: Path) -> None:
    """By length, by a nanosecond, by inode."""
    path = library / "plain.txt"
    os.utime(path, ns=(0, 1000))

    def etag() -> str:
        with opened(library, "plain.txt") as handle:
            return handle.etag

    assert etag() == etag()
    before = etag()
    change(path)
    assert etag() != before


@pytest.mark.parametrize(("seconds", "year"), [(-5_000_000_000, 1970), (2**34, 2514), (10**12, 9999)])
def test_a_time_out_of_reach(seconds: int, year: int, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems hold years that datetime and HTTP do not."""
    fstat = os.fstat

    class Facts:
        def __init__(self, descriptor: int) -> None:
            facts = fstat(descriptor)
            self.st_mode, self.st_size, self.st_ino = facts.st_mode, facts.st_size, facts.st_ino
            self.st_mtime_ns = seconds * 10**9

    monkeypatch.setattr(os, "fstat", Facts)
    with opened(library, "plain.txt") as handle:
        assert handle.modified.year == year


# --- failures of the system ---

ERRORS = {
    errno.EACCES: SourceNotFound, errno.EPERM: SourceNotFound, errno.ENOENT: SourceNotFound,
    errno.ENXIO: SourceNotFound, errno.EMFILE: SourceBusy, errno.ENFILE: SourceBusy, errno.ENOMEM: SourceBusy,
    errno.EIO: SourceBroken, errno.ESTALE: SourceBroken,
}  # fmt: skip


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_file_that_cannot_be_opened(
    number: int, library: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """Forbidden is missing, and logged; no descriptors left is busy; anything else is broken."""
    if ERRORS[number] is SourceNotFound and number in (errno.EACCES, errno.EPERM):
        expect_log("millrace.files", logging.WARNING, "permission denied")

    def refuse(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as root, to whom nothing is forbidden
    with pytest.raises(SourceError) as error, opened(library, "plain.txt"):
        pass
    assert type(error.value) is ERRORS[number]
    assert str(library) not in str(error.value)


def test_a_caller_that_fails_closes_the_file(library: Path) -> None:
    """And its error is its own."""
    with pytest.raises(ZeroDivisionError), opened(library, "plain.txt") as handle:
        _ = 1 / 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle.descriptor)


# --- reading ---


@pytest.mark.gen_test
async def test_an_empty_file(library: Path) -> None:
    """No chunk at all."""
    (library / "empty").write_bytes(b"")
    async with file(library, "empty", "audio/mpeg") as body:
        assert body.facts.length == 0
        assert [chunk async for chunk in loaded(body.chunks())] == []


@pytest.mark.gen_test
async def test_five_gigabytes(library: Path) -> None:
    """A slice far behind what 32 bits hold."""
    with (library / "large").open("wb") as large:
        large.truncate(5_000_000_000)
        large.seek(4_900_000_000)
        large.write(b"here")
    async with file(library, "large", "audio/mpeg") as body:
        assert body.facts.length == 5_000_000_000
    assert await sliced(library, "large", 4_899_999_999, 4_900_000_005) == b"\0here\0"
    assert await sliced(library, "large", 4_999_999_999, 5_000_000_000) == b"\0"


@pytest.mark.gen_test
async def test_a_file_replaced_meanwhile_goes_on_as_it_was(library: Path) -> None:
    """The name leads elsewhere now; the descriptor does not."""
    (library / "it").write_bytes(b"old" * 200_000)
    async with file(library, "it", "audio/mpeg") as body:
        received = b""
        async with aclosing(loaded(body.chunks())) as chunks:
            async for chunk in chunks:
                received += chunk
                if len(received) == files.READ_BYTES:
                    (library / "new").write_bytes(b"new")
                    (library / "new").rename(library / "it")
    assert received == b"old" * 200_000


@pytest.mark.parametrize("left", [0, 300_000, 599_999])
@pytest.mark.gen_test
async def test_a_file_that_shrinks_is_broken(left: int, library: Path) -> None:
    """What is there still comes first, nothing is padded."""
    (library / "it").write_bytes(b"x" * 600_000)
    received = 0
    async with file(library, "it", "audio/mpeg") as body:
        with pytest.raises(SourceBroken, match="shrank"):  # noqa: PT012, where it raises is the point
            async for chunk in loaded(body.chunks()):
                received += len(chunk)
                os.truncate(library / "it", left)
    assert received == max(left, files.READ_BYTES)


@pytest.mark.gen_test
async def test_a_file_that_grows_ends_where_it_did(library: Path) -> None:
    """Its length has been told."""
    async with file(library, "plain.txt", "audio/mpeg") as body:
        (library / "plain.txt").write_bytes(b"plain and more")
        assert b"".join([bytes(chunk) async for chunk in loaded(body.chunks())]) == b"plain"


def on_disk(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def large(library: Path) -> Path:
    (library / "large").write_bytes(os.urandom(1_000_000))
    return library / "large"


@pytest.mark.gen_test
async def test_chunks_are_as_large_as_asked(large: Path) -> None:
    """The last may be smaller."""
    with opened(large.parent, "large") as handle:
        lengths = [len(chunk) async for chunk in read(handle.descriptor, 5, 100_000, 30_000)]
    assert lengths == [30_000, 30_000, 30_000, 9995]


class Preadv:
    """The border to the system: what RWF_NOWAIT finds, and how often a thread had to read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: int | None) -> None:
        self.failure = failure
        self.waiting = 0
        self._real = os.preadv
        monkeypatch.setattr(os, "preadv", self)
        monkeypatch.setattr(files, "_preadv_in_thread", files.aiofiles.os.wrap(self))

    def __call__(self, descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        if flags and self.failure is not None:
            raise OSError(self.failure, os.strerror(self.failure))
        self.waiting += not flags
        return self._real(descriptor, buffers, offset)


@pytest.mark.parametrize("failure", [errno.EAGAIN, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.gen_test
async def test_what_is_not_in_the_page_cache_is_read_in_a_thread(
    failure: int, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, also where the file system cannot tell."""
    preadv = Preadv(monkeypatch, failure)
    with opened(large.parent, "large") as handle:
        received = [bytes(chunk) async for chunk in read(handle.descriptor, 0, handle.length)]
    assert b"".join(received) == on_disk(large)
    assert preadv.waiting == 4


@pytest.mark.gen_test
async def test_what_is_in_the_page_cache_needs_no_thread(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one."""
    preadv = Preadv(monkeypatch, None)
    assert await sliced(large.parent, "large", 0, 1_000_000) == on_disk(large)
    assert preadv.waiting == 0


@pytest.mark.gen_test
async def test_where_the_system_has_no_such_read_a_thread_reads(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every time."""
    monkeypatch.setattr(files, "_NOWAIT", 0)
    preadv = Preadv(monkeypatch, None)
    with opened(large.parent, "large") as handle:
        received = [bytes(chunk) async for chunk in read(handle.descriptor, 3, 300_000)]
    assert b"".join(received) == on_disk(large)[3:300_000]
    assert preadv.waiting == 2


@pytest.mark.gen_test
async def test_a_cold_file_is_the_same_file(large: Path) -> None:
    """Dropped from the page cache, where the system does so."""
    with opened(large.parent, "large") as handle:
        os.fsync(handle.descriptor)
        os.posix_fadvise(handle.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        received = [bytes(chunk) async for chunk in read(handle.descriptor, 0, handle.length)]
    assert b"".join(received) == on_disk(large)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.gen_test
async def test_a_failing_disk_breaks_the_source(
    in_thread: bool, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once or in the thread."""
    failing = Preadv(monkeypatch, errno.EIO)
    if in_thread:
        monkeypatch.setattr(files, "_NOWAIT", 0)
        failing._real = lambda *args: failing(*args, 1)
    with pytest.raises(SourceBroken, match="byte 0") as error:
        await sliced(large.parent, "large", 0, 10)
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.gen_test
async def test_cancelled_while_a_thread_reads(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancellation passes; what the thread reads goes into a buffer that nobody sees."""
    Preadv(monkeypatch, errno.EAGAIN)
    task = asyncio.create_task(sliced(large.parent, "large", 0, 1_000_000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def region_lengths(path: Path) -> list[int]:
    with opened(path.parent, path.name) as handle:
        async with aclosing(regions(handle.descriptor, 0, handle.length)) as chunks:
            return [len(chunk) async for chunk in chunks]


@pytest.mark.gen_test
async def test_what_is_in_the_page_cache_is_a_region(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as they come, and no thread is asked; the short rest is read."""
    with large.open("ab") as out:
        out.write(bytes(files.REGION_BYTES - 1_000_000 + 10))
    preadv = Preadv(monkeypatch, None)
    assert await region_lengths(large) == [files.REGION_BYTES, 10]
    assert preadv.waiting == 0


@pytest.mark.parametrize("failure", [errno.EAGAIN, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.gen_test
async def test_a_region_that_is_not_there_is_read_ahead(
    failure: int, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread, a chunk at a time."""
    with large.open("ab") as out:
        out.write(bytes(200_000))
    preadv = Preadv(monkeypatch, failure)
    assert await region_lengths(large) == [CHUNK_LIMIT, 1_200_000 - CHUNK_LIMIT]
    assert preadv.waiting == 5


@pytest.mark.gen_test
async def test_a_region_ends_where_the_page_cache_does(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known to be there goes first; the rest is read ahead."""
    real, asked = os.preadv, []

    def preadv(descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        if flags and offset > 600_000:
            raise BlockingIOError(errno.EAGAIN, "not there")
        asked.append(flags)
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    first = 2 * 262_144  # the last probe that found something
    assert await region_lengths(large) == [first, 1_000_000 - first]
    assert asked.count(0) == 2


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.gen_test
async def test_a_region_of_a_file_that_shrank_is_broken(
    cold: bool, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found where it is probed, or read ahead."""
    Preadv(monkeypatch, errno.EAGAIN if cold else None)
    with opened(large.parent, "large") as handle:
        os.truncate(large, 500_000)
        with pytest.raises(SourceBroken, match="shrank"):
            await anext(regions(handle.descriptor, 0, handle.length))


@pytest.mark.parametrize("flags", [0, files._NOWAIT])
@pytest.mark.gen_test
async def test_a_region_on_a_failing_disk_is_broken(
    flags: int, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is probed, and when it is read ahead."""

    def preadv(descriptor: int, buffers: list[bytearray], offset: int, now: int = 0) -> int:
        raise OSError(errno.EIO if now == flags else errno.EAGAIN, "no")

    monkeypatch.setattr(os, "preadv", preadv)
    with opened(large.parent, "large") as handle, pytest.raises(SourceBroken, match="failed"):
        await anext(regions(handle.descriptor, 0, handle.length))


@pytest.mark.gen_test
async def test_without_such_a_read_every_region_is_read_ahead(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems cannot tell what is in the page cache."""
    monkeypatch.setattr(files, "_NOWAIT", 0)
    preadv = Preadv(monkeypatch, None)
    assert await region_lengths(large) == [1_000_000]
    assert preadv.waiting == 4


@pytest.mark.gen_test
async def test_a_region_ends_at_a_boundary(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the last, which ends where the slice does."""
    monkeypatch.setattr(files, "REGION_BYTES", 400_000)
    with opened(large.parent, "large") as handle:
        chunks = regions(handle.descriptor, 5, 999_999, lambda descriptor, position: position - 7)
        assert [(chunk.start, chunk.stop) async for chunk in chunks] == [
            (5, 399_998),
            (399_998, 799_991),
            (799_991, 999_999),
        ]


def test_a_file_is_read_again_only_as_it_was(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its entity tag, and only from the page cache."""
    with opened(large.parent, "large") as handle:
        path, etag = handle.path, handle.etag
    buffer = memoryview(bytearray(5))
    assert read_again(path, etag, 3, buffer)
    assert bytes(buffer) == large.read_bytes()[3:8]
    assert read_again(path, etag, 0, buffer[:0])
    assert not read_again(path, '"other"', 0, buffer)
    assert not read_again(path, etag, 999_998, buffer)
    assert not read_again(path + "?", etag, 0, buffer)
    with monkeypatch.context() as patched:
        Preadv(patched, errno.EAGAIN)
        assert not read_again(path, etag, 0, buffer)
    monkeypatch.setattr(files, "_NOWAIT", 0)
    assert not read_again(path, etag, 0, buffer)
