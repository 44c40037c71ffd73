"""Lines of a file that grows: where runs are cut, what ids say, what each format makes of them."""

import json
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.lines import (
    FOLLOWED_FORMATS,
    MARK_BYTES,
    RUN_LINES,
    Rotated,
    Run,
    Splitter,
    check_followable,
    encoded,
    id_of,
    last_bytes,
    mark_of,
    read_id,
    said,
)
from media.source import RUN_BYTES, BadParameter
from media.text import LINE_BYTES
from tests.media.test_records import events_of

INODE = 7
whole = partial(Run, start=0, before=b"", inode=INODE)


def split(data: bytes, size: int) -> list[bytes]:
    """The runs of `data` that comes in pieces of a size, and what is left."""
    splitter = Splitter()
    runs = [run for at in range(0, len(data), size) for run in splitter.feed(data[at : at + size])]
    return [*runs, splitter.flush()]


@given(st.text("ab바\n", max_size=60), st.integers(1, 9))
@settings(deadline=None)
def test_runs_are_whole_lines_in_whatever_pieces_they_come(text: str, size: int) -> None:
    """Nothing is lost, and only the last, which has come without its end, has none."""
    *runs, rest = split(text.encode(), size)
    assert b"".join([*runs, rest]).decode() == text
    assert all(run.endswith(b"\n") for run in runs)
    assert b"\n" not in rest


@pytest.mark.parametrize("data", [
    b"\n" * 100_000, b"x" * 99 + b"\n", (b"x" * 99 + b"\n") * 5000, (b"x" * 70_000 + b"\n") * 3,
    b"x\n" + b"y" * (LINE_BYTES - 1) + b"\nz\n",
], ids=["empty lines", "one", "many", "long ones", "the longest"])  # fmt: skip
@pytest.mark.parametrize("size", [4096, 10**7])
def test_runs_are_bounded(data: bytes, size: int) -> None:
    """By their bytes and by their lines, if they are not one line."""
    *runs, rest = split(data, size)
    assert b"".join(runs) == data
    assert rest == b""
    for run in runs:
        assert run.endswith(b"\n")
        assert run.count(b"\n") <= RUN_LINES
        assert len(run) <= RUN_BYTES or run.count(b"\n") == 1


@pytest.mark.parametrize("size", [1000, RUN_BYTES, 10**7])
def test_a_line_without_end_is_cut_at_a_code_point(size: int) -> None:
    """It would have to be kept until it ends."""
    text = "바" * LINE_BYTES + "\n끝\n"
    *runs, rest = split(text.encode(), size)
    assert "".join(run.decode() for run in runs) == text
    assert rest == b""
    assert all(len(run) <= LINE_BYTES for run in runs)


def test_ids_say_where_a_line_ends_and_what_is_before() -> None:
    """Whatever run a line is in, its id is the same."""
    data = "".join(f"줄 {number}\n" for number in range(50)).encode()
    run = whole(data)
    events = events_of(encoded(run, "sse"))
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    assert [event.id for event in events] == [id_of(end, last_bytes(b"", data[:end]), INODE) for end in ends]
    for cut in (ends[0], ends[20], ends[-1]):
        assert [event.id for event in events_of(encoded(run.behind(cut), "sse"))] == [
            event.id for event in events if int(event.id.partition("-")[0]) > cut
        ]


def test_a_mark_tells_another_file_and_other_bytes() -> None:
    """Of what is further back it knows nothing."""
    data = b"x" * 100 + b"\n"
    there = last_bytes(b"", data)
    assert len(there) == MARK_BYTES
    assert mark_of(there, INODE) != mark_of(there, INODE + 1)
    assert mark_of(there, INODE) != mark_of(last_bytes(b"", data[:-2] + b"y\n"), INODE)
    run = whole(data + b"next\n")
    assert run.has(len(data), mark_of(there, INODE))
    assert not run.has(len(data), mark_of(there, INODE + 1))
    assert not run.has(10**6, mark_of(there, INODE))


@pytest.mark.parametrize(("text", "found"), [
    ("0", (0, "")), ("17", (17, "")), ("17-00c0ffee", (17, "00c0ffee")),
    *[(text, None) for text in ("", "-1", "17-", "17-xyz", "17-00C0FFEE", "1e3", "١٧", "9" * 19, "(end)")],
])  # fmt: skip
def test_reading_an_id(text: str, found: tuple[int, str] | None) -> None:
    """What no file gave is named; a plain number has no mark."""
    if found is None:
        with pytest.raises(BadParameter, match="last_event_id"):
            read_id(text)
    else:
        assert read_id(text) == found


LINES = [
    (b"plain\n", "plain"), (b"\n", ""), (b"dos\r\n", "dos"), (b"a\rb\n", "a\rb"), (b"no end", "no end"),
    ("바람 🎵\n".encode(), "바람 🎵"), (b"broken \xff\xeb\x9d\n", "broken ��"), (b"nul \0\n", "nul \0"),
    (b'"quoted" \\ \x1b[0m\n', '"quoted" \\ \x1b[0m'), (b"\xef\xbb\xbfmarked\n", "marked"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "text"), LINES, ids=[ascii(text) for _, text in LINES])
def test_one_line_in_each_format(data: bytes, text: str) -> None:
    """A client of each gets the same; a byte-order mark is no part of the first line."""
    [event] = events_of(encoded(whole(data), "sse"))
    assert event.data == text.replace("\r", "\n")
    line = json.loads(encoded(whole(data), "ndjson"))
    assert line == {"id": event.id, "event": "message", "data": text}
    shown = encoded(whole(data), "text").decode()
    assert shown.removeprefix("\ufeff") == text + {b"no end": "", b"dos\r\n": "\r\n"}.get(data, "\n")


def test_another_encoding_becomes_utf_8() -> None:
    """An id stays a place in the file as it is."""
    data = "바람\n곳\n".encode("cp949")
    assert encoded(whole(data), "text", "cp949").decode() == "바람\n곳\n"
    events = events_of(encoded(whole(data), "sse", "cp949"))
    assert [(event.data, event.id.partition("-")[0]) for event in events] == [("바람", "5"), ("곳", "8")]


@pytest.mark.parametrize(("encoding", "followable"), [
    ("utf-8", True), ("cp949", True), ("shift_jis", True), ("iso8859-1", True), ("gb18030", True),
    ("big5", True), ("utf-16", False), ("utf-32-le", False), ("cp037", False), ("iso2022_jp", False),
    ("hz", False), ("utf-8-sig", False),
])  # fmt: skip
def test_which_encodings_can_be_followed(encoding: str, followable: bool) -> None:
    """Those in which every line can be read by itself."""
    if followable:
        check_followable(encoding)
    else:
        with pytest.raises(BadParameter, match="follow"):
            check_followable(encoding)


def test_a_rotation_is_said_in_each_format() -> None:
    """In text it shows only where a line had no end."""
    rotated = Rotated("unknown", "0-00000000", last_event_id="17-00c0ffee")
    [event] = events_of(said(rotated, "sse"))
    assert (event.event, event.id) == ("rotated", "0-00000000")
    facts = {"cause": "unknown", "last_event_id": "17-00c0ffee"}
    assert json.loads(event.data) == facts
    line = json.loads(said(rotated, "ndjson"))
    assert line == {"id": "0-00000000", "event": "rotated", "data": facts}
    assert said(rotated, "text") == b""
    assert said(Rotated("replaced", "0-00000000", unfinished=True), "text") == b"\n"
    assert set(FOLLOWED_FORMATS) == {"text", "sse", "ndjson"}
