"""The web page and its files through a real server."""

from pathlib import Path

import pytest

from handlers.page import STATIC
from tests.serving import serving

FILES = sorted(path.name for path in STATIC.iterdir() if path.is_file())
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@pytest.mark.gen_test
async def test_the_page(tmp_path: Path) -> None:
    """At `/`, kept and revalidated, with nothing on it that is not ours."""
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/")
        unchanged = await server.get("/", if_none_match=response.headers["ETag"])
        head = await server.get("/", "HEAD")
    assert response.body == (STATIC / "index.html").read_bytes()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert (unchanged.status, unchanged.headers["Content-Security-Policy"]) == (304, policy)
    assert head.headers["Content-Length"] == str(len(response.body))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.gen_test
async def test_a_file_of_the_page(tmp_path: Path, name: str) -> None:
    """Byte for byte, under a type that a browser takes with nosniff."""
    async with serving(tmp_path, scan=False) as server:
        response = await server.get(f"/static/{name}")
    assert response.body == (STATIC / name).read_bytes()
    assert response.headers["Content-Type"] == TYPES[Path(name).suffix]


@pytest.mark.parametrize(
    "name",
    [
        "missing.js",
        "../page.py",
        "..%2Fpage.py",
        "%2e%2e/page.py",
        ".hidden",
        "app.js/",
        "a%00.js",
        "",
        "x.unknown",
    ],
)
@pytest.mark.gen_test
async def test_a_file_that_is_none(tmp_path: Path, name: str) -> None:
    """Nothing beside the folder can be had."""
    async with serving(tmp_path, scan=False) as server:
        assert (await server.get(f"/static/{name}")).status == 404
