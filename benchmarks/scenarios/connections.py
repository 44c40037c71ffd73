"""A thousand connections that are reset in the middle of a download: what they leave behind.

The second thousand: what the first leaves is what every later one uses again, or a leak.
"""

import time

from benchmarks import library, measure
from benchmarks.library import Library
from benchmarks.load import resets
from benchmarks.measure import Usage
from benchmarks.peers import Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

CONNECTIONS = 1000
AT_A_TIME = 100
"""Fewer than a listening socket's backlog of 128: one too many would be tried again after a second."""

QUIET_SECONDS = 0.2
CLOSE_SECONDS = 10
"""A server has done what it does when it has closed nothing for so long, or after that at the latest."""


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    del case, effort  # there is but one, and it takes as long as it takes
    with serving(peer, served.folder) as (pid, port):
        target = peer.target(port, library.LARGE)
        job = resets.Job(port, target, CONNECTIONS, AT_A_TIME)
        # The first thousand fill pools and arenas, which are kept; after a few hundred they still grow.
        resets.done(job)
        before = _settled(pid)
        measure.reset_peak(pid)
        resets.done(job)
        after = _settled(pid)
    return (
        after.descriptors - before.descriptors,
        (after.rss_bytes - before.rss_bytes) / 1e6,
        (after.peak_rss_bytes - before.rss_bytes) / 1e6,
    )


def _settled(pid: int) -> Usage:
    deadline = time.monotonic() + CLOSE_SECONDS
    now = measure.usage(pid)
    while time.monotonic() < deadline:
        before = now
        time.sleep(QUIET_SECONDS)
        now = measure.usage(pid)
        if now.descriptors == before.descriptors:
            break
    return now


SCENARIO = Scenario(
    "connections",
    ("1000 resets",),
    (Column("descriptors left"), Column("MB left"), Column("MB at most")),
    _measure,
)
