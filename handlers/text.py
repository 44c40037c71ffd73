"""/text: the texts of the library, whole, line by line, or as events."""

import asyncio
from pathlib import Path
from urllib.parse import quote

import orjson

from handlers.accept import codings, wanted_format
from handlers.delivery import Delivery, StreamResource
from handlers.serve import serve
from media.decoding import EncodingCache, encoding_named
from media.generated import StreamRequest
from media.library import SIDECARS, text_files
from media.parameters import flag, number, text, whole
from media.records import FORMATS, Format
from media.source import BadParameter, Source
from media.tail import FOLLOWED, Followed, tail_lines
from media.text import text as plain_text
from media.text import text_events

_MOST_BYTES = 2**63 - 1


class TextList:
    """The texts of a library, listed once for all who ask meanwhile: every list opens every file in it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._making: asyncio.Future[bytes] | None = None

    async def as_json(self) -> bytes:
        """The list as GET /text gives it. Who leaves does not stop the others' waiting."""
        if self._making is None or self._making.done():
            self._making = asyncio.get_running_loop().run_in_executor(None, self._make)
        return await asyncio.shield(self._making)

    def _make(self) -> bytes:
        listed = [
            {
                "name": file.name,
                "length": file.length,
                "modified": file.modified,
                "url": f"/text/{quote(file.name)}",
            }
            for file in text_files(self._root)
        ]
        return orjson.dumps({"files": listed})


class TextResource(StreamResource):
    """GET /text, /text?file_name=NAME, /text/NAME.

    Query: file_name; format=text|sse; pace, seconds after every line; encoding, the file's own;
    tail, so many lines before the end; follow=1, as the file grows, also in format=ndjson;
    last_event_id, as the header; download=1.
    200, 206, 204 (nothing left), 304, 400, 404, 412, 416.
    """

    def initialize(  # type: ignore[override]
        self, delivery: Delivery, root: Path, texts: TextList, encodings: EncodingCache
    ) -> None:
        super().initialize(delivery)
        self.root = root
        self.texts = texts
        self.encodings = encodings

    async def answer(self, name: str | None = None) -> None:  # type: ignore[override]
        args = self.args
        if name is None and "file_name" not in args:
            await self.send_json(await self.texts.as_json())
            return
        name = name or text(args, "file_name")
        pace_seconds = number(args, "pace", 0, most=3600, unit="seconds")
        encoding = ""
        if "encoding" in args:
            # In a thread: the first time it loads every codec there is, to know which of them are for text.
            encoding = await asyncio.to_thread(encoding_named, args["encoding"])
        attachment = name.rpartition("/")[2] if flag(args, "download", False) else ""
        tail = tail_lines(args, None)
        self.vary_by("Accept")
        accept = self.request.headers.get("Accept", "")
        if flag(args, "follow", False):
            source = self._followed(name, args, wanted_format(args, accept, FOLLOWED), encoding, tail)
        elif wanted_format(args, accept, (FORMATS["text"], FORMATS["sse"])).name == "text":
            source = plain_text(
                self.root,
                name,
                self.encodings,
                encoding=encoding,
                pace_seconds=pace_seconds,
                tail=tail,
                codings=codings(self.request.headers.get("Accept-Encoding", ""), list(SIDECARS)),
            )
        else:
            source = text_events(
                self.root,
                name,
                self.encodings,
                encoding=encoding,
                after=self._last_event_id(args),
                pace_seconds=pace_seconds,
                tail=tail,
            )
        await serve(self, source, attachment=attachment)

    def _followed(
        self, name: str, args: dict[str, str], form: Format, encoding: str, tail: int | None
    ) -> Source:
        if "pace" in args:
            raise BadParameter("pace must be left out where follow is 1")
        request = StreamRequest(args, last_event_id=self._asked_id(args))
        return Followed(
            self.root, name, request, form, lines=tail, encoding=encoding, encodings=self.encodings
        )

    def _asked_id(self, args: dict[str, str]) -> str | None:
        """What the client saw last. The header wins: it is newer than the URL it is sent with."""
        return self.request.headers.get("Last-Event-ID", args.get("last_event_id"))

    def _last_event_id(self, args: dict[str, str]) -> int | None:
        """The bytes that the client has."""
        asked = self._asked_id(args)
        if asked is None:
            return None
        return whole({"last_event_id": asked}, "last_event_id", 0, least=0, most=_MOST_BYTES)
