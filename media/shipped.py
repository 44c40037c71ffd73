"""The named streams that come with Millrace, and their generators."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from media.decoding import utf8
from media.generated import Stream, StreamRequest, generated
from media.parameters import Declared, number, text, whole
from media.query import Query
from media.records import Event, Item, Record
from media.rows import records, stream_of
from media.source import SourceBroken
from media.subscriptions import ChannelRow, channel
from media.templating import TEMPLATES, template

SAMPLES = Path(__file__).parent / "samples"
MOST_ROWS = 100_000_000
AGAIN = "=========== Here we go again ==========="

# Rows that a database makes as they are asked for: there is no table, and no row before its page.
_ORDERS = Query(
    "sqlite+aiosqlite://",
    """
    WITH RECURSIVE n(id) AS (
        SELECT :after + 1 WHERE :after < :rows
        UNION ALL
        SELECT id + 1 FROM n LIMIT min(:rows - :after, :limit)
    )
    SELECT
        id,
        'Order ' || id AS name,
        id * 7919 % 100 + 1 AS quantity,
        id * 104729 % 100000 / 100.0 AS price,
        date('2020-01-01', (id % 2000) || ' days') AS day
    FROM n
    """,
    key="id",
)


# Listed as pydantic has them, refused in the words of our other parameters.
Sleep = Annotated[
    float,
    Field(ge=0, le=3600),
    BeforeValidator(lambda given: number({"sleep": given}, "sleep", 1, most=3600, unit="seconds")),
]
Name = Annotated[
    str,
    Field(json_schema_extra={"minLength": 1}),
    BeforeValidator(lambda given: text({"name": given}, "name")),
]
Rows = Annotated[
    int,
    Field(ge=0, le=MOST_ROWS),
    BeforeValidator(lambda given: whole({"rows": given}, "rows", 1000, least=0, most=MOST_ROWS)),
]

_rows = Declared({"rows": (Rows, 1000)})


async def lines(request: StreamRequest, *, sleep: Sleep = 1) -> AsyncGenerator[Item, None]:
    """The sample lyric without end, `?sleep=` seconds between lines, each with the seconds since it began.

    An event's id is the number of its line; Last-Event-ID goes on with the line after it.
    """
    number_of_line = _line_seen(request.last_event_id)
    try:
        # Opened and closed by one thread: where this is cancelled no open file gets lost on its way here.
        sample = await asyncio.to_thread((SAMPLES / "text_sample").read_text, encoding="utf-8")
    except OSError as error:
        raise SourceBroken("the sample cannot be read") from error
    lyric = sample.splitlines()
    began = time.monotonic()
    while True:
        place = number_of_line % (len(lyric) + 1)
        number_of_line += 1
        seconds = int(time.monotonic() - began)
        line = f"[{seconds:10d} s] {lyric[place]}" if place < len(lyric) else AGAIN
        yield Event(line, id=str(number_of_line))
        if sleep:
            await asyncio.sleep(sleep)


async def hello(request: StreamRequest, *, name: Name = "World") -> AsyncGenerator[bytes, None]:
    """`Hello X!` in three pieces, each on its way before the next is made."""
    for piece in ("Hello ", name, "!"):
        yield utf8(piece)
        await asyncio.sleep(0)


async def clock(request: StreamRequest) -> AsyncGenerator[Record, None]:
    """One record a second, on the second."""
    while True:
        milliseconds = int(time.time() * 1000)
        second = datetime.fromtimestamp(milliseconds // 1000, UTC)
        now = second + timedelta(milliseconds=milliseconds % 1000)
        yield {"time": now.isoformat(timespec="milliseconds"), "unix": milliseconds / 1000}
        # A sleep can end a little early: 50 ms before a second is that second already, not one more record.
        await asyncio.sleep(1.05 - (time.time() + 0.05) % 1)


async def orders(request: StreamRequest, *, rows: Rows = 1000) -> AsyncGenerator[Record, None]:
    """The rows of `large.csv`, for a template."""
    return records(_ORDERS, {"rows": rows})


def _line_seen(last_event_id: str | None) -> int:
    """How many lines a returning client has; an id that `lines` never gave begins anew."""
    if last_event_id and last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 15:
        return int(last_event_id)
    return 0


STREAMS: dict[str, Stream | ChannelRow] = {
    "lines": generated(lines, title="A lyric without end", first="text", live=True),
    "hello": generated(hello, title="A greeting in three pieces", media_type="text/plain; charset=utf-8"),
    "clock": generated(clock, title="The time, once a second", live=True),
    "events": channel(title="What is published here"),
    "large.csv": stream_of(_ORDERS, _rows.read, title="As many rows as you ask for", parameters=_rows.listed),
    "large.html": template(
        "large.html", title="As many rows as you ask for, as a page", folder=TEMPLATES, rows=orders
    ),
}
