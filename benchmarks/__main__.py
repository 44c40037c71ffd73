"""The command line: which scenario, how long, and where the tables go."""

import argparse
import sys
from pathlib import Path

from benchmarks.measure import BenchmarkError
from benchmarks.report import write_block
from benchmarks.scenarios import Effort, large_file

LEAST_SECONDS = 0.1
"""Less would measure what lies in the sockets' buffers."""

SCENARIOS = {"large_file": large_file.run}


def main() -> int:
    """Print the scenario's tables. Exit code 1 where nothing could be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Millrace beside its peers."
    )
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement [3]")
    parser.add_argument("--rounds", type=int, default=5, help="every peer is measured once in each [5]")
    parser.add_argument("--size-mib", type=int, default=256, help="of the file that is served [256]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables into its block, too")
    asked = parser.parse_args()
    if asked.seconds < LEAST_SECONDS or asked.rounds < 1 or asked.size_mib < 1:
        parser.error(f"at least {LEAST_SECONDS} seconds, 1 round and 1 MiB")
    try:
        text = SCENARIOS[asked.scenario](Effort(asked.seconds, asked.rounds, asked.size_mib))
        print(text)
        if asked.markdown:
            write_block(asked.markdown, asked.scenario, text)
    except (BenchmarkError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
