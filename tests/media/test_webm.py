"""WebM in blocks: real streams of ffmpeg, and elements made by hand for what ffmpeg does not do."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.pieces import PENDING_BYTES, FormatError, Piece
from media.webm import WebmParser
from tests.media.live_audio import cut, decoded, encoded, fed, heard, joined, places, probed, seconds

OPUS = ("-c:a", "libopus", "-f", "webm")
SHAPES = {
    "live": (*OPUS, "-live", "1"),
    "short clusters": (*OPUS, "-live", "1", "-cluster_time_limit", "500"),
    "plain": OPUS,
    "begun long ago": (*OPUS, "-live", "1", "-output_ts_offset", "36000"),
    "vorbis": ("-c:a", "libvorbis", "-f", "webm"),
}
CLUSTER = b"\x1f\x43\xb6\x75"
UNKNOWN = b"\x01" + b"\xff" * 7


def taken(content: bytes, *, longest: int = 5000, seed: int = 0) -> list[Piece]:
    """The pieces of content that comes in chunks."""
    pieces, failure, _ = fed(WebmParser(), cut(content, longest=longest, seed=seed))
    assert not failure
    return pieces


# Elements made by hand.


def element(name: str, *content: bytes, unknown: bool = False) -> bytes:
    inside = b"".join(content)
    size = UNKNOWN if unknown else (len(inside) | 1 << 56).to_bytes(8, "big")
    return bytes.fromhex(name) + size + inside


def track(kind: int = 2, codec: bytes = b"A_OPUS") -> bytes:
    return element("AE", element("D7", b"\1"), element("83", bytes([kind])), element("86", codec))


def timestamp(ticks: int) -> bytes:
    return element("E7", ticks.to_bytes(8, "big"))


def block(ticks: int) -> bytes:
    """20 bytes of sound, so long after its Cluster's timestamp."""
    return element("A3", b"\x81" + struct.pack(">hB", ticks, 0x80) + bytes(20))


def group(ticks: int) -> bytes:
    return element(
        "A0", element("9B", b"\x14"), element("A1", b"\x81" + struct.pack(">hB", ticks, 0) + bytes(9))
    )


EBML = element("1A45DFA3", element("4282", b"webm"))
SEGMENT = element("18538067", unknown=True)
INFO = element("1549A966", element("2AD7B1", (1_000_000).to_bytes(3, "big")))
TRACKS = element("1654AE6B", track())
HEAD = EBML + SEGMENT + INFO + TRACKS
SEEK_HEAD, CUES = element("114D9B74", bytes(50)), element("1C53BB6B", bytes(70))
VOID, TAGS = element("EC", bytes(30)), element("1254C367", bytes(40))


def cluster(*content: bytes, unknown: bool = False) -> bytes:
    return element(CLUSTER.hex(), *content, unknown=unknown)


SOUND = cluster(timestamp(1000), block(0), block(20))


# Real streams.


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_are_the_clusters_wherever_it_is_cut(shape: str) -> None:
    """Byte for byte behind the head, but for Cues at the end; in chunks of one byte, any size, and whole."""
    content = encoded(*SHAPES[shape], seconds=2)
    whole = WebmParser().feed(content)
    together = b"".join(piece.data for piece in whole[1:])
    assert together.startswith(CLUSTER)
    start = content.index(CLUSTER)
    assert content[start : start + len(together)] == together
    assert content[start + len(together) :][:4] in (b"", CUES[:4])
    assert taken(content, longest=1) == whole
    for seed in range(5):
        assert taken(content, seed=seed) == whole


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_last_as_long_as_the_stream(shape: str) -> None:
    """But for the last block, of 20 ms, after which nothing comes."""
    content = encoded(*SHAPES[shape])
    assert seconds(WebmParser().feed(content)) == pytest.approx(probed(content), abs=0.025)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_ffmpeg_decodes_from_any_place(shape: str) -> None:
    """At the beginning of a Cluster, in the middle of one, and before the last block."""
    pieces = WebmParser().feed(encoded(*SHAPES[shape]))
    begins = [number for number in places(pieces) if pieces[number].data.startswith(CLUSTER)]
    assert begins
    assert places(pieces) == list(range(1, len(pieces)))
    for place in {*begins, begins[-1] + 1, *range(1, len(pieces) - 10, 37)}:
        assert decoded(joined(pieces, place)) == pytest.approx(seconds(pieces[place:]), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_mpv_plays_from_the_middle(shape: str) -> None:
    """Of a Cluster, and from the beginning of one."""
    pieces = WebmParser().feed(encoded(*SHAPES[shape]))
    begin = next(n for n in range(30, len(pieces)) if pieces[n].data.startswith(CLUSTER))
    for place in (begin, begin + 5):
        assert heard(joined(pieces, place)) == pytest.approx(seconds(pieces[place:]), abs=0.05)


def test_heads_are_shared() -> None:
    """One bytes object for all Clusters, and one for what is within each."""
    pieces = WebmParser().feed(encoded(*SHAPES["short clusters"]))
    heads = {id(piece.head) for piece in pieces}
    clusters = sum(piece.data.startswith(CLUSTER) for piece in pieces)
    assert clusters > 10
    assert len(heads) == 1 + 1 + clusters  # none; that of the Clusters; that of each


@pytest.mark.parametrize(
    "video", ["-map 0 -map 0", "-filter_complex color=size=32x32:duration=1[v] -map 0 -map [v]"]
)
def test_more_than_one_track_is_refused(video: str) -> None:
    """Two of sound; or a video."""
    options = ["-c:a", "libopus", "-c:v", "libvpx", "-f", "webm", "-live", "1"]
    pieces, failure, _ = fed(WebmParser(), [encoded(*video.split(), *options, seconds=1)])
    assert not pieces
    assert "one audio track" in failure


# Elements by hand.


@pytest.mark.parametrize("unknown", [False, True])
def test_what_has_offsets_does_not_go_on(unknown: bool) -> None:
    """SeekHead, Cues, Void and Tags outside of Clusters; a Segment's size becomes unknown."""
    clusters = [cluster(timestamp(1000 * n), block(0), VOID, block(20), VOID) for n in range(3)]
    segment = element(
        "18538067",
        SEEK_HEAD,
        VOID,
        INFO,
        TAGS,
        TRACKS,
        VOID,
        *(CUES + each + TAGS for each in clusters),
        CUES,
    )
    content = EBML + (SEGMENT + segment[12:] if unknown else segment)
    pieces = taken(content, longest=1)
    assert pieces[0] == Piece(HEAD, 0, None)
    assert b"".join(piece.data for piece in pieces[1:]) == b"".join(clusters)
    assert pieces == WebmParser().feed(content)


def test_any_block_is_a_place_to_begin() -> None:
    """A Cluster begins with its header, or with one in the head; what is between blocks is no place."""
    extra = element("AB", b"\1")
    content = cluster(timestamp(5), extra, block(0), block(20), VOID, group(40), unknown=True)
    begin = len(content) - len(block(20) + VOID + group(40))
    assert WebmParser().feed(HEAD + content)[1:] == [
        Piece(content[:begin], 0, HEAD),
        Piece(block(20), 0.02, HEAD + CLUSTER + UNKNOWN + timestamp(5)),
        Piece(VOID, 0, None),
        Piece(group(40), 0.02, HEAD + CLUSTER + UNKNOWN + timestamp(5)),
    ]


def test_cluster_without_a_block_goes_on_when_the_next_begins() -> None:
    """Its bytes are no place to begin."""
    empty = [cluster(timestamp(1)), cluster(timestamp(2), VOID, unknown=True), cluster()]
    pieces = taken(HEAD + b"".join(empty) + SOUND, longest=3)
    assert [piece.data for piece in pieces[1:4]] == empty
    assert [piece.head for piece in pieces[1:4]] == [None] * 3
    assert b"".join(piece.data for piece in pieces[4:]) == SOUND


@pytest.mark.parametrize(("info", "clusters", "expected"), [
    (INFO, [cluster(timestamp(0), block(0), block(20)), cluster(timestamp(50), block(0))], [0, 0.02, 0.03]),
    (b"", [cluster(timestamp(0), block(0), block(20))], [0, 0.02]),
    (element("1549A966"), [cluster(timestamp(0), block(0), block(20))], [0, 0.02]),
    (element("1549A966", element("2AD7B1", (500_000).to_bytes(3, "big"))),
     [cluster(timestamp(0), block(0), block(20))], [0, 0.01]),
    (INFO, [cluster(timestamp(1 << 62), block(-20), block(20))], [0, 0.04]),
    (element("1549A966", element("2AD7B1", b"\xff" * 8)),
     [cluster(timestamp(0), block(0), timestamp((1 << 64) - 1), block(0))], [0, 0, 0]),
    (INFO, [cluster(timestamp(90_000), block(0)), cluster(timestamp(0), block(0), block(5))], [0, 0, 0.005]),
    (INFO, [cluster(timestamp(0), block(0)), cluster(timestamp(60_001), block(0))], [0, 0]),
    (INFO, [cluster(timestamp(0), group(0), group(20))], [0, 0.02]),
], ids=["plain", "no info", "no scale", "scale", "late", "longest", "back", "too far", "groups"])  # fmt: skip
def test_seconds_are_differences_of_times(info: bytes, clusters: list[bytes], expected: list[float]) -> None:
    """In ticks of the TimestampScale, of a millisecond where there is none; jumps play 0 s."""
    pieces = WebmParser().feed(EBML + SEGMENT + TRACKS + info + b"".join(clusters))
    assert [piece.seconds for piece in pieces[1:]] == pytest.approx(expected)


def test_info_and_tracks_are_taken_once() -> None:
    """A second one, or one behind the first Cluster, does not go on."""
    pieces = WebmParser().feed(HEAD + TRACKS + INFO + SOUND + INFO + TRACKS + SOUND)
    assert b"".join(piece.data for piece in pieces) == HEAD + SOUND + SOUND


def test_what_does_not_go_on_may_be_long() -> None:
    """A cover of 4 MiB as an attachment is not kept meanwhile."""
    attachment = element("1941A469", bytes(4 << 20))
    pieces = taken(EBML + SEGMENT + attachment + INFO + TRACKS + SOUND, longest=100_000)
    assert b"".join(piece.data for piece in pieces) == HEAD + SOUND


@pytest.mark.parametrize(("content", "words"), [
    (b"ID3\x04" + bytes(1000), "EBML header"),
    (b"\xff\xfb\x90\x00" + bytes(413), "EBML header"),
    (b"Of this and that\n", "EBML header"),
    (b"\x89PNG\r\n\x1a\n", "EBML header"),
    (b"OggS", "EBML header"),
    (element("1A45DFA3", element("4282", b"matroska")), "no WebM"),
    (element("1A45DFA3"), "no WebM"),
    (element("1A45DFA3", unknown=True), "unknown size"),
    (EBML + EBML, "second WebM"),
    (EBML + SEGMENT + SEGMENT, "second WebM"),
    (HEAD + SOUND + EBML, "second WebM"),
    (EBML + SEGMENT + SOUND, "before the Tracks"),
    (EBML + TRACKS + SOUND, "before the Tracks"),
    (EBML + SEGMENT + element("1654AE6B"), "0 tracks"),
    (EBML + SEGMENT + element("1654AE6B", track(), track()), "2 tracks"),
    (EBML + SEGMENT + element("1654AE6B", track(1, b"V_VP8")), "with video"),
    (EBML + SEGMENT + element("1654AE6B", track(2, b"A_AAC")), "another codec"),
    (EBML + SEGMENT + element("1654AE6B", b"\xae\x85"), "longer than what it is in"),
    (EBML + SEGMENT + element("1654AE6B", b"\xae"), "longer than what it is in"),
    (HEAD + element("1C53BB6B", unknown=True), "unknown size"),
    (HEAD + b"\x08", "at most four bytes"),
    (HEAD + b"\xec\x00", "at most eight bytes"),
    (HEAD + cluster(block(0)), "without a time"),
    (HEAD + cluster(timestamp(0), element("A3", b"\x81")), "without a time"),
    (HEAD + cluster(timestamp(0), element("A3")), "without a time"),
    (HEAD + cluster(timestamp(0), element("A0", VOID)), "without a time"),
    (HEAD + cluster(timestamp(0), element("A3", unknown=True)), "unknown size"),
    (HEAD + cluster(timestamp(0), CUES), "does not fit"),
    (HEAD + CLUSTER + b"\x85" + timestamp(0), "does not fit"),
    (HEAD + CLUSTER + UNKNOWN + b"\xa3\x08" + (1 << 33).to_bytes(5, "big"), f"more than {PENDING_BYTES}"),
    (HEAD + CLUSTER + UNKNOWN + element("EC", bytes(600_000)) * 2, f"in {PENDING_BYTES} bytes"),
    (HEAD + cluster(element("E7", bytes(9))), "more than eight bytes"),
    (EBML + SEGMENT + element("1549A966", element("2AD7B1", b"\xff" * 1000)), "more than eight bytes"),
    (EBML + SEGMENT + element("1549A966", bytes(PENDING_BYTES)), f"more than {PENDING_BYTES}"),
    (EBML + SEGMENT + element("1549A966", element("EC", bytes(600_000))) +
     element("1654AE6B", track(), element("EC", bytes(600_000))), f"more than {PENDING_BYTES}"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_is_refused(content: bytes, words: str) -> None:
    """After the same pieces however it is cut, and for good; the text is for the client."""
    pieces, failure, parser = fed(WebmParser(), [content])
    assert words in failure
    for longest in (1, 200) if len(content) < 10_000 else (50_000,):
        assert fed(WebmParser(), cut(content, longest=longest))[:2] == (pieces, failure)
    with pytest.raises(FormatError, match=words):
        parser.feed(SOUND)


@given(st.data())
def test_any_bytes_raise_nothing_but_format_errors(data: st.DataObject) -> None:
    """A stream with changes anywhere: however it is cut the same pieces, each from the input, in order."""
    unknown = cluster(timestamp(7), group(0), VOID, block(9), unknown=True)
    content = bytearray(HEAD + SOUND + CUES + unknown + SOUND)
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    ends = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    chunks = [bytes(content[start:stop]) for start, stop in pairwise([0, *ends, len(content)])]
    once = fed(WebmParser(), [bytes(content)])[:2]
    assert fed(WebmParser(), chunks)[:2] == once
    position = 0
    for piece in once[0][1:]:
        position = content.index(piece.data, position) + len(piece.data)
