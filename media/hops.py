"""Headers on their way through a relay: which go on to the other server, and which come back.

A response's are passed on unless something speaks against it: what is needed to understand a content grows
with each standard. Of a request only those go on that are about the content: the rest is between the client
and us.
"""

import re
import secrets
from collections.abc import Mapping, Sequence

from media.generated import StreamRequest
from media.source import BadParameter, SourceBroken

SENT_ON = (
    "accept",
    "accept-encoding",
    "accept-language",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
)
"""What is sent on of a client's headers; and Last-Event-ID, which may stand in the query."""

NEVER_SENT_ON = frozenset({"authorization", "cookie", "host", "proxy-authorization"})
"""What a client says to us alone."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""About one connection (RFC 9110 §7.6.1), besides what Connection names."""

OURS = frozenset(
    {
        "alt-svc",
        "clear-site-data",
        "nel",
        "report-to",
        "reporting-endpoints",
        "server",
        "service-worker-allowed",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "x-content-type-options",
        "x-request-id",
    }
)
"""What another server may not say in our name, or what would come to nothing: no cookie ever goes back."""

_OURS_PREFIXES = (
    "access-control-",
    *("x-accel-", "x-lighttpd-", "x-litespeed-", "x-reproxy-", "x-sendfile"),
)  # with those a proxy in front, such as nginx, would send files of its own

MOST_LENGTH = 2**63 - 1
"""Who cannot count further takes such a body for one that ends with its connection, and so for whole."""

ID_BYTES = 4096
"""The longest Last-Event-ID that is sent for many: with one that is refused, none of them would get on."""

_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")

_NAME = f"millrace-{secrets.token_hex(4)}"
"""What this process is called in Via. A relay that leads to itself would go round until all is in use."""


def sent_headers(
    request: StreamRequest, sent_on: Sequence[str], own: Mapping[str, str]
) -> list[tuple[bytes, bytes]]:
    """The headers of the request to the other server.

    Args:
        sent_on: names of the client's headers that are sent on.
        own: sent in place of the client's.

    Raises:
        BadParameter: `?last_event_id=` cannot be in a header.
        SourceBroken: it is our own request that comes back to us.
    """
    via = request.headers.get("via", "")
    if _NAME in via:
        raise SourceBroken("the relay leads back here")
    headers = {
        name: request.headers[name].encode("latin-1", "replace")  # as it came
        for name in sent_on
        if name in request.headers
    }
    if request.last_event_id is not None:
        headers["last-event-id"] = _last_event_id(request)
    headers |= {name: value.encode() for name, value in own.items()}
    headers["via"] = f"{via}, 1.1 {_NAME}".removeprefix(", ").encode("latin-1", "replace")
    headers["connection"] = b"close"
    return [(name.title().encode(), value) for name, value in headers.items()]


def passed_headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers of a response that are passed on: end-to-end ones that another server may say in our name.

    Written as `Content-Type`; those that stand there several times are joined (RFC 9110 §5.3).

    Raises:
        SourceBroken: a value has a control character, or no client can count so far.
    """
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw]
    connection = {
        option.strip().lower() for name, value in pairs if name == "connection" for option in value.split(",")
    }
    left_out = HOP_BY_HOP | OURS | connection
    if any(name == "transfer-encoding" for name, _ in pairs):
        left_out |= {"content-length"}  # it lies (RFC 9112 §6.3)
    headers: dict[str, str] = {}
    for name, value in pairs:
        if name in left_out or name.startswith(_OURS_PREFIXES):
            continue
        if any((character < " " and character != "\t") or character == "\x7f" for character in value):
            raise SourceBroken(f"the header {name} has a control character")
        name = name.title()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if int(headers.get("Content-Length", 0)) > MOST_LENGTH:
        raise SourceBroken("the length is more than there can be")
    return headers


def can_be_told(last_event_id: str) -> bool:
    """Whether the next request can say this id: what an event stream may call an id is not always a header.

    Of one with spaces around it no header has these, and it would be another.
    """
    told = last_event_id.strip(" \t") == last_event_id != "" and _CONTROL.search(last_event_id) is None
    return told and len(last_event_id.encode()) <= ID_BYTES


def _last_event_id(request: StreamRequest) -> bytes:
    """As it came in the header; one of the query in UTF-8, as an EventSource would send it.

    Raises:
        BadParameter: no header can have it.
    """
    given = request.headers.get("last-event-id")
    if given is not None:
        return given.encode("latin-1", "replace")
    assert request.last_event_id is not None
    if _CONTROL.search(request.last_event_id):
        raise BadParameter("last_event_id must have no control characters")
    return request.last_event_id.strip(" \t").encode()
