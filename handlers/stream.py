"""/stream and /streams: the named streams."""

from collections.abc import Mapping
from unicodedata import normalize
from urllib.parse import quote

from handlers.accept import wanted_format
from handlers.delivery import Delivery, StreamResource
from handlers.resource import ALLOW, Problem, Resource
from handlers.serve import serve
from handlers.writers import Writers
from media.generated import Stream, StreamRequest
from media.parameters import choice
from media.records import FORMATS, Format
from media.source import Source
from media.subscriptions import Channels

ALLOW_OF_CHANNEL = f"{ALLOW}, POST, DELETE"


class StreamsResource(StreamResource):
    """GET /streams: what there is, as JSON."""

    def initialize(  # type: ignore[override]
        self, delivery: Delivery, streams: Mapping[str, Stream], channels: Channels, writers: Writers
    ) -> None:
        super().initialize(delivery)
        self.streams = streams
        self.channels = channels
        self.writers = writers

    async def answer(self, **parts: str) -> None:
        publishing = self.writers.publishing_is_open(self.request)
        listed = []
        for name, stream in self.streams.items():
            facts = _facts(name, stream)
            if stream.key:
                facts["key"] = stream.key
            if stream.runs is not None:
                facts["shared"] = stream.runs.facts()
            if is_job(stream):
                facts["job"] = {"publishing": publishing}
            listed.append(facts)
        for name in self.channels:
            channel = self.channels.stream(name)
            assert channel is not None
            facts = self.channels.facts(name) | {"publishing": publishing}
            listed.append(_facts(name, channel) | {"channel": facts})
        await self.send_json({"streams": listed})


class NamedStreamResource(StreamResource):
    """GET /stream/NAME, and other paths that are one stream's; /stream/A,B: several channels as one.

    Query: format=text|sse|ndjson|json|csv, last_event_id, heartbeat=0 (text), and the stream's own.
    200, 400, 404, 500 and 502 (before the first byte).
    """

    def initialize(  # type: ignore[override]
        self, delivery: Delivery, streams: Mapping[str, Stream], channels: Channels, default: str = ""
    ) -> None:
        super().initialize(delivery)
        self.streams = streams
        self.channels = channels
        self.default = default

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """The stream's name in the form that it has in the table."""
        return normalize("NFC", super().decode_argument(value, name))

    async def options(self, name: str = "") -> None:  # type: ignore[override]
        if self.channels.get(name) is not None or is_job(self.streams.get(name)):
            self.allow = ALLOW_OF_CHANNEL
        await super().options()

    async def answer(self, name: str = "") -> None:  # type: ignore[override]
        await serve(self, self._source(name or self.default))

    def _source(self, name: str) -> Source:
        """By itself: what is looked at on the way would live as long as the response."""
        stream = self.streams.get(name) or self.channels.stream(name)
        if stream is None:
            raise Problem(404, "There is no stream of this name: /streams lists them.")
        args = self.args
        if stream.formats or stream.media_type:
            self.vary_by("Accept")  # a relay's other server says itself what its answer depends on
        return stream.open(stream_request(self, args), self._format(stream, args))

    def _format(self, stream: Stream, args: Mapping[str, str]) -> Format | None:
        """What `?format=` or Accept asks for; None where the stream has a media type of its own."""
        if not stream.formats:
            choice(args, "format", "text", tuple(FORMATS))
            return None
        return wanted_format(args, self.request.headers.get("Accept", ""), stream.formats)


def stream_request(response: Resource, args: Mapping[str, str]) -> StreamRequest:
    """What a stream may know of the request that is answered. `args`: its parameters."""
    request = response.request
    return StreamRequest(
        args=args,
        headers={key.lower(): value for key, value in request.headers.items()},
        last_event_id=_utf8(request.headers.get("Last-Event-ID")) or args.get("last_event_id"),
        path=request.path,
        remote_address=request.remote_ip or "",
        method=request.method or "",
    )


def is_job(stream: Stream | None) -> bool:
    """Whether it is one that POST starts, and DELETE ends."""
    return stream is not None and stream.runs is not None and stream.runs.detached


def _utf8(header: str | None) -> str | None:
    """An id as it was sent to the client: it comes back in UTF-8 (HTML Living Standard §9.2.3), and Tornado
    reads headers as Latin-1."""
    try:
        return header and header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _facts(name: str, stream: Stream) -> dict[str, object]:
    return {
        "name": name,
        "title": stream.title,
        "media_types": stream.media_types,
        "live": stream.live,
        "url": f"/stream/{quote(name)}",
        "parameters": stream.parameters,
    }
