"""A peer: a server as a process of its own, in one file each, run from the root of the project.

A peer's process imports this file, so it imports next to nothing: its memory is measured.
"""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TINY = "hello world\n"
"""What every peer answers a request for /tiny with, made by its handler; no file."""

EVENTS = "/stream/bench"
"""Where a peer of `fanout` takes events (POST, the body is the data of one) and sends them (GET, SSE)."""

AUDIO = "/audio/live/bench"
SOURCE_PASSWORD = "bench"
"""Where a peer of `live_audio` takes a source (PUT, user `source`) and has its listeners (GET)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server, and how it is used.

    Args:
        key: what `--peers` calls it.
        name: as the tables show it.
        command: gives the command that serves this folder at this port of 127.0.0.1, and logs to stderr.
            The folder's parent is for the peer's own files.
        target: gives the path and query of the file of this name, once the server at this port has it.
        tiny: the path of a tiny answer.
        program: what has to be installed.
        file: what has to be there besides.
        packages: what has to be importable.
        ours: it is compared with all that are not.
        lines: it takes many events in one body (NDJSON), and so they are published.
    """

    key: str
    name: str
    command: Callable[[Path, int], list[str]]
    target: Callable[[int, str], str] = lambda port, name: f"/{name}"
    tiny: str = "/tiny"
    program: str = ""
    file: str = ""
    packages: tuple[str, ...] = ()
    ours: bool = False
    lines: bool = False

    def missing(self) -> list[str]:
        """What it needs that is not installed."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if self.program and not program_path(self.program):
            absent.append(self.program)
        if self.file and not Path(self.file).exists():
            absent.append(self.file)
        return absent


def program_path(name: str) -> str:
    """Where a program is, also if it is one of those that Debian keeps from a user's PATH; "": nowhere."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin") or ""


def python_peer(key: str, name: str, *packages: str) -> Peer:
    """A peer whose program is `benchmarks/peers/KEY.py FOLDER PORT`."""

    def command(folder: Path, port: int) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.peers.{key}", str(folder), str(port)]

    return Peer(key, name, command, packages=packages)
