"""One large file, in the page cache, downloaded over one connection and over four."""

import hashlib
import os
import sys
import tempfile
import wave
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import load, measure
from benchmarks.peers import Peer, millrace, static_file_handler, tutorial
from benchmarks.report import Spread, table
from benchmarks.scenarios import Effort

CONNECTIONS = (1, 4)
PEERS = (millrace.PEER, tutorial.PEER, static_file_handler.PEER)
"""Ours is the first: it is compared with each of the others."""

_NAME = "noise.wav"
_MIB = 1024 * 1024

Readings = Mapping[tuple[int, Peer], Sequence[load.Reading]]
"""Of every number of connections and every peer, one a round."""


def run(effort: Effort) -> str:
    """Measure, and give the tables.

    Raises:
        BenchmarkError: a server does not start, or sends something else than the file.
    """
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "library")
        folder.mkdir()
        digest = _make_file(folder / _NAME, effort.size_mib)
        readings = _readings(effort, folder, digest)
    effort_spent = f"{effort.size_mib} MiB, rounds of {effort.seconds:g} s: {effort.rounds}"
    load_average = f"load average {load_before:.2f} before and {os.getloadavg()[0]:.2f} after the run"
    return "\n\n".join(
        [_ratios(readings), _figures(readings), f"{effort_spent}; {measure.machine()}; {load_average}."]
    )


def _make_file(path: Path, size_mib: int) -> str:
    """Noise that is a track without tags; gives its digest. It lies in the page cache, and on the disk."""
    with wave.open(str(path), "wb") as track:
        track.setnchannels(2)
        track.setsampwidth(2)
        track.setframerate(44100)
        for _ in range(size_mib):
            track.writeframesraw(os.urandom(_MIB))
    with path.open("rb") as file:
        os.fsync(file.fileno())  # else it would be written out while something is measured
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _readings(effort: Effort, folder: Path, digest: str) -> Readings:
    readings: dict[tuple[int, Peer], list[load.Reading]] = defaultdict(list)
    for number in range(effort.rounds):
        turn = number % len(PEERS)
        for connections in CONNECTIONS:
            for peer in PEERS[turn:] + PEERS[:turn]:
                reading = _reading(peer, connections, effort.seconds, folder, digest)
                readings[connections, peer].append(reading)
                print(f"round {number + 1}/{effort.rounds}", peer.name, connections, reading, file=sys.stderr)
    return readings


def _reading(peer: Peer, connections: int, seconds: float, folder: Path, digest: str) -> load.Reading:
    """One measurement, with a process of its own: its memory is that of this load, and no other."""
    port = measure.free_port()
    with measure.server(peer.command(folder, port), port) as process:
        job = load.Job(process.pid, port, peer.target(port, _NAME), digest, connections, seconds)
        return load.measured(job)


def _ratios(readings: Readings) -> str:
    ours, *others = PEERS
    rows = []
    for connections in CONNECTIONS:
        for other in others:
            our_speed, our_cpu, _ = _spreads(readings[connections, ours])
            speed, cpu, _ = _spreads(readings[connections, other])
            rows.append((f"{ours.name} : {other.name}", connections, our_speed / speed, our_cpu / cpu))
    return table(["ratio", "connections", "speed", "CPU time a byte"], rows, texts=1)


def _figures(readings: Readings) -> str:
    rows = [
        (peer.name, connections, *_spreads(readings[connections, peer]))
        for connections in CONNECTIONS
        for peer in PEERS
    ]
    return table(["server", "connections", "GB/s", "CPU-s/GB", "peak RSS MB"], rows, texts=1)


def _spreads(readings: Sequence[load.Reading]) -> tuple[Spread, Spread, Spread]:
    """GB/s, CPU seconds a GB, MB at most; decimal units."""
    return (
        Spread(tuple(reading.received_bytes / reading.seconds / 1e9 for reading in readings)),
        Spread(tuple(reading.cpu_seconds / reading.received_bytes * 1e9 for reading in readings)),
        Spread(tuple(reading.peak_rss_bytes / 1e6 for reading in readings)),
    )
