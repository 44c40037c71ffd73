"""A PostgreSQL of the tests' own: made, started and thrown away by them, on a socket that only they know."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

START_SECONDS = 20
"""The machine may be busy; making and starting it takes a second."""

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "autovacuum": "off",
    "max_connections": "50",
    "timezone": "Asia/Seoul",
}
"""Another time zone than that of the program: what comes must not depend on it."""


class PostgreSQL:
    """A server that runs, with the one database `postgres` of the one user `postgres`."""

    def __init__(self) -> None:
        self._programs = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="millrace-pg-"))  # a socket's path is short
        self._log = (self._folder / "log").open("wb")
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self._folder, self._user)
        self._start()

    @property
    def url(self) -> str:
        """For rows()."""
        return f"postgresql+asyncpg://postgres@/postgres?host={self._folder}"

    def stop(self) -> None:
        """At once, and remove it."""
        self._server.send_signal(signal.SIGINT)  # SIGTERM would wait for the clients
        try:
            self._server.wait(10)
        finally:
            self._server.kill()
            self._server.wait()
            self._log.close()
            shutil.rmtree(self._folder)

    def execute(self, statement: str) -> str:
        """What psql prints of it, a line a row with `|` between."""
        done = self._run(
            "psql",
            "-XAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
            str(self._folder),
            "-c",
            statement,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def activity(self) -> list[str]:
        """What the clients' connections are doing, but for the one that asks: `state|statement`."""
        found = self.execute(
            "SELECT state, regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return found.splitlines()

    def _start(self) -> None:
        data = str(self._folder / "data")
        made = self._run(
            "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"
        )
        assert made.returncode == 0, made.stderr
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        self._server = subprocess.Popen(
            [self._programs / "postgres", "-D", data, "-k", str(self._folder), *settings],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, **self._as_user(),
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while self._run("pg_isready", "-q", "-h", str(self._folder)).returncode:
            assert self._server.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _run(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command: Sequence[str | Path] = [self._programs / name, *arguments]
        return subprocess.run(
            command,
            cwd=self._folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=40,
            **self._as_user(),
        )

    def _as_user(self) -> dict[str, object]:
        return {"user": self._user, "extra_groups": []} if os.geteuid() == 0 else {}


def _programs() -> Path:
    """Where Debian has them, by version, or wherever else; a skip where they are not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    if postgres := shutil.which("postgres"):
        return Path(postgres).parent
    pytest.skip("PostgreSQL's server is not installed")
