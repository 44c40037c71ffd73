"""Conditions and ranges: a table of cases, a naive oracle, and headers that try to cost much."""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders

from handlers.conditional import Piece, Plan, Slice, http_date, plan
from media.source import Facts

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
RFC850 = "Sunday, 06-Nov-94 08:49:37 GMT"
ASCTIME = "Sun Nov  6 08:49:37 1994"

# The fraction of a second is never seen.
FILE = Facts("audio/ogg", 100, '"tag"', datetime(1994, 11, 6, 8, 49, 37, 999_999, tzinfo=UTC))
EMPTY = Facts("text/plain", 0, '"tag"', FILE.modified)
WEAK = Facts("audio/ogg", 100, 'W/"tag"', FILE.modified)
ODD = Facts("audio/ogg", 100, '"a,b\\\xe9"', FILE.modified)
UNDATED = Facts("audio/ogg", 100, '"tag"')
UNTAGGED = Facts("audio/ogg", 100, None, FILE.modified)
BARE = Facts("text/csv")

BIG = "9" * 30


def planned(
    headers: Mapping[str, str], facts: Facts = FILE, *, method: str = "GET", sliceable: bool = True
) -> Plan:
    """The plan with the boundary B, at noon of a fixed day."""
    return plan(method, HTTPHeaders(headers), facts, sliceable, boundary=lambda: "B", now=NOW)


def ranges(*texts: str) -> dict[str, str]:
    return {"Range": "bytes=" + ",".join(texts)}


WHOLE = [(0, 100)]


def case(
    name: str,
    headers: dict[str, str],
    status: int,
    slices: list[tuple[int, int]] | None,
    *,
    facts: Facts = FILE,
    method: str = "GET",
    sliceable: bool = True,
):
    """A row: a request, its status and the slices of its body."""
    return pytest.param(headers, status, slices, facts, method, sliceable, id=name)


PLAIN = [
    case("get", {}, 200, WHOLE),
    case("head", {}, 200, [], method="HEAD"),
    case("get an empty file", {}, 200, [], facts=EMPTY),
    case("get what cannot be cut", {}, 200, None, sliceable=False),
    case("head of what cannot be cut", {}, 200, [], sliceable=False, method="HEAD"),
    case("get what is generated", {}, 200, None, facts=BARE, sliceable=False),
    case("get what can be cut but has no length", {}, 200, None, facts=BARE),
]

RANGES = [
    case("one", ranges("10-19"), 206, [(10, 20)]),
    case("first byte", ranges("0-0"), 206, [(0, 1)]),
    case("last byte", ranges("99-99"), 206, [(99, 100)]),
    case("open", ranges("90-"), 206, [(90, 100)]),
    case("open from the start", ranges("0-"), 206, WHOLE),
    case("exactly everything", ranges("0-99"), 206, WHOLE),
    case("past the end is cut", ranges("90-1000"), 206, [(90, 100)]),
    case("stop at the length is cut", ranges("90-100"), 206, [(90, 100)]),
    case("suffix", ranges("-10"), 206, [(90, 100)]),
    case("suffix of everything", ranges("-100"), 206, WHOLE),
    case("suffix longer than the file", ranges("-101"), 206, WHOLE),
    case("suffix of many digits", ranges(f"-{BIG}"), 206, WHOLE),
    case("suffix of nothing", ranges("-0"), 416, []),
    case("suffix of many zeros", ranges("-000"), 416, []),
    case("at the length", ranges("100-"), 416, []),
    case("beyond the length", ranges("100-200"), 416, []),
    case("several unsatisfiable", ranges("100-", "-0", "500-600"), 416, []),
    case("start of many digits", ranges(f"{BIG}-"), 416, []),
    case("start and end of many digits", ranges(f"{BIG}-{BIG}"), 416, []),
    case("end of many digits", ranges(f"10-{BIG}"), 206, [(10, 100)]),
    case("end of 100,000 digits", ranges("10-" + "9" * 100_000), 206, [(10, 100)]),
    case("start of 100,000 digits", ranges("9" * 100_000 + "-"), 416, []),
    case("twenty digits", ranges("10-" + "9" * 20), 206, [(10, 100)]),
    case("many leading zeros", ranges("0" * 30 + "10-" + "0" * 50 + "19"), 206, [(10, 20)]),
    case("unit in capitals", {"Range": "ByTeS=10-19"}, 206, [(10, 20)]),
    case("range on head is ignored", ranges("10-19"), 200, [], method="HEAD"),
    case("unsatisfiable range on head is ignored", ranges("100-"), 200, [], method="HEAD"),
    case("range of what cannot be cut", ranges("10-19"), 200, None, sliceable=False),
    case("range of unknown length", ranges("10-19"), 200, None, facts=BARE),
    case("empty file, open range", ranges("0-"), 416, [], facts=EMPTY),
    case("empty file, first byte", ranges("0-0"), 416, [], facts=EMPTY),
    case("empty file, suffix", ranges("-5"), 200, [], facts=EMPTY),
    case("empty file, suffix of nothing", ranges("-0"), 416, [], facts=EMPTY),
    case("empty file, suffix beside an open range", ranges("0-", "-5"), 200, [], facts=EMPTY),
]

MALFORMED = [
    case(f"malformed {text!r}"[:60], {"Range": text}, 200, WHOLE)
    for text in (
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes= , ,",
        "bytes=-",
        "bytes=--1",
        "bytes=1",
        "bytes=a-b",
        "bytes=1-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=1_0-20",
        "bytes=1 -2",
        "bytes=1- 2",
        "bytes=- 2",
        "bytes= 1-2",
        "bytes =1-2",
        "bytes:1-2",
        "bytes=1-2-3",
        "bytes=1-2;3-4",
        "bytes=1-2 3-4",
        "bytes=20-10",
        f"bytes=2{BIG}-1{BIG}",
        f"bytes={BIG}-10",
        "bytes=0-1,20-10",
        "bytes=200-100",
        "bytes=0-1,x",
        "bytes=٣-٤",
        "bytes=0-1\n",
        "byteſ=0-1",
        "bytes=0-1,bytes=4-5",
        "none",
        "seconds=1-2",
        "items=0-5",
        "0-5",
    )
]

SEVERAL = [
    case("two", ranges("0-9", "20-29"), 206, [(0, 10), (20, 30)]),
    case("order asked is kept", ranges("20-29", "0-9"), 206, [(20, 30), (0, 10)]),
    case("first and last", ranges("0-0", "-1"), 206, [(0, 1), (99, 100)]),
    case("white space around commas", {"Range": "bytes=0-1 \t, \t4-5 "}, 206, [(0, 2), (4, 6)]),
    case("empty elements", {"Range": "bytes=, ,0-1,,\t,4-5, ,"}, 206, [(0, 2), (4, 6)]),
    case("two headers joined", {"Range": "bytes=0-1,4-5"}, 206, [(0, 2), (4, 6)]),
    case("unsatisfiable beside one", ranges("100-", "0-9", "-0"), 206, [(0, 10)]),
    case("unsatisfiable beside two", ranges("0-9", "100-", "20-29"), 206, [(0, 10), (20, 30)]),
    case("overlapping are one", ranges("0-19", "10-29"), 206, [(0, 30)]),
    case("touching are one", ranges("0-9", "10-19"), 206, [(0, 20)]),
    case("touching from behind are one", ranges("10-19", "0-9"), 206, [(0, 20)]),
    case("a byte apart are two", ranges("0-9", "11-19"), 206, [(0, 10), (11, 20)]),
    case("the same twice is one", ranges("5-9", "5-9"), 206, [(5, 10)]),
    case("one inside another", ranges("0-50", "10-19"), 206, [(0, 51)]),
    case("joined stands at its first member", ranges("50-59", "0-9", "60-69"), 206, [(50, 70), (0, 10)]),
    case("joined to the second", ranges("0-9", "50-59", "45-49"), 206, [(0, 10), (45, 60)]),
    case("a bridge joins two", ranges("20-29", "0-9", "80-89", "10-19"), 206, [(0, 30), (80, 90)]),
    case("all joined by the last", ranges("0-9", "20-29", "10-19"), 206, [(0, 30)]),
    case("suffix joined", ranges("80-", "-30"), 206, [(70, 100)]),
    case("as many bytes as there are", ranges("50-99", "0-49"), 206, WHOLE),
    case("more bytes than there are", ranges("0-99", "0-0"), 200, WHOLE),
    case("more bytes, though joined fewer", ranges("0-50", "0-50"), 200, WHOLE),
    case(
        "sixteen", ranges(*(f"{n}-{n}" for n in range(0, 32, 2))), 206, [(n, n + 1) for n in range(0, 32, 2)]
    ),
    case("seventeen", ranges(*(f"{n}-{n}" for n in range(0, 34, 2))), 200, WHOLE),
    case("seventeen that touch", ranges(*(f"{n}-{n}" for n in range(17))), 200, WHOLE),
    case("seventeen, sixteen unsatisfiable", ranges("0-0", *["100-"] * 16), 200, WHOLE),
    case("sixteen, fifteen unsatisfiable", ranges("0-0", *["100-"] * 15), 206, [(0, 1)]),
    case("seventeen unsatisfiable", ranges(*["100-"] * 17), 200, WHOLE),
]

CONDITIONS = [
    case("if-match, this tag", {"If-Match": '"tag"'}, 200, WHOLE),
    case("if-match, another", {"If-Match": '"other"'}, 412, []),
    case("if-match, in a list", {"If-Match": '"other" ,, W/"x",\t"tag",'}, 200, WHOLE),
    case("if-match, any", {"If-Match": "*"}, 200, WHOLE),
    case("if-match, any, of what has no tag", {"If-Match": "*"}, 200, None, facts=BARE),
    case("if-match, a tag, of what has none", {"If-Match": '"tag"'}, 412, [], facts=BARE),
    case("if-match, weak in the request", {"If-Match": 'W/"tag"'}, 412, []),
    case("if-match, weak on both sides", {"If-Match": 'W/"tag"'}, 412, [], facts=WEAK),
    case("if-match, weak here", {"If-Match": '"tag"'}, 412, [], facts=WEAK),
    case("if-match, lower-case w", {"If-Match": 'w/"tag"'}, 412, []),
    case("if-match, without quotes", {"If-Match": "tag"}, 412, []),
    case("if-match, malformed beside this tag", {"If-Match": '"tag", x'}, 412, []),
    case("if-match, any beside a tag", {"If-Match": '*, "tag"'}, 412, []),
    case("if-match, empty", {"If-Match": ""}, 412, []),
    case("if-match, comma, backslash, obs-text", {"If-Match": '"x", "a,b\\\xe9"'}, 200, WHOLE, facts=ODD),
    case("if-match, backslash escapes nothing", {"If-Match": '"\\"tag"'}, 412, []),
    case("if-match, space in a tag", {"If-Match": '"a b", "tag"'}, 412, []),
    case("if-match, no comma between", {"If-Match": '"a" "tag"'}, 412, []),
    case("if-match before range", {"If-Match": '"tag"', **ranges("0-9")}, 206, [(0, 10)]),
    case("failed if-match before range", {"If-Match": '"x"', **ranges("0-9")}, 412, []),
    case("failed if-match before 416", {"If-Match": '"x"', **ranges("100-")}, 412, []),
    case("failed if-match on head", {"If-Match": '"x"'}, 412, [], method="HEAD"),
    case("if-match of what cannot be cut", {"If-Match": '"x"'}, 412, [], sliceable=False),
    case("if-unmodified-since, same", {"If-Unmodified-Since": MODIFIED}, 200, WHOLE),
    case("if-unmodified-since, later", {"If-Unmodified-Since": LATER}, 200, WHOLE),
    case("if-unmodified-since, earlier", {"If-Unmodified-Since": EARLIER}, 412, []),
    case("if-unmodified-since, no date", {"If-Unmodified-Since": "yesterday"}, 200, WHOLE),
    case("if-unmodified-since, undated", {"If-Unmodified-Since": EARLIER}, 200, WHOLE, facts=UNDATED),
    case("if-match true sets the date aside", {"If-Match": "*", "If-Unmodified-Since": EARLIER}, 200, WHOLE),
    case("if-match false, date true", {"If-Match": '"x"', "If-Unmodified-Since": LATER}, 412, []),
    case("412 before 304", {"If-Match": '"x"', "If-None-Match": '"tag"'}, 412, []),
    case("if-match true, then 304", {"If-Match": '"tag"', "If-None-Match": '"tag"'}, 304, []),
    case("dates: 412 before 304", {"If-Unmodified-Since": EARLIER, "If-None-Match": "*"}, 412, []),
    case("dates: true, then 304", {"If-Unmodified-Since": LATER, "If-Modified-Since": LATER}, 304, []),
    case("if-none-match, this tag", {"If-None-Match": '"tag"'}, 304, []),
    case("if-none-match, another", {"If-None-Match": '"other"'}, 200, WHOLE),
    case("if-none-match, in a list", {"If-None-Match": ',"other",\t"tag" ,'}, 304, []),
    case("if-none-match, weak in the request", {"If-None-Match": 'W/"tag"'}, 304, []),
    case("if-none-match, weak here", {"If-None-Match": '"tag"'}, 304, [], facts=WEAK),
    case("if-none-match, weak on both sides", {"If-None-Match": 'W/"tag"'}, 304, [], facts=WEAK),
    case("if-none-match, any", {"If-None-Match": "*"}, 304, []),
    case("if-none-match, any, of what has no tag", {"If-None-Match": "*"}, 304, [], facts=BARE),
    case("if-none-match, of what has no tag", {"If-None-Match": '"tag"'}, 200, None, facts=BARE),
    case("if-none-match, malformed", {"If-None-Match": '"tag", x'}, 200, WHOLE),
    case("if-none-match, without quotes", {"If-None-Match": "tag"}, 200, WHOLE),
    case("if-none-match, empty", {"If-None-Match": ""}, 200, WHOLE),
    case("if-none-match, comma in the tag", {"If-None-Match": '"a,b\\\xe9"'}, 304, [], facts=ODD),
    case("if-none-match, part of a tag", {"If-None-Match": '"a","b"'}, 200, WHOLE, facts=ODD),
    case("if-none-match on head", {"If-None-Match": '"tag"'}, 304, [], method="HEAD"),
    case("if-none-match of what cannot be cut", {"If-None-Match": '"tag"'}, 304, [], sliceable=False),
    case("304 before range", {"If-None-Match": '"tag"', **ranges("0-9")}, 304, []),
    case("304 before 416", {"If-None-Match": '"tag"', **ranges("100-")}, 304, []),
    case("if-none-match true, then range", {"If-None-Match": '"x"', **ranges("0-9")}, 206, [(0, 10)]),
    case("if-none-match before date", {"If-None-Match": '"x"', "If-Modified-Since": LATER}, 200, WHOLE),
    case("a malformed one is there too", {"If-None-Match": "x", "If-Modified-Since": LATER}, 200, WHOLE),
    case("if-modified-since, same", {"If-Modified-Since": MODIFIED}, 304, []),
    case("if-modified-since, later", {"If-Modified-Since": LATER}, 304, []),
    case("if-modified-since, earlier", {"If-Modified-Since": EARLIER}, 200, WHOLE),
    case("if-modified-since, RFC 850", {"If-Modified-Since": RFC850}, 304, []),
    case("if-modified-since, asctime", {"If-Modified-Since": ASCTIME}, 304, []),
    case("if-modified-since, two of them", {"If-Modified-Since": f"{LATER},{LATER}"}, 200, WHOLE),
    case("if-modified-since, no date", {"If-Modified-Since": "0"}, 200, WHOLE),
    case("if-modified-since, undated", {"If-Modified-Since": LATER}, 200, WHOLE, facts=UNDATED),
    case("if-modified-since on head", {"If-Modified-Since": LATER}, 304, [], method="HEAD"),
    case("if-modified-since before range", {"If-Modified-Since": LATER, **ranges("0-9")}, 304, []),
    case("names in any case", {"if-none-match": '"tag"'}, 304, []),
]

IF_RANGE = [
    case("if-range without range", {"If-Range": '"x"'}, 200, WHOLE),
    case("if-range, this tag", {"If-Range": '"tag"', **ranges("0-9")}, 206, [(0, 10)]),
    case("if-range, another", {"If-Range": '"x"', **ranges("0-9")}, 200, WHOLE),
    case("if-range, weak in the request", {"If-Range": 'W/"tag"', **ranges("0-9")}, 200, WHOLE),
    case("if-range, weak on both sides", {"If-Range": 'W/"tag"', **ranges("0-9")}, 200, WHOLE, facts=WEAK),
    case("if-range, weak here", {"If-Range": '"tag"', **ranges("0-9")}, 200, WHOLE, facts=WEAK),
    case("if-range, tag of none", {"If-Range": '"tag"', **ranges("0-9")}, 200, WHOLE, facts=UNTAGGED),
    case("if-range, this date", {"If-Range": MODIFIED, **ranges("0-9")}, 206, [(0, 10)]),
    case("if-range, this date, RFC 850", {"If-Range": RFC850, **ranges("0-9")}, 206, [(0, 10)]),
    case("if-range, this date, asctime", {"If-Range": ASCTIME, **ranges("0-9")}, 206, [(0, 10)]),
    case("if-range, earlier date", {"If-Range": EARLIER, **ranges("0-9")}, 200, WHOLE),
    case("if-range, later date", {"If-Range": LATER, **ranges("0-9")}, 200, WHOLE),
    case("if-range, undated", {"If-Range": MODIFIED, **ranges("0-9")}, 200, WHOLE, facts=UNDATED),
    case("if-range, malformed", {"If-Range": "tag", **ranges("0-9")}, 200, WHOLE),
    case("if-range, malformed, undated", {"If-Range": "x", **ranges("0-9")}, 200, WHOLE, facts=UNDATED),
    case("if-range, empty", {"If-Range": "", **ranges("0-9")}, 200, WHOLE),
    case("if-range, any", {"If-Range": "*", **ranges("0-9")}, 200, WHOLE),
    case("if-range, a list", {"If-Range": '"tag","tag"', **ranges("0-9")}, 200, WHOLE),
    case("if-range true, unsatisfiable", {"If-Range": '"tag"', **ranges("100-")}, 416, []),
    case("if-range false, unsatisfiable", {"If-Range": '"x"', **ranges("100-")}, 200, WHOLE),
    case("if-range true, malformed range", {"If-Range": '"tag"', "Range": "x"}, 200, WHOLE),
    case("if-range on head", {"If-Range": '"tag"', **ranges("0-9")}, 200, [], method="HEAD"),
    case("if-range uncut", {"If-Range": '"x"', **ranges("0-9")}, 200, None, sliceable=False),
]


@pytest.mark.parametrize(
    ("headers", "status", "slices", "facts", "method", "sliceable"),
    PLAIN + RANGES + MALFORMED + SEVERAL + CONDITIONS + IF_RANGE,
)
def test_status_and_slices(headers, status, slices, facts, method, sliceable):
    """Each request gets the status, the slices and exactly the headers that belong on that status."""
    answer = planned(headers, facts, method=method, sliceable=sliceable)

    assert answer.status == status
    assert slices_of(answer) == slices
    assert set(answer.headers) == names_expected(status, slices, facts, sliceable)
    if status == 416:
        assert answer.headers["Content-Range"] == f"bytes */{facts.length}"
    if status == 206 and len(slices) == 1:
        ((start, stop),) = slices
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{facts.length}"
        assert answer.headers["Content-Type"] == facts.media_type
    if status == 200 and facts.length is not None:
        assert answer.headers["Content-Length"] == str(facts.length)
    assert_adds_up(answer, method)


def names_expected(status, slices, facts, sliceable) -> set[str]:
    if status in (412, 416):
        return {"Content-Range"} if status == 416 else set()
    names = {"ETag"} if facts.etag else set()
    names |= {"Last-Modified"} if facts.modified else set()
    if status == 304:
        return names
    names |= {"Content-Type"}
    names |= {"Content-Length"} if facts.length is not None else set()
    names |= {"Accept-Ranges"} if sliceable and facts.length is not None else set()
    return names | ({"Content-Range"} if status == 206 and len(slices) == 1 else set())


def slices_of(answer: Plan) -> list[tuple[int, int]] | None:
    if answer.pieces is None:
        return None
    return [(piece.start, piece.stop) for piece in answer.pieces if isinstance(piece, Slice)]


def size(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.stop - piece.start


def assert_adds_up(answer: Plan, method: str = "GET") -> None:
    """The pieces are what Content-Length says, or there are none where there must be none."""
    if answer.status not in (200, 206) or method == "HEAD":
        assert answer.pieces == ()
    elif answer.pieces is not None:
        assert all(size(piece) for piece in answer.pieces)
        assert sum(map(size, answer.pieces)) == int(answer.headers["Content-Length"])


# Headers and validators.


def test_whole_file_says_everything_of_it():
    """A 200 carries both validators, the type, the length and that ranges are understood."""
    assert planned({}).headers == {
        "ETag": '"tag"',
        "Last-Modified": MODIFIED,
        "Accept-Ranges": "bytes",
        "Content-Type": "audio/ogg",
        "Content-Length": "100",
    }


def test_not_modified_carries_the_validators_only():
    """A 304 has ETag and Last-Modified and nothing of the representation."""
    answer = planned({"If-None-Match": '"tag"'})

    assert answer.headers == {"ETag": '"tag"', "Last-Modified": MODIFIED}


def test_a_date_in_the_future_is_now():
    """What is sent and compared as Last-Modified is never later than the response (RFC 9110 §8.8.2.1)."""
    facts = Facts("text/plain", 5, None, NOW + timedelta(days=1))
    now = "Fri, 20 Nov 2026 12:00:00 GMT"

    assert planned({}, facts).headers["Last-Modified"] == now
    assert planned({"If-Modified-Since": now}, facts).status == 304


def test_a_date_in_another_zone_is_sent_in_utc():
    """Any aware date will do."""
    facts = Facts("text/plain", 5, None, datetime(2026, 1, 1, 5, tzinfo=timezone(timedelta(hours=9))))

    assert planned({}, facts).headers["Last-Modified"] == "Wed, 31 Dec 2025 20:00:00 GMT"


def test_length_is_said_of_a_body_that_cannot_be_cut():
    """A known length is sent, but not that ranges are understood."""
    answer = planned({}, sliceable=False)

    assert answer.headers["Content-Length"] == "100"
    assert "Accept-Ranges" not in answer.headers


def test_the_clock_and_the_boundary_have_defaults():
    """Each multipart gets 32 hexadecimal digits of its own, and the present is the clock's."""
    tomorrow = Facts("text/plain", 100, None, datetime.now(UTC) + timedelta(days=1))
    answers = [plan("GET", ranges("0-1", "4-5"), tomorrow, True) for _ in range(2)]
    first, second = (answer.headers["Content-Type"].partition("=")[2] for answer in answers)

    assert first != second
    assert len(bytes.fromhex(first)) == len(bytes.fromhex(second)) == 16
    for answer in answers:
        assert http_date(answer.headers["Last-Modified"], NOW) <= datetime.now(UTC)


def test_multipart_byte_for_byte():
    """Every part has its type and its range; the whole has a boundary and no Content-Range."""
    answer = planned(ranges("0-9", "-1"))

    assert answer.headers["Content-Type"] == "multipart/byteranges; boundary=B"
    assert "Content-Range" not in answer.headers
    assert answer.pieces == (
        b"--B\r\nContent-Type: audio/ogg\r\nContent-Range: bytes 0-9/100\r\n\r\n",
        Slice(0, 10),
        b"\r\n--B\r\nContent-Type: audio/ogg\r\nContent-Range: bytes 99-99/100\r\n\r\n",
        Slice(99, 100),
        b"\r\n--B--\r\n",
    )
    assert_adds_up(answer)


@pytest.mark.parametrize(("count", "asked"), [(0, ranges("0-9")), (1, ranges("0-9", "20-29"))])
def test_a_boundary_is_drawn_only_for_a_multipart(count, asked):
    """Randomness is not spent on what needs none."""
    drawn: list[None] = []
    plan("GET", asked, FILE, True, boundary=lambda: drawn.append(None) or "B", now=NOW)

    assert len(drawn) == count


# HTTP dates.


@pytest.mark.parametrize(
    ("text", "date"),
    [
        pytest.param(MODIFIED, (1994, 11, 6, 8, 49, 37), id="IMF-fixdate"),
        pytest.param(RFC850, (1994, 11, 6, 8, 49, 37), id="RFC 850"),
        pytest.param(ASCTIME, (1994, 11, 6, 8, 49, 37), id="asctime"),
        pytest.param("Wed Nov 16 08:49:37 1994", (1994, 11, 16, 8, 49, 37), id="asctime, two digits"),
        pytest.param("Mon, 06 Nov 1994 08:49:37 GMT", (1994, 11, 6, 8, 49, 37), id="wrong day of the week"),
        pytest.param("Sat, 31 Dec 2016 23:59:60 GMT", (2016, 12, 31, 23, 59, 59), id="leap second"),
        pytest.param("Thu, 29 Feb 2024 00:00:00 GMT", (2024, 2, 29, 0, 0, 0), id="leap day"),
        pytest.param("Friday, 20-Nov-76 12:00:00 GMT", (2076, 11, 20, 12, 0, 0), id="50 years ahead"),
        pytest.param(
            "Friday, 20-Nov-76 12:00:01 GMT", (1976, 11, 20, 12, 0, 1), id="more than 50 years ahead"
        ),
        pytest.param("Tuesday, 29-Feb-00 00:00:00 GMT", (2000, 2, 29, 0, 0, 0), id="leap day of 2000"),
        pytest.param("Sun, 29 Feb 2023 00:00:00 GMT", None, id="no such day"),
        pytest.param("Sun, 06 Nov 1994 24:00:00 GMT", None, id="hour 24"),
        pytest.param("Sun, 06 Nov 1994 08:49:61 GMT", None, id="second 61"),
        pytest.param("Sun, 06 Nov 0000 08:49:37 GMT", None, id="year 0"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 UTC", None, id="zone UTC"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 +0000", None, id="numeric zone"),
        pytest.param("Sun, 06 Nov 1994 08:49:37", None, id="no zone"),
        pytest.param("sun, 06 nov 1994 08:49:37 gmt", None, id="lower case"),
        pytest.param("Sun, 6 Nov 1994 08:49:37 GMT", None, id="day of one digit"),
        pytest.param("06 Nov 1994 08:49:37 GMT", None, id="no day of the week"),
        pytest.param("Sun, ٠٦ Nov 1994 08:49:37 GMT", None, id="digits of another script"),
        pytest.param("1994-11-06T08:49:37Z", None, id="ISO 8601"),
        pytest.param("784111777", None, id="a number"),
        pytest.param("", None, id="empty"),
        pytest.param(MODIFIED + "\n", None, id="a line end"),
    ],
)
def test_http_date(text, date):
    """The three formats of RFC 9110 §5.6.7, and nothing else."""
    assert http_date(text, NOW) == (None if date is None else datetime(*date, tzinfo=UTC))


# An oracle that knows only sets of positions.


def oracle(specs: list[tuple[int | None, int | None]], length: int) -> tuple[int, list[list[int]]]:
    """Status and the positions of each part, for ranges as (first, last), a suffix as (None, count)."""
    everything = list(range(length))
    whole = 200, [everything] if everything else []
    if len(specs) > 16 or any(None not in spec and spec[0] > spec[1] for spec in specs):
        return whole
    if not length:
        return (200, []) if any(first is None and last for first, last in specs) else (416, [])
    parts = []
    for first, last in specs:
        if first is None:
            parts.append({p for p in everything if p >= length - last})
        else:
            parts.append({p for p in everything if first <= p and (last is None or p <= last)})
    parts = [part for part in parts if part]
    if not parts:
        return 416, []
    if sum(map(len, parts)) > length:
        return whole
    return 206, joined_naively(parts)


def joined_naively(parts: list[set[int]]) -> list[list[int]]:
    """Join the first pair that shares or neighbours a position, at the earlier place, until there is none."""
    for one in range(len(parts)):
        for other in range(one + 1, len(parts)):
            if {p + d for p in parts[one] for d in (-1, 0, 1)} & parts[other]:
                return joined_naively(
                    [*parts[:one], parts[one] | parts[other], *parts[one + 1 : other], *parts[other + 1 :]]
                )
    return [sorted(part) for part in parts]


def written(spec: tuple[int | None, int | None]) -> str:
    return "-".join("" if end is None else str(end) for end in spec)


ends = st.integers(0, 60) | st.integers(10**18, 10**25)
spans = st.tuples(st.integers(0, 60), st.integers(0, 4)).map(lambda it: (it[0], it[0] + it[1]))
range_specs = (
    spans
    | st.tuples(ends, ends)
    | st.tuples(ends, st.none())
    | st.tuples(st.none(), ends)
    | st.tuples(st.none(), st.integers(0, 5))
)


@pytest.mark.slow
@settings(deadline=None)  # time says little on a shared machine
@given(
    st.lists(spans, min_size=1, max_size=18) | st.lists(range_specs, min_size=1, max_size=5),
    st.integers(0, 60),
)
@example([(None, 5)], 0)
@example([(8, 9), (0, 1), (4, 5), (2, 3), (6, 7)], 60)
def test_any_ranges_are_as_the_oracle_says(specs, length):
    """Status, and body as a MIME parser reads it, equal those of a naive reading of positions."""
    content = bytes(range(length))
    facts = Facts("audio/ogg", length)

    answer = planned(ranges(*map(written, specs)), facts)
    status, parts = oracle(specs, length)

    assert answer.status == status
    assert_adds_up(answer)
    expected = [bytes(content[p] for p in part) for part in parts]
    assert bodies(answer, content) == expected


def bodies(answer: Plan, content: bytes) -> list[bytes]:
    """The parts of the answer, each checked against its own Content-Range."""
    wire = b"".join(
        piece if isinstance(piece, bytes) else content[piece.start : piece.stop] for piece in answer.pieces
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    message = BytesParser(policy=HTTP).parsebytes(head.encode() + b"\r\n" + wire)
    if not message.is_multipart():
        return [wire] if wire else []
    assert not message.defects
    parts = [part.get_content() for part in message.iter_parts()]
    for part, body in zip(message.iter_parts(), parts, strict=True):
        start = content.index(body)
        assert part["Content-Range"] == f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        assert part["Content-Type"] == "audio/ogg"
    return parts


range_tokens = ("bytes=", "BYTES=", "-", ",", "=", "0", "1", "5-9", "99", "100-", "-0", "1-1", "9" * 25)
tag_tokens = ('"', '"tag"', 'W/"tag"', "W/", "*", "\\", '"a,b"', MODIFIED, RFC850, ASCTIME, "GMT")
grammar = st.sampled_from((*range_tokens, *tag_tokens, " ", "\t", "x", "\xe9", "\0"))
values = st.text(max_size=30) | st.lists(grammar, max_size=12).map("".join)
conditions = ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")


@pytest.mark.slow
@settings(deadline=None)  # time says little on a shared machine
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(conditions, values)),
    st.sampled_from([FILE, EMPTY, WEAK, ODD, UNDATED, UNTAGGED, BARE]),
    st.sampled_from(["GET", "HEAD"]),
    st.booleans(),
)
def test_no_header_text_raises(headers, facts, method, sliceable):
    """Whatever is sent, there is an answer, its pieces add up, and each slice lies within the body."""
    answer = plan(method, headers, facts, sliceable, now=NOW)

    assert answer.status in (200, 206, 304, 412, 416)
    assert_adds_up(answer, method)
    assert all(0 <= start < stop <= (facts.length or 0) for start, stop in slices_of(answer) or ())


# Headers that try to cost much. Counted in calls, for time on a shared machine says little.


def calls(headers: dict[str, str]) -> tuple[Plan, int]:
    """The plan, and how many functions, built-in ones too, were called to make it."""
    made = 0

    def count(frame, event, argument):
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        answer = plan("GET", headers, FILE, True, now=NOW)
    finally:
        sys.setprofile(before)
    return answer, made


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("bytes=" + "0-0," * 10_000, id="10,000 ranges"),
        pytest.param("bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(10_000)), id="10,000 apart"),
        pytest.param("bytes=" + "9-1," * 250_000, id="1 MB of ranges the wrong way round"),
        pytest.param("bytes=" + "," * 1_000_000, id="1 MB of commas"),
        pytest.param("bytes=" + " ," * 500_000 + "x", id="1 MB of commas and spaces, then malformed"),
        pytest.param("bytes=" + "," + " " * 1_000_000 + "x", id="1 MB of spaces, then malformed"),
        pytest.param("bytes=0-0" + " " * 1_000_000 + "x", id="1 MB of spaces behind a range"),
        pytest.param("bytes=" + "1" * 1_000_000, id="1 MB of digits"),
        pytest.param("bytes=0-0," * 100_000, id="1 MB of repeated headers"),
        pytest.param("bytes=" + ("0-0," + " ," * 30_000) * 16 + "x", id="1 MB of gaps, then malformed"),
        pytest.param("x" * 1_000_000, id="1 MB of another unit"),
    ],
)
def test_a_long_range_costs_no_more_than_a_short_one(header):
    """It is ignored after as few calls as are made for sixteen ranges, and nothing is kept of it."""
    _, for_sixteen = calls(ranges(*(f"{n}-{n}" for n in range(0, 32, 2))))

    answer, made = calls({"Range": header})

    assert answer.status == 200
    assert answer.pieces == (Slice(0, 100),)
    assert made < for_sixteen


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "If-Range", "If-Modified-Since"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param('"x",' * 250_000 + "x", id="tags, then malformed"),
        pytest.param('"' * 1_000_000, id="quotes"),
        pytest.param("W/" * 500_000, id="weak prefixes"),
        pytest.param(", " * 500_000 + "x", id="commas"),
        pytest.param('"' + "x" * 1_000_000, id="an open quote"),
        pytest.param('"a"' + " " * 1_000_000 + "x", id="spaces behind a tag"),
    ],
)
def test_a_megabyte_of_condition_matches_nothing_in_few_calls(name, text):
    """A malformed condition of any length is read once, by one regular expression."""
    answer, made = calls({name: text, "Range": "bytes=0-9"})

    assert answer.status == {"If-Match": 412, "If-Range": 200}.get(name, 206)
    assert made < 100


@pytest.mark.parametrize(
    "ranges_",
    [
        ",".join(["0-"] * 10_000),
        ",".join(f"{10 * n}-{10 * n + 1}" for n in range(10_000)),
        " , ".join(["-5"] * 10_000),
        ",".join(["99999999999-"] * 10_000),
        "0-0" + "," * 10_000,
    ],
    ids=["overlapping", "apart", "suffixes", "unsatisfiable", "empty"],
)
def test_ten_thousand_ranges_cost_less_than_five_milliseconds(ranges_: str) -> None:
    """Of CPU, the best of three; 0.01 to 0.1 were measured."""
    facts = Facts("audio/ogg", 10**9, '"tag"', FILE.modified)
    costs = []
    for _ in range(3):
        began = time.thread_time()
        plan("GET", {"Range": f"bytes={ranges_}"}, facts, True)
        costs.append(time.thread_time() - began)
    assert min(costs) < 0.005
