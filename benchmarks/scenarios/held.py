"""Many subscribers to whom nothing happens but heartbeats, held by one process."""

from dataclasses import replace

from benchmarks.library import Library
from benchmarks.load import held
from benchmarks.peers import EVENTS, Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

HEARTBEAT_SECONDS = 15
"""Millrace's default; a fraction of it where a measurement is to take that fraction of a second."""


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    del case  # there is but one
    heartbeat_seconds = HEARTBEAT_SECONDS * min(1.0, effort.seconds)
    settings = ["--heartbeat", f"{heartbeat_seconds:g}", "--max-streams", "0"]
    told = replace(peer, command=lambda folder, port: [*peer.command(folder, port), *settings])
    with serving(told, served.folder) as (pid, port):
        reading = held.measured(held.Job(pid, port, EVENTS, effort.held, heartbeat_seconds))
    return (
        reading.idle_bytes / 1000,
        reading.cpu_share * 100,
        effort.held / reading.opening_seconds,
    )


SCENARIO = Scenario(
    "held",
    ("idle",),
    (Column("KB a subscriber"), Column("CPU, %"), Column("opened/s")),
    _measure,
    lambda effort: f"{effort.held} subscribers",
)
