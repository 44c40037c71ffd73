"""Figures as Markdown: medians with the lowest and highest beside them, ratios, and a place in the docs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure in every round, in their order."""

    values: tuple[float, ...]

    def __truediv__(self, other: "Spread") -> "Spread":
        """The ratio in every round: what slowed down all of a round cancels out."""
        return Spread(tuple(ours / theirs for ours, theirs in zip(self.values, other.values, strict=True)))

    def __str__(self) -> str:
        low, middle, high = map(_three_digits, (min(self.values), median(self.values), max(self.values)))
        return f"{middle} ({low}–{high})"


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


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
