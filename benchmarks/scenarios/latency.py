"""What a tiny request waits beside downloads, and what memory these take."""

from statistics import quantiles

from benchmarks import library, measure
from benchmarks.library import Library
from benchmarks.load import beside, going_on, probe
from benchmarks.peers import Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

_SECONDS_FACTOR = 2
"""A hundred requests a second: a measurement of one second would say too little of the hundredth."""

_BESIDE = {
    "8 downloads": ("downloads", 8),
    "1 cold file": ("cold", 1),
    "200 readers of 10 KB/s": ("slow", 200),
}


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    kind, connections = _BESIDE[case]
    seconds = effort.seconds * _SECONDS_FACTOR
    with serving(peer, served.folder) as (pid, port):
        path = str(served.folder / library.LARGE)
        target = peer.target(port, library.LARGE)
        asked = probe.Job(port, peer.tiny, seconds)
        probe.measured(probe.Job(port, peer.tiny, min(seconds, 0.2)))  # what is loaded late is loaded now
        measure.reset_peak(pid)
        idle = measure.usage(pid)
        with going_on("beside", beside.Job(kind, port, target, path, connections)) as downloads:
            waits = probe.measured(asked)
            peak = measure.usage(pid).peak_rss_bytes
    return (
        *_milliseconds(waits.kept),
        *_milliseconds(waits.new),
        (peak - idle.rss_bytes) / 1e6,
        downloads["received_bytes"] / downloads["seconds"] / 1e6,
    )


def _milliseconds(waits: tuple[float, ...]) -> tuple[float, float, float]:
    """The median, the 99th percentile and the longest."""
    percentiles = quantiles(waits, n=100, method="inclusive")
    return percentiles[49] * 1e3, percentiles[98] * 1e3, max(waits) * 1e3


SCENARIO = Scenario(
    "latency",
    tuple(_BESIDE),
    (
        Column("kept p50 ms", compared=True),
        Column("kept p99 ms", compared=True),
        Column("kept max ms"),
        Column("new p50 ms", compared=True),
        Column("new p99 ms", compared=True),
        Column("new max ms"),
        Column("MB above idle"),
        Column("downloads MB/s"),
    ),
    _measure,
)
