"""A file that grows, read once for all who follow it.

Theory of operation. One task reads what is new, as `tail -F` does, into a window (`media/window.py`), of
which all followers are sent the same. What is no longer there is on the disk: `media/tail.py` sends it to a
client before it follows.

Behind the end of a file comes the next that has its name. The old one is read to its end first, and again
until there is something in the new one: a program goes on writing to a file that was renamed until it is
told. One that is cut, or begun anew in the same place, is known by what stands before the place up to which
it was read: that is read again each time, and has to be the same. (Cut and written again with the very same
bytes between two looks, it would not be seen.)
"""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

from media.decoding import code_point_boundary
from media.files import opened, read_full
from media.lines import MARK_BYTES, Rotated, Splitter, id_of, last_bytes
from media.source import RUN_BYTES, SourceBroken, SourceBusy, SourceError
from media.text import LINE_BYTES, lines_back
from media.watching import Changes
from media.window import Generation, Window

MOST_FILES = 256
"""So many are followed at a time; each is a descriptor, and a window."""

BEGIN_BYTES = 64 * 1024
"""How much of its end is read when the first follower comes: the last lines, that others begin with, too."""

POLL_SECONDS = 1.0
"""How often the file is looked at where nothing is told of it."""

TICK_SECONDS = 0.005
"""What is written within it is read together."""

GONE_SECONDS = 10.0
"""A file that has no name any more, and is silent for so long, is closed: it takes up its disk till then."""

log = logging.getLogger("millrace.files")


class Growing:
    """One file by its name. Nothing is opened before `started`.

    Args:
        root: the folder that the name is under, and may not leave; None: it is a path.
    """

    def __init__(self, root: Path | None, name: str, changes: Changes) -> None:
        self.root, self.name = root, name
        self.holders = 0
        self.encoding: str | None = None
        """What it was found to be encoded in; None: nobody has looked."""
        self.file: Generation | None = None
        """What is being read; None: there is no such file, or none any more."""
        self.window = Window()
        self.read_bytes = 0
        """From the disk, for all."""
        self._splitter = Splitter()
        self._position = 0  # how far it is read
        self._seen = b""  # the `last_bytes` there
        self._generations = 0
        self._changes = changes
        self._folder_watch: int | None = None
        self._file_watch: int | None = None
        self._empty_watch: int | None = None  # of a file that has the name, and nothing in it yet
        self._woken, self._ready = asyncio.Event(), asyncio.Event()
        self._names_changed = True
        self._names_at = self._news_at = 0.0  # when the name was looked at, and when something was read
        self._failing = False
        self._reader: asyncio.Task[None] | None = None

    async def started(self) -> None:
        """Begin to read, if nobody has; returns when it is known what there is.

        Raises:
            SourceBroken: the reading has failed.
        """
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="reader of a followed file")
        await self._ready.wait()
        if self.window.failure is not None:
            raise self.window.failure

    async def stopped(self) -> None:
        """End the reading and close the file."""
        try:
            if self._reader is not None:
                self._reader.cancel()
                await asyncio.wait({self._reader})
        finally:  # also where who waits is cancelled once more
            self._close_file()
            self._watch_empty(None)
            self._unwatch(self._folder_watch)

    def wake(self, names: bool = True) -> None:
        """Have it looked at now; `names`: also whether another file has the name."""
        self._names_changed |= names
        self._woken.set()

    async def _read(self) -> None:
        try:
            await self._open()
            while True:
                self._woken.clear()
                grew = await self._look()
                self._ready.set()
                if grew:
                    await asyncio.sleep(TICK_SECONDS)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._woken.wait()
        except Exception as error:
            # Nobody waits for this task. Who follows is told that it cannot go on, and the log why.
            log.exception("a followed file is no longer read")
            failure = SourceBroken("the reader of a followed file failed")
            failure.__cause__ = error
            self.window.fail(failure)
            self._ready.set()

    async def _open(self) -> None:
        """The file as it is at the beginning: from some lines before its end on."""
        folder = Path(self.root or "", self.name).parent
        self._folder_watch = self._changes.watch(str(folder), self.wake, names=True)
        descriptor = self._next()
        if descriptor is None:
            return
        self._begin("", descriptor)
        end = max(0, os.fstat(descriptor).st_size - BEGIN_BYTES)
        start = await lines_back(descriptor, end, 0, least=end - LINE_BYTES)
        start = code_point_boundary(descriptor, start)  # of a line that began too far before
        self._position, self._seen = start, await before(descriptor, start)
        self.window.begin(start, self._seen)

    async def _look(self) -> bool:
        """Take what is new. Gives whether there was something."""
        now = asyncio.get_running_loop().time()
        following = None
        if self._names_changed or now > self._names_at + POLL_SECONDS:
            self._names_changed, self._names_at = False, now
            following = self._next()
        try:
            grew = await self._read_all()  # also of a file that is to be left
        except BaseException:
            if following is not None:
                os.close(following)
            raise
        if following is not None:
            self._begin("replaced", following)
        elif now > self._news_at + GONE_SECONDS and self.file and self.file.nameless:
            self._close_file()
        return grew or following is not None

    async def _read_all(self) -> bool:
        """Take what is new in the file that is open. Gives whether there was something."""
        grew = False
        while self.file is not None:
            if self.window.full:
                self._ready.set()
                await self.window.space()
            try:
                data = await read_behind(self.file.descriptor, self._position, self._seen)
                cut = os.dup(self.file.descriptor) if data is None else None
            except (SourceBroken, OSError) as error:
                if not self._failing:
                    log.warning("a followed file cannot be read: %s", error.__cause__ or error)
                self._failing = True
                break
            self._failing = False
            if cut is not None:
                self._begin("truncated", cut)
            elif not data:
                break
            else:
                self._take(self.file, data)
            grew = True
            self._news_at = asyncio.get_running_loop().time()
            await asyncio.sleep(0)
        return grew

    def _take(self, file: Generation, data: bytes) -> None:
        self._position += len(data)
        self.read_bytes += len(data)
        self._seen = last_bytes(self._seen, data)
        for run in self._splitter.feed(data):
            self.window.add(file, run)

    def _next(self) -> int | None:
        """A descriptor of the file that has the name now. None: there is none, or it is the one that is open.

        One that comes after another counts only when there is something in it.
        """
        try:
            with opened(self.root, self.name) as handle:
                facts = os.fstat(handle.descriptor)
                file = self.file
                if file is not None and (facts.st_dev, facts.st_ino) == (file.device, file.inode):
                    return None
                if self._generations and not facts.st_size:
                    self._watch_empty(handle.descriptor)
                    if not os.fstat(handle.descriptor).st_size:  # written to before it was watched
                        return None
                return os.dup(handle.descriptor)
        except (SourceError, OSError):
            return None

    def _begin(self, cause: str, descriptor: int) -> None:
        """Go on with another file, from its beginning. What there is of a last line is one."""
        unfinished = self._splitter.flush()
        if unfinished and self.file is not None:
            self.window.add(self.file, unfinished)
        self._close_file()
        self._watch_empty(None)
        self._generations += 1
        self.file = Generation(self._generations, descriptor)
        # By its descriptor: meanwhile another file may have the name.
        self._file_watch = self._changes.watch(f"/proc/self/fd/{descriptor}", self.wake, names=False)
        self._position, self._seen = 0, b""
        self.window.begin()
        if self._generations > 1:
            rotated = Rotated(cause, id_of(0, b"", self.file.inode), unfinished=bool(unfinished))
            self.window.add(self.file, b"", rotated)

    def _close_file(self) -> None:
        self._unwatch(self._file_watch)
        self._file_watch = None
        if self.file is not None:
            self.file.release()
            self.file = None

    def _watch_empty(self, descriptor: int | None) -> None:
        """Have the name looked at when something is in this file; None: there is no such file any more."""
        if self._empty_watch is not None:
            self._changes.unwatch(self._empty_watch, self._filled)
        self._empty_watch = None
        if descriptor is not None:
            path = f"/proc/self/fd/{descriptor}"
            self._empty_watch = self._changes.watch(path, self._filled, names=False)

    def _filled(self, names: bool) -> None:
        self.wake(names=True)

    def _unwatch(self, watch: int | None) -> None:
        if watch is not None:
            self._changes.unwatch(watch, self.wake)


async def read_behind(descriptor: int, position: int, seen: bytes, most: int = RUN_BYTES) -> bytes | None:
    """What a file has from `position` on. None: before it there is no longer what was `seen` there.

    Raises:
        SourceBroken: the disk failed.
    """
    data = await read_full(descriptor, position - len(seen), len(seen) + most)
    return data[len(seen) :] if data.startswith(seen) else None


async def before(descriptor: int, position: int) -> bytes:
    """The `last_bytes` before a place.

    Raises:
        SourceBroken: the disk failed.
    """
    start = max(0, position - MARK_BYTES)
    return await read_full(descriptor, start, position - start)


class GrowingFiles:
    """The followed files of a process: one reader for each name."""

    def __init__(self) -> None:
        self._changes = Changes()
        self._files: dict[tuple[Path | None, str], Growing] = {}

    def __len__(self) -> int:
        return len(self._files)

    def hold(self, root: Path | None, name: str) -> Growing:
        """The file of this name, until `release`. It is not opened yet.

        Raises:
            SourceBusy: MOST_FILES are followed.
        """
        growing = self._files.get((root, name))
        if growing is None:
            if len(self._files) >= MOST_FILES:
                raise SourceBusy(f"{MOST_FILES} files are followed already", retry_after=10)
            growing = self._files[root, name] = Growing(root, name, self._changes)
        growing.holders += 1
        return growing

    async def release(self, growing: Growing) -> None:
        """The last one who does has it closed."""
        growing.holders -= 1
        if not growing.holders:
            del self._files[growing.root, growing.name]
            await growing.stopped()


_OF_LOOPS: "WeakKeyDictionary[asyncio.AbstractEventLoop, GrowingFiles]" = WeakKeyDictionary()


def growing_files() -> GrowingFiles:
    """Those of the running loop: rows that are made before there is one share them with /text."""
    return _OF_LOOPS.setdefault(asyncio.get_running_loop(), GrowingFiles())
