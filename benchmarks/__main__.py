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
from benchmarks.peers import Peer, aiohttp, millrace, nginx, starlette, static_file_handler, tutorial
from benchmarks.scenarios import Effort, Rounds, Scenario, connections, large_file, latency, rounds, small

LEAST_SECONDS = 0.1
"""Less would measure what lies in the sockets' buffers."""

SCENARIOS = {
    scenario.name: scenario
    for scenario in (large_file.SCENARIO, small.SCENARIO, latency.SCENARIO, connections.SCENARIO)
}

PEERS = {
    peer.key: peer
    for peer in (
        millrace.PEER,
        nginx.PEER,
        aiohttp.PEER,
        starlette.PEER,
        static_file_handler.PEER,
        tutorial.PEER,
    )
}
"""The first that is measured is compared with the others."""


def main() -> int:
    """Print the scenarios' tables. Exit code 1 where nothing could be measured."""
    asked = _arguments()
    names = list(SCENARIOS) if "all" in asked.scenarios else asked.scenarios
    effort = Effort(asked.seconds, asked.rounds)
    try:
        peers = able(asked.peers)
        found: dict[str, Rounds] = {}
        with tempfile.TemporaryDirectory() as scratch:
            served = make_library(Path(scratch, "library"), asked.size_mib)
            for name in names:
                found[name], text = _measured(SCENARIOS[name], peers, effort, served)
                print(f"{text}\n", flush=True)
                if asked.markdown:
                    report.write_block(asked.markdown, name, text)
        if asked.picture:
            asked.picture.write_text(picture.drawn(SCENARIOS, found, peers))
    except (BenchmarkError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def able(keys: Sequence[str]) -> list[Peer]:
    """The peers that were named, or all those that can be measured here.

    Raises:
        BenchmarkError: one that was named cannot.
    """
    found = []
    for peer in map(PEERS.__getitem__, keys or PEERS):
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
    parser.add_argument("--peers", type=_keys, default=[], metavar="A,B", help=f"of {','.join(PEERS)} [all]")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables into their blocks, too"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the medians")
    asked = parser.parse_args()
    if asked.seconds < LEAST_SECONDS or asked.rounds < 1 or asked.size_mib < 1:
        parser.error(f"at least {LEAST_SECONDS} seconds, 1 round and 1 MiB")
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
    effort_spent = f"{served.large_bytes >> 20} MiB, rounds of {effort.seconds:g} s: {effort.rounds}"
    load_average = f"load average {load_before:.2f} before and {os.getloadavg()[0]:.2f} after"
    parts = [report.figures(scenario, found, peers), f"{effort_spent}; {measure.machine()}; {load_average}."]
    if any(column.compared for column in scenario.columns) and len(peers) > 1:
        parts.insert(0, report.ratios(scenario, found, peers))
    return found, "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
