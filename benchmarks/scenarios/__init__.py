"""A scenario: what is asked of which peers, in one file each.

Its `run` takes an Effort and gives the tables in Markdown.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Args:
        seconds: of each measurement.
        rounds: every peer is measured once in each.
        size_mib: of the file that is served, in MiB.
    """

    seconds: float
    rounds: int
    size_mib: int
