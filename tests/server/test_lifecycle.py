"""The life of the process, in the test's own: start, signals, drain. tests/end_to_end has it as a process."""

import asyncio
import logging
import os
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from multiprocessing import Pipe
from pathlib import Path

import pytest

from media.catalogue import Catalogue
from media.database import CatalogueError
from server import lifecycle
from server.lifecycle import run, serve
from server.processes import Worker
from server.settings import Settings, SettingsError
from server.signals import Signals

MEGABYTE = 1024 * 1024
LENGTH = 40 * MEGABYTE


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with one track of 40 MB."""
    folder = tmp_path / "library"
    folder.mkdir()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    head = (
        struct.pack("<4sI4s", b"RIFF", LENGTH - 8, b"WAVE") + form + struct.pack("<4sI", b"data", LENGTH - 44)
    )
    with (folder / "large.wav").open("wb") as file:
        file.write(head)
        file.truncate(LENGTH)
    return folder


@pytest.fixture
def settings(library: Path, tmp_path: Path) -> Settings:
    """For that library, on any port."""
    return Settings(port=0, media=library, database=f"sqlite+aiosqlite:///{tmp_path}/tracks.sqlite3")


@pytest.fixture
def signals() -> Iterator[Signals]:
    """Those of this process, until the test has ended."""
    with Signals(60) as entered:
        yield entered


class Client:
    """One connection, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self, target: str) -> None:
        """Send a request and read the headers of its response."""
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.headers = await self.reader.readuntil(b"\r\n\r\n")


class Running:
    """A server that runs in a task."""

    def __init__(self, task: "asyncio.Task[None]", said: str, port: int) -> None:
        self.task, self.said, self.port = task, said, port

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=65536)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so; the test's own time limit ends it."""
    while not true():  # noqa: ASYNC110, nobody announces it
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    settings: Settings, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Running]:
    """A server that has said its start line; asked to end, and waited for."""
    task = asyncio.create_task(run(settings, signals))
    said = ""
    while not said and not task.done():
        await asyncio.sleep(0.01)
        said = capsys.readouterr().out
    port = re.search(r":([0-9]+)/\n", said)
    if port is None:
        await task
    assert port is not None
    try:
        yield Running(task, said, int(port[1]))
    finally:
        signals.asked.set()
        await task


# --- start ---


@pytest.mark.gen_test
async def test_start_line_names_what_is_served(
    settings: Settings, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes when the server answers, with its tracks, its folder and its address."""
    async with running(settings, signals, capsys) as server, server.client() as client:
        await client.get("/readyz")
        assert b" 200 " in client.headers
        assert server.said == (
            f"Millrace serves 1 track and the texts of {settings.media} at http://127.0.0.1:{server.port}/\n"
        )


@pytest.mark.parametrize(
    ("address", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("a.b", "a.b")],
)
@pytest.mark.gen_test
async def test_start_line_has_an_address_that_can_be_opened(
    settings: Settings, address: str, shown: str
) -> None:
    """Not one that means all; IPv6 in brackets (RFC 3986 §3.2.2)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        async with lifecycle.open_resources(settings) as resources:
            other = settings.model_copy(update={"address": address})
            line = await lifecycle._greeting(other, resources, [listening])
    assert line == f"Millrace serves 0 tracks and the texts of {settings.media} at http://{shown}:{port}/"


@pytest.mark.gen_test
async def test_start_line_where_the_tracks_cannot_be_counted(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    expect_log: Callable[[str, int, str], None],
) -> None:
    """A database that fails after it was opened does not stop the texts from being served."""

    async def fails(self: Catalogue) -> int:
        raise CatalogueError("the disk is gone")

    monkeypatch.setattr(Catalogue, "count", fails)
    expect_log("millrace", logging.ERROR, "the tracks cannot be counted: the disk is gone")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with lifecycle.open_resources(settings) as resources:
            line = await lifecycle._greeting(settings, resources, [listening])
    assert line.startswith("Millrace serves the tracks and the texts of ")


def test_start_line_without_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts us with stdout closed wants no line."""
    monkeypatch.setattr(sys, "stdout", None)
    lifecycle._greet("a line")


def test_start_line_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str, int, str], None]
) -> None:
    """A reader that has gone is noted; what is written and flushed afterwards does not fail again."""
    reading, writing = os.pipe()
    os.close(reading)
    expect_log("millrace", logging.WARNING, "the start line could not be written: Broken pipe")
    with os.fdopen(writing, "w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        lifecycle._greet("a line")
        print("more", flush=True)  # noqa: T201
        monkeypatch.undo()


def test_start_line_in_the_letters_of_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What stdout cannot encode is escaped."""
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        lifecycle._greet("음 \udcff")
        monkeypatch.undo()
    assert (tmp_path / "out").read_text() == "\\uc74c \\udcff\n"


@pytest.mark.gen_test
async def test_failing_start_closes_the_port(settings: Settings, signals: Signals, tmp_path: Path) -> None:
    """A database that cannot be used: nothing listens any more (an open socket would warn)."""
    (tmp_path / "notes").write_text("no database" * 100)
    with pytest.raises(SettingsError, match="--database cannot be used"):
        await run(settings.model_copy(update={"database": f"sqlite+aiosqlite:///{tmp_path}/notes"}), signals)


def test_open_files_are_raised(caplog: pytest.LogCaptureFixture) -> None:
    """To what this user may have, and the log says how many that are."""
    caplog.set_level(logging.DEBUG, "millrace")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        lifecycle._raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert f"open files: {hard} at most" in caplog.text


def test_open_files_that_cannot_be_raised(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then they stay as they are."""
    caplog.set_level(logging.DEBUG, "millrace")

    def refuse(*args: object) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    lifecycle._raise_open_files()
    assert f"open files: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} at most" in caplog.text


# --- signals ---


def test_whole_life(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM ends `serve` with exit code 0 and leaves the signals as they were."""
    before = signal.getsignal(signal.SIGTERM)
    said = []

    def greet(line: str) -> None:
        said.append(line)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(lifecycle, "_greet", greet)
    assert serve(settings) == 0
    assert len(said) == 1
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.gen_test
async def test_hangup_scans_again(
    settings: Settings, signals: Signals, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """SIGHUP before the server runs is ignored, and after it means a scan."""
    caplog.set_level(logging.INFO)
    signal.raise_signal(signal.SIGHUP)
    async with running(settings, signals, capsys):
        caplog.clear()
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: "library scanned" in caplog.text)
    signal.raise_signal(signal.SIGHUP)
    await asyncio.sleep(0)


@pytest.mark.gen_test(timeout=20)
async def test_signal_during_the_start(
    settings: Settings,
    signals: Signals,
    library: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first scan is broken off; nothing is greeted."""
    monkeypatch.setattr(lifecycle, "FIRST_SCAN_SECONDS", 60)
    for number in range(12):
        with (library / f"{number}.mp3").open("wb") as file:
            file.truncate(1024 * MEGABYTE)
    task = asyncio.create_task(run(settings, signals))
    await until((tmp_path / "tracks.sqlite3").exists)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(task, 6)
    assert capsys.readouterr().out == ""


@pytest.mark.gen_test
async def test_start_that_is_cancelled_is_no_start_that_was_ended(
    settings: Settings, signals: Signals
) -> None:
    """Whoever cancels the task without a signal sees it cancelled."""
    task = asyncio.create_task(run(settings, signals))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- several processes ---


@pytest.mark.parametrize(
    ("scans", "first", "said"),
    [
        (True, True, ["scanned", "ready", "scanned"]),
        (True, False, ["ready", "scanned"]),
        (False, False, ["ready"]),
    ],
    ids=["first", "replaces-first", "another"],
)
@pytest.mark.gen_test
async def test_one_worker_scans(
    settings: Settings,
    signals: Signals,
    capsys: pytest.CaptureFixture[str],
    scans: bool,
    first: bool,
    said: list[str],
) -> None:
    """At the start only before there is any other, on SIGHUP always; it says so, and greets nobody itself."""
    supervisor, ours = Pipe()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        worker = Worker(ours, [listening], scans=scans, first=first)
        task = asyncio.create_task(run(settings, signals, worker))
        heard: list[tuple[str, str]] = []

        def hears(what: str, times: int) -> bool:
            while supervisor.poll():
                heard.append(supervisor.recv())
            return [kind for kind, _ in heard].count(what) >= times

        await until(lambda: hears("ready", 1))
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: hears("scanned", said.count("scanned")))
        signals.asked.set()
        await task
        assert listening.fileno() == -1
    assert hears("ready", 1)
    assert [what for what, _ in heard] == said
    tracks = "1 track" if first else "0 tracks"
    assert dict(heard)["ready"].startswith(f"Millrace serves {tracks} and the texts of {settings.media} at ")
    assert capsys.readouterr().out == ""
    supervisor.close()
    ours.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_several_processes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` has them supervised: one line when all are ready, exit code 0."""
    said = []

    def greet(line: str) -> None:
        said.append(line)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(lifecycle, "_greet", greet)
    assert serve(settings.model_copy(update={"processes": 2})) == 0
    assert len(said) == 1


# --- drain ---


@pytest.mark.gen_test(timeout=20)
async def test_drain_waits_for_a_download(
    settings: Settings, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finite body is finished; meanwhile /readyz is 503 on an open connection and the port is closed."""
    async with (
        running(settings, signals, capsys) as server,
        server.client() as download,
        server.client() as supervisor,
    ):
        await supervisor.get("/readyz")
        assert b" 200 " in supervisor.headers
        await supervisor.reader.readexactly(3)
        await download.get("/audio/1")
        signals.asked.set()
        await asyncio.sleep(2 * lifecycle.SETTLE_SECONDS)
        assert not server.task.done()
        await supervisor.get("/readyz")
        assert b" 503 " in supervisor.headers
        assert (await supervisor.reader.read()).endswith(b"}")  # and then the connection is closed
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        assert len(await download.reader.readexactly(LENGTH)) == LENGTH
        await server.task


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_drain_finishes_a_download_behind_which_others_wait(
    settings: Settings, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the client asked for ahead and the server never read must not reset the connection."""
    async with running(settings, signals, capsys) as server, server.client() as client:
        await client.get("/audio/1")
        for _ in range(3):
            client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(0.2)  # each comes alone: Tornado reads the first ahead, and no further
        signals.asked.set()
        await asyncio.sleep(2 * lifecycle.SETTLE_SECONDS)
        received = await client.reader.readexactly(LENGTH - 4 * 1024 * 1024)
        await asyncio.sleep(0.5)  # the rest lies with the kernel, and the server closes
        received += await client.reader.readexactly(4 * 1024 * 1024)
        assert len(received) == LENGTH
        await server.task


@pytest.mark.gen_test(timeout=20)
async def test_drain_ends_the_endless_at_once(
    settings: Settings, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """An endless stream ends as a whole body, its last chunk included."""
    async with running(settings, signals, capsys) as server, server.client() as client:
        await client.get("/stream/clock?format=sse")
        signals.asked.set()
        body = await client.reader.read()
        assert re.search(rb"retry: ?[0-9]+\n\n\r\n0\r\n\r\n$", body), body
        await server.task


@pytest.mark.parametrize("drain", [0.3, 60])
@pytest.mark.gen_test(timeout=20)
async def test_drain_breaks_off_the_rest(
    settings: Settings,
    signals: Signals,
    capsys: pytest.CaptureFixture[str],
    expect_log: Callable[[str, int, str], None],
    drain: float,
) -> None:
    """After its time, or at the second signal, a download that goes on is cut."""
    expect_log("millrace", logging.WARNING, "broken off; responses that did not end in time: 1")
    settings = settings.model_copy(update={"drain": drain})
    async with running(settings, signals, capsys) as server, server.client() as client:
        await client.get("/audio/1")
        signals.asked.set()
        if drain == 60:
            await asyncio.sleep(2 * lifecycle.SETTLE_SECONDS)
            assert not server.task.done()
            signals.hurried.set()
        await server.task
        with pytest.raises(asyncio.IncompleteReadError):
            await client.reader.readexactly(LENGTH)


@pytest.mark.gen_test(timeout=20)
async def test_request_that_was_on_its_way_is_answered(
    settings: Settings,
    signals: Signals,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who connected before the drain and asks a moment later is not turned away."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lifecycle, "SETTLE_SECONDS", 0.5)
    async with running(settings, signals, capsys) as server, server.client() as client:
        await client.get("/healthz")
        await client.reader.readexactly(3)
        signals.asked.set()
        await until(lambda: "draining" in caplog.text)
        await client.get("/healthz")
        assert b" 200 " in client.headers


@pytest.mark.gen_test(timeout=20)
async def test_drain_does_not_wait_for_the_idle(
    settings: Settings, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connections that wait for a request, or are in the middle of sending one, do not hold the end up."""
    async with (
        running(settings, signals, capsys) as server,
        server.client() as kept,
        server.client() as half,
        server.client() as body,
    ):
        half.writer.write(b"GET /healthz HTTP/1.1\r\nHost:")
        body.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab")
        await kept.get("/healthz")  # it is answered behind what was sent before: that has been read, too
        signals.asked.set()
        await asyncio.wait_for(server.task, 2)
