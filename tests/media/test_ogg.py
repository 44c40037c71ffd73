"""Ogg in pages: real streams of ffmpeg, and pages made by hand for what ffmpeg does not do."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.ogg import DAMAGED_PAGES, LOST_BYTES, OggParser
from media.pieces import PENDING_BYTES, TITLE_CHARACTERS, FormatError, Piece
from tests.media.live_audio import cut, decoded, encoded, fed, heard, joined, places, probed, seconds

CODECS = {"vorbis": "libvorbis", "opus": "libopus", "flac": "flac"}
CONTINUED, FIRST, LAST = 1, 2, 4


def stream(codec: str, *options: str, seconds: float = 6) -> bytes:
    return encoded("-c:a", CODECS[codec], *options, "-f", "ogg", seconds=seconds)


def chained(codec: str) -> bytes:
    """Two tracks, one after the other, as a source sends them."""
    return b"".join(
        stream(codec, "-metadata", f"title={title}", "-metadata", "artist=Mühle", seconds=4)
        for title in ("Eins", "Zwei")
    )


def taken(content: bytes, *, longest: int = 5000, seed: int = 0) -> list[Piece]:
    """The pieces of content that comes in chunks."""
    pieces, failure, _ = fed(OggParser(), cut(content, longest=longest, seed=seed))
    assert not failure
    return pieces


# Pages made by hand.


def page(
    *packets: bytes,
    flags: int = 0,
    granule: int = 0,
    serial: int = 7,
    open_end: bool = False,
    version: int = 0,
) -> bytes:
    lacing = [size for packet in packets for size in [255] * (len(packet) // 255) + [len(packet) % 255]]
    if open_end:
        assert lacing.pop() == 0
    header = struct.pack("<4sBBqIIIB", b"OggS", version, flags, granule, serial, 0, 0, len(lacing))
    whole = header + bytes(lacing) + b"".join(packets)
    return whole[:22] + struct.pack("<I", crc(whole)) + whole[26:]


def crc(content: bytes) -> int:
    """As RFC 3533 has it, bit by bit."""
    value = 0
    for byte in content:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


def comments(*entries: bytes, vendor: bytes = b"by hand") -> bytes:
    counted = [struct.pack("<I", len(entry)) + entry for entry in entries]
    return struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", len(entries)) + b"".join(counted)


def opus_head(serial: int = 7, pre_skip: int = 312) -> bytes:
    packet = b"OpusHead" + struct.pack("<BBHIhB", 1, 2, pre_skip, 48_000, 0, 0)
    return page(packet, flags=FIRST, serial=serial)


def opus(*entries: bytes, serial: int = 7) -> bytes:
    """The two header pages of an Opus stream."""
    return opus_head(serial) + page(b"OpusTags" + comments(*entries), serial=serial)


SOUND = [page(bytes(40), granule=312 + 960 * number) for number in range(1, 5)]
FLAC_FIRST = page(
    b"\x7fFLAC\x01\x00\x00\x01fLaC" + bytes(14) + (48_000 << 4).to_bytes(3, "big") + bytes(21), flags=FIRST
)
VORBIS_FIRST = page(b"\x01vorbis" + bytes(5) + struct.pack("<I", 44_100) + bytes(14), flags=FIRST)


# Real streams.


@pytest.mark.parametrize("codec", CODECS)
def test_pieces_are_the_stream_wherever_it_is_cut(codec: str) -> None:
    """Byte for byte, in chunks of one byte, of any size, and whole."""
    content = stream(codec, seconds=1)
    whole = OggParser().feed(content)
    assert b"".join(piece.data for piece in whole) == content
    assert all(piece.data.startswith(b"OggS") for piece in whole)
    assert taken(content, longest=1) == whole
    for seed in range(5):
        assert taken(content, seed=seed) == whole


@pytest.mark.parametrize("codec", CODECS)
def test_pieces_last_as_long_as_the_stream(codec: str) -> None:
    """To 10 ms of what ffprobe says, which counts Opus's pre-skip of 6.5 ms."""
    content = stream(codec)
    assert seconds(OggParser().feed(content)) == pytest.approx(probed(content), abs=0.01)


@pytest.mark.parametrize("codec", CODECS)
def test_head_is_the_header_pages_and_one_object(codec: str) -> None:
    """The header pages are no places to begin; all that follow share their bytes."""
    pieces = OggParser().feed(stream(codec))
    headers = [piece for piece in pieces if piece.seconds == 0]
    assert [piece.head for piece in headers] == [None, None]
    heads = [piece.head for piece in pieces if piece.head is not None]
    assert heads[0] == b"".join(piece.data for piece in headers)
    assert len({id(head) for head in heads}) == 1
    assert len(heads) == len(pieces) - 3  # nor is the last page


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_ffmpeg_decodes_from_any_place(codec: str) -> None:
    """Whoever comes late hears the rest, to what a Vorbis decoder needs to begin."""
    pieces = OggParser().feed(stream(codec))
    for place in places(pieces):
        assert decoded(joined(pieces, place)) == pytest.approx(seconds(pieces[place:]), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_ffmpeg_decodes_a_chain_from_any_place(codec: str) -> None:
    """Also across the beginning of the next track, whose headers are among the pages."""
    pieces = OggParser().feed(chained(codec))
    for place in places(pieces):
        assert decoded(joined(pieces, place)) == pytest.approx(seconds(pieces[place:]), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_mpv_plays_from_the_middle(codec: str) -> None:
    """Of one stream, and of a chain."""
    for content in (stream(codec), chained(codec)):
        pieces = OggParser().feed(content)
        place = places(pieces)[2]
        assert heard(joined(pieces, place)) == pytest.approx(seconds(pieces[place:]), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_each_track_of_a_chain_has_its_head_and_title(codec: str) -> None:
    """The title comes with the first page that is heard, the head with all of them."""
    pieces = taken(chained(codec))
    titled = [number for number, piece in enumerate(pieces) if piece.title is not None]
    assert [pieces[number].title for number in titled] == ["Mühle - Eins", "Mühle - Zwei"]
    assert [pieces[number - 1].seconds for number in titled] == [0, 0]
    heads = [piece.head for piece in pieces if piece.head is not None]
    assert len({id(head) for head in heads}) == 2
    assert seconds(pieces) == pytest.approx(8, abs=0.01)


@pytest.mark.slow
def test_comment_that_spans_pages_is_in_the_head() -> None:
    """A comment of 100 KB: three header pages, two of which continue a packet."""
    content = stream("vorbis", "-metadata", "LYRICS=" + "A" * 100_000, "-metadata", "title=Lied")
    pieces = taken(content)
    place = places(pieces)[0]
    assert place >= 3
    assert pieces[place].title == "Lied"
    assert len(pieces[place].head or b"") > 100_000
    assert decoded(joined(pieces, place + 2)) == pytest.approx(seconds(pieces[place + 2 :]), abs=0.05)


@pytest.mark.parametrize("codec", CODECS)
def test_stream_that_began_long_ago_is_timed_by_differences(codec: str) -> None:
    """ffmpeg copies granule positions that begin at ten hours; the first page alone cannot be timed."""
    content = stream(codec, "-output_ts_offset", "36000", "-page_duration", "500000")
    pieces = OggParser().feed(content)
    first = places(pieces)[0]
    assert pieces[first].seconds == 0
    assert seconds(pieces) == pytest.approx(5.5, abs=0.1)


# Pages by hand.


def test_page_that_continues_a_packet_is_no_place_to_begin() -> None:
    """Nor is the last one of a stream; one on which no packet ends plays 0 s, but one may begin there."""
    pages = [
        page(bytes(510), granule=-1, open_end=True),
        page(bytes(10), flags=CONTINUED, granule=312 + 4800),
        page(bytes(10), granule=312 + 9600),
        page(flags=LAST, granule=312 + 9600),
    ]
    pieces = OggParser().feed(opus() + b"".join(pages))[2:]
    assert [piece.data for piece in pieces] == pages
    assert [piece.head is not None for piece in pieces] == [True, False, True, False]
    assert [piece.seconds for piece in pieces] == [0, pytest.approx(0.1), pytest.approx(0.1), 0]


@pytest.mark.parametrize(("granules", "expected"), [
    ([312 + 48_000, 312 + 96_000], [1, 1]),
    ([100, 312 + 48_000], [0, 1 + 212 / 48_000]),
    ([10**15, 10**15 + 48_000], [0, 1]),
    ([312 + 48_000, 0, 48_000], [1, 0, 1]),
    ([312, 312 + 48_000 * 61], [0, 0]),
    ([-5, -1, 48_000], [0, 0, 48_005 / 48_000]),
], ids=["from zero", "within the pre-skip", "begun long ago", "back", "too far", "negative"])  # fmt: skip
def test_seconds_are_differences_of_granule_positions(granules: list[int], expected: list[float]) -> None:
    """Jumps play 0 s."""
    pieces = OggParser().feed(opus() + b"".join(page(b"x", granule=granule) for granule in granules))
    assert [piece.seconds for piece in pieces[2:]] == pytest.approx(expected)


@pytest.mark.parametrize(("entries", "title"), [
    ([b"TITLE=Mill", b"ARTIST=Wind"], "Wind - Mill"),
    ([b"title=Mill"], "Mill"),
    ([b"ARTIST=Wind"], None),
    ([b"artist=A", b"Artist=B", b"title=T"], "A, B - T"),
    ([b"TITLE=\xff\xfe"], "\ufffd\ufffd"),
    ([b"TITLE=a\r\nb\0c"], "a  b c"),
    ([b"TITLE=" + b"x" * 10_000], "x" * TITLE_CHARACTERS),
    ([b"TITLE"], None),
    ([b"TITLE="], None),
    ([b"TITLES=x", b"=", b""], None),
    ([], None),
])  # fmt: skip
def test_title(entries: list[bytes], title: str | None) -> None:
    """Of whatever comments, as one line of text."""
    pieces = OggParser().feed(opus(*entries) + SOUND[0])
    assert [piece.title for piece in pieces] == [None, None, title]


@pytest.mark.parametrize("broken", [
    b"", b"\xff\xff\xff\xff", comments(b"TITLE=x")[:-1], comments(b"TITLE=x", vendor=b"")[:3],
    struct.pack("<II", 0, 0xFFFFFFFF), struct.pack("<III", 0, 1, 0xFFFFFFFF) + b"TITLE=x",
])  # fmt: skip
def test_comments_that_are_cut_off_have_no_title(broken: bytes) -> None:
    """And are no reason to refuse the stream."""
    pieces = OggParser().feed(opus_head() + page(b"OpusTags" + broken) + SOUND[0])
    assert [piece.title for piece in pieces] == [None, None, None]


@pytest.mark.parametrize(("first", "others", "rate"), [
    (FLAC_FIRST, [page(b"\x04\0\0\0" + comments(b"TITLE=F")), page(b"\x81\0\0\0")], 48_000),
    (VORBIS_FIRST, [page(b"\x03vorbis" + comments(b"TITLE=F"), b"\x05vorbis")], 44_100),
    (VORBIS_FIRST, [page(b"\x03vorbis" + comments(b"TITLE=F") + bytes(222), open_end=True),
                    page(b"x", b"\x05vorbis", flags=CONTINUED)], 44_100),
], ids=["flac, several blocks", "vorbis, one page", "vorbis, continued"])  # fmt: skip
def test_headers_end_where_the_codec_says(first: bytes, others: list[bytes], rate: int) -> None:
    """Pages are counted to the head until the last header packet is whole."""
    sound = page(b"\xff\xf8", granule=rate)
    pieces = OggParser().feed(first + b"".join(others) + sound)
    assert pieces[-1] == Piece(sound, 1, first + b"".join(others), "F")


@pytest.mark.parametrize("damage", range(len(SOUND[1])))
def test_damaged_page_is_dropped(damage: int) -> None:
    """Wherever it is damaged; the next page is found, and the time goes on."""
    bad = bytearray(SOUND[1])
    bad[damage] ^= 0x20
    content = opus() + SOUND[0] + bytes(bad) + SOUND[2] + SOUND[3]
    pieces = OggParser().feed(content)
    assert [piece.data for piece in pieces[2:]] == [SOUND[0], SOUND[2], SOUND[3]]
    assert seconds(pieces) == pytest.approx(0.08)
    assert taken(content, longest=1) == pieces


def test_noise_between_pages_is_dropped() -> None:
    """Also what looks like the beginning of a page, or like one of another version."""
    noise = [b"O", b"Og", b"OggS", b"OggOggS\0", bytes(1000), b"OggOg", page(b"x", version=1)]
    pages = [page(b"x", granule=number) for number in range(len(noise))]
    content = opus() + b"".join(map(bytes.__add__, noise, pages))
    for longest in (1, 10, 10_000):
        pieces = taken(content, longest=longest)
        assert [piece.data for piece in pieces[2:]] == pages


def test_pages_without_a_beginning_are_dropped() -> None:
    """What another stream has, whose header page did not come."""
    content = opus() + SOUND[0] + page(b"x", serial=8) + SOUND[1]
    assert [piece.data for piece in OggParser().feed(content)][2:] == SOUND[:2]


def test_chain_goes_on_without_a_last_page() -> None:
    """A source that broke off a track begins the next one, and may break that off within its headers."""
    content = opus(b"TITLE=A") + SOUND[0] + opus(b"TITLE=B", serial=8) + page(b"x", serial=8)
    assert [piece.title for piece in OggParser().feed(content)] == [None, None, "A", None, None, "B"]
    broken_off = VORBIS_FIRST + page(b"\x03vorbis") + opus() + SOUND[0]
    assert OggParser().feed(broken_off)[-1].head == opus()


@pytest.mark.parametrize(("content", "words"), [
    (b"ID3\x04" + bytes(1000), "does not begin with OggS"),
    (b"\xff\xfb\x90\x00" + bytes(413), "does not begin with OggS"),
    (b"Of this and that\n", "does not begin with OggS"),
    (b"\x89PNG\r\n\x1a\n", "does not begin with OggS"),
    (b"\x1a\x45\xdf\xa3", "does not begin with OggS"),
    (SOUND[0], "from its beginning"),
    (page(b"\x80theora" + bytes(40), flags=FIRST), "neither Vorbis, Opus nor FLAC"),
    (page(b"fishead\0" + bytes(56), flags=FIRST), "neither Vorbis, Opus nor FLAC"),
    (page(b"OpusHead", flags=FIRST), "neither Vorbis, Opus nor FLAC"),
    (page(flags=FIRST), "neither Vorbis, Opus nor FLAC"),
    (page(b"\x01vorbis" + bytes(23), flags=FIRST), "neither Vorbis, Opus nor FLAC"),
    (opus_head() + opus_head(8), "several Ogg streams at once"),
    (opus_head() + page(b"\x80theora", flags=FIRST, serial=8), "several Ogg streams at once"),
    (opus_head() + SOUND[0], "not whole"),
    (opus_head() + page(b"x", flags=CONTINUED), "not whole"),
    (opus_head() + page(b"OpusTags" + bytes(247), open_end=True) + page(b"x"), "not whole"),
    (FLAC_FIRST + page(b"\xff\xf8"), "not whole"),
    (FLAC_FIRST + page(b""), "not whole"),
    (VORBIS_FIRST + page(b"\x05vorbis"), "not whole"),
    (opus() + bytes(LOST_BYTES + 1), "bytes"),
    (opus() + b"OggS" * 20_000, "bytes"),
    (opus() + page(bytes(1000), serial=8) * 70, "without a header page"),
    (opus() + (SOUND[0][:22] + bytes(4) + SOUND[0][26:]) * (DAMAGED_PAGES + 1), "wrong CRC"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_is_refused(content: bytes, words: str) -> None:
    """After the same pieces however it is cut, and for good; the text is for the client."""
    pieces, failure, parser = fed(OggParser(), [content])
    assert words in failure
    for longest in (1, 200):
        assert fed(OggParser(), cut(content, longest=longest))[:2] == (pieces, failure)
    with pytest.raises(FormatError, match=words):
        parser.feed(SOUND[0])


def test_headers_without_end_are_refused() -> None:
    """Nothing is kept beyond a mebibyte."""
    first = opus_head() + page(b"OpusTags" + bytes(65_025 - 8), open_end=True)
    more = page(bytes(65_025), flags=CONTINUED, open_end=True)
    pieces, failure, _ = fed(OggParser(), [first, *[more] * 20])
    assert f"more than {PENDING_BYTES}" in failure
    assert sum(len(piece.data) for piece in pieces) <= PENDING_BYTES


@given(st.data())
def test_any_bytes_raise_nothing_but_format_errors(data: st.DataObject) -> None:
    """A stream with changes anywhere: however it is cut the same pieces, each from the input, in order."""
    content = bytearray(opus(b"TITLE=x") + b"".join(SOUND) + FLAC_FIRST + page(b"\x84\0\0\0") + SOUND[0])
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    ends = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    chunks = [bytes(content[start:stop]) for start, stop in pairwise([0, *ends, len(content)])]
    once = fed(OggParser(), [bytes(content)])[:2]
    assert fed(OggParser(), chunks)[:2] == once
    position = 0
    for piece in once[0]:
        position = content.index(piece.data, position) + len(piece.data)
