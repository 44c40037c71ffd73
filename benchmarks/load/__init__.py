"""The load: bare sockets, in a process of its own on the core of the load.

`transfer` asks again and again and measures; `probe` measures how long tiny requests wait;
`beside` is what goes on meanwhile; `fanout`, `tail`, `held` and `listeners` have answers that do not end
(`endless`).
Each takes its job as JSON and prints what it found as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from benchmarks.measure import LOAD_CORE, BenchmarkError, pinned

SILENCE_SECONDS = 30
"""How long a server may send nothing."""


def found(kind: str, job: Any, seconds: float) -> dict[str, Any]:
    """Do a job of this kind, which takes about `seconds`; gives what it printed.

    Raises:
        BenchmarkError: the server sent wrong bytes, or none.
    """
    with pinned(_command(kind, job), LOAD_CORE) as process:
        return _answer(process, seconds + 4 * SILENCE_SECONDS)


@contextmanager
def going_on(kind: str, job: Any) -> Iterator[dict[str, Any]]:
    """Do a job of this kind until leaving; after that the dict has what it printed.

    Raises:
        BenchmarkError: the server sent wrong bytes, or none.
    """
    with pinned(_command(kind, job), LOAD_CORE) as process:
        assert process.stdout is not None
        if not process.stdout.readline():  # an empty line says that it has begun
            raise BenchmarkError("the load failed")
        answer: dict[str, Any] = {}
        yield answer
        process.terminate()
        answer.update(_answer(process, SILENCE_SECONDS))


def _command(kind: str, job: Any) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.load.{kind}", json.dumps(asdict(job))]


def _answer(process: subprocess.Popen[str], timeout_seconds: float) -> dict[str, Any]:
    try:
        answer, _ = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        raise BenchmarkError("the load did not end") from None
    if process.returncode:
        raise BenchmarkError("the load failed")
    return dict(json.loads(answer))
