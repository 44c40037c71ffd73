"""Several processes on one port: one is killed, all are ended, and clients notice as little as can be."""

import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, until
from tests.end_to_end.test_shutdown import BUSY, is_refused
from tests.end_to_end.test_start import refused

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
LENGTH = 24 * MEGABYTE


@pytest.fixture
def large(library: Path) -> str:
    """The digest of a track of 24 MB: the kernel holds at most 4 MB of it for a client that does not read."""
    content = random.Random(5).randbytes(MEGABYTE) * 24
    (library / "large.wav").write_bytes(content)
    return hashlib.blake2b(content).hexdigest()


@pytest.fixture
def server(start: Starter, library: Path, large: str) -> Process:
    """Two processes that serve that track."""
    server = start("--media", str(library), "--processes", "2", "--drain", "30")
    server.expect_log("large.wav")
    return server


class Download:
    """A client that has read the headers of the track and a little of it, and which process serves it."""

    def __init__(self, server: Process) -> None:
        self.socket = server.send("/audio/1", receive_bytes=4096)
        self._read = b""
        while b"\r\n\r\n" not in self._read:
            self._read += self.socket.recv(1024)
        self.pid = serving(server, self.socket)

    def digest(self) -> str:
        """Read to the end; the digest of a body that is whole, otherwise empty."""
        digest = hashlib.blake2b(self._read.partition(b"\r\n\r\n")[2])
        left = LENGTH - len(self._read.partition(b"\r\n\r\n")[2])
        with self.socket, contextlib.suppress(ConnectionResetError):
            while left and (more := self.socket.recv(MEGABYTE)):
                digest.update(more)
                left -= len(more)
        return "" if left else digest.hexdigest()


def workers(server: Process) -> set[int]:
    """The processes that the supervisor has now."""
    pid = server.popen.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def serving(server: Process, client: socket.socket) -> int:
    """The process that has accepted this connection."""
    ends = f"{server.port:04X} 0100007F:{client.getsockname()[1]:04X} "
    rows = Path("/proc/net/tcp").read_text().splitlines()
    inode = next(row.split()[9] for row in rows if ends in row)
    for pid in workers(server):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return pid
    raise AssertionError("nobody has accepted it")


def downloads(server: Process) -> list[Download]:
    """Downloads under way, two in each process."""
    under_way: dict[int, list[Download]] = {pid: [] for pid in workers(server)}
    for _ in range(200):  # the kernel may give ten in a row to one of them
        if all(len(there) == 2 for there in under_way.values()):
            break
        one = Download(server)
        if len(under_way[one.pid]) < 2:
            under_way[one.pid].append(one)
        else:
            one.socket.close()
    assert [len(there) for there in under_way.values()] == [2, 2]
    return [one for there in under_way.values() for one in there]


def asked_of_each(server: Process, target: str) -> dict[int, bytes]:
    """What each process answers."""
    answers: dict[int, bytes] = {}
    for _ in range(1000):
        with server.send(target) as client:
            answer = client.recv(65536)
            answers[serving(server, client)] = answer
        if answers.keys() == workers(server):
            break
    return answers


@contextlib.contextmanager
def asking(server: Process) -> Iterator[list[str]]:
    """A client that asks on a new connection each time; what went wrong."""
    wrong: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                if server.get("/healthz") != (200, b"ok\n"):
                    wrong.append("another answer")
            except Exception as error:
                wrong.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()


def test_killed_process_loses_no_more_than_its_own(server: Process, large: str) -> None:
    """Its downloads break, visibly; the others are whole, the port answers throughout, another takes over."""
    server.expect_log("was ended by SIGKILL; another follows at once")
    under_way = downloads(server)
    killed = under_way[0].pid
    with asking(server) as wrong:
        began = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        server.logged("process [0-9]+ serves")
        assert time.monotonic() - began < 5  # alone on the machine: 0.03 s
        (new,) = workers(server) - {one.pid for one in under_way}
        until(lambda: new in asked_of_each(server, "/healthz"), 10)
    assert len(wrong) <= 1, wrong  # what it was answering just then
    for one in under_way:
        assert one.digest() == ("" if one.pid == killed else large)


@pytest.mark.parametrize("everywhere", [False, True], ids=["TERM", "INT-to-all"])
def test_drain_under_load_cuts_no_download(server: Process, large: str, everywhere: bool) -> None:
    """Exit code 0 and every body whole, also if a terminal (or systemd) has signalled each process itself."""
    under_way = downloads(server)
    if everywhere:
        os.killpg(server.popen.pid, signal.SIGINT)
    else:
        server.signal(signal.SIGTERM)
    for pid in workers(server):
        server.logged(rf"\[{pid}\]: draining; responses under way: [2-9]")
    until(lambda: is_refused(server), 5)
    for one in under_way:
        assert one.digest() == large
    assert server.ended() == 0
    assert "broken off" not in server.log


def test_second_signal_ends_at_once(server: Process) -> None:
    """Who asks twice does not wait for clients that do not read."""
    server.expect_log("broken off; responses that did not end in time")
    under_way = downloads(server)
    for _ in range(2):
        server.signal(signal.SIGTERM)
        for pid in workers(server):
            server.logged(rf"\[{pid}\]: draining")
    assert server.ended(10) == 0
    for one in under_way:
        assert one.digest() == ""


def test_third_signal_ends_a_loop_that_is_held(start: Starter) -> None:
    """A worker that never lets go of its loop cannot keep the whole from its end."""
    server = start("--processes", "2", command=(sys.executable, "-c", BUSY))
    with server.send("/stream/busy"):
        server.logged("the loop is held")
        for _ in range(3):
            server.signal(signal.SIGTERM)
            time.sleep(0.4)  # two that are pending together would be one
        assert server.ended() == 0


def test_supervisor_that_is_killed_leaves_nothing_behind(library: Path, large: str, tmp_path: Path) -> None:
    """Its workers notice, finish what they have begun, and end; the port is free."""
    server = Process(tmp_path / "server", ("--media", str(library), "--processes", "2", "--drain", "30"))
    try:
        server.started()
        under_way = downloads(server)
        left = workers(server)
        server.popen.kill()
        assert server.ended() == -signal.SIGKILL
        for pid in left:
            server.logged(rf"\[{pid}\]: the supervisor has gone, so this process ends, too")
        until(lambda: is_refused(server), 5)
        for one in under_way:
            assert one.digest() == large
        until(lambda: not any(_runs(pid) for pid in left), 10)
    finally:
        server.popen.kill()
        server.popen.wait()


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended waits for whoever inherits it to notice."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def test_one_start_line_and_one_scan(start: Starter, library: Path) -> None:
    """One process scans, at the start and on SIGHUP, and all see it; its replacement has no need to."""
    server = start("--media", str(library), "--processes", "3")
    server.expect_log("track[.]wav|was ended by SIGKILL")
    assert server.out == f"Millrace serves 0 tracks and the texts of {library} at {server.url}/\n"
    first, *_ = pids = [int(pid) for pid in server.logged("3 processes serve: (.*)")[1].split(", ")]
    assert set(pids) == workers(server)
    (library / "track.wav").write_bytes(b"")
    server.signal(signal.SIGHUP)
    server.logged(rf"\[{first}\]: library scanned in .*: 1 added")
    answers = asked_of_each(server, "/audio")
    assert set(answers) == set(pids)
    assert all(b'"title":"track"' in answer for answer in answers.values())
    os.kill(first, signal.SIGKILL)
    new = server.logged("process ([0-9]+) serves")[1]
    assert len(re.findall("library scanned", server.log)) == 2
    server.signal(signal.SIGHUP)
    server.logged(rf"\[{new}\]: library scanned in .*: 1 unchanged")


def test_worker_that_is_ended_is_replaced(server: Process, large: str) -> None:
    """SIGTERM to one process: it finishes its downloads, and no request fails meanwhile."""
    under_way = downloads(server)
    with asking(server) as wrong:
        os.kill(under_way[0].pid, signal.SIGTERM)
        server.logged(rf"\[{under_way[0].pid}\]: draining")
        for one in under_way:
            assert one.digest() == large
        server.logged(f"process {under_way[0].pid} ended with exit code 0; another follows at once")
        server.logged("process [0-9]+ serves")
    assert wrong == []


def test_wrong_setting_is_said_once(tmp_path: Path) -> None:
    """What only a worker can find wrong ends all of them, with the sentence and the exit code of one."""
    path = tmp_path / "notes"
    path.write_text("no database" * 100)
    sentence = refused(
        tmp_path, "--port", "0", "--processes", "3", "--database", f"sqlite+aiosqlite:///{path}"
    )
    assert sentence.startswith(f"--database cannot be used: the database {path} cannot be opened")
