"""Another server, asked: redirects, its failures, time-outs, a bound of connections, and TLS."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from media import upstream as upstream_module
from media.relay import relay
from media.upstream import MOST_REDIRECTS
from tests.certificates import make_pair
from tests.conftest import ExpectLog
from tests.media.relaying import CHUNKED, OK, SSE, broken, in_turn, refused, relaying
from tests.media.upstreams import (
    Answer,
    Exchange,
    reset_after,
    saying,
    silent_after,
    upstream,
)
from tests.serving import eventually, request, serving

# --- redirects ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.gen_test
async def test_a_redirect_on_the_same_server_is_followed(status: int, tmp_path: Path) -> None:
    """Relative or not; with the same headers."""

    async def answer(exchange: Exchange) -> None:
        if exchange.line.startswith("GET /there?x=1 "):
            await exchange.say(OK + b"Content-Length: 5\r\n\r\nthere")
        else:
            where = b"/there?x=1" if status % 2 else f"http://{exchange.headers['host']}/there?x=1".encode()
            await exchange.say(
                b"HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 3\r\n\r\nno!" % (status, where)
            )

    async with relaying(tmp_path, answer, "/here") as (server, there):
        response = await server.get("/stream/r", range="bytes=0-")
        assert [exchange.headers["range"] for exchange in there.asked] == ["bytes=0-"] * 2
    assert (response.status, response.body) == (200, b"there")


@pytest.mark.parametrize(
    "where",
    [
        "http://elsewhere.invalid/",
        "https://127.0.0.1/",
        "//elsewhere.invalid",
        "http://127.0.0.1:1/",
        "/",
        "http://[",
        "file:///etc/passwd",
    ],
)
@pytest.mark.gen_test
async def test_a_redirect_elsewhere_is_not_followed(
    where: str, tmp_path: Path, expect_log: ExpectLog
) -> None:
    """Another host, scheme or port is not in the table; one that leads round is asked so often."""
    refused(expect_log, "127.0.0.1")
    answer = saying(f"HTTP/1.1 302 X\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())
    async with relaying(tmp_path, answer) as (server, there):
        response = await server.get("/stream/r")
        assert len(there.asked) == (MOST_REDIRECTS + 1 if where == "/" else 1)
        await eventually(lambda: there.open == 0)
    assert response.status == 502
    assert b"invalid" not in response.body


# --- failures before the first byte ---

BROKEN_STARTS: Mapping[str, Answer] = {
    "closed": saying(),
    "reset": reset_after(),
    "reset_in_headers": reset_after(OK, b"X: "),
    "closed_in_headers": saying(OK, b"X: "),
    "no_http": saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "icy": saying(b"ICY 200 OK\r\n\r\n"),
    "malformed_status": saying(b"HTTP/1.1 2x0 OK\r\n\r\n"),
    "malformed_header": saying(OK + b"no colon\r\n\r\n"),
    "control_character": saying(OK + b"X: a\x01b\r\n\r\n"),
    "gigantic_headers": saying(OK, *[b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(1000)]),
    "endless_length": saying(OK + b"Content-Length: %d\r\n\r\nab" % 2**63),
    "two_lengths": saying(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "no_length": saying(OK + b"Content-Length: -1\r\n\r\n"),
    "unknown_coding": saying(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "switching": saying(b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    "wants_credentials": saying(b"HTTP/1.1 401 X\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"),
    "odd_status": saying(b"HTTP/1.1 777 X\r\nContent-Length: 0\r\n\r\n"),
    "nothing_of_a_body": saying(OK + b"Content-Length: 5\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_STARTS)
@pytest.mark.gen_test
async def test_a_broken_start_is_502(name: str, tmp_path: Path, expect_log: ExpectLog) -> None:
    """A problem document of ours, that says nothing of where it comes from."""
    refused(expect_log, " 502: ")
    async with relaying(tmp_path, BROKEN_STARTS[name]) as (server, there):
        response = await server.get("/stream/r")
        await eventually(lambda: there.open == 0)
    assert (response.status, response.whole) == (502, True)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert b"127.0.0.1" not in response.body


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server does that speaks no TLS."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{free}/", "http://nothing.invalid/", "https://127.0.0.1:{plain}/"]
)
@pytest.mark.gen_test
async def test_what_is_down_is_502(url: str, tmp_path: Path, expect_log: ExpectLog) -> None:
    """Nobody listens, there is no such name, or it speaks no TLS."""
    refused(expect_log, " 502: ")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        free = unused.getsockname()[1]
    plain = await asyncio.start_server(greet, "127.0.0.1", 0)
    row = relay(url.format(free=free, plain=plain.sockets[0].getsockname()[1]))
    async with plain, serving(tmp_path, scan=False, channels={"r": row}) as server:
        response = await server.get("/stream/r")
    assert response.status == 502


@pytest.mark.parametrize("said", [b"", OK, b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.gen_test
async def test_what_does_not_answer_in_time_is_504(
    said: bytes, tmp_path: Path, expect_log: ExpectLog
) -> None:
    """Or only begins to; the connection there is closed."""
    refused(expect_log, " 504: ")
    async with relaying(tmp_path, silent_after(said), idle_seconds=0.05, connect_seconds=0.05) as (
        server,
        there,
    ):
        response = await server.get("/stream/r")
        await eventually(lambda: there.open == 0)
    assert response.status == 504


@pytest.mark.gen_test
async def test_headers_that_trickle_are_504(tmp_path: Path, expect_log: ExpectLog) -> None:
    """Each byte in time, and never the end."""
    refused(expect_log, " 504: ")

    async def trickle(exchange: Exchange) -> None:
        await exchange.say(OK)
        while True:
            await exchange.say(b"X: 1\r\n")
            await asyncio.sleep(0.01)

    async with relaying(tmp_path, trickle, idle_seconds=0.1, connect_seconds=0.1) as (server, _):
        assert (await server.get("/stream/r")).status == 504


@pytest.mark.gen_test
async def test_connections_are_bounded(tmp_path: Path, expect_log: ExpectLog) -> None:
    """Who finds all in use waits a while, and is told to come back."""
    refused(expect_log, " 503: ")
    async with relaying(tmp_path, silent_after(SSE, b": hi\n\n"), connections=1, connect_seconds=0.1) as (
        server,
        there,
    ):
        async with server.connect(request("/stream/r")) as first:
            await first.until(b": hi")
            response = await server.get("/stream/r")
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert there.open == 1
        await eventually(lambda: there.open == 0)
        async with server.connect(request("/stream/r")) as second:
            await second.until(b": hi")


@pytest.mark.gen_test
async def test_a_relay_that_leads_to_itself_is_502(tmp_path: Path, expect_log: ExpectLog) -> None:
    """By the Via that each of them adds."""
    refused(expect_log, "leads back here")
    async with serving(tmp_path, scan=False) as server:
        row = relay(f"{server.url}/stream/r")
        assert isinstance(server.resources.streams, dict)
        server.resources.streams["r"] = row
        response = await server.get("/stream/r")
    assert response.status == 502


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ftp://host/", {}), ("/path", {}), ("http://", {}), ("http://user:secret@host/", {}),
        ("http://host/", {"sent_on": ["Cookie"]}), ("http://host/", {"sent_on": ["authorization"]}),
        ("http://host/", {"sent_on": ["Host"]}), ("http://host/", {"sent_on": ["Connection"]}),
        ("http://host/", {"shared": True, "args": ["a", "b"]}),
        ("http://host/", {"shared": True, "sent_on": ["X-Mine"]}),
    ],
)  # fmt: skip
def test_what_cannot_be_a_relay_is_no_row(url: str, options: dict[str, Any]) -> None:
    """The start would stop with this sentence; no secret stands in it."""
    with pytest.raises(ValueError, match="a relay's") as caught:
        relay(url, **options)
    assert "secret" not in str(caught.value)


# --- over TLS ---


@pytest.mark.slow
@pytest.mark.gen_test
async def test_another_server_may_speak_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """With a certificate that is trusted, and else not; a client that leaves ends it, and a break is one."""
    refused(expect_log, "CERTIFICATE_VERIFY_FAILED")
    broken(expect_log, "broke off")
    pair = make_pair(tmp_path / "pair")
    encryption = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    encryption.load_cert_chain(pair.certificate, pair.key)
    answer = in_turn(
        saying(CHUNKED, b"5\r\nwhole\r\n0\r\n\r\n"),
        saying(CHUNKED, b"4\r\npart\r\n"),
        silent_after(SSE, b"data: 1\n\n"),
    )
    async with upstream(answer, encryption) as there:
        row = relay(f"{there.url}/")
        async with serving(tmp_path, scan=False, channels={"r": row}) as server:
            assert (await server.get("/stream/r")).status == 502
            monkeypatch.setattr(upstream_module, "_trust", lambda encrypted: pair.trusting())
            whole, part = await server.get("/stream/r"), await server.get("/stream/r")
            assert [(whole.body, whole.whole), (part.body, part.whole)] == [
                (b"whole", True),
                (b"part", False),
            ]
            async with server.connect(request("/stream/r")) as client:
                await client.until(b"data: 1")
            await eventually(lambda: there.open == 0)
