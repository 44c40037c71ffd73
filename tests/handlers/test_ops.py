"""What a supervisor asks."""

from pathlib import Path

import pytest

from tests.serving import request, serving


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.gen_test
async def test_a_server_at_work(tmp_path: Path, path: str, method: str) -> None:
    """It lives, and takes requests."""
    async with serving(tmp_path, scan=False) as server:
        response = await server.get(path, method)
    assert (response.status, response.body) == (200, b"ok\n" if method == "GET" else b"")
    assert response.headers["Content-Length"] == "3"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("why", ["starting", "draining"])
@pytest.mark.gen_test
async def test_a_server_that_is_not_ready(tmp_path: Path, why: str) -> None:
    """It lives all the same; who asks is told to come back."""
    async with serving(tmp_path, scan=False) as server:
        if why == "starting":
            server.resources.accepting = False
        else:
            server.open_streams.drain()
        ready = await server.get("/readyz")
        assert (await server.get("/healthz")).status == 200
    assert ready.status == 503
    assert ready.headers["Retry-After"] == "1"
    assert b"starting or shutting down" in ready.body


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 204), ("GET", 405)])
@pytest.mark.gen_test
async def test_the_methods_of_the_server(tmp_path: Path, method: str, status: int) -> None:
    """OPTIONS * lists them: a source client looks there for PUT and SOURCE, and takes 404 for a refusal."""
    async with serving(tmp_path, scan=False) as server:
        answer = await server.exchange(request("*", method, connection="close"))
    assert answer.status == status
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST, DELETE, PUT, SOURCE"
