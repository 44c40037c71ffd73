"""What is kept of a file that grows: its newest lines, for all who follow it.

Whole lines are *blocks*, and the newest of these are kept. A follower is a cursor, the number of the last
block that it was sent.

The file itself is the queue: nothing is read ahead of the follower who is furthest by more than AHEAD_BYTES.
So one who is slow is behind only where others are quicker by the whole window, and is let go then.
"""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from media.lines import UTF_8, Rotated, Run, encoded, last_bytes, said
from media.source import Changed, Cursor, FellBehind, Offered, SourceError, Watched

WINDOW_BYTES = 8 * 1024 * 1024
"""How much of a file is kept, and in each format that is asked for once more."""

AHEAD_BYTES = 2 * 1024 * 1024
"""How much is read that no follower has been sent yet."""

_BLOCK_COST = 512
_LINE_COST = 16  # what a block and a line count for besides their bytes


class Generation:
    """One of the files that have had a name, open as long as somebody holds it. One that is cut is another.

    Args:
        number: of this one among those that had the name.
        descriptor: belongs to it from now on.
    """

    __slots__ = ("_holders", "descriptor", "device", "inode", "number")

    def __init__(self, number: int, descriptor: int) -> None:
        facts = os.fstat(descriptor)
        self.number, self.descriptor = number, descriptor
        self.device, self.inode = facts.st_dev, facts.st_ino
        self._holders = 1

    @property
    def open(self) -> bool:
        """Whether it can be read."""
        return self._holders > 0

    @property
    def nameless(self) -> bool:
        """Whether it has been deleted."""
        return not os.fstat(self.descriptor).st_nlink

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have it open meanwhile, if it is now."""
        if not self.open:
            yield
            return
        self._holders += 1
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """The last who holds it closes it."""
        self._holders -= 1
        if not self._holders:
            os.close(self.descriptor)


@dataclass(slots=True)
class Block:
    """What many are sent alike.

    Args:
        rotated: with which the file begins, and there are no lines; None: these are lines.
        total: what it and all before it count for.
        kept: as bytes, by format and encoding.
    """

    number: int
    file: Generation
    run: Run
    rotated: Rotated | None
    total: int
    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)


class Window(Watched):
    """The newest blocks. All calls come from the loop's thread.

    Args:
        encoding: of the file, where its clients say no other.
    """

    def __init__(self, encoding: str = UTF_8) -> None:
        super().__init__()
        self.encoding = encoding
        self.newest = 0
        """The number of the last block."""
        self.stop = 0
        """Where in the newest file it ends."""
        self.blocks: list[Block] = []
        self.failure: Exception | None = None
        self._before = b""
        self._total = self._taken_total = self._taken = 0
        self._space = asyncio.Event()
        self._feeds: dict[tuple[str, str], LineFeed] = {}

    def begin(self, start: int = 0, before: bytes = b"") -> None:
        """What is added from now on is of another file, behind `start`; `before`: the `last_bytes` there."""
        self.stop, self._before = start, before

    def add(self, file: Generation, data: bytes, rotated: Rotated | None = None) -> None:
        """Add what comes next in this file, whole lines, or its beginning."""
        run = Run(data, self.stop, self._before, file.inode)
        self.stop = run.stop
        self._before = last_bytes(self._before, data)
        self._total += len(data) + data.count(b"\n") * _LINE_COST + _BLOCK_COST
        self.newest += 1
        self.blocks.append(Block(self.newest, file, run, rotated, self._total))
        gone = 0
        while gone < len(self.blocks) - 1 and self._total - self.blocks[gone].total > WINDOW_BYTES:
            gone += 1
        if gone:
            del self.blocks[:gone]
        self._tell()

    def fail(self, error: Exception) -> None:
        """Nothing more will come, because of this."""
        self.failure = error
        self.newest += 1  # there is news for everybody, and asking for it raises
        self._tell()

    @property
    def full(self) -> bool:
        """Whether more is there than may be before a follower has been sent some of it."""
        return self._total - self._taken_total > AHEAD_BYTES

    async def space(self) -> None:
        """Wait until it is not full."""
        while self.full:
            self._space.clear()
            await self._space.wait()

    def taken(self, number: int) -> None:
        """A follower has been sent all up to this block."""
        if number > self._taken and self.blocks:
            self._taken = number
            index = max(0, number - self.blocks[0].number)
            self._taken_total = self.blocks[min(index, len(self.blocks) - 1)].total
            self._space.set()

    async def changed(self) -> None:
        """Wait for the next block."""
        changed = asyncio.Event()
        self.attach(changed.set)
        try:
            await changed.wait()
        finally:
            self.detach(changed.set)

    def at(self, file: Generation, position: int) -> Block | None:
        """The first block that ends at a place or behind it; None: there is none."""
        index = bisect_left(self.blocks, (file.number, position), key=_place)
        return self.blocks[index] if index < len(self.blocks) else None

    def back(self, file: Generation, lines: int) -> tuple[int, int]:
        """Where the last lines of the file begin that are kept, and how many are missing before them."""
        position = self.stop
        for block in reversed(self.blocks):
            if not lines or block.file is not file:
                break
            data = block.run.data
            ends = data.count(b"\n")
            if ends > lines:
                return block.run.stop - len(data.split(b"\n", ends - lines)[-1]), 0
            position, lines = block.run.start, lines - ends
        return position, lines

    def lost(self, number: int) -> bool:
        """Whether blocks behind this one are no longer kept."""
        return bool(self.blocks) and number < self.blocks[0].number - 1

    def feed(self, form: str, encoding: str) -> "LineFeed":
        """The feed of all who follow it in this format; `encoding` is the file's."""
        return self._feeds.setdefault((form, encoding), LineFeed(self, form, encoding))


def _place(block: Block) -> tuple[int, int]:
    return block.file.number, block.run.stop


class LineFeed:
    """The blocks as bytes of one format: a Feed."""

    ended = False
    failure: SourceError | None = None  # a file that is followed has no end

    def __init__(self, window: Window, form: str, encoding: str) -> None:
        self._window, self._form, self._encoding = window, form, encoding

    @property
    def newest(self) -> Cursor:
        return (self._window.newest,)

    def after(self, cursor: Cursor, most_bytes: int) -> tuple[bytes, Cursor]:
        window = self._window
        if window.failure is not None:
            raise window.failure
        if self.lost(cursor):
            raise FellBehind(f"the lines behind block {cursor[0]} are no longer kept")
        pieces: list[bytes] = []
        size, number = 0, cursor[0]
        first = window.blocks[0].number if window.blocks else 0
        for index in range(number + 1 - first, len(window.blocks)):
            block = window.blocks[index]
            piece = self._piece(block)
            size += len(piece)
            if pieces and size > most_bytes:
                break
            pieces.append(piece)
            number = block.number
        window.taken(number)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), (number,)

    def lost(self, cursor: Cursor) -> bool:
        return self._window.lost(cursor[0])

    def attach(self, changed: Changed, offered: Offered | None = None) -> None:
        self._window.attach(changed, offered)

    def detach(self, changed: Changed) -> None:
        self._window.detach(changed)

    def _piece(self, block: Block) -> bytes:
        if block.rotated is not None:
            return said(block.rotated, self._form)
        if self._encoding != self._window.encoding:
            return encoded(block.run, self._form, self._encoding)  # a client's own idea: not kept
        wish = self._form, self._encoding
        piece = block.kept.get(wish)
        if piece is None:
            piece = block.kept[wish] = encoded(block.run, *wish)
        return piece
