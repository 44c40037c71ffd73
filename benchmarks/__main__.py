"""The command line: which scenarios and peers, how long, and where the tables and the picture go."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure, picture, report
from benchmarks.library import Library, make_library
from benchmarks.measure import BenchmarkError
from benchmarks.peers import (
    Peer,
    aiohttp,
    aiohttp_queues,
    django_rows,
    flask_rows,
    icecast,
    millrace,
    nchan,
    nginx,
    sse_starlette,
    starlette,
    starlette_rows,
    static_file_handler,
    tutorial,
    tutorial_rows,
)
from benchmarks.scenarios import (
    Effort,
    Rounds,
    Scenario,
    connections,
    fanout,
    held,
    large_file,
    latency,
    live_audio,
    rounds,
    rows,
    small,
    tail,
)

LEAST_SECONDS = 0.1
"""Less would measure what lies in the sockets' buffers."""

LEAST_ROWS = 10_000
"""Fewer lie in the sockets' buffers at once, and no client can leave in the middle."""

LEAST_SUBSCRIBERS = 2
"""One for warming up; the others' memory is measured."""

FILES = (
    millrace.PEER,
    nginx.PEER,
    aiohttp.PEER,
    starlette.PEER,
    static_file_handler.PEER,
    tutorial.PEER,
)
EVENTS = (
    millrace.CHANNEL,
    millrace.LINES,
    millrace.SINGLE,
    nchan.PEER,
    aiohttp_queues.PEER,
    sse_starlette.PEER,
)
AUDIO = (millrace.LIVE, icecast.PEER)
ROWS = (millrace.ROWS, flask_rows.PEER, django_rows.PEER, starlette_rows.PEER, tutorial_rows.PEER)

SCENARIOS = {
    scenario.name: (scenario, peers)
    for scenario, peers in (
        (large_file.SCENARIO, FILES),
        (small.SCENARIO, FILES),
        (latency.SCENARIO, FILES),
        (connections.SCENARIO, FILES),
        (fanout.SCENARIO, EVENTS),
        (held.SCENARIO, EVENTS[:1]),
        (tail.SCENARIO, FILES[:1]),
        (live_audio.SCENARIO, AUDIO),
        (rows.SCENARIO, ROWS),
    )
}
"""What is measured, and with whom."""

PEERS = tuple(dict.fromkeys(peer.key for _, peers in SCENARIOS.values() for peer in peers))


def main() -> int:
    """Print the scenarios' tables. Exit code 1 where nothing could be measured."""
    asked = _arguments()
    names = list(SCENARIOS) if "all" in asked.scenarios else asked.scenarios
    effort = Effort(asked.seconds, asked.rounds, asked.subscribers, asked.held, asked.size_mib, asked.rows)
    measure.raise_descriptor_limit()
    try:
        taking_part = {name: peers for name in names if (peers := able(SCENARIOS[name][1], asked.peers))}
        found: dict[str, Rounds] = {}
        with tempfile.TemporaryDirectory() as scratch:
            served = make_library(Path(scratch, "library"), asked.size_mib)
            for name, peers in taking_part.items():
                found[name], text = _measured(SCENARIOS[name][0], peers, effort, served)
                print(f"{text}\n", flush=True)
                if asked.markdown:
                    report.write_block(asked.markdown, name, text)
        if not found:
            raise BenchmarkError(f"none of those that were named takes part in {', '.join(names)}")
        if asked.picture:
            scenarios = {name: SCENARIOS[name][0] for name in found}
            asked.picture.write_text(picture.drawn(scenarios, found))
    except (BenchmarkError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def able(peers: Sequence[Peer], keys: Sequence[str]) -> list[Peer]:
    """Of these peers those that were named, in that order, or all that can be measured here.

    Raises:
        BenchmarkError: one that was named cannot.
    """
    found = []
    by_key = {peer.key: peer for peer in peers}
    for peer in [by_key[key] for key in keys or by_key if key in by_key]:
        if missing := ", ".join(peer.missing()):
            if keys:
                raise BenchmarkError(f"{peer.name} needs {missing}")
            print(f"{peer.name} is left out: it needs {missing}", file=sys.stderr)
        else:
            found.append(peer)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Millrace beside its peers."
    )
    parser.add_argument("scenarios", nargs="+", choices=[*SCENARIOS, "all"], metavar="scenario")
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement [1]")
    parser.add_argument("--rounds", type=int, default=5, help="every peer is measured once in each [5]")
    parser.add_argument("--size-mib", type=int, default=256, help="of the large file [256]")
    parser.add_argument(
        "--subscribers", type=int, default=1000, help="of events, and listeners of audio [1000]"
    )
    parser.add_argument(
        "--held",
        type=int,
        default=10_000,
        help="subscribers to whom nothing happens, followers of a file [10000]",
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of a CSV [1000000]")
    parser.add_argument("--peers", type=_keys, default=[], metavar="A,B", help=f"of {','.join(PEERS)} [all]")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables into their blocks, too"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the medians")
    asked = parser.parse_args()
    if asked.seconds < LEAST_SECONDS or asked.rounds < 1 or asked.size_mib < 1:
        parser.error(f"at least {LEAST_SECONDS} seconds, 1 round and 1 MiB")
    if min(asked.subscribers, asked.held) < LEAST_SUBSCRIBERS:
        parser.error(f"at least {LEAST_SUBSCRIBERS} subscribers")
    if asked.rows < LEAST_ROWS:
        parser.error(f"at least {LEAST_ROWS} rows")
    return asked


def _keys(text: str) -> list[str]:
    keys = text.split(",")
    if unknown := set(keys) - set(PEERS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(PEERS)}")
    return keys


def _measured(
    scenario: Scenario, peers: Sequence[Peer], effort: Effort, served: Library
) -> tuple[Rounds, str]:
    """The figures, and the text that shows them."""
    load_before = os.getloadavg()[0]
    found = rounds(scenario, peers, effort, served)
    effort_spent = f"{scenario.scale(effort)}, rounds of {effort.seconds:g} s: {effort.rounds}"
    load_average = f"load average {load_before:.2f} before and {os.getloadavg()[0]:.2f} after"
    parts = [report.figures(scenario, found, peers), f"{effort_spent}; {measure.machine()}; {load_average}."]
    if any(column.compared for column in scenario.columns) and len(peers) > 1:
        parts.insert(0, report.ratios(scenario, found, peers))
    return found, "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
