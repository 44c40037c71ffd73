"""A peer: a server as a process of its own, in one file each, run from the root of the project."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that serves the files of a folder.

    Args:
        name: as the tables show it.
        command: gives the command that serves this folder at this port of 127.0.0.1, and logs to stderr.
            The folder's parent is for the peer's own files.
        target: gives the path and query of the file of this name, once the server at this port has it.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    target: Callable[[int, str], str]
