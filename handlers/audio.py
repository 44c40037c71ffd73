"""/audio: the catalogue, and the tracks themselves with ranges and conditions."""

from pathlib import Path
from urllib.parse import urlencode

from handlers.delivery import Delivery, StreamResource
from handlers.serve import serve
from media.catalogue import Catalogue, Track
from media.cover import cover
from media.files import file
from media.parameters import flag, whole
from media.source import BadParameter, SourceNotFound

_MOST_ID = 2**63 - 1
_QUERY_CHARACTERS = 200


class AudioResource(StreamResource):
    """GET /audio, /audio?track_id=N, /audio/N, /audio/N.json, /audio/N/cover.

    Query of the catalogue: q, words in title, artist or album; limit, 1 to 500 (100); after, a track's id.
    Query of a track: download=1.
    200, 206, 304, 400, 404, 412, 416.
    """

    def initialize(self, delivery: Delivery, root: Path, catalogue: Catalogue) -> None:  # type: ignore[override]
        super().initialize(delivery)
        self.root = root
        self.catalogue = catalogue

    async def answer(self, id: str | None = None, part: str = "") -> None:  # type: ignore[override] # noqa: A002
        args = self.args
        if id is None and "track_id" not in args:
            await self._list(args)
            return
        # A path's id is digits by the route; one that no track can have is as missing as any other.
        number = whole(args, "track_id", 0, least=0, most=_MOST_ID) if id is None else int(id[:20])
        track = await self.catalogue.track(number)
        if track is None:
            raise SourceNotFound(f"no track {number}")
        attachment = track.path.rpartition("/")[2] if flag(args, "download", False) else ""
        if part == ".json":
            await self.send_json(_facts(track))
        elif part == "/cover":
            await serve(self, cover(self.root, track.path), attachment=attachment and f"cover-{track.id}")
        else:
            await serve(self, file(self.root, track.path, track.media_type), attachment=attachment)

    async def _list(self, args: dict[str, str]) -> None:
        query = args.get("q", "")
        if len(query) > _QUERY_CHARACTERS:
            raise BadParameter(f"q must have at most {_QUERY_CHARACTERS} characters, not {len(query)}")
        limit = whole(args, "limit", 100, least=1, most=500)
        after = whole(args, "after", 0, least=0, most=_MOST_ID) if "after" in args else None
        tracks, behind = await self.catalogue.tracks(query, after, limit)
        following = None
        if behind is not None:
            asked = {"q": query} if query else {}
            following = "/audio?" + urlencode({**asked, "limit": limit, "after": behind})
            self.set_header("Link", f'<{following}>; rel="next"')
        await self.send_json({"tracks": [_facts(track) for track in tracks], "next": following})


def _facts(track: Track) -> dict[str, object]:
    return {
        "id": track.id,
        "title": track.title,
        "artist": track.artist,
        "album": track.album,
        "track_number": track.track_number,
        "duration_seconds": track.duration_seconds,
        "media_type": track.media_type,
        "length": track.length,
        "url": f"/audio/{track.id}",
        "cover_url": f"/audio/{track.id}/cover" if track.has_cover else None,
    }
