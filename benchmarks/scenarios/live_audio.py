"""One source of 128 kbit/s and many listeners."""

import subprocess
from pathlib import Path

from benchmarks.library import Library
from benchmarks.load import listeners
from benchmarks.measure import BenchmarkError
from benchmarks.peers import AUDIO, SOURCE_PASSWORD, Peer, program_path
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

_SECONDS_FACTOR = 20
"""Two seconds hold some hundred frames, and a few per cent of a core."""

_TRACK_SECONDS = 30
# -reservoir 0: every frame stands alone, also where the track begins again.
_TRACK = (
    f"-v error -f lavfi -i anoisesrc=r=48000:d={_TRACK_SECONDS} "
    "-c:a libmp3lame -b:a 128k -reservoir 0 -write_xing 0 -id3v2_version 0 -y"
)


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    del case  # there is but one
    path = _track(served.folder.parent)
    seconds = effort.seconds * _SECONDS_FACTOR
    with serving(peer, served.folder) as (pid, port):
        job = listeners.Job(pid, port, AUDIO, SOURCE_PASSWORD, str(path), effort.subscribers, seconds)
        reading = listeners.measured(job)
    return reading.cpu_share * 100, reading.least * 100, reading.most * 100, reading.load_share * 100


def _track(folder: Path) -> Path:
    """Noise as an MP3, made once.

    Raises:
        BenchmarkError: there is no ffmpeg, or one without LAME.
    """
    path = folder / "source.mp3"
    if not path.exists():
        try:
            subprocess.run([program_path("ffmpeg") or "ffmpeg", *_TRACK.split(), path], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchmarkError(f"live_audio needs ffmpeg with libmp3lame: {error}") from error
    return path


SCENARIO = Scenario(
    "live_audio",
    ("128 kbit/s",),
    (
        Column("CPU, %", compared=True),
        Column("least received, % of its due"),
        Column("most"),
        Column("client's core, %"),
    ),
    _measure,
    lambda effort: f"{effort.subscribers} listeners",
)
