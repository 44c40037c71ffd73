"""Another server's events and lines, however they are cut."""

from collections.abc import Iterable

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import given
from hypothesis import strategies as st

from media.eventsource import EVENT_BYTES, EventStream, Lines
from media.records import Event, Json
from media.source import SourceBroken


def events(pieces: Iterable[bytes], last_id: str = "") -> tuple[list[Event], EventStream]:
    """What comes of the pieces, and what was read."""
    stream = EventStream(last_id)
    return [event for piece in pieces for event in stream.items(piece)], stream


# The examples of the standard, §9.2.6, and its steps one by one.
CASES = {
    "message": (b"data: a\n\n", [Event("a")]),
    "lines": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
    "comment": (b": test stream\n\ndata: a\n\n", [Event("a")]),
    "comment_inside": (b"data: a\n: x\ndata: b\n\n", [Event("a\nb")]),
    "ids": (b"data: a\nid: 1\n\ndata: b\nid\n\ndata:  c\n\n", [Event("a", "1"), Event("b"), Event(" c")]),
    "id_stays": (b"id: 1\ndata: a\n\ndata: b\n\n", [Event("a", "1"), Event("b", "1")]),
    "id_without_data": (b"id: 1\n\ndata: b\n\n", [Event("b", "1")]),
    "id_with_nul": (b"id: 1\nid: a\0b\ndata: a\n\n", [Event("a", "1")]),
    "no_data": (b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")]),
    "one_space": (b"data:test\n\ndata: test\n\n", [Event("test"), Event("test")]),
    "name": (b"event: add\ndata: 1\n\ndata: 2\n\n", [Event("1", event="add"), Event("2")]),
    "name_without_data": (b"event: add\n\ndata: 2\n\n", [Event("2")]),
    "unknown_field": (b"datum: 1\nDATA: 2\ndata : 3\ndata: 4\n\n", [Event("4")]),
    "return": (b"data: a\r\rdata: b\r\r", [Event("a"), Event("b")]),
    "return_newline": (b"data: a\r\n\r\ndata: b\r\ndata: c\r\n\r\n", [Event("a"), Event("b\nc")]),
    "mixed": (b"data: a\r\ndata: b\rdata: c\n\r\n", [Event("a\nb\nc")]),
    "mark": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    "two_marks": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "mark_inside": (b"data: \xef\xbb\xbfa\n\n", [Event("\ufeffa")]),
    "no_utf8": (b"data: \xff\xed\x95\n\n", [Event("\ufffd\ufffd")]),
    "other_line_ends": ("data: a\u2028b\x0bc\x85\n\n".encode(), [Event("a\u2028b\x0bc\x85")]),
    "characters": ("data: 바람 🌬\n\n".encode(), [Event("바람 🌬")]),
    "unfinished": (b"data: a\n\ndata: b\n", [Event("a")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_are_as_the_standard_has_them(name: str, size: int) -> None:
    """Whatever the pieces in which they come."""
    received, expected = CASES[name]
    pieces = [received[start : start + size] for start in range(0, len(received), size)]
    assert events(pieces)[0] == expected


@pytest.mark.parametrize("said", [b"data: a\n\n", b"data: a\r\r", b"data: a\r\n\r"])
def test_an_event_waits_for_no_byte_behind_it(said: bytes) -> None:
    """Not for the LF that may belong to its CR."""
    assert events([said])[0] == [Event("a")]


@pytest.mark.parametrize(
    ("said", "milliseconds"),
    [(b"retry: 10\n", 10), (b"retry: 1.5\n", None), (b"retry: -1\n", None), ("retry: ٣\n".encode(), None),
     (b"retry:\n", None), (b"retry: 10\nretry: 20\n", 20), (b"retry: 99999999999999\n", 999999999)],
)  # fmt: skip
def test_retry_is_of_digits_alone(said: bytes, milliseconds: int | None) -> None:
    """And counts at once."""
    assert events([said])[1].retry_milliseconds == milliseconds


def test_the_last_id_is_kept_from_the_connection_before() -> None:
    """An id counts when its event ends, also without data; one that is cut off does not."""
    received, stream = events([b"data: a\n\nid: 6\n\nid: 7\ndata: b"], "5")
    assert (received, stream.last_id) == ([Event("a", "5")], "6")


@pytest.mark.slow
@pytest.mark.parametrize("piece", [b"data: " + b"x" * 1000, b"data: x\n" * 500, b"x" * 1000])
def test_an_event_is_bounded(piece: bytes) -> None:
    """In a line or in many."""
    with pytest.raises(SourceBroken):
        events([piece] * (EVENT_BYTES // 500))


ODD_LINE_ENDS = "\r\n\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # those that str.splitlines knows


@pytest.mark.slow
@given(
    st.lists(st.text(st.characters(exclude_characters=ODD_LINE_ENDS, codec="utf-8"))),
    st.lists(st.integers(1, 20)),
)
def test_another_reader_reads_the_same(lines: list[str], cuts: list[int]) -> None:
    """httpx-sse, of the whole at once."""
    received = "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(received[start : start + cut])
        start += cut
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=received)
    expected = [event.data for event in EventSource(response).iter_sse()]
    assert [event.data for event in events([*pieces, received[start:]])[0]] == expected


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_are_values(size: int) -> None:
    """Byte for byte, numbers without loss; empty ones are heartbeats."""
    received = '{"n": 123456789012345678901234567890}\n\n[1, "바람"]\r\n  \nnull\n"last"'.encode()
    lines = Lines()
    items = [
        item
        for start in range(0, len(received), size)
        for item in lines.items(received[start : start + size])
    ]
    assert [*items, *lines.rest()] == [
        b'{"n": 123456789012345678901234567890}', '[1, "바람"]'.encode(), b"null", b'"last"',
    ]  # fmt: skip
    assert all(isinstance(item, Json) for item in items)


@pytest.mark.parametrize("line", [b"{\n", b"NaN\n", b"\xff\n", b"x" * (EVENT_BYTES + 1)])
def test_a_line_that_is_none_breaks_the_stream(line: bytes) -> None:
    """No JSON, no UTF-8, or without end."""
    with pytest.raises(SourceBroken):
        list(Lines().items(line))
