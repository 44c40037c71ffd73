"""POST and DELETE of /stream/NAME: publish to a channel, clear its history.

The body is taken as it comes and never held whole: of NDJSON at most a line, of one event that event. What
bounds it is --max-event, so a body of a million events is as welcome as one that brings a line a minute for
days. Only its silence is limited. What a line says is published when the line is whole, and stays published
whatever comes behind it: an answer that refuses the rest names the line, and the id of the last event.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from email.message import Message
from math import inf
from typing import Any
from urllib.parse import unquote

import orjson
from tornado.web import HTTPError, RequestHandler, stream_request_body

from handlers.limits import Limits
from handlers.resource import NOTHING_HERE, Problem, Resource, problem_of
from handlers.stream import ALLOW_OF_CHANNEL
from handlers.writers import Writers
from media.channel import Channel, check_name
from media.generated import Stream
from media.parameters import text
from media.source import BadParameter
from media.subscriptions import Channels

TURN_SECONDS = 0.001
"""The loop turns after so much publishing, about 150 small events: in a turn each subscriber is sent a run of
64 KiB, and if more had come, all would fall behind. With 5 ms one that did nothing but read was let go after
22,000 of 100,000 events."""

LINES = "application/x-ndjson"
MEDIA_TYPES = ("text/plain", "application/json", LINES)

_JSON_SPACE = b" \t\r"
_CHARSETS = ("utf-8", "utf8", "us-ascii")


@stream_request_body
class PublishResource(Resource):
    """POST /stream/NAME: publish one event, or many as lines of JSON. DELETE: clear the history.

    Query: event=NAME. 202 with the last id, 204 (DELETE), 400, 401, 403, 404, 405, 413, 415, 503.
    """

    SUPPORTED_METHODS = RequestHandler.SUPPORTED_METHODS

    def initialize(
        self,
        streams: Mapping[str, Stream],
        channels: Channels,
        writers: Writers,
        max_event: int,
        limits: Limits,
    ) -> None:
        self.streams, self.channels, self.writers = streams, channels, writers
        self.max_event, self.limits = max_event, limits
        self.begun = False
        """The body, by its first bytes."""
        self.body: _Lines | _OneEvent | None = None
        connection: Any = self.request.connection  # Tornado's abstract HTTPConnection has no stream
        # Also for what is refused: for a length that Tornado does not allow it would write a 400 of its own.
        connection.set_max_body_size(sys.maxsize)
        self.connection = connection
        if self.channels.get(unquote(self.request.path).removeprefix("/stream/")) is not None:
            self.allow = ALLOW_OF_CHANNEL

    def prepare(self) -> None:
        """Whatever can be said before the body comes is said: who waits for 100 (Continue) never sends it."""
        name = self.path_kwargs["name"]
        channel = self.channels.get(name)
        if channel is None:
            raise self._no_channel(name)
        if self.request.method not in ("POST", "DELETE"):
            raise HTTPError(405)
        self.writers.admit_publisher(self.request)
        self.channel = channel
        if self.request.method == "DELETE":
            return
        try:
            event = text(self.args, "event") if "event" in self.args else ""
            check_name(event)
        except BadParameter as error:
            raise problem_of(error) from error
        if self._media_type() != LINES:
            self.body = _OneEvent(channel, event, self.max_event, json=self._media_type() != "text/plain")
            length = self.request.headers.get("Content-Length", "")
            if length.isdigit() and int(length) > self.max_event:
                raise _too_large(self.max_event)
            return
        self.body = _Lines(channel, event, self.max_event)
        self.connection.set_body_timeout(None)
        self.connection.stream.receive_seconds = self.limits.body_seconds or inf

    def _no_channel(self, name: str) -> HTTPError:
        if "," in name and self.channels.stream(name) is not None:
            return Problem(400, "Publish to one channel at a time: its name has no comma.")
        return HTTPError(405) if name in self.streams else Problem(404, NOTHING_HERE)

    def _media_type(self) -> str:
        """Of the body; one that can be published.

        Raises:
            Problem: it is none.
        """
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            identity = {"Accept-Encoding": "identity"}
            raise Problem(415, "The body must be sent as it is, without Content-Encoding.", identity)
        header = Message()
        header["Content-Type"] = self.request.headers.get("Content-Type", "")
        found = header.get_content_type() if header["Content-Type"] else "without Content-Type"
        if found not in MEDIA_TYPES:
            raise Problem(
                415,
                "The header Content-Type must be text/plain or application/json (one event) or "
                f"application/x-ndjson (an event a line), not {found[:100]}: "
                "curl sends it with -H 'Content-Type: text/plain'.",
            )
        if header.get_content_charset("utf-8") not in _CHARSETS:
            raise Problem(415, "The body must be UTF-8.")
        return found

    async def data_received(self, chunk: bytes) -> None:
        self.begun = True
        if self.body is None:
            return
        try:
            await self.body.take(chunk)
        except Problem as problem:
            self._refuse(problem)

    def _refuse(self, problem: Problem) -> None:
        """In the middle of the body. Tornado reads on, so that the client comes to read this."""
        self.body = None
        self.connection.stream.receive_seconds = None  # what comes now no longer counts: the watch ends it
        self.send_error(problem.status_code, exc_info=(type(problem), problem, None))

    async def post(self, name: str) -> None:
        assert self.body is not None
        self.body.end()
        self.set_status(202)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(orjson.dumps({"id": self.body.last, "published": self.body.published}))

    async def delete(self, name: str) -> None:
        self.channel.clear()
        self.set_status(204)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Who waits for 100 (Continue) sends no body now, so the next request would be taken for it."""
        waits = self.request.headers.get("Expect") == "100-continue" and not self.begun
        if waits:
            self.set_header("Connection", "close")
        super().write_error(status_code, **kwargs)
        if waits:
            self.connection.stream.close()


class _OneEvent:
    """A body that is the data of one event."""

    def __init__(self, channel: Channel, event: str, most_bytes: int, *, json: bool) -> None:
        self._channel, self._event, self._most_bytes, self._json = channel, event, most_bytes, json
        self._data = bytearray()
        self.published = 0
        self.last: str | None = None

    async def take(self, chunk: bytes) -> None:
        """Keep it.

        Raises:
            Problem: it is too much.
        """
        self._data += chunk
        if len(self._data) > self._most_bytes:
            raise _too_large(self._most_bytes)

    def end(self) -> None:
        """Publish it.

        Raises:
            Problem: it is not what it was said to be.
        """
        data = bytes(self._data)
        if self._json:
            data = data.strip(_JSON_SPACE + b"\n")
            if not _is_json(data):
                raise Problem(400, "The body must be one value of JSON, in UTF-8.")
        elif not _is_utf8(data):
            raise Problem(400, "The body must be UTF-8.")
        self.last = self._channel.publish(data, json=self._json, event=self._event)
        self.published = 1


class _Lines:
    """A body of NDJSON."""

    def __init__(self, channel: Channel, event: str, most_bytes: int) -> None:
        self._channel, self._event, self._most_bytes = channel, event, most_bytes
        self._rest = bytearray()
        self._line = 0
        self._turned_at = 0.0
        self.published = 0
        self.last: str | None = None

    async def take(self, chunk: bytes) -> None:
        """Publish the lines that are whole now.

        Raises:
            Problem: one is no event; those before it are published.
        """
        head, end, tail = chunk.partition(b"\n")
        self._rest += head
        if not end:
            if len(self._rest) > self._most_bytes:
                self._line += 1
                raise self._refused(413, _TOO_LARGE % self._most_bytes)
            return
        lines = [bytes(self._rest), *tail.split(b"\n")]
        self._rest = bytearray(lines.pop())
        for line in lines:
            self._publish(line)
            if time.monotonic() >= self._turned_at + TURN_SECONDS:
                await asyncio.sleep(0)
                self._turned_at = time.monotonic()

    def end(self) -> None:
        """Publish the last line, if it has no end of its own.

        Raises:
            Problem: it is no event.
        """
        self._publish(bytes(self._rest))

    def _publish(self, line: bytes) -> None:
        self._line += 1
        line = line.strip(_JSON_SPACE)
        if not line:
            return
        if len(line) > self._most_bytes:
            raise self._refused(413, _TOO_LARGE % self._most_bytes)
        if not _is_json(line):
            raise self._refused(400, "It must be one value of JSON, in UTF-8.")
        self.last = self._channel.publish(line, json=True, event=self._event)
        self.published += 1

    def _refused(self, status: int, why: str) -> Problem:
        last = f", the last as {self.last}" if self.last else ""
        before = f"{self.published} before it are published{last}"
        return Problem(status, f"Line {self._line} is refused, and what follows it; {before}. {why}")


_TOO_LARGE = "An event must have at most %d bytes (--max-event)."


def _too_large(most_bytes: int) -> Problem:
    return Problem(413, _TOO_LARGE % most_bytes)


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
