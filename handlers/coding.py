"""gzip or zstd of bodies that are text, made while they are sent (RFC 9110 §8.4.1, RFC 8878).

What is coded at a time can be decoded at once: a line of a slow stream is held back by nobody. Of a fast one
the pump hands over up to 64 KiB at a time, where the five bytes of a flush are nothing.

Level 4 of zlib 1.2.13 takes 9 ms a MB of large.csv and leaves 29 % of it; of English prose 14 ms and 40 %.
Level 1 takes 5 and 8 ms and leaves 34 and 45 %. Level 6 takes 29 and 31 ms and leaves 28 and 39 %: more than
twice the work for a twentieth. Each stream holds 262 KB while it is open, an endless one 38.

zstd, where its library is installed, is for bodies that end: at level 2 it takes 1.8 ms a MB of large.csv and
leaves 15 %, of prose 2.2 ms and 47 %, and holds 628 KB. Of a line at a time it leaves no less than gzip does.

An entity tag of what is coded on the way is weak, because where the flushes fall is the network's doing; and
another one than the file's, so that nobody takes a part of the one for a part of the other.
"""

import asyncio
import zlib
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from handlers.accept import codings
from media.files import loaded
from media.source import ByteChunks, Chunks, Facts

try:
    import zstandard
except ImportError:  # the extra `zstd`
    zstandard = None  # type: ignore[assignment]

LEVEL = 4
"""gzip's level where no other is set; 0 is none."""

GZIP, ZSTD = "gzip", "zstd"

PIECE_BYTES = 64 * 1024
"""What is coded in one go, about: 0.9 ms of the loop at level 4."""

LEAST_BYTES = 1024
"""What is known to be shorter is sent as it is: it fits into one packet either way."""

_WHOLE_WINDOW = (15, 8)  # window bits and memLevel: zlib's own
# Line by line it leaves 37 % of order records instead of 31, and of a lyric 30 as the other.
_SMALL_WINDOW = (12, 5)

_ZSTD_LEVEL = 2
# 128 KiB. Level 3 with its own 2 MiB leaves 12 % of the rows, and holds 3 MB.
_ZSTD_WINDOW_LOG = 17

_CODED_TYPES = {"application/json", "application/x-ndjson", "image/svg+xml"}


class Coder:
    """The coding of one body.

    Args:
        coding: gzip or zstd.
        level: of gzip: 1, fast, to 9, small.
        live: the body is endless, and may be open for days: less memory, a little more on the wire.
    """

    def __init__(self, coding: str, level: int, *, live: bool = False) -> None:
        self._ended = False
        if coding == ZSTD:
            how = zstandard.ZstdCompressionParameters.from_level(_ZSTD_LEVEL, window_log=_ZSTD_WINDOW_LOG)
            self._work: Any = zstandard.ZstdCompressor(compression_params=how).compressobj()
            self._flush, self._finish = zstandard.COMPRESSOBJ_FLUSH_BLOCK, zstandard.COMPRESSOBJ_FLUSH_FINISH
        else:
            window_bits, memory_level = _SMALL_WINDOW if live else _WHOLE_WINDOW
            # 16: with gzip's header and trailer.
            self._work = zlib.compressobj(level, zlib.DEFLATED, 16 + window_bits, memory_level)
            self._flush, self._finish = zlib.Z_SYNC_FLUSH, zlib.Z_FINISH

    def coded(self, chunk: bytes | memoryview, *, last: bool = False) -> bytes:
        """The chunk in a form that can be decoded as far as it goes. Nothing comes of nothing.

        Args:
            last: the body is whole with this one. A decoder takes one that lacks its end for broken, and
                nothing comes of what is given behind it.
        """
        if self._ended or not (chunk or last):
            return b""
        self._ended = last
        coded: bytes = self._work.compress(chunk) + self._work.flush(self._finish if last else self._flush)
        return coded


def can_be_coded(media_type: str) -> bool:
    """Whether a body of this type is worth it and may be coded: text, but no event stream."""
    kind = media_type.partition(";")[0].strip().lower()
    # Events are for who waits for each, and what stands between may decode a block at a time.
    return (kind.startswith("text/") and kind != "text/event-stream") or kind in _CODED_TYPES


def coded_facts(method: str, headers: Mapping[str, str], facts: Facts, sliceable: bool) -> Facts:
    """What is to be said of a body that may be coded on its way: `facts` themselves if it is sent as it is.

    Ranges are of the bytes as they are, and so is what If-Match names: only a strong tag can match there.

    Args:
        headers: of the request.
        sliceable: whether ranges of the body can be had.
    """
    parts_asked = sliceable and ("If-Match" in headers or (method == "GET" and "Range" in headers))
    if not can_be_coded(facts.media_type) or facts.coding or parts_asked:
        return facts
    short = facts.length is not None and facts.length < LEAST_BYTES
    offers = (GZIP,) if zstandard is None or facts.live else (ZSTD, GZIP)
    accepted = codings(headers.get("Accept-Encoding", ""), offers)
    if short or not accepted:
        return facts
    etag = facts.etag and f'W/{facts.etag.removeprefix("W/")[:-1]}-{accepted[0]}"'
    return replace(facts, length=None, etag=etag, coding=accepted[0])


async def whole_coded(content: bytes, coding: str, level: int) -> bytes:
    """A whole body at once; a long one in a thread."""
    coder = Coder(coding, level)
    if len(content) <= PIECE_BYTES:
        return coder.coded(content, last=True)
    return await asyncio.to_thread(coder.coded, content, last=True)


async def in_pieces(chunks: Chunks) -> ByteChunks:
    """The same in memory, and in pieces that can be coded in one go."""
    async with aclosing(loaded(chunks)) as whole:
        async for chunk in whole:
            for start in range(0, len(chunk), PIECE_BYTES):
                yield chunk[start : start + PIECE_BYTES]  # of a small one no copy
