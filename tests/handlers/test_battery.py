"""The range and condition battery: docs/http.md through the real server, every byte compared.

Each row is sent for a track and for a UTF-8 text of the same length, with its headers exactly as they stand,
in each of the ways in which a server can send them (`ways`).
"""

import email
import json
import os
import re
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import AccessLog, ExpectLog
from tests.handlers.ways import WAYS, Served
from tests.serving import Response, eventually, request, serving

pytestmark = pytest.mark.left_out("reads", "uvloop", "processes", reason="it has the ways itself")

LENGTH = 30_044
WHEN = 1_700_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
EARLIER = "Tue, 14 Nov 2023 22:13:19 GMT"
LATER = "Tue, 14 Nov 2023 22:13:21 GMT"
AUDIO, TEXT = "/audio/1", "/text/%EA%B8%80.txt"
TYPES = {AUDIO: "audio/wav", TEXT: "text/plain; charset=utf-8"}


def write_audio(path: Path) -> None:
    """A WAV file of LENGTH bytes, no two windows of it alike."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"".join(number.to_bytes(2, "little") for number in range(15_000)))


def write_text(path: Path) -> None:
    """A Korean text of LENGTH bytes."""
    lines = "".join(f"{number} 가나다라마바사 🎵\n" for number in range(2000)).encode()
    path.write_bytes(lines[: LENGTH - 100].decode("utf-8", "ignore").encode().ljust(LENGTH, b"."))


@pytest.fixture(scope="module", params=WAYS)
def served(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    """One server for the whole table, in each way."""
    root = tmp_path_factory.mktemp("battery") / "library"
    root.mkdir()
    write_audio(root / '노래 "하나".wav')
    write_text(root / "글.txt")
    (root / "empty.txt").touch()
    for path in root.iterdir():
        os.utime(path, (WHEN, WHEN + 0.5))
    with WAYS[request.param](root) as served:
        served.contents[AUDIO] = (root / '노래 "하나".wav').read_bytes()
        served.contents[TEXT] = (root / "글.txt").read_bytes()
        assert set(map(len, served.contents.values())) == {LENGTH}
        yield served


@dataclass
class Row:
    """A request and its answer.

    Args:
        headers: lines, in which ETAG is the entity tag.
        status: with `slices`, half-open: none for the whole, one for a range, several for a multipart.
    """

    name: str
    headers: tuple[str, ...]
    status: int
    slices: tuple[tuple[int, int], ...] = ()
    method: str = "GET"


def ranged(name: str, value: str, *slices: tuple[int, int], status: int = 206) -> Row:
    """A row of one Range header."""
    return Row(name, (f"Range: {value}",), status, slices)


ALL = (0, LENGTH)
SIXTEEN = tuple((number * 100, number * 100 + 10) for number in range(16))

ROWS = [
    Row("plain", (), 200),
    # one range
    ranged("from-the-start", "bytes=0-", ALL),
    ranged("covers-all", "bytes=0-30043", ALL),
    ranged("first-byte", "bytes=0-0", (0, 1)),
    ranged("middle", "bytes=100-199", (100, 200)),
    ranged("open", "bytes=100-", (100, LENGTH)),
    ranged("last-byte", "bytes=30043-", (LENGTH - 1, LENGTH)),
    ranged("last-byte-closed", "bytes=30043-30043", (LENGTH - 1, LENGTH)),
    ranged("past-the-end", "bytes=30000-99999", (30000, LENGTH)),
    ranged("far-past-the-end", "bytes=1-99999999999999999999999", (1, LENGTH)),
    ranged("leading-zeros", "bytes=000000000000000000000000000010-012", (10, 13)),
    ranged("unit-in-capitals", "BYTES=0-4", (0, 5)),
    ranged("white-space-around", "  bytes=0-4 \t", (0, 5)),
    # a suffix
    ranged("suffix-of-one", "bytes=-1", (LENGTH - 1, LENGTH)),
    ranged("suffix", "bytes=-500", (LENGTH - 500, LENGTH)),
    ranged("suffix-of-all", "bytes=-30044", ALL),
    ranged("suffix-longer-than-the-file", "bytes=-30045", ALL),
    ranged("suffix-far-longer", "bytes=-99999999999999999999999", ALL),
    # not satisfiable
    ranged("at-the-end", "bytes=30044-", status=416),
    ranged("behind-the-end", "bytes=30044-30050", status=416),
    ranged("far-behind-the-end", "bytes=99999999999999999999999-", status=416),
    ranged("suffix-of-none", "bytes=-0", status=416),
    ranged("suffix-of-many-zeros", "bytes=-000", status=416),
    ranged("none-of-two", "bytes=30044-,-0", status=416),
    ranged("none-of-three", "bytes=99999-,40000-50000, -0", status=416),
    # malformed: ignored
    ranged("backwards", "bytes=5-4", status=200),
    ranged("backwards-beside-a-good-one", "bytes=0-4,5-4", status=200),
    ranged("letters", "bytes=abc", status=200),
    ranged("letters-beside-a-good-one", "bytes=0-4,abc", status=200),
    ranged("no-range", "bytes=", status=200),
    ranged("only-commas", "bytes=,,", status=200),
    ranged("no-equals", "bytes", status=200),
    ranged("only-a-dash", "bytes=-", status=200),
    ranged("two-dashes", "bytes=1-2-3", status=200),
    ranged("negative", "bytes=--5", status=200),
    ranged("space-before-equals", "bytes =0-4", status=200),
    ranged("space-inside", "bytes=0 - 4", status=200),
    ranged("hexadecimal", "bytes=0x0-4", status=200),
    ranged("sign", "bytes=+0-4", status=200),
    ranged("underscore", "bytes=0-1_0", status=200),
    ranged("other-digits", "bytes=٠-٤", status=200),
    ranged("semicolon", "bytes=0-4;5-6", status=200),
    ranged("empty", "", status=200),
    Row("twice", ("Range: bytes=0-4", "Range: bytes=6-7"), 200),
    # another unit: ignored
    ranged("other-unit", "items=0-4", status=200),
    ranged("unit-of-time", "seconds=0-4", status=200),
    ranged("no-unit", "0-4", status=200),
    # several ranges
    ranged("two", "bytes=0-0,100-199", (0, 1), (100, 200)),
    ranged("in-the-order-asked", "bytes=200-299,0-99", (200, 300), (0, 100)),
    ranged("one-byte-apart", "bytes=0-99,101-199", (0, 100), (101, 200)),
    ranged("first-and-suffix", "bytes=0-9,-10", (0, 10), (LENGTH - 10, LENGTH)),
    ranged("three", "bytes=0-9,-10,500-509", (0, 10), (LENGTH - 10, LENGTH), (500, 510)),
    ranged("overlapping", "bytes=0-99,50-149", (0, 150)),
    ranged("touching", "bytes=0-99,100-199", (0, 200)),
    ranged("touching-backwards", "bytes=100-199,0-99", (0, 200)),
    ranged("contained", "bytes=0-99,10-19", (0, 100)),
    ranged("the-same-twice", "bytes=0-4,0-4", (0, 5)),
    ranged("joined-by-a-third", "bytes=0-99,200-299,50-249", (0, 300)),
    ranged("joined-beside-another", "bytes=500-509,0-99,50-149", (500, 510), (0, 150)),
    ranged("halves", "bytes=0-14999,15000-", ALL),
    ranged("one-of-two", "bytes=0-9,99999-", (0, 10)),
    ranged("one-of-two-backwards", "bytes=-0,0-9", (0, 10)),
    ranged("two-of-three", "bytes=0-9,99999-,20-29", (0, 10), (20, 30)),
    ranged("empty-elements", "bytes=,0-4,, ,10-14,", (0, 5), (10, 15)),
    ranged("white-space", "bytes=0-4 ,\t10-14", (0, 5), (10, 15)),
    ranged("sixteen", "bytes=" + ",".join(f"{a}-{b - 1}" for a, b in SIXTEEN), *SIXTEEN),
    ranged("seventeen", "bytes=" + ",".join(f"{a}-{b - 1}" for a, b in (*SIXTEEN, (5000, 5010))), status=200),
    ranged("seventeen-that-join", "bytes=" + ",".join(["0-0"] * 17), status=200),
    ranged("more-than-the-file", "bytes=0-,0-", status=200),
    ranged("a-byte-more-than-the-file", "bytes=0-30043,-1", status=200),
    # HEAD
    Row("head", (), 200, method="HEAD"),
    Row("head-ignores-range", ("Range: bytes=0-4",), 200, method="HEAD"),
    Row("head-ignores-a-bad-range", ("Range: bytes=99999-",), 200, method="HEAD"),
    Row("head-unchanged", ("If-None-Match: ETAG",), 304, method="HEAD"),
    Row("head-unchanged-since", (f"If-Modified-Since: {MODIFIED}",), 304, method="HEAD"),
    Row("head-changed", ('If-Match: "other"',), 412, method="HEAD"),
    # If-Range
    Row("if-range", ("Range: bytes=0-4", "If-Range: ETAG"), 206, ((0, 5),)),
    Row("if-range-several", ("Range: bytes=0-4,10-14", "If-Range: ETAG"), 206, ((0, 5), (10, 15))),
    Row("if-range-stale", ("Range: bytes=0-4", 'If-Range: "other"'), 200),
    Row("if-range-weak", ("Range: bytes=0-4", "If-Range: W/ETAG"), 200),
    Row("if-range-list", ("Range: bytes=0-4", "If-Range: ETAG, ETAG"), 200),
    Row("if-range-star", ("Range: bytes=0-4", "If-Range: *"), 200),
    Row("if-range-malformed", ("Range: bytes=0-4", "If-Range: abc"), 200),
    Row("if-range-empty", ("Range: bytes=0-4", "If-Range:"), 200),
    Row("if-range-date", ("Range: bytes=0-4", f"If-Range: {MODIFIED}"), 206, ((0, 5),)),
    Row(
        "if-range-date-of-rfc-850",
        ("Range: bytes=0-4", "If-Range: Tuesday, 14-Nov-23 22:13:20 GMT"),
        206,
        ((0, 5),),
    ),
    Row(
        "if-range-date-of-asctime", ("Range: bytes=0-4", "If-Range: Tue Nov 14 22:13:20 2023"), 206, ((0, 5),)
    ),
    Row("if-range-earlier", ("Range: bytes=0-4", f"If-Range: {EARLIER}"), 200),
    Row("if-range-later", ("Range: bytes=0-4", f"If-Range: {LATER}"), 200),
    Row("if-range-without-range", ('If-Range: "other"',), 200),
    Row("if-range-not-satisfiable", ("Range: bytes=99999-", "If-Range: ETAG"), 416),
    Row("if-range-stale-not-satisfiable", ("Range: bytes=99999-", 'If-Range: "other"'), 200),
    # If-Match
    Row("if-match", ("If-Match: ETAG",), 200),
    Row("if-match-star", ("If-Match: *",), 200),
    Row("if-match-list", ('If-Match: "a", ETAG ,"b"',), 200),
    Row("if-match-lines", ('If-Match: "a"', "If-Match: ETAG"), 200),
    Row("if-match-and-range", ("If-Match: ETAG", "Range: bytes=0-4"), 206, ((0, 5),)),
    Row("if-match-other", ('If-Match: "other"',), 412),
    Row("if-match-weak", ("If-Match: W/ETAG",), 412),
    Row("if-match-malformed", ("If-Match: abc",), 412),
    Row("if-match-other-and-range", ('If-Match: "other"', "Range: bytes=0-4"), 412),
    # If-Unmodified-Since
    Row("unmodified-since", (f"If-Unmodified-Since: {MODIFIED}",), 200),
    Row("unmodified-since-later", (f"If-Unmodified-Since: {LATER}",), 200),
    Row("unmodified-since-earlier", (f"If-Unmodified-Since: {EARLIER}",), 412),
    Row("unmodified-since-malformed", ("If-Unmodified-Since: yesterday",), 200),
    Row("unmodified-since-and-range", (f"If-Unmodified-Since: {LATER}", "Range: bytes=0-4"), 206, ((0, 5),)),
    # If-None-Match
    Row("none-match", ("If-None-Match: ETAG",), 304),
    Row("none-match-weak", ("If-None-Match: W/ETAG",), 304),
    Row("none-match-star", ("If-None-Match: *",), 304),
    Row("none-match-list", ('If-None-Match: "a,b", W/ETAG',), 304),
    Row("none-match-other", ('If-None-Match: "other"',), 200),
    Row("none-match-malformed", ("If-None-Match: ETAG abc",), 200),
    Row("none-match-and-range", ("If-None-Match: ETAG", "Range: bytes=0-4"), 304),
    Row("none-match-other-and-range", ('If-None-Match: "other"', "Range: bytes=0-4"), 206, ((0, 5),)),
    Row("none-match-and-bad-range", ("If-None-Match: ETAG", "Range: bytes=99999-"), 304),
    # If-Modified-Since
    Row("modified-since", (f"If-Modified-Since: {MODIFIED}",), 304),
    Row("modified-since-later", (f"If-Modified-Since: {LATER}",), 304),
    Row("modified-since-earlier", (f"If-Modified-Since: {EARLIER}",), 200),
    Row("modified-since-malformed", ("If-Modified-Since: yesterday",), 200),
    Row(
        "modified-since-earlier-and-range",
        (f"If-Modified-Since: {EARLIER}", "Range: bytes=0-4"),
        206,
        ((0, 5),),
    ),
    # precedence
    Row("match-before-unmodified-since", ("If-Match: ETAG", f"If-Unmodified-Since: {EARLIER}"), 200),
    Row("match-before-none-match", ('If-Match: "other"', "If-None-Match: ETAG"), 412),
    Row("match-then-none-match", ("If-Match: ETAG", "If-None-Match: ETAG"), 304),
    Row(
        "unmodified-since-before-none-match", (f"If-Unmodified-Since: {EARLIER}", "If-None-Match: ETAG"), 412
    ),
    Row("none-match-before-modified-since", ('If-None-Match: "other"', f"If-Modified-Since: {LATER}"), 200),
    Row("none-match-whatever-modified-since", ("If-None-Match: ETAG", f"If-Modified-Since: {EARLIER}"), 304),
    Row("modified-since-before-range", (f"If-Modified-Since: {MODIFIED}", "Range: bytes=0-4"), 304),
    Row("match-before-bad-range", ('If-Match: "other"', "Range: bytes=99999-"), 412),
]


@pytest.mark.parametrize("path", [AUDIO, TEXT], ids=["audio", "text"])
def test_the_way(served: Served, path: str) -> None:
    """The rows are answered in the way that the fixture says."""
    assert served.exchange([f"GET {path} HTTP/1.1".encode()]).body == served.contents[path]
    assert served.taken()


@pytest.mark.parametrize("path", [AUDIO, TEXT], ids=["audio", "text"])
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_row(served: Served, row: Row, path: str) -> None:
    """Status, headers and every byte."""
    etag = served.exchange([f"HEAD {path} HTTP/1.1".encode()]).headers["ETag"]
    assert re.fullmatch(r'"[0-9a-f-]+"', etag)
    lines = [line.replace("ETAG", etag).encode() for line in row.headers]
    response = served.exchange([f"{row.method} {path} HTTP/1.1".encode(), *lines])
    headers = response.headers
    assert response.status == row.status
    assert response.whole
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-Id"])
    if row.status in (412, 416):
        check_problem(row, response)
        return
    assert headers["ETag"] == etag
    assert headers["Last-Modified"] == MODIFIED
    assert headers["Cache-Control"] == "no-cache"
    assert headers.get("Vary") == ("Accept, Accept-Encoding" if path == TEXT else None)
    if row.status == 304:
        assert response.body == b""
        assert not {"Content-Type", "Content-Length", "Content-Range", "Transfer-Encoding"} & set(headers)
        return
    assert headers["Accept-Ranges"] == "bytes"
    assert "Transfer-Encoding" not in headers
    check_body(row, response, TYPES[path], served.contents[path])


def check_problem(row: Row, response: Response) -> None:
    """A problem document that tells nothing of the representation but its length."""
    headers = response.headers
    assert headers.get("Content-Range") == (f"bytes */{LENGTH}" if row.status == 416 else None)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert not {"ETag", "Last-Modified", "Content-Disposition"} & set(headers)
    if row.method == "HEAD":
        assert response.body == b""
    else:
        problem = json.loads(response.body)
        assert (problem["status"], problem["instance"]) == (row.status, headers["X-Request-Id"])


def check_body(row: Row, response: Response, media_type: str, content: bytes) -> None:
    """The whole, a slice, or a multipart that is read back."""
    headers = response.headers
    if row.method == "HEAD":
        assert (int(headers["Content-Length"]), response.body) == (LENGTH, b"")
        assert headers["Content-Type"] == media_type
        return
    assert int(headers["Content-Length"]) == len(response.body)
    if len(row.slices) > 1:
        check_multipart(row, response, media_type, content)
        return
    start, stop = row.slices[0] if row.slices else ALL
    assert response.body == content[start:stop]
    assert headers["Content-Type"] == media_type
    wanted = f"bytes {start}-{stop - 1}/{LENGTH}" if row.status == 206 else None
    assert headers.get("Content-Range") == wanted


def check_multipart(row: Row, response: Response, media_type: str, content: bytes) -> None:
    """As the mail library reads it, and as it stands: RFC 9110 §14.6, RFC 2046 §5.1."""
    kind, _, boundary = response.headers["Content-Type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert re.fullmatch("[0-9A-Za-z]{1,70}", boundary)
    assert "Content-Range" not in response.headers
    framed = b""
    for start, stop in row.slices:
        fields = f"Content-Type: {media_type}\r\nContent-Range: bytes {start}-{stop - 1}/{LENGTH}\r\n"
        framed += f"\r\n--{boundary}\r\n{fields}\r\n".encode() + content[start:stop]
    assert b"\r\n" + response.body == framed + f"\r\n--{boundary}--\r\n".encode()
    top = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    parts = email.message_from_bytes(top + response.body).get_payload()
    assert [part["Content-Range"] for part in parts] == [f"bytes {a}-{b - 1}/{LENGTH}" for a, b in row.slices]  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, 200),
        ("bytes=0-", 416),
        ("bytes=0-0", 416),
        ("bytes=-0", 416),
        ("bytes=-5", 200),
        ("bytes=5-4", 200),
        ("bytes=0-,-5", 200),
    ],
)
def test_an_empty_file(served: Served, value: str | None, status: int) -> None:
    """No byte can be asked for; a suffix of nothing is the whole of it."""
    lines = [] if value is None else [f"Range: {value}".encode()]
    response = served.exchange([b"GET /text/empty.txt HTTP/1.1", *lines])
    assert (response.status, response.whole) == (status, True)
    if status == 200:
        assert (response.body, response.headers["Content-Length"]) == (b"", "0")
    else:
        assert response.headers["Content-Range"] == "bytes */0"


@pytest.mark.parametrize("query", ["download=1", "download=0&download=1"])
def test_download(served: Served, query: str) -> None:
    """Under both forms of its name, also in parts; the bytes are the same."""
    plain = served.exchange([f"GET {AUDIO}?{query} HTTP/1.1".encode()])
    part = served.exchange([f"GET {AUDIO}?{query} HTTP/1.1".encode(), b"Range: bytes=0-4"])
    text = served.exchange([f"GET {TEXT}?{query} HTTP/1.1".encode()])
    name = quote('노래 "하나".wav', safe="")
    assert plain.headers["Content-Disposition"] == f"attachment; filename=\"__.wav\"; filename*=UTF-8''{name}"
    assert part.headers["Content-Disposition"] == plain.headers["Content-Disposition"]
    name = "%EA%B8%80.txt"
    assert (
        text.headers["Content-Disposition"] == f"attachment; filename=\"file.txt\"; filename*=UTF-8''{name}"
    )
    assert (plain.body, part.body) == (served.contents[AUDIO], served.contents[AUDIO][:5])
    assert "Content-Disposition" not in served.exchange([f"GET {AUDIO}?download=0 HTTP/1.1".encode()]).headers
    assert served.exchange([f"GET {AUDIO}?download=yes HTTP/1.1".encode()]).status == 400


@pytest.mark.parametrize("lines", [[], [b"Range: bytes=0-4"], [b"Range: bytes=99999-"], [b"If-Match: *"]])
@pytest.mark.parametrize(
    ("own", "kept"),
    [
        (b"abc-DEF_1.2", True),
        (b"a" * 64, True),
        (b"a" * 65, False),
        (b"", False),
        (b"a b", False),
        (b'a"b', False),
        ("요청".encode(), False),
    ],
    ids=["good", "longest", "too-long", "empty", "space", "quote", "korean"],
)
def test_request_id(served: Served, lines: list[bytes], own: bytes, kept: bool) -> None:
    """The client's own is kept if it can stand in a log; any other is replaced."""
    response = served.exchange([f"GET {AUDIO} HTTP/1.1".encode(), b"X-Request-Id: " + own, *lines])
    if kept:
        assert response.headers["X-Request-Id"] == own.decode()
    else:
        assert re.fullmatch(r"[0-9a-f]{16}", response.headers["X-Request-Id"])


@pytest.mark.parametrize("change", ["bytes", "time", "inode"])
@pytest.mark.gen_test
async def test_the_entity_tag_changes_with_the_file(tmp_path: Path, change: str) -> None:
    """Whenever the bytes may have changed."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    async with serving(tmp_path, scan=False) as server:
        before = await server.get("/text/a.txt")
        facts = path.stat()
        if change == "inode":
            path.rename(tmp_path / "old")
        if change != "time":
            path.write_bytes(b"two" if change == "inode" else b"three")
        later = 1 if change == "time" else 0
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + later))
        after = await server.get("/text/a.txt", if_none_match=before.headers["ETag"])
        resumed = await server.get("/text/a.txt", range="bytes=1-", if_range=before.headers["ETag"])
    assert (after.status, resumed.status) == (200, 200)
    assert after.body == resumed.body == path.read_bytes()


@pytest.mark.gen_test
async def test_a_file_that_shrinks_while_it_is_sent(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """The body is short, and the connection broken: it is never padded."""
    expect_log("millrace.serve", 30, "the file shrank")
    path = tmp_path / "a.txt"
    path.write_bytes(b"line\n" * 8_000_000)
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(request("/text/a.txt"), receive_bytes=65536) as client,
    ):
        await client.until(b"line\n")
        os.truncate(path, 1000)
        received, _ = await client.rest()
        await eventually(lambda: access_log.endings)
    response = Response.parsed(received)
    assert not response.whole
    # The kernel sends pages, not copies: what had not arrived of the page that was cut is zeros.
    assert response.body[:1000] == (b"line\n" * 200)
    assert set(response.body) <= set(b"line\n\0")
    assert len(response.body) < 40_000_000
    assert access_log.endings == [("failed", len(response.body))]


@pytest.mark.gen_test
async def test_a_file_that_is_replaced_while_it_is_sent(tmp_path: Path) -> None:
    """The one that was opened goes on."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"line\n" * 4_000_000)
    (tmp_path / "b.txt").write_bytes(b"other")
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(request("/text/a.txt", connection="close"), receive_bytes=65536) as client,
    ):
        await client.until(b"line\n")
        (tmp_path / "b.txt").rename(path)
        received, _ = await client.rest()
        assert (await server.get("/text/a.txt")).body == b"other"
    response = Response.parsed(received)
    assert response.whole
    assert response.body == b"line\n" * 4_000_000
