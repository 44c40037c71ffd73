"""One record, line or event → bytes, in the format that the client asked for. Pure, but for `sse_retry`.

An *item* is a record (a mapping), a line (a str) or an Event that wraps either.
A format's encoder lives for one response: it knows whether the first item has been.
Between two pieces of what `encode` returns the format's heartbeat may stand. How a value is written is in
`media/values.py`.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

from media.decoding import utf8
from media.values import TOGETHER_ROWS, csv_rows, csv_value, to_json

Record = Mapping[str, object]
Value = Record | str


@dataclass(frozen=True, slots=True)
class Event:
    """An item with something of its own that only event streams have.

    Args:
        id: what a client sends back as Last-Event-ID; empty: its number.
        event: a name for its kind; empty: a plain message.
        retry: milliseconds that the client is to wait before it connects again; None: as before.
    """

    data: Value
    id: str = ""
    event: str = ""
    retry: int | None = None


class Json(bytes):
    """A value of JSON as another has written it, in one line. Only what is shared is made of it."""


Item = Value | Event

END_ID = "(end)"
"""The id of the event that ends an event stream: whoever comes back with it has seen everything."""

RETRY_MILLISECONDS = (1000, 5000)
"""An EventSource comes back after a random time between these."""


class Encoder(Protocol):
    """Makes the bytes of one body: `begin`, any number of `add` and `take`, `end`.

    An item is written when it is added: whoever made it may change it afterwards.
    """

    def begin(self) -> bytes:
        """What stands before the first item; may be empty."""

    def add(self, item: Item) -> int:
        """Write one item behind the others. Gives the bytes that can be taken, without the last few rows.

        Raises:
            TypeError: it is none, or holds what has no JSON.
            ValueError: it does not go with the others.
        """

    def take(self) -> bytes:
        """What was added since the last time, whole items; may be empty."""

    def encode(self, items: Iterable[Item]) -> bytes:
        """The bytes of the items: `add` each, and `take`."""

    def end(self) -> bytes:
        """What stands behind the last item of a whole body; may be empty."""


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write items.

    Args:
        name: as `?format=` names it.
        media_type: as Content-Type says it.
        heartbeat: what may stand between two items.
        encoder: makes the encoder of one response, given the names of the columns
            where they are known before the first record.
    """

    name: str
    media_type: str
    heartbeat: bytes
    encoder: Callable[[tuple[str, ...]], Encoder]


class _Gathering:
    """What the encoders have in common: a buffer that grows, and is taken."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        # Not a list to be joined: many small results of orjson held at once cost 4 KB each.
        self._buffer = bytearray()

    def begin(self) -> bytes:
        return b""

    def add(self, item: Item) -> int:
        raise NotImplementedError

    def take(self) -> bytes:
        taken, self._buffer = bytes(self._buffer), bytearray()
        return taken

    def encode(self, items: Iterable[Item]) -> bytes:
        for item in items:
            self.add(item)
        return self.take()

    def end(self) -> bytes:
        return b""


class _Text(_Gathering):
    """A line for each item; a record is a line of JSON. A line that brings its end is given no second one."""

    def add(self, item: Item) -> int:
        line = _line(_value(item))
        self._buffer += line if line.endswith(b"\n") else line + b"\n"
        return len(self._buffer)


class _Ndjson(_Gathering):
    """A line of JSON for each item; a line of text is a JSON string."""

    def add(self, item: Item) -> int:
        self._buffer += to_json(_value(item)) + b"\n"
        return len(self._buffer)


class _Json(_Gathering):
    """One array; its bracket opens with the first item."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        super().__init__(columns)
        self._before = b"["

    def add(self, item: Item) -> int:
        value = to_json(_value(item))
        self._buffer += self._before
        self._buffer += value
        self._before = b",\n"
        return len(self._buffer)

    def end(self) -> bytes:
        return b"[]\n" if self._before == b"[" else b"]\n"


class _Sse(_Gathering):
    """Server-sent events (HTML Living Standard §9.2). An item without an id of its own is numbered from 1.

    The last event is named `end`: an EventSource asks again after every end, and then says with
    END_ID that it has everything.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        super().__init__(columns)
        self._numbers = itertools.count(1)

    def add(self, item: Item) -> int:
        number = str(next(self._numbers))
        line = _line(_value(item))
        if isinstance(item, Event):
            self._buffer += sse_event(line, item.id or number, item.event, item.retry)
        else:
            self._buffer += sse_event(line, number)
        return len(self._buffer)

    def end(self) -> bytes:
        return sse_event(b"{}", END_ID, "end")


class _Csv:
    """RFC 4180 with a header. The first record names the columns; lines are one column, `line`.

    Raises:
        ValueError: a record has a column that the first one had not, or the first one has none.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._buffer = bytearray()
        self._rows: list[tuple[object, ...]] = []  # fewer than TOGETHER_ROWS, not written yet
        self._failure: TypeError | None = None  # to be raised behind the rows before it
        self._columns = columns
        self._values = _values_of(columns)

    def begin(self) -> bytes:
        return csv_rows([self._columns]) if self._columns else b""

    def add(self, item: Item) -> int:
        record: Any = item if type(item) is dict else self._record(item)
        if not self._columns:
            self._name_columns(record)
        try:
            row = self._values(record)
        except KeyError:
            row = tuple([record.get(column) for column in self._columns])
            unknown = len(record) > sum(column in record for column in self._columns)
        else:
            unknown = len(record) > len(row)
        if unknown:
            raise ValueError(f"columns {list(record)} where the first record had {list(self._columns)}")
        try:
            hash(row)
        except TypeError:  # it holds what can be changed; all else is as it is, and is written with others
            row = tuple(map(csv_value, row))
        self._rows.append(row)
        if len(self._rows) >= TOGETHER_ROWS:
            self._write()
        return len(self._buffer)

    def take(self) -> bytes:
        self.end()
        try:
            self._write()
        except TypeError as error:
            if not self._buffer:
                raise
            self._failure = error
        taken, self._buffer = bytes(self._buffer), bytearray()
        return taken

    def encode(self, items: Iterable[Item]) -> bytes:
        for item in items:
            self.add(item)
        return self.take()

    def end(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        return b""

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        try:
            self._buffer += csv_rows(rows)
        except TypeError:  # those before the one that has no JSON are whole
            for row in rows:
                self._buffer += csv_rows([row])
            raise

    def _record(self, item: Item) -> Record:
        value = _value(item)
        return {"line": value} if isinstance(value, str) else value

    def _name_columns(self, record: Record) -> None:
        if not record:
            raise ValueError("the first record names the columns, and it has none")
        self._columns = tuple(record)
        self._values = _values_of(self._columns)
        self._rows.append(self._columns)


def _values_of(columns: tuple[str, ...]) -> Callable[[Record], tuple[object, ...]]:
    """Gives a record's values in the order of its columns, at a third of the time of a `get` for each."""
    if len(columns) > 1:
        return itemgetter(*columns)
    return lambda record: tuple([record[column] for column in columns])


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("text", "text/plain; charset=utf-8", b" ", _Text),
        # No empty line behind it: httpx-sse 0.4 makes an event of every one that has had an id before.
        Format("sse", "text/event-stream", b":\n", _Sse),
        Format("ndjson", "application/x-ndjson", b"\n", _Ndjson),
        Format("json", "application/json", b" ", _Json),
        Format("csv", "text/csv; charset=utf-8; header=present", b"", _Csv),
    )
}


def sse_event(
    data: bytes,
    id: str = "",  # noqa: A002, as the standard names it
    event: str = "",
    retry: int | None = None,
) -> bytes:
    """One event. A line break inside the data makes several `data:` lines of it.

    Args:
        id: what the client sends back as Last-Event-ID; empty: none. No line breaks, no NUL.
        event: the kind; empty: a plain message. No line breaks.
        retry: milliseconds until the client connects again; None: as it has it.

    Raises:
        ValueError: there are: the rest of such a field would be read as other fields, and an id with a NUL
            is ignored (HTML Living Standard §9.2.6).
    """
    if "\n" in id or "\r" in id or "\0" in id:
        raise ValueError(f"an event's id has a line break or a NUL: {id[:100]!r}")
    head = f"id: {id}\n" if id else ""
    if event:
        if "\n" in event or "\r" in event:
            raise ValueError(f"an event's name has a line break: {event[:100]!r}")
        head = f"event: {event}\n{head}"
    if retry is not None:
        head = f"retry: {retry:d}\n{head}"
    if b"\n" in data or b"\r" in data:
        data = _LINE_BREAK.sub(b"\ndata: ", data)
    return utf8(head) + b"data: " + data + b"\n\n"


def sse_line(line: bytes, id: bytes) -> bytes:  # noqa: A002
    """The event of one line of a text, whose end (LF or CRLF, or none) is no part of the data."""
    if b"\r" in line or not line.endswith(b"\n"):
        return sse_event(line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n"), id.decode())
    return b"id: %b\ndata: %b\n" % (id, line)  # the line has its own end


def ndjson_event(data: bytes, id: str, event: str) -> bytes:  # noqa: A002
    """The same as a line of JSON. `data` is JSON itself, in one line."""
    return b'{"id":%b,"event":%b,"data":%b}\n' % (to_json(id), to_json(event), data)


def sse_retry() -> bytes:
    """How long the client is to wait before it connects again: a random time, so they come one by one."""
    return b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS)


_LINE_BREAK = re.compile(rb"\r\n|\r|\n")


def _value(item: Item) -> Value:
    """What an item holds.

    Raises:
        TypeError: it is none.
    """
    value: object = item.data if isinstance(item, Event) else item
    if type(value) is dict or isinstance(value, str | Mapping):
        return value
    also = "; bytes need a media_type" if isinstance(value, bytes | bytearray | memoryview) else ""
    raise TypeError(f"a stream's items are dict, str or Event, not {type(value).__name__}{also}")


def _line(value: Value) -> bytes:
    """A line as it is, a record as JSON."""
    return utf8(value) if isinstance(value, str) else to_json(value)
