"""Small answers from files, given again.

Theory of operation. Most of what a small file costs is spent on finding out what to send: the route, a
handler, the catalogue, the name on disk. What the ordinary way has just found out it would find out again.
So `serve` leaves it here (the path, the facts, the headers), and for REPEAT_SECONDS a request for the same
target is answered from that, before there is a handler.

It says nothing that the ordinary way would not say:

* the file is opened and measured anew each time, and its entity tag must be the same;
* what an answer depends on besides the target stands in its Vary, and must be the same too;
* a request without a Host, or with one that is not plain, is Tornado's to refuse (RFC 9112 §3.2);
* conditions and ranges are `conditional`'s. A 200, 206 or 304 with one small piece is answered here; whatever
  else comes out of them, and every request that has a body or asks for anything of its connection, goes the
  ordinary way.

Measured: docs/benchmarks.md.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from tornado.httputil import HTTPHeaders, RequestStartLine

from handlers import conditional
from handlers.conditional import Plan, Slice
from media.files import LEAST_REGION_BYTES, read_again
from media.source import Facts

REPEAT_SECONDS = 1.0
"""How long an answer is repeated: a name may lead elsewhere by then, or a track have another file."""

GRACE_SECONDS = 0.1
"""How much longer it is for others while one request finds out anew."""

MOST_ANSWERS = 1024
"""The answers that are kept; the one that was used longest ago gives way."""

_HEAD_BYTES = 4096
_OF_THE_CONNECTION = frozenset({"Connection", "Content-Length", "Transfer-Encoding", "Expect"})
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?")
_CONDITIONS = frozenset(
    {"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"}
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ordinary way found out.

    Args:
        path: where the file was opened.
        whole: the plan for a request without conditions.
        fields: the header lines that do not depend on conditions, each with its end.
        varies: the request's headers that it depends on, by name, and what they were.
        until: when it must be found out anew, on the monotonic clock.
    """

    path: str
    facts: Facts
    whole: Plan
    fields: str
    varies: tuple[tuple[str, str | None], ...]
    until: float


@dataclass(frozen=True, slots=True)
class Sent:
    """What was answered, for the access log."""

    status: int
    body_bytes: int


class Repeats:
    """The answers of the last moment, by request target."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._buffer = _buffer()

    def remember(
        self, target: str, asked: Mapping[str, str], path: str, facts: Facts, headers: Mapping[str, str]
    ) -> None:
        """Keep the answer to a GET of `target` with the headers `asked`: a file, sent as it is.

        Args:
            headers: of the answer; those that `conditional` gives and the request's id are left out.
        """
        names = filter(None, map(str.strip, headers.get("Vary", "").split(",")))
        varies = tuple((name, asked.get(name)) for name in names)
        whole = conditional.plan("GET", {}, facts, sliceable=True)
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        until = time.monotonic() + REPEAT_SECONDS
        self._answers[target] = Answer(path, facts, whole, fields, varies, until)
        self._answers.move_to_end(target)
        if len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)

    def find(self, start_line: RequestStartLine, asked: HTTPHeaders) -> Answer | None:
        """What may be given again to this request."""
        answer = self._answers.get(start_line.path)
        if answer is None or start_line.method != "GET" or start_line.version != "HTTP/1.1":
            return None
        now = time.monotonic()
        if now >= answer.until + GRACE_SECONDS:
            del self._answers[start_line.path]
            return None
        if now >= answer.until:
            # This one asks anew; those who ask meanwhile need not all do the same.
            self._answers[start_line.path] = replace(answer, until=now + GRACE_SECONDS)
            return None
        if not _OF_THE_CONNECTION.isdisjoint(asked) or not _HOST.fullmatch(asked.get("Host", "")):
            return None
        if any(asked.get(name) != value for name, value in answer.varies):
            return None
        return answer

    def send(self, answer: Answer, connection: Any, asked: HTTPHeaders, request_id: str) -> Sent | None:
        """Answer, and finish the response. None: nothing was sent, and the ordinary way must answer.

        Args:
            connection: Tornado's HTTP1Connection; its abstract HTTPConnection has no stream.
        """
        conditions = {name: asked[name] for name in asked if name in _CONDITIONS}
        plan = answer.whole
        if conditions:
            plan = conditional.plan("GET", conditions, answer.facts, sliceable=True)
        match plan.pieces:
            case ():
                start = stop = 0
            case (Slice(start, stop),) if stop - start <= LEAST_REGION_BYTES:
                pass
            case _:
                return None
        if plan.status not in (200, 206, 304):
            return None
        head = _head(plan, answer.fields, request_id)
        if len(head) > _HEAD_BYTES:
            return None
        data = memoryview(self._buffer)[: len(head) + stop - start]
        data[: len(head)] = head
        assert answer.facts.etag is not None
        if not read_again(answer.path, answer.facts.etag, start, data[len(head) :]):
            return None
        # With the header block in front: deprecated in Tornado, and 10 µs less than write_headers().
        connection.write(data)
        connection.finish()
        if connection.stream.writing():
            self._buffer = _buffer()  # the other is the stream's until the kernel has it
        return Sent(plan.status, stop - start)


def _buffer() -> bytearray:
    return bytearray(_HEAD_BYTES + LEAST_REGION_BYTES)


def _head(plan: Plan, fields: str, request_id: str) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in plan.headers.items()])
    date = _date(int(time.time()))
    text = f"{_STATUS_LINES[plan.status]}Date: {date}\r\nX-Request-Id: {request_id}\r\n{lines}{fields}\r\n"
    return text.encode("latin-1")


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_last_date = (0, "")


def _date(seconds: int) -> str:
    """The Date header's value: formatted once a second."""
    global _last_date
    if _last_date[0] != seconds:
        _last_date = (seconds, formatdate(seconds, usegmt=True))
    return _last_date[1]
