"""Events to many subscribers: deliveries at full speed, latency at a steady rate, memory of an idle one."""

from benchmarks.library import Library
from benchmarks.load import fanout
from benchmarks.peers import EVENTS, Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

_STEADY_FACTOR = 3
"""Ten events a second: a measurement of one second would say too little of the hundredth delivery."""


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    del case  # there is but one
    with serving(peer, served.folder) as (pid, port):
        steady_seconds = effort.seconds * _STEADY_FACTOR
        reading = fanout.measured(
            fanout.Job(pid, port, EVENTS, effort.subscribers, peer.lines, effort.seconds, steady_seconds)
        )
    return (
        reading.many.deliveries / reading.many.cpu_seconds,
        reading.single.deliveries / reading.single.cpu_seconds,
        reading.many.deliveries / reading.many.seconds,
        reading.p50_ms,
        reading.p99_ms,
        reading.idle_bytes / 1000,
        reading.many.load_share * 100,
    )


SCENARIO = Scenario(
    "fanout",
    ("100 bytes",),
    (
        Column("deliveries/CPU-s", compared=True),
        Column("one by one/CPU-s", compared=True),
        Column("deliveries/s"),
        Column("p50 ms", compared=True),
        Column("p99 ms", compared=True),
        Column("KB a subscriber", compared=True),
        Column("client's core, %"),
    ),
    _measure,
    lambda effort: f"{effort.subscribers} subscribers",
)
