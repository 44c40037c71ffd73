"""Who may write: publish to a channel, or send live audio.

With a secret set, whoever shows it may. Without one, programs on this machine may, as long as nobody else can
reach the server: it listens on loopback. What only looks like such a program is refused: a page of another
site in a browser of this machine (its Origin is another one), one that has its name resolve to 127.0.0.1
(Host is that name), and whoever comes through a proxy on this machine (a forwarding header). nginx with
nothing but a `proxy_pass` sends none, and a Host of this machine; what gives it away is its HTTP/1.0.
"""

import base64
import hmac
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from handlers.resource import Problem

_LOOPBACK_HOST = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")


@dataclass(frozen=True, slots=True)
class Writers:
    """Who may write.

    Args:
        token: of publishers (RFC 6750); empty: none is set.
        password: of live sources, whose user is `source` (RFC 7617); empty: none is set.
        loopback: the server listens on loopback alone.
        origins: whose pages count as ours; `*`: all.
        processes: that serve together. Of several each has its own channels, so nobody may write.
    """

    token: str = ""
    password: str = ""
    loopback: bool = False
    origins: frozenset[str] = frozenset()
    processes: int = 1

    def admit_publisher(self, request: HTTPServerRequest) -> None:
        """Let a request that publishes pass.

        Raises:
            Problem: 401 without a token, 403 with a wrong one or where nobody may, 503 in one of several.
        """
        self._refuse_in_one_of_many()
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if not self.token:
            self._admit_local(request, "publishing needs --publish-token, and none is set")
        elif scheme.lower() != "bearer":
            challenge = {"WWW-Authenticate": 'Bearer realm="Millrace"'}
            raise Problem(401, "Publishing needs the header Authorization: Bearer TOKEN.", challenge)
        elif not _equal(given.strip(), self.token):
            raise Problem(403, "The token is not the one that publishes here.")

    def admit_source(self, request: HTTPServerRequest) -> None:
        """Let a request that sends live audio, or its title, pass.

        Raises:
            Problem: 401 without or with a wrong password, 403 where nobody may, 503 in one of several.
        """
        self._refuse_in_one_of_many()
        if not self.password:
            self._admit_local(request, "live audio needs --source-password, and none is set")
        elif not _equal(_credentials(request), f"source:{self.password}"):
            challenge = {"WWW-Authenticate": 'Basic realm="Millrace", charset="UTF-8"'}
            raise Problem(401, "Live audio needs the user source and the password of this server.", challenge)

    def publishing_is_open(self, request: HTTPServerRequest) -> bool:
        """Whether who sent this request may publish without a token."""
        return not self.token and self.processes == 1 and self._is_local(request)

    def _refuse_in_one_of_many(self) -> None:
        if self.processes > 1:
            many = f"This server has {self.processes} processes, and only clients of one would be reached"
            raise Problem(503, f"{many}: start it with --processes 1.")

    def _admit_local(self, request: HTTPServerRequest, otherwise: str) -> None:
        if not self._is_local(request):
            raise Problem(403, f"Only programs on this machine may do this: {otherwise}.")

    def _is_local(self, request: HTTPServerRequest) -> bool:
        origin = request.headers.get("Origin")
        same = origin is None or origin in self.origins or "*" in self.origins
        host = request.headers.get("Host", "localhost")  # old source clients send none; browsers do
        proxied = request.version == "HTTP/1.0" and request.method in ("POST", "PUT", "DELETE")
        # A picture of a page has no Origin, and its address may be that of a GET which says a title.
        own = origin is not None or request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        return (
            not proxied
            and self.loopback
            and _LOOPBACK_HOST.fullmatch(host) is not None
            and own
            and (same or _authority(origin or "") == host)
            and not any(name in request.headers for name in _FORWARDING)
        )


def _authority(origin: str) -> str:
    """Host and port of an origin; empty: it is none, such as `null`, or half an IPv6 address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _credentials(request: HTTPServerRequest) -> str:
    """User and password as `user:password`; empty: there are none that can be read."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given.strip(), validate=True).decode()
    except ValueError:  # no base64, no UTF-8, or, as Tornado gives each byte as a character, no ASCII
        return ""


def _equal(given: str, right: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), right.encode())
