"""Who may write: the secrets, and what a program on the same machine is."""

import base64
from collections.abc import Callable

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from handlers.resource import Problem
from handlers.writers import Writers

LOCAL = Writers(loopback=True)
TOKEN = Writers(token="abc.DEF==", loopback=True)
PASSWORD = Writers(password="hack mé", loopback=True)


class Connection:
    """What a request asks of its connection."""

    context = None


def request(method: str = "POST", version: str = "HTTP/1.1", **headers: str) -> HTTPServerRequest:
    """A request with a Host of this machine; `x_real_ip="x"` is the header `X-Real-Ip: x`, empty: none."""
    found = {"Host": "localhost:8888"} | {
        name.replace("_", "-").title(): value for name, value in headers.items()
    }
    return HTTPServerRequest(
        headers=HTTPHeaders({name: value for name, value in found.items() if value}),
        connection=Connection(),  # type: ignore[arg-type]
        start_line=RequestStartLine(method, "/", version),
    )


def basic(credentials: str) -> str:
    """The header of HTTP's basic authentication."""
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def refusal(admit: Callable[[HTTPServerRequest], None], asked: HTTPServerRequest) -> int:
    """The status that a request is refused with; 0: it is admitted."""
    try:
        admit(asked)
    except Problem as problem:
        return problem.status_code
    return 0


def publisher(writers: Writers, asked: HTTPServerRequest) -> int:
    """Of one that publishes."""
    return refusal(writers.admit_publisher, asked)


def source(writers: Writers, asked: HTTPServerRequest) -> int:
    """Of one that sends live audio."""
    return refusal(writers.admit_source, asked)


@pytest.mark.parametrize(
    ("headers", "local"),
    [
        ({}, True),
        ({"host": "LOCALHOST"}, True),
        ({"host": "127.0.0.1:1"}, True),
        ({"host": "127.1.2.3"}, True),
        ({"host": "[::1]:8888"}, True),
        ({"host": "localhost.example.org"}, False),
        ({"host": "127.0.0.1.example.org"}, False),
        ({"host": "rebound.example.org:8888"}, False),
        ({"host": "192.168.0.1"}, False),
        ({"origin": "http://localhost:8888"}, True),
        ({"origin": "https://example.org"}, False),
        ({"origin": "http://localhost:9999"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://["}, False),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"forwarded": "for=10.0.0.1"}, False),
        ({"x_forwarded_for": "127.0.0.1"}, False),
        ({"x_real_ip": "127.0.0.1"}, False),
        ({"via": "1.1 proxy"}, False),
    ],
)
def test_without_a_secret_programs_of_this_machine_may(headers: dict[str, str], local: bool) -> None:
    """No page of another site, no name that was made to resolve to it, nobody behind a proxy on it."""
    asked = request(**headers)
    assert publisher(LOCAL, asked) == source(LOCAL, asked) == (0 if local else 403)
    assert LOCAL.publishing_is_open(asked) == local
    assert publisher(Writers(), asked) == source(Writers(), asked) == 403
    assert not Writers().publishing_is_open(asked)


@pytest.mark.parametrize(
    ("method", "status"), [("POST", 403), ("PUT", 403), ("DELETE", 403), ("SOURCE", 0), ("GET", 0)]
)
def test_what_a_bare_nginx_passes_on_is_not_of_this_machine(method: str, status: int) -> None:
    """It has no forwarding header, but HTTP/1.0; old source clients have that, too, and other methods."""
    assert source(LOCAL, request(method, "HTTP/1.0", host="127.0.0.1:8888")) == status
    assert source(LOCAL, request(method, "HTTP/1.0", host="")) == status


@pytest.mark.parametrize(
    ("origins", "status"), [({"https://example.org"}, 0), ({"*"}, 0), ({"https://example.com"}, 403)]
)
def test_pages_of_allowed_origins_count_as_ours(origins: set[str], status: int) -> None:
    """Who lets them read lets them publish; the host is still this machine."""
    writers = Writers(loopback=True, origins=frozenset(origins))
    assert publisher(writers, request(origin="https://example.org")) == status
    assert publisher(writers, request(origin="https://example.org", host="example.org")) == 403


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer", 403),
        ("Bearer abc.DEF==", 0),
        ("bearer  abc.DEF== ", 0),
        ("Bearer abc.DEF=", 403),
        ("Bearer abc.DEF===", 403),
        ("Bearer ABC.def==", 403),
        ("Bearer \xe4", 403),
        ("Token abc.DEF==", 401),
        (basic("source:abc.DEF=="), 401),
    ],
)
def test_a_token(authorization: str, status: int) -> None:
    """Where one is set only it counts, also on this machine."""
    asked = request(authorization=authorization)
    assert publisher(TOKEN, asked) == status
    assert not TOKEN.publishing_is_open(asked)
    assert publisher(TOKEN, request(authorization=authorization, host="example.org")) == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        (basic("source:hack mé"), 0),
        (basic("source:hack me"), 401),
        (basic("admin:hack mé"), 401),
        (basic("source"), 401),
        ("Basic", 401),
        ("Basic !", 401),
        ("Basic /w==", 401),
        ("Basic \xe4\xe4\xe4\xe4", 401),
        ("Bearer hack", 401),
    ],
)
def test_a_password(authorization: str, status: int) -> None:
    """Of the user `source`, in UTF-8."""
    assert source(PASSWORD, request(authorization=authorization)) == status


def test_each_secret_is_for_its_own() -> None:
    """Where only one is set, the other is left to this machine."""
    assert source(TOKEN, request()) == publisher(PASSWORD, request()) == 0


@pytest.mark.parametrize("writers", [Writers(loopback=True, processes=2), Writers(token="a", processes=2)])
def test_in_one_of_several_processes_nobody_may(writers: Writers) -> None:
    """The clients of the others would be left out without a word."""
    asked = request(authorization="Bearer a")
    assert publisher(writers, asked) == source(writers, asked) == 503
    assert not writers.publishing_is_open(asked)


@pytest.mark.parametrize(
    ("admit", "challenge", "detail"),
    [
        (TOKEN.admit_publisher, 'Bearer realm="Millrace"', "Bearer TOKEN"),
        (PASSWORD.admit_source, 'Basic realm="Millrace", charset="UTF-8"', "password of this server"),
        (Writers().admit_publisher, None, "--publish-token, and none is set"),
        (Writers().admit_source, None, "--source-password, and none is set"),
    ],
)
def test_a_refusal_says_what_would_be_right(
    admit: Callable[[HTTPServerRequest], None], challenge: str | None, detail: str
) -> None:
    """In its header, for programs, and in words."""
    with pytest.raises(Problem) as caught:
        admit(request())
    assert caught.value.headers.get("WWW-Authenticate") == challenge
    assert detail in caught.value.detail
