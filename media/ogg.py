"""An Ogg stream in pages: Vorbis, Opus or FLAC (RFC 3533, Vorbis I, RFC 7845, Ogg FLAC mapping 1.0).

A piece is a page, byte for byte. Who begins in the middle needs the header pages of the stream that plays:
they are the head. A source that sends a new stream for each track (chained, as ices2, ezstream and liquidsoap
do) sends new headers with each; who listens already gets them among the pages.

Nobody begins at a header page, at a page whose first packet began on the one before, or at the last page of a
stream, which may be empty or cut short. Of two streams side by side (video, Skeleton) nothing is taken apart:
one audio stream is wanted.

In a chain each stream has a serial number of its own (RFC 3533 §4). Where two have the same, as when one file
is sent over and over, the pages go on as they are, and ffmpeg 5.1 complains about the second Opus headers.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from media.pieces import PENDING_BYTES, TITLE_CHARACTERS, FormatError, PendingParser, Piece

LOST_BYTES = 64 * 1024
"""The most that may come without a page: the longest page has 65,307 bytes, so one may be damaged."""

DAMAGED_PAGES = 16
"""The most pages with a wrong CRC one after the other: bytes that look like pages cost 0.04 ms each."""

LONGEST_SECONDS = 60
"""A page that ends further than this behind the one before, or ahead of it, is a jump in time: it plays 0 s.

So does the first page of a stream that began long ago. The longest page, 65,025 bytes, is 60 s at 8.7 kbit/s.
"""

_CAPTURE = b"OggS"
# Capture pattern, version, flags, granule position, serial number, page number, CRC, number of segments.
_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_FLAC_COMMENTS = 4
_NO_GRANULE = -1  # no packet ends on this page

# The CRC of Ogg is zlib's with the bits of every byte, and of the result, the other way round:
# 0.04 ms for a page of 64 KiB, where a table in Python takes 5 ms.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class _Page:
    data: bytes
    flags: int
    granule: int
    serial: int

    def segments(self) -> Iterator[tuple[bytes, bool]]:
        """The parts of packets on this page, and whether the packet ends with it."""
        lengths = self.data[_HEADER.size : _HEADER.size + self.data[_HEADER.size - 1]]
        start = stop = _HEADER.size + len(lengths)
        for length in lengths:
            stop += length
            if length < 255:
                yield self.data[start:stop], True
                start = stop
        if start < stop:
            yield self.data[start:stop], False


@dataclass(frozen=True, slots=True)
class _Codec:
    """How the headers of a codec look.

    Args:
        first: what the first packet begins with.
        shortest: the least bytes of the first packet.
        clock: of the first packet, the samples a second, and the granule position from which on one hears.
        others: what each packet after it begins with, comments first; none: they are FLAC's metadata blocks.
    """

    first: bytes
    shortest: int
    clock: Callable[[bytes], tuple[int, int]]
    others: tuple[bytes, ...]


_CODECS = (
    _Codec(
        b"\x01vorbis",
        30,
        lambda first: (int.from_bytes(first[12:16], "little"), 0),
        (b"\x03vorbis", b"\x05vorbis"),
    ),
    # RFC 7845 §4: always 48 kHz; the pre-skip is thrown away.
    _Codec(b"OpusHead", 19, lambda first: (48_000, int.from_bytes(first[10:12], "little")), (b"OpusTags",)),
    # Behind 17 bytes STREAMINFO, whose bits 80 to 99 are the rate.
    _Codec(b"\x7fFLAC\x01", 51, lambda first: (int.from_bytes(first[27:30], "big") >> 4, 0), ()),
)


@dataclass(slots=True)
class _Stream:
    """One logical stream; `head` when its headers are whole."""

    serial: int
    codec: _Codec
    rate: int  # samples a second
    granule: int  # the sample with which the page before ended
    pages: bytearray  # of headers, as long as the head is not whole
    packets: int = 0  # header packets after the first
    packet: bytearray = field(default_factory=bytearray)  # the newest one of them
    complete: bool = True  # the packet
    head: bytes | None = None
    title: str | None = None


class OggParser(PendingParser):
    """What a source sends as `audio/ogg`, in pages.

    Keeps the header pages, at most 1 MiB, beside them their packet that is not whole yet, and one page.
    A damaged page is dropped, with what stands before the next one. A mistake is what is no Ogg, not one of
    its three codecs, or not one stream at a time; headers of more than 1 MiB; LOST_BYTES without a page.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0
        self._damaged = 0
        self._stream: _Stream | None = None

    def _pieces(self) -> Iterator[Piece]:
        while page := self._page():
            if piece := self._piece(page):
                yield piece

    def _page(self) -> _Page | None:
        """The next page that is whole, taken out of what is pending; None: more has to come."""
        while self._found():
            pending = self._pending
            if len(pending) < _HEADER.size:
                return None
            _, version, flags, granule, serial, _, crc, count = _HEADER.unpack_from(pending)
            if version == 0:
                body = _HEADER.size + count
                if len(pending) < body:
                    return None
                stop = body + sum(pending[_HEADER.size : body])
                if len(pending) < stop:
                    return None
                data = bytes(pending[:stop])
                if _crc(data) == crc:
                    del pending[:stop]
                    self._damaged = 0
                    return _Page(data, flags, granule, serial)
                self._damaged += 1
                if self._damaged > DAMAGED_PAGES:
                    raise FormatError(f"{self._damaged} Ogg pages with a wrong CRC one after the other")
            self._lose(len(_CAPTURE))
        return None

    def _found(self) -> bool:
        """Whether what is pending begins with the capture pattern; what stands before it is dropped."""
        pending = self._pending
        while not pending.startswith(_CAPTURE[: len(pending)]):
            if self._stream is None and not self._lost:
                raise FormatError("no Ogg: it does not begin with OggS")
            found = pending.find(_CAPTURE, 1)
            # Without one, the last three bytes may be its beginning.
            self._lose(found if found > 0 else max(1, len(pending) - len(_CAPTURE) + 1))
        return len(pending) >= len(_CAPTURE)

    def _lose(self, length: int) -> None:
        del self._pending[:length]
        self._lost += length
        if self._lost > LOST_BYTES:
            raise FormatError(f"no Ogg page that is whole in {LOST_BYTES} bytes")

    def _piece(self, page: _Page) -> Piece | None:
        """The page as a piece; None: it is of no stream that has begun here."""
        stream = self._stream
        if page.flags & _FIRST:
            if stream and stream.head is None and not stream.packets:
                raise FormatError(
                    "several Ogg streams at once: one audio stream is wanted, no video or Skeleton"
                )
            self._stream = _begun(page)
        elif stream is None:
            raise FormatError("no header page first: an Ogg stream is wanted from its beginning")
        elif page.serial != stream.serial:
            self._lost += len(page.data)
            if self._lost > LOST_BYTES:
                raise FormatError("Ogg pages of a stream without a header page: one audio stream is wanted")
            return None
        self._lost = 0
        if stream and not page.flags & _FIRST:
            if stream.head is not None:
                return _sound(stream, page)
            _gather(stream, page)
        return Piece(page.data, 0, None)


def _begun(page: _Page) -> _Stream:
    """The stream whose first page this is."""
    packets = list(page.segments())
    if len(packets) == 1:
        packet, complete = packets[0]
        for codec in _CODECS:
            if complete and packet.startswith(codec.first) and len(packet) >= codec.shortest:
                rate, granule = codec.clock(packet)
                if rate:
                    return _Stream(page.serial, codec, rate, granule, bytearray(page.data))
    raise FormatError("an Ogg stream that is neither Vorbis, Opus nor FLAC: one audio stream is wanted")


def _gather(stream: _Stream, page: _Page) -> None:
    """Add a header page; with the last one the stream has its head."""
    stream.pages += page.data
    if len(stream.pages) > PENDING_BYTES:
        raise FormatError(f"Ogg headers of more than {PENDING_BYTES} bytes: send a smaller cover, or none")
    if bool(page.flags & _CONTINUED) == stream.complete:
        raise FormatError("Ogg headers that are not whole")
    for part, complete in page.segments():
        if stream.complete:
            stream.packets += 1
            stream.packet.clear()
        stream.packet += part
        stream.complete = complete
        if complete and _is_last(stream):
            # Sound begins on a page of its own (Vorbis I §A.2, RFC 7845 §3): what else is here is no packet.
            stream.head = bytes(stream.pages)
            stream.pages.clear()
            stream.packet.clear()
            return


def _is_last(stream: _Stream) -> bool:
    """Whether the newest header packet, which is whole, is the last one. The title is in one of them."""
    packet = stream.packet
    others = stream.codec.others
    if others:
        mark = others[stream.packets - 1]
        whole = packet.startswith(mark)
        comments = packet[len(mark) :] if stream.packets == 1 else None
        last = stream.packets == len(others)
    else:
        # A FLAC metadata block: its type, with the highest bit set in the last one, and 3 bytes of length.
        whole = len(packet) >= 4 and 0 < packet[0] & 0x7F < 0x7F
        comments = packet[4:] if whole and packet[0] & 0x7F == _FLAC_COMMENTS else None
        last = whole and bool(packet[0] & 0x80)
    if not whole:
        raise FormatError("Ogg headers that are not whole")
    if comments is not None:
        stream.title = _title(bytes(comments))
    return last


def _sound(stream: _Stream, page: _Page) -> Piece:
    """A page that is heard."""
    seconds = 0.0
    if page.granule != _NO_GRANULE:
        seconds = (page.granule - stream.granule) / stream.rate
        stream.granule = page.granule
        if not 0 <= seconds <= LONGEST_SECONDS:
            seconds = 0.0
    head = None if page.flags & (_CONTINUED | _LAST) else stream.head
    title, stream.title = stream.title, None
    return Piece(page.data, seconds, head, title)


def _crc(data: bytes) -> int:
    """The CRC of a page, in whose place it has zeros (RFC 3533 §6)."""
    blank = data[:22] + bytes(4) + data[26:]
    crc = ~zlib.crc32(blank.translate(_REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(_REVERSED), "big")


def _title(comments: bytes) -> str | None:
    """ARTIST - TITLE, or TITLE, of Vorbis comments; None: there is no title. What is cut off is not read.

    Several artists are joined; what is not UTF-8 is replaced, and control characters are spaces.
    """
    fields: dict[bytes, list[str]] = {b"ARTIST": [], b"TITLE": []}
    position = 4 + int.from_bytes(comments[:4], "little")  # behind the vendor
    count = int.from_bytes(comments[position : position + 4], "little")
    position += 4
    while count and position + 4 <= len(comments):
        start = position + 4
        position = start + int.from_bytes(comments[position:start], "little")
        name, found, _ = comments[start : min(position, start + 8)].partition(b"=")
        if found and name.upper() in fields and position <= len(comments):
            start += len(name) + 1
            # A character has at most four bytes; a comment may have a mebibyte.
            text = comments[start : min(position, start + 4 * TITLE_CHARACTERS)].decode(errors="replace")
            fields[name.upper()].append("".join(c if c.isprintable() else " " for c in text).strip())
        count -= 1
    artist = ", ".join(filter(None, fields[b"ARTIST"]))
    title = " ".join(filter(None, fields[b"TITLE"]))
    if not title:
        return None
    return (f"{artist} - {title}" if artist else title)[:TITLE_CHARACTERS]
