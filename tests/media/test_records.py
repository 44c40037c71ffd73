"""Records, lines and events → bytes, in five formats, each read back by a parser that is not ours."""

import csv
import io
import json
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.records import END_ID, FORMATS, Event, Item, sse_event, sse_retry


class Seen(NamedTuple):
    """An event as a browser dispatches it."""

    data: str
    id: str
    event: str


def events_of(stream: bytes) -> list[Seen]:
    """The events of a whole stream, by the steps of the HTML Living Standard §9.2.6."""
    text = stream.decode("utf-8").removeprefix("\ufeff")
    seen, data, last_id, event = [], "", "", "message"
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert lines.pop() == "", "an event that is not ended is not dispatched"
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                seen.append(Seen(data.removesuffix("\n"), last_id, event))
            data, event = "", "message"
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "event":
            event = value
        else:
            assert name in ("", "retry"), f"no field of ours: {line!r}"
    return seen


def body(form: str, *items: Item, columns: tuple[str, ...] = ()) -> bytes:
    """A whole body, encoded one item at a time."""
    encoder = FORMATS[form].encoder(columns)
    return encoder.begin() + b"".join(encoder.encode((item,)) for item in items) + encoder.end()


RECORD = {"name": "바람", "n": 1, "x": None}

END = b"event: end\nid: (end)\ndata: {}\n\n"

BODIES = {
    "text_empty": ("text", [], b""),
    "text_lines": ("text", ["a", "", "바람"], "a\n\n바람\n".encode()),
    "text_ends": ("text", ["a\n", "b", "\n", "c\r\n", "d\ne", "f\r"], b"a\nb\n\nc\r\nd\ne\nf\r\n"),
    "text_record": ("text", [RECORD], '{"name":"바람","n":1,"x":null}\n'.encode()),
    "text_event": ("text", [Event("a", "7", "tick")], b"a\n"),
    "ndjson_empty": ("ndjson", [], b""),
    "ndjson_records": ("ndjson", [{"a": 1}, {"a": "\n"}], b'{"a":1}\n{"a":"\\n"}\n'),
    "ndjson_line": ("ndjson", ["a\nb"], b'"a\\nb"\n'),
    "ndjson_event": ("ndjson", [Event({"a": 1}, "7", "tick")], b'{"a":1}\n'),
    "json_empty": ("json", [], b"[]\n"),
    "json_one": ("json", [{"a": 1}], b'[{"a":1}]\n'),
    "json_three": ("json", [{"a": 1}, "b", Event({})], b'[{"a":1},\n"b",\n{}]\n'),
    "sse_empty": ("sse", [], END),
    "sse_numbered": ("sse", ["a", {"b": 1}], b'id: 1\ndata: a\n\nid: 2\ndata: {"b":1}\n\n' + END),
    "sse_named": ("sse", [Event("a", "x7", "tick")], b"event: tick\nid: x7\ndata: a\n\n" + END),
    "sse_retry": ("sse", [Event("a", retry=3000), Event("b", retry=0)],
                  b"retry: 3000\nid: 1\ndata: a\n\nretry: 0\nid: 2\ndata: b\n\n" + END),
    "sse_lines": ("sse", ["a\nb\n"], b"id: 1\ndata: a\ndata: b\ndata: \n\n" + END),
    "sse_mixed": ("sse", ["a", Event("b", "x"), Event("c")],
                  b"id: 1\ndata: a\n\nid: x\ndata: b\n\nid: 3\ndata: c\n\n" + END),
    "csv_empty": ("csv", [], b""),
    "csv_lines": ("csv", ["a", "b,c"], b'line\r\na\r\n"b,c"\r\n'),
    "csv_records": ("csv", [{"a": 1, "b": 2.5}, {"b": None, "a": ""}], b"a,b\r\n1,2.5\r\n,\r\n"),
    "csv_fewer_columns": ("csv", [{"a": 1, "b": 2}, {"a": 3}, {}], b"a,b\r\n1,2\r\n3,\r\n,\r\n"),
    "csv_quotes": ("csv", [{"a": 'say "hi"', "b": "x\r\ny"}], b'a,b\r\n"say ""hi""","x\r\ny"\r\n'),
    "csv_event": ("csv", [Event({"a": "바람"})], "a\r\n바람\r\n".encode()),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_body_in_its_format(case: str) -> None:
    """Byte for byte, as HTTP.md §5 says."""
    form, items, expected = BODIES[case]
    assert body(form, *items) == expected


@pytest.mark.parametrize("case", BODIES)
def test_many_items_at_once_are_the_same_body(case: str) -> None:
    """How a source cuts its items into calls is not to be seen."""
    form, items, expected = BODIES[case]
    encoder = FORMATS[form].encoder(())
    assert encoder.begin() + encoder.encode(items) + encoder.encode([]) + encoder.end() == expected


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_added_can_be_taken_at_any_time(form: str) -> None:
    """What is taken is there no more; an item is written when it comes."""
    encoder, record = FORMATS[form].encoder(()), {"n": 0}
    pieces = [encoder.begin()]
    for record["n"] in range(4):
        encoder.add(record)
        encoder.add(record)
        pieces.append(encoder.take())
        assert encoder.take() == b""
    items = [{"n": number} for number in range(4) for _ in range(2)]
    assert b"".join(pieces) + encoder.end() == body(form, *items)


@pytest.mark.parametrize("form", FORMATS)
def test_the_encoder_says_how_much_there_is(form: str) -> None:
    """But for the last few rows, so that it is taken when it is enough."""
    encoder = FORMATS[form].encoder(())
    sizes = [encoder.add({"n": 1, "filling": "x" * 100}) for _ in range(200)]
    assert sizes == sorted(sizes)
    taken = len(encoder.take())
    assert taken * 0.8 < sizes[-1] <= taken
    assert encoder.add({"n": 1, "filling": "x"}) < 200


NO_ITEMS = {
    "number": (5, "dict, str or Event, not int$"),
    "none": (None, "not NoneType$"),
    "list": ([1], "not list$"),
    "bytes": (b"a", "not bytes; bytes need a media_type$"),
    "event_of_bytes": (Event(b"a"), "not bytes; bytes need a media_type$"),  # type: ignore[arg-type]
    "event_of_an_event": (Event(Event("a")), "not Event$"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", NO_ITEMS)
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_no_item(form: str, case: str) -> None:
    """The user is told which type it is; what came before it is as it was."""
    item, words = NO_ITEMS[case]
    encoder = FORMATS[form].encoder(())
    begin = encoder.begin()
    encoder.add("a")
    with pytest.raises(TypeError, match=words):
        encoder.add(item)  # type: ignore[arg-type]
    assert begin + encoder.take() + encoder.end() == body(form, "a")


@pytest.mark.parametrize("retry", ["3000", 1.5])
def test_a_retry_that_is_no_number_is_refused(retry: object) -> None:
    """A browser would ignore it."""
    with pytest.raises(ValueError, match="format code"):
        body("sse", Event("a", retry=retry))  # type: ignore[arg-type]


def test_known_columns_stand_above_no_rows() -> None:
    """A query without rows still has its header."""
    assert body("csv", columns=("id", "name")) == b"id,name\r\n"
    assert body("csv", {"name": "b", "id": 1}, columns=("id", "name")) == b"id,name\r\n1,b\r\n"


def test_a_new_column_is_refused() -> None:
    """The header is out: what has no place under it must not be lost."""
    with pytest.raises(ValueError, match="the first record had"):
        body("csv", {"a": 1}, {"a": 1, "b": 2})


def test_a_first_record_without_columns_is_refused() -> None:
    """It would name none for those after it."""
    with pytest.raises(ValueError, match="it has none"):
        body("csv", {}, {"a": 1})


# --- read back by others ---

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ROWS = st.lists(st.fixed_dictionaries({"a": TEXTS, "b,": TEXTS}), min_size=1)


@pytest.mark.slow
@given(ROWS)
def test_csv_is_read_back_as_it_was(records: list[dict[str, str]]) -> None:
    """Whatever stands in the fields: commas, quotes, line breaks of every kind, nothing at all."""
    read = csv.DictReader(io.StringIO(body("csv", *records).decode(), newline=""), strict=True)
    assert list(read) == records


@pytest.mark.slow
@given(st.lists(TEXTS))
def test_lines_of_csv_are_read_back(lines: list[str]) -> None:
    """One column: an empty line of text is a row too."""
    read = list(csv.reader(io.StringIO(body("csv", *lines).decode(), newline=""), strict=True))
    assert read == ([["line"], *([line] for line in lines)] if lines else [])


@pytest.mark.slow
@given(st.lists(TEXTS))
def test_events_are_read_back(lines: list[str]) -> None:
    """Line breaks inside become LF: an event stream has no other."""
    expected = [line.replace("\r\n", "\n").replace("\r", "\n") for line in lines]
    *seen, end = events_of(body("sse", *lines))
    assert end == Seen("{}", END_ID, "end")
    assert [event.data for event in seen] == expected
    assert [event.id for event in seen] == [str(number) for number in range(1, len(lines) + 1)]


ANY_TEXT = st.text('a"\\\n\0é바🎵\ud83c\udfb5', max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.lists(st.dictionaries(ANY_TEXT, JSON, max_size=3), max_size=3))
def test_json_is_valid_whatever_the_values(records: list[dict[str, object]]) -> None:
    """NaN, halves of surrogate pairs and integers over 64 bits included: strict JSON in strict UTF-8."""

    def refuse(word: str) -> None:
        raise AssertionError(f"no JSON: {word}")

    read = json.loads(body("json", *records).decode("utf-8"), parse_constant=refuse)
    lines = [json.loads(line, parse_constant=refuse) for line in body("ndjson", *records).splitlines()]
    assert read == lines
    assert len(read) == len(records)


def as_records(form: str, stream: bytes) -> list[object]:
    match form:
        case "json":
            return list(json.loads(stream))
        case "sse":
            return [json.loads(event.data) for event in events_of(stream) if event.event != "end"]
    return [json.loads(line) for line in stream.split(b"\n")[:-1]]


@pytest.mark.parametrize("form", ["text", "ndjson", "json", "sse"])
def test_a_heartbeat_may_stand_anywhere_between(form: str) -> None:
    """Between any two pieces, the first and the last included, the items stay what they are."""
    records = [{"n": number, "text": "a\n b"} for number in range(3)]
    encoder, heartbeat = FORMATS[form].encoder(()), FORMATS[form].heartbeat
    pieces = [encoder.encode((record,)) for record in records]
    stream = encoder.begin() + heartbeat + heartbeat.join(pieces) + heartbeat + encoder.end()
    if form == "ndjson":
        stream = b"\n".join(line for line in stream.split(b"\n") if line) + b"\n"  # empty lines mean nothing
    if form == "text":
        stream = stream.removesuffix(b" ")  # one space, only where a line would start
    assert as_records(form, stream) == records


def test_csv_has_no_heartbeat() -> None:
    """There is nothing that could stand between two rows and mean nothing."""
    assert FORMATS["csv"].heartbeat == b""


def test_a_record_without_csv_takes_none_with_it() -> None:
    """Those before it are written, whether it is seen when it comes or with others."""
    encoder = FORMATS["csv"].encoder(("v", "n"))
    for number in range(10):
        encoder.add({"v": number, "n": 1})
    encoder.add({"v": object(), "n": 1})
    assert encoder.take().count(b"\r\n") == 10
    for go_on in (encoder.take, encoder.end):
        with pytest.raises(TypeError):
            go_on()


def test_halves_of_surrogate_pairs_never_break_a_stream() -> None:
    """In keys, lines, columns, ids and names alike: UTF-8 has no such code points."""
    half = "a\udc80"
    for form in FORMATS:
        assert "a\ufffd" in body(form, half).decode("utf-8")
        assert "a\ufffd" in body(form, {half: half}).decode("utf-8")
    assert sse_event(b"x", half, half) == "event: a\ufffd\nid: a\ufffd\ndata: x\n\n".encode()


# --- server-sent events ---


BREAKS = [(f"a{end}data: b", "") for end in ("\n", "\r", "\r\n")]
BREAKS += [("", id_) for id_, _ in BREAKS] + [("a\0", "")]


@pytest.mark.parametrize(("id_", "event"), BREAKS)
def test_a_line_break_in_an_id_or_a_name_is_refused(id_: str, event: str) -> None:
    """What came behind it would be a field of its own; an id with a NUL would be ignored."""
    with pytest.raises(ValueError, match="line break"):
        sse_event(b"x", id_, event)
    with pytest.raises(ValueError, match="line break"):
        body("sse", Event("x", id_, event))


@pytest.mark.parametrize(
    "data", ["", " ", " a", "\n", "\r", "a\r\nb\n\rc", ": no comment", "id: 5", "\n\n", "\0"]
)
def test_data_arrives_as_it_was(data: str) -> None:
    """A leading space and empty lines stay; no line of the data is taken for a field."""
    expected = data.replace("\r\n", "\n").replace("\r", "\n")
    assert events_of(sse_event(data.encode(), "1")) == [Seen(expected, "1", "message")]


def test_without_an_id_and_a_name() -> None:
    """An event that has neither is its data alone."""
    assert sse_event(b"a") == b"data: a\n\n"


def test_a_retry_is_no_event() -> None:
    """It only tells the browser how long to wait: not all clients the same time."""
    retries = {sse_retry() for _ in range(100)}
    assert len(retries) > 1
    for retry in retries:
        assert retry.startswith(b"retry: ")
        assert retry.endswith(b"\n\n")
        assert 1000 <= int(retry[len(b"retry: ") :]) <= 5000
        assert events_of(retry) == []
