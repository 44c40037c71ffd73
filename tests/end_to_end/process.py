"""`python run.py` as a process of its own, and what its clients need."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 20
"""The machine may be busy; the start takes a second."""

_START_LINE = re.compile(r"Millrace serves .* at (https?)://(\S+):([0-9]+)/\n")
_NUMBER = re.compile(r"\[[0-9]+\]:")
_UNEXPECTED = re.compile(r"^(\S+ \S+ (?:WARNING|ERROR|CRITICAL) .*|Traceback.*|Exception .*)$", re.MULTILINE)


class Process:
    """A server that runs. `url` has no slash at its end.

    Args:
        folder: for its database, what it says on stdout, and its log on stderr.
        flags: behind `--port 0`.
        environment: variables beside those of the tests.
        command: what runs it, `python run.py` if empty.
        stdout, stderr: descriptors in place of the files that `out` and `log` read.
    """

    way: Sequence[str] = ()
    """Flags of every process, in front of its own (pytest's `--way`)."""

    def __init__(
        self,
        folder: Path,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._out = folder / "stdout"
        self._log = folder / "stderr"
        self._expected: list[str] = []
        self.url = ""
        self.port = 0
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [*(command or (sys.executable, "run.py")), "--port", "0", *self.way, *flags],
                cwd=ROOT,
                env=surroundings(folder, environment),
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=log if stderr is None else stderr,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        """What it has said on stdout."""
        return self._out.read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        """What it has said on stderr."""
        return self._log.read_text(encoding="utf-8")

    def expect_log(self, pattern: str) -> None:
        """Allow warnings and errors that hold this regular expression, the number of a process aside."""
        self._expected.append(pattern)

    def started(self) -> "Process":
        """Wait for the start line."""
        until(lambda: self.popen.poll() is not None or _START_LINE.search(self.out), START_SECONDS)
        line = _START_LINE.search(self.out)
        assert line is not None, f"exit code {self.popen.poll()}: {self.out}{self.log}"
        self.port = int(line[3])
        self.url = f"{line[1]}://{line[2]}:{line[3]}"
        return self

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        self.popen.send_signal(number)

    def ended(self, seconds: float = 15) -> int:
        """Wait for its end; the exit code."""
        return self.popen.wait(seconds)

    def stop(self) -> None:
        """End it as a supervisor does, and hold it to an orderly end and a clean log."""
        try:
            if self.popen.poll() is None:
                self.signal(signal.SIGTERM)
            assert self.ended() == 0, self.log
        finally:
            self.popen.kill()
            self.popen.wait()
        unexpected = [
            line
            for line in _UNEXPECTED.findall(self.log)
            if not any(re.search(pattern, _NUMBER.sub(":", line, count=1)) for pattern in self._expected)
        ]
        assert not unexpected, self.log

    def logged(self, pattern: str, seconds: float = 10) -> "re.Match[str]":
        """Wait for a log line that holds this regular expression."""
        until(lambda: re.search(pattern, self.log), seconds)
        found = re.search(pattern, self.log)
        assert found is not None
        return found

    def memory(self, kind: str) -> int:
        """Bytes of resident memory, of all its processes: `VmRSS`, now, or `VmHWM`, the highest ever."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in (self.popen.pid, *children)]
        found = [re.search(rf"^{kind}:\s+([0-9]+) kB$", status, re.MULTILINE) for status in statuses]
        assert all(found)
        return sum(int(of_one[1]) * 1024 for of_one in found if of_one)

    def connect(self, receive_bytes: int = 0) -> socket.socket:
        """A connection; `receive_bytes`: the size of its receive buffer, 0: the system's own."""
        client = socket.socket()
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(20)
        client.connect(("127.0.0.1", self.port))
        return client

    def send(self, target: str, receive_bytes: int = 0) -> socket.socket:
        """A connection on which a GET was sent, and nothing read."""
        client = self.connect(receive_bytes)
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return client

    def get(self, target: str, **headers: str) -> tuple[int, bytes]:
        """Status and body; `if_range="x"` is the header `If-Range: x`."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(
                "GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def surroundings(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a server or a client: a home of its own, and nothing from the machine's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("MILLRACE_") and not name.lower().endswith("_proxy")
    }
    homes = {"XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    return {**kept, **homes, **(more or {})}


def until(true: Callable[[], object], seconds: float) -> None:
    """Wait until something is so; fails when it is not so within `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def program(name: str) -> str:
    """The path of a program, or a skip that says that it is not there."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(folder: Path, *command: str, seconds: float = 40) -> "subprocess.CompletedProcess[bytes]":
    """Run a client to its end, in an environment without the machine's settings."""
    return subprocess.run(
        command,
        cwd=folder,
        env=surroundings(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
