"""What streamed responses are sent with, and the resource that is answered with one (`handlers/serve.py`)."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from handlers.coding import LEVEL, Coder, coded_facts, whole_coded
from handlers.fanout import Fanout
from handlers.limits import Limits, RateLimit
from handlers.open_streams import OpenStreams
from handlers.pump import Pump
from handlers.repeats import Repeats
from handlers.resource import Problem, Resource
from media.source import Facts

RETRY_AFTER_SECONDS = 10
"""When to come back who found too many streams open."""


@dataclass(frozen=True, slots=True)
class NginxFiles:
    """Where nginx has the files of the library: its internal location `prefix` is the folder `root`."""

    prefix: str
    root: Path

    def uri(self, path: str) -> str:
        """What nginx knows the file at `path` by; empty: it does not lie in the library."""
        name = os.path.relpath(path, self.root)
        return "" if name.startswith("..") else self.prefix + quote(os.fsencode(name))


@dataclass(frozen=True, slots=True)
class Delivery:
    """What every streamed response is sent with.

    Args:
        compression: gzip's level for what is coded on its way; 0: nothing is.
        nginx: None: it sends no files for us.
    """

    limits: Limits
    open_streams: OpenStreams
    rate: RateLimit = field(default_factory=RateLimit)
    repeats: Repeats = field(default_factory=Repeats)
    fanout: Fanout = field(default_factory=Fanout)
    compression: int = LEVEL
    nginx: NginxFiles | None = None


class StreamResource(Resource):
    """A resource that answers with a source."""

    def initialize(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.pump: Pump | None = None
        self.is_events = False
        self.coder: Coder | None = None
        self.close_delimited = False
        self.ended = False
        self.goes_on = False
        """The response is open, and no handler waits for its end."""

    async def send_json(self, value: object) -> None:
        """Answer with JSON that is made anew each time; bytes are JSON already."""
        content = value if isinstance(value, bytes) else orjson.dumps(value)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.vary_by("Accept-Encoding")
        facts = self.sent_facts(Facts("application/json", length=len(content)), sliceable=False)
        if facts.coding:
            self.set_header("Content-Encoding", facts.coding)
            content = await whole_coded(content, facts.coding, self.delivery.compression)
        self.finish(content)

    def sent_facts(self, facts: Facts, *, sliceable: bool) -> Facts:
        """Those of the representation that is sent: `facts` itself, or what the coded one makes of them."""
        if not self.delivery.compression:
            return facts
        return coded_facts(self.request.method or "", self.request.headers, facts, sliceable)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Any:
        """Not yet, where the response goes on: Tornado finishes it when the handler's method returns."""
        return None if self.goes_on else super().finish(chunk)

    def on_connection_close(self) -> None:
        """The client has gone: Tornado tells us at once, and cancels nothing by itself."""
        super().on_connection_close()  # for one that takes its body as it comes: nothing more does
        if self.pump is not None:
            self.pump.connection_closed()


def refuse_too_many(delivery: Delivery, client: str) -> None:
    """Before the source is entered: who is refused costs nothing. What is not streamed is not counted.

    Raises:
        Problem: 429 or 503, `client` or the server has as many streams as it may.
    """
    limits, open_streams = delivery.limits, delivery.open_streams
    after = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    if 0 < limits.most_streams <= len(open_streams):
        raise Problem(503, "The server sends as many streams as it may; try again later.", after)
    if 0 < limits.most_streams_per_client <= open_streams.of(client):
        most = limits.most_streams_per_client
        detail = f"The limit of streams for a client is {most}; end one, or try again later."
        raise Problem(429, detail, after)
