"""What the tests of live audio share: streams, cut anywhere, and what ffmpeg and mpv make of a late join."""

import functools
import random
import subprocess
import tempfile
from pathlib import Path

from media.pieces import FormatError, Parser, Piece
from media.source import RUN_BYTES, Cursor
from media.stretches import AudioFeed
from tests.end_to_end.process import program


@functools.cache
def encoded(*options: str, seconds: float = 6, source: str = "sine=440:sample_rate=48000") -> bytes:
    """A stream that ffmpeg makes, written into a pipe, as it would be sent: nothing is mended at the end."""
    made = subprocess.run(
        [
            program("ffmpeg"),
            "-v",
            "error",
            "-f",
            "lavfi",
            "-t",
            str(seconds),
            "-i",
            source,
            *options,
            "pipe:",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=True,
    )
    return made.stdout


def cut(content: bytes, *, longest: int = 5000, seed: int = 0) -> list[bytes]:
    """The content in chunks of 1 to `longest` bytes."""
    sizes = random.Random(seed)
    chunks: list[bytes] = []
    position = 0
    while position < len(content):
        chunks.append(content[position : position + sizes.randint(1, longest)])
        position += len(chunks[-1])
    return chunks


def fed(parser: Parser, chunks: list[bytes]) -> tuple[list[Piece], str, Parser]:
    """The pieces of these chunks, and why there are no more: nothing, or what the client is told."""
    pieces: list[Piece] = []
    try:
        for chunk in [
            *chunks,
            b"",
        ]:  # what comes before a mistake is returned first, and the next call raises
            pieces += parser.feed(chunk)
    except FormatError as error:
        return pieces, str(error), parser
    return pieces, "", parser


def joined(pieces: list[Piece], place: int) -> bytes:
    """What a listener gets who begins at this piece."""
    head = pieces[place].head
    assert head is not None
    return head + b"".join(piece.data for piece in pieces[place:])


def places(pieces: list[Piece]) -> list[int]:
    """Where one can begin."""
    return [number for number, piece in enumerate(pieces) if piece.head is not None]


def seconds(pieces: list[Piece]) -> float:
    """How long they play together."""
    return sum(piece.seconds for piece in pieces)


def received(feed: AudioFeed, cursor: Cursor | None = None) -> bytes:
    """What a listener gets who begins now, or stands at `cursor`, up to now."""
    if cursor is None:
        cursor, sent = feed.beginning()
    else:
        sent = b""
    while cursor != feed.newest:
        run, cursor = feed.after(cursor, RUN_BYTES)
        sent += run
    return sent


def probed(stream: bytes) -> float:
    """How many seconds ffprobe says are in the packets of a stream."""
    options = "-v error -show_entries packet=pts_time,duration_time -of csv=p=0 pipe:"
    told = subprocess.run(
        [program("ffprobe"), *options.split()], input=stream, capture_output=True, timeout=30, check=True
    )
    packets = [line.split(",") for line in told.stdout.decode().split()]
    last = packets[-1][1] if len(packets[-1]) > 1 and packets[-1][1] != "N/A" else "0"
    return float(packets[-1][0]) - float(packets[0][0]) + float(last)


def decoded(stream: bytes) -> float:
    """How many seconds ffmpeg decodes, without any complaint."""
    options = "-v error -i pipe: -f s16le -ac 1 -ar 8000 pipe:"
    played = subprocess.run(
        [program("ffmpeg"), *options.split()], input=stream, capture_output=True, timeout=30
    )
    assert (played.returncode, played.stderr) == (0, b"")
    return len(played.stdout) / 16_000


def heard(stream: bytes) -> float:
    """How many seconds mpv plays, without any complaint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heard"
        options = (
            "--no-config --no-video --msg-level=all=error --audio-format=s16 --audio-channels=mono "
            f"--audio-samplerate=8000 --ao=pcm --ao-pcm-waveheader=no --ao-pcm-file={path} -"
        )
        played = subprocess.run(
            [program("mpv"), *options.split()], input=stream, capture_output=True, timeout=30
        )
        assert (played.returncode, played.stdout + played.stderr) == (0, b"")
        return path.stat().st_size / 16_000
