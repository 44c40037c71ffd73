"""Small answers over 32 kept connections: 64 KiB ranges of the large file, texts of 2 KiB, 12 bytes."""

import random

from benchmarks import library
from benchmarks.library import Library
from benchmarks.load import transfer
from benchmarks.load.exchange import request
from benchmarks.peers import Peer
from benchmarks.scenarios import Column, Effort, Figures, Scenario, serving

CONNECTIONS = 32
RANGE_BYTES = 64 * 1024
_RANGES = 64

_RANGE, _TEXT, _TEXTS, _TINY = "64 KiB range", "2 KiB text", "500 texts of 2 KiB in turn", "12 bytes, no file"


def _measure(case: str, peer: Peer, effort: Effort, served: Library) -> Figures:
    with serving(peer, served.folder) as (pid, port):
        requests, digest = _asked(case, peer, port, served)
        status = 206 if case == _RANGE else 200
        reading = transfer.measured(
            transfer.Job(pid, port, requests, CONNECTIONS, effort.seconds, digest, status)
        )
    return (
        reading.requests / reading.seconds,
        reading.requests / reading.cpu_seconds,
        reading.load_share * 100,
    )


def _asked(case: str, peer: Peer, port: int, served: Library) -> tuple[tuple[str, ...], str]:
    """The requests, and the digest of the first answer ("": it is not looked at)."""
    if case == _RANGE:
        chosen = random.Random(0)  # the same for every peer
        ranges = served.large_bytes // RANGE_BYTES
        starts = [chosen.randrange(ranges) * RANGE_BYTES for _ in range(_RANGES)]
        target = peer.target(port, library.LARGE)
        requests = tuple(request(port, target, start, RANGE_BYTES) for start in starts)
        return requests, served.digest(library.LARGE, starts[0], starts[0] + RANGE_BYTES)
    if case == _TINY:
        return (request(port, peer.tiny),), ""
    names = library.TEXTS[:1] if case == _TEXT else library.TEXTS
    requests = tuple(request(port, peer.target(port, name)) for name in names)
    return requests, served.digest(names[0])


SCENARIO = Scenario(
    "small",
    (_RANGE, _TEXT, _TEXTS, _TINY),
    (
        Column("requests/s", compared=True),
        Column("requests/CPU-s", compared=True),
        Column("client's core, %"),
    ),
    _measure,
)
