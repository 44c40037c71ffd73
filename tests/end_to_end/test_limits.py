"""Clients that mean harm, many at a time, against the defaults; and what they leave behind."""

import resource
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, until

pytestmark = pytest.mark.slow

MEGABYTE = 1000 * 1000
PROBE_SECONDS = 5.0
"""How long the machine, that has more to do, may take for a small answer; milliseconds were measured."""

ATTACKS = {
    "header": ("-H", "-i", "3"),
    "body": ("-B", "-i", "3", "-s", "8192"),
    "read": ("-X", "-n", "3", "-z", "32", "-w", "512", "-y", "1024"),
}


@pytest.fixture
def library(library: Path) -> Path:
    """With a small text and a large one."""
    (library / "small").write_text("a line\n")
    (library / "large").write_text("a line of text\n" * 600_000)
    return library


@pytest.fixture
def _many_sockets() -> Iterator[None]:
    """1,000 connections need more descriptors than some systems give at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def probing(server: Process) -> Iterator[list[float]]:
    """Ask for /healthz and a small text, one after the other, meanwhile; the seconds that each took."""
    took: list[float] = []
    over = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not over.wait(0.1):
                for target in ("/healthz", "/text/small"):
                    began = time.monotonic()
                    status, body = server.get(target)
                    took.append(time.monotonic() - began)
                    assert (status, body) == (200, b"ok\n" if target == "/healthz" else b"a line\n")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()
    assert not failures, failures


@contextmanager
def attacking(server: Process, folder: Path, mode: str, seconds: int) -> Iterator[None]:
    """200 connections of slowhttptest, which itself says at the end whether the service was there."""
    target = "large" if mode == "read" else "small"
    common = ("-c", "200", "-r", "100", "-l", str(seconds), "-p", "5", "-u", f"{server.url}/text/{target}")
    said = folder / mode
    with said.open("wb") as out:
        attack = subprocess.Popen(
            [program("slowhttptest"), *ATTACKS[mode], *common],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
            assert attack.wait(seconds + 20) == 0
        finally:
            attack.kill()
            attack.wait()
    text = said.read_text(errors="replace")
    statuses = text.partition("slow HTTP test status")[2]
    assert "YES" in statuses
    assert "NO" not in statuses


@pytest.mark.timeout(120)
def test_slowhttptest_in_three_modes(start: Starter, library: Path, tmp_path: Path) -> None:
    """Slow headers, slow bodies and slow readers at once: every small request is answered in time."""
    program("slowhttptest")
    server = start("--media", str(library))
    with probing(server) as took:
        with (
            attacking(server, tmp_path, "header", 12),
            attacking(server, tmp_path, "body", 12),
            attacking(server, tmp_path, "read", 12),
        ):
            pass
        assert server.get("/readyz")[0] == 200
    assert len(took) > 20
    assert max(took) < PROBE_SECONDS, sorted(took)[-5:]


@pytest.mark.timeout(120)
def test_slow_ones_are_let_go(start: Starter, library: Path) -> None:
    """Each kind within its limit, whoever goes on trickling."""
    limits = ("--stall", "2", "--header-timeout", "2")
    server = start("--media", str(library), *limits)
    silent = server.send("/text/large", receive_bytes=2048)
    header, body = server.connect(), server.connect()
    header.sendall(b"GET /text/small HTTP/1.1\r\n")
    body.sendall(b"POST /text/small HTTP/1.1\r\nHost: x\r\nContent-Length: 8192\r\n\r\n")
    for why in ("it takes no more", "its request's header trickles", "its request's body trickles"):
        server.logged(f"127.0.0.1 is let go: {why}", 15)
    server.logged(r"GET /text/large 200 stalled ", 15)
    for client in (silent, header, body):
        client.close()


def begun(server: Process, count: int) -> list[socket.socket]:
    """Downloads in their middle: the headers and a little more have been read of each."""
    clients = [server.send("/text/large", receive_bytes=8192) for _ in range(count)]
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    return clients


def reset(clients: Sequence[socket.socket]) -> None:
    """Leave all of them, by a reset."""
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def descriptors(server: Process) -> int:
    """How many the server has open."""
    return len(list(Path(f"/proc/{server.popen.pid}/fd").iterdir()))


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("_many_sockets")
@pytest.mark.left_out("processes", reason="what one process has open")
def test_a_thousand_resets_in_the_middle_of_downloads(start: Starter, library: Path) -> None:
    """Twice: descriptors, memory and the count of open streams are back where they were."""
    server = start("--media", str(library))
    reset(begun(server, 10))
    until(lambda: server.log.count("GET /text/large 200 disconnected") == 10, 20)
    before = descriptors(server)
    resident = []
    for ended in (1010, 2010):
        clients = begun(server, 1000)
        # One more than a client may have: so many are counted, not more and not fewer.
        refused = server.send("/text/large")
        assert refused.recv(100).startswith(b"HTTP/1.1 429 ")
        refused.close()
        assert server.get("/healthz")[0] == 200
        assert descriptors(server) > before + 1000
        reset(clients)
        until(lambda: server.log.count("GET /text/large 200 disconnected") == ended, 60)  # noqa: B023
        until(lambda: descriptors(server) <= before, 20)
        resident.append(server.memory("VmRSS"))
    assert resident[1] < resident[0] + 10 * MEGABYTE
    server.stop()
    server.logged("draining; responses under way: 0")
