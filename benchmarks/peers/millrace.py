"""Millrace as it is started in production: `run.py`, its log in a file, every setting at its default.

Beside these, for events: `--tick 0`, which joins nothing, and the default with all events in one body;
for rows: a user's module (`row_streams`).
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

from benchmarks.measure import BenchmarkError
from benchmarks.peers import EVENTS, SOURCE_PASSWORD, Peer

SCAN_SECONDS = 30
"""How long the library may take to be catalogued."""


def _command(folder: Path, port: int) -> list[str]:
    database = f"sqlite+aiosqlite:///{folder.parent / 'catalogue.sqlite3'}"
    settings = ["--address", "127.0.0.1", "--port", str(port), "--media", str(folder), "--database", database]
    return [sys.executable, "run.py", *settings]


def _target(port: int, name: str) -> str:
    """A text goes by its name; a track without tags has its file name as its title."""
    if name.endswith(".txt"):
        return f"/text/{name}"
    question = f"http://127.0.0.1:{port}/audio?q={Path(name).stem}"
    deadline = time.monotonic() + SCAN_SECONDS
    while time.monotonic() < deadline:
        try:
            with urlopen(question, timeout=SCAN_SECONDS) as response:
                tracks = json.load(response)["tracks"]
        except OSError as error:
            raise BenchmarkError(f"Millrace does not list its tracks: {error}") from error
        if tracks:
            return str(tracks[0]["url"])
        time.sleep(0.05)
    raise BenchmarkError(f"Millrace has not catalogued {name} within {SCAN_SECONDS} s")


def _told(*settings: str) -> Callable[[Path, int], list[str]]:
    return lambda folder, port: [*_command(folder, port), *settings]


PEER = Peer("millrace", "Millrace", _command, _target, tiny="/healthz", ours=True)

_CHANNEL = ("--channels", EVENTS.rpartition("/")[2])

CHANNEL = replace(PEER, command=_told(*_CHANNEL))
LINES = replace(CHANNEL, key="millrace_lines", name="Millrace, NDJSON", lines=True)
SINGLE = replace(
    CHANNEL, key="millrace_single", name="Millrace, --tick 0", command=_told(*_CHANNEL, "--tick", "0")
)

LIVE = replace(PEER, command=_told("--source-password", SOURCE_PASSWORD))


def _with_streams(folder: Path, port: int) -> list[str]:
    # A copy: a user's module and its database are in one folder.
    module = shutil.copy(Path(__file__).with_name("row_streams.py"), folder.parent)
    return [*_command(folder, port), "--streams", str(module)]


ROWS = replace(PEER, command=_with_streams, target=lambda port, name: f"/stream/{name}")
