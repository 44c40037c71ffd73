"""One line a response: client, method, URI, status, outcome, body bytes, first byte, total, request id."""

import logging
import string
from urllib.parse import quote

from tornado.web import RequestHandler

from handlers.open_streams import Outcome
from handlers.repeats import Sent
from handlers.resource import Resource

URI_CHARACTERS = 1000
"""How much of a request's address is logged: a client may send 64 KiB of it."""

# Quoted: everything else. Tornado takes bytes above 127 as they come; to a terminal some are commands.
_PLAIN = string.ascii_letters + string.digits + string.punctuation

_LINE = "%s %s %s %d %s %d B first %.1f ms total %.1f ms %s"

log = logging.getLogger("millrace.access")


def log_response(handler: RequestHandler) -> None:
    """Tornado's `log_function`: called once for every response, broken ones included."""
    assert isinstance(handler, Resource)
    request = handler.request
    first = handler.first_byte_seconds
    total = request.request_time()
    log.info(
        _LINE,
        request.remote_ip,
        request.method,
        _shown(request.uri or ""),
        handler.get_status(),
        handler.outcome,
        handler.body_bytes,
        (total if first is None else first) * 1000,
        total * 1000,
        handler.request_id,
    )


def log_repeat(remote_ip: str, uri: str, sent: Sent, seconds: float, request_id: str) -> None:
    """The same for what was answered without a handler."""
    milliseconds = seconds * 1000
    uri, status, length = _shown(uri), sent.status, sent.body_bytes
    log.info(
        _LINE, remote_ip, "GET", uri, status, Outcome.COMPLETE, length, milliseconds, milliseconds, request_id
    )


def _shown(uri: str) -> str:
    return quote(uri, safe=_PLAIN, encoding="latin-1", errors="replace")[:URI_CHARACTERS]
