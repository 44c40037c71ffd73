"""Tracks with the programs that people download and examine them with."""

import filecmp
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.process import ROOT, Process, program, run, until

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
SAMPLES = ROOT / "media" / "samples"
SAMPLE_TRACKS = sorted(
    path.name for path in SAMPLES.iterdir() if path.suffix in (".mp3", ".opus", ".flac", ".m4a", ".wav")
)


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A track of 30 MB in a library of its own."""
    path = tmp_path_factory.mktemp("library") / "track.wav"
    path.write_bytes(random.Random(3).randbytes(30 * MEGABYTE))
    return path


@pytest.fixture(scope="module")
def server(track: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of that library."""
    process = Process(tmp_path_factory.mktemp("downloads"), ["--media", str(track.parent)])
    process.expect_log("track.wav")
    try:
        yield process.started()
    finally:
        process.stop()


def test_curl_goes_on(server: Process, track: Path, tmp_path: Path) -> None:
    """curl -C - after a download that was broken off."""
    command = (program("curl"), "-s", "-C", "-", "-o", "copy", f"{server.url}/audio?track_id=1")
    broken = run(tmp_path, *command, "--limit-rate", "10M", "--max-time", "1")
    assert broken.returncode == 28
    assert 0 < (tmp_path / "copy").stat().st_size < track.stat().st_size
    assert run(tmp_path, *command).returncode == 0
    assert filecmp.cmp(tmp_path / "copy", track, shallow=False)
    server.logged(" 206 complete ")


def test_wget_goes_on(server: Process, track: Path, tmp_path: Path) -> None:
    """wget -c behind what is already there."""
    with track.open("rb") as file:
        (tmp_path / "copy").write_bytes(file.read(7 * MEGABYTE + 13))
    done = run(tmp_path, program("wget"), "-q", "-c", "-O", "copy", f"{server.url}/audio?track_id=1")
    assert done.returncode == 0, done.stderr
    assert filecmp.cmp(tmp_path / "copy", track, shallow=False)


def test_aria2_in_eight_pieces(server: Process, track: Path, tmp_path: Path) -> None:
    """aria2c -x8 puts the file together from eight connections."""
    before = server.log.count(" 206 ")
    done = run(
        tmp_path,
        program("aria2c"),
        "-q",
        "-x8",
        "-s8",
        "-k1M",
        "--max-overall-download-limit=20M",  # else some have it all before the others have begun
        "--no-conf",
        "--disable-ipv6",
        "-o",
        "copy",
        f"{server.url}/audio?track_id=1",
    )
    assert done.returncode == 0, done.stdout
    assert filecmp.cmp(tmp_path / "copy", track, shallow=False)
    # How many it asks for in the end depends on which connection is first.
    until(lambda: server.log.count(" 206 ") - before > 1, 10)


@pytest.mark.parametrize("name", SAMPLE_TRACKS)
def test_ffprobe_reads_the_duration(samples: Process, tmp_path: Path, name: str) -> None:
    """ffprobe over HTTP and the catalogue agree on how long a track is."""
    _, body = samples.get("/audio")
    tracks = json.loads(body)["tracks"]
    length = (SAMPLES / name).stat().st_size
    (track,) = [track for track in tracks if track["length"] == length]
    command = (program("ffprobe"), "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0")
    done = run(tmp_path, *command, f"{samples.url}/audio?track_id={track['id']}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert float(done.stdout) == pytest.approx(track["duration_seconds"], abs=0.2)
    assert 20 <= track["duration_seconds"] <= 90
