"""serve(source) through a real server: statuses, headers, and what an event stream says last."""

import json
import unicodedata
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from handlers.delivery import NginxFiles
from handlers.resource import FAILED
from handlers.serve import serve
from media.source import (
    BadParameter,
    Body,
    Chunks,
    Facts,
    Source,
    SourceBroken,
    SourceBusy,
    SourceEnded,
    SourceError,
    SourceNotFound,
)
from tests.conftest import AccessLog, ExpectLog
from tests.serving import (
    Response,
    SourceResource,
    chunks_route,
    eventually,
    request,
    serving,
    source_route,
)

WHEN = datetime(2026, 11, 21, 3, 0, 0, tzinfo=UTC)


async def abc() -> Chunks:
    """Three bytes."""
    yield b"abc"


def raising(error: Exception, where: str) -> Callable[[], Source]:
    """A source that raises while it is entered, before its first chunk, or while it is left."""

    async def chunks() -> Chunks:
        if where == "chunks":
            raise error
        yield b"abc"

    @asynccontextmanager
    async def source() -> AsyncGenerator[Body, None]:
        if where == "enter":
            raise error
        yield Body(Facts("text/plain"), chunks)
        if where == "leave":
            raise error

    return source


@pytest.mark.parametrize("where", ["enter", "chunks"])
@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (BadParameter("bitrate must be one of 64 or 128"), 400, "bitrate must be one of 64 or 128"),
        (SourceNotFound("/srv/secret"), 404, "There is nothing here by this name."),
        (SourceBusy("/srv/secret", 7), 503, "The server is busy; try again later."),
        (SourceBroken("/srv/secret"), 502, "What this is made from could not be read."),
        (
            SourceError("/srv/secret"),
            500,
            FAILED,
        ),
        (KeyError("/srv/secret"), 500, FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.gen_test
async def test_an_error_before_the_first_byte(
    tmp_path: Path, expect_log: ExpectLog, where: str, error: Exception, status: int, detail: str
) -> None:
    """One table of statuses; the cause stands in the log and nowhere else."""
    if status >= 500:
        level = 30 if isinstance(error, SourceError) else 40
        expect_log("millrace", level, "my-id")
        expect_log("millrace", level, "/srv/secret")
    async with serving(tmp_path, scan=False, routes=[source_route("/s", raising(error, where))]) as server:
        response = await server.get("/s", x_request_id="my-id")
    assert response.status == status
    assert json.loads(response.body)["detail"] == detail
    assert b"/srv" not in response.body
    assert response.headers.get("Retry-After") == ("7" if status == 503 else None)
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("where", ["enter", "chunks"])
@pytest.mark.gen_test
async def test_a_source_that_has_ended_is_no_content(tmp_path: Path, where: str) -> None:
    """204: an EventSource stops asking."""
    async with serving(
        tmp_path, scan=False, routes=[source_route("/s", raising(SourceEnded(), where))]
    ) as server:
        response = await server.get("/s")
    assert (response.status, response.body) == (204, b"")
    assert "Content-Type" not in response.headers
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.gen_test
async def test_a_source_that_fails_while_it_is_left(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """The response was whole and stays so; the log has the failure."""
    expect_log("millrace", 40, "RuntimeError: left")
    async with serving(
        tmp_path, routes=[source_route("/s", raising(RuntimeError("left"), "leave"))]
    ) as server:
        response = await server.get("/s")
    assert (response.status, response.body, response.whole) == (200, b"abc", True)
    assert access_log.endings == [("complete", 3)]


@pytest.mark.parametrize(
    ("error", "title", "logged"),
    [
        (SourceBroken("upstream"), "Bad Gateway", (30, "SourceBroken: upstream; OSError: cause")),
        (RuntimeError("bug"), "Internal Server Error", (40, "RuntimeError: bug")),
    ],
    ids=["outside", "bug"],
)
@pytest.mark.gen_test
async def test_an_event_stream_says_why_it_breaks(
    tmp_path: Path,
    access_log: AccessLog,
    expect_log: ExpectLog,
    error: Exception,
    title: str,
    logged: tuple[int, str],
) -> None:
    """An event of kind error has the problem document; the body is broken all the same."""
    expect_log("millrace.serve", *logged)
    expect_log("millrace.serve", logged[0], "my-id")

    async def chunks() -> Chunks:
        yield b"data: 1\n\n"
        raise error from OSError("cause")

    async with serving(
        tmp_path, scan=False, routes=[chunks_route("/s", chunks, "text/event-stream")]
    ) as server:
        response = await server.get("/s", x_request_id="my-id")
        await eventually(lambda: access_log.endings)
    assert (response.status, response.whole) == (200, False)
    first, event, end = response.body.decode().split("\n\n")
    name, data = event.split("\n")
    assert (first, name, end) == ("data: 1", "event: error", "")
    problem = json.loads(data.removeprefix("data: "))
    assert (problem["title"], problem["instance"]) == (title, "my-id")
    assert access_log.endings == [("failed", len(response.body))]


@pytest.mark.gen_test
async def test_a_source_that_claims_to_have_ended_in_the_middle(
    tmp_path: Path, expect_log: ExpectLog
) -> None:
    """There is no status for that: it breaks the body as every failure does."""
    expect_log("millrace.serve", 30, "SourceEnded")

    async def chunks() -> Chunks:
        yield b"abc"
        raise SourceEnded

    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks)]) as server:
        response = await server.get("/s")
    assert (response.status, response.body, response.whole) == (200, b"abc", False)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}),
        ({"live": True}, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}),
        ({"length": 3}, {"Cache-Control": "no-store", "Content-Length": "3"}),
        (
            {"etag": '"1"', "length": 3},
            {"Cache-Control": "no-cache", "ETag": '"1"', "X-Accel-Buffering": None},
        ),
        ({"etag": 'W/"1"', "modified": WHEN}, {"Last-Modified": "Sat, 21 Nov 2026 03:00:00 GMT"}),
    ],
    ids=["generated", "live", "length", "file", "weak"],
)
@pytest.mark.gen_test
async def test_headers_of_a_body(
    tmp_path: Path, method: str, facts: dict[str, object], expected: dict[str, str | None]
) -> None:
    """What is generated is neither kept nor held back; a file is kept and revalidated. HEAD says the same."""
    async with serving(
        tmp_path, scan=False, routes=[chunks_route("/s", abc, "text/x-special", **facts)]
    ) as server:
        response = await server.get("/s", method, accept="text/html")
    assert {name: response.headers.get(name) for name in expected} == expected
    assert response.headers["Content-Type"] == "text/x-special"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.body == (b"abc" if method == "GET" else b"")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("track.mp3", "track.mp3"),
        ("노래 1.mp3", "1.mp3"),
        ("노래.mp3", "file.mp3"),
        ("노래", "file"),
        ("Käse.txt", "Kase.txt"),
        ('a "quoted\\name%41.mp3', "a _quoted_name_41.mp3"),
        ("tab\tand\nline.txt", "tab_and_line.txt"),
        ("semi;colon='x'.txt", "semi;colon='x'.txt"),
    ],
)
@pytest.mark.gen_test
async def test_the_name_of_an_attachment(tmp_path: Path, name: str, plain: str) -> None:
    """In ASCII for old clients, and as it is."""

    class Download(SourceResource):
        async def answer(self, **parts: str) -> None:
            await serve(self, self.make(), attachment=name)

    route = chunks_route("/s", abc, etag='"1"', length=3)
    async with serving(tmp_path, scan=False, routes=[("/s", Download, route[2])]) as server:
        response = await server.get("/s")
        unchanged = await server.get("/s", if_none_match='"1"')
    start, _, encoded = response.headers["Content-Disposition"].partition("; filename*=UTF-8''")
    assert start == f'attachment; filename="{plain}"'
    assert encoded.isascii()
    assert not set(encoded) & set(" \"'();,\\")
    assert unquote(encoded) == name
    assert unchanged.status == 304
    assert "Content-Disposition" not in unchanged.headers


@pytest.mark.gen_test
async def test_a_connection_goes_on_behind_every_status(tmp_path: Path) -> None:
    """In one packet: unchanged, in part, not as wished, not satisfiable, no method, and whole."""
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    asked: list[tuple[str, dict[str, str], int, bytes | None]] = [
        ("GET", {"if_none_match": "*"}, 304, b""),
        ("GET", {"range": "bytes=2-4"}, 206, b"234"),
        ("GET", {"if_match": '"other"'}, 412, None),
        ("HEAD", {"if_none_match": "*"}, 304, b""),
        ("GET", {"range": "bytes=99-"}, 416, None),
        ("HEAD", {"range": "bytes=99-"}, 200, b""),
        ("POST", {"content_length": "0"}, 405, None),
        ("GET", {"connection": "close"}, 200, b"0123456789"),
    ]
    packet = b"".join(request("/text/a.txt", method, **headers) for method, headers, _, _ in asked)
    async with serving(tmp_path, scan=False) as server, server.connect(packet) as client:
        received, _ = await client.rest()
    responses = Response.all(received, [method for method, _, _, _ in asked])
    for response, (_, _, status, body) in zip(responses, asked, strict=True):
        assert response.status == status
        assert body is None or response.body == body


@pytest.mark.parametrize("error", [GeneratorExit, SystemExit])
@pytest.mark.gen_test
async def test_a_source_that_raises_what_ends_programs(
    tmp_path: Path, expect_log: ExpectLog, error: type[BaseException]
) -> None:
    """It ends neither the process nor the client's patience: 500, as every bug."""
    expect_log("millrace", 40, f"RuntimeError: a source raised {error.__name__}")

    async def chunks() -> Chunks:
        raise error
        yield b""

    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks)]) as server:
        assert (await server.get("/s")).status == 500


@pytest.mark.parametrize("facts", [{}, {"length": 100_024}], ids=["chunked", "length"])
@pytest.mark.gen_test
async def test_a_view_of_wide_items_is_framed_by_its_bytes(tmp_path: Path, facts: dict[str, int]) -> None:
    """len() of a memoryview counts items; what was promised is counted in bytes, too."""
    wide = memoryview(array("i", [1, 2, 3]))

    async def chunks() -> Chunks:
        yield wide
        yield b"x" * 100_000
        yield wide

    async with serving(tmp_path, scan=False, routes=[chunks_route("/s", chunks, **facts)]) as server:
        response = await server.get("/s")
    assert response.whole
    assert response.body == bytes(wide) + b"x" * 100_000 + bytes(wide)


# --- files that nginx sends ---


@pytest.fixture
def left_to_nginx(tmp_path: Path) -> tuple[Path, NginxFiles]:
    """A library, and where nginx has it."""
    library = tmp_path / "library"
    (library / "folder").mkdir(parents=True)
    (library / "folder" / "노래 100%.txt").write_text("text\n")
    (library / unicodedata.normalize("NFD", "가.txt")).write_text("text\n")
    (library / "link.txt").symlink_to(library / "folder" / "노래 100%.txt")
    (library / "cp949.txt").write_text("맷돌이 돌아간다.\n" * 200, encoding="cp949")
    return library, NginxFiles("/files/", library)


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("folder/노래 100%.txt", "/files/folder/%EB%85%B8%EB%9E%98%20100%25.txt"),
        ("가.txt", "/files/%E1%84%80%E1%85%A1.txt"),
        ("link.txt", "/files/folder/%EB%85%B8%EB%9E%98%20100%25.txt"),
    ],
    ids=["odd", "normal form", "link"],
)
@pytest.mark.gen_test
async def test_file_is_left_to_nginx(left_to_nginx: tuple[Path, NginxFiles], name: str, uri: str) -> None:
    """By its name on disk; conditions and ranges are for nginx, whose entity tag the client has."""
    library, nginx = left_to_nginx
    async with serving(library, scan=False, nginx=nginx) as server:
        for headers in ({}, {"range": "bytes=0-1"}, {"if_match": '"nginx"'}, {"if_none_match": "*"}):
            response = await server.get(f"/text/{quote(name)}", **headers)
            assert (response.status, response.body) == (200, b"")
            assert response.headers["X-Accel-Redirect"] == uri
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-cache"
            assert not {"Etag", "Last-Modified", "Accept-Ranges"} & set(response.headers)
        response = await server.get("/text/link.txt?download=1", "HEAD")
        assert response.headers["X-Accel-Redirect"]
        assert 'filename="link.txt"' in response.headers["Content-Disposition"]


@pytest.mark.gen_test
async def test_what_is_no_file_of_the_library_is_not_left_to_nginx(
    left_to_nginx: tuple[Path, NginxFiles],
) -> None:
    """Decoded texts, paced ones, events, the page with its scripts, and what is missing."""
    library, nginx = left_to_nginx
    name = quote("folder/노래 100%.txt")
    targets = ("/text/cp949.txt", f"/text/{name}?pace=0.001", f"/text/{name}?format=sse", "/static/app.js")
    async with serving(library, scan=False, nginx=nginx) as server:
        for target in targets:
            response = await server.get(target)
            assert response.status == 200
            assert response.body
            assert "X-Accel-Redirect" not in response.headers
        assert (await server.get("/text/missing")).status == 404
