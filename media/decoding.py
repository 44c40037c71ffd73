"""Any encoding into UTF-8, cut at code points.

What a text is encoded in is found in this order: byte-order mark, UTF-8 if it decodes, detection.
What cannot be decoded becomes U+FFFD and never breaks a stream.
Decoding a file chunk by chunk without state damages the characters at every cut
(17 of 17 chunks of a Japanese text at 64 KiB); the incremental decoder costs 2.8 ms a MiB.
"""

import asyncio
import codecs
import encodings
import encodings.aliases
import functools
import os
import pkgutil
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass

from media.source import BadParameter, ByteChunks, SourceBroken

SNIFF_BYTES = 4096
"""How much of a file's beginning decides whether it is text at all."""

WHOLE_CHECK_BYTES = 64 * 1024 * 1024
"""Files up to this size are checked for UTF-8 whole; of longer ones, windows spread over the file."""

DETECTION_BYTES = 128 * 1024
"""How much is shown to the detection of a legacy encoding."""

CONTINUATIONS = bytes(range(0x80, 0xC0))
"""The bytes that go on with a code point of UTF-8 and never begin one."""

_MARKS = (  # the longer first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = [bytes([code]) for code in range(1, 32) if code not in b"\t\n\v\f\r\x1b"]
_WINDOW = 1024 * 1024
_WINDOWS = 32
_CACHE_SIZE = 4096

_File = tuple[int, int, int, int]  # st_dev, st_ino, st_size, st_mtime_ns

# Code pages that differ from Windows-1252 in a few letters of the Latin script.
_LATIN = {"cp1250", "cp1257", "cp1258"}
_LATIN |= {f"iso8859_{part}" for part in (2, 3, 4, 10, 13, 14, 15, 16)}

# Older than the web's files are; they were found in German texts. A client may still name them.
_EXTINCT = ["hp_roman8", "mac_croatian", "mac_greek", "mac_iceland", "mac_latin2", "mac_roman", "mac_turkish"]

# Codecs that Python calls text encodings but that no text file is written in. Punycode is quadratic, and so
# is UTF-7 within a run of Base64: 64 MB of it held the loop for 25 s.
_NOT_FOR_FILES = {
    "idna", "punycode", "utf_7", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a file is encoded in. `clean`: it is UTF-8 throughout and can be sent byte for byte."""

    name: str
    clean: bool


def looks_like_text(head: bytes) -> bool:
    """Whether a file that begins with these bytes is text: no NUL unless a mark says UTF-16 or UTF-32,
    and hardly any other control characters."""
    if any(head.startswith(mark) for mark, _ in _MARKS):
        return True
    controls = sum(head.count(byte) for byte in _CONTROLS)
    return b"\0" not in head and controls * 100 <= len(head)


def encoding_named(name: str) -> str:
    """Python's name of the encoding that a client names.

    Raises:
        BadParameter: it is unknown, or no encoding of text.
    """
    # Only names from a closed set reach codecs.lookup: it imports modules and remembers every miss.
    key = encodings.normalize_encoding(name).lower() if name.isascii() and len(name) <= 64 else ""
    key = encodings.aliases.aliases.get(key, key)
    if key not in _known_encodings():
        raise BadParameter(f'encoding must be the name of a text encoding, such as cp949, not "{name[:40]}"')
    return codecs.lookup(key).name


class EncodingCache:
    """The encodings of files by device, inode, length and mtime, so that each is examined once.

    Bounded: the one used longest ago is forgotten first.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[_File, Encoding | None] = OrderedDict()
        self._examining: dict[_File, asyncio.Future[Encoding | None]] = {}

    async def encoding_of(self, descriptor: int) -> Encoding | None:
        """The encoding of an open file, or None if it is not text. Examines it in a thread the first time.

        Who asks while it is being examined waits for the same thread. One who is cancelled does not stop it.

        Raises:
            SourceBroken: the file cannot be read.
        """
        try:
            facts = os.fstat(descriptor)
            key = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
            return await asyncio.shield(self._examining.get(key) or self._examine(key, descriptor))
        except OSError as error:
            raise SourceBroken("finding out the encoding of a file failed") from error

    def _examine(self, key: _File, descriptor: int) -> "asyncio.Future[Encoding | None]":
        def examined(future: "asyncio.Future[Encoding | None]") -> None:
            del self._examining[key]
            if future.exception() is None:  # also asked where nobody waits any more: it is not unheard of
                self._found[key] = future.result()
                if len(self._found) > _CACHE_SIZE:
                    self._found.popitem(last=False)

        # A descriptor of its own: the caller may be cancelled and close his under the thread.
        # An executor's future, not a task: nobody cancels it, so the thread always runs and closes its own.
        own = os.dup(descriptor)
        length = key[2]
        future = asyncio.get_running_loop().run_in_executor(None, _detect_and_close, own, length)
        self._examining[key] = future
        future.add_done_callback(examined)
        return future


def detect(descriptor: int, length: int) -> Encoding | None:
    """The encoding of an open file, or None if it is not text. Blocking: reads the file."""
    head = os.pread(descriptor, SNIFF_BYTES, 0)
    if not looks_like_text(head):
        return None
    for mark, name in _MARKS:
        if head.startswith(mark) and name != "utf-8":
            return Encoding(name, clean=False)
    damage = _first_damage(descriptor, length)
    if damage is None:
        return Encoding("utf-8", clean=True)
    sample = _sample(descriptor, damage)
    if head.startswith(codecs.BOM_UTF8) or _mostly_utf8(sample):
        return Encoding("utf-8", clean=False)
    return Encoding(codecs.lookup(_most_likely(sample)).name, clean=False)


async def to_utf8(raw: ByteChunks, encoding: str) -> ByteChunks:
    """The same text in UTF-8. No chunk ends inside a code point; a byte-order mark is dropped.

    UTF-16 and UTF-32 without a mark are little-endian (as the WHATWG Encoding Standard reads them).
    """
    decoder = _Decoder(encoding)
    async with aclosing(raw):
        async for chunk in raw:
            if text := decoder.decode(bytes(chunk)):
                yield utf8(text)
    if text := decoder.decode(b"", final=True):
        yield utf8(text)


def utf8(text: str) -> bytes:
    """The text in UTF-8. Halves of a surrogate pair become the code point they mean, a lone one U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def is_utf8(data: bytes) -> bool:
    """Whether it is UTF-8, whole code points of it."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


async def whole_code_points(raw: ByteChunks) -> ByteChunks:
    """The same bytes of UTF-8, cut so that no chunk ends inside a code point."""
    rest = b""
    async with aclosing(raw):
        async for chunk in raw:
            joined = rest + chunk if rest else chunk
            cut = code_point_end(joined)
            rest = bytes(joined[cut:])
            if cut:
                yield joined[:cut]
    if rest:
        yield rest


class _Decoder:
    """An incremental decoder that never raises, whatever the bytes, and drops a byte-order mark.

    Python's own raise in spite of errors="replace": those of ISO-2022 when an escape sequence does not end
    ("pending buffer overflow"), those of UTF-16 and UTF-32 where there is no mark.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = codecs.lookup(encoding).name
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._begun = False

    def decode(self, raw: bytes, final: bool = False) -> str:
        before = self._decoder.getstate()
        try:
            text = self._decoder.decode(raw, final)
        except UnicodeError:
            if self._encoding in ("utf-16", "utf-32"):
                self._encoding += "-le"
                self._decoder = codecs.getincrementaldecoder(self._encoding)(errors="replace")
                text = self._decoder.decode(before[0] + raw, final)
            else:
                self._decoder.setstate(before)
                text = "".join(self._byte(raw[place : place + 1]) for place in range(len(raw)))
                text += self._byte(b"", final)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        return text

    def _byte(self, byte: bytes, final: bool = False) -> str:
        try:
            return self._decoder.decode(byte, final)
        except UnicodeError:
            self._decoder.reset()
            return "\ufffd"


def code_point_boundary(descriptor: int, position: int) -> int:
    """The nearest boundary of a code point up to `position` in a file of UTF-8. Reads on the loop."""
    begin = max(0, position - 4)
    return begin + code_point_end(os.pread(descriptor, position - begin, begin))


def code_point_end(text: bytes | memoryview) -> int:
    """How many bytes of `text` come before a code point that is begun and not finished."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:  # a leading byte: does what follows it complete it?
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(text) - back if back < needed else len(text)
        if byte < 0x80:
            break
    return len(text)


def _detect_and_close(descriptor: int, length: int) -> Encoding | None:
    try:
        return detect(descriptor, length)
    finally:
        os.close(descriptor)


def _first_damage(descriptor: int, length: int) -> int | None:
    """Where a file stops being UTF-8, or None if it is UTF-8 throughout (as far as the windows show)."""
    for start, stop in _windows(length):
        decoder = codecs.getincrementaldecoder("utf-8")()
        position = start
        while position < stop:
            raw = os.pread(descriptor, min(_WINDOW, stop - position), position)
            # A window may begin inside a code point; the file does not.
            text = raw.lstrip(CONTINUATIONS) if start and position == start else raw
            end = position + len(raw)
            try:
                decoder.decode(text, final=end >= length)
            except UnicodeDecodeError as error:
                return max(0, end - len(error.object) + error.start)
            if not raw:
                break
            position = end
    return None


def _sample(descriptor: int, damage: int) -> bytes:
    """What detection sees: the place where it matters, since the beginning may be plain ASCII.

    To a line's or a word's end: with half a character at its end, detection rules out the encoding that is
    right. LF and space are no part of a character in any encoding without NULs.
    """
    sample = os.pread(descriptor, DETECTION_BYTES, max(0, damage - SNIFF_BYTES))
    if len(sample) == DETECTION_BYTES:
        sample = sample[: max(sample.rfind(b"\n"), sample.rfind(b" ")) + 1] or sample
    return sample


def _most_likely(sample: bytes) -> str:
    """The name of the encoding that detection finds; UTF-8 if it finds none. Blocking: imports."""
    # Here and not above: 3.1 MB of memory that only a text of unknown encoding needs.
    import charset_normalizer

    matches = charset_normalizer.from_bytes(sample, cp_exclusion=_EXTINCT)
    best = matches.best()
    if best is None:
        return "utf-8"
    for match in matches:
        # Of code pages that fit equally well the most widespread: French and Swedish were read as Baltic.
        western = "cp1252" in (match.encoding, *match.could_be_from_charset)
        if western and best.encoding in _LATIN and match.coherence >= best.coherence:
            return "cp1252"
    return best.encoding


def _mostly_utf8(sample: bytes) -> bool:
    """Whether at least ten sound characters beyond ASCII stand against each broken one.

    A log with a few broken bytes is still UTF-8; detection would make mojibake of all the rest.
    """
    text = sample.decode("utf-8", "replace")
    sound = sum(character > "\x7f" for character in text) - text.count("\ufffd")
    return sound >= 10 * text.count("\ufffd")


def _windows(length: int) -> list[tuple[int, int]]:
    if length <= WHOLE_CHECK_BYTES:
        return [(0, length)]
    starts = [(length - _WINDOW) * index // (_WINDOWS - 1) for index in range(_WINDOWS)]
    return [(start, start + _WINDOW) for start in starts]


@functools.cache
def _known_encodings() -> frozenset[str]:
    named = {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    return frozenset(name for name in named - _NOT_FOR_FILES if _is_text(name))


def _is_text(name: str) -> bool:
    try:
        # Not of nothing: Python would not ask the codec, and base64 or zlib would pass.
        b"a".decode(name, "replace")
        return codecs.lookup(name).incrementaldecoder is not None
    except LookupError:
        return False
