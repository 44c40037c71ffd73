"""A client of a file that grows, without HTTP."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from media.generated import StreamRequest
from media.growing import Growing, growing_files
from media.records import FORMATS
from media.source import Body
from media.tail import First, Followed
from tests.media.test_records import Seen, events_of
from tests.serving import eventually


def numbered(start: int, stop: int) -> str:
    """Lines of twelve bytes."""
    return "".join(f"{number:06d} line\n" for number in range(start, stop))


class Follower:
    """What one client has been sent so far."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.received = bytearray()
        self.error: Exception | None = None

    async def read(self) -> None:
        """Take in all that comes."""
        try:
            async with aclosing(self.body.chunks()) as chunks:
                async for chunk in chunks:
                    assert chunk
                    self.received += chunk  # type: ignore[arg-type]
        except Exception as error:
            self.error = error

    @property
    def events(self) -> list[Seen]:
        """As SSE."""
        return events_of(bytes(self.received))

    @property
    def lines(self) -> list[str]:
        """The data of the events that are lines."""
        return [event.data for event in self.events if event.event == "message"]

    @property
    def numbers(self) -> list[int]:
        """Of the lines that `numbered` makes; much quicker than `lines`."""
        return [
            int(number) for number in re.findall(rb"^(?:data: )?(\d{6}) line\n", self.received, re.MULTILINE)
        ]

    @property
    def joined(self) -> bool:
        """Whether it is sent what all are."""
        assert self.body.following is not None
        first = self.body.following.first
        assert isinstance(first, First)
        return first.joined

    async def until(self, text: str, times: int = 1) -> None:
        """Wait until this has come so often."""
        wanted, place, count = text.encode(), 0, 0

        def there() -> bool:
            nonlocal place, count
            while (found := self.received.find(wanted, place)) >= 0:  # what was looked through is not again
                place, count = found + 1, count + 1
            place = max(place, len(self.received) - len(wanted))
            return count >= times or self.error is not None

        await eventually(there, 30)
        assert self.error is None, self.error


@asynccontextmanager
async def following(
    path: Path,
    last_event_id: str | None = None,
    lines: int | None = None,
    form: str = "sse",
    root: Path | None = None,
) -> AsyncIterator[Follower]:
    """A client that follows the file at `path`, with those of the library `root`."""
    request, name = StreamRequest(last_event_id=last_event_id), str(path)
    if root is not None:
        name = str(path.relative_to(root))
    async with Followed(root, name, request, FORMATS[form], lines=lines, encoding="utf-8") as body:
        follower = Follower(body)
        reading = asyncio.create_task(follower.read())
        try:
            yield follower
        finally:
            reading.cancel()
            await asyncio.wait({reading})


def read_of(path: Path) -> Growing:
    """The one reader of a file that is followed by somebody."""
    files = growing_files()
    growing = files.hold(None, str(path))
    growing.holders -= 1
    return growing


def append(path: Path, text: str | bytes) -> None:
    """As a program writes to its log."""
    with path.open("ab") as log:
        log.write(text if isinstance(text, bytes) else text.encode())


def move(path: Path, suffix: str = ".1") -> Path:
    """Rename it, as a rotation does; where it is now."""
    return path.rename(path.with_name(path.name + suffix))


def rewrite(path: Path, text: str | bytes) -> None:
    """Cut it and write it again, or anew."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def content(path: Path) -> str:
    """All of it."""
    return path.read_text(encoding="utf-8")


def delete(path: Path) -> None:
    """Take its name away."""
    path.unlink()
