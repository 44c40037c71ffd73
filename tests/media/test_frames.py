"""MP3 and ADTS in frames: where they begin and end, how long they play, and what is none."""

import io
import random
import struct
import tracemalloc
from array import array
from collections.abc import Iterable
from pathlib import Path

import mutagen.id3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from media.frames import GARBAGE_BYTES, PARSERS, parser
from media.pieces import FormatError, Piece
from tests.end_to_end.process import program, run
from tests.media.audio_files import FRAME

SAMPLE = Path(__file__).parents[2] / "media" / "samples" / "01 Opening the Sluice.mp3"
MPEG, ADTS = "audio/mpeg", "audio/aac"
TEXT = b"It was a bright cold day in April, and the clocks were striking thirteen.\n" * 1000
NOISE = random.Random(4).randbytes(3 * GARBAGE_BYTES)


def mpeg(header: str, length: int) -> bytes:
    """A frame of layer I, II or III, silent."""
    return bytes.fromhex(header) + bytes(length - 4)


def adts(length: int, rate: int = 4, channels: int = 2, blocks: int = 1, crc: bool = False) -> bytes:
    """A frame of AAC with nothing in it; `rate` is an index."""
    fixed = 0xFFF << 44 | (not crc) << 40 | 1 << 38 | rate << 34 | channels << 30
    return (fixed | length << 13 | 0x7FF << 2 | blocks - 1).to_bytes(7, "big") + bytes(length - 7)


def id3(cover: int = 0) -> bytes:
    """A tag as mutagen writes it, with a cover of so many bytes."""
    tag = mutagen.id3.ID3()
    tag.add(mutagen.id3.TIT2(encoding=3, text=["A title"]))
    if cover:
        tag.add(mutagen.id3.APIC(encoding=0, mime="image/png", type=3, data=NOISE[:cover]))
    out = io.BytesIO()
    tag.save(out)
    return out.getvalue()


ID3V1 = b"TAG" + b"A title".ljust(125, b"\0")
ITEMS = b"\x04\0\0\0\0\0\0\0Cover\0" + NOISE[:GARBAGE_BYTES]


def ape(flags: int) -> bytes:
    """The header or footer of an APE tag with ITEMS."""
    return struct.pack("<8s4I8x", b"APETAGEX", 2000, len(ITEMS) + 32, 1, flags)


APE = ape(0xA0000000) + ITEMS + ape(0x80000000)


def fed(media_type: str, chunks: Iterable[bytes]) -> tuple[list[Piece], str | None]:
    """All pieces, and what is wrong behind them, if anything is."""
    frames, pieces = parser(media_type), []
    try:
        for chunk in chunks:
            pieces += frames.feed(chunk)
        frames.feed(b"")
    except FormatError as error:
        return pieces, str(error)
    return pieces, None


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    """The data in chunks of these sizes, and what is left."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def frames_of(media_type: str, data: bytes) -> list[bytes]:
    """The data of each piece, of a stream without fault."""
    pieces, wrong = fed(media_type, [data])
    assert wrong is None
    return [piece.data for piece in pieces]


# --- which parser ---


@pytest.mark.parametrize("media_type", [*PARSERS, "Audio/MPEG", "audio/aacp; rate=44100", " audio/mpeg;x"])
def test_a_media_type_has_a_parser(media_type: str) -> None:
    """Case and parameters do not matter."""
    assert parser(media_type).feed(b"") == []


@pytest.mark.parametrize("media_type", ["", "audio/wav", "text/plain; audio/mpeg", "audio"])
def test_other_media_types_are_refused_with_what_there_is(media_type: str) -> None:
    """The text names those that there are."""
    with pytest.raises(ValueError, match=r"audio/mpeg, audio/aac, audio/aacp"):
        parser(media_type)


# --- headers ---


@pytest.mark.parametrize(("header", "length", "seconds"), [
    ("fffb9064", 417, 1152 / 44100),
    ("fffb9264", 418, 1152 / 44100),
    ("fffb54c4", 192, 1152 / 48000),
    ("fffae8c4", 1440, 1152 / 32000),
    ("fff344c4", 96, 576 / 24000),
    ("ffe318c4", 72, 576 / 8000),
    ("fffd8804", 576, 1152 / 32000),
    ("fff54404", 192, 1152 / 24000),
    ("ffe51804", 144, 1152 / 8000),
    ("ffffc804", 576, 384 / 32000),
    ("ffffca04", 580, 384 / 32000),
    ("fff74404", 128, 384 / 24000),
], ids=["MPEG-1", "padding", "48_kHz", "crc", "MPEG-2", "MPEG-2.5", "layer_II", "MPEG-2_II", "MPEG-2.5_II",
        "layer_I", "layer_I_padding", "MPEG-2_I"])  # fmt: skip
def test_mpeg_headers_say_how_long_a_frame_is(header: str, length: int, seconds: float) -> None:
    """In bytes and in seconds, for every version and layer (ISO 11172-3 §2.4.2.3)."""
    frame = mpeg(header, length)
    assert fed(MPEG, [frame * 3]) == ([Piece(frame, seconds)] * 3, None)


@pytest.mark.parametrize("header", ["fffb0064", "fffbf064", "fffb9c64", "ffeb9064", "fff99064", "fffb9066"],
                         ids=["free_format", "bitrate", "rate", "version", "layer", "emphasis"])  # fmt: skip
def test_reserved_values_are_no_header(header: str) -> None:
    """Nor is free format, which does not say how long its frames are."""
    assert frames_of(MPEG, mpeg(header, 417) * 4) == []
    _, wrong = fed(MPEG, [mpeg(header, 417) * 400])
    assert wrong is not None
    assert "without MP3 of a stated bitrate (audio/mpeg); announce what is sent" in wrong


@pytest.mark.parametrize(("frame", "seconds"), [
    (adts(400), 1024 / 44100), (adts(8191, rate=0), 1024 / 96000), (adts(9, rate=12), 1024 / 7350),
    (adts(300, blocks=4), 4096 / 44100), (adts(300, crc=True), 1024 / 44100),
    (adts(200, rate=6, channels=1), 1024 / 24000),
], ids=["LC", "longest", "7350_Hz", "blocks", "crc", "HE-AAC_core"])  # fmt: skip
def test_adts_headers_say_how_long_a_frame_is(frame: bytes, seconds: float) -> None:
    """1024 samples a block, at the rate that the header states."""
    assert fed(ADTS, [frame * 3]) == ([Piece(frame, seconds)] * 3, None)


@pytest.mark.parametrize("frame", [adts(400, rate=13), adts(7), adts(9, crc=True), FRAME],
                         ids=["rate", "empty", "only_a_crc", "MP3"])  # fmt: skip
def test_what_is_no_adts_header(frame: bytes) -> None:
    """A reserved rate, a frame with nothing behind its header, another layer."""
    assert frames_of(ADTS, frame * 4) == []


# --- in sync and out of it ---

LONGER = mpeg("fffb9264", 418)
MONO = mpeg("fff344c4", 96)
TITLED = mpeg("fffb9064", 36) + b"Info" + bytes(377)
VBRI = mpeg("fff344c4", 36) + b"VBRI" + bytes(56)


@pytest.mark.parametrize(("data", "whole"), [
    (FRAME, []),
    (FRAME * 2, [FRAME, FRAME]),
    (FRAME + LONGER + FRAME[:300], [FRAME, LONGER]),
    (TEXT[:5000] + FRAME * 2, [FRAME] * 2),
    (b"\xff" * 999 + FRAME * 2, [FRAME] * 2),
    (FRAME[200:] + FRAME * 2, [FRAME] * 2),
    (LONGER * 2 + TEXT[:5000] + FRAME * 3, [LONGER] * 2 + [FRAME] * 3),
    (FRAME * 2 + TEXT[:500] + FRAME + TEXT[:500] + FRAME * 2, [FRAME] * 4),
    (FRAME * 2 + MONO * 2 + FRAME * 2, [FRAME] * 2 + [MONO] * 2 + [FRAME] * 2),
    (FRAME * 2 + MONO + FRAME * 2, [FRAME] * 4),
    (TITLED + FRAME * 2 + VBRI + MONO * 2, [FRAME] * 2 + [MONO] * 2),
], ids=["one", "two", "a_part", "text_in_front", "ones_in_front", "from_the_middle", "text_between",
        "one_alone_in_text", "another_track", "one_of_another_kind", "notes"])  # fmt: skip
def test_frames_count_in_sync(data: bytes, whole: list[bytes]) -> None:
    """The first with another of its kind behind it, each that follows by itself."""
    assert frames_of(MPEG, data) == whole


def test_a_frame_is_out_with_its_last_byte() -> None:
    """In sync nothing waits for what comes next."""
    frames = parser(MPEG)
    assert len(frames.feed(FRAME * 2)) == 2
    assert frames.feed(FRAME[:-1]) == []
    assert len(frames.feed(FRAME[-1:])) == 1


@pytest.mark.parametrize("tag", [
    id3(), id3(cover=100_000), ID3V1, APE, APE + ID3V1, APE + id3(cover=2 * GARBAGE_BYTES), ape(0x80000000),
    b"ID3\4\0\x10\0\0\0\x05abcde3DI\4\0\x10\0\0\0\x05",
], ids=["ID3v2", "cover", "ID3v1", "APE", "APE_ID3v1", "APE_ID3v2", "footer", "ID3v2_footer"])  # fmt: skip
@pytest.mark.parametrize(("media_type", "frame"), [(MPEG, FRAME), (ADTS, adts(371))], ids=["mp3", "adts"])
def test_tags_are_no_audio(media_type: str, frame: bytes, tag: bytes) -> None:
    """Also one that is larger than what may be garbage, in front, in the middle and behind."""
    assert frames_of(media_type, tag + frame * 3 + tag + frame * 2 + tag) == [frame] * 5


@pytest.mark.parametrize("tag", [
    b"ID3\1\0\0\0\0\1\0", b"ID3\4\xff\0\0\0\1\0", b"ID3\4\0\1\0\0\1\0", b"ID3\4\0\0\0\0\x80\0",
    b"APETAGEX\1\2\3\4" + bytes([0, 1, 0, 0]) * 5,
], ids=["version", "revision", "flags", "size", "APE_version"])  # fmt: skip
def test_what_only_looks_like_a_tag_is_garbage(tag: bytes) -> None:
    """Nothing behind it is lost."""
    assert frames_of(MPEG, tag + FRAME * 2 + tag + FRAME * 2) == [FRAME] * 4


@pytest.mark.parametrize("left", [4, 200, 405, 408, 410, 414, 416])
def test_a_tag_that_begins_in_a_frame_is_found(left: int) -> None:
    """A file that was not whole ends in a frame that takes in the beginning of the next one's tag."""
    data = FRAME * 2 + FRAME[:left] + id3(cover=3 * GARBAGE_BYTES)
    taken = data[2 * len(FRAME) :][: len(FRAME)]
    assert frames_of(MPEG, data + MONO * 2) == [FRAME, FRAME, taken, MONO, MONO]


def test_a_small_tag_that_a_frame_takes_in_whole_is_garbage() -> None:
    """Nothing behind it is skipped."""
    data = FRAME * 2 + FRAME[:100] + b"ID3\4\0\0\0\0\0\x20" + bytes(0x20) + MONO * 8
    assert frames_of(MPEG, data)[-4:] == [MONO] * 4


def test_large_tags_are_not_kept() -> None:
    """Of a cover of 200 MB a parser holds nothing, of garbage only what may be a header."""
    frames, chunk = parser(MPEG), bytes(GARBAGE_BYTES)
    tracemalloc.start()
    try:
        frames.feed(b"ID3\4\0\0\x60\0\0\0")
        for _ in range(0x60 << 21 >> 16):
            assert frames.feed(chunk) == []
        frames.feed(chunk)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000
    assert peak < 2 * GARBAGE_BYTES
    assert frames.feed(FRAME * 2) == [Piece(FRAME, 1152 / 44100)] * 2


# --- what is of another format ---

OGG = b"OggS\0\2" + bytes(22) + b"\1\x1e\1vorbis" + bytes(23)


@pytest.mark.parametrize(("data", "told"), [
    (TEXT, "65536 bytes without"),
    (NOISE, "65536 bytes without"),
    (bytes(2 * GARBAGE_BYTES), "65536 bytes without"),
    (b"\xff" * 2 * GARBAGE_BYTES, "65536 bytes without"),
    (b"\x89PNG\r\n\x1a\n" + NOISE, "65536 bytes without"),
    (OGG, "this is Ogg (audio/ogg), not "),
    (b"\x1aE\xdf\xa3\x01\0\0", "this is WebM (audio/webm), not "),
], ids=["text", "noise", "zeros", "ones", "png", "ogg", "webm"])  # fmt: skip
@pytest.mark.parametrize("media_type", [MPEG, ADTS])
def test_what_is_no_audio_is_refused(media_type: str, data: bytes, told: str) -> None:
    """With a text that says what it is, or what is missing; and again by whoever goes on."""
    frames = parser(media_type)
    for _ in range(2):
        with pytest.raises(FormatError) as refused:
            frames.feed(data)
        assert told in str(refused.value)


@pytest.mark.parametrize(("media_type", "frame"), [(MPEG, adts(371)), (ADTS, FRAME)], ids=["aac", "mp3"])
def test_the_other_format_of_frames_is_refused(media_type: str, frame: bytes) -> None:
    """AAC that was announced as MP3, and the other way round."""
    assert fed(media_type, [frame * 1000])[0] == []
    assert fed(media_type, [frame * 1000])[1] is not None


def test_garbage_has_a_limit_between_frames() -> None:
    """So much is passed over, a byte more is not; what was whole before it is not lost."""
    assert len(frames_of(MPEG, (FRAME * 2 + bytes(GARBAGE_BYTES)) * 2 + FRAME * 2)) == 6
    frames = parser(MPEG)
    assert len(frames.feed(FRAME * 2 + bytes(GARBAGE_BYTES + 1) + FRAME * 2)) == 2
    with pytest.raises(FormatError, match="65536 bytes without"):
        frames.feed(FRAME)


# --- any bytes, cut anywhere ---

BLOCKS = [
    FRAME,
    FRAME * 3,
    LONGER * 2,
    MONO * 3,
    TITLED,
    adts(371) * 2,
    adts(9, rate=3) * 3,
    FRAME[:200],
    ID3V1,
]
BLOCKS += [
    id3(),
    id3(cover=1000),
    APE,
    b"ID3",
    b"APETAGEX",
    b"OggS",
    TEXT[:300],
    bytes(30_000),
    b"\xff\xfb" * 300,
]


@pytest.mark.slow
@given(
    st.sampled_from([MPEG, ADTS]),
    st.lists(st.sampled_from(BLOCKS) | st.binary(max_size=40)).map(b"".join),
    st.lists(st.integers(0, 2000)) | st.just([1] * 3000),
)
@example(MPEG, bytes(GARBAGE_BYTES) + FRAME * 2, [1] * 3000)
@example(MPEG, FRAME * 2 + FRAME[:410] + id3(cover=1000) + FRAME * 2, [1] * 3000)
def test_pieces_do_not_depend_on_the_chunks(media_type: str, data: bytes, sizes: list[int]) -> None:
    """Any bytes make the same pieces and the same fault, wherever they are cut, and no other error."""
    whole = fed(media_type, [data])
    assert fed(media_type, cut(data, sizes)) == whole
    assert all(piece.data in data and piece.seconds > 0 and piece.head == b"" for piece in whole[0])


# --- real files ---

FILES = {
    "cbr.mp3": (MPEG, "-c:a libmp3lame -b:a 128k -id3v2_version 0"),
    "fast.mp3": (MPEG, "-c:a libmp3lame -b:a 320k -ar 48000 -write_xing 0"),
    "vbr.mp3": (MPEG, "-c:a libmp3lame -q:a 2"),
    "mpeg2.mp3": (MPEG, "-c:a libmp3lame -b:a 48k -ar 22050 -ac 1"),
    "mpeg25.mp3": (MPEG, "-c:a libmp3lame -b:a 16k -ar 8000 -ac 1"),
    "layer2.mp2": (MPEG, "-c:a mp2 -b:a 192k"),
    "lc.aac": (ADTS, "-c:a aac -b:a 96k"),
    "mono.aac": (ADTS, "-c:a aac -b:a 32k -ar 24000 -ac 1"),
    "tagged.aac": (ADTS, "-c:a aac -b:a 64k -write_id3v2 1 -metadata title=Tagged"),
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FILES: three seconds of noise and a tone, in stereo where nothing else is said."""
    folder = tmp_path_factory.mktemp("encoded")
    music = "aevalsrc='0.3*sin(880*t*PI)+0.2*random(0)|0.4*random(1)':s=44100:d=3"
    outputs = [part for name, (_, options) in FILES.items() for part in (*options.split(), name)]
    made = run(folder, program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", music, *outputs)
    assert made.returncode == 0, made.stderr
    (folder / "cover.mp3").write_bytes(id3(cover=150_000) + (folder / "cbr.mp3").read_bytes() + ID3V1)
    (folder / "sample.mp3").write_bytes(SAMPLE.read_bytes())
    return folder


REAL = {name: media_type for name, (media_type, _) in FILES.items()} | {"cover.mp3": MPEG, "sample.mp3": MPEG}
EACH_REAL = pytest.mark.parametrize(("name", "media_type"), REAL.items(), ids=REAL)


@EACH_REAL
@pytest.mark.slow
def test_ffprobe_sees_the_same_frames(encoded: Path, name: str, media_type: str) -> None:
    """As many, each of the same size, and all together as long."""
    asked = ("-v", "error", "-show_entries", "packet=duration_time,size", "-of", "csv=p=0")
    lines = run(encoded, program("ffprobe"), *asked, "-select_streams", "a", name).stdout.decode().split()
    packets = [line.split(",")[:2] for line in lines]
    pieces, wrong = fed(media_type, [(encoded / name).read_bytes()])
    assert wrong is None
    assert [len(piece.data) for piece in pieces] == [int(size) for _, size in packets]
    seconds = sum(piece.seconds for piece in pieces)
    assert seconds == pytest.approx(sum(float(length) for length, _ in packets), abs=pieces[0].seconds)


@EACH_REAL
@pytest.mark.slow
def test_real_files_in_any_chunks(encoded: Path, name: str, media_type: str) -> None:
    """A byte at a time, at random, and all at once: the same frames."""
    data = (encoded / name).read_bytes()[:300_000]
    whole = fed(media_type, [data])
    assert fed(media_type, (data[at : at + 1] for at in range(len(data)))) == whole
    chance = random.Random(name)
    assert fed(media_type, cut(data, (chance.randrange(5000) for _ in range(500)))) == whole


@EACH_REAL
@pytest.mark.slow
def test_garbage_costs_two_frames_at_most(encoded: Path, name: str, media_type: str) -> None:
    """In front none, in the middle the frame it falls into and one in which a header seems to be."""
    data = b"".join(frames_of(media_type, (encoded / name).read_bytes()))
    frames = frames_of(media_type, data)
    assert frames_of(media_type, TEXT[:20_000] + data) == frames
    middle = len(data) // 2
    damaged = frames_of(media_type, data[:middle] + TEXT[:20_000] + data[middle:])
    assert len([frame for frame in damaged if frame in frames]) >= len(frames) - 2


@pytest.mark.slow
def test_one_file_behind_another(encoded: Path) -> None:
    """Rate, channels, version and layer change in the middle: each frame of each file is there."""
    names = [name for name, media_type in REAL.items() if media_type == MPEG]
    files = [(encoded / name).read_bytes() for name in names]
    assert frames_of(MPEG, b"".join(files)) == [frame for file in files for frame in frames_of(MPEG, file)]


@EACH_REAL
@pytest.mark.slow
def test_a_listener_may_begin_at_any_frame(encoded: Path, name: str, media_type: str, tmp_path: Path) -> None:
    """ffmpeg has nothing to say, and from the next frame but one on plays what it plays of the whole.

    AAC has noise that the decoder makes, anew each time.
    """
    pieces, _ = fed(media_type, [(encoded / name).read_bytes()])
    pieces = pieces[:120]
    whole = samples(tmp_path, b"".join(piece.data for piece in pieces))
    for begin in (0, 1, 2, 3, 5, 8, 13, 21, 30):
        head = pieces[begin].head
        assert head is not None
        heard = samples(tmp_path, head + b"".join(piece.data for piece in pieces[begin:]))
        same = len(whole) * (len(pieces) - begin - 2) // len(pieces)  # two frames: filters that remember
        if media_type == MPEG:
            assert max(abs(a - b) for a, b in zip(heard[-same:], whole[-same:], strict=True)) <= 2, begin


def samples(folder: Path, sound: bytes) -> "array[int]":
    """As ffmpeg decodes it, without a complaint."""
    (folder / "sound").write_bytes(sound)
    to = ("-f", "s16le", "-c:a", "pcm_s16le", "decoded")
    decoded = run(folder, program("ffmpeg"), "-v", "error", "-y", "-i", "sound", *to)
    assert (decoded.returncode, decoded.stderr) == (0, b"")
    return array("h", (folder / "decoded").read_bytes())
