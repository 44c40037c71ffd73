"""What a relay passes on: of a response, and of a request."""

import gzip
from pathlib import Path

import pytest

from tests.media.relaying import OK, relaying
from tests.media.upstreams import (
    saying,
)
from tests.serving import eventually, request

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
