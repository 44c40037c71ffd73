"""Walk a folder, read what changed, bring the catalogue up to date; and the texts of the folder.

Everything that touches the disk runs in a thread. Only new and changed files are opened: length and mtime
decide, so an unchanged library costs one stat a file.
Hidden names are skipped. So is a symlink that leads out of the folder or to a hidden file, and one to a
folder: if that lies inside, its files are there under their own names (and loops cannot arise).
"""

import asyncio
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn, TypeVar

from tqdm import tqdm

from media import tags
from media.catalogue import Catalogue, Known
from media.decoding import SNIFF_BYTES, looks_like_text
from media.files import modified
from media.identity import Found, Reading
from media.source import SourceBroken

MEDIA_TYPES = {
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",  # every browser looks into the file for the codec
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".m4b": "audio/mp4",
    ".aac": "audio/aac",
    ".wav": "audio/wav",
    ".weba": "audio/webm",
    ".webm": "audio/webm",
}
"""What counts as audio, by the end of the name in any case: what browsers play, and nothing else."""

SIDECARS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""What stands behind a text's name where it lies coded beside itself, by content coding; the best first."""

WINDOW_BYTES = 64 * 1024
"""Content identity: three windows of this size, at the start, in the middle and at the end."""

BATCH_FILES = 200
"""After so many read files new tracks are written: they can be played while a long scan goes on."""

_STOP_SECONDS = 5.0  # how long a cancelled scan waits for its thread to put down the file in hand

_MOST_MTIME_NS = 2**63 - 1

log = logging.getLogger("millrace.library")

_Result = TypeVar("_Result")


class LibraryError(SourceBroken):
    """The library's own folder cannot be read. One sentence for the operator."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan did, in tracks; `failed` were unreadable, or catalogued without what their tags say."""

    added: int
    changed: int
    moved: int
    removed: int
    unchanged: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text of the library: its name relative to the folder, its length in bytes, when it changed (UTC)."""

    name: str
    length: int
    modified: datetime


async def scan(root: Path, catalogue: Catalogue, *, progress: bool = False) -> ScanResult:
    """Bring `catalogue` up to date with the folder `root`. `progress` draws a bar on stderr.

    New tracks are written as they are read, everything else in one step at the end. A scan that is cancelled
    stops within a file or so and leaves what it has written. One scan of a catalogue at a time: two do no
    harm, but do the work twice.

    Raises:
        LibraryError: the folder cannot be read; nothing was changed.
        CatalogueError: the database failed.
    """
    started = time.monotonic()
    stop = threading.Event()
    known = await catalogue.known()
    walk = await _in_thread(stop, partial(_walk, root, known.files, stop))
    unchanged = len(walk.files) - len(walk.changed)
    # In a thread: the first bar of a process imports multiprocessing for its lock.
    with await _in_thread(stop, partial(_bar, len(walk.changed), progress)) as bar:
        added, failed = await _read_changed(root, walk, catalogue, known, stop, bar.update)
    walk.files.update((path, Found(*known.files[path])) for path in walk.out_of_sight)
    counts = await catalogue.update(walk.files)
    return ScanResult(
        added=added + counts.added,
        changed=counts.changed,
        moved=counts.moved,
        removed=counts.removed,
        unchanged=unchanged,
        failed=failed,
        seconds=time.monotonic() - started,
    )


def text_files(root: Path) -> Iterator[TextFile]:
    """The texts of the library, by name: what is neither hidden nor audio and looks like text. Blocking.

    A file that is another one coded is left out, for a short one may look like text.

    Raises:
        LibraryError: the folder cannot be read.
    """
    files = dict(_files(root, {}))
    sidecars = {name + ending for name in files for ending in SIDECARS.values()}
    for name, facts in sorted(files.items()):
        if _media_type(name) is None and name not in sidecars and _is_text(root / name):
            yield TextFile(name, facts.st_size, modified(facts))


# --- walking ---


@dataclass(frozen=True, slots=True)
class _Walk:
    """The audio files that are there, which of them are to be opened (by name), and known paths of which
    nobody can tell: they lie below an unreadable folder."""

    files: dict[str, Found]
    changed: list[str]
    out_of_sight: list[str]


def _walk(root: Path, known: Mapping[str, tuple[int, int]], stop: threading.Event) -> _Walk:
    problems: dict[str, str] = {}
    files: dict[str, Found] = {}
    for path, facts in _files(root, problems):
        if stop.is_set():
            break
        if _media_type(path) is not None:
            files[path] = Found(facts.st_size, _mtime_ns(facts))
    for path, problem in problems.items():
        log.warning("skipped %r: %s", path, problem)
    changed = sorted(path for path, file in files.items() if known.get(path) != (file.length, file.mtime_ns))
    missing = [path for path in known if path not in files] if problems else []
    return _Walk(files, changed, [path for path in missing if not problems.keys().isdisjoint(_ways(path))])


def _ways(path: str) -> Iterator[str]:
    """`a`, `a/b`, `a/b/c` of `a/b/c`."""
    return accumulate(path.split("/"), "{}/{}".format)


def _files(root: Path, problems: dict[str, str]) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file below `root` that is not hidden: path and stat. Collects what it skips."""
    top = os.path.join(os.path.realpath(root), "")
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(top + folder) as entries:
                listing = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if not folder:
                raise LibraryError(f"the library {root} cannot be read: {error.strerror}") from error
            problems[folder.rstrip("/")] = error.strerror or "unreadable"
            continue
        while listing:
            entry = listing.pop()  # and so forgotten: its stat, too, it keeps
            path = folder + entry.name
            try:
                if problem := _unfit(entry.name):
                    problems[path] = problem
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path + "/")
                elif not entry.is_symlink() or _leads_inside(top, entry.path):
                    facts = entry.stat()
                    if stat.S_ISREG(facts.st_mode):
                        yield path, facts
            except FileNotFoundError:  # vanished since, or a symlink to nothing
                continue
            except OSError as error:
                problems[path] = error.strerror or "unreadable"


def _unfit(name: str) -> str | None:
    """Why a name cannot be served: an address holds UTF-8, and `files.resolve` refuses a backslash."""
    if "\\" in name:
        return "there is a backslash in its name"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def _leads_inside(top: str, link: str) -> bool:
    real = os.path.realpath(link)
    return real.startswith(top) and "/." not in real[len(top) - 1 :]


def _media_type(path: str) -> str | None:
    # Not by pathlib: it interns what it sees, and the table of that never shrinks, 170 bytes a file.
    return MEDIA_TYPES.get(os.path.splitext(path)[1].lower())  # noqa: PTH122


def _mtime_ns(facts: os.stat_result) -> int:
    """When a file changed, as far as a database's 64 bits go: the year 2262."""
    return max(-_MOST_MTIME_NS, min(facts.st_mtime_ns, _MOST_MTIME_NS))


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return looks_like_text(file.read(SNIFF_BYTES))
    except OSError:
        return False  # nobody could read it over HTTP either


# --- reading ---


def _bar(total: int, progress: bool) -> "tqdm[NoReturn]":
    return tqdm(total=total, desc="Reading tags", disable=not progress, unit=" files")


async def _read_changed(
    root: Path,
    walk: _Walk,
    catalogue: Catalogue,
    known: Known,
    stop: threading.Event,
    advance: Callable[[], object],
) -> tuple[int, int]:
    """Read what changed into `walk.files`, batch by batch; gives how many were added, and how many failed."""
    added, failed = 0, 0
    for start in range(0, len(walk.changed), BATCH_FILES):
        paths = walk.changed[start : start + BATCH_FILES]
        batch = await _in_thread(stop, partial(_read, root, paths, stop, advance))
        failed += batch.failed
        for path in batch.vanished:
            del walk.files[path]
        walk.files.update(batch.files)
        # Whatever else is found, these take no row of another: they may be written at once.
        new = {
            path: file
            for path, file in batch.files.items()
            if path not in known.files and file.reading and file.reading.content_id not in known.content_ids
        }
        if new:
            added += await catalogue.add(new)
            walk.files.update((path, Found(file.length, file.mtime_ns)) for path, file in new.items())
    return added, failed


@dataclass(frozen=True, slots=True)
class _Batch:
    files: dict[str, Found] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return len(self.unreadable) + len(self.broken)


def _read(root: Path, paths: list[str], stop: threading.Event, advance: Callable[[], object]) -> _Batch:
    batch = _Batch()
    for path in paths:
        try:
            with (root / path).open("rb") as file:
                batch.files[path], problem = _contents(file, path, stop)
        except FileNotFoundError:
            batch.vanished.append(path)
        except OSError as error:
            batch.unreadable.append(path)
            log.warning("cannot read %r: %s", path, error.strerror)
        else:
            if stop.is_set():
                break  # the file in hand may be cut short; nobody uses this batch
            if problem:
                batch.broken.append(path)
                log.warning("the tags of %r are not complete: %s", path, problem)
        advance()
    return batch


def _contents(file: BinaryIO, path: str, stop: threading.Event) -> tuple[Found, str | None]:
    """What is in an open file, and what was wrong with its tags."""
    facts = os.fstat(file.fileno())  # of the handle: the name may be another file's by now
    media_type = MEDIA_TYPES[PurePosixPath(path).suffix.lower()]
    said, problem = tags.read(file, path, media_type, stop)
    reading = Reading(
        content_id=_content_id(file, facts.st_size),
        media_type=media_type,
        title=said.title or PurePosixPath(path).stem,
        artist=said.artist,
        album=said.album,
        disc_number=said.disc_number,
        track_number=said.track_number,
        duration_seconds=said.duration_seconds,
        has_cover=said.has_cover,
    )
    return Found(facts.st_size, _mtime_ns(facts), reading), problem


def _content_id(file: BinaryIO, length: int) -> str:
    """The identity of a file's content: a digest of its length and of three windows.

    Files of one length that differ only between the windows are taken for the same; tags lie at the ends.
    It is only used to recognise what was moved: nothing is lost by two tracks that share one.
    """
    if length == 0:
        return ""
    digest = blake2b(str(length).encode(), digest_size=16)
    for start in (0, (length - WINDOW_BYTES) // 2, length - WINDOW_BYTES):
        file.seek(max(0, start))
        digest.update(file.read(WINDOW_BYTES))
    return digest.hexdigest()


async def _in_thread(stop: threading.Event, function: Callable[[], _Result]) -> _Result:
    """Run `function` in a thread. When cancelled, set `stop` and let it put down what it has in hand."""
    work = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work], timeout=_STOP_SECONDS)
        if work.done():
            work.exception()  # seen: nobody is left to tell
        raise
