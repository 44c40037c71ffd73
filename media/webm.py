"""A WebM stream in blocks: Opus or Vorbis alone, as ffmpeg and MediaRecorder send it (RFC 8794, RFC 9559).

What goes on: EBML header, Segment, Info and Tracks together as the first piece, which is also the head of
those who come later; then the Clusters, each in as many pieces as it has blocks. One may begin at any block:
in the middle of a Cluster the head ends with the beginning of a Cluster of unknown size and the same time.
So nobody waits for the next Cluster, which ffmpeg begins after five seconds unless it is told.

What does not go on, because the offsets in it would be wrong for those who come later: SeekHead, Cues, and
whatever else lies outside of Clusters. A Segment's size is made unknown for the same reason.
"""

from collections.abc import Iterator

from media.pieces import PENDING_BYTES, FormatError, PendingParser, Piece

LONGEST_SECONDS = 60
"""A block whose time is further from the one before, or behind it, is a jump in time: it plays 0 s."""

_MAGIC = bytes.fromhex("1A45DFA3")
_EBML, _DOC_TYPE = 0x1A45DFA3, 0x4282
_SEGMENT, _INFO, _TRACKS, _CLUSTER = 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
_TIMESTAMP_SCALE, _TIMESTAMP = 0x2AD7B1, 0xE7
_TRACK, _TRACK_TYPE, _CODEC = 0xAE, 0x83, 0x86
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xA3, 0xA0, 0xA1
# These, and what is directly in a Segment, have IDs of four bytes; what is in a Cluster has shorter ones.
_TOP_LEVEL = 0x10000000

_AUDIO = 2
_CODECS = b"A_OPUS", b"A_VORBIS"
_UNKNOWN = bytes.fromhex("01FFFFFFFFFFFFFF")
_NANOSECONDS = 1e9
_WANTED = "a WebM stream with one audio track, Opus or Vorbis, is wanted"


class WebmParser(PendingParser):
    """What a source sends as `audio/webm`, in blocks. Keeps the head and one block, each at most 1 MiB.

    A block plays as long as it is after the one before: the first one plays 0 s. A mistake is what is no
    WebM, has not exactly one track, of a codec of these two; an element or a head of more than PENDING_BYTES.
    """

    def __init__(self) -> None:
        super().__init__()
        self._skip = 0  # bytes of an element that does not go on
        self._head = b""  # EBML header, Segment, Info and Tracks, as far as they have come
        self._seen: set[int] = set()  # what has been passed on; with a Cluster in it the head is whole
        self._scale = 1_000_000  # nanoseconds of a tick
        self._left: int | None = 0  # bytes of the Cluster that are still to come; None: it does not say
        self._opening = b""  # the Cluster up to its first block
        self._timestamp: int | None = None  # of the Cluster, in ticks
        self._tick: int | None = None  # of the block before
        self._resumed = b""  # the head of those who begin in the middle of the Cluster

    def _pieces(self) -> Iterator[Piece]:
        pending = self._pending
        if not self._head and not pending.startswith(_MAGIC[: len(pending)]):
            raise FormatError(f"no WebM: it does not begin with an EBML header; {_WANTED}")
        while header := self._header():
            name, size, start = header
            # A Cluster of unknown size ends with the next element that cannot be in it (RFC 8794 §6.2).
            inside = name < _TOP_LEVEL if self._left is None else self._left > 0
            if not inside:
                self._left = 0
            if not inside and not self._goes_on(name):
                self._skip = start + _known(size)
                continue
            stop = start if not inside and name in (_SEGMENT, _CLUSTER) else start + _known(size)
            if inside and self._left is not None and (stop > self._left or name >= _TOP_LEVEL):
                raise FormatError("a WebM element that does not fit into its Cluster")
            if stop > PENDING_BYTES:
                raise FormatError(f"a WebM element of more than {PENDING_BYTES} bytes")
            if len(pending) < stop:
                return
            data = bytes(pending[:stop])
            del pending[:stop]
            if inside:
                yield from self._in_cluster(name, data, start)
            elif name == _CLUSTER:
                yield from self._cluster(data, size)
            else:
                self._gather(name, data, start)
            if not inside:
                self._seen.add(name)

    def _header(self) -> tuple[int, int | None, int] | None:
        """ID, size and length of the header that is next; None: more has to come."""
        skipped = min(self._skip, len(self._pending))
        del self._pending[:skipped]
        self._skip -= skipped
        return None if self._skip else _header(self._pending, 0)

    def _goes_on(self, name: int) -> bool:
        """Whether an element outside of Clusters is passed on."""
        if name in (_EBML, _SEGMENT) and name in self._seen:
            raise FormatError(f"a second WebM stream behind the first: {_WANTED}")
        if name == _CLUSTER and not {_SEGMENT, _TRACKS} <= self._seen:
            raise FormatError(f"a WebM Cluster before the Tracks: {_WANTED}")
        first = not self._seen & {name, _CLUSTER}
        return name in (_EBML, _SEGMENT, _CLUSTER) or (name in (_INFO, _TRACKS) and first)

    def _gather(self, name: int, data: bytes, start: int) -> None:
        """Add an element to the head."""
        if name == _SEGMENT:
            data = data[:4] + _UNKNOWN
        elif name == _EBML:
            if dict(_children(data, start)).get(_DOC_TYPE, b"").rstrip(b"\0") != b"webm":
                raise FormatError(f"Matroska, but no WebM: {_WANTED}")
        elif name == _TRACKS:
            _check(data, start)
        else:
            scale = dict(_children(data, start)).get(_TIMESTAMP_SCALE)
            self._scale = _integer(scale) if scale else self._scale
        self._head += data
        if len(self._head) > PENDING_BYTES:
            raise FormatError(f"WebM headers of more than {PENDING_BYTES} bytes")

    def _cluster(self, data: bytes, size: int | None) -> Iterator[Piece]:
        if _CLUSTER not in self._seen:
            yield Piece(self._head, 0, None)
        if self._opening:  # of a Cluster without a block
            yield Piece(self._opening, 0, None)
        self._opening, self._left, self._timestamp = data, size, None

    def _in_cluster(self, name: int, data: bytes, start: int) -> Iterator[Piece]:
        """An element of a Cluster. The first block goes with all that stands before it."""
        if self._left is not None:
            self._left -= len(data)
        if name in (_SIMPLE_BLOCK, _BLOCK_GROUP):
            seconds = self._seconds(name, data, start)
            yield Piece(self._opening + data, seconds, self._head if self._opening else self._resumed)
            self._opening = b""
            return
        if name == _TIMESTAMP:
            self._timestamp = _integer(data[start:])
            self._resumed = self._head + _CLUSTER.to_bytes(4, "big") + _UNKNOWN + data
        if not self._opening:
            yield Piece(data, 0, None)
        elif len(self._opening) + len(data) > PENDING_BYTES:
            raise FormatError(f"a WebM Cluster with no block in {PENDING_BYTES} bytes")
        else:
            self._opening += data

    def _seconds(self, name: int, data: bytes, start: int) -> float:
        """How long after the block before this one is."""
        block = data[start:] if name == _SIMPLE_BLOCK else dict(_children(data, start)).get(_BLOCK, b"")
        # The track's number, 16 bits of time since the Cluster's, flags.
        begin = 9 - block[0].bit_length() if block else 0
        if self._timestamp is None or len(block) < begin + 3:
            raise FormatError("a WebM block without a time")
        tick = self._timestamp + int.from_bytes(block[begin : begin + 2], "big", signed=True)
        before, self._tick = self._tick, tick
        seconds = 0.0 if before is None else (tick - before) * self._scale / _NANOSECONDS
        return seconds if 0 < seconds <= LONGEST_SECONDS else 0.0


def _header(data: bytes | bytearray, position: int) -> tuple[int, int | None, int] | None:
    """ID and size (None: unknown) of the element there, and where its content begins; None: it is cut off."""
    if position >= len(data):
        return None
    middle = position + 9 - data[position].bit_length()
    if middle - position > 4:
        raise FormatError("no WebM: an element's ID has at most four bytes")
    if middle >= len(data):
        return None
    start = middle + 9 - data[middle].bit_length()
    if start - middle > 8:
        raise FormatError("no WebM: an element's size has at most eight bytes")
    if start > len(data):
        return None
    unknown = (1 << 7 * (start - middle)) - 1
    size = int.from_bytes(data[middle:start], "big") & unknown
    return int.from_bytes(data[position:middle], "big"), None if size == unknown else size, start


def _known(size: int | None) -> int:
    if size is None:
        raise FormatError("a WebM element of unknown size that is neither Segment nor Cluster")
    return size


def _integer(content: bytes) -> int:
    if len(content) > 8:
        raise FormatError("a WebM integer of more than eight bytes")
    return int.from_bytes(content, "big")


def _children(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The elements within one that is whole: ID and content."""
    while start < len(data):
        header = _header(data, start)
        if header is None or header[2] + _known(header[1]) > len(data):
            raise FormatError("a WebM element that is longer than what it is in")
        name, size, begin = header
        start = begin + _known(size)
        yield name, data[begin:start]


def _check(tracks: bytes, start: int) -> None:
    """Refuse whatever is not one audio track of a codec that WebM has."""
    entries = [dict(_children(entry, 0)) for name, entry in _children(tracks, start) if name == _TRACK]
    kinds = [_integer(entry.get(_TRACK_TYPE, b"")) for entry in entries]
    if kinds != [_AUDIO]:
        raise FormatError(f"WebM with {len(kinds)} tracks, or with video: {_WANTED}")
    if entries[0].get(_CODEC, b"").rstrip(b"\0") not in _CODECS:
        raise FormatError(f"WebM with another codec: {_WANTED}")
