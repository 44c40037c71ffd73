"""What a client may have: streams at a time, and bytes a second."""

import asyncio
import json
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from handlers.limits import BURST_SECONDS, LEAST_PIECE_BYTES, Limits, RateLimit, client_of
from media.source import Chunk, Chunks, FileRegion
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
            "The limit of streams for a client is 3; end one, or try again later.",
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


# --- bytes a second ---


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ([(0, 100), (0, 100), (0, 100)], [0, 0.5, 1.5]),
        ([(0, 50), (0, 10), (0, 10)], [0, 0, 0.1]),
        ([(0, 1000), (5, 10), (9.5, 10)], [0, 4.5, 0.1]),
        ([(0, 50), (10, 50), (10, 50)], [0, 0, 0]),
        ([(0, 50), (10, 60), (10, 50)], [0, 0, 0.1]),
        ([(0, 0), (0, 50), (0, 1)], [0, 0, 0]),
    ],
    ids=["queue", "burst", "debt", "idle", "no-more-than-the-burst", "nothing"],
)
def test_the_bucket(asked: list[tuple[float, int]], waits: list[float]) -> None:
    """100 bytes a second; each request is a time and a number of bytes."""
    assert BURST_SECONDS == 0.5
    rate = RateLimit(100)
    assert [rate.grant("a", length, 1000 + now) for now, length in asked] == pytest.approx(waits)


def test_each_client_has_its_own() -> None:
    """And without a limit nobody waits, and nothing is kept."""
    rate = RateLimit(100)
    assert [rate.grant(client, 100, 0) for client in "abab"] == [0, 0, 0.5, 0.5]
    free = RateLimit(0)
    assert [free.grant("a", 10**9, 0) for _ in range(3)] == [0, 0, 0]
    assert len(free) == 0


def test_idle_clients_are_forgotten() -> None:
    """Those that are ahead or behind are not."""
    rate = RateLimit(100)
    rate.grant("busy", 1000_000, 0)
    for number in range(5000):
        rate.grant(f"client {number}", 1, number)
    assert len(rate) <= 1001
    assert rate.grant("busy", 1, 5000) == pytest.approx(10_000 - 0.5 - 5000)


@pytest.mark.parametrize(
    ("bytes_per_second", "length", "pieces"),
    [
        (1000, LEAST_PIECE_BYTES, 1),
        (1000, LEAST_PIECE_BYTES + 1, 2),
        (1000, 10 * LEAST_PIECE_BYTES, 10),
        (8 * 1024 * 1024, 1024 * 1024, 1),
        (8 * 1024 * 1024, 4 * 1024 * 1024, 4),
        (1000, 1, 1),
    ],
)
@pytest.mark.parametrize("region", [True, False])
@pytest.mark.gen_test
async def test_chunks_are_cut(bytes_per_second: int, length: int, pieces: int, region: bool) -> None:
    """Evenly: of a region no piece is too short to be one. What may not be cut stays whole."""
    content = os.urandom(length)
    rate = RateLimit(bytes_per_second)
    whole: Chunk = FileRegion(7, 1000, 1000 + length) if region else content
    cut = list(rate._pieces(whole))
    assert len(cut) == pieces
    assert min(map(len, cut)) >= max(map(len, cut)) - pieces
    if region:
        ends = [(piece.start, piece.stop) for piece in cut if isinstance(piece, FileRegion)]
        assert [start for start, _ in ends] == [1000, *(stop for _, stop in ends[:-1])]
        assert ends[-1][1] == 1000 + length
    else:
        assert b"".join(bytes(piece) for piece in cut) == content  # type: ignore[arg-type]

    async def one() -> Chunks:
        yield whole

    rate = RateLimit(10**12)
    assert [chunk async for chunk in rate.paced("a", one(), whole=True)] == [whole]


def file_of(folder: Path, length: int) -> bytes:
    """A text of this length."""
    content = os.urandom(length // 2).hex().encode()
    (folder / "text").write_bytes(content)
    return content


async def taken(server: Server, counts: list[int], seconds: float) -> None:
    """Read one download as fast as it comes, and count it."""
    async with server.connect(request("/text/text")) as client:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            counts.append(len(await client.read()))


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.gen_test(timeout=20)
async def test_a_download_at_a_rate(tmp_path: Path, connections: int) -> None:
    """A client's connections share it; 3 seconds and the burst are never exceeded."""
    file_of(tmp_path, 8_000_000)
    counts: list[int] = []
    async with serving(tmp_path, scan=False, rate_limit=1_000_000) as server:
        await asyncio.gather(*(taken(server, counts, 3) for _ in range(connections)))
    assert 2_400_000 < sum(counts) < 3_900_000


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_limited_body_is_whole(tmp_path: Path) -> None:
    """By regions and from memory, small ones that are asked for again too."""
    content = file_of(tmp_path, 400_000)
    (tmp_path / "utf16").write_bytes(
        "\ufeff".encode("utf-16-le") + ("가나다라 " * 40_000).encode("utf-16-le")
    )
    async with serving(tmp_path, scan=False, rate_limit=400_000) as server:
        began = time.monotonic()
        response = await server.get("/text/text")
        assert (response.body, response.whole) == (content, True)
        assert time.monotonic() - began > 0.3
        for _ in range(3):
            assert len((await server.get("/text/text", range="bytes=0-59999")).body) == 60_000
        assert time.monotonic() - began > 0.8
        response = await server.get("/text/utf16")
        assert (response.body.decode(), response.whole) == ("가나다라 " * 40_000, True)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_events_count_and_come_whole(tmp_path: Path) -> None:
    """They wait rather than be cut or dropped, and a heartbeat stands between two of them."""
    events = [b"data: " + bytes([97 + number]) * 40_000 + b"\n\n" for number in range(4)]

    async def burst() -> Chunks:
        for event in events:
            yield event

    routes = [chunks_route("/s", burst, "text/event-stream", live=True, heartbeat=b":\n")]
    limits = Limits(heartbeat_seconds=0.1)
    async with serving(tmp_path, scan=False, limits=limits, routes=routes, rate_limit=100_000) as server:
        began = time.monotonic()
        response = await server.get("/s")
        assert time.monotonic() - began > 0.5
    assert response.whole
    assert response.body.replace(b":\n", b"") == b"".join(events)
    assert all(event in response.body for event in events)
    assert b":\n" in response.body


@pytest.mark.gen_test
async def test_who_waits_is_ended_like_others(tmp_path: Path, access_log: AccessLog) -> None:
    """A client that leaves while it waits for more is gone at once."""
    file_of(tmp_path, 2_000_000)
    async with serving(tmp_path, scan=False, rate_limit=1000) as server:
        async with server.connect(request("/text/text")) as client:
            await client.until(b"\r\n\r\n")
            client.reset()
            await eventually(lambda: access_log.endings)
        assert len(server.open_streams) == 0
    assert access_log.endings[0][0] == "disconnected"
