"""The HTTP server: a request before there is a handler. What a drain makes of it is test_lifecycle's."""

import asyncio
from pathlib import Path

import pytest

from tests.serving import request, serving


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://x/healthz", 200), ("HTTP://x:1/healthz?a=/", 200), ("http://x", 200), ("nowhere", 404)],
)
@pytest.mark.gen_test
async def test_whole_url_in_place_of_a_path(tmp_path: Path, target: str, status: int) -> None:
    """RFC 9112 §3.2.2: a server must take it."""
    async with serving(tmp_path, scan=False) as server:
        assert (await server.get(target)).status == status


@pytest.mark.gen_test
async def test_request_with_a_body_is_answered(tmp_path: Path) -> None:
    """A body that nobody asked for is read, and the next request on the connection is answered, too."""
    body = request("/healthz", content_length="3") + b"abc"
    async with serving(tmp_path, scan=False) as server, server.connect(body) as client:
        await client.until(b"ok\n")
        await client.send(body)
        assert (await client.until(b"ok\n", 2)).count(b" 200 OK\r\n") == 2


@pytest.mark.parametrize("part", ["", "GET /", "GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\n1"])
@pytest.mark.gen_test
async def test_a_connection_is_at_work_for_a_whole_request(tmp_path: Path, part: str) -> None:
    """Not before its last byte, and no longer than its answer takes."""
    async with serving(tmp_path, scan=False) as server, server.connect(part.encode()) as client:
        await server.get("/healthz")  # answered behind what was sent before
        await asyncio.wait_for(server.http.rested(server.open_streams), 5)
        assert client.received == b""
        async with server.connect(request("/stream/clock")) as streaming:
            await streaming.first_chunk()
            assert len(server.http.at_work) == 1
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.http.rested(server.open_streams), 0.05)
        await asyncio.wait_for(server.http.rested(server.open_streams), 5)
