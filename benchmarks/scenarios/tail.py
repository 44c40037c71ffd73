"""Many followers of one growing file: it is read once, and all see each line."""

from dataclasses import replace

from benchmarks.library import Library
from benchmarks.load import tail
from benchmarks.peers import Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

_LOG = "followed.log"
_STEADY_FACTOR = 3
"""As in `fanout`: ten lines a second."""


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    del case  # there is but one
    path = served.folder / _LOG
    path.write_text("It begins.\n")
    told = replace(peer, command=lambda folder, port: [*peer.command(folder, port), "--max-streams", "0"])
    try:
        with serving(told, served.folder) as (pid, port):
            target = f"/text/{_LOG}?follow=1&tail=0"
            reading = tail.measured(
                tail.Job(
                    pid, port, str(path), target, effort.held, effort.seconds, effort.seconds * _STEADY_FACTOR
                )
            )
    finally:
        path.unlink()
    return (
        reading.pace.deliveries / reading.pace.cpu_seconds,
        reading.pace.deliveries / reading.pace.seconds,
        reading.p50_ms,
        reading.p99_ms,
        reading.read_times,
        reading.idle_bytes / 1000,
        reading.pace.load_share * 100,
    )


SCENARIO = Scenario(
    "tail",
    ("100 bytes",),
    (
        Column("deliveries/CPU-s"),
        Column("deliveries/s"),
        Column("p50 ms"),
        Column("p99 ms"),
        Column("each byte read, times"),
        Column("KB a follower"),
        Column("client's core, %"),
    ),
    _measure,
    lambda effort: f"{effort.held} followers",
)
