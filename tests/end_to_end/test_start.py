"""The start: one line that says what is served, or one sentence that says what is wrong."""

import os
import pty
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process, surroundings, until

pytestmark = pytest.mark.slow


def refused(folder: Path, *flags: str, **environment: str) -> str:
    """The sentence that a start is refused with; anything else that it says or does fails."""
    done = subprocess.run(
        [sys.executable, "run.py", *flags],
        cwd=ROOT,
        env=surroundings(folder, environment),
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("millrace: ")
    return done.stderr.removeprefix("millrace: ").removesuffix("\n")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_one_line_says_what_is_served_and_where(start: Starter, library: Path) -> None:
    """The start line is all that stands on stdout."""
    (library / "track.wav").write_bytes(b"")
    server = start("--media", str(library))
    server.expect_log("track.wav")
    assert server.out == f"Millrace serves 1 track and the texts of {library} at {server.url}/\n"
    assert server.get("/healthz") == (200, b"ok\n")
    assert server.get("/readyz") == (200, b"ok\n")


def test_port_in_use(tmp_path: Path, taken: int) -> None:
    """Somebody else's port is named, with the system's reason."""
    assert refused(tmp_path, "--port", str(taken)) == (
        f"--port and --address must name a place that is free to listen on, not 127.0.0.1 port {taken}: "
        "address already in use"
    )


def test_address_of_another_machine(tmp_path: Path) -> None:
    """An address that this machine does not have is refused as the port is."""
    sentence = refused(tmp_path, "--port", "0", "--address", "192.0.2.1")
    assert sentence.startswith(
        "--port and --address must name a place that is free to listen on, not 192.0.2.1"
    )


def test_database_of_another_program(tmp_path: Path) -> None:
    """Another program's database is refused and left as it was."""
    path = tmp_path / "other.sqlite3"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE bookmarks (url TEXT)")
    database.close()
    before = path.read_bytes()
    sentence = refused(tmp_path, "--port", "0", "--database", f"sqlite+aiosqlite:///{path}")
    assert sentence == (
        f"--database cannot be used: the database {path} is another program's, "
        "it holds the tables bookmarks: give an empty or a new one"
    )
    assert path.read_bytes() == before


def test_text_file_as_database(tmp_path: Path) -> None:
    """A file that is no database is refused and left as it was."""
    path = tmp_path / "notes.txt"
    path.write_text("Notes, a page of them.\n" * 100)
    sentence = refused(tmp_path, "--port", "0", "--database", f"sqlite+aiosqlite:///{path}")
    assert sentence == (
        f"--database cannot be used: the database {path} cannot be opened (file is not a database): "
        "give one that can be reached and written, empty or made by Millrace"
    )
    assert path.read_text() == "Notes, a page of them.\n" * 100


def test_database_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder in which no file can be made is refused."""
    sentence = refused(tmp_path, "--port", "0", "--database", "sqlite+aiosqlite:////proc/tracks.sqlite3")
    assert sentence.startswith(
        "--database cannot be used: the database /proc/tracks.sqlite3 cannot be opened"
    )


def test_data_folder_that_is_a_file(tmp_path: Path) -> None:
    """The default database's folder can be at fault, too."""
    file = tmp_path / "data"
    file.touch()
    sentence = refused(tmp_path, "--port", "0")
    assert sentence.startswith(f"--database cannot be used: the folder {file}/millrace for the database ")


def test_user_without_a_home(tmp_path: Path) -> None:
    """Where there is no place for the default database, one has to be given."""
    script = "import pathlib, sys, run; pathlib.Path.home = None; sys.exit(run.main())"
    done = subprocess.run(
        [sys.executable, "-c", script.replace("None", "lambda: pathlib.Path('~nobody~').expanduser()")],
        cwd=ROOT,
        env=surroundings(tmp_path, {"XDG_DATA_HOME": "", "MILLRACE_PORT": "0"}),
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "millrace: --database cannot be used: "
        "the user has no home folder for the database: give its address\n"
    )


def test_broken_setting(tmp_path: Path) -> None:
    """It is named as it was given; tests/server/test_settings.py has the sentences."""
    sentence = 'MILLRACE_STALL must be a number of seconds from 0 to 86400, not "soon"'
    assert refused(tmp_path, MILLRACE_STALL="soon") == sentence


@pytest.mark.parametrize("redirection", [">&- 2>&-", ">/dev/full"], ids=["closed", "full"])
def test_closed_output_does_not_stop_the_server(start: Starter, redirection: str) -> None:
    """Who closes stdout or stderr, or has no room for it, gets a server all the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ("sh", "-c", f'exec "$0" run.py "$@" {redirection}', sys.executable)
    server = start("--port", str(port), command=command, wait=False)
    server.expect_log("the start line could not be written: No space left on device")
    server.port = port
    until(lambda: _answers(server), 20)


def _answers(server: Process) -> bool:
    try:
        return server.get("/healthz")[0] == 200
    except ConnectionRefusedError:
        return False


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_closed_descriptors_are_no_sockets(start: Starter, loop: str) -> None:
    """What a library says to stderr goes nowhere; uvloop aborted at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ("sh", "-c", 'exec "$0" run.py "$@" <&- >&- 2>&-', sys.executable)
    server = start("--loop", loop, "--port", str(port), command=command, wait=False)
    server.port = port
    until(lambda: _answers(server), 20)
    opened = [Path(f"/proc/{server.popen.pid}/fd/{number}").readlink() for number in range(3)]
    assert opened == [Path(os.devnull)] * 3


def test_start_line_into_a_pipe_that_nobody_reads(start: Starter) -> None:
    """A reader that has gone is noted in the log and nothing more: the exit code is 0 in the end."""
    reading, writing = os.pipe()
    os.close(reading)
    server = start(stdout=writing, wait=False)
    os.close(writing)
    server.expect_log("the start line could not be written: Broken pipe")
    server.logged("the start line could not be written")


def test_folder_whose_name_the_terminal_does_not_know(start: Starter, tmp_path: Path) -> None:
    """What cannot be written is escaped."""
    folder = tmp_path / "음악\udcff"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    server = start("--media", str(folder), environment={"PYTHONIOENCODING": "ascii"})
    assert r"\uc74c\uc545\udcff" in server.out


def test_progress_is_drawn_on_a_terminal_only(start: Starter, library: Path) -> None:
    """A bar moves on a terminal; in a log there are lines."""
    (library / "track.wav").write_bytes(b"")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    try:
        start("--media", str(library), stderr=theirs)
        assert "Reading tags" in os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)  # what the server writes from here on fails, and it goes on
    server = start("--media", str(library))
    server.expect_log("track.wav")
    server.logged(r"INFO millrace\S*: library scanned in \S+ s: 1 added")
    assert "Reading tags" not in server.log


@pytest.mark.left_out("processes", reason="a limit of one process")
def test_no_descriptor_left(start: Starter) -> None:
    """Clients are turned away and one line says so; when descriptors are free again all is as before."""
    server = start()
    server.expect_log("ERROR millrace: no descriptor is left")
    resource.prlimit(server.popen.pid, resource.RLIMIT_NOFILE, (40, 40))
    clients = [server.connect() for _ in range(80)]
    server.logged("no descriptor is left")
    for client in clients:
        client.close()
    until(lambda: healthy(server), 10)
    assert server.log.count("no descriptor is left") == 1
    assert "Traceback" not in server.log


def healthy(server: Process) -> bool:
    """Whether it answers."""
    try:
        return server.get("/healthz")[0] == 200
    except OSError:
        return False


def test_log_that_nobody_reads(tmp_path: Path) -> None:
    """It holds up neither the answers nor the end."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "run.py", "--port", "0"],
        cwd=ROOT,
        env=surroundings(tmp_path),
        stdout=subprocess.PIPE,
        stderr=writing,
        encoding="utf-8",
    )
    os.close(writing)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split()[-1]
        for _ in range(1000):  # some 150 KB of log
            with urllib.request.urlopen(url + "healthz", timeout=10) as answer:
                assert answer.status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        os.close(reading)
