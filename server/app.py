"""The route table."""

from collections.abc import Mapping
from typing import Any
from unicodedata import normalize

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, Rule
from tornado.web import Application

from handlers.audio import AudioResource
from handlers.broadcast import BroadcastResource, MetadataResource
from handlers.jobs import JobResource
from handlers.live import MountResource, MountsResource
from handlers.ops import HealthResource, ReadyResource, ServerResource
from handlers.page import PageResource
from handlers.publish import PublishResource
from handlers.resource import READS, Missing
from handlers.stream import NamedStreamResource, StreamsResource, is_job
from handlers.text import TextList, TextResource
from media.generated import Stream
from media.subscriptions import NAME
from server.access_log import log_response
from server.resources import Resources

STREAM = r"/stream/(?P<name>.+)"
MOUNT = rf"/audio/live/(?P<name>{NAME.pattern}?)(?P<part>|\.json)"


def make_app(resources: Resources) -> Application:
    """Everything that Millrace answers."""
    delivery = {"delivery": resources.delivery}
    texts = TextList(resources.root)
    text = {**delivery, "root": resources.root, "texts": texts, "encodings": resources.encodings}
    audio = {**delivery, "root": resources.root, "catalogue": resources.catalogue}
    stream = {**delivery, "streams": resources.streams, "channels": resources.channels}
    sources = {"mounts": resources.mounts, "writers": resources.writers}
    mounts = {**delivery, "mounts": resources.mounts}
    broadcast = {**delivery, **sources, "source_seconds": resources.source_seconds}
    publish = {
        "streams": resources.streams,
        "channels": resources.channels,
        "writers": resources.writers,
        "max_event": resources.max_event,
        "delivery": resources.delivery,
    }
    return Application(
        [
            (r"/", PageResource, delivery),
            (r"/static/(?P<name>.+)", PageResource, delivery),
            (r"/text", TextResource, text),
            (r"/text/(?P<name>.+)", TextResource, text),
            (r"/audio", AudioResource, audio),
            (r"/audio/(?P<id>[0-9]+)(?P<part>|\.json|/cover)", AudioResource, audio),
            (r"/audio/live", MountsResource, mounts),
            Rule(_NotRead(MOUNT), BroadcastResource, broadcast),
            (MOUNT, MountResource, mounts),
            (r"/admin/metadata", MetadataResource, sources),
            (r"/streams", StreamsResource, {**stream, "writers": resources.writers}),
            (r"/stream", NamedStreamResource, {**stream, "default": "lines"}),
            Rule(_Jobs(STREAM, resources.streams), JobResource, publish),
            Rule(_NotRead(STREAM), PublishResource, publish),
            (STREAM, NamedStreamResource, stream),
            (r"/large\.csv", NamedStreamResource, {**stream, "default": "large.csv"}),
            (r"/my-large-page\.html", NamedStreamResource, {**stream, "default": "large.html"}),
            (r"\*", ServerResource),
            (r"/healthz", HealthResource),
            (r"/readyz", ReadyResource, {"ready": resources.ready}),
        ],
        default_handler_class=Missing,
        log_function=log_response,
        cors=resources.cors,
    )


class _NotRead(PathMatches):
    """A path, for the methods that do not read: their handler takes the body as it comes, GET has none."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return None if request.method in READS else super().match(request)


class _Jobs(_NotRead):
    """The same, where the path is that of a job."""

    def __init__(self, pattern: str, streams: Mapping[str, Stream]) -> None:
        super().__init__(pattern)
        self._streams = streams

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        found = super().match(request)
        if found is None:
            return None
        name = normalize("NFC", found["path_kwargs"]["name"].decode(errors="replace"))
        return found if is_job(self._streams.get(name)) else None
