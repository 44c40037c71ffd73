"""The medians as one SVG: a panel a question, a dot a peer, a line from the lowest to the highest.

The axes are logarithmic, because the peers are up to a hundred times apart; so there are dots and not bars,
whose length would mean nothing.
The background is transparent, and the colours can be read on white and on black.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from benchmarks.peers import Peer
from benchmarks.report import Spread, sides, spread, three_digits
from benchmarks.scenarios import Rounds, Scenario


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of one case of a scenario, and what is asked with it."""

    scenario: str
    case: str
    column: str
    title: str


PANELS = (
    Panel("large_file", "4 connections", "CPU-s/GB", "Large file: CPU-seconds a GB (less is better)"),
    Panel("large_file", "4 connections", "GB/s", "Large file: GB/s (more is better)"),
    Panel("small", "64 KiB range", "requests/CPU-s", "64 KiB ranges a CPU-second (more is better)"),
    Panel("small", "2 KiB text", "requests/CPU-s", "2 KiB texts a CPU-second (more is better)"),
    Panel("latency", "8 downloads", "kept p99 ms", "Beside 8 downloads: p99 ms (less is better)"),
    Panel("latency", "1 cold file", "kept p99 ms", "Beside a cold file: p99 ms (less is better)"),
    Panel("fanout", "100 bytes", "deliveries/CPU-s", "Events delivered a CPU-second (more is better)"),
    Panel("fanout", "100 bytes", "one by one/CPU-s", "Events delivered one by one (more is better)"),
    Panel("fanout", "100 bytes", "p99 ms", "Ten events a second: p99 ms (less is better)"),
    Panel("fanout", "100 bytes", "KB a subscriber", "KB an idle subscriber (less is better)"),
    Panel("live_audio", "128 kbit/s", "CPU, %", "Live audio: CPU, % of a core (less is better)"),
    Panel("rows", "generator", "rows/CPU-s", "Rows of a generator a CPU-second (more is better)"),
    Panel("rows", "SQLite", "rows/CPU-s", "Rows of SQLite a CPU-second (more is better)"),
    Panel("rows", "generator", "tiny p99 ms", "Beside a generator: p99 ms (less is better)"),
)

_COLUMNS = 2
_PANEL_WIDTH, _TITLE_HEIGHT, _ROW_HEIGHT, _GAP = 460, 30, 22, 18
_NAME_WIDTH, _VALUE_WIDTH = 190, 56
_TEXT, _LINE, _OURS, _OTHERS = "#747b83", "#8b949e", "#d9730d", "#4f86c6"
"""Each at least 3 : 1 against white and against GitHub's #0d1117, the text 4 : 1."""


def drawn(scenarios: Mapping[str, Scenario], found: Mapping[str, Rounds]) -> str:
    """The panels of the scenarios that were measured, with the peers of each in their order."""
    panels = [panel for panel in PANELS if panel.scenario in found]
    lines = [panels[begin : begin + _COLUMNS] for begin in range(0, len(panels), _COLUMNS)]
    heights = [max(_height(_peers(found[panel.scenario])) for panel in line) for line in lines]
    width, height = _PANEL_WIDTH * _COLUMNS, sum(heights)
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "font-family": "system-ui, sans-serif",
            "font-size": "13",
            "fill": _TEXT,
        },
    )
    ET.SubElement(svg, "title").text = "Millrace beside its peers; the tables have the same figures"
    for row, line in enumerate(lines):
        for column, panel in enumerate(line):
            x, y = column * _PANEL_WIDTH, sum(heights[:row])
            group = ET.SubElement(svg, "g", {"transform": f"translate({x} {y})"})
            scenario, rounds = scenarios[panel.scenario], found[panel.scenario]
            peers = _peers(rounds)
            spreads = [spread(scenario, rounds, panel.case, peer, panel.column) for peer in peers]
            _draw(group, panel, peers, spreads)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _peers(rounds: Rounds) -> list[Peer]:
    """Those of the first round, where they stand in their order."""
    return list(dict.fromkeys(peer for _, peer in rounds))


def _height(peers: Sequence[Peer]) -> int:
    return _TITLE_HEIGHT + _ROW_HEIGHT * len(peers) + _GAP


def _draw(group: ET.Element, panel: Panel, peers: Sequence[Peer], spreads: Sequence[Spread]) -> None:
    _write(group, 0, 18, panel.title, {"font-weight": "600"})
    bottom = _TITLE_HEIGHT + _ROW_HEIGHT * len(peers)
    low = math.log10(min(min(each.values) for each in spreads)) - 0.1
    high = math.log10(max(max(each.values) for each in spreads)) + 0.1

    def across(value: float) -> float:
        left, right = _NAME_WIDTH, _PANEL_WIDTH - _VALUE_WIDTH - 20
        return left + (math.log10(value) - low) / (high - low) * (right - left)

    for value in _ticks(low, high):
        x = across(value)
        _line(group, (x, _TITLE_HEIGHT), (x, bottom), {"stroke-width": "1", "stroke-dasharray": "2 3"})
        label = _short(value) if value >= 1 else f"{value:g}"
        _write(group, x, bottom + 12, label, {"text-anchor": "middle", "font-size": "10"})
    ours, _ = sides(peers)
    for number, (peer, each) in enumerate(zip(peers, spreads, strict=True)):
        y = _TITLE_HEIGHT + _ROW_HEIGHT * (number + 0.5)
        colour = _OURS if peer in ours else _OTHERS
        weight = {"font-weight": "600"} if peer in ours else {}
        _write(group, _NAME_WIDTH - 10, y + 4, peer.name, {"text-anchor": "end", **weight})
        ends = (across(min(each.values)), y), (across(max(each.values)), y)
        _line(group, *ends, {"stroke": colour, "stroke-width": "2"})
        middle = {"cx": f"{across(each.median):.1f}", "cy": f"{y:.1f}", "r": "5", "fill": colour}
        ET.SubElement(group, "circle", middle)
        end = _PANEL_WIDTH - 20
        _write(group, end, y + 4, _short(each.median), {"text-anchor": "end", **weight})


def _short(value: float) -> str:
    """Three digits: a million would reach into the panel."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{three_digits(value / unit)}{name}"
    return three_digits(value)


def _ticks(low: float, high: float) -> list[float]:
    """The powers of ten between these exponents; where they are few, also their doubles and halves."""
    steps = (1,) if high - low > 2 else (1, 2, 5)
    values = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [value for value in values if low <= math.log10(value) <= high]


def _write(group: ET.Element, x: float, y: float, text: str, look: dict[str, str]) -> None:
    ET.SubElement(group, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **look}).text = text


def _line(
    group: ET.Element, start: tuple[float, float], stop: tuple[float, float], look: dict[str, str]
) -> None:
    (x1, y1), (x2, y2) = start, stop
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    ET.SubElement(group, "line", {**ends, "stroke": _LINE, **look})
