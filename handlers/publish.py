"""POST and DELETE of /stream/NAME: publish to a channel, clear its history.

The body is taken as it comes and never held whole: of NDJSON at most a line, of one event that event. What
bounds it is --max-event, so a body of a million events is as welcome as one that brings a line a minute for
days. Only its silence is limited. What a line says is published when the line is whole, and stays published
whatever comes behind it: an answer that refuses the rest names the line, and the id of the last event.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from email.message import Message
from math import inf
from typing import Any, Protocol
from unicodedata import normalize
from urllib.parse import unquote

import orjson
from tornado.web import HTTPError, RequestHandler, stream_request_body

from handlers.delivery import Delivery
from handlers.open_streams import Outcome
from handlers.resource import Problem, Resource, problem_of, shutting_down
from handlers.stream import ALLOW_OF_CHANNEL
from handlers.writers import Writers
from media.channel import ENTRY_BYTES, LAG_BYTES, Channel, check_name
from media.decoding import is_utf8
from media.generated import Stream
from media.parameters import text
from media.source import BadParameter
from media.subscriptions import Channels

TURN_SECONDS = 0.002
"""The loop turns after so much publishing, 600 small events: a request beside it takes a handful of turns."""

OFFERED_BYTES = LAG_BYTES // 2
"""After so much it waits until that has been offered to all: else who is sent 64 KiB a turn fell behind."""

LINGER_SECONDS = 10.0
"""How long the rest of a body is read after its refusal, so that the client comes to read that."""

LINES = "application/x-ndjson"
MEDIA_TYPES = ("text/plain", "application/json", LINES)

log = logging.getLogger("millrace.publish")

_TOO_LARGE = "An event must have at most %d bytes (--max-event)."
_RIGHT_TYPES = (
    "text/plain or application/json (one event) or application/x-ndjson (an event a line), not %s: "
    "curl sends it with -H 'Content-Type: text/plain'"
)
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
        delivery: Delivery,
    ) -> None:
        self.streams, self.channels, self.writers = streams, channels, writers
        self.max_event, self.limits, self.open_streams = max_event, delivery.limits, delivery.open_streams
        self.held = ExitStack()
        self.draining = self.taking = self.lingers = False
        self.refused_at = 0.0
        self.begun = False
        """The body, by its first bytes."""
        self.body: Taking | None = None
        self.take_any_length()
        name = normalize("NFC", unquote(self.request.path).removeprefix("/stream/"))
        if self.channels.get(name) is not None:
            self.allow = ALLOW_OF_CHANNEL

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """The channel's name in the form that it has in the table."""
        return normalize("NFC", super().decode_argument(value, name))

    def prepare(self) -> None:
        """Whatever can be said before the body comes is said: who waits for 100 (Continue) never sends it."""
        try:
            self.admit(self.path_kwargs["name"])
        except HTTPError as problem:
            self._refuse(problem)

    def admit(self, name: str) -> None:
        """See that the request may come, before its body does, and what the body is.

        Raises:
            HTTPError: it may not.
        """
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
            if event == "gap":
                raise BadParameter("event must not be gap: that is how a channel tells of what was lost")
        except BadParameter as error:
            raise problem_of(error) from error
        media_type = self.media_type(MEDIA_TYPES, _RIGHT_TYPES)
        if media_type == LINES:
            self._begin_lines(channel, event)
            return
        self.body = _OneEvent(channel, event, self.max_event, json=media_type != "text/plain")
        self.refuse_length()

    def refuse_length(self) -> None:
        """Before a body comes that is to be held whole.

        Raises:
            Problem: it says of itself that it is too large.
        """
        length = self.request.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self.max_event:
            raise too_large(self.max_event)

    def _begin_lines(self, channel: Channel, event: str) -> None:
        if self.open_streams.draining:
            raise shutting_down()
        self.body = _Lines(channel, event, self.max_event)
        self.open_streams.hold(self, self.client)
        self.held.callback(self.open_streams.let_go, self, self.client)
        self.connection.set_body_timeout(None)
        self.connection.stream.receive_seconds = self.limits.body_seconds or inf

    def _no_channel(self, name: str) -> HTTPError:
        if "," in name and self.channels.stream(name) is not None:
            return Problem(400, "Publish to one channel at a time: its name has no comma.")
        if name in self.streams:
            return HTTPError(405)
        return Problem(404, "There is no channel of this name: /streams lists all, --channels declares more.")

    def media_type(self, known: Sequence[str], right: str) -> str:
        """Of the body; one of those that are known. `right` tells of them, and takes the one that is not.

        Raises:
            Problem: it is none.
        """
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            identity = {"Accept-Encoding": "identity"}
            raise Problem(415, "The body must be sent as it is, without Content-Encoding.", identity)
        given = self.request.headers.get("Content-Type", "")
        found = given.partition(";")[0].strip().lower()
        if found not in known:
            raise Problem(415, f"The header Content-Type must be {right % (found[:100] or 'absent')}.")
        header = Message()  # which makes text/plain of what it does not know
        header["Content-Type"] = given
        if header.get_content_charset("utf-8") not in _CHARSETS:
            raise Problem(415, "The body must be UTF-8.")
        return found

    async def data_received(self, chunk: bytes) -> None:
        self.begun = True
        if self.refused_at and time.monotonic() > self.refused_at + LINGER_SECONDS:
            self.finish()  # Tornado closes the connection: there is more of the body
        if self.body is None:
            return
        stream, self.taking = self.connection.stream, True
        silence, stream.receive_seconds = stream.receive_seconds, inf  # it is we who do not read
        try:
            await self.body.take(chunk)
        except Problem as problem:
            self._refuse(problem)
        else:
            stream.receive_seconds = silence
        finally:
            self.taking = False
        if self.draining:
            self.drain()

    async def post(self, name: str) -> None:
        if self.refused_at:
            self.finish()
            return
        if self.body is not None:
            self.body.end()
            self.set_status(202)
            self.set_header("Content-Type", "application/json")
            self.set_header("Cache-Control", "no-store")
            self.finish(orjson.dumps({"id": self.body.last, "published": self.body.published}))
        else:
            self.channel.clear()
            self.set_status(204)

    delete = put = patch = post

    def _refuse(self, problem: HTTPError) -> None:
        """Answer before the body has been read, and read on: who is cut off while it sends reads nothing.

        Who waits for 100 (Continue) sends no body now, and the next request would be taken for it: there the
        response is finished, on which Tornado closes the connection.
        """
        self.body = None
        self.held.close()
        self.refused_at = time.monotonic()
        self.connection.stream.receive_seconds = LINGER_SECONDS
        self.clear()
        self.set_status(problem.status_code)
        self.lingers = self.begun or self.request.headers.get("Expect") != "100-continue"
        if not self.lingers:
            self.set_header("Connection", "close")
        self.write_error(problem.status_code, exc_info=(type(problem), problem, None))

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Any:
        """Of a refusal that lingers: send it whole, and leave the response open."""
        if not self.lingers or not isinstance(chunk, bytes):
            return super().finish(chunk)
        self.body_bytes = len(chunk)
        self.set_header("Content-Length", str(len(chunk)))
        self.write(chunk)
        return self.flush()

    def drain(self) -> None:
        """End a body of many events; what has come of it is published."""
        self.draining = True
        if isinstance(self.body, _Lines) and not self.taking:
            self._refuse(self.body.cut(shutting_down()))

    def end(self, outcome: Outcome) -> None:
        """End it without a word."""
        self.connection.stream.close()

    def on_finish(self) -> None:
        self.held.close()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.held.close()
        if self.body is not None and self.body.published:
            log.info("%s broke off its body; published: %d", self.request_id, self.body.published)


class Taking(Protocol):
    """A body as it comes.

    Args:
        published: events that it was so far.
        last: the id of the last of them.
    """

    published: int
    last: str | None

    async def take(self, chunk: bytes) -> None: ...

    def end(self) -> None: ...


class WholeBody:
    """A body that is held until it has ended, of so many bytes at most."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
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
            raise too_large(self._most_bytes)

    def end(self) -> None:
        """All of it is there."""


class _OneEvent(WholeBody):
    """A body that is the data of one event."""

    def __init__(self, channel: Channel, event: str, most_bytes: int, *, json: bool) -> None:
        super().__init__(most_bytes)
        self._channel, self._event, self._json = channel, event, json

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
        elif not is_utf8(data):
            raise Problem(400, "The body must be UTF-8.")
        self.last = self._channel.publish(data, json=self._json, event=self._event)
        self.published = 1


class _Lines:
    """A body of NDJSON."""

    def __init__(self, channel: Channel, event: str, most_bytes: int) -> None:
        self._channel, self._event, self._most_bytes = channel, event, most_bytes
        self._rest = bytearray()
        self._line = 0
        self._bytes = 0  # since what there was then had been offered
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
                self._bound()
            return
        lines = [bytes(self._rest), *tail.split(b"\n")]
        self._rest = bytearray(lines.pop())
        for line in lines:
            self._publish(line)
            if time.monotonic() >= self._turned_at + TURN_SECONDS:
                await asyncio.sleep(0)
                self._turned_at = time.monotonic()
            if self._bytes >= OFFERED_BYTES:
                self._bytes = 0
                await self._channel.offered()

    def _bound(self) -> None:
        """See that a line without an end may still be an event. Space round it does not count, as in a whole:
        the CR and the LF behind one may come in two chunks.

        Raises:
            Problem: it is too large.
        """
        self._rest = self._rest.lstrip(_JSON_SPACE)
        if len(self._rest.rstrip(_JSON_SPACE)) > self._most_bytes:
            self._line += 1
            raise self._refused(413, _TOO_LARGE % self._most_bytes)
        # What is beyond is space: with one byte of it, whatever else follows is too much.
        del self._rest[self._most_bytes + 1 :]

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
        self._bytes += len(line) + ENTRY_BYTES

    def cut(self, why: Problem) -> Problem:
        """`why` nothing more is taken, by no fault of a line, and what has been."""
        detail = f"{why.detail} {self._standing('so far')}"
        return Problem(why.status_code, detail, why.headers, self._members())

    def _refused(self, status: int, why: str) -> Problem:
        standing = self._standing("before it")
        return Problem(
            status,
            f"Line {self._line} is refused, and all behind it. {why} {standing}",
            None,
            self._members(),
        )

    def _standing(self, until: str) -> str:
        last = f", the last as {self.last}" if self.last else ""
        return f"Published {until}: {self.published}{last}."

    def _members(self) -> Mapping[str, object]:
        return {"line": self._line, "published": self.published, "id": self.last}


def too_large(most_bytes: int) -> Problem:
    return Problem(413, _TOO_LARGE % most_bytes)


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
