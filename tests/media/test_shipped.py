"""The streams that come with Millrace."""

import asyncio
import csv
import io
import itertools
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from media import shipped
from media.generated import Stream, StreamRequest
from media.records import FORMATS
from media.shipped import AGAIN, STREAMS
from media.source import BadParameter, Chunks, SourceBroken
from media.subscriptions import ChannelRow
from tests.media.test_records import Seen, events_of

LYRIC = ["바람이 불어오는 곳", "", "where the wind comes from 🎵"]


@asynccontextmanager
async def chunks_of(
    name: str, form: str = "", /, last_event_id: str | None = None, **args: str
) -> AsyncIterator[Chunks]:
    request = StreamRequest(args, last_event_id=last_event_id, path=f"/stream/{name}")
    async with STREAMS[name].open(request, FORMATS.get(form)) as body, aclosing(body.chunks()) as chunks:
        yield chunks


async def first(count: int, name: str, form: str = "", /, **options: Any) -> bytes:
    """Its first items, of the chunks in which they come."""
    end = b"\n\n" if form == "sse" else b"\n"
    received = b""
    async with chunks_of(name, form, **options) as chunks:
        while received.count(end) < count:
            received += bytes(await anext(chunks))
    return end.join(received.split(end)[:count]) + end


async def whole(name: str, form: str = "", /, **args: str) -> bytes:
    async with chunks_of(name, form, **args) as chunks:
        return b"".join([bytes(chunk) async for chunk in chunks])


# --- lines ---


@pytest.fixture
def lyric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text_sample").write_text("\n".join(LYRIC) + "\n", encoding="utf-8")
    monkeypatch.setattr(shipped, "SAMPLES", tmp_path)
    return tmp_path / "text_sample"


@pytest.mark.gen_test
async def test_lines_begin_anew_after_the_last(lyric: Path) -> None:
    """Each with the seconds since the stream began; between two rounds the bare line that says so."""
    received = (await first(9, "lines", "text", sleep="0")).decode()
    shown = [f"[         0 s] {line}" for line in LYRIC]
    assert received.split("\n") == [*shown, AGAIN, *shown, AGAIN, shown[0], ""]
    assert AGAIN == "=========== Here we go again ==========="


@pytest.mark.parametrize(("elapsed", "shown"), [(0.999, 0), (1.0, 1), (59.5, 59), (12345678.9, 12345678)])
@pytest.mark.gen_test
async def test_seconds_are_whole_ones_that_have_passed(
    elapsed: float, shown: int, lyric: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not rounded up: `%10d`."""
    clock = itertools.chain([1000.0], itertools.repeat(1000.0 + elapsed))
    monkeypatch.setattr(shipped, "time", Clock(lambda: next(clock)))
    assert await first(1, "lines", "text", sleep="0") == f"[{shown:10d} s] {LYRIC[0]}\n".encode()


class Clock:
    """Instead of the module `time`."""

    def __init__(self, now: Any) -> None:
        self.monotonic = self.time = now


@pytest.mark.gen_test
async def test_lines_are_resumed_by_their_number(lyric: Path) -> None:
    """From any of them, over the end of a round too."""
    seen = events_of(await first(9, "lines", "sse", sleep="0"))
    assert [event.id for event in seen] == [str(number) for number in range(1, 10)]
    for place in range(8):
        rest = events_of(await first(8 - place, "lines", "sse", sleep="0", last_event_id=seen[place].id))
        assert rest == seen[place + 1 :]


@pytest.mark.parametrize("last_event_id", ["", "x", "-1", "²", "1.5", "9" * 16, "0"])
@pytest.mark.gen_test
async def test_an_id_that_lines_never_gave_begins_anew(last_event_id: str, lyric: Path) -> None:
    """It may be another stream's."""
    seen = events_of(await first(1, "lines", "sse", sleep="0", last_event_id=last_event_id))
    assert seen == [Seen(f"[         0 s] {LYRIC[0]}", "1", "message")]


@pytest.mark.gen_test
async def test_lines_sleep_in_between(lyric: Path) -> None:
    """The first comes at once, the second after `?sleep=`."""
    assert await first(1, "lines", "text", sleep="3600") == f"[         0 s] {LYRIC[0]}\n".encode()
    async with chunks_of("lines", "text", sleep="0.1") as chunks:
        await anext(chunks)
        began = time.monotonic()
        await anext(chunks)
        assert time.monotonic() - began >= 0.09


@pytest.mark.parametrize("sleep", ["", "abc", "-1", "3601", "nan"])
@pytest.mark.gen_test
async def test_a_malformed_sleep_is_named(sleep: str, lyric: Path) -> None:
    """Before the first line."""
    with pytest.raises(BadParameter, match="sleep must be a number of seconds from 0 to 3600"):
        await first(1, "lines", "text", sleep=sleep)


@pytest.mark.gen_test
async def test_lines_without_their_sample_are_broken(lyric: Path) -> None:
    """A file that went away is no bug."""
    os.unlink(lyric)
    with pytest.raises(SourceBroken):
        await first(1, "lines", "text")


@pytest.mark.gen_test
async def test_the_lyric_that_is_shipped() -> None:
    """It is Korean and English, and is there."""
    received = (await first(3, "lines", "text", sleep="0")).decode()
    assert re.fullmatch(r"(\[         0 s\] .*\n){3}", received)


# --- hello ---


@pytest.mark.parametrize(("args", "greeting"), [
    ({}, "Hello World!"), ({"name": "Millrace"}, "Hello Millrace!"), ({"name": "바람 🎵"}, "Hello 바람 🎵!"),
    ({"name": "\udc80"}, "Hello \ufffd!"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_hello_comes_in_three_chunks(args: dict[str, str], greeting: str) -> None:
    """Without a line end."""
    async with chunks_of("hello", **args) as chunks:
        received = [bytes(chunk) async for chunk in chunks]
    assert len(received) == 3
    assert b"".join(received).decode() == greeting


@pytest.mark.gen_test
async def test_hello_to_nobody_is_named() -> None:
    """An empty name is malformed."""
    with pytest.raises(BadParameter, match="name must not be empty"):
        await whole("hello", name="")


# --- clock ---


@pytest.mark.slow
@pytest.mark.gen_test
async def test_the_clock_ticks_on_the_second() -> None:
    """The first record comes at once, the next at the next second."""
    ticks = [json.loads(line) for line in (await first(3, "clock", "ndjson")).splitlines()]
    assert int(ticks[1]["unix"]) == int(ticks[0]["unix"]) + 1 or ticks[0]["unix"] % 1 > 0.9
    assert int(ticks[2]["unix"]) == int(ticks[1]["unix"]) + 1
    for tick in ticks:
        assert abs(datetime.fromisoformat(tick["time"]).timestamp() - tick["unix"]) < 0.002
    assert ticks[1]["unix"] % 1 < 0.5


@pytest.mark.parametrize(("now", "until"), [(5.0, 6.0), (5.5, 6.0), (5.94, 6.0), (5.9999, 7.0)])
@pytest.mark.gen_test
async def test_a_sleep_that_ends_early_gives_no_second_twice(
    now: float, until: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes a little before a second counts as that second."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    class Asyncio:
        pass

    Asyncio.sleep = staticmethod(sleep)  # type: ignore[attr-defined]
    monkeypatch.setattr(shipped, "asyncio", Asyncio)
    monkeypatch.setattr(shipped, "time", Clock(lambda: now))
    await first(2, "clock", "ndjson")
    assert slept[0] == pytest.approx(until - now)


# --- large.csv and large.html ---


def sums(rows: int) -> tuple[int, int]:
    """The sums of `id` and `quantity` that so many rows must have."""
    return rows * (rows + 1) // 2, sum(number * 7919 % 100 + 1 for number in range(1, rows + 1))


@pytest.mark.parametrize("rows", [0, 1, 1999, 2000, 2001, 5000])
@pytest.mark.gen_test
async def test_as_many_rows_as_asked_for(rows: int) -> None:
    """With a header, in order, whatever the pages."""
    body = (await whole("large.csv", "csv", rows=str(rows))).decode()
    read = list(csv.DictReader(io.StringIO(body, newline=""), strict=True))
    assert body.startswith("id,name,quantity,price,day\r\n")
    assert [int(row["id"]) for row in read] == list(range(1, rows + 1))
    assert sum(int(row["quantity"]) for row in read) == sums(rows)[1]
    for row in read[:3]:
        assert row["name"] == f"Order {row['id']}"
        assert float(row["price"]) == int(row["id"]) * 104729 % 100_000 / 100
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row["day"])


@pytest.mark.gen_test
async def test_each_chunk_is_a_page() -> None:
    """Twenty-one of them, of at most 500 rows; counted and summed up. tests/end_to_end has a million rows."""
    async with chunks_of("large.csv", "csv", rows="10001") as chunks:
        await anext(chunks)  # the header and the first page: 1 to 100
        ids, quantities = sums(100)
        pages = []
        async for chunk in chunks:
            lines = bytes(chunk).decode().splitlines()
            pages.append(len(lines))
            for line in lines:
                fields = line.split(",")
                ids += int(fields[0])
                quantities += int(fields[2])
    assert pages == [500] * 19 + [401]
    assert (ids, quantities) == sums(10_001)


@pytest.mark.gen_test
async def test_a_thousand_rows_without_a_wish() -> None:
    """The default."""
    assert (await whole("large.csv", "csv")).count(b"\r\n") == 1001


@pytest.mark.parametrize("name", ["large.csv", "large.html"])
@pytest.mark.parametrize("rows", ["", "-1", "1.5", "100000001", "many"])
@pytest.mark.gen_test
async def test_a_malformed_number_of_rows_is_named(name: str, rows: str) -> None:
    """On entering."""
    request = StreamRequest({"rows": rows})
    with pytest.raises(BadParameter, match="rows must be a whole number from 0 to 100000000"):
        async with STREAMS[name].open(request, FORMATS["csv"]):
            pass


class Cells(HTMLParser):
    """The texts of a table's cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open = tag == "td"
        if self.open:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.cells[-1] += data.strip()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 3, 2500])
@pytest.mark.gen_test
async def test_a_large_page_has_every_row(rows: int) -> None:
    """Its cells are those of large.csv."""
    page, table = Cells(), await whole("large.csv", "csv", rows=str(rows))
    body = (await whole("large.html", rows=str(rows))).decode()
    page.feed(body)
    expected = [cell for line in table.decode().splitlines()[1:] for cell in line.split(",")]
    assert page.cells == expected
    assert body.startswith("<!doctype html>")
    assert body.rstrip().endswith("</html>")


@pytest.mark.gen_test
async def test_a_large_page_escapes() -> None:
    """The path is the client's own text."""
    request = StreamRequest({"rows": "0"}, path='/x"><script>alert(1)</script>')
    async with STREAMS["large.html"].open(request, None) as body:
        page = b"".join([bytes(chunk) async for chunk in body.chunks()])
    assert b"<script>" not in page
    assert b"&lt;script&gt;" in page


@pytest.mark.gen_test
async def test_the_pieces_of_a_page_go_out_together() -> None:
    """Each that passes through the server on its own costs as much as the row that it is of."""
    async with chunks_of("large.html", rows="100") as chunks:
        pieces = [bytes(chunk) async for chunk in chunks]
    assert len(pieces) < 220


# --- the table ---


def test_what_is_shipped() -> None:
    """Names, default media types, and which are endless."""
    streams = {name: row for name, row in STREAMS.items() if isinstance(row, Stream)}
    assert {name: row for name, row in STREAMS.items() if name not in streams} == {
        "events": ChannelRow("What is published here")
    }
    assert {name: (stream.media_types[0], stream.live) for name, stream in streams.items()} == {
        "lines": ("text/plain; charset=utf-8", True),
        "hello": ("text/plain; charset=utf-8", False),
        "clock": ("application/x-ndjson", True),
        "large.csv": ("text/csv; charset=utf-8; header=present", False),
        "large.html": ("text/html; charset=utf-8", False),
    }
    assert all(stream.title for stream in STREAMS.values())


@pytest.mark.gen_test
async def test_many_read_the_same_query_at_once() -> None:
    """Each has a connection and a page of its own."""
    bodies = await asyncio.gather(*(whole("large.csv", "csv", rows=str(rows)) for rows in (2500, 2500, 4100)))
    assert bodies[0] == bodies[1]
    assert bodies[2].startswith(bodies[0])
