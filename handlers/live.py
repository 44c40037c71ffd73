"""/audio/live: live audio to its listeners, and what is playing."""

from handlers.accept import wanted_format
from handlers.delivery import Delivery, StreamResource
from handlers.resource import ALLOW, Problem
from handlers.serve import serve
from media.events import EARLIEST
from media.generated import StreamRequest
from media.icy import IcyBlocks
from media.live import Mount, Mounts
from media.records import FORMATS
from media.source import SourceNotFound
from media.subscriptions import Subscription

ALLOW_OF_MOUNT = f"{ALLOW}, PUT, SOURCE"

_WITH_TITLES = ("audio/mpeg", "audio/aac", "audio/aacp")
"""What may have ICY's blocks between its bytes: players would look for pages in those of Ogg."""


class MountsResource(StreamResource):
    """GET /audio/live: the mounts, as JSON."""

    def initialize(self, delivery: Delivery, mounts: Mounts) -> None:  # type: ignore[override]
        super().initialize(delivery)
        self.mounts = mounts

    async def answer(self, **parts: str) -> None:
        listed = [
            {
                "name": mount.name,
                "title": mount.playing.title,
                "url": f"/audio/live/{mount.name}",
                "media_type": mount.media_type,
                "listeners": mount.listeners,
                "source": mount.source,
                "events_url": f"/audio/live/{mount.name}.json?format=sse",
            }
            for mount in self.mounts
        ]
        await self.send_json({"mounts": listed})


class MountResource(StreamResource):
    """GET /audio/live/NAME: listen. GET /audio/live/NAME.json: what is playing, as JSON or as events.

    200, 400, 404. For PUT and SOURCE see `handlers/broadcast.py`.
    """

    def initialize(self, delivery: Delivery, mounts: Mounts) -> None:  # type: ignore[override]
        super().initialize(delivery)
        self.mounts = mounts
        if not self.request.path.endswith(".json"):
            self.allow = ALLOW_OF_MOUNT

    async def answer(self, name: str, part: str = "") -> None:  # type: ignore[override]
        try:
            mount = self.mounts.get(name)
        except SourceNotFound:
            raise Problem(404, "Nothing is on air there: /audio/live lists what is.") from None
        if part:
            await self._tell(mount)
        else:
            await self._listen(mount)

    async def _tell(self, mount: Mount) -> None:
        args, accept = self.args, self.request.headers.get("Accept", "")
        self.vary_by("Accept")
        if wanted_format(args, accept, (FORMATS["json"], FORMATS["sse"])).name == "json":
            await self.send_json(mount.now_playing())
            return
        # Whatever the client has seen: what it is to know is what plays now.
        events = Subscription(
            lambda: mount.news_feed, StreamRequest(args=args), FORMATS["sse"], otherwise=EARLIEST
        )
        await serve(self, events)

    async def _listen(self, mount: Mount) -> None:
        asks = self.request.headers.get("Icy-MetaData", "").strip()
        titles = asks == "1" and mount.media_type in _WITH_TITLES
        # Who knows of ICY is a radio as often as not, and many of those know no chunks.
        self.unframed = bool(asks)
        for name, value in {"icy-name": mount.name, **mount.facts}.items():
            self.set_header(name, value.encode().decode("latin-1"))  # Tornado sends its characters as bytes
        if titles:
            self.set_header("icy-metaint", str(IcyBlocks.INTERVAL))
        self.set_header("Accept-Ranges", "none")
        await serve(self, mount.heard(IcyBlocks(mount) if titles else None))
