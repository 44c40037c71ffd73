"""CORS: whose pages may, on whatever is answered."""

from pathlib import Path

import pytest

from handlers.cors import Cors
from handlers.writers import Writers
from tests.serving import Response, Server, serving

PAGE = "https://example.org"
ONE = Cors(frozenset({PAGE, "http://localhost:3000"}))
ALL = Cors(frozenset({"*"}))


@pytest.mark.parametrize(
    ("cors", "origin", "allowed", "varies"),
    [
        (Cors(), PAGE, None, None),
        (ONE, PAGE, PAGE, "Origin"),
        (ONE, "http://localhost:3000", "http://localhost:3000", "Origin"),
        (ONE, "https://example.org:8443", None, "Origin"),
        (ONE, "http://example.org", None, "Origin"),
        (ONE, "null", None, "Origin"),
        (ONE, "*", None, "Origin"),
        (ONE, None, None, "Origin"),
        (ALL, PAGE, "*", None),
        (ALL, None, "*", None),
    ],
)
def test_who_is_allowed(cors: Cors, origin: str | None, allowed: str | None, varies: str | None) -> None:
    """An origin is echoed, and a cache told that it was; all are `*`."""
    headers = cors.headers({"Origin": origin} if origin else {})
    assert headers.get("Access-Control-Allow-Origin") == allowed
    assert headers.get("Vary") == varies
    assert ("Access-Control-Expose-Headers" in headers) == (allowed is not None)


@pytest.mark.parametrize(
    ("cors", "asked", "granted"),
    [
        (ONE, {"Origin": PAGE, "Access-Control-Request-Method": "POST"}, True),
        (ALL, {"Origin": PAGE, "Access-Control-Request-Method": "PUT"}, True),
        (ONE, {"Origin": PAGE}, False),
        (ONE, {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}, False),
        (Cors(), {"Origin": PAGE, "Access-Control-Request-Method": "POST"}, False),
    ],
)
def test_a_preflight(cors: Cors, asked: dict[str, str], granted: bool) -> None:
    """Is granted to who is allowed; a plain OPTIONS is none."""
    assert bool(cors.preflight(asked, "GET, POST")) == granted


def test_a_private_network() -> None:
    """A public site may ask a server at home, if its pages are allowed at all."""
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
    name = "Access-Control-Allow-Private-Network"
    assert name not in ONE.preflight(asked, "GET")
    assert ONE.preflight({**asked, "Access-Control-Request-Private-Network": "true"}, "GET")[name] == "true"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 200),
        ("/text", 200),
        ("/text/a.txt", 200),
        ("/text/a.txt?format=sse", 200),
        ("/audio", 200),
        ("/audio/live", 200),
        ("/streams", 200),
        ("/stream/hello", 200),
        ("/stream/events?format=json", 200),
        ("/large.csv?rows=1", 200),
        ("/stream/large.csv?rows=x", 400),
        ("/healthz", 200),
        ("/audio/77", 404),
        ("/nowhere", 404),
    ],
)
@pytest.mark.gen_test
async def test_whatever_is_answered(tmp_path: Path, target: str, status: int) -> None:
    """Every route, errors too; `Vary` keeps what the route varies by."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "a.txt").write_text("a\n")
    async with serving(library, cors=ONE) as server:
        plain = await server.get(target)
        answer = await server.get(target, origin=PAGE)
        other = await server.get(target, origin="https://example.com")
    assert plain.status == answer.status == other.status == status
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers.get_list("Vary") == plain.headers.get_list("Vary")
    for one in (plain, answer, other):
        assert "Origin" in one.headers["Vary"].split(", ")
    for one in (plain, other):
        assert not [name for name in one.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("cors", [ONE, ALL])
@pytest.mark.gen_test
async def test_what_is_given_again(tmp_path: Path, cors: Cors) -> None:
    """An answer that is repeated is allowed to whom the first was, and to nobody else."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "a.txt").write_text("a\n")
    async with serving(library, scan=False, cors=cors) as server:

        async def seen(origin: str) -> str | None:
            answer = await server.get("/text/a.txt", origin=origin)
            assert answer.body == b"a\n"
            return answer.headers.get("Access-Control-Allow-Origin")

        origins = [PAGE, PAGE, "https://example.com", PAGE, "http://localhost:3000"]
        found = [await seen(origin) for origin in origins]
    everybody = cors is ALL
    assert found == (["*"] * 5 if everybody else [PAGE, PAGE, None, PAGE, "http://localhost:3000"])


async def preflight(server: Server, target: str, method: str) -> Response:
    """What a browser asks before a page may."""
    return await server.get(
        target,
        "OPTIONS",
        origin=PAGE,
        access_control_request_method=method,
        access_control_request_headers="authorization,content-type",
    )


@pytest.mark.gen_test
async def test_a_page_publishes(tmp_path: Path) -> None:
    """Its preflight has no token; then its refusals and its answer are its own to read."""
    async with serving(tmp_path, scan=False, cors=ONE, writers=Writers(token="t")) as server:
        asked = await preflight(server, "/stream/events", "POST")
        assert (asked.status, asked.body) == (204, b"")
        assert asked.headers["Access-Control-Allow-Origin"] == PAGE
        assert asked.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS, POST, DELETE"
        assert {"Authorization", "Content-Type", "Last-Event-ID"} <= set(
            asked.headers["Access-Control-Allow-Headers"].split(", ")
        )
        assert asked.headers["Access-Control-Max-Age"] == "7200"
        for authorization, status in (("", 401), ("Bearer x", 403), ("Bearer t", 202)):
            answer = await server.get(
                "/stream/events",
                "POST",
                origin=PAGE,
                content_type="application/x-ndjson",
                **({"authorization": authorization} if authorization else {}),
            )
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, PAGE)
            assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"].split(", ")
        only_read = await preflight(server, "/stream/clock", "POST")
        assert only_read.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
