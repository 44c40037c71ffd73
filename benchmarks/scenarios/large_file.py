"""One large file, in the page cache, downloaded whole over 1, 4 and 64 connections."""

from benchmarks import library
from benchmarks.library import Library
from benchmarks.load import transfer
from benchmarks.load.exchange import request
from benchmarks.peers import Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

_CONNECTIONS = {"1 connection": 1, "4 connections": 4, "64 connections": 64}


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    connections = _CONNECTIONS[case]
    # One whole body a round is compared: with the slowest peers that takes as long as a measurement.
    digest = ""
    with serving(peer, served.folder) as (pid, port):
        asked = request(port, peer.target(port, library.LARGE))
        job = transfer.Job(pid, port, (asked,), connections, effort.seconds, digest)
        reading = transfer.measured(job)
    return (
        reading.received_bytes / reading.seconds / 1e9,
        reading.cpu_seconds / reading.received_bytes * 1e9,
        reading.peak_rss_bytes / 1e6,
        min(reading.each_bytes) * connections / reading.received_bytes * 100,
        reading.load_share * 100,
    )


SCENARIO = Scenario(
    "large_file",
    tuple(_CONNECTIONS),
    (
        Column("GB/s", compared=True),
        Column("CPU-s/GB", compared=True),
        Column("peak RSS MB"),
        Column("worst connection, % of the mean"),
        Column("client's core, %"),
    ),
    _measure,
)
