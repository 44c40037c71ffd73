"""The lines of a file that grows: whole, each with an id, as bytes of each format. Pure.

An id is where in the file a line ends, as a number of bytes, and a *mark*: a sum over the inode and the last
bytes up to there. So by the file alone it is seen whether it still has what a client who comes back has seen,
also when the server has been started anew.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from media.decoding import code_point_end, is_utf8, utf8
from media.records import ndjson_event, sse_event, sse_line
from media.source import RUN_BYTES, BadParameter
from media.text import LINE_BYTES
from media.values import to_json

MARK_BYTES = 64
"""So many bytes before an id's place are in its mark, or as many as there are."""

RUN_LINES = 1024
"""The most lines of a run, for what each line gets around it."""

UTF_8 = "utf-8"

_MARK = b"\xef\xbb\xbf"
_ID = re.compile(r"([0-9]{1,18})(?:-([0-9a-f]{8}))?")
_STATEFUL = re.compile(r"iso2022|hz")


@dataclass(frozen=True, slots=True)
class Run:
    """Some whole lines of a file, or what there is of a last one behind which nothing will come.

    Args:
        start: how many bytes of the file come before them.
        before: the last MARK_BYTES of these, or all.
        inode: of the file.
    """

    data: bytes
    start: int
    before: bytes
    inode: int

    @property
    def stop(self) -> int:
        """Where in the file they end."""
        return self.start + len(self.data)

    def behind(self, position: int) -> "Run":
        """What of it comes behind a position within it."""
        cut = position - self.start
        return Run(self.data[cut:], position, last_bytes(self.before, self.data[:cut]), self.inode)

    def has(self, position: int, mark: str) -> bool:
        """Whether it has this place, and that has this mark."""
        if not self.start <= position <= self.stop:
            return False
        return mark_of(self.behind(position).before, self.inode) == mark


@dataclass(frozen=True, slots=True)
class Rotated:
    """That what was followed is over, and goes on elsewhere.

    Args:
        cause: `replaced`, another file has the name; `truncated`, the file was begun anew or cut; `unknown`:
            the file is not the one that a client who comes back has seen.
        id: where the client goes on.
        last_event_id: what it came back with; None: it had not left.
        unfinished: the last line had no end.
    """

    cause: str
    id: str
    last_event_id: str | None = None
    unfinished: bool = False


class Splitter:
    """Whole lines of bytes as they come, in runs of at most RUN_BYTES and RUN_LINES, or of one line.

    A line longer than LINE_BYTES is cut, at a code point.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The runs that `data` makes whole."""
        cut = data.rfind(b"\n") + 1
        self._rest += data[:cut]
        runs: list[bytes] = []
        if cut:
            whole, self._rest = bytes(self._rest), bytearray()
            start = 0
            while start < len(whole):
                stop = _run_end(whole, start)
                runs.append(whole[start:stop])
                start = stop
        self._rest += data[cut:]
        while len(self._rest) > LINE_BYTES:
            stop = code_point_end(bytes(self._rest[:LINE_BYTES]))
            runs.append(bytes(self._rest[:stop]))
            del self._rest[:stop]
        return runs

    def flush(self) -> bytes:
        """What has come of a line without its end, which is not kept any longer."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest


def _run_end(whole: bytes, start: int) -> int:
    stop = len(whole)
    if stop - start > RUN_BYTES:
        most = start + RUN_BYTES
        stop = whole.rfind(b"\n", start, most) + 1 or whole.index(b"\n", most) + 1
        if stop - start > LINE_BYTES:
            return start + code_point_end(whole[start : start + LINE_BYTES])
    if whole.count(b"\n", start, stop) > RUN_LINES:
        stop -= len(whole[start:stop].split(b"\n", RUN_LINES)[-1])
    return stop


def last_bytes(before: bytes, data: bytes) -> bytes:
    """Those that a mark is of, behind both."""
    return (before + data)[-MARK_BYTES:] if len(data) < MARK_BYTES else data[-MARK_BYTES:]


def mark_of(before: bytes, inode: int) -> str:
    """The mark of a place, given `last_bytes` there."""
    return f"{zlib.crc32(before, inode & 0xFFFFFFFF):08x}"


def id_of(position: int, before: bytes, inode: int) -> str:
    """The id of a place."""
    return f"{position}-{mark_of(before, inode)}"


def read_id(last_event_id: str) -> tuple[int, str]:
    """The position and the mark of an id; a plain number has none.

    Raises:
        BadParameter: it is neither.
    """
    found = _ID.fullmatch(last_event_id) if last_event_id.isascii() else None
    if found is None:
        raise BadParameter("last_event_id must be an id that this file gave, or a number of bytes")
    return int(found[1]), found[2] or ""


def check_followable(encoding: str) -> None:
    """See that a line of this encoding can be read by itself.

    Raises:
        BadParameter: its line ends are not those of ASCII, or what a line means depends on those before it.
    """
    if "a\n".encode(encoding, "replace") != b"a\n" or _STATEFUL.match(encoding):
        raise BadParameter(f"follow must be left out: the lines of a file in {encoding} cannot be followed")


def encoded(run: Run, form: str, encoding: str = UTF_8) -> bytes:
    """A run in one of FOLLOWED_FORMATS; `encoding` is the file's."""
    return _ENCODE[form](run, encoding)


def said(rotated: Rotated, form: str) -> bytes:
    """A rotation in one of FOLLOWED_FORMATS; in text nothing, but the end of a line that had none."""
    if form == "text":
        return b"\n" if rotated.unfinished else b""
    facts = {"cause": rotated.cause}
    if rotated.last_event_id is not None:
        facts["last_event_id"] = rotated.last_event_id
    if form == "sse":
        return sse_event(to_json(facts), rotated.id, "rotated")
    return ndjson_event(to_json(facts), rotated.id, "rotated")


def _text(run: Run, encoding: str) -> bytes:
    return _in_utf8(run.data, encoding)


def _sse(run: Run, encoding: str) -> bytes:
    return b"".join([sse_line(line, id_) for line, id_ in _with_ids(run, encoding)])


def _ndjson(run: Run, encoding: str) -> bytes:
    lines = []
    for line, id_ in _with_ids(run, encoding):
        text = line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")
        lines.append(b'{"id":"%b","event":"message","data":%b}\n' % (id_, to_json(text.decode())))
    return b"".join(lines)


_ENCODE: dict[str, Callable[[Run, str], bytes]] = {"text": _text, "sse": _sse, "ndjson": _ndjson}
FOLLOWED_FORMATS = tuple(_ENCODE)


def _with_ids(run: Run, encoding: str) -> Iterator[tuple[bytes, bytes]]:
    """Each line in UTF-8, with its end, and its id. A byte-order mark is no part of the first line."""
    whole = run.before + run.data
    clean = encoding == UTF_8 and is_utf8(run.data)
    start, offset, seed = len(run.before), run.start - len(run.before), run.inode & 0xFFFFFFFF
    while start < len(whole):
        stop = whole.find(b"\n", start) + 1 or len(whole)
        line = whole[start:stop]
        if start + offset == 0:
            line = line.removeprefix(_MARK)
        mark = zlib.crc32(whole[max(0, stop - MARK_BYTES) : stop], seed)
        yield line if clean else _in_utf8(line, encoding), b"%d-%08x" % (offset + stop, mark)
        start = stop


def _in_utf8(data: bytes, encoding: str) -> bytes:
    if encoding == UTF_8 and is_utf8(data):
        return data
    return utf8(data.decode(encoding, "replace"))
