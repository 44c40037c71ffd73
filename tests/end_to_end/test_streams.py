"""Named streams: as they come, in flat memory, broken off visibly, and never at another client's cost."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from http.client import HTTPConnection, HTTPResponse
from itertools import pairwise
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process, program, run, surroundings, until

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
FLAT_BYTES = 30 * MEGABYTE
"""How far the peak may lie above the idle server."""


def opened(server: Process, target: str) -> tuple[HTTPConnection, HTTPResponse]:
    """A response whose body is to be read."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", target)
    return connection, connection.getresponse()


def test_lines_arrive_one_by_one(samples: Process) -> None:
    """Each line is there when it is made, not when a buffer is full."""
    connection, response = opened(samples, "/stream?sleep=0.5")
    with closing(connection):
        arrived = []
        for _ in range(5):
            line = response.readline().decode()
            assert re.match(r"\[ {9}[0-9] s\] ", line), line
            arrived.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(arrived)]
    # Loose, for a busy machine: one line may come together with its neighbour, not all five.
    assert arrived[-1] - arrived[0] > 1.5
    assert sum(gap > 0.1 for gap in gaps) >= 3, gaps


def test_lyric_begins_again(samples: Process) -> None:
    """Behind the last line stands the seam, and then the first line."""
    lyric = (ROOT / "media" / "samples" / "text_sample").read_text(encoding="utf-8").splitlines()
    connection, response = opened(samples, "/stream?sleep=0")
    with closing(connection):
        got = [response.readline().decode().removesuffix("\n") for _ in range(len(lyric) + 2)]
    assert [re.sub(r"^\[ *[0-9]+ s\] ", "", line) for line in got] == [
        *lyric,
        "=========== Here we go again ===========",
        lyric[0],
    ]


def test_leaving_a_silent_stream_is_noticed_at_once(samples: Process) -> None:
    """The stream sleeps for a minute; its client's leaving is in the log within a second."""
    with samples.send("/stream?sleep=60") as client:
        assert b"200 OK" in client.recv(65536)
    began = time.monotonic()
    samples.logged(r"GET /stream\?sleep=60 200 disconnected ", 5)
    assert time.monotonic() - began < 1


OWN_STREAMS = """
import asyncio, sys, run
from media.generated import generated
from media.shipped import STREAMS

async def sleeper(request):
    try:
        yield "it begins"
        await asyncio.sleep(60)
    finally:
        print("the sleeper has been woken", file=sys.stderr, flush=True)

async def fails(request):
    if "late" in request.args:
        yield "it begins"
        await asyncio.sleep(0.1)
    raise ZeroDivisionError("a bug")

STREAMS["sleeper"] = generated(sleeper, title="Sleeps for a minute", live=True)
STREAMS["fails"] = generated(fails, title="Fails", first="text")
sys.exit(run.main())
"""


def test_generator_is_closed_when_its_client_leaves(start: Starter) -> None:
    """Its `finally` has run within a second, although it sleeps for a minute."""
    server = start(command=(sys.executable, "-c", OWN_STREAMS))
    with server.send("/stream/sleeper") as client:
        assert b"200 OK" in client.recv(65536)
    began = time.monotonic()
    server.logged("the sleeper has been woken", 5)
    assert time.monotonic() - began < 1


def test_failing_stream_never_looks_whole(start: Starter, tmp_path: Path) -> None:
    """In the middle: curl's exit code 18. Before the first item: a 500."""
    curl = program("curl")
    server = start(command=(sys.executable, "-c", OWN_STREAMS))
    server.expect_log("failed|broke off|Traceback")
    done = run(tmp_path, curl, "-sN", f"{server.url}/stream/fails?late=1")
    assert (done.returncode, done.stdout) == (18, b"it begins\n")
    done = run(tmp_path, curl, "-s", "-w", " %{http_code}", f"{server.url}/stream/fails")
    assert done.returncode == 0
    assert done.stdout.endswith(b" 500")
    assert b"a bug" not in done.stdout


def test_file_that_shrinks_never_looks_whole(start: Starter, library: Path, tmp_path: Path) -> None:
    """A file cut while curl downloads it: exit code 18."""
    curl = program("curl")
    path = library / "large.wav"
    with path.open("wb") as file:
        file.truncate(200 * MEGABYTE)
    server = start("--media", str(library))
    server.expect_log("large.wav|broke off: SourceBroken: the file shrank")
    download = subprocess.Popen(
        [curl, "-so", "download", "--limit-rate", "30M", f"{server.url}/audio/1"],
        cwd=tmp_path,
        env=surroundings(tmp_path),
    )
    try:
        until((tmp_path / "download").exists, 10)
        os.truncate(path, MEGABYTE)
        assert download.wait(30) == 18
    finally:
        download.kill()
        download.wait()
    server.logged("GET /audio/1 200 failed ")


def digest_of_orders(count: int) -> str:
    """The digest of what `large.csv` must be, from the same rule in Python."""
    digest = hashlib.sha256(b"id,name,quantity,price,day\r\n")
    days = [date(2020, 1, 1) + timedelta(days) for days in range(2000)]
    for start in range(1, count + 1, 10_000):
        rows = (
            f"{n},Order {n},{n * 7919 % 100 + 1},{n * 104729 % 100000 / 100.0},{days[n % 2000]}\r\n"
            for n in range(start, min(start + 10_000, count + 1))
        )
        digest.update("".join(rows).encode())
    return digest.hexdigest()


def test_million_rows_in_flat_memory(start: Starter, capsys: pytest.CaptureFixture[str]) -> None:
    """`large.csv`: every row right, the first byte soon, the memory hardly above the idle server's."""
    server = start()
    idle = server.memory("VmRSS")
    asked = time.monotonic()
    connection, response = opened(server, "/large.csv?rows=1000000")
    with closing(connection):
        digest = hashlib.sha256(response.read(1))
        first_byte = time.monotonic() - asked
        while block := response.read(65536):
            digest.update(block)
    seconds = time.monotonic() - asked
    peak = server.memory("VmHWM")
    with capsys.disabled():
        sys.stdout.write(
            f"\nlarge.csv: {first_byte * 1000:.0f} ms to the first byte, {seconds:.1f} s, "
            f"{(peak - idle) / MEGABYTE:.1f} MB above idle\n"
        )
    assert digest.hexdigest() == digest_of_orders(1_000_000)
    assert first_byte < 2
    assert peak - idle < FLAT_BYTES


def test_large_page_in_flat_memory(start: Starter, capsys: pytest.CaptureFixture[str]) -> None:
    """`large.html`: every row, the first byte soon, the memory hardly above the idle server's."""
    server = start()
    idle = server.memory("VmRSS")
    asked = time.monotonic()
    connection, response = opened(server, "/my-large-page.html?rows=200000")
    with closing(connection):
        assert response.getheader("Content-Type") == "text/html; charset=utf-8"
        assert response.readline().lower().startswith(b"<!doctype html>")
        first_byte = time.monotonic() - asked
        rows, last = 0, b""
        for line in response:
            rows += line.startswith(b"<tr><td>")
            last = line
    peak = server.memory("VmHWM")
    with capsys.disabled():
        sys.stdout.write(
            f"\nlarge.html: {first_byte * 1000:.0f} ms to the first byte, "
            f"{(peak - idle) / MEGABYTE:.1f} MB above idle\n"
        )
    assert rows == 200_000
    assert last.strip() == b"</html>"
    assert first_byte < 2
    assert peak - idle < FLAT_BYTES


def test_client_that_does_not_read_is_let_go(start: Starter, library: Path) -> None:
    """An endless stream that never sleeps and a file: the memory stays flat, and both end as stalled."""
    with (library / "large.wav").open("wb") as file:
        file.truncate(200 * MEGABYTE)
    server = start("--media", str(library), "--stall", "2")
    server.expect_log("large.wav")
    assert server.get("/healthz")[0] == 200
    idle = server.memory("VmRSS")
    with server.send("/stream?sleep=0", 4096), server.send("/audio/1", 4096):
        server.logged(r"GET /stream\?sleep=0 200 stalled ", 12)
        server.logged(r"GET /audio/1 200 stalled ", 12)
    assert server.memory("VmHWM") - idle < FLAT_BYTES


def test_slow_client_is_not_let_go(start: Starter, library: Path) -> None:
    """One that takes a little now and then is no stalled one: it is still there after twice the limit."""
    with (library / "large.wav").open("wb") as file:
        file.truncate(20 * MEGABYTE)
    server = start("--media", str(library), "--stall", "1.5")
    server.expect_log("large.wav")
    with server.send("/audio/1", 16384) as client:
        for _ in range(20):
            assert client.recv(16384)
            time.sleep(0.15)
        assert "stalled" not in server.log


@pytest.fixture
def greedy(start: Starter, tmp_path: Path) -> Iterator[Process]:
    """A server that gives one client all that it takes of a stream that never sleeps."""
    server = start()
    client = subprocess.Popen(
        [program("curl"), "-sNo", os.devnull, f"{server.url}/stream?sleep=0"], env=surroundings(tmp_path)
    )
    yield server
    client.kill()
    client.wait()


def test_tight_stream_lets_others_have_their_turn(greedy: Process) -> None:
    """Beside a stream that never sleeps, and a client that takes it all, others are answered."""
    slowest = 0.0
    for _ in range(20):
        asked = time.monotonic()
        assert greedy.get("/healthz") == (200, b"ok\n")
        slowest = max(slowest, time.monotonic() - asked)
    assert slowest < 1
