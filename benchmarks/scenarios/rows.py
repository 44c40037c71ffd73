"""A CSV of many rows: how fast, what a tiny request waits beside it, what goes on without its client."""

import time
from statistics import quantiles

from benchmarks import measure, orders
from benchmarks.library import Library
from benchmarks.load import going_on, probe, rows
from benchmarks.peers import Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

COMPARED_ROWS = 10_000
"""Of every byte of so many; of the others it is counted that they came."""

_SECONDS_FACTOR = 2
_LEFT_SECONDS = 2
_END_SECONDS = 0.3
"""Who goes on making rows for nobody would not end when it is told to: it is killed."""

_NAMES = {"generator": orders.GENERATOR, "SQLite": orders.TABLE}
_DIGEST = orders.digest(COMPARED_ROWS)


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    database = served.folder.parent / orders.DATABASE
    if not database.exists():
        orders.make_table(database, effort.rows)
    seconds = effort.seconds * _SECONDS_FACTOR
    with serving(peer, served.folder, _END_SECONDS) as (pid, port):
        target = peer.target(port, _NAMES[case])
        # What is loaded late is loaded now.
        probe.measured(probe.Job(port, peer.tiny, min(seconds, 0.2), kept=False))
        job = rows.Job(pid, port, target, effort.rows, COMPARED_ROWS, _DIGEST, seconds)
        with going_on("rows", job) as reading:
            # On new connections only: gunicorn's sync worker keeps none.
            waits = probe.measured(probe.Job(port, peer.tiny, seconds, kept=False, patient=False))
        left = measure.usage(pid).cpu_seconds
        time.sleep(_LEFT_SECONDS * min(1.0, effort.seconds))
        left = measure.usage(pid).cpu_seconds - left
    percentiles = quantiles(waits.new, n=100, method="inclusive")
    return (
        reading["rows"] / reading["cpu_seconds"],
        reading["rows"] / reading["seconds"],
        percentiles[49] * 1e3,
        percentiles[98] * 1e3,
        max(waits.new) * 1e3,
        left,
        reading["peak_rss_bytes"] / 1e6,
        reading["load_share"] * 100,
    )


SCENARIO = Scenario(
    "rows",
    tuple(_NAMES),
    (
        Column("rows/CPU-s", compared=True),
        Column("rows/s", compared=True),
        Column("tiny p50 ms"),
        Column("tiny p99 ms", compared=True),
        Column("tiny max ms"),
        Column("CPU-s after leaving"),
        Column("peak RSS MB"),
        Column("client's core, %"),
    ),
    _measure,
    lambda effort: f"{effort.rows} rows",
)
