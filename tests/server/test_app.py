"""The route table: which path is answered by which handler."""

from pathlib import Path

import pytest

from tests.serving import serving

SAMPLES = Path(__file__).parents[2] / "media" / "samples"


@pytest.mark.parametrize(
    ("target", "status", "media_type"),
    [
        ("/", 200, "text/html; charset=utf-8"),
        ("/static/style.css", 200, "text/css; charset=utf-8"),
        ("/static/app.js", 200, "text/javascript; charset=utf-8"),
        ("/static/../app.py", 404, "application/problem+json"),
        ("/text", 200, "application/json"),
        ("/text/text_sample", 200, "text/plain; charset=utf-8"),
        ("/text?file_name=text_sample", 200, "text/plain; charset=utf-8"),
        ("/audio", 200, "application/json"),
        ("/audio/1", 200, "audio/mpeg"),
        ("/audio?track_id=1", 200, "audio/mpeg"),
        ("/audio/1.json", 200, "application/json"),
        ("/audio/1/cover", 200, "image/png"),
        ("/audio/x", 404, "application/problem+json"),
        ("/streams", 200, "application/json"),
        ("/stream/hello", 200, "text/plain; charset=utf-8"),
        ("/stream/nothing", 404, "application/problem+json"),
        ("/large.csv?rows=1", 200, "text/csv; charset=utf-8; header=present"),
        ("/my-large-page.html?rows=1", 200, "text/html; charset=utf-8"),
        ("/healthz", 200, "text/plain; charset=utf-8"),
        ("/readyz", 200, "text/plain; charset=utf-8"),
        ("/nothing", 404, "application/problem+json"),
        ("/largeXcsv", 404, "application/problem+json"),
    ],
)
@pytest.mark.gen_test(timeout=20)
async def test_route(target: str, status: int, media_type: str, tmp_path: Path) -> None:
    """Each path of the contract has its handler; what is like one is none."""
    library = tmp_path / "library"
    library.symlink_to(SAMPLES)
    async with serving(library, scan=target.startswith("/audio")) as server:
        response = await server.get(target)
    assert (response.status, response.headers["Content-Type"]) == (status, media_type)
    assert response.whole


@pytest.mark.gen_test(timeout=20)
async def test_default_stream_is_lines(tmp_path: Path) -> None:
    """/stream without a name; HEAD, because it has no end."""
    library = tmp_path / "library"
    library.mkdir()
    async with serving(library, scan=False) as server:
        response = await server.get("/stream", method="HEAD")
        named = await server.get("/stream/lines", method="HEAD")
    assert response.status == 200
    for name in ("Content-Type", "Cache-Control", "Vary"):
        assert response.headers[name] == named.headers[name]


@pytest.mark.gen_test
async def test_a_host_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """With a bare 400: of a port with thousands of digits Tornado would make a traceback."""
    async with serving(tmp_path, scan=False) as server:
        refused = await server.exchange(b"GET /healthz HTTP/1.1\r\nHost: a:" + b"1" * 5000 + b"\r\n\r\n")
    assert (refused.status, refused.body) == (400, b"")
