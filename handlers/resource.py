"""What every response has: methods, an id, parameters, and errors as problem documents (RFC 9457)."""

import asyncio
import html
import logging
import math
import random
import re
import sys
from collections.abc import Awaitable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Any

import orjson
from tornado.web import HTTPError, RequestHandler

from handlers.accept import preferred
from handlers.cors import Cors
from handlers.limits import client_of
from handlers.open_streams import Outcome, ended_by_closing
from media.source import (
    BadParameter,
    Busy,
    NotFound,
    SourceBroken,
    SourceBusy,
    SourceEnded,
    SourceError,
    SourceNotFound,
    SourceSlow,
)

READS = ("GET", "HEAD", "OPTIONS")
ALLOW = ", ".join(READS)
NOTHING_HERE = "There is nothing here by this name."
FAILED = "The server failed; the log has the cause under this request's id."

log = logging.getLogger("millrace")

_OWN_PAGES = Cors()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(headers: Mapping[str, str]) -> str:
    """The id that the client gave its request, or a fresh one; it tells requests apart, and is no secret."""
    asked = headers.get("X-Request-Id", "")
    return asked if _REQUEST_ID.fullmatch(asked) else f"{random.getrandbits(64):016x}"


class Problem(HTTPError):
    """A response that is an error.

    Args:
        detail: for the client: what was wrong and what would be right. No path, no other exception's text.
        headers: that belong to the status, such as Retry-After.
        members: the same as the detail, for programs (RFC 9457 §3.2).
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(status)
        self.detail = detail
        self.headers = headers or {}
        self.members = members or {}


def problem_of(error: SourceError) -> Problem:
    """The one place where a source's failure becomes a status."""
    match error:
        case BadParameter():
            return Problem(400, str(error))
        case NotFound():
            return Problem(404, str(error) or NOTHING_HERE)
        case SourceNotFound():
            return Problem(404, NOTHING_HERE)
        case SourceBusy():
            words = str(error) if isinstance(error, Busy) else ""
            after = {"Retry-After": str(math.ceil(error.retry_after))}  # a user may give a fraction
            return Problem(503, words or "The server is busy; try again later.", after)
        case SourceSlow():
            return Problem(504, "What this is made from did not answer in time.")
        case SourceBroken():
            return Problem(502, "What this is made from could not be read.")
    return Problem(500, FAILED)  # one that has no place here, such as SourceEnded in the middle


def shutting_down() -> Problem:
    """What a server that drains says to a body that comes without end, or begins to."""
    return Problem(503, "The server is shutting down.", {"Retry-After": "1"})


class Resource(RequestHandler):
    """A handler of GET, HEAD and OPTIONS. A subclass has `answer`, with the route's named groups.

    `outcome`, `body_bytes` and `first_byte_seconds` are for the access log.
    """

    SUPPORTED_METHODS: tuple[str, ...] = READS

    allow = ALLOW
    """The methods that it answers."""

    request_id = ""
    outcome = Outcome.COMPLETE
    body_bytes = 0
    first_byte_seconds: float | None = None
    unframed = False
    """A body has neither chunks nor a length, and ends with its connection, in HTTP/1.1 too: that of the
    response, or of a source's request."""

    @property
    def connection(self) -> Any:
        """That of the request. Any: Tornado types it as the abstract HTTPConnection, which has no stream."""
        return self.request.connection

    @property
    def client(self) -> str:
        """Whom the request counts for (`client_of`)."""
        return client_of(self.request.remote_ip or "")

    def take_any_length(self) -> None:
        """Leave the bound of a body to the handler, which takes it as it comes.

        Also for what is refused: for a length that Tornado does not allow it would write a 400 of its own.
        """
        self.connection.set_max_body_size(sys.maxsize)

    def clear(self) -> None:
        self.set_headers: dict[str, str] = {}
        """The headers that were set, apart from Tornado's own defaults."""
        super().clear()

    def set_header(self, name: str, value: str) -> None:  # type: ignore[override] # text alone
        self.set_headers[name] = value
        super().set_header(name, value)

    def clear_header(self, name: str) -> None:
        self.set_headers.pop(name, None)
        super().clear_header(name)

    def set_default_headers(self) -> None:
        """Also called when an error clears what was set."""
        if not self.request_id:
            self.request_id = request_id(self.request.headers)
        self.set_header("X-Request-Id", self.request_id)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Server", "Millrace")
        for name, value in self._cors.headers(self.request.headers).items():
            self.set_header(name, value)

    @property
    def _cors(self) -> Cors:
        cors: Cors = self.settings.get("cors", _OWN_PAGES)
        return cors

    def vary_by(self, name: str) -> None:
        """Say that the answer depends on this header of the request, too."""
        known = self.set_headers.get("Vary")
        self.set_header("Vary", f"{known}, {name}" if known else name)

    def answer(self, **parts: str) -> Awaitable[None]:
        """Answer a GET or HEAD. May raise Problem and SourceError."""
        raise NotImplementedError

    async def get(self, **parts: str) -> None:
        try:
            await self.answer(**parts)
        except SourceEnded:
            self.set_header("Cache-Control", "no-store")
            self.set_status(204)
        except SourceError as error:
            raise problem_of(error) from error

    head = get

    async def options(self, **parts: str) -> None:
        self.set_header("Allow", self.allow)
        for name, value in self._cors.preflight(self.request.headers, self.allow).items():
            self.set_header(name, value)
        self.set_status(204)

    @property
    def args(self) -> dict[str, str]:
        """The query's parameters, the last value of each name, exactly as the client sent them.

        Raises:
            BadParameter: one is not UTF-8.
        """
        try:
            return {name: values[-1].decode() for name, values in self.request.query_arguments.items()}
        except UnicodeDecodeError as error:
            raise BadParameter("the query must be percent-encoded UTF-8") from error

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """A part of the path as text."""
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Problem(400, "The path must be percent-encoded UTF-8.") from error

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Any:
        """Finish, counting a body that was not streamed; not complete if the connection is closed by then."""
        if isinstance(chunk, bytes) and self.request.method != "HEAD":
            self.body_bytes = len(chunk)
        stream = self.connection.stream
        if self.outcome is Outcome.COMPLETE and stream.closed() and not self.unframed:
            self.outcome = ended_by_closing(stream)
        return super().finish(chunk)

    def begin_unframed(self, chunk: bytes | memoryview) -> "asyncio.Future[None]":
        """Send the headers of an unframed body with its first chunk. Tornado would cut it into chunks.

        The connection has to be closed before `finish`, which would send headers.
        """
        status = self.get_status()
        date = formatdate(usegmt=True)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Date: {date}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.set_headers.items()]
        head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1", "replace")
        written: asyncio.Future[None] = self.connection.stream.write(head + chunk)
        return written

    def compute_etag(self) -> None:
        """None: only `conditional` makes entity tags."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A problem document, or the same facts as a small page for who prefers HTML."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        detail = FAILED
        if isinstance(error, Problem):
            detail = error.detail
            for name, value in error.headers.items():
                self.set_header(name, value)
        elif status_code == 405:
            detail = f"This resource answers {self.allow}."
            self.set_header("Allow", self.allow)
        elif status_code < 500:
            detail = f"{HTTPStatus(status_code).phrase}: the request could not be understood."
        self.set_header("Cache-Control", "no-store")
        facts = self.problem_document(status_code, detail)
        if isinstance(error, Problem):
            facts |= error.members
        accept = self.request.headers.get("Accept", "*/*")
        if preferred(accept, ["application/problem+json", "text/html"]) == "text/html":
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.set_header("Content-Security-Policy", "default-src 'none'")
            self.finish(_page(facts).encode())
        else:
            self.set_header("Content-Type", "application/problem+json")
            self.finish(orjson.dumps(facts))

    def problem_document(self, status: int, detail: str) -> dict[str, object]:
        """The problem as RFC 9457 tells it, in a body of its own or inside an event stream."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "instance": self.request_id,
        }

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """The cause goes to the log; the client never sees it. What was raised without one is an answer."""
        if not isinstance(value, HTTPError):
            log.error("%s failed", self.request_id, exc_info=value)
        elif value.status_code >= 500 and value.__cause__ is not None:
            log.warning("%s %d: %s", self.request_id, value.status_code, causes(value.__cause__))


class Missing(Resource):
    """Every path that is no route: 404, whatever the method."""

    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "SOURCE")

    def prepare(self) -> None:
        raise Problem(404, NOTHING_HERE)


def causes(error: BaseException) -> str:
    """An error and what led to it, the outermost first, in one line: for the log."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(f"{type(cause).__name__}: {cause}".replace("\n", " "))
        cause = cause.__cause__
    return "; ".join(texts)


def _page(facts: Mapping[str, object]) -> str:
    shown = {name: html.escape(str(value)) for name, value in facts.items()}
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{shown["title"]}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<h1>{shown['status']} {shown['title']}</h1><p>{shown['detail']}</p>"
        f"<p>Request {shown['instance']}</p>\n"
    )
