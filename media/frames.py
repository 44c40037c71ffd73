"""Streams of frames, MP3 and AAC in ADTS, in pieces; and which parser a media type has.

A stream of frames has no beginning: each frame starts with a header that says how long it is.
What looks like a header is common in anything else, so the first frame counts only when another header of its
kind stands where it ends. From there on we are in sync: a header of the same kind at the place where it is
expected counts by itself, and its frame is out with its last byte. Anything else at that place is looked at
as at the beginning: a tag is passed over, a frame of another kind (the source changed its track) waits for
the header behind it, and in garbage the next frame is searched.

A listener may begin at any frame. Most MP3 frames draw on the data of up to 511 bytes in frames before them
(the bit reservoir): 230 in 232 of a track of 128 kbit/s. So the head of such a frame is those before it, with
nothing in them but these data: they play as silence, and the frame itself as it was meant. Without them
FFmpeg plays up to four frames of silence, and now and then complains.

Measured: 1.4 to 2.5 µs a frame in chunks of 1400 bytes and more, 0.01 % of a core for 320 kbit/s.
"""

import re
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from media.ogg import OggParser
from media.pieces import FormatError, Parser, Piece
from media.webm import WebmParser

GARBAGE_BYTES = 64 * 1024
"""Of MP3 and ADTS: the most between two frames that is neither a frame nor a tag."""


def parser(media_type: str) -> Parser:
    """A new parser for this media type; its parameters and its case do not matter.

    Raises:
        ValueError: there is none; the text names those that there are.
    """
    make = PARSERS.get(media_type.partition(";")[0].strip().lower())
    if make is None:
        raise ValueError(f"{media_type!r} is none of {', '.join(PARSERS)}")
    return make()


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header of a frame says.

    Args:
        kind: the same in all frames of a track.
        length: of the frame, in bytes, with its header.
        seconds: how long it plays.
        note: where encoders write about the file (Xing, Info), in a frame without sound; 0: nowhere.
    """

    kind: int
    length: int
    seconds: float
    note: int = 0


@dataclass(frozen=True, slots=True)
class _Format:
    """How the frames of a format are found.

    Args:
        name: for the client.
        start: what a frame begins with, or a tag, or another format.
        size: of a header, in bytes.
        header: what these bytes say; None if they are no header.
    """

    name: str
    start: re.Pattern[bytes]
    size: int
    header: Callable[[bytes], _Header | None]


class _FrameParser:
    """A piece for each frame. Keeps a frame and the header behind it at most, 8.2 KB.

    What is wrong behind whole frames is raised by the next call, so that these are not lost.
    """

    def __init__(self, form: _Format) -> None:
        self._form = form
        self._rest = b""
        self._kind: int | None = None  # of the frames before; None: not in sync
        self._before = b""  # the frame that ends here, if one does
        self._skip = 0  # bytes of a tag that are still to come
        self._garbage = 0  # bytes since the last frame, without tags
        self._reservoir = _Reservoir()
        self._wrong: FormatError | None = None

    def feed(self, data: bytes) -> list[Piece]:
        if self._wrong:
            raise self._wrong
        buffer = self._rest + data
        pieces: list[Piece] = []
        at, stop = -1, 0
        try:
            while stop > at:
                at = stop
                stop, piece = self._next(buffer, at)
                if piece:
                    pieces.append(piece)
        except FormatError as error:
            self._wrong = error
            at = len(buffer)
            if not pieces:
                raise
        self._rest = buffer[at:]
        return pieces

    def _next(self, buffer: bytes, at: int) -> tuple[int, Piece | None]:
        """The end of what begins at `at`, and the frame if it is one; `at` itself while more has to come."""
        if self._skip:
            taken = min(self._skip, len(buffer) - at)
            self._skip -= taken
            return at + taken, None
        match = self._form.start.search(buffer, at)
        found = match.start() if match else max(at, len(buffer) - _START_BYTES + 1)
        if found > at:
            return self._pass_over(buffer, at, found)
        if match is None:
            return at, None
        if buffer[at] == 0xFF:
            return self._frame(buffer, at)
        if other := _OTHERS.get(match[0]):
            raise FormatError(f"this is {other}, not {self._form.name}")
        return self._tag(buffer, at)

    def _frame(self, buffer: bytes, at: int) -> tuple[int, Piece | None]:
        form = self._form
        if len(buffer) < at + form.size:
            return at, None
        header = form.header(buffer[at : at + form.size])
        if header is None:
            return self._pass_over(buffer, at, at + 1)
        stop = at + header.length
        if header.kind != self._kind:
            if len(buffer) < stop + form.size:
                return at, None
            behind = form.header(buffer[stop : stop + form.size])
            if behind is None or behind.kind != header.kind:
                return self._pass_over(buffer, at, at + 1)
            self._kind = header.kind
            self._reservoir = _Reservoir()
        if len(buffer) < stop:
            return at, None
        self._garbage = 0
        self._before = frame = buffer[at:stop]
        if header.note and _is_note(frame, header.note):
            return stop, None
        return stop, Piece(
            frame, header.seconds, self._reservoir.head(frame, header.note) if header.note else b""
        )

    def _tag(self, buffer: bytes, at: int) -> tuple[int, Piece | None]:
        """A tag's length stands in its header; what looks like a tag and is none is garbage.

        ID3v1 has no length and needs none: it is 128 bytes of garbage.
        """
        size = _ID3_BYTES if buffer.startswith(b"ID3", at) else _APE.size
        if len(buffer) < at + size:
            return at, None
        length = _id3_length(buffer, at) if size == _ID3_BYTES else _ape_length(buffer, at)
        if length is None:
            return self._pass_over(buffer, at, at + 1)
        self._skip = length
        self._before = b""
        return at + size, None

    def _pass_over(self, buffer: bytes, at: int, stop: int) -> tuple[int, None]:
        """Garbage from `at` to `stop`; or a tag from a frame on that it cut short.

        Such a frame ends a file that was not whole, and the next file's tag, with a cover, is no garbage.
        """
        if self._before:
            if len(buffer) < at + _ID3_BYTES:
                return at, None
            end = _id3_end(self._before + buffer[at : at + _ID3_BYTES]) - len(self._before) - _ID3_BYTES
            self._before = b""
            if end >= 0:
                self._skip = end
                return at + _ID3_BYTES, None
        self._kind = None
        self._garbage += stop - at
        if self._garbage > GARBAGE_BYTES:
            text = f"{GARBAGE_BYTES} bytes without {self._form.name}; announce what is sent, one of "
            raise FormatError(text + ", ".join(PARSERS))
        return stop, None


# --- tags ---

_ID3_BYTES = 10
_APE = struct.Struct("<8s4I")
_APE_IS_HEADER = 1 << 29
_OTHERS = {b"OggS": "Ogg (audio/ogg)", b"\x1aE\xdf\xa3": "WebM (audio/webm)"}
_STARTS = b"|ID3|APETAGEX|OggS|\x1aE\xdf\xa3"
_START_BYTES = len(b"APETAGEX")  # the longest


def _id3_length(buffer: bytes, at: int) -> int | None:
    """The bytes behind the header (ID3v2.4 §3.1), its footer among them; sizes have 7 bits a byte."""
    version, revision, flags, *size = buffer[at + 3 : at + _ID3_BYTES]
    if not 2 <= version <= 4 or revision == 0xFF or flags & 0x0F or max(size) > 0x7F:
        return None
    a, b, c, d = size
    return (a << 21 | b << 14 | c << 7 | d) + (_ID3_BYTES if flags & 0x10 else 0)


def _id3_end(data: bytes) -> int:
    """Where the first tag that begins in this ends, maybe behind it; 0 without one."""
    for match in re.finditer(b"ID3", data[: 3 - _ID3_BYTES]):
        length = _id3_length(data, match.start())
        if length is not None:
            return match.start() + _ID3_BYTES + length
    return 0


def _ape_length(buffer: bytes, at: int) -> int | None:
    """The bytes behind the header; of a footer none, what belongs to it has been passed over."""
    _, version, length, _, flags = _APE.unpack_from(buffer, at)
    if version not in (1000, 2000):
        return None
    return length if flags & _APE_IS_HEADER else 0


# --- MPEG audio: ISO 11172-3 §2.4.2.3, ISO 13818-3, and MPEG 2.5, which has no standard ---

# kbit/s by version and layer as the header has them: version 3 is MPEG-1, 2 MPEG-2, 0 MPEG-2.5; layer 3 is I,
# 1 is III. From index 1: index 0 is free format, whose headers do not say how long a frame is.
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_BITRATES = {
    (3, 3): tuple(range(32, 449, 32)),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): _LOW,
    (2, 1): _LOW,
}
_BITRATES |= {(0, layer): _BITRATES[2, layer] for layer in (1, 2, 3)}
_RATES = {
    version: tuple(rate >> shift for rate in (44100, 48000, 32000))
    for version, shift in ((3, 0), (2, 1), (0, 2))
}


@lru_cache(maxsize=256)  # a track has some ten different ones
def _mpeg(header: bytes) -> _Header | None:
    _, b, c, d = header
    version, layer, bitrate, rate = b >> 3 & 3, b >> 1 & 3, c >> 4, c >> 2 & 3
    if version == 1 or layer == 0 or bitrate in (0, 15) or rate == 3 or d & 3 == 2:
        return None  # reserved, or free format
    hertz = _RATES[version][rate]
    bits = _BITRATES[version, layer][bitrate - 1] * 1000
    samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
    slot = 4 if layer == 3 else 1
    length = (samples // 8 // slot * bits // hertz + (c >> 1 & 1)) * slot
    mono = d >> 6 == 3
    note = 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17)) if layer == 1 else 0
    return _Header(b << 2 & 0x78 | rate, length, samples / hertz, note)


class _Reservoir:
    """The frames of layer III that the next one may draw on (ISO 11172-3 §2.4.1.7, main_data_begin)."""

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, int]] = deque()
        self._size = 0

    def head(self, frame: bytes, main_data: int) -> bytes:
        """What a listener who begins at `frame` gets in front of it.

        Args:
            main_data: where its data begin, if it has no CRC: behind the side information.
        """
        side = 4 if frame[1] & 1 else 6
        back = frame[side] << 1 | frame[side + 1] >> 7 if frame[1] & _MPEG_1 else frame[side]
        drawn: list[tuple[bytes, int]] = []
        for before in reversed(self._frames):
            if back <= 0:
                break
            back -= before[1]
            drawn.insert(0, before)
        size = max(0, len(frame) - main_data)
        self._frames.append((frame, size))
        self._size += size
        while self._size - self._frames[0][1] >= _RESERVOIR_BYTES or len(self._frames) > _RESERVOIR_FRAMES:
            self._size -= self._frames.popleft()[1]
        return _silent(drawn, main_data)


def _silent(frames: list[tuple[bytes, int]], main_data: int) -> bytes:
    """These frames with nothing to play, whose data are kept for the next: where one's begin, all begin.

    Side information of zeros is silence that takes no data. No CRC: it would have to be another.
    """
    silent = []
    kept = 0
    for frame, size in frames:
        begin = bytes((kept >> 1, (kept & 1) << 7)) if frame[1] & _MPEG_1 else bytes((kept, 0))
        side = begin + bytes(main_data - 6)
        silent.append((bytes((0xFF, frame[1] | 1)) + frame[2:4] + side + frame[main_data:])[: len(frame)])
        kept += size
    return b"".join(silent)


_MPEG_1 = 8  # of the second byte: MPEG-2 and 2.5 are other ones
_RESERVOIR_BYTES = 511
_RESERVOIR_FRAMES = 32  # of 8 kbit/s 511 bytes are more, and not worth the silence


def _is_note(frame: bytes, note: int) -> bool:
    """Xing and Info stand behind the side information, as if there were no CRC; VBRI at one place."""
    return frame[note : note + 4] in (b"Xing", b"Info") or frame[36:40] == b"VBRI"


# --- AAC in ADTS: ISO 14496-3 §1.A.3.2 ---

_ADTS_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


def _adts(header: bytes) -> _Header | None:
    """HE-AAC states the rate of its core: 1024 samples of it last as long as the 2048 at twice the rate."""
    _, b, c, d, e, f, g = header
    rate = c >> 2 & 0x0F
    length = (d & 3) << 11 | e << 3 | f >> 5
    if rate >= len(_ADTS_RATES) or length <= (7 if b & 1 else 9):
        return None
    # The fixed header: version, CRC, profile, rate, channels.
    return _Header(b << 16 | (c & 0xFD) << 8 | d & 0xC0, length, 1024 * ((g & 3) + 1) / _ADTS_RATES[rate])


_MPEG = _Format("MP3 of a stated bitrate (audio/mpeg)", re.compile(b"\xff[\xe0-\xff]" + _STARTS), 4, _mpeg)
_ADTS = _Format("AAC in ADTS (audio/aac)", re.compile(b"\xff[\xf0\xf1\xf8\xf9]" + _STARTS), 7, _adts)


PARSERS: dict[str, Callable[[], Parser]] = {
    "audio/mpeg": partial(_FrameParser, _MPEG),
    "audio/aac": partial(_FrameParser, _ADTS),
    "audio/aacp": partial(_FrameParser, _ADTS),
    "audio/ogg": OggParser,
    "application/ogg": OggParser,
    "audio/webm": WebmParser,
}
"""Media type → a new parser."""
