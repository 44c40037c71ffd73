"""Signals: an orderly end within its time, whatever is open, and a library that is scanned again."""

import filecmp
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, surroundings, until

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024


@pytest.fixture
def large(library: Path) -> Path:
    """A track of 120 MB: a connection's buffers, up to 36 MB by default, are the smaller part."""
    path = library / "large.wav"
    with path.open("wb") as file:
        file.write(random.Random(2).randbytes(MEGABYTE))
        file.truncate(120 * MEGABYTE)
    return path


@contextmanager
def client(folder: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A client that runs beside the test."""
    running = subprocess.Popen(
        command, cwd=folder, env=surroundings(folder), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def is_refused(server: Process) -> bool:
    """Whether nobody listens on the server's port any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) != 0


@pytest.mark.left_out("processes", reason="one process counts both")
def test_drain_ends_the_endless_and_finishes_the_finite(
    start: Starter, library: Path, tmp_path: Path, large: Path
) -> None:
    """SIGTERM: an endless stream ends as a whole body, a download arrives whole, then the exit code is 0."""
    curl = program("curl")
    server = start("--media", str(library), "--drain", "20")
    server.expect_log("large.wav")
    stream = (curl, "-sNo", "stream", f"{server.url}/stream?sleep=0.1")
    download = (curl, "-so", "download", "--limit-rate", "50M", f"{server.url}/audio/1")
    with client(tmp_path, *stream) as endless, client(tmp_path, *download) as finite:
        until(lambda: all((tmp_path / name).exists() for name in ("stream", "download")), 10)
        with socket.create_connection(("127.0.0.1", server.port)) as supervisor:
            supervisor.settimeout(10)
            server.signal(signal.SIGTERM)
            server.logged("draining; responses under way: 2")
            until(lambda: is_refused(server), 5)
            supervisor.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert supervisor.recv(65536).startswith(b"HTTP/1.1 503 ")
            assert supervisor.recv(65536) == b""  # one more answer, and no more
        assert endless.wait(5) == 0
        assert finite.poll() is None
        assert finite.wait(20) == 0
    assert server.ended() == 0
    assert filecmp.cmp(tmp_path / "download", large, shallow=False)
    assert (tmp_path / "stream").read_bytes().endswith(b"\n")
    server.logged(r"GET /stream\?sleep=0.1 200 drained ")
    server.logged(r"GET /audio/1 200 complete ")


def test_drain_breaks_off_what_does_not_finish(
    start: Starter, library: Path, tmp_path: Path, large: Path
) -> None:
    """After the drain time a download is cut, its client can tell, and the exit code is still 0."""
    curl = program("curl")
    server = start("--media", str(library), "--drain", "0.5")
    server.expect_log("broken off; responses that did not end in time: 1|large.wav")
    download = (curl, "-so", "download", "--limit-rate", "30M", f"{server.url}/audio/1")
    with client(tmp_path, *download) as finite:
        until((tmp_path / "download").exists, 10)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        assert 0.5 <= time.monotonic() - began < 4
        assert finite.wait(20) == 18
    assert (tmp_path / "download").stat().st_size < large.stat().st_size
    server.logged(r"GET /audio/1 200 drained ")


def test_events_are_told_when_to_come_back(start: Starter) -> None:
    """A drained event stream ends with `retry:`, so that not all clients return at once."""
    server = start()
    with server.send("/stream/clock?format=sse") as events:
        assert b"data:" in events.recv(65536)
        server.signal(signal.SIGTERM)
        rest = b""
        while more := events.recv(65536):
            rest += more
    assert re.search(rb"retry: ?[0-9]+\n\n\r\n0\r\n\r\n$", rest), rest
    assert server.ended() == 0


def test_answer_that_is_no_stream_is_waited_for(start: Starter) -> None:
    """A request that came before the signal is answered, also while nothing is streamed."""
    script = (
        "import asyncio, sys, run, media.catalogue as c\n"
        "tracks = c.Catalogue.tracks\n"
        "async def slow(*args):\n"
        "    print('the request has come', file=sys.stderr, flush=True)\n"
        "    await asyncio.sleep(1)\n"
        "    return await tracks(*args)\n"
        "c.Catalogue.tracks = slow\n"
        "sys.exit(run.main())\n"
    )
    server = start(command=(sys.executable, "-c", script))
    with server.send("/audio") as client:
        server.logged("the request has come")
        server.signal(signal.SIGTERM)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert server.ended() == 0


@pytest.mark.left_out("processes", reason="the supervisor is held up, and serves nothing")
def test_connection_made_before_the_signal_is_answered(start: Starter) -> None:
    """Who connected and asked while the server was held up is not reset by its end."""
    server = start()
    server.signal(signal.SIGSTOP)
    with server.send("/healthz") as client:
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert server.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_second_signal_ends_at_once(
    start: Starter, library: Path, large: Path, number: signal.Signals
) -> None:
    """Who asks twice does not wait for a client that does not read."""
    server = start("--media", str(library), "--drain", "60")
    server.expect_log("broken off; responses that did not end in time: 1|large.wav")
    with server.send("/audio/1", receive_bytes=4096) as client:
        assert client.recv(1024).startswith(b"HTTP/1.1 200 ")
        server.signal(number)
        server.logged("draining; responses under way: 1")
        began = time.monotonic()
        server.signal(number)
        assert server.ended() == 0
        assert time.monotonic() - began < 3


def test_interrupt_from_a_terminal_is_quiet(start: Starter) -> None:
    """Ctrl-C sends SIGINT to the whole process group: exit code 0 and no traceback (see Process.stop)."""
    server = start()
    os.killpg(server.popen.pid, signal.SIGINT)
    assert server.ended() == 0


def test_idle_connections_do_not_hold_the_end_up(start: Starter) -> None:
    """A client that keeps its connection open has nothing to wait for, nor has one that never asked."""
    server = start("--drain", "60")
    kept = HTTPConnection("127.0.0.1", server.port, timeout=10)
    kept.request("GET", "/healthz")
    kept.getresponse().read()
    with server.connect():
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        assert time.monotonic() - began < 3
    kept.close()


BUSY = """
import sys, run
from media.generated import generated
from media.shipped import STREAMS

async def busy(request):
    yield "it begins"
    print("the loop is held", file=sys.stderr, flush=True)
    while True:
        pass

STREAMS["busy"] = generated(busy, title="Never awaits", live=True)
sys.exit(run.main())
"""


def test_third_signal_ends_a_loop_that_is_held(start: Starter) -> None:
    """A stream that never lets go of the loop cannot keep the process from its end."""
    server = start(command=(sys.executable, "-c", BUSY))
    with server.send("/stream/busy"):
        server.logged("the loop is held")
        for _ in range(3):
            server.signal(signal.SIGTERM)
            time.sleep(0.4)  # two that are pending together would be one
        assert server.ended() == 0


def test_hanging_thread_does_not_hold_the_end_up(start: Starter) -> None:
    """The clock ends a process whose thread, on a dead disk say, does not come back."""
    script = (
        "import asyncio, sys, time, run, server.lifecycle, server.resources\n"
        "server.lifecycle.EXIT_SECONDS = 0.5\n"
        "summary = server.resources._summary\n"
        "def hang(found):\n"
        "    asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)\n"
        "    return summary(found)\n"
        "server.resources._summary = hang\n"
        "sys.exit(run.main())\n"
    )
    server = start("--drain", "0", command=(sys.executable, "-c", script))
    server.expect_log("the end is taking too long; these threads are left behind: .*(asyncio|uvloop)_[0-9]")
    server.signal(signal.SIGTERM)
    assert server.ended(10) == 0
    server.logged("the end is taking too long")


@pytest.fixture
def tedious(library: Path) -> Path:
    """A library whose first scan takes long: damaged files that are read to the limit."""
    for number in range(12):
        with (library / f"{number}.mp3").open("wb") as file:
            file.truncate(1024 * MEGABYTE)
    return library


def test_signal_during_the_first_scan(start: Starter, tedious: Path, tmp_path: Path) -> None:
    """Before the start line an end is an end: exit code 0, nothing on stdout."""
    server = start("--media", str(tedious), wait=False)
    server.expect_log("the tags of '[0-9]+.mp3' are not complete")
    until(lambda: list(tmp_path.rglob("*.sqlite3")), 20)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert time.monotonic() - began < 4
    assert server.out == ""


def test_signal_while_a_scan_goes_on(start: Starter, tedious: Path) -> None:
    """A scan that takes longer than the start is broken off."""
    server = start("--media", str(tedious))
    server.expect_log("the tags of '[0-9]+.mp3' are not complete")
    assert server.out.startswith("Millrace serves 0 tracks ")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert time.monotonic() - began < 4


def loading(server: Process) -> bool:
    """Whether the modules are being loaded: Tornado's is there."""
    return "speedups" in Path(f"/proc/{server.popen.pid}/maps").read_text()


SLOW_TO_LOAD = """
import sys, time

class Slow:
    def find_spec(name, path=None, target=None):
        if name == "tornado.httpserver":
            print("loading", file=sys.stderr, flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow)
import run
sys.exit(run.main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_signal_while_modules_are_loaded(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing runs yet: the signal ends the process, without a traceback."""
    server = Process(tmp_path, command=(sys.executable, "-c", SLOW_TO_LOAD))
    try:
        server.logged("loading", 20)
        server.signal(number)
        assert server.ended() == -number
        assert (server.out, server.log) == ("", "loading\n")
    finally:
        server.popen.kill()
        server.popen.wait()


def test_hangup_before_the_start_line_does_not_kill(start: Starter) -> None:
    """Who asks for a scan right after the start gets the first one."""
    server = start(wait=False)
    until(lambda: loading(server), 20)
    server.signal(signal.SIGHUP)
    server.started()


def test_hangup_scans_again(start: Starter, library: Path) -> None:
    """SIGHUP: a new file appears, a deleted one goes, and its id is not given to another."""

    def add(name: str, content: bytes) -> None:
        # The smallest WAV there is: a header, and samples that tell the files apart.
        header = b"fmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data"
        size = len(content).to_bytes(4, "little")
        body = b"WAVE" + header + size + content
        (library / name).write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)

    def tracks() -> dict[str, int]:
        status, body = server.get("/audio")
        assert status == 200
        return {track["title"]: track["id"] for track in json.loads(body)["tracks"]}

    add("one.wav", b"\x81" * 8000)
    add("two.wav", b"\x82" * 8000)
    server = start("--media", str(library))
    before = tracks()
    assert sorted(before) == ["one", "two"]
    add("three.wav", b"\x83" * 8000)
    (library / "two.wav").unlink()
    assert server.get(f"/audio/{before['two']}")[0] == 404
    server.signal(signal.SIGHUP)
    server.logged("library scanned in .*: 1 added, 1 removed, 1 unchanged")
    after = tracks()
    assert sorted(after) == ["one", "three"]
    assert after["one"] == before["one"]
    assert after["three"] not in before.values()
    assert server.get(f"/audio/{before['two']}")[0] == 404
