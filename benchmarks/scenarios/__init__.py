"""A scenario: what is asked of every peer, in one file each, and how the peers take turns in it."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import library, measure
from benchmarks.library import Library
from benchmarks.peers import Peer


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Args:
        seconds: of each measurement.
        rounds: every peer is measured once in each.
        subscribers: of events, or listeners of audio.
        held: subscribers to whom nothing happens.
        size_mib: of the large file.
        rows: of a CSV.
    """

    seconds: float
    rounds: int
    subscribers: int = 1000
    held: int = 10_000
    size_mib: int = 256
    rows: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a measurement, with its unit in its name; `compared`: also as a ratio, so it is never 0."""

    name: str
    compared: bool = False


Figures = tuple[float, ...]
"""One measurement, in the order of the scenario's columns."""

Rounds = Mapping[tuple[str, Peer], Sequence[Figures]]
"""Of every case and every peer, one a round."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is measured.

    Args:
        name: on the command line, and of its block in the docs.
        cases: the variants, as the tables name them.
        columns: the figures of each.
        measure: measures one case with one peer once. It may raise BenchmarkError.
        scale: says how much there is of what is asked for.
    """

    name: str
    cases: tuple[str, ...]
    columns: tuple[Column, ...]
    measure: Callable[[str, Peer, Effort, Library], Figures]
    scale: Callable[[Effort], str] = lambda effort: f"{effort.size_mib} MiB"


def rounds(scenario: Scenario, peers: Sequence[Peer], effort: Effort, served: Library) -> Rounds:
    """Measure every peer once a round, one right after the other; who begins changes from round to round.

    Raises:
        BenchmarkError: a server does not start, or sends something else than it should.
    """
    figures: dict[tuple[str, Peer], list[Figures]] = defaultdict(list)
    for number in range(effort.rounds):
        turn = number % len(peers)
        for case in scenario.cases:
            for peer in [*peers[turn:], *peers[:turn]]:
                library.warm(served.folder / library.LARGE)
                found = scenario.measure(case, peer, effort, served)
                figures[case, peer].append(found)
                shown = ", ".join(
                    f"{column.name} {figure:.4g}"
                    for column, figure in zip(scenario.columns, found, strict=True)
                )
                where = f"{scenario.name} round {number + 1}/{effort.rounds}"
                print(f"{where}, {case}, {peer.name}: {shown}", file=sys.stderr)
    return figures


@contextmanager
def serving(peer: Peer, folder: Path, end_seconds: float = measure.END_SECONDS) -> Iterator[tuple[int, int]]:
    """Start the peer; gives its process id and its port. It may take `end_seconds` to end.

    Each measurement has a process of its own: its memory is that of this load, and no other.
    """
    port = measure.free_port()
    with measure.server(peer.command(folder, port), port, end_seconds) as process:
        yield process.pid, port
