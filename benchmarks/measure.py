"""Processes on a core of their own, and what they used: CPU seconds and memory (Linux).

The server has one core and the load another, so that neither takes time from the other.
"""

import importlib.metadata
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import program_path

START_SECONDS = 30
END_SECONDS = 10
"""How long a process may take to listen, and to end after SIGTERM."""

_SHOWN_CHARACTERS = 2000
_ROOT = Path(__file__).resolve().parent.parent
_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]  # the same one where there is only one


class BenchmarkError(Exception):
    """The measurement means nothing: wrong bytes, a server that does not start. One sentence."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process, its threads and its children; CPU time is that of user and system, since they began.

    The peak is that since their beginning or `reset_peak`; of several processes it is the sum of their peaks.
    """

    cpu_seconds: float
    rss_bytes: int
    peak_rss_bytes: int
    descriptors: int


@contextmanager
def pinned(
    command: Sequence[str], core: int, end_seconds: float = END_SECONDS
) -> Iterator[subprocess.Popen[str]]:
    """A process that runs on `core` only, ended on leaving; its stdout can be read.

    What has not ended `end_seconds` after SIGTERM is killed, with its children.
    When a BenchmarkError passes through, the end of what it wrote to stderr is shown.
    """
    # A setting of ours in the environment would change what is measured.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        try:
            os.sched_setaffinity(process.pid, {core})  # its threads begin later and inherit it
            yield process
        except BenchmarkError:
            stderr.seek(0)
            sys.stderr.write(stderr.read()[-_SHOWN_CHARACTERS:])
            raise
        finally:
            _end(process, end_seconds)


@contextmanager
def server(
    command: Sequence[str], port: int, end_seconds: float = END_SECONDS
) -> Iterator[subprocess.Popen[str]]:
    """A server on its own core, once it listens at `port`.

    Raises:
        BenchmarkError: it ended, or did not listen in time.
    """
    with pinned(command, SERVER_CORE, end_seconds) as process:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"a server did not begin to listen: {' '.join(command)}")
            time.sleep(0.02)
        yield process


def raise_descriptor_limit() -> None:
    """Let processes started from now on have as many descriptors as they may; usual is a thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def usage(pid: int) -> Usage:
    """What the process and its children have used."""
    cpu_seconds, rss_kib, peak_kib, descriptors = 0.0, 0, 0, 0
    for member in _family(pid):
        # What clock_getcpuclockid(3) gives, which Python has not; /proc/PID/stat has steps of 10 ms.
        cpu_seconds += time.clock_gettime(~member << 3 | 2)
        status = Path(f"/proc/{member}/status").read_text()
        rss_kib += int(re.findall(r"VmRSS:\s*(\d+) kB", status)[0])
        peak_kib += int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])
        descriptors += len(list(Path(f"/proc/{member}/fd").iterdir()))
    return Usage(cpu_seconds, rss_kib * 1024, peak_kib * 1024, descriptors)


def pss_bytes(pid: int) -> int:
    """The memory of the process and its children; what some of them share is shared out among them (PSS)."""
    rollups = (Path(f"/proc/{member}/smaps_rollup").read_text() for member in _family(pid))
    return sum(int(re.findall(r"^Pss:\s*(\d+) kB", rollup, re.M)[0]) for rollup in rollups) * 1024


def reset_peak(pid: int) -> None:
    """Let the peak of the process and its children begin anew, at what they hold now."""
    for member in _family(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")  # proc(5)


def machine() -> str:
    """What the figures depend on, without the machine's name."""
    kernel = re.match(r"[\d.]*\d", platform.release())
    cores = f"{len(_CORES)} cores" if len(_CORES) > 1 else "1 core, which server and load share"
    return (
        f"{platform.machine()}, {cores}, {platform.system()} {kernel.group() if kernel else ''}, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in _versions())
    )


def _versions() -> Iterator[tuple[str, str]]:
    """Of the packages and programs that peers are made of, as far as they are installed."""
    packages = "tornado aiohttp starlette sse-starlette uvicorn uvloop flask gunicorn django aiosqlite"
    for package in packages.split():
        with suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)
    for name in ("nginx", "icecast2"):
        if path := program_path(name):
            shown = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
            found = re.search(r"\d+(\.\d+)+", shown.stdout + shown.stderr)
            yield name, found.group() if found else ""


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _family(pid: int) -> list[int]:
    members = [pid]
    for member in members:  # grows meanwhile
        for task in Path(f"/proc/{member}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
                members += map(int, (task / "children").read_text().split())
    return members


def _end(process: subprocess.Popen[str], end_seconds: float) -> None:
    process.terminate()
    try:
        process.communicate(timeout=end_seconds)
    except subprocess.TimeoutExpired:
        for member in _family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.communicate()
