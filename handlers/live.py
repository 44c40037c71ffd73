"""/audio/live: live audio, from its sources and to its listeners.

A source client of Icecast's kind sends PUT, or SOURCE of before HTTP, mostly without saying how long the body
is: it ends with the connection. HTTP has no such request (RFC 9112 §6.3), and Tornado takes it for one
without a body. So the handler reads the rest of the connection itself.
"""

import asyncio
import logging
import sys
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import stream_request_body

from handlers.accept import preferred
from handlers.limits import client_of
from handlers.open_streams import Outcome
from handlers.resource import Problem, Resource, problem_of
from handlers.serve import Delivery, StreamResource, serve
from handlers.writers import Writers
from media.frames import PARSERS, FormatError
from media.generated import StreamRequest
from media.live import IcyBlocks, Mount, MountBusy, Mounts, Playing, Session, one_line
from media.parameters import choice
from media.records import FORMATS
from media.source import BadParameter, SourceError
from media.subscriptions import EARLIEST, Subscription

READ_BYTES = 64 * 1024

_METHODS = "GET, HEAD, OPTIONS, PUT, SOURCE"
_BODY_SECONDS = 10.0**8  # Tornado's limit for a whole body; ours is for its silence
_WITH_TITLES = ("audio/mpeg", "audio/aac", "audio/aacp")

# What a source says of its broadcast, by what listeners are told it as.
_FACTS = {
    "icy-name": ("Ice-Name", "Icy-Name"),
    "icy-genre": ("Ice-Genre", "Icy-Genre"),
    "icy-url": ("Ice-Url", "Icy-Url"),
    "icy-br": ("Ice-Bitrate", "Icy-Br"),
    "icy-description": ("Ice-Description", "Icy-Description"),
}

log = logging.getLogger("millrace.live")


class MountsResource(StreamResource):
    """GET /audio/live: the mounts, as JSON."""

    def initialize(self, delivery: Delivery, mounts: Mounts) -> None:  # type: ignore[override]
        super().initialize(delivery)
        self.mounts = mounts

    async def answer(self, **parts: str) -> None:
        listed = [
            {
                **{
                    name: value
                    for name, value in mount.now_playing().items()
                    if name not in ("link", "since")
                },
                "url": f"/audio/live/{mount.name}",
                "events_url": f"/audio/live/{mount.name}.json?format=sse",
            }
            for mount in self.mounts
        ]
        await self.send_json({"mounts": listed})


@stream_request_body
class MountResource(StreamResource):
    """GET /audio/live/NAME: listen. GET /audio/live/NAME.json: what is playing, as JSON or as events.

    PUT and SOURCE of /audio/live/NAME: be its source, until the body ends.
    200, 400, 401, 403 (it has a source), 404, 415 (not the format that was announced).
    """

    SUPPORTED_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "SOURCE")

    def initialize(  # type: ignore[override]
        self, delivery: Delivery, mounts: Mounts, writers: Writers, source_seconds: float
    ) -> None:
        super().initialize(delivery)
        self.mounts = mounts
        self.writers = writers
        self.source_seconds = source_seconds
        self.session: Session | None = None

    async def answer(self, name: str, part: str = "") -> None:  # type: ignore[override]
        mount = self.mounts.get(name)
        if part:
            await self._tell(mount)
        else:
            await self._listen(mount)

    async def _tell(self, mount: Mount) -> None:
        args = self.args
        asked = choice(args, "format", "json", ("json", "sse"))
        self.vary_by("Accept")
        if "format" not in args:
            offers = {FORMATS[name].media_type: name for name in ("json", "sse")}
            asked = offers[preferred(self.request.headers.get("Accept", ""), list(offers))]
        if asked == "json":
            await self.send_json(mount.now_playing())
            return
        seen = self.request.headers.get("Last-Event-ID", args.get("last_event_id"))
        request = StreamRequest(args=args, last_event_id=seen)
        await serve(self, Subscription(lambda: mount.news_feed, request, FORMATS["sse"], otherwise=EARLIEST))

    async def _listen(self, mount: Mount) -> None:
        asks = self.request.headers.get("Icy-MetaData", "")
        titles = asks.strip() == "1" and mount.media_type.partition(";")[0] in _WITH_TITLES
        # Who knows of ICY is a radio as often as not, and many of those know no chunks.
        self.unframed = bool(asks)
        for name, value in {"icy-name": mount.name, **mount.facts}.items():
            self.set_header(name, value)
        if titles:
            self.set_header("icy-metaint", str(IcyBlocks.INTERVAL))
        self.set_header("Accept-Ranges", "none")
        await serve(self, mount.heard(IcyBlocks(mount) if titles else None))

    def prepare(self) -> None:
        """Of a source: refuse before its body, or claim the mount."""
        if self.request.method not in ("PUT", "SOURCE"):
            return
        self.writers.admit_source(self.request)
        name, part = self.path_kwargs["name"], self.path_kwargs.get("part")
        if part:
            raise Problem(405, f"A source sends to /audio/live/{name}.", {"Allow": "GET, HEAD, OPTIONS"})
        headers = self.request.headers
        facts = {
            known: one_line(headers[name])
            for known, names in _FACTS.items()
            for name in names
            if name in headers
        }
        try:
            media_type = headers.get("Content-Type", "audio/mpeg")
            self.session = self.mounts.claim(name, "live", media_type, facts)
        except MountBusy:
            raise Problem(403, f"{name} has a source already.") from None
        except ValueError:
            right = ", ".join(PARSERS)
            raise Problem(415, f"Content-Type must be one of {right}.") from None
        except SourceError as error:
            raise problem_of(error) from error
        connection: Any = self.request.connection
        connection.set_max_body_size(sys.maxsize)
        connection.set_body_timeout(_BODY_SECONDS)

    async def data_received(self, chunk: bytes) -> None:
        """A part of a body whose length is known, or that is chunked."""
        if self.session is not None:
            await self._take(chunk)

    async def put(self, name: str, part: str = "") -> None:
        assert self.session is not None
        headers = self.request.headers
        with self.delivery.open_streams.holding(_Sending(self), client_of(self.request.remote_ip or "")):
            if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
                self.set_header("Connection", "close")
                if "Expect" not in headers:
                    # It waits for this before it sends anything.
                    self.set_header("Content-Length", "0")
                    await self.flush()
                await self._read()
        self.session.close()
        self.finish()

    source = put

    async def _read(self) -> None:
        """Take what comes until the connection ends."""
        connection: Any = self.request.connection
        try:
            while True:
                async with asyncio.timeout(self.source_seconds or None):
                    data = await connection.stream.read_bytes(READ_BYTES, partial=True)
                await self._take(data)
        except TimeoutError:
            log.info("the source of %s is let go: it sent nothing for %g s", self._name, self.source_seconds)
            self.outcome = Outcome.STALLED
            connection.stream.close()
        except StreamClosedError:
            pass  # the way such a body ends

    async def _take(self, data: bytes) -> None:
        """Have it heard, and wait as long as it is ahead of real time.

        Raises:
            Problem: 415, it is not of the format that was announced.
        """
        assert self.session is not None
        connection: Any = self.request.connection
        self.body_bytes += len(data)
        try:
            wait = self.session.take(data)
        except FormatError as error:
            self.session.close()
            raise Problem(415, str(error)) from None
        while wait > 0 and not connection.stream.closed():
            await asyncio.sleep(min(wait, 0.5))
            wait -= 0.5

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self.session is not None:
            self.session.close()

    @property
    def _name(self) -> str:
        return str(self.path_kwargs["name"])


class _Sending:
    """A source, as those see it who end what is open."""

    def __init__(self, resource: MountResource) -> None:
        self._resource = resource

    def drain(self) -> None:
        self.end(Outcome.DRAINED)

    def end(self, outcome: Outcome) -> None:
        self._resource.outcome = outcome
        connection: Any = self._resource.request.connection
        connection.stream.close()


class MetadataResource(Resource):
    """GET /admin/metadata?mode=updinfo&mount=/audio/live/NAME&song=TITLE: what is heard now.

    As source clients of Icecast's kind send it. Query: song, or title and artist; url; charset
    (UTF-8, and what is not that is ISO-8859-1). 200, 400, 401, 403, 404.
    """

    def initialize(self, mounts: Mounts, writers: Writers) -> None:
        self.mounts = mounts
        self.writers = writers

    async def answer(self, **parts: str) -> None:
        self.writers.admit_source(self.request)
        if self._argument("mode") != "updinfo":
            raise BadParameter("mode must be updinfo")
        mount = self.mounts.get(self._argument("mount").removeprefix("/").removeprefix("audio/live/"))
        song = self._argument("song")
        if not song:
            song = " - ".join(filter(None, (self._argument("artist"), self._argument("title"))))
        mount.play(Playing(one_line(song), one_line(self._argument("url"))))
        self.set_header("Content-Type", "text/xml; charset=utf-8")
        self.finish(
            b'<?xml version="1.0"?>\n'
            b"<iceresponse><message>Metadata update successful</message><return>1</return></iceresponse>\n"
        )

    def _argument(self, name: str) -> str:
        value: bytes = self.request.query_arguments.get(name, [b""])[-1]
        charset = self.request.query_arguments.get("charset", [b"utf-8"])[-1].decode("ascii", "replace")
        for encoding in (charset, "utf-8"):
            try:
                return value.decode(encoding)
            except (LookupError, UnicodeDecodeError):
                continue
        return value.decode("latin-1")
