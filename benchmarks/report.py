"""Figures as Markdown: medians with the lowest and highest beside them, ratios, and a place in the docs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.peers import Peer
from benchmarks.scenarios import Rounds, Scenario


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure in every round, in their order."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return median(self.values)

    def __truediv__(self, other: "Spread") -> "Spread":
        """The ratio in every round: what slowed down all of a round cancels out."""
        return Spread(tuple(ours / theirs for ours, theirs in zip(self.values, other.values, strict=True)))

    def __str__(self) -> str:
        low, middle, high = map(three_digits, (min(self.values), self.median, max(self.values)))
        if len(self.values) == 1:
            return middle
        return f"{middle} ({low}–{high})"


def spread(scenario: Scenario, rounds: Rounds, case: str, peer: Peer, column: str) -> Spread:
    """One figure of one peer."""
    number = [each.name for each in scenario.columns].index(column)
    return Spread(tuple(figures[number] for figures in rounds[case, peer]))


def sides(peers: Sequence[Peer]) -> tuple[Sequence[Peer], Sequence[Peer]]:
    """Those that are compared, and with whom: ours with all others; where none or all are ours, the first."""
    ours = [peer for peer in peers if peer.ours]
    if not ours or len(ours) == len(peers):
        ours = list(peers[:1])
    return ours, [peer for peer in peers if peer not in ours]


def ratios(scenario: Scenario, rounds: Rounds, peers: Sequence[Peer]) -> str:
    """A table for each of ours of what it has, divided by what each other has."""
    compared = [column.name for column in scenario.columns if column.compared]
    tables = []
    ours, others = sides(peers)
    for one in ours:
        rows = []
        for case in scenario.cases:
            for column in compared:
                figure, *theirs = (spread(scenario, rounds, case, peer, column) for peer in (one, *others))
                rows.append((case, column, *(figure / other for other in theirs)))
        heads = ["case", "ratio", *(f"{one.name} : {other.name}" for other in others)]
        tables.append(table(heads, rows, texts=2))
    return "\n\n".join(tables)


def figures(scenario: Scenario, rounds: Rounds, peers: Sequence[Peer]) -> str:
    """A table of everything that was measured."""
    columns = [column.name for column in scenario.columns]
    rows = [
        (case, peer.name, *(spread(scenario, rounds, case, peer, column) for column in columns))
        for case in scenario.cases
        for peer in peers
    ]
    return table(["case", "server", *columns], rows, texts=2)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], texts: int) -> str:
    """A Markdown table. Behind the first `texts` columns there are figures, which stand to the right."""
    lines = [heads, ["---"] * texts + ["---:"] * (len(heads) - texts), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_block(path: Path, name: str, text: str) -> None:
    """Put `text` between the lines `<!-- NAME -->` and `<!-- /NAME -->` of a Markdown file.

    Raises:
        ValueError: the file has no such lines.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, _, rest = path.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{path} has no lines {begin.strip()} and {end.strip()}")
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")


def three_digits(value: float) -> str:
    """As exact as the measurement can be taken to be, or a little more."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:#.3g}".removesuffix(".")  # 99.96
