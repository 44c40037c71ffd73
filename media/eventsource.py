"""Server-sent events and NDJSON as another server sends them, piece by piece: bytes → items. Pure.

Both are read as they come: a piece may end anywhere, in the middle of a character too.
"""

import codecs
import re
from collections.abc import Iterator

import orjson

from media.records import Event, Json
from media.source import SourceBroken

EVENT_BYTES = 1024 * 1024
"""The most characters of an event, or bytes of a line of NDJSON: more is no event, but a server gone wild."""

_LINE_END = re.compile(r"\r\n|\n|\r")


class EventStream:
    """One event stream (HTML Living Standard, server-sent events, §9.2.6).

    An Event has the id that its server last said, whether with it or before.

    Args:
        last_id: what was last seen before it.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_milliseconds: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._line: list[str] = []  # the parts of the one that has not ended
        self._line_size = 0
        self._ended_by_return = False
        self._id = last_id
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def items(self, piece: bytes) -> Iterator[Event]:
        """The events that are whole with this piece. One that never becomes whole is none.

        Raises:
            SourceBroken: one is too long.
        """
        text = self._decoder.decode(piece)
        if not self._begun and text:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._ended_by_return and text:  # CR ended its line at once; an LF behind it is its other half
            text = text.removeprefix("\n")
            self._ended_by_return = False
        if not text:
            return
        self._ended_by_return = text.endswith("\r")
        first, *others = _LINE_END.split(text)
        self._line.append(first)
        for other in others:
            line = "".join(self._line)
            if line:
                self._take(line)
            elif event := self._dispatched():
                yield event
            self._line, self._line_size = [other], 0
        self._line_size += len(others[-1] if others else first)
        self._check(self._line_size)

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")  # of a comment the name is empty
        value = value.removeprefix(" ")
        if name == "data":
            self._size += len(value) + 1
            self._check(0)
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_milliseconds = int(value[:9])

    def _dispatched(self) -> Event | None:
        self.last_id = self._id
        data, name = self._data, self._name
        self._data, self._name, self._size = [], "", 0
        return Event("\n".join(data), id=self.last_id, event=name) if data else None

    def _check(self, more: int) -> None:
        if self._size + more > EVENT_BYTES:
            raise SourceBroken(f"an event of more than {EVENT_BYTES} characters")


class Lines:
    """One body of NDJSON. A line of any JSON is an item, byte for byte; empty ones are left out."""

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the parts of the one that has not ended
        self._line_size = 0

    def items(self, piece: bytes) -> Iterator[Json]:
        """The values that are whole with this piece.

        Raises:
            SourceBroken: a line is no JSON, or too long.
        """
        first, *others = piece.split(b"\n")
        self._line.append(first)
        for other in others:
            if item := self._item(b"".join(self._line)):
                yield item
            self._line, self._line_size = [other], 0
        self._line_size += len(others[-1] if others else first)
        if self._line_size > EVENT_BYTES:
            raise SourceBroken(f"a line of more than {EVENT_BYTES} bytes")

    def rest(self) -> Iterator[Json]:
        """What stands behind the last line's end of a whole body.

        Raises:
            SourceBroken: it is no JSON.
        """
        return self.items(b"\n")

    def _item(self, line: bytes) -> Json | None:
        line = line.strip()
        if not line:
            return None
        try:
            orjson.loads(line)
        except ValueError as error:
            raise SourceBroken("a line that is no JSON") from error
        return Json(line)
