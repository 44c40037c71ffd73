"""What every response has, through a real server: methods, ids, parameters, problems."""

import json
import re
from pathlib import Path

import pytest

from handlers.resource import Problem, Resource, causes
from tests.conftest import AccessLog, ExpectLog
from tests.serving import Response, request, serving, source_route

ROUTES = [
    "/",
    "/static/app.js",
    "/text",
    "/text/a.txt",
    "/audio",
    "/audio/1",
    "/audio/1.json",
    "/audio/1/cover",
    "/streams",
    "/stream",
    "/stream/clock",
    "/large.csv",
    "/my-large-page.html",
    "/healthz",
    "/readyz",
]


def problem_of(response: Response) -> dict[str, object]:
    """The problem document, every field of it checked."""
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    problem = json.loads(response.body)
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert problem["type"] == "about:blank"
    assert problem["status"] == response.status
    assert problem["instance"] == response.headers["X-Request-Id"]
    return problem


@pytest.mark.gen_test
async def test_methods(tmp_path: Path) -> None:
    """Every route answers OPTIONS, and any other method with what it would have answered."""
    async with serving(tmp_path, scan=False) as server:
        for path in ROUTES:
            asked = await server.get(path, "OPTIONS")
            assert (asked.status, asked.body) == (204, b"")
            assert asked.headers["Allow"] == "GET, HEAD, OPTIONS"
            for method in ("POST", "PUT", "DELETE", "PATCH", "BREW"):
                refused = await server.get(path, method)
                assert refused.status == 405
                assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"
                assert problem_of(refused)["detail"] == "This resource answers GET, HEAD, OPTIONS."


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
@pytest.mark.gen_test
async def test_paths_that_are_none(tmp_path: Path, method: str) -> None:
    """404, whatever the method: an OPTIONS of nothing allows nothing."""
    paths = [
        "/nothing",
        "/textual",
        "/audio/",
        "/audio/abc",
        "/audio/1/",
        "/audio/1.JSON",
        "//",
        "/%00",
        "/*",
    ]
    async with serving(tmp_path, scan=False) as server:
        for path in paths:
            response = await server.get(path, method)
            assert response.status == 404
            assert "Allow" not in response.headers
            if method != "HEAD":
                assert problem_of(response)["detail"] == "There is nothing here by this name."


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/text?file_name=", "file_name must not be empty"),
        ("/text/a.txt?format=bogus", 'format must be text or sse, not "bogus"'),
        ("/text/a.txt?format=", 'format must be text or sse, not ""'),
        ("/text/a.txt?pace=-1", 'pace must be a number of seconds from 0 to 3600, not "-1"'),
        ("/text/a.txt?pace=nan", 'pace must be a number of seconds from 0 to 3600, not "nan"'),
        ("/text/a.txt?pace=3601", 'pace must be a number of seconds from 0 to 3600, not "3601"'),
        ("/text/a.txt?download=2", 'download must be 0 or 1, not "2"'),
        (
            "/text/a.txt?encoding=klingon",
            'encoding must be the name of a text encoding, such as cp949, not "klingon"',
        ),
        ("/text/a.txt?format=sse&last_event_id=-1", "last_event_id must be a whole number from 0 to"),
        ("/audio?track_id=abc", "track_id must be a whole number from 0 to"),
        ("/audio?track_id=", "track_id must be a whole number from 0 to"),
        ("/audio?track_id=1%00", "track_id must be a whole number from 0 to"),
        ("/audio?limit=0", 'limit must be a whole number from 1 to 500, not "0"'),
        ("/audio?limit=501", 'limit must be a whole number from 1 to 500, not "501"'),
        ("/audio?after=x", "after must be a whole number from 0 to"),
        ("/audio?q=" + "x" * 201, "q must have at most 200 characters, not 201"),
        ("/audio?track_id=99999999999999999999", "track_id must be a whole number from 0 to"),
        ("/stream?sleep=abc", 'sleep must be a number of seconds from 0 to 3600, not "abc"'),
        ("/stream?format=xml", "format must be text or sse or ndjson or json or csv"),
        ("/stream/hello?name=", "name must not be empty"),
        ("/stream/hello?format=xml", "format must be text or sse or ndjson or json or csv"),
        ("/stream/events?format=csv", 'format must be sse or ndjson or text or json, not "csv"'),
        ("/large.csv?rows=-1", "rows must be a whole number from 0 to 100000000"),
        ("/my-large-page.html?rows=1e3", "rows must be a whole number from 0 to 100000000"),
        ("/text?file_name=%FF", "the query must be percent-encoded UTF-8"),
        ("/audio?q=%ED%A0%80", "the query must be percent-encoded UTF-8"),
        ("/text/%FF", "The path must be percent-encoded UTF-8."),
        ("/stream/%C3%28", "The path must be percent-encoded UTF-8."),
    ],
)
@pytest.mark.gen_test
async def test_malformed_parameters(tmp_path: Path, path: str, detail: str) -> None:
    """400, naming the parameter and what would be right."""
    (tmp_path / "a.txt").write_bytes(b"one\n")
    async with serving(tmp_path, scan=False) as server:
        response = await server.get(path)
    assert response.status == 400
    assert str(problem_of(response)["detail"]).startswith(detail)


@pytest.mark.parametrize(
    "query",
    ["", "unknown=1", "%EC%84%B8=1", "a&b&&=&c=", "file_name=b.txt&file_name=a.txt"],
)
@pytest.mark.gen_test
async def test_parameters_that_do_no_harm(tmp_path: Path, query: str) -> None:
    """Unknown ones are ignored; of several of one name the last counts."""
    (tmp_path / "a.txt").write_bytes(b"one\n")
    name = "" if "file_name" in query else "file_name=a.txt&"
    async with serving(tmp_path, scan=False) as server:
        response = await server.get(f"/text?{name}{query}")
    assert (response.status, response.body) == (200, b"one\n")


@pytest.mark.gen_test
async def test_a_body_that_is_no_form(tmp_path: Path) -> None:
    """A request whose body cannot be read is 400 too, in our own words."""
    asked = request("/text", content_type="multipart/form-data", content_length="3", connection="close")
    async with serving(tmp_path, scan=False) as server:
        response = await server.exchange(asked + b"abc")
    assert response.status == 400
    assert problem_of(response)["detail"] == "Bad Request: the request could not be understood."


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("text/event-stream", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html;q=0.1, application/problem+json", False),
    ],
)
@pytest.mark.gen_test
async def test_a_problem_as_a_page(tmp_path: Path, accept: str | None, html: bool) -> None:
    """Who prefers HTML gets the same facts, with nothing of the request taken for markup."""
    headers = {} if accept is None else {"accept": accept}
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/stream?sleep=%3Cscript%3E%22'%26", **headers)
    detail = 'sleep must be a number of seconds from 0 to 3600, not "<script>"\'&"'
    if not html:
        assert problem_of(response)["detail"] == detail
        return
    page = response.body.decode()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"] == "default-src 'none'"
    assert response.headers["Cache-Control"] == "no-store"
    assert "<title>Bad Request</title>" in page
    assert "<script" not in page
    assert "&lt;script&gt;&quot;&#x27;&amp;" in page
    assert response.headers["X-Request-Id"] in page


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.gen_test
async def test_a_program_error_tells_nothing(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog, method: str
) -> None:
    """The traceback stands in the log under the request's id, and nowhere else."""
    expect_log("millrace", 40, "my-id failed")
    expect_log("millrace", 40, "Traceback")
    expect_log("millrace", 40, "ZeroDivisionError")

    def make() -> None:
        1 / 0  # noqa: B018

    async with serving(tmp_path, scan=False, routes=[source_route("/s", make)]) as server:  # type: ignore[arg-type]
        response = await server.get("/s", method, x_request_id="my-id")
    assert response.status == 500
    for part in (b"ZeroDivision", b"Traceback", str(tmp_path).encode(), b".py"):
        assert part not in response.body
    [line] = access_log.lines
    assert line.endswith(" my-id")
    assert " 500 complete " in line
    assert access_log.endings == [("complete", len(response.body))]


@pytest.mark.gen_test
async def test_a_resource_without_an_answer(tmp_path: Path, expect_log: ExpectLog) -> None:
    """A subclass that forgot it is a program error."""
    expect_log("millrace", 40, "NotImplementedError")

    class Empty(Resource):
        def initialize(self, delivery: object) -> None:
            pass

    async with serving(tmp_path, scan=False, routes=[("/s", Empty, {})]) as server:
        assert (await server.get("/s")).status == 500


@pytest.mark.gen_test
async def test_every_response_has_its_line_in_the_log(tmp_path: Path, access_log: AccessLog) -> None:
    """Method, address, status, outcome, bytes and id."""
    async with serving(tmp_path, scan=False) as server:
        for method in ("GET", "HEAD", "POST"):
            await server.get("/streams?a=%20b", method, x_request_id=method)
    pattern = (
        r"127\.0\.0\.1 (\w+) /streams\?a=%20b (\d+) complete (\d+) B first [\d.]+ ms total [\d.]+ ms (\w+)"
    )
    found = [re.fullmatch(pattern, line) for line in access_log.lines]
    lines = [match.groups() for match in found if match]
    assert [(method, status, int(length) > 0, own) for method, status, length, own in lines] == [
        ("GET", "200", True, "GET"),
        ("HEAD", "200", False, "HEAD"),
        ("POST", "405", True, "POST"),
    ]


def test_causes_are_one_line() -> None:
    """An error and what led to it, however they were written."""
    inner = OSError("no\nspace")
    outer = Problem(502, "shown")
    outer.__cause__ = inner
    assert causes(outer) == "Problem: HTTP 502: Bad Gateway; OSError: no space"
