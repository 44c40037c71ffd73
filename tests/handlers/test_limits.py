"""What a client may have: streams at a time."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from handlers.limits import Limits, client_of
from media.source import Chunks
from tests.conftest import AccessLog
from tests.serving import Client, Server, chunks_route, eventually, request, serving


async def patient() -> Chunks:
    """A chunk, and a long silence."""
    yield b"first"
    await asyncio.sleep(60)


ROUTES = [chunks_route("/s", patient)]


async def opened(stack: AsyncExitStack, server: Server, count: int, **headers: str) -> list[Client]:
    """So many streams, each begun."""
    clients = [
        await stack.enter_async_context(server.connect(request("/s", **headers))) for _ in range(count)
    ]
    for client in clients:
        await client.until(b"first")
    return clients


@pytest.mark.parametrize(
    ("limits", "status", "detail"),
    [
        (Limits(most_streams=3), 503, "The server sends as many streams as it may; try again later."),
        (
            Limits(most_streams_per_client=3),
            429,
            "One client may have 3 streams open; end one, or try again later.",
        ),
        (
            Limits(most_streams=3, most_streams_per_client=3),
            503,
            "The server sends as many streams as it may; try again later.",
        ),
    ],
    ids=["all", "client", "both"],
)
@pytest.mark.gen_test
async def test_one_stream_too_many(
    tmp_path: Path, access_log: AccessLog, limits: Limits, status: int, detail: str
) -> None:
    """It is refused with a problem document that says when to come back; what is no stream is answered."""
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=ROUTES) as server,
        AsyncExitStack() as stack,
    ):
        clients = await opened(stack, server, 3)
        refused = await server.get("/s")
        assert (refused.status, refused.headers["Retry-After"]) == (status, "10")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert json.loads(refused.body)["detail"] == detail
        for target in ("/healthz", "/readyz", "/streams"):
            assert (await server.get(target)).status == 200
        assert (await server.get("/s", "HEAD")).status == 200
        assert len(server.open_streams) == 3
        clients[0].reset()
        await eventually(lambda: len(server.open_streams) == 2)
        await opened(stack, server, 1)


@pytest.mark.gen_test
async def test_without_limits_there_are_none(tmp_path: Path) -> None:
    """0 is none."""
    limits = Limits(most_streams=0, most_streams_per_client=0)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=ROUTES) as server,
        AsyncExitStack() as stack,
    ):
        await opened(stack, server, 5)
        assert len(server.open_streams) == 5


@pytest.mark.gen_test
async def test_clients_behind_a_proxy_are_told_apart(tmp_path: Path) -> None:
    """By the addresses that it reports, and those of an IPv6 network are one."""
    limits = Limits(most_streams_per_client=2)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=ROUTES, proxies="127.0.0.1") as server,
        AsyncExitStack() as stack,
    ):
        await opened(stack, server, 2, x_forwarded_for="203.0.113.7")
        await opened(stack, server, 2, x_forwarded_for="203.0.113.8")
        await opened(stack, server, 1, x_forwarded_for="2001:db8::1")
        await opened(stack, server, 1, x_forwarded_for="2001:db8::2:0:0:1")
        for address, status in {"203.0.113.7": 429, "2001:db8::3": 429, "2001:db8:0:1::1": 200}.items():
            async with server.connect(request("/s", x_forwarded_for=address)) as client:
                await client.until(b"\r\n\r\n")
                assert client.received.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.gen_test
async def test_nobody_else_says_who_he_is(tmp_path: Path) -> None:
    """A client that makes addresses up is one client all the same."""
    limits = Limits(most_streams_per_client=1)
    async with (
        serving(tmp_path, scan=False, limits=limits, routes=ROUTES) as server,
        AsyncExitStack() as stack,
    ):
        await opened(stack, server, 1, x_forwarded_for="203.0.113.7")
        for headers in ({"x_forwarded_for": "203.0.113.8"}, {"x_real_ip": "203.0.113.9"}):
            assert (await server.get("/s", **headers)).status == 429


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("a socket", "a socket"),
    ],
)
def test_whom_an_address_stands_for(address: str, client: str) -> None:
    """An IPv4 address for itself, an IPv6 address for its network."""
    assert client_of(address) == client
