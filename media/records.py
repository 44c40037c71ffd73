"""One record, line or event → bytes, in the format that the client asked for. Pure, but for `sse_retry`.

An *item* is a record (a mapping), a line (a str) or an Event that wraps either.
A format's encoder lives for one response: it knows whether the first item has been.
Between two pieces of what `encode` returns the format's heartbeat may stand.

What JSON has no word for is written alike everywhere: dates and times as ISO 8601 has them, Decimal as a
string with every digit, bytes in Base64, a time span in seconds, NaN and infinities as null (in CSV as `nan`
and `inf`), a lone half of a surrogate pair as U+FFFD. Integers of any size keep all their digits.
"""

import base64
import csv
import io
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Protocol
from uuid import UUID

import orjson

from media.decoding import utf8

Record = Mapping[str, object]
Value = Record | str


@dataclass(frozen=True, slots=True)
class Event:
    """An item with an id of its own and, if `event` is not empty, a name for its kind."""

    data: Value
    id: str = ""
    event: str = ""


Item = Value | Event

END_ID = "(end)"
"""The id of the event that ends an event stream: whoever comes back with it has seen everything."""

RETRY_MILLISECONDS = (1000, 5000)
"""An EventSource comes back after a random time between these."""


class Encoder(Protocol):
    """Makes the bytes of one body: `begin`, any number of `encode`, `end`."""

    def begin(self) -> bytes:
        """What stands before the first item; may be empty."""

    def encode(self, items: Iterable[Item]) -> bytes:
        """The bytes of the items; never cut inside one."""

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


class _Text:
    """A line for each item; a record is a line of JSON."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        pass

    def begin(self) -> bytes:
        return b""

    def encode(self, items: Iterable[Item]) -> bytes:
        return b"".join([_line(_value(item)) + b"\n" for item in items])

    def end(self) -> bytes:
        return b""


class _Ndjson(_Text):
    """A line of JSON for each item; a line of text is a JSON string."""

    def encode(self, items: Iterable[Item]) -> bytes:
        return b"".join([to_json(_value(item)) + b"\n" for item in items])


class _Json:
    """One array; its bracket opens with the first item."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._begun = False

    def begin(self) -> bytes:
        return b""

    def encode(self, items: Iterable[Item]) -> bytes:
        # Not join(map(to_json, …)): many small results of orjson held at once are slow to free.
        encoded = b"".join([b",\n" + to_json(_value(item)) for item in items])
        if self._begun or not encoded:
            return encoded
        self._begun = True
        return b"[" + encoded[2:]

    def end(self) -> bytes:
        return b"]\n" if self._begun else b"[]\n"


class _Sse:
    """Server-sent events (HTML Living Standard §9.2). An item without an id of its own is numbered from 1.

    The last event is named `end`: an EventSource asks again after every end, and then says with
    END_ID that it has everything.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._numbers = itertools.count(1)

    def begin(self) -> bytes:
        return b""

    def encode(self, items: Iterable[Item]) -> bytes:
        return b"".join(map(self._event, items))

    def end(self) -> bytes:
        return sse_event(b"{}", END_ID, "end")

    def _event(self, item: Item) -> bytes:
        number = next(self._numbers)
        if isinstance(item, Event):
            return sse_event(_line(item.data), item.id or str(number), item.event)
        return sse_event(_line(item), str(number))


class _Csv:
    """RFC 4180 with a header. The first record names the columns; lines are one column, `line`.

    Raises:
        ValueError: a record has a column that the first one had not, or the first one has none.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns

    def begin(self) -> bytes:
        return csv_rows([self._columns]) if self._columns else b""

    def encode(self, items: Iterable[Item]) -> bytes:
        lines: list[Sequence[object]] = []
        for item in items:
            value = _value(item)
            record: Record = {"line": value} if isinstance(value, str) else value
            if not self._columns:
                if not record:
                    raise ValueError("the first record names the columns, and it has none")
                self._columns = tuple(record)
                lines.append(self._columns)
            if not record.keys() <= set(self._columns):
                raise ValueError(f"columns {list(record)} where the first record had {list(self._columns)}")
            lines.append([record.get(column) for column in self._columns])
        return csv_rows(lines)

    def end(self) -> bytes:
        return b""


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


def sse_event(data: bytes, id: str = "", event: str = "") -> bytes:  # noqa: A002, as the standard names it
    """One event. A line break inside the data makes several `data:` lines of it.

    Args:
        id: what the client sends back as Last-Event-ID; empty: none. No line breaks, no NUL.
        event: the kind; empty: a plain message. No line breaks.

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
    if b"\n" in data or b"\r" in data:
        data = _LINE_BREAK.sub(b"\ndata: ", data)
    return utf8(head) + b"data: " + data + b"\n\n"


def sse_retry() -> bytes:
    """How long the client is to wait before it connects again: a random time, so they come one by one."""
    return b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS)


_LINE_BREAK = re.compile(rb"\r\n|\r|\n")


def csv_rows(rows: Sequence[Sequence[object]]) -> bytes:
    """Rows as RFC 4180 has them, without a header; no record is made of each."""
    if not set(map(type, itertools.chain.from_iterable(rows))) <= _FIELDS:
        rows = [[_field(value) for value in row] for row in rows]
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\r\n").writerows(rows)
    return utf8(written.getvalue())


def to_json(value: object) -> bytes:
    """JSON in one line. What orjson refuses (integers over 64 bits, lone surrogates) takes the slow way.

    Raises:
        TypeError: it holds something of a type that has no JSON.
    """
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:
        return utf8(json.dumps(_sound(value), ensure_ascii=False, separators=(",", ":")))


_FIELDS = {str, int, float, type(None)}  # what the csv module writes as it should be


def _field(value: object) -> object:
    """A value as a field of CSV: what JSON has as a string without its quotes, the rest as it is there."""
    if type(value) in _FIELDS:
        return value
    text = to_json(value)
    return orjson.loads(text) if text.startswith(b'"') else text.decode()


def _plain(value: object) -> object:
    """What stands in JSON for a value of a type that it does not have."""
    match value:
        case date() | time():  # a datetime is a date
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case Decimal() | UUID():
            return str(value)
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return dict(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def _sound(value: object) -> object:
    """The same for the json module, which would write NaN, and lists and records through and through."""
    match value:
        case str() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {_sound(name): _sound(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_sound(inner) for inner in value]
    return _sound(_plain(value))


def _value(item: Item) -> Value:
    return item.data if isinstance(item, Event) else item


def _line(value: Value) -> bytes:
    """A line as it is, a record as JSON."""
    return utf8(value) if isinstance(value, str) else to_json(value)
