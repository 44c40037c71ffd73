"""Any encoding into UTF-8: what is found out about a file, and cuts that never split a code point."""

import asyncio
import codecs
import itertools
import os
import random
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import charset_normalizer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import decoding
from media.decoding import Encoding, EncodingCache, detect, encoding_named, looks_like_text, utf8
from media.source import BadParameter, Chunks, SourceBroken

KOREAN = "바람이 불어오는 곳, 그곳으로 가네 🎵\n" * 40
KOREAN_ONLY = "바람이 불어오는 곳으로 흘러가는 강물 위에 달빛이 비치고 있었다\n" * 40
JAPANESE = "水車は夜明け前の水をくみあげて、しずかにまわりつづけています。\n" * 40
FRENCH = "Le moulin tourne, l'été s'étire; déjà la rivière se tait où naît l'hiver.\n" * 40


@contextmanager
def opened(folder: Path, content: bytes) -> Iterator[int]:
    path = folder / "text"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def pieces(content: bytes, size: int) -> Chunks:
    """The content cut at every `size` bytes."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def joined(chunks: Chunks) -> list[bytes]:
    return [bytes(chunk) async for chunk in chunks]


def found(folder: Path, content: bytes) -> Encoding | None:
    with opened(folder, content) as descriptor:
        return detect(descriptor, len(content))


# --- what it is encoded in ---

CLEAN = Encoding("utf-8", clean=True)
DAMAGED = Encoding("utf-8", clean=False)

FILES = {
    "empty": (b"", CLEAN),
    "ascii": (b"plain\n", CLEAN),
    "utf8": (KOREAN.encode(), CLEAN),
    "utf8_mark": (codecs.BOM_UTF8 + KOREAN.encode(), CLEAN),
    "utf8_mark_only": (codecs.BOM_UTF8, CLEAN),
    "utf8_mark_damaged": (codecs.BOM_UTF8 + b"a\xff\xfe\xfdb", DAMAGED),
    "utf8_with_a_broken_byte": (KOREAN.encode() + b"\xff" + KOREAN.encode(), DAMAGED),
    "utf8_cut_short": (KOREAN.encode()[:-3], DAMAGED),
    "log_with_a_broken_line": (b"plain ascii line\n" * 9000 + b"\xff\n" + KOREAN.encode(), DAMAGED),
    "cp949": (KOREAN_ONLY.encode("cp949"), Encoding("cp949", clean=False)),
    "cp949_behind_ascii": (b"plain\n" * 9000 + KOREAN_ONLY.encode("cp949"), Encoding("cp949", clean=False)),
    "euc_jp": (JAPANESE.encode("euc-jp"), Encoding("euc_jis_2004", clean=False)),
    "shift_jis": (JAPANESE.encode("shift_jis"), Encoding("cp932", clean=False)),
    "utf16_le": ("가a".encode("utf-16"), Encoding("utf-16", clean=False)),
    "utf16_be": (codecs.BOM_UTF16_BE + "가a".encode("utf-16-be"), Encoding("utf-16", clean=False)),
    "utf32_le": ("가a".encode("utf-32"), Encoding("utf-32", clean=False)),
    "utf32_be": (codecs.BOM_UTF32_BE + "가a".encode("utf-32-be"), Encoding("utf-32", clean=False)),
    "utf16_without_a_mark": ("a plain text".encode("utf-16-le"), None),
    "binary": (bytes(range(256)) * 20, None),
    "controls": (b"\1\2\3\4" * 50, None),
}


@pytest.mark.parametrize("case", FILES)
def test_the_encoding_of_a_file(case: str, tmp_path: Path) -> None:
    """By its mark, as UTF-8 if it decodes, else by detection; None if it is no text."""
    content, expected = FILES[case]
    assert found(tmp_path, content) == expected


READ = {
    "french": (FRENCH, "latin-1"),
    "swedish": ("Kvarnen går vid ån, och på kvällen är det så tyst att man hör fåglarna.\n", "latin-1"),
    "german": ("Füße über Straßen, schöne Grüße; die Mühle dreht sich früh.\n", "latin-1"),
    "polish": ("Młyn stoi nad rzeką. Każdego ranka młynarz wstaje i śpiewa pieśń o słońcu.\n", "cp1250"),
    "turkish": (
        "Değirmen ırmağın kıyısında; değirmenci erken kalkar ve güneş için şarkı söyler.\n",
        "cp1254",
    ),
    "russian": ("Мельница стоит у реки, и вода тихо течёт. Мельник встаёт рано.\n", "cp1251"),
    "greek": ("Ο μύλος στέκεται δίπλα στο ποτάμι και το νερό κυλά ήσυχα.\n", "cp1253"),
    "chinese": ("水车在黎明之前汲水，静静地转动着，风吹过的地方我们一起走。\n", "gb18030"),
    "japanese": (JAPANESE, "euc_jp"),
}


@pytest.mark.slow
@pytest.mark.parametrize("language", READ)
def test_a_text_is_read_as_it_was_written(language: str, tmp_path: Path) -> None:
    """Detection may name any of the encodings that agree on these letters."""
    text, written = READ[language]
    for times in (1, 20):
        encoding = found(tmp_path, (text * times).encode(written))
        assert encoding is not None
        assert (text * times).encode(written).decode(encoding.name, "replace") == text * times


@pytest.mark.slow
@pytest.mark.parametrize("space", [b"\n", b" "])
@pytest.mark.parametrize("shift", range(4))
def test_detection_sees_no_half_characters(shift: int, space: bytes, tmp_path: Path) -> None:
    """Wherever the sample would be cut, behind ASCII or not: half a character rules the right one out."""
    words = "a" * shift + KOREAN_ONLY.replace(" ", "") * 90
    content = words.encode("cp949").replace(b"\n", space)
    assert len(content) > decoding.DETECTION_BYTES
    assert found(tmp_path, content) == Encoding("cp949", clean=False)
    assert found(tmp_path, b"plain\n" * 5000 + content) == Encoding("cp949", clean=False)


def test_one_long_line_is_seen_as_it_is(tmp_path: Path) -> None:
    """Where there is no place to cut, the sample is what it is."""
    assert found(tmp_path, "물".encode("cp949") * 100_000) == Encoding("cp949", clean=False)


def test_bytes_that_fit_no_encoding_are_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where detection gives up the text is sent all the same, with U+FFFD in it."""
    monkeypatch.setattr(charset_normalizer, "from_bytes", lambda sample, **options: NoMatch())
    assert found(tmp_path, b"a\xff\xfeb") == DAMAGED


class NoMatch:
    """What the library for detection returns when it finds nothing."""

    def best(self) -> None:
        return None


@pytest.mark.parametrize(("head", "text"), [
    (b"", True), (b"a\tb\r\n\v\f\x1b[0m", True), (b"a\0b", False), (b"\1" + b"a" * 98, False),
    (b"\1" + b"a" * 99, True), (codecs.BOM_UTF16_LE + b"a\0", True), (b"ID3\4\0\0", False),
])  # fmt: skip
def test_whether_it_looks_like_text(head: bytes, text: bool) -> None:
    """No NUL, and at most one control character in a hundred."""
    assert looks_like_text(head) is text


@pytest.mark.parametrize("damage", [0, 1, 40_000, 50_000, 99_990])
def test_a_long_file_is_checked_at_windows(
    damage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first and the last window touch the ends; a window may begin and end inside a code point."""
    monkeypatch.setattr(decoding, "WHOLE_CHECK_BYTES", 50_000)
    monkeypatch.setattr(decoding, "_WINDOW", 1000)
    clean = "바람".encode() * 16_667
    assert found(tmp_path, clean) == CLEAN
    windows = decoding._windows(len(clean))
    assert all(0 <= start < stop <= len(clean) for start, stop in windows)
    seen = next(max(damage, start + 5) for start, stop in windows if damage < stop)
    broken = bytearray(clean)
    broken[seen] = 0xFF
    assert found(tmp_path, bytes(broken)) == DAMAGED


def test_a_file_that_shrinks_meanwhile_is_what_is_left_of_it(tmp_path: Path) -> None:
    """Reading it will tell; finding out its encoding comes to an end."""
    with opened(tmp_path, b"abc") as descriptor:
        assert detect(descriptor, 5_000_000) == CLEAN


# --- names that clients give ---

NAMES = {
    "utf-8": "utf-8", "UTF8": "utf-8", "Utf_8": "utf-8", "cp949": "cp949", "CP949": "cp949", "uhc": "cp949",
    "ms949": "cp949", "EUC-KR": "euc_kr", "ks_c-5601-1987": "euc_kr", "Shift_JIS": "shift_jis",
    "latin1": "iso8859-1", "ISO-8859-1": "iso8859-1", "utf-16": "utf-16", "utf-16-le": "utf-16-le",
    "utf-8-sig": "utf-8-sig", "ISO-2022-JP": "iso2022_jp", "us-ascii": "ascii",
}  # fmt: skip


@pytest.mark.parametrize("asked", NAMES)
def test_a_name_of_an_encoding(asked: str) -> None:
    """In any case, with any of its aliases."""
    assert encoding_named(asked) == NAMES[asked]


NO_NAMES = ["", " ", "bogus", "é", "..", "aliases", "hex", "base64", "bz2", "zlib", "quopri", "uu"]
NO_NAMES += [
    "rot13",
    "rot_13",
    "idna",
    "punycode",
    "utf-7",
    "undefined",
    "unicode_escape",
    "raw_unicode_escape",
]
NO_NAMES += ["mbcs", "oem", "os", "encodings.utf_8", "-" * 70 + "utf-8", "utf-8" + "-" * 70, "x" * 100_000]


@pytest.mark.parametrize("asked", NO_NAMES, ids=lambda asked: asked[:20])
def test_what_names_no_encoding_of_text(asked: str) -> None:
    """Unknown ones, Python's transformations of bytes, and what no file is written in."""
    with pytest.raises(BadParameter, match=r"^encoding must be the name of a text encoding") as error:
        encoding_named(asked)
    assert len(str(error.value)) < 140


# --- cuts ---

WRITTEN = {
    "utf-8": KOREAN, "cp949": KOREAN_ONLY, "euc_kr": KOREAN_ONLY, "johab": KOREAN_ONLY,
    "iso2022_kr": KOREAN_ONLY, "euc_jp": JAPANESE, "shift_jis": JAPANESE, "cp932": JAPANESE,
    "iso2022_jp": JAPANESE, "utf-16": KOREAN, "utf-16-le": KOREAN, "utf-16-be": KOREAN, "utf-32": KOREAN,
    "utf-7": KOREAN, "gb18030": KOREAN, "hz": "水火\n", "latin-1": FRENCH, "utf-8-sig": KOREAN,
}  # fmt: skip


@pytest.mark.parametrize("encoding", WRITTEN)
@pytest.mark.gen_test
async def test_cut_at_every_size_it_is_the_same_text(encoding: str) -> None:
    """And each chunk is UTF-8 by itself."""
    content = WRITTEN[encoding].encode(encoding)
    for size in range(1, 8):
        chunks = await joined(decoding.to_utf8(pieces(content, size), encoding))
        assert all(chunks)
        assert "".join(chunk.decode("utf-8") for chunk in chunks) == WRITTEN[encoding]


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.gen_test
async def test_utf8_is_cut_between_code_points(size: int) -> None:
    """The bytes stay as they are."""
    chunks = await joined(decoding.whole_code_points(pieces(KOREAN.encode(), size)))
    assert all(chunks)
    assert "".join(chunk.decode("utf-8") for chunk in chunks) == KOREAN


BYTES = st.binary(max_size=30) | st.text().map(lambda text: text.encode("utf-8", "replace"))


@pytest.mark.slow
@given(BYTES, st.integers(1, 7))
def test_whole_code_points_change_no_byte(content: bytes, size: int) -> None:
    """Damaged or not: what is cut is only where the chunks end."""
    chunks = asyncio.run(joined(decoding.whole_code_points(pieces(content, size))))
    assert b"".join(chunks) == content
    assert all(chunks)
    for chunk, following in itertools.pairwise(chunks):
        # What lies on both sides of a cut decodes as it does in one: the cut is inside no code point.
        apart = chunk.decode("utf-8", "replace") + following.decode("utf-8", "replace")
        assert (chunk + following).decode("utf-8", "replace") == apart


@pytest.mark.slow
def test_no_encoding_raises_whatever_the_bytes() -> None:
    """Each that a client may name: random bytes, shift states and escapes among them, cut at random."""
    alphabets = [bytes(range(256)), b"+-/ab\xff\0AB=&~{}\n", b"\x1b$()BJ@A0123\x0e\x0f ab\x80\xfe"]
    alphabets += [b"~{}\n abAB09\x81\x30\xff", b"\0\xd8\0\xdc\xdf\xff\xfe\x41+"]
    dice = random.Random(949)
    known = sorted(decoding._known_encodings())  # imports each of them, which belongs in no loop

    async def fuzz() -> None:
        for encoding in known:
            for alphabet in alphabets * 8:
                content = bytes(dice.choices(alphabet, k=dice.randrange(40)))
                chunks = await joined(decoding.to_utf8(pieces(content, dice.randrange(1, 9)), encoding))
                assert all(chunks)
                assert all(isinstance(chunk.decode("utf-8"), str) for chunk in chunks)

    asyncio.run(fuzz())


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.gen_test
async def test_an_escape_that_does_not_end_costs_only_itself(size: int) -> None:
    """Python's decoder for ISO-2022 gives up with an error; the text goes on."""
    content = "水車".encode("iso2022_jp") + b"\x1b$ 1$330000" + "は夜明け".encode("iso2022_jp") + b"\n"
    text = b"".join(await joined(decoding.to_utf8(pieces(content, size), "iso2022_jp"))).decode("utf-8")
    assert text.startswith("水車\ufffd")
    assert text.endswith("は夜明け\n")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.gen_test
async def test_without_a_mark_the_little_end_comes_first(encoding: str, size: int) -> None:
    """Python's decoder would raise."""
    chunks = await joined(decoding.to_utf8(pieces(KOREAN.encode(f"{encoding}-le"), size), encoding))
    assert b"".join(chunks).decode() == KOREAN


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "utf-7"])
@pytest.mark.gen_test
async def test_a_mark_is_dropped_at_the_beginning_only(encoding: str) -> None:
    """Elsewhere U+FEFF is a character."""
    content = ("\ufeff" if encoding not in ("utf-8-sig", "utf-16") else "") + "a\ufeffb"
    for size in (1, 100):
        chunks = await joined(decoding.to_utf8(pieces(content.encode(encoding), size), encoding))
        assert b"".join(chunks).decode() == "a\ufeffb"


@pytest.mark.gen_test
async def test_what_cannot_be_decoded_is_shown() -> None:
    """As U+FFFD, a last code point that is cut off too."""
    chunks = await joined(decoding.to_utf8(pieces(b"a\xffb\xe3\x81", 2), "utf-8"))
    assert b"".join(chunks).decode() == "a\ufffdb\ufffd"


@pytest.mark.parametrize(("text", "expected"), [
    ("바람", "바람"), ("a\ud800b", "a\ufffdb"), ("\ud83c\udfb5", "🎵"), ("\udfb5\ud83c", "\ufffd\ufffd"),
    ("", ""),
])  # fmt: skip
def test_utf8_of_any_text(text: str, expected: str) -> None:
    """Also of what UTF-8 cannot hold."""
    assert utf8(text) == expected.encode()


# --- each file is examined once ---


class Examined:
    """Counts how often a file is examined, and lets it last until `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self._detect = decoding.detect
        monkeypatch.setattr(decoding, "detect", self.detect)

    def detect(self, descriptor: int, length: int) -> Encoding | None:
        self.times += 1
        return self._detect(descriptor, length)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Examined:
    return Examined(monkeypatch)


@pytest.mark.gen_test
async def test_a_file_is_examined_once(examined: Examined, tmp_path: Path) -> None:
    """Also when many ask at the same time, and when it is no text."""
    cache = EncodingCache()
    for content, expected in ((b"abc", CLEAN), (b"a\0c", None)):
        examined.times = 0
        with opened(tmp_path, content) as descriptor:
            os.utime(descriptor, ns=(0, len(content) + content[1]))
            answers = await asyncio.gather(*(cache.encoding_of(descriptor) for _ in range(5)))
            answers.append(await cache.encoding_of(descriptor))
        assert answers == [expected] * 6
        assert examined.times == 1


@pytest.mark.gen_test
async def test_a_changed_file_is_examined_again(examined: Examined, tmp_path: Path) -> None:
    """It may be another text now."""
    cache = EncodingCache()
    with opened(tmp_path, b"abc") as descriptor:
        assert await cache.encoding_of(descriptor) == CLEAN
        (tmp_path / "text").write_bytes(b"a\0c and more")
        assert await cache.encoding_of(descriptor) is None


@pytest.mark.gen_test
async def test_what_is_remembered_is_bounded(
    examined: Examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for longest ago is forgotten first."""
    monkeypatch.setattr(decoding, "_CACHE_SIZE", 2)
    cache = EncodingCache()
    for name, times in {"a": 1, "b": 2, "c": 3, "a again": 4, "c again": 4, "b again": 5}.items():
        path = tmp_path / name[0]
        path.write_bytes(name[0].encode())
        os.utime(path, (1, 1))
        descriptor = os.open(path, os.O_RDONLY)
        assert await cache.encoding_of(descriptor) == CLEAN
        os.close(descriptor)
        assert (name, examined.times) == (name, times)
        assert len(cache._found) <= 2


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def all_threads_busy() -> AsyncGenerator[None, None]:
    """Nothing that is given to a thread begins until this generator is closed."""
    loop = asyncio.get_running_loop()
    gate = threading.Event()
    gates = [loop.run_in_executor(None, gate.wait) for _ in range(64)]
    try:
        yield
    finally:
        gate.set()
        await asyncio.gather(*gates)


@pytest.mark.gen_test
async def test_cancelled_before_a_thread_is_free_it_leaves_no_descriptor(
    examined: Examined, tmp_path: Path
) -> None:
    """The examination comes all the same, closes what is its own, and is remembered."""
    cache = EncodingCache()
    with opened(tmp_path, b"abc") as descriptor:
        before = descriptors()
        busy = all_threads_busy()
        await anext(busy)
        waiting = asyncio.create_task(cache.encoding_of(descriptor))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert descriptors() == before + 1
        await busy.aclose()
        assert await cache.encoding_of(descriptor) == CLEAN
        assert descriptors() == before
    assert examined.times == 1


@pytest.mark.gen_test
async def test_a_file_that_cannot_be_read_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing disk is nothing of ours; the next one who asks has it tried again."""
    cache = EncodingCache()

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    with opened(tmp_path, b"abc") as descriptor:
        with monkeypatch.context() as broken:
            broken.setattr(os, "pread", pread)
            with pytest.raises(SourceBroken) as error:
                await cache.encoding_of(descriptor)
        assert isinstance(error.value.__cause__, OSError)
        assert await cache.encoding_of(descriptor) == CLEAN
