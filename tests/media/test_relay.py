"""Another server's response, passed on: what of it, how it ends, and what ends with it."""

import asyncio
import gzip
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from media import upstream as upstream_module
from media.relay import relay
from media.upstream import MOST_REDIRECTS
from tests.certificates import make_pair
from tests.conftest import AccessLog, ExpectLog
from tests.media.upstreams import (
    Answer,
    Exchange,
    Upstream,
    reset_after,
    saying,
    silent_after,
    upstream,
)
from tests.serving import Response, Server, eventually, request, serving

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\n\r\n"
CHUNKED = OK + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def relaying(
    root: Path, answer: Answer, target: str = "/", **options: Any
) -> AsyncIterator[tuple[Server, Upstream]]:
    """A Millrace whose /stream/r is a relay of `answer`."""
    async with upstream(answer) as there:
        row = relay(there.url + target, **options)
        async with serving(root, scan=False, channels={"r": row}) as server:
            yield server, there


def in_turn(*answers: Answer) -> Answer:
    """Each connection gets the next of them; all that come later are closed at once."""
    left = iter(answers)

    async def answer(exchange: Exchange) -> None:
        await next(left, saying())(exchange)

    return answer


def broken(expect_log: ExpectLog, text: str = "") -> None:
    """Announce that a body breaks off."""
    expect_log("millrace.serve", logging.WARNING, text)


def refused(expect_log: ExpectLog, text: str = "") -> None:
    """Announce a 502 or 504."""
    expect_log("millrace", logging.WARNING, text)


# --- what is passed on ---


@pytest.mark.parametrize(
    "status", [200, 203, 206, 300, 400, 403, 404, 410, 416, 418, 429, 451, 500, 503, 599]
)
@pytest.mark.gen_test
async def test_a_status_is_passed_on(status: int, tmp_path: Path) -> None:
    """Also one that says that the other server is at fault: it may have a Retry-After, and a body."""
    answer = saying(f"HTTP/1.1 {status} X\r\nContent-Length: 4\r\nRetry-After: 7\r\n\r\nbody".encode())
    async with relaying(tmp_path, answer) as (server, _):
        response = await server.get("/stream/r")
    assert (response.status, response.body, response.whole) == (status, b"body", True)
    assert response.headers["Retry-After"] == "7"


PASSED = {
    "Content-Type": "text/csv; charset=latin1",
    "Etag": '"abc"',
    "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT",
    "Date": "Wed, 01 Jan 2020 00:00:01 GMT",
    "Expires": "0",
    "Age": "5",
    "Accept-Ranges": "bytes",
    "Cache-Control": "max-age=60",
    "Content-Disposition": 'attachment; filename="\xe9.csv"',
    "Content-Language": "ko",
    "Content-Encoding": "x-own",
    "Content-Security-Policy": "default-src 'none'",
    "Link": "</a>; rel=next, </b>; rel=prev",
    "Vary": "Accept-Encoding",
    "Icy-Name": "Radio",
}

LEFT_OUT = {
    "Connection": "close, X-Hop",
    "X-Hop": "1",
    "Keep-Alive": "timeout=5",
    "Trailer": "X-Sum",
    "Upgrade": "h2c",
    "Set-Cookie": "a=b",
    "Strict-Transport-Security": "max-age=1",
    "Alt-Svc": 'h3=":443"',
    "Clear-Site-Data": '"cookies"',
    "Access-Control-Allow-Origin": "*",
    "X-Accel-Redirect": "/secret",
    "X-Sendfile": "/etc/passwd",
    "X-LIGHTTPD-send-file": "/etc/passwd",
    "X-LiteSpeed-Location": "/secret",
    "X-Reproxy-URL": "http://inside/",
    "Service-Worker-Allowed": "/",
}


@pytest.mark.gen_test
async def test_headers_are_passed_on_but_for_those_of_the_connection_and_ours(tmp_path: Path) -> None:
    """Repeated ones are joined; what another server may not say in our name is left out."""
    lines = [f"{name}: {value}" for name, value in {**PASSED, **LEFT_OUT}.items() if name != "Link"]
    lines += ["link: </a>; rel=next", "LINK: </b>; rel=prev", "Server: Other", "X-Request-Id: theirs"]
    head = "\r\n".join(["HTTP/1.1 200 OK", "Content-Length: 2", *lines]).encode("latin-1") + b"\r\n\r\n"
    async with relaying(tmp_path, saying(head, b"ab")) as (server, _):
        response = await server.get("/stream/r", x_request_id="mine")
    got = dict(response.headers.get_all())
    assert {name: got.get(name) for name in PASSED} == PASSED
    assert not {name for name in LEFT_OUT if name.title() in got and name != "Connection"}
    assert (got["Server"], got["X-Request-Id"]) == ("Millrace", "mine")
    assert got["X-Content-Type-Options"] == "nosniff"
    assert got["Content-Length"] == "2"
    assert response.headers["Connection"] == "close"  # as the client asked


@pytest.mark.gen_test
async def test_a_response_without_a_type_gets_none(tmp_path: Path) -> None:
    """We do not know better."""
    async with relaying(tmp_path, saying(OK + b"Content-Length: 1\r\n\r\n<")) as (server, _):
        response = await server.get("/stream/r")
    assert "Content-Type" not in response.headers
    assert "Vary" not in response.headers


@pytest.mark.gen_test
async def test_coded_bytes_stay_as_they_are(tmp_path: Path) -> None:
    """And what came as it is is not coded by us, whatever the client accepts."""
    coded = gzip.compress(b"text " * 1000)
    head = OK + b"Content-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    async with relaying(tmp_path, saying(head % len(coded), coded)) as (server, there):
        response = await server.get("/stream/r", accept_encoding="gzip, br")
        assert there.asked[0].headers["accept-encoding"] == "gzip, br"
    assert (response.body, response.headers["Content-Encoding"]) == (coded, "gzip")
    plain = b"text " * 1000
    async with relaying(
        tmp_path, saying(OK + b"Content-Type: text/plain\r\nContent-Length: 5000\r\n\r\n", plain)
    ) as (server, _):
        response = await server.get("/stream/r", accept_encoding="gzip")
    assert (response.body, response.headers["Content-Length"]) == (plain, "5000")
    assert "Content-Encoding" not in response.headers


SENT = {
    "Range": "bytes=1-2",
    "If-Range": '"a"',
    "If-Match": '"b"',
    "If-None-Match": '"c"',
    "If-Modified-Since": "Wed, 01 Jan 2020 00:00:00 GMT",
    "If-Unmodified-Since": "Wed, 01 Jan 2020 00:00:00 GMT",
    "Accept": "text/plain",
    "Accept-Encoding": "br",
    "Accept-Language": "ko",
    "Last-Event-ID": "\xea\xb0\x80",
}

KEPT = {
    "Cookie": "secret=1",
    "Authorization": "Bearer secret",
    "X-Forwarded-For": "1.2.3.4",
    "Referer": "http://here/",
    "Origin": "http://here",
    "Te": "trailers",
    "Upgrade": "websocket",
    "X-Mine": "1",
}


@pytest.mark.gen_test
async def test_of_a_request_only_what_is_for_others_is_sent_on(tmp_path: Path) -> None:
    """Conditions, ranges and preferences; no cookie, no credentials, no address, not our name."""
    empty = saying(OK + b"Content-Length: 0\r\n\r\n")
    async with relaying(
        tmp_path, empty, headers={"Authorization": "Bearer ours", "accept-language": "de"}, sent_on=["X-Mine"]
    ) as (server, there):
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**SENT, **KEPT}.items())
        asked = f"GET /stream/r HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{lines}\r\n"
        await server.exchange(asked.encode("latin-1"))
        [exchange] = there.asked
    assert exchange.line == "GET / HTTP/1.1"
    via = exchange.headers.pop("via")
    assert via.startswith("1.1 millrace-")
    assert exchange.headers == {
        **{name.lower(): value for name, value in SENT.items()},
        "accept-language": "de",
        "authorization": "Bearer ours",
        "connection": "close",
        "host": there.url.removeprefix("http://"),
        "user-agent": "Millrace",
        "x-mine": "1",
    }


@pytest.mark.gen_test
async def test_only_the_url_of_the_table_is_asked(tmp_path: Path) -> None:
    """With those parameters of the client's query that the table names, behind its own."""
    empty = saying(OK + b"Content-Length: 0\r\n\r\n")
    async with relaying(tmp_path, empty, "/a%20b?key=1#part", args=("q", "n")) as (server, there):
        await server.get("/stream/r?q=%EA%B0%80%26key%3D2&x=1&url=http://elsewhere/")
        await server.get("/stream/r")
    assert [exchange.line for exchange in there.asked] == [
        "GET /a%20b?key=1&q=%EA%B0%80%26key%3D2 HTTP/1.1",
        "GET /a%20b?key=1 HTTP/1.1",
    ]


@pytest.mark.parametrize(("query", "header"), [("caf%C3%A9", "caf\xc3\xa9"), ("a%0d%0aX: 1", None)])
@pytest.mark.gen_test
async def test_the_last_id_may_stand_in_the_query(query: str, header: str | None, tmp_path: Path) -> None:
    """It becomes the header; no line break gets into that."""
    target = f"/stream/r?last_event_id={query.replace(' ', '%20')}"
    async with relaying(tmp_path, saying(OK + b"Content-Length: 0\r\n\r\n")) as (server, there):
        response = await server.get(target)
    assert response.status == (200 if header else 400)
    assert [exchange.headers["last-event-id"] for exchange in there.asked] == ([header] if header else [])


@pytest.mark.gen_test
async def test_no_cookie_gets_from_one_client_to_another(tmp_path: Path) -> None:
    """What the other server sets for one is not sent with the next request."""
    answer = saying(OK + b"Set-Cookie: session=1\r\nContent-Length: 0\r\n\r\n")
    async with relaying(tmp_path, answer) as (server, there):
        for _ in range(2):
            await server.get("/stream/r")
    assert not any("cookie" in exchange.headers for exchange in there.asked)


@pytest.mark.parametrize(
    ("status", "method"),
    [(200, "HEAD"), (206, "HEAD"), (304, "GET"), (204, "GET"), (304, "HEAD"), (404, "HEAD")],
)
@pytest.mark.gen_test
async def test_what_has_no_body_gets_none(status: int, method: str, tmp_path: Path) -> None:
    """HEAD is asked as HEAD; the headers are there, and the connection goes on."""
    head = f'HTTP/1.1 {status} X\r\nEtag: "a"\r\nContent-Length: 100\r\n\r\n'.encode()
    async with relaying(tmp_path, saying(head)) as (server, there):
        async with server.connect(request("/stream/r", method)) as client:
            received = await client.until(b"\r\n\r\n")
            await client.send(request("/healthz"))
            assert b"ok" in await client.until(b"\r\n\r\nok")
        assert there.asked[0].line.startswith(f"{method} ")
        await eventually(lambda: there.open == 0)
    assert f" {status} ".encode() in received
    assert b'Etag: "a"' in received
    assert (b"Content-Length: 100" in received) == (status != 204)


@pytest.mark.gen_test
async def test_interim_responses_are_passed_over(tmp_path: Path) -> None:
    """100 and 103 are about the connection there."""
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with relaying(tmp_path, saying(hints * 3, OK + b"Content-Length: 1\r\n\r\na")) as (server, _):
        response = await server.get("/stream/r")
    assert (response.status, response.body) == (200, b"a")


@pytest.mark.gen_test
async def test_the_length_beside_chunks_lies(tmp_path: Path) -> None:
    """RFC 9112 §6.3: the chunks count."""
    head = OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with relaying(tmp_path, saying(head + b"3\r\nabc\r\n0\r\n\r\n")) as (server, _):
        response = await server.get("/stream/r")
    assert (response.body, response.whole) == (b"abc", True)
    assert "Content-Length" not in response.headers


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
    "two_lengths": saying(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "endless_length": saying(OK + b"Content-Length: %d\r\n\r\nab" % 2**63),
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


# --- endings ---

ENDINGS: Mapping[str, tuple[Answer, bytes]] = {
    "short_of_its_length": (saying(OK + b"Content-Length: 9\r\n\r\n", b"part"), b"part"),
    "reset_before_its_length": (reset_after(OK + b"Content-Length: 9\r\n\r\n", b"part"), b"part"),
    "no_last_chunk": (saying(CHUNKED, b"4\r\npart\r\n"), b"part"),
    "in_a_chunk": (saying(CHUNKED, b"9\r\npart"), b"part"),
    "in_a_chunk_size": (saying(CHUNKED, b"4\r\npart\r\n1"), b"part"),
    "no_end_of_trailers": (saying(CHUNKED, b"4\r\npart\r\n0\r\n"), b"part"),
    "malformed_chunk": (saying(CHUNKED, b"4\r\npart\r\nxyz\r\n"), b"part"),
    "reset_between_chunks": (reset_after(CHUNKED, b"4\r\npart\r\n"), b"part"),
    "reset_without_framing": (reset_after(OK + b"\r\n", b"part"), b"part"),
    "reset_events": (reset_after(SSE, b"data: pa"), b"data: pa"),
    "idle": (silent_after(OK + b"Content-Length: 9\r\n\r\n", b"part"), b"part"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.gen_test
async def test_what_breaks_off_there_breaks_off_here(
    name: str, version: str, tmp_path: Path, expect_log: ExpectLog, access_log: AccessLog
) -> None:
    """In every framing, and nothing of ours stands behind it. What came before arrives, but for a reset."""
    broken(expect_log, "broke off")
    answer, body = ENDINGS[name]
    async with relaying(tmp_path, answer, idle_seconds=0.3) as (server, there):
        received = await server.exchange(request("/stream/r", version=version, connection="close"))
        await eventually(lambda: there.open == 0)
        await eventually(lambda: len(access_log))
    assert (received.status, received.whole) == (200, False)
    assert received.body == body or (received.reset and body.startswith(received.body))
    assert received.reset == (version == "1.0" and "Content-Length" not in received.headers)
    assert [outcome for outcome, _ in access_log.endings] == ["failed"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("said", [
    (OK + b"Content-Length: 5\r\n\r\n", b"whole"),
    (CHUNKED, b"5\r\nwhole\r\n0\r\nX-Sum: 1\r\n\r\n"), (OK + b"\r\n", b"whole"),
    (b"HTTP/1.0 200 OK\r\n\r\n", b"whole"), (OK + b"Content-Length: 5\r\n\r\n", b"whole and more"),
], ids=["length", "chunks", "close", "1.0", "more"])  # fmt: skip
@pytest.mark.gen_test
async def test_what_is_whole_there_is_whole_here(
    said: tuple[bytes, ...], version: str, tmp_path: Path
) -> None:
    """In every framing."""
    async with relaying(tmp_path, saying(*said)) as (server, there):
        received = await server.exchange(request("/stream/r", version=version, connection="close"))
        await eventually(lambda: there.open == 0)
    assert (received.status, received.body, received.whole) == (200, b"whole", True)


@pytest.mark.slow
@pytest.mark.gen_test
async def test_events_may_be_silent(tmp_path: Path) -> None:
    """No idle limit for them, nor a heartbeat of ours: they are someone else's bytes."""

    async def answer(exchange: Exchange) -> None:
        await exchange.say(SSE, b"data: par")
        await asyncio.sleep(1)
        await exchange.say(b"t\n\n")

    async with relaying(tmp_path, answer, idle_seconds=0.1) as (server, _):
        response = await server.get("/stream/r")
    assert (response.body, response.whole) == (b"data: part\n\n", True)


# --- as it comes, and no faster than it is taken ---


@pytest.mark.gen_test
async def test_each_piece_arrives_as_it_comes(tmp_path: Path) -> None:
    """The other server does not say the next before the client has the last."""
    taken = asyncio.Queue[None]()

    async def answer(exchange: Exchange) -> None:
        await exchange.say(SSE)
        for number in range(5):
            await exchange.say(b"data: %d\n\n" % number)
            await taken.get()

    async with relaying(tmp_path, answer) as (server, _), server.connect(request("/stream/r")) as client:
        for number in range(5):
            await client.until(b"data: %d\n\n" % number)
            taken.put_nowait(None)
        assert b"\r\n0\r\n\r\n" in await client.until(b"0\r\n\r\n")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_slow_client_slows_the_other_server(tmp_path: Path) -> None:
    """What it does not take stays in the kernels' buffers."""
    said = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal said
        exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await exchange.say(OK + b"Content-Length: 1000000000\r\n\r\n")
        while True:
            await exchange.say(bytes(65536))
            said += 65536

    async with relaying(tmp_path, answer) as (server, there):
        async with server.connect(request("/stream/r"), receive_bytes=16384) as client:
            await client.until(b"\r\n\r\n")
            before = -1
            while before != said:  # until the buffers are full
                before = said
                await asyncio.sleep(0.5)
            assert said < 32_000_000
            for _ in range(200):
                await client.read()
            await eventually(lambda: said > before)
        assert await eventually(lambda: there.open == 0) < 3


# --- shared: one connection for all clients ---


RETRY = b"retry: 1\n\n"  # 0.1 s, which is the least
NDJSON = OK + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def said_in(received: bytes) -> list[tuple[str, str]]:
    """The name and the data of each event, without those that only say where the stream stands."""
    body = Response.parsed(received).body.decode()
    found = []
    for event in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
        if "data" in fields:
            found.append((fields.get("event", ""), fields["data"]))
    return found


SHARED: Mapping[str, tuple[tuple[Answer, ...], list[tuple[str, str]], list[str | None]]] = {
    "one_connection": (
        (silent_after(SSE, b"id: 1\ndata: a\n\nevent: add\ndata: last\n\n"),),
        [("", "a"), ("add", "last")],
        [None],
    ),
    "goes_on_behind_the_last_id": (
        (
            saying(SSE, RETRY, b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"),
            silent_after(SSE, b"id: 3\ndata: last\n\n"),
        ),
        [("", "a"), ("", "b"), ("", "last")],
        [None, "2"],
    ),
    "half_an_event_is_none": (
        (
            reset_after(SSE, RETRY, b"id: 1\ndata: a\n\nid: 2\ndata: b"),
            silent_after(SSE, b"id: 2\ndata: last\n\n"),
        ),
        [("", "a"), ("", "last")],
        [None, "1"],
    ),
    "no_ids": (
        (saying(SSE, RETRY, b"data: a\n\n"), silent_after(SSE, b"data: last\n\n")),
        [("", "a"), ("gap", "{}"), ("", "last")],
        [None, None],
    ),
    "an_id_that_a_header_can_have": (
        (saying(SSE, RETRY, b"id: a\t\xe2\x80\x8b\ndata: a\n\n"), silent_after(SSE, b"data: last\n\n")),
        [("", "a"), ("", "last")],
        [None, "a\t\u200b".encode().decode("latin-1")],
    ),
    **{
        f"an_id_that_no_header_can_have_{name}": (
            (saying(SSE, RETRY, b"id: " + last_id + b"\ndata: a\n\n"), silent_after(SSE, b"data: last\n\n")),
            [("", "a"), ("gap", "{}"), ("", "last")],
            [None, None],
        )
        for name, last_id in (("control", b"a\x01b"), ("space", b" a"), ("long", b"a" * 4097))
    },
    "it_says_the_gap": (
        (
            saying(SSE, RETRY, b"id: 1\ndata: a\n\n"),
            silent_after(SSE, b'id: 7\nevent: gap\ndata: {"x":1}\n\ndata: last\n\n'),
        ),
        [("", "a"), ("gap", "{}"), ("", "last")],
        [None, "1"],
    ),
    "down_for_a_while": (
        (
            saying(SSE, RETRY, b"id: 1\ndata: a\n\n"),
            saying(),
            saying(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"),
            silent_after(SSE, b"data: last\n\n"),
        ),
        [("", "a"), ("", "last")],
        [None, "1", "1", "1"],
    ),
    "no_content_is_the_end": (
        (saying(SSE, RETRY, b"id: 1\ndata: a\n\n"), saying(b"HTTP/1.1 204 X\r\n\r\n")),
        [("", "a"), ("end", "{}")],
        [None, "1"],
    ),
    "a_millrace_ends": (
        (saying(SSE, b"id: 1\ndata: a\n\nevent: end\nid: (end)\ndata: {}\n\n"),),
        [("", "a"), ("end", "{}")],
        [None],
    ),
    "an_end_of_its_own": (
        (silent_after(SSE, b"event: end\ndata: a\n\ndata: last\n\n"),),
        [("upstream-end", "a"), ("", "last")],
        [None],
    ),
    "lines": (
        (
            saying(
                NDJSON, chunk(b'{"n":123456789012345678901}\n\n['), chunk(b"1]\n"), chunk(b"2"), b"0\r\n\r\n"
            ),
        ),
        [("", '{"n":123456789012345678901}'), ("", "[1]"), ("", "2"), ("end", "{}")],
        [None],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.gen_test
async def test_what_is_shared_comes_to_all(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over one connection, made anew when it breaks; the clients stay."""
    answers, expected, ids = SHARED[name]
    async with relaying(tmp_path, in_turn(*answers), shared=True) as (server, there):
        asked = request("/stream/r", accept="text/event-stream", connection="close")
        again = request("/stream/r", accept="text/event-stream", last_event_id="earliest")
        async with server.connect(asked) as first, server.connect() as second:
            await first.until(expected[0][1].encode())
            if expected[-1][1] == "last":
                await second.send(again)
                received = [await client.until(b"data: last\n\n") for client in (first, second)]
            else:
                received = [(await first.rest())[0]]
        for each in received:
            told = said_in(each)
            assert [(event, "{}" if event == "gap" else data) for event, data in told] == expected
        assert [exchange.headers.get("last-event-id") for exchange in there.asked] == ids
        assert {exchange.headers["accept-encoding"] for exchange in there.asked} == {"identity"}
    assert there.open == 0
    assert "Traceback" not in caplog.text


@pytest.mark.slow
@pytest.mark.gen_test
async def test_lines_that_break_off_have_a_gap(tmp_path: Path, expect_log: ExpectLog) -> None:
    """They have no ids: what is missing is not known."""
    expect_log("millrace.relay", logging.WARNING, "it is asked again")
    answers = in_turn(saying(NDJSON, chunk(b"1\n2")), silent_after(NDJSON, chunk(b"3\n")))
    async with (
        relaying(tmp_path, answers, shared=True) as (server, _),
        server.connect(request("/stream/r", accept="application/x-ndjson")) as client,
    ):
        received = await client.until(b'"data":3')
    assert received.index(b'"data":1') < received.index(b'"gap"') < received.index(b'"data":3')
    assert b'"data":2' not in received


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Type: text/html\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
    ],
    ids=["nothing", "404", "page", "coded"],
)
@pytest.mark.gen_test
async def test_what_cannot_be_shared_is_502(said: bytes, tmp_path: Path, expect_log: ExpectLog) -> None:
    """At the start; and it is asked once."""
    refused(expect_log, " 502: ")
    async with relaying(tmp_path, saying(said), shared=True) as (server, there):
        assert (await server.get("/stream/r")).status == 502
        assert len(there.asked) == 1


@pytest.mark.gen_test
async def test_one_connection_for_each_value_of_a_parameter(tmp_path: Path) -> None:
    """Which has to be given."""
    async with relaying(tmp_path, silent_after(SSE, b"data: a\n\n"), shared=True, args=["city"]) as (
        server,
        there,
    ):
        async with (
            server.connect(request("/stream/r?city=a")) as one,
            server.connect(request("/stream/r?city=a")) as same,
            server.connect(request("/stream/r?city=b")) as other,
        ):
            await one.until(b"data: a")
            await other.until(b"data: a")
            await same.until(b"\r\n\r\n")
            assert sorted(exchange.line for exchange in there.asked) == [
                "GET /?city=a HTTP/1.1", "GET /?city=b HTTP/1.1",
            ]  # fmt: skip
        assert (await server.get("/stream/r")).status == 400
    assert there.open == 0


# --- whoever leaves ---


@pytest.mark.parametrize("said", [(), (OK,), (OK + b"Content-Length: 9\r\n\r\n",), (SSE, b"data: 1\n\n")])
@pytest.mark.gen_test
async def test_a_client_that_leaves_ends_the_connection_there(
    said: tuple[bytes, ...], tmp_path: Path, access_log: AccessLog
) -> None:
    """Within a second, also while nothing comes, and before there are headers."""
    async with relaying(tmp_path, silent_after(*said)) as (server, there):
        async with server.connect(request("/stream/r")) as client:
            await eventually(lambda: there.asked)
            client.close()
        assert await eventually(lambda: there.open == 0) < 3
        await eventually(lambda: len(access_log))
    assert [outcome for outcome, _ in access_log.endings] == ["disconnected"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.gen_test
async def test_draining_ends_events_regularly(version: str, tmp_path: Path) -> None:
    """As far as they go; and no word of ours is put behind half an event."""
    async with relaying(tmp_path, silent_after(SSE, b"data: 1\n\ndata: 2")) as (server, there):
        asked = request("/stream/r", version=version, connection="close")
        async with server.connect(asked) as client:
            await client.until(b"data: 2")
            server.open_streams.drain()
            received, reset = await client.rest()
        await eventually(lambda: there.open == 0)
    assert not reset
    assert received.endswith(b"data: 2" if version == "1.0" else b"data: 2\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n",
        b"Content-Type: text/event-stream\r\nContent-Length: 9\r\n",
    ],
    ids=["plain", "coded", "length"],
)
@pytest.mark.gen_test
async def test_draining_leaves_what_has_an_end_of_its_own(head: bytes, tmp_path: Path) -> None:
    """It would not be whole: it may go on, and is broken off in the end."""
    async with (
        relaying(tmp_path, silent_after(OK + head + b"\r\n", b"part")) as (server, _),
        server.connect(request("/stream/r")) as client,
    ):
        await client.until(b"part")
        server.open_streams.drain()
        await asyncio.sleep(0.05)
        assert len(server.open_streams) == 1
        server.open_streams.break_off()
        received, _ = await client.rest()
    assert received.rpartition(b"part")[2] in (b"", b"\r\n")


@pytest.mark.gen_test
async def test_what_the_table_calls_live_is_drained(tmp_path: Path) -> None:
    """A radio station, say."""
    radio = silent_after(OK + b"Content-Type: audio/mpeg\r\n\r\n", b"sound")
    async with (
        relaying(tmp_path, radio, live=True, idle_seconds=0.01) as (server, _),
        server.connect(request("/stream/r", connection="close")) as client,
    ):
        await client.until(b"sound")
        server.open_streams.drain()
        received, _ = await client.rest()
    assert received.endswith(b"sound\r\n0\r\n\r\n")


def test_a_row_says_where_it_comes_from() -> None:
    """Where it has no title: without path or query, that may hold a key."""
    assert relay("https://example.org/a?key=1").title == "What example.org sends"
    assert relay("https://example.org/", title="Weather").title == "Weather"
