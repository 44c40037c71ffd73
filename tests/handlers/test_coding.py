"""gzip and zstd through a real server: what is coded, what comes at once, and how a coded body ends."""

import asyncio
import gzip
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from handlers import coding
from handlers.coding import Coder, can_be_coded, coded_facts
from handlers.limits import Limits
from handlers.page import STATIC
from media.source import Facts, SourceBroken
from tests.conftest import AccessLog, ExpectLog
from tests.handlers.test_pump import Script, failing, one_by_one, script  # noqa: F401, a fixture
from tests.serving import Client, Response, chunks_route, eventually, request, serving

LINES = "".join(f"{number} 물레방아 turns, and the stream goes on\n" for number in range(2000)).encode()
MIB = 1024 * 1024
decoders: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
}
SAMPLES = Path(__file__).parent.parent.parent / "media" / "samples"


def decoded(response: Response) -> bytes:
    """The body of a coded response; it must be whole, to its last byte."""
    return decoders[response.headers["Content-Encoding"]](response.body)


def so_far(client: Client) -> bytes:
    """What a client can decode of the response that it has begun to read."""
    return zlib.decompressobj(31).decompress(Response.parsed(client.received).body)


async def until_decoded(client: Client, wanted: bytes) -> None:
    """Read until so much can be decoded."""
    await client.until(b"\r\n\r\n")
    while so_far(client) != wanted:
        assert wanted.startswith(so_far(client))
        assert await client.read(), f"closed: {so_far(client)!r}"


# --- the coder ---


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("level", range(1, 10))
def test_all_levels_decode(level: int, live: bool) -> None:
    """Each piece at once, and all of it as one gzip member."""
    coder, decoder = Coder("gzip", level, live=live), zlib.decompressobj(31)
    pieces = [LINES[start : start + 999] for start in range(0, len(LINES), 999)]
    sent = [coder.coded(memoryview(piece), last=piece is pieces[-1]) for piece in pieces]
    assert [decoder.decompress(piece) for piece in sent] == pieces
    assert decoder.eof
    assert sum(map(len, sent)) < len(LINES) / 2


def test_zstd_decodes() -> None:
    """Each piece at once, and all of it as one frame."""
    coder, decoder = Coder("zstd", 1), zstandard.ZstdDecompressor().decompressobj()
    pieces = [LINES[start : start + 9999] for start in range(0, len(LINES), 9999)]
    sent = [coder.coded(memoryview(piece), last=piece is pieces[-1]) for piece in pieces]
    assert [decoder.decompress(piece) for piece in sent] == pieces
    assert decoder.eof
    assert sum(map(len, sent)) < len(LINES) / 2


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_nothing_comes_of_nothing(name: str) -> None:
    """No header before there is a body, nothing behind its end; an empty body is whole all the same."""
    coder = Coder(name, 4)
    assert coder.coded(b"") == b""
    assert decoders[name](coder.coded(b"", last=True)) == b""
    assert coder.coded(b"", last=True) == b""
    assert coder.coded(b"more") == b""


@pytest.mark.parametrize(
    ("media_type", "can"),
    [
        ("text/plain; charset=utf-8", True),
        ("text/csv; charset=utf-8; header=present", True),
        ("Text/HTML", True),
        ("text/css", True),
        ("text/javascript; charset=utf-8", True),
        ("application/json", True),
        ("application/x-ndjson", True),
        ("image/svg+xml", True),
        ("text/event-stream", False),
        ("text/event-stream; charset=utf-8", False),
        ("audio/mpeg", False),
        ("image/jpeg", False),
        ("application/octet-stream", False),
        ("", False),
    ],
)
def test_what_can_be_coded(media_type: str, can: bool) -> None:
    """Text in any form, but no events; nothing that is compressed already."""
    assert can_be_coded(media_type) == can


@pytest.mark.parametrize(
    ("method", "headers", "facts", "sliceable", "etag"),
    [
        ("GET", {}, Facts("text/plain", 5000, '"1"'), True, 'W/"1-gzip"'),
        ("HEAD", {}, Facts("text/plain", 5000, '"1"'), True, 'W/"1-gzip"'),
        ("GET", {}, Facts("text/plain", None, 'W/"1-cp949"'), False, 'W/"1-cp949-gzip"'),
        ("GET", {}, Facts("text/plain", None, None), False, None),
        ("GET", {}, Facts("text/plain", 1024, '"1"'), True, 'W/"1-gzip"'),
        ("GET", {}, Facts("text/plain", 1023, '"1"'), True, "as it is"),
        ("GET", {}, Facts("text/plain", 5000, '"1"', coding="br"), True, "as it is"),
        ("GET", {"Range": "bytes=0-"}, Facts("text/plain", 5000, '"1"'), True, "as it is"),
        ("HEAD", {"Range": "bytes=0-"}, Facts("text/plain", 5000, '"1"'), True, 'W/"1-gzip"'),
        ("GET", {"Range": "bytes=0-"}, Facts("text/plain"), False, None),
        ("GET", {"If-Match": '"1"'}, Facts("text/plain", 5000, '"1"'), True, "as it is"),
        ("GET", {"If-None-Match": '"1"'}, Facts("text/plain", 5000, '"1"'), True, 'W/"1-gzip"'),
        ("GET", {"Accept-Encoding": "gzip;q=0"}, Facts("text/plain", 5000, '"1"'), True, "as it is"),
        ("GET", {"Accept-Encoding": "br"}, Facts("text/plain", 5000, '"1"'), True, "as it is"),
    ],
)
def test_the_facts_of_a_coded_body(
    method: str, headers: dict[str, str], facts: Facts, sliceable: bool, etag: str | None
) -> None:
    """No length, and a weak tag of its own. Where parts are asked for, or it is short, nothing changes."""
    found = coded_facts(method, {"Accept-Encoding": "gzip", **headers}, facts, sliceable)
    if etag == "as it is":
        assert found is facts
    else:
        assert (found.length, found.etag, found.coding) == (None, etag, "gzip")


# --- what is coded ---


@pytest.mark.parametrize(
    "target",
    [
        "/text/song.txt",
        "/text/song.txt?pace=0.00001",
        "/text/korean.txt",
        "/large.csv?rows=3000",
        "/large.csv?rows=3000&format=json",
        "/large.csv?rows=3000&format=ndjson",
        "/large.csv?rows=3000&format=text",
        "/my-large-page.html?rows=3000",
        "/stream/hello?name=X",
        "/text",
        "/",
        "/static/app.js",
        "/static/style.css",
    ],
)
@pytest.mark.parametrize("accepted", ["gzip, deflate", "gzip, deflate, zstd"])
@pytest.mark.gen_test
async def test_a_coded_body_is_the_body(tmp_path: Path, target: str, accepted: str) -> None:
    """Less on the wire and the same behind it; HEAD says the same, who does not ask gets it as it was."""
    (tmp_path / "song.txt").write_bytes(LINES)
    (tmp_path / "korean.txt").write_bytes(LINES.decode().encode("cp949"))
    for number in range(20):
        (tmp_path / f"{number}.txt").write_bytes(b"short")
    async with serving(tmp_path, scan=False) as server:
        plain = await server.get(target)
        coded = await server.get(target, accept_encoding=accepted)
        head = await server.get(target, "HEAD", accept_encoding=accepted)
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == coded.headers["Vary"]
    assert coded.headers["Vary"].endswith("Accept-Encoding")
    assert coded.whole
    assert coded.headers["Content-Encoding"] == accepted.rpartition(" ")[2].replace("deflate", "gzip")
    assert decoded(coded) == plain.body
    assert len(coded.body) < len(plain.body) or len(plain.body) < 1024
    assert "Accept-Ranges" not in coded.headers
    for response in (coded, head):
        del response.headers["Date"], response.headers["X-Request-Id"]
        response.headers.pop("Transfer-Encoding", "")
    assert head.headers == coded.headers


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/text/song.txt?format=sse", {}),
        ("/text/song.txt", {"accept_encoding": "gzip;q=0"}),
        ("/text/song.txt", {"accept_encoding": "identity, gzip;q=0.5"}),
        ("/text/song.txt", {"range": "bytes=0-"}),
        ("/text/song.txt", {"range": "bytes=100-199"}),
        ("/text/song.txt", {"range": "bytes=0-9,20-29"}),
        ("/text/short.txt", {}),
        ("/audio/1", {}),
        ("/audio/1.json", {}),
        ("/healthz", {}),
        ("/missing", {}),
    ],
)
@pytest.mark.slow
@pytest.mark.gen_test
async def test_what_is_never_coded(tmp_path: Path, target: str, headers: dict[str, str]) -> None:
    """Events, ranges, audio, what is short, and for whom who does not want it."""
    (tmp_path / "song.txt").write_bytes(LINES)
    (tmp_path / "short.txt").write_bytes(LINES[:1000])
    (tmp_path / "01.mp3").write_bytes((SAMPLES / "01 Opening the Sluice.mp3").read_bytes())
    async with serving(tmp_path, scan=target.startswith("/audio")) as server:
        plain = await server.get(target, **{**headers, "accept_encoding": "identity"})
        asked = await server.get(target, **{"accept_encoding": "gzip", **headers})
    assert "Content-Encoding" not in asked.headers
    assert asked.status == plain.status
    assert asked.headers.get("ETag") == plain.headers.get("ETag")
    assert asked.headers.get("Vary") == plain.headers.get("Vary")
    assert len(asked.body) == len(plain.body)
    if "range" in headers:
        assert asked.status == 206
        assert asked.headers["Accept-Ranges"] == "bytes"


@pytest.mark.gen_test
async def test_no_compression_at_all(tmp_path: Path) -> None:
    """Level 0: everything is sent as it is."""
    (tmp_path / "song.txt").write_bytes(LINES)
    async with serving(tmp_path, scan=False, compression=0) as server:
        for target in ("/text/song.txt", "/large.csv", "/text", "/streams"):
            response = await server.get(target, accept_encoding="gzip")
            assert "Content-Encoding" not in response.headers
            assert response.headers["Vary"].endswith("Accept-Encoding")


@pytest.mark.gen_test
async def test_a_long_list_is_coded_whole(tmp_path: Path) -> None:
    """Longer than a piece, it is coded in a thread; its length is known."""
    for number in range(1000):
        (tmp_path / f"a text with a long name {number}.txt").touch()
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/text", accept_encoding="gzip")
    assert len(decoded(response)) > coding.PIECE_BYTES
    assert len(json.loads(decoded(response))["files"]) == 1000
    assert response.headers["Content-Length"] == str(len(response.body))


@pytest.mark.gen_test
async def test_zstd_only_where_it_is_installed_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line it leaves no less than gzip, and takes more memory."""
    (tmp_path / "song.txt").write_bytes(LINES)
    both = {"accept_encoding": "zstd, gzip"}
    async with serving(tmp_path, scan=False) as server:
        assert (await server.get("/text/song.txt", "HEAD", **both)).headers["ETag"].endswith('-zstd"')
        assert (await server.get("/stream", "HEAD", **both)).headers["Content-Encoding"] == "gzip"
        monkeypatch.setattr(coding, "zstandard", None)
        assert (await server.get("/text/song.txt", "HEAD", **both)).headers["ETag"].endswith('-gzip"')


# --- conditions ---


@pytest.mark.gen_test
async def test_each_coding_has_a_tag_of_its_own(tmp_path: Path) -> None:
    """Each is unchanged for who holds it, and none is taken for the other."""
    (tmp_path / "song.txt").write_bytes(LINES)
    async with serving(tmp_path, scan=False) as server:
        plain = (await server.get("/text/song.txt")).headers["ETag"]
        coded = (await server.get("/text/song.txt", accept_encoding="gzip")).headers["ETag"]
        assert coded == f'W/{plain[:-1]}-gzip"'
        for accept_encoding, tag, status in (
            ("gzip", coded, 304),
            ("identity", plain, 304),
            ("gzip", plain, 200),
            ("identity", coded, 200),
            ("gzip", f"{plain}, {coded}", 304),
            ("gzip", "*", 304),
        ):
            response = await server.get("/text/song.txt", accept_encoding=accept_encoding, if_none_match=tag)
            assert (response.status, response.headers["Vary"]) == (status, "Accept, Accept-Encoding")
            if status == 304:
                assert response.headers["ETag"] == (coded if accept_encoding == "gzip" else plain)
                assert "Content-Encoding" not in response.headers


@pytest.mark.gen_test
async def test_strong_conditions_are_of_the_bytes_as_they_are(tmp_path: Path) -> None:
    """A coded body's tag is weak, so nobody resumes with it; the file's own holds whatever is accepted."""
    (tmp_path / "song.txt").write_bytes(LINES)
    async with serving(tmp_path, scan=False) as server:
        plain = (await server.get("/text/song.txt")).headers["ETag"]
        coded = f'W/{plain[:-1]}-gzip"'
        for headers, status in (
            ({"if_match": plain}, 200),
            ({"if_match": coded}, 412),
            ({"if_range": plain, "range": "bytes=5-"}, 206),
            ({"if_range": coded, "range": "bytes=5-"}, 200),
        ):
            response = await server.get("/text/song.txt", accept_encoding="gzip", **headers)
            assert response.status == status
            assert "Content-Encoding" not in response.headers
            if status < 300:
                assert response.body == (LINES[5:] if status == 206 else LINES)


# --- as it comes ---


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.gen_test
async def test_a_line_of_a_slow_stream_can_be_decoded_at_once(
    tmp_path: Path,
    script: Script,  # noqa: F811
    live: bool,
) -> None:
    """It waits for no other; the end of the body is the end of the coded one."""
    routes = [chunks_route("/s", script.chunks, live=live)]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/s", accept_encoding="gzip", connection="close")) as client,
    ):
        wanted = b""
        for number in range(20):
            line = b"line %d\n" % number
            wanted += line
            script.put(line)
            await until_decoded(client, wanted)
        script.put(None)
        await client.rest()
    response = Response.parsed(client.received)
    assert response.whole
    assert decoded(response) == wanted


@pytest.mark.gen_test
async def test_fast_rows_are_coded_together(tmp_path: Path) -> None:
    """Up to 64 KiB at a time: few flushes, few chunks. The loop's turns cut them, too."""
    rows = [b"%d,name,value\r\n" % number for number in range(50_000)]
    async with serving(
        tmp_path, scan=False, routes=[chunks_route("/s", one_by_one(*rows), "text/csv")]
    ) as server:
        response = await server.get("/s", accept_encoding="gzip")
    assert decoded(response) == b"".join(rows)
    assert response.chunks is not None
    assert len(response.chunks) < len(rows) / 50


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    """The same CSV, in less than half."""
    async with serving(tmp_path, scan=False) as server:
        plain = await server.get("/large.csv?rows=100000")
        coded = await server.get("/large.csv?rows=100000", accept_encoding="gzip")
    assert decoded(coded) == plain.body
    assert len(coded.body) < len(plain.body) / 2


@pytest.mark.gen_test
async def test_large_chunks_are_coded_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte in one go would hold the loop for 15 ms; files, too, are read and cut."""
    lengths: list[int] = []
    coded = Coder.coded

    def measured(self: Coder, chunk: bytes | memoryview, *, last: bool = False) -> bytes:
        lengths.append(len(chunk))
        return coded(self, chunk, last=last)

    monkeypatch.setattr(Coder, "coded", measured)
    large = os.urandom(MIB)
    (tmp_path / "long.txt").write_bytes(LINES * 20)
    routes = [chunks_route("/s", one_by_one(b"a", large, memoryview(large), b"", b"z"))]  # type: ignore[arg-type]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        assert decoded(await server.get("/s", accept_encoding="gzip")) == b"a" + 2 * large + b"z"
        assert decoded(await server.get("/text/long.txt", accept_encoding="gzip")) == LINES * 20
    assert max(lengths) < 2 * coding.PIECE_BYTES


@pytest.mark.gen_test
async def test_an_empty_body_is_a_whole_coded_one(tmp_path: Path) -> None:
    """Nothing decodes to nothing."""
    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", one_by_one())]) as server:
        response = await server.get("/s", accept_encoding="gzip")
    assert response.whole
    assert decoded(response) == b""


@pytest.mark.slow
@pytest.mark.gen_test
async def test_headers_of_a_slow_source_leave_alone(tmp_path: Path, script: Script) -> None:  # noqa: F811
    """After a second, with nothing of a body behind them."""
    async with (
        serving(tmp_path, scan=False, routes=[chunks_route("/s", script.chunks)]) as server,
        server.connect(request("/s", accept_encoding="gzip")) as client,
    ):
        assert (await client.read()).endswith(b"\r\n\r\n")
        script.put(b"first", None)
        await client.until(b"\r\n0\r\n\r\n")
    assert decoded(Response.parsed(client.received)) == b"first"


@pytest.mark.gen_test
async def test_a_heartbeat_is_coded_too(tmp_path: Path, script: Script) -> None:  # noqa: F811
    """It stands where it would stand, inside the coded body."""
    limits = Limits(heartbeat_seconds=0.1, stall_seconds=30)
    routes = [chunks_route("/s", script.chunks, live=True, heartbeat=b"~")]
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=routes) as server,
        server.connect(request("/s", accept_encoding="gzip", connection="close")) as client,
    ):
        script.put(b"first")
        await until_decoded(client, b"first~~")
        script.put(b"second", None)
        await client.rest()
    body = decoded(Response.parsed(client.received))
    assert (body.replace(b"~", b""), body[:7]) == (b"firstsecond", b"first~~")


@pytest.mark.gen_test
async def test_text_for_bytes_is_a_status(tmp_path: Path, expect_log: ExpectLog) -> None:
    """A generator's mistake is found by the coder while it can still be a 500."""
    expect_log("millrace", 40, "TypeError")
    routes = [chunks_route("/s", one_by_one("text"))]  # type: ignore[arg-type]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.get("/s", accept_encoding="gzip")
    assert response.status == 500
    assert "Content-Encoding" not in response.headers


# --- how it ends ---


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.gen_test
async def test_a_broken_body_has_no_end(
    tmp_path: Path, expect_log: ExpectLog, access_log: AccessLog, version: str, name: str
) -> None:
    """What was sent can be decoded, and the decoder can tell that more was to come."""
    expect_log("millrace.serve", 30, "SourceBroken: upstream")
    routes = [chunks_route("/s", failing(SourceBroken("upstream"), b"first ", b"second", pause_seconds=0.01))]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.exchange(
            request("/s", version=version, accept_encoding=name, connection="close")
        )
        await eventually(lambda: access_log.endings)
    assert access_log.endings[0][0] == "failed"
    assert response.reset if version == "1.0" else not response.whole
    decoder = zlib.decompressobj(31) if name == "gzip" else zstandard.ZstdDecompressor().decompressobj()
    assert b"first second".startswith(decoder.decompress(response.body))
    assert not decoder.eof


@pytest.mark.gen_test
async def test_a_source_shorter_than_its_length_is_broken(tmp_path: Path, expect_log: ExpectLog) -> None:
    """The length is not promised to the client of a coded body, and is held all the same."""
    expect_log("millrace.serve", 30, "2000 bytes where 3000 were promised")
    routes = [chunks_route("/s", one_by_one(bytes(2000), pause_seconds=0.01), etag='"1"', length=3000)]
    async with serving(tmp_path, scan=False, routes=routes) as server:
        response = await server.get("/s", accept_encoding="gzip")
    assert not response.whole
    assert not gzip_ended(response.body)


def gzip_ended(body: bytes) -> bool:
    """Whether a decoder has seen the end."""
    decoder = zlib.decompressobj(31)
    decoder.decompress(body)
    return decoder.eof


@pytest.mark.gen_test
async def test_http_1_0_gets_a_body_that_ends_with_the_connection(tmp_path: Path) -> None:
    """Coded as for everybody."""
    (tmp_path / "song.txt").write_bytes(LINES)
    async with serving(tmp_path, scan=False) as server:
        response = await server.exchange(
            request("/text/song.txt", version="1.0", accept_encoding="gzip", connection="keep-alive")
        )
    assert "Transfer-Encoding" not in response.headers
    assert "Content-Length" not in response.headers
    assert (response.reset, decoded(response)) == (False, LINES)


@pytest.mark.parametrize("form", ["ndjson", "json", "text"])
@pytest.mark.gen_test
async def test_a_drained_stream_ends_whole(tmp_path: Path, access_log: AccessLog, form: str) -> None:
    """The bracket that closes an array and the end of the coded body both arrive."""
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(request(f"/stream/clock?format={form}", accept_encoding="gzip")) as client,
    ):
        await client.first_chunk()
        server.open_streams.drain()
        await client.until(b"\r\n0\r\n\r\n")
        await eventually(lambda: access_log.endings)
    body = decoded(Response.parsed(client.received))
    assert access_log.endings[0][0] == "drained"
    if form == "json":
        assert isinstance(json.loads(body), list)
    else:
        assert json.loads(body.splitlines()[0])


@pytest.mark.gen_test
async def test_the_log_has_what_was_sent(tmp_path: Path, access_log: AccessLog) -> None:
    """Bytes on the wire, not before."""
    (tmp_path / "song.txt").write_bytes(LINES)
    async with serving(tmp_path, scan=False) as server:
        lengths = [
            len((await server.get(target, accept_encoding="gzip")).body)
            for target in ("/text/song.txt", "/streams")
        ]
        await eventually(lambda: len(access_log) == 2)
    assert access_log.endings == [("complete", length) for length in lengths]


@pytest.mark.gen_test
async def test_many_at_once(tmp_path: Path) -> None:
    """Each has a coder of its own, on a connection that goes on."""
    make: Callable[[int], bytes] = lambda number: request(  # noqa: E731
        f"/large.csv?rows={number}", accept_encoding="gzip"
    )
    async with serving(tmp_path, scan=False) as server:
        plain = await asyncio.gather(*(server.get(f"/large.csv?rows={number}") for number in range(100, 110)))
        packet = b"".join(map(make, range(100, 110))) + request("/healthz", connection="close")
        async with server.connect(packet) as client:
            received, _ = await client.rest()
    coded = Response.all(received, ["GET"] * 11)[:10]
    assert [decoded(response) for response in coded] == [response.body for response in plain]


def test_the_page_pays() -> None:
    """Less than two fifths of its files is sent; each is short enough to be coded in one go."""
    files = [path.read_bytes() for path in STATIC.iterdir()]
    assert max(map(len, files)) <= coding.PIECE_BYTES
    assert sum(len(Coder("gzip", 4).coded(file, last=True)) for file in files) < sum(map(len, files)) / 2.5
