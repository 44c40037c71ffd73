"""The socket of a TLS connection: how bodies that end with it end, and who breaks it off without a word."""

import asyncio
import logging
import socket
import ssl
from pathlib import Path

import pytest

from handlers.limits import Limits
from media.source import Chunks, SourceBroken
from server import tls
from tests.certificates import Pair, make_pair
from tests.conftest import AccessLog, ExpectLog
from tests.serving import Route, Server, chunks_route, eventually, serving

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The server's certificate, which the clients trust."""
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def encryption(pair: Pair) -> ssl.SSLContext:
    """The server's context."""
    return tls.load(pair.certificate, pair.key)


async def whole() -> Chunks:
    """Ten megabytes."""
    for _ in range(10):
        yield bytes(MEGABYTE)


async def broken() -> Chunks:
    """Ten megabytes of more."""
    async for chunk in whole():
        yield chunk
    raise SourceBroken("the disk")


async def endless() -> Chunks:
    """One chunk after the other."""
    while True:
        yield bytes(MEGABYTE)


ROUTES: list[Route] = [
    chunks_route("/whole", whole),
    chunks_route("/broken", broken),
    chunks_route("/endless", endless),
]


def received(server: Server, pair: Pair, target: str, version: str) -> bytes:
    """The body that comes until close_notify. For a thread.

    Raises:
        OSError: the connection ended without one.
    """
    with connected(server, pair) as client:
        client.sendall(f"GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        answer = bytearray()
        while more := client.recv(65536):
            answer += more
    return bytes(answer.partition(b"\r\n\r\n")[2])


def connected(server: Server, pair: Pair) -> ssl.SSLSocket:
    """A connection that blocks, on which the handshake is done."""
    plain = socket.create_connection(("127.0.0.1", server.port), 20)
    return pair.trusting().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_whole_body_without_a_length_ends_with_close_notify(
    pair: Pair, encryption: ssl.SSLContext, tmp_path: Path, access_log: AccessLog
) -> None:
    """Nothing else tells an HTTP/1.0 client that it has all."""
    async with serving(tmp_path, scan=False, routes=ROUTES, encryption=encryption) as server:
        assert len(await asyncio.to_thread(received, server, pair, "/whole", "1.0")) == 10 * MEGABYTE
        await eventually(lambda: access_log.endings == [("complete", 10 * MEGABYTE)])


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.gen_test(timeout=20)
async def test_broken_body_ends_without_close_notify(
    pair: Pair, encryption: ssl.SSLContext, tmp_path: Path, version: str, expect_log: ExpectLog
) -> None:
    """A library that trusts it would take the body for whole."""
    expect_log("millrace.serve", logging.WARNING, "broke off")
    async with serving(tmp_path, scan=False, routes=ROUTES, encryption=encryption) as server:
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            await asyncio.to_thread(received, server, pair, "/broken", version)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_client_that_stalls_or_leaves(
    pair: Pair, encryption: ssl.SSLContext, tmp_path: Path, access_log: AccessLog
) -> None:
    """As without TLS: the one is let go after the limit, the other missed at once."""
    limits = Limits(stall_seconds=1)
    async with serving(tmp_path, scan=False, routes=ROUTES, limits=limits, encryption=encryption) as server:
        for outcome in ("stalled", "disconnected"):
            client = await asyncio.to_thread(connected, server, pair)
            with client:
                client.send(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if outcome == "stalled":
                    await eventually(lambda: access_log.endings, 10)
                else:
                    assert await asyncio.to_thread(client.recv, 1000)
            await eventually(lambda: len(access_log) == 1 + (outcome == "disconnected"))  # noqa: B023
        assert [ending for ending, _ in access_log.endings] == ["stalled", "disconnected"]


@pytest.mark.gen_test
async def test_client_that_is_gone_before_it_is_accepted(
    pair: Pair, encryption: ssl.SSLContext, tmp_path: Path
) -> None:
    """A port scan: wrapping its socket fails, and Tornado would log a traceback."""
    async with serving(tmp_path, scan=False, encryption=encryption) as server:
        for sent in (b"", b"GET / HTTP/1.1\r\n"):
            async with server.connect(sent) as client:
                client.reset()
        async with server.connect(b"GET / HTTP/1.1\r\n\r\n") as client:
            assert await client.rest() in ((b"", True), (b"", False))  # accepted behind the others


@pytest.mark.gen_test
async def test_what_is_no_tls_after_the_handshake(
    pair: Pair, encryption: ssl.SSLContext, tmp_path: Path
) -> None:
    """A record that nobody's key has made ends the connection, and nothing else."""
    async with serving(tmp_path, scan=False, encryption=encryption) as server:
        client = await asyncio.to_thread(connected, server, pair)
        with client:
            socket.socket.send(client, b"\x17\x03\x03\x00\x05wrong")
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await asyncio.to_thread(client.recv, 1000)
