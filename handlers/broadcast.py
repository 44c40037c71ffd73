"""PUT and SOURCE of /audio/live/NAME: live audio from its sources. /admin/metadata: what they say is heard.

A source client of Icecast's kind sends PUT, or SOURCE of before HTTP, mostly without saying how long the body
is: it ends with the connection. HTTP has no such request (RFC 9112 §6.3), and Tornado takes it for one
without a body. So the handler reads the rest of the connection itself; a body with a length or in chunks
comes by `data_received`, as it does everywhere. Both go the same way from there on.

What is ahead of real time waits in the kernel, with the source: nothing is read while it is.
"""

import asyncio
import logging
import socket
from contextlib import suppress
from math import inf
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from handlers.delivery import Delivery, refuse_too_many
from handlers.live import ALLOW_OF_MOUNT
from handlers.open_streams import Outcome, ended_by_closing
from handlers.resource import ALLOW, Problem, Resource, problem_of, shutting_down
from handlers.writers import Writers
from media.decoding import encoding_named
from media.frames import PARSERS
from media.live import MountBusy, Mounts, Playing, Session, one_line
from media.pieces import FormatError
from media.source import BadParameter, SourceError

READ_BYTES = 64 * 1024

KERNEL_BYTES = 128 * 1024
"""What the kernel may hold of a source that is ahead, about: left to itself it takes 6 MB, minutes of sound
that would go on when the source has gone."""

# What a source says of its broadcast, by what listeners are told it as.
_FACTS = {
    "icy-name": ("Ice-Name", "Icy-Name"),
    "icy-genre": ("Ice-Genre", "Icy-Genre"),
    "icy-url": ("Ice-Url", "Icy-Url"),
    "icy-br": ("Ice-Bitrate", "Icy-Br"),
    "icy-description": ("Ice-Description", "Icy-Description"),
}

log = logging.getLogger("millrace.live")


@stream_request_body
class BroadcastResource(Resource):
    """PUT and SOURCE of /audio/live/NAME: be its source, until the body ends.

    200, 401, 403 (it has a source), 405, 408 (it fell silent), 415 (not the format that was announced), 429,
    503. A source that got its 200 at the start has its connection closed instead.
    """

    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "SOURCE")

    def initialize(self, delivery: Delivery, mounts: Mounts, writers: Writers, source_seconds: float) -> None:
        self.delivery, self.mounts, self.writers = delivery, mounts, writers
        self.source_seconds = source_seconds
        self.session: Session | None = None
        """None: it is not the source, or no longer."""
        self.ended = asyncio.Event()
        """Set when it is no longer."""
        self.held = self.answered = self.finished = False
        self.silence: asyncio.TimerHandle | None = None
        self.take_any_length()
        headers = self.request.headers
        self.unframed = "Content-Length" not in headers and "Transfer-Encoding" not in headers
        self.allow = ALLOW if self.request.path.endswith(".json") else ALLOW_OF_MOUNT

    def prepare(self) -> None:
        """Refuse it, or claim the mount, before it sends anything if it waits for 100 (Continue)."""
        if self.request.method not in ("PUT", "SOURCE") or self.path_kwargs["part"]:
            raise HTTPError(405)
        self.writers.admit_source(self.request)
        open_streams = self.delivery.open_streams
        if open_streams.draining:
            raise shutting_down()
        refuse_too_many(self.delivery, self.client)
        self.connection.set_body_timeout(None)
        stream = self.connection.stream
        stream.receive_seconds = inf  # its silence is seen to here
        if not stream.closed():
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        self.session = self._claim()
        open_streams.hold(self, self.client)
        self.held = True
        self._heard(0)
        self._look()

    def _claim(self) -> Session:
        headers = self.request.headers
        facts = {
            known: one_line(_text(headers[name]))
            for known, names in _FACTS.items()
            for name in names
            if name in headers
        }
        media_type = headers.get("Content-Type", "audio/mpeg")  # as Icecast has it
        try:
            return self.mounts.claim(self._name, "live", media_type, facts)
        except MountBusy:
            raise Problem(403, f"{self._name} has a source already.") from None
        except ValueError:
            raise Problem(415, f"Content-Type must be one of {', '.join(PARSERS)}.") from None
        except SourceError as error:
            raise problem_of(error) from error

    async def data_received(self, chunk: bytes) -> None:
        await self._take(chunk)

    async def put(self, **parts: str) -> None:
        try:
            if self.unframed:
                await self._read()
        except BaseException:  # a program error, which is Tornado's to report: what follows is no request
            self.end(Outcome.FAILED)
            raise
        if self.session is not None and not self.session.heard:
            # Too short to be refused before; or a proxy has left nothing of it (docs/operations.md).
            what = f"There is no sound of this type in the {self.body_bytes} bytes of the body."
            self._refuse(Problem(415, what), Outcome.FAILED)
        # Also if the connection was reset: so ends a source that has not read our 200 (ffmpeg, as of old).
        self._leave(Outcome.COMPLETE)

    source = put

    async def _read(self) -> None:
        """Take what comes until the connection ends."""
        # Told of its end, Tornado would look for another request in what has not been read yet.
        self.connection.stream.set_close_callback(None)
        if self.request.headers.get("Expect") != "100-continue":
            # It waits for this before it sends anything.
            self.answered = True
            self.set_header("Connection", "close")
            self.set_header("Content-Length", "0")
            self.flush()
        with suppress(StreamClosedError):  # the way such a body ends
            while self.session is not None:
                await self._take(await self.connection.stream.read_bytes(READ_BYTES, partial=True))
                await asyncio.sleep(0)  # what is there already is read without a turn of the loop

    async def _take(self, data: bytes) -> None:
        """Have it heard, and wait as long as it is ahead of real time."""
        if self.session is None:
            return  # what was still on its way
        self.body_bytes += len(data)
        try:
            seconds = self.session.take(data)
        except FormatError as error:
            self._refuse(Problem(415, f"{str(error).rstrip('.')}."), Outcome.FAILED)
            return
        self._heard(seconds)
        if seconds and not self.connection.stream.closed():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.ended.wait()

    # --- its end ---

    def drain(self) -> None:
        """The server shuts down."""
        self._refuse(shutting_down(), Outcome.DRAINED)

    def end(self, outcome: Outcome) -> None:
        """Without a word."""
        self._leave(outcome)
        self.connection.stream.close()

    def _heard(self, seconds: float) -> None:
        """It has sent something, and is not asked for more within `seconds`."""
        self.silent_since = asyncio.get_running_loop().time() + seconds

    def _look(self) -> None:
        """Whether it has fallen silent; comes again when it may have."""
        if not self.source_seconds:
            return
        loop = asyncio.get_running_loop()
        due = self.silent_since + self.source_seconds
        if loop.time() < due:
            self.silence = loop.call_at(due, self._look)
        else:
            what = f"The source sent nothing for {self.source_seconds:g} seconds (--source-timeout)."
            self._refuse(Problem(408, what), Outcome.STALLED)

    def _refuse(self, problem: Problem, outcome: Outcome) -> None:
        """Its body ends here, whatever else it sends: by a status, or if that has been sent, by closing."""
        if self.session is None:
            return
        log.info("the source of %s is let go: %s", self._name, problem.detail)
        self._leave(outcome)
        if not self.answered:
            self.send_error(problem.status_code, exc_info=(type(problem), problem, None))
        if self.unframed:  # else Tornado does it: there is more of the body
            self.connection.stream.close()

    def _leave(self, outcome: Outcome) -> None:
        """It is the source no longer. Only the first call counts."""
        if self.session is None:
            return
        self.session.close()
        self.session = None
        self.outcome = outcome
        self.ended.set()
        if self.silence is not None:
            self.silence.cancel()

    def on_connection_close(self) -> None:
        """In the middle of a body that has a frame. One that has none ends so, when it has been read."""
        super().on_connection_close()
        if not self.unframed and not self.finished:
            self._leave(ended_by_closing(self.connection.stream))
            self.finish()

    def on_finish(self) -> None:
        self.finished = True
        if self.held:
            self.delivery.open_streams.let_go(self, self.client)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What it sends behind this would be taken for a request."""
        self.set_header("Connection", "close")
        super().write_error(status_code, **kwargs)

    @property
    def _name(self) -> str:
        return str(self.path_kwargs["name"])


class MetadataResource(Resource):
    """GET, POST /admin/metadata?mode=updinfo&mount=/audio/live/NAME&song=TITLE: what is heard now.

    As source clients of Icecast's kind send it, libshout as a form. Query: song, or title and artist; url;
    charset (UTF-8, and what is not that is ISO-8859-1). 200, 400, 401, 403, 404 (no live source), 503.
    """

    SUPPORTED_METHODS = ("GET", "POST", "OPTIONS")
    allow = ", ".join(SUPPORTED_METHODS)

    def initialize(self, mounts: Mounts, writers: Writers) -> None:
        self.mounts = mounts
        self.writers = writers

    async def post(self) -> None:
        await self.get()

    async def answer(self, **parts: str) -> None:
        self.writers.admit_source(self.request)
        self.charset = "utf-8"
        if charset := self._argument("charset"):
            self.charset = await asyncio.to_thread(encoding_named, charset)
        if self._argument("mode") != "updinfo":
            raise BadParameter("mode must be updinfo")
        mount = self.mounts.get(self._argument("mount").removeprefix("/").removeprefix("audio/live/"))
        if mount.source != "live":
            raise Problem(404, "Nobody sends live audio there.")
        song = self._argument("song")
        if not song:
            song = " - ".join(filter(None, (self._argument("artist"), self._argument("title"))))
        mount.play(Playing(song, self._argument("url")))
        self.set_header("Content-Type", "text/xml; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(
            b'<?xml version="1.0"?>\n'
            b"<iceresponse><message>Metadata update successful</message><return>1</return></iceresponse>\n"
        )

    def _argument(self, name: str) -> str:
        value: bytes = self.request.arguments.get(name, [b""])[-1]
        for encoding in (self.charset, "utf-8"):
            with suppress(UnicodeError):
                return value.decode(encoding)
        return value.decode("latin-1")


def _text(header: str) -> str:
    """A header as it was meant: Tornado makes of each byte a character."""
    value = header.encode("latin-1")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return header
