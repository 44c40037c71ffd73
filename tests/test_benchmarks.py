"""The benchmarks: they run, they print ratios, and they measure nothing that is wrong."""

import hashlib
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import library, picture
from benchmarks.__main__ import able
from benchmarks.load import beside, fanout, going_on, held, listeners, probe, resets, tail, transfer
from benchmarks.load.endless import opened
from benchmarks.load.exchange import Exchange, request
from benchmarks.measure import BenchmarkError, reset_peak, usage
from benchmarks.peers import Peer
from benchmarks.report import Spread, figures, ratios, sides, write_block
from benchmarks.scenarios import Column, Rounds, Scenario
from tests.end_to_end.process import Process

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "benchmarks"]

A = Peer("a", "Ours", lambda folder, port: [])
B = Peer("b", "Theirs", lambda folder, port: [])
SCENARIO = Scenario(
    "large_file",
    ("4 connections",),
    (Column("GB/s", compared=True), Column("CPU-s/GB", compared=True), Column("MB")),
    lambda *_: (),
)
ROUNDS: Rounds = {
    ("4 connections", A): [(1.0, 0.5, 70.0), (2.0, 0.25, 71.0), (3.0, 0.125, 0.0)],
    ("4 connections", B): [(2.0, 0.5, 12.0), (4.0, 0.5, 12.0), (4.0, 0.5, 12.0)],
}


@pytest.mark.slow
def test_a_run_prints_its_tables_and_writes_them_and_a_picture(tmp_path: Path) -> None:
    """Every case has its ratios and figures, which replace the block of the docs, and a panel."""
    docs, svg = tmp_path / "benchmarks.md", tmp_path / "benchmarks.svg"
    docs.write_text("before\n<!-- large_file -->\nold\n<!-- /large_file -->\nafter\n")
    effort = ["--seconds", "0.2", "--rounds", "1", "--size-mib", "2"]
    where = ["--peers", "millrace,static_file_handler", "--markdown", str(docs), "--picture", str(svg)]
    done = subprocess.run(
        [*COMMAND, "large_file", *effort, *where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| case | ratio | Millrace : StaticFileHandler |" in done.stdout
    for case in ("1 connection", "4 connections", "64 connections"):
        for column in ("GB/s", "CPU-s/GB"):
            assert re.search(rf"\| {case} \| {column} \| [\d.]+ \|", done.stdout), done.stdout
        for name in ("Millrace", "StaticFileHandler"):
            found = re.search(rf"\| {case} \| {name} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", done.stdout)
            assert found, done.stdout
            assert float(found[3]) > 5  # MB of a Python process
    assert docs.read_text() == (
        f"before\n<!-- large_file -->\n\n{done.stdout.rstrip()}\n\n<!-- /large_file -->\nafter\n"
    )
    assert svg.read_text().count("StaticFileHandler") == 2


def test_a_peer_that_was_named_and_is_absent_stops_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """One that was not named is left out with a line that says so."""
    absent = Peer(
        "x",
        "Absent",
        lambda *_: [],
        program="no-such-program",
        file="/no/such/module",
        packages=("os", "no_such_package"),
    )
    assert able([A, absent], []) == [A]
    needed = "no_such_package, no-such-program, /no/such/module"
    assert capsys.readouterr().err == f"Absent is left out: it needs {needed}\n"
    with pytest.raises(BenchmarkError, match=f"Absent needs {needed}"):
        able([A, absent], ["a", "x"])


def test_who_takes_part_is_chosen_by_name_and_in_that_order() -> None:
    """Names of other scenarios' peers are no fault here."""
    assert able([A, B], ["b", "elsewhere", "a"]) == [B, A]
    assert able([A, B], ["elsewhere"]) == []


def test_wrong_bytes_are_not_measured(tmp_path: Path) -> None:
    """A server whose file is not the one that was meant stops the run."""
    (tmp_path / "noise.wav").write_bytes(b"right" * 100_000)
    with http_server(tmp_path) as port, pytest.raises(BenchmarkError, match="not those of the file"):
        transfer.run(job(port, "/noise.wav", b"wrong" * 100_000))


def test_an_error_is_not_measured(tmp_path: Path) -> None:
    """A status that is not the expected one stops the run."""
    with http_server(tmp_path) as port, pytest.raises(BenchmarkError, match="expected a 200"):
        transfer.run(job(port, "/noise.wav", b""))


def test_what_is_measured_adds_up(tmp_path: Path) -> None:
    """Each connection has its share of the bytes, and no more of them than its requests."""
    content = b"right" * 100_000
    (tmp_path / "noise.wav").write_bytes(content)
    with http_server(tmp_path) as port:
        reading = transfer.run(job(port, "/noise.wav", content))
    assert len(reading.each_bytes) == 2
    assert min(reading.each_bytes) > 0
    assert abs(reading.received_bytes - reading.requests * len(content)) <= 2 * len(content)
    assert reading.cpu_seconds > 0


@pytest.mark.parametrize("discards", [False, True])
def test_received_bytes_are_the_bodies_alone(tmp_path: Path, discards: bool) -> None:
    """Answers follow each other on a connection, and headers do not count."""
    content = bytes(range(256)) * 1000
    (tmp_path / "noise.wav").write_bytes(content)
    buffer = memoryview(bytearray(10_000))
    with http_server(tmp_path) as port:
        exchange = Exchange(port, buffer, discards=discards)
        with exchange.socket:
            for number in range(2):
                received = b""
                exchange.ask(request(port, "/noise.wav"))
                while not exchange.complete:
                    received += buffer[: exchange.receive(len(buffer))]
                assert discards or received == content
                assert exchange.received_bytes == len(content) * (number + 1)


@pytest.mark.slow
def test_a_stop_costs_every_request_that_was_due(tmp_path: Path) -> None:
    """While nothing is answered, requests fall due, more than there are connections; all have waited."""
    (tmp_path / "tiny").write_bytes(b"hello world\n")
    handler = partial(HoldingHandler, threading.Semaphore(probe.CONNECTIONS), threading.Event())
    with http_server(tmp_path, handler) as port:
        waits = probe.run(probe.Job(port, "/tiny", seconds=0.5))
    for lane in (waits.kept, waits.new):
        assert len(lane) in (50, 51)  # one every 10 ms
        assert sorted(lane)[25] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["downloads", "slow"])
def test_what_goes_on_beside_says_what_it_received(tmp_path: Path, kind: str) -> None:
    """It begins, goes on until it is ended, and counts; slow readers are slow."""
    (tmp_path / "noise.wav").write_bytes(bytes(5_000_000))
    with (
        http_server(tmp_path) as port,
        going_on("beside", beside.Job(kind, port, "/noise.wav", "", 3)) as answer,
    ):
        assert not answer
    assert answer["received_bytes"] > 0
    if kind == "slow":
        assert answer["received_bytes"] <= 3 * beside.SLOW_BYTES_PER_SECOND * (answer["seconds"] + 1)


@pytest.mark.slow
def test_resets_leave_nothing_open(tmp_path: Path) -> None:
    """As many connections as were asked for are made and reset."""
    (tmp_path / "noise.wav").write_bytes(bytes(5_000_000))
    before = usage(os.getpid()).descriptors
    with http_server(tmp_path) as port:
        assert resets.run(resets.Job(port, "/noise.wav", 20, 10)) == resets.Done(20)
    assert usage(os.getpid()).descriptors <= before


@pytest.mark.slow
@pytest.mark.parametrize("lines", [False, True], ids=["a POST each", "NDJSON"])
def test_what_is_delivered_adds_up(tmp_path: Path, lines: bool) -> None:
    """Each of the subscribers has every event, however they are published."""
    with hub_server(tmp_path) as (hub, port):
        reading = fanout.run(fanout_job(port, lines=lines))
    counted = hub.events - fanout.WARMING_EVENTS - 2
    assert reading.single.deliveries > 0
    assert reading.many.deliveries == 5 * counted - reading.single.deliveries
    assert reading.many.deliveries > reading.single.deliveries
    assert 0 < reading.p50_ms <= reading.p99_ms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "found"), [(0, "1 of 5 subscribers did not get"), (2, "[12] of 5 subscribers had other")]
)
def test_an_event_that_is_lost_or_doubled_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, found: str
) -> None:
    """Also if it is only one, of one subscriber; with one too many, the last of another is not awaited."""
    monkeypatch.setattr(fanout, "LOST_SECONDS", 3 if times == 0 else 20)  # a busy machine is late, too
    with hub_server(tmp_path) as (hub, port):
        hub.odd_event, hub.odd_times = fanout.WARMING_EVENTS + 1, times
        with pytest.raises(BenchmarkError, match=found):
            fanout.run(fanout_job(port))


@pytest.mark.slow
def test_lines_of_a_file_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each follower has every line, and the server reads them about once; one that has not stops the run."""
    monkeypatch.setattr(fanout, "LOST_SECONDS", 20)
    library = tmp_path / "library"
    library.mkdir()
    log = library / "log"
    log.write_text("begun\n")
    server = Process(tmp_path / "server", ["--media", str(library)]).started()
    try:
        target = "/text/log?follow=1&tail=0"
        job = tail.Job(server.popen.pid, server.port, str(log), target, 5, seconds=0.2, steady_seconds=0.3)
        reading = tail.run(job)
        assert reading.pace.deliveries > 0
        assert 0 < reading.p50_ms <= reading.p99_ms
        assert 1 <= reading.read_times < 5
        monkeypatch.setattr(fanout, "LOST_SECONDS", 0.3)
        with pytest.raises(BenchmarkError, match="did not get"):
            tail.run(replace(job, path=str(tmp_path / "another")))
    finally:
        server.stop()


@pytest.mark.slow
def test_a_heartbeat_is_not_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is held has to have had one; and where nothing else comes, events are lost."""
    monkeypatch.setattr(held, "LATE_SECONDS", 0.1)
    monkeypatch.setattr(fanout, "LOST_SECONDS", 0.3)
    asked = held.Job(os.getpid(), 0, "/", subscribers=5, heartbeat_seconds=0.1)
    with hub_server(tmp_path, heartbeat_seconds=0.05) as (_, port):
        assert held.run(replace(asked, port=port)).opening_seconds > 0
    with hub_server(tmp_path, heartbeat_seconds=0.05) as (hub, port):
        hub.odd_event, hub.odd_times = 0, 0
        with pytest.raises(BenchmarkError, match="did not get"):
            fanout.run(fanout_job(port))
    with hub_server(tmp_path) as (_, port), pytest.raises(BenchmarkError, match="5 of 5 subscribers had no"):
        held.run(replace(asked, port=port))


@pytest.mark.slow
def test_listeners_hear_what_the_source_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the rate at which it is sent; other bytes stop the run."""
    monkeypatch.setattr(listeners, "BEFORE_SECONDS", 0.1)
    (tmp_path / "source.mp3").write_bytes(os.urandom(listeners.FRAME_BYTES * 10))
    asked = listeners.Job(os.getpid(), 0, "/", "bench", str(tmp_path / "source.mp3"), 3, 1.0)
    with hub_server(tmp_path) as (_, port):
        reading = listeners.run(replace(asked, port=port))
    assert 0.5 <= reading.least <= reading.most <= 1.5
    with hub_server(tmp_path) as (hub, port):
        hub.odd_event, hub.odd_times = 10, 0
        with pytest.raises(BenchmarkError, match="other bytes"):
            listeners.run(replace(asked, port=port))


@pytest.mark.parametrize("received", [[320_000, 300_000], [320_000, 340_000]], ids=["less", "more"])
def test_a_listener_who_has_not_its_due_stops_the_run(received: list[int]) -> None:
    """Within five per cent it may be the server's way of cutting the stream."""
    assert listeners.check([310_000, 330_000], seconds=20) == (0.96875, 1.03125)
    with pytest.raises(BenchmarkError, match="of the stream's rate"):
        listeners.check(received, seconds=20)


def test_more_connections_than_descriptors_are_not_begun() -> None:
    """The message says how many there could be."""
    with pytest.raises(BenchmarkError, match=r"1000000000 connections are more than the \d+ descriptors"):
        opened(ExitStack(), 0, "", 1_000_000_000)


def test_a_dropped_file_is_cold(tmp_path: Path) -> None:
    """What the page cache has of a file is counted, not believed."""
    path = tmp_path / "noise.wav"
    with path.open("wb") as file:
        file.write(os.urandom(1_000_000))
        os.fsync(file.fileno())
    assert library.resident(path) == 1
    try:
        library.drop(path)
    except BenchmarkError:
        pytest.skip("the folder for temporary files is not on a disk")
    assert library.resident(path) == 0
    library.warm(path)
    assert library.resident(path) == 1


def test_a_peak_can_begin_anew() -> None:
    """What was needed before is not on the account of what is measured."""
    held = bytearray(30_000_000)
    top = usage(os.getpid())
    del held
    reset_peak(os.getpid())
    now = usage(os.getpid())
    assert top.peak_rss_bytes >= top.rss_bytes
    assert now.peak_rss_bytes < top.peak_rss_bytes
    assert now.descriptors > 2


def test_digests_are_those_of_the_part(tmp_path: Path) -> None:
    """The library knows what a range has to be."""
    served = library.make_library(tmp_path / "library", 1)
    content = (tmp_path / "library" / library.LARGE).read_bytes()
    assert served.large_bytes == len(content)
    assert served.digest(library.LARGE, 100, 70_000) == hashlib.blake2b(content[100:70_000]).hexdigest()
    assert len((tmp_path / "library" / library.TEXTS[0]).read_bytes()) == library.TEXT_BYTES


def test_a_ratio_is_taken_round_by_round() -> None:
    """A round in which everything took twice as long has the same ratio."""
    ratio = Spread((1.0, 2.0, 3.0)) / Spread((2.0, 4.0, 4.0))
    assert str(ratio) == "0.500 (0.500–0.750)"
    assert [str(Spread((value,))) for value in (123.4, 99.96, 0, -0.5)] == ["123", "100", "0", "-0.500"]


def test_tables_compare_only_what_can_be_compared() -> None:
    """A column that may be 0 has no ratio, but its figures."""
    assert ratios(SCENARIO, ROUNDS, [A, B]).splitlines() == [
        "| case | ratio | Ours : Theirs |",
        "| --- | --- | ---: |",
        "| 4 connections | GB/s | 0.500 (0.500–0.750) |",
        "| 4 connections | CPU-s/GB | 0.500 (0.250–1) |",
    ]
    assert figures(SCENARIO, ROUNDS, [A, B]).splitlines()[2] == (
        "| 4 connections | Ours | 2 (1–3) | 0.250 (0.125–0.500) | 70 (0–71) |"
    )


def test_each_of_ours_is_compared_with_the_others() -> None:
    """Where there are several of ours, there is a table for each."""
    ours, quick = replace(A, ours=True), replace(A, key="q", name="Quick", ours=True)
    found = {**ROUNDS, **{("4 connections", peer): ROUNDS["4 connections", A] for peer in (ours, quick)}}
    heads = [line for line in ratios(SCENARIO, found, [ours, quick, B]).splitlines() if "ratio" in line]
    assert heads == ["| case | ratio | Ours : Theirs |", "| case | ratio | Quick : Theirs |"]
    assert [sides(peers) for peers in ([ours, quick, B], [B, A], [ours, quick])] == [
        ([ours, quick], [B]),
        ([B], [A]),
        ([ours], [quick]),
    ]


def test_the_picture_has_a_dot_for_each_peer_in_each_panel() -> None:
    """What was not measured has no panel; less is to the left."""
    svg = ET.fromstring(picture.drawn({"large_file": SCENARIO}, {"large_file": ROUNDS}))
    panels = svg.findall("{*}g")
    assert len(panels) == 2
    cpu, speed = ([float(dot.attrib["cx"]) for dot in panel.findall("{*}circle")] for panel in panels)
    assert cpu[0] < cpu[1]
    assert speed[0] < speed[1]
    texts = [text.text for text in panels[0].findall("{*}text")]
    assert {"Ours", "Theirs", "0.250", "0.500"} <= set(texts)


def test_docs_without_the_block_are_left_alone(tmp_path: Path) -> None:
    """Tables are not put just anywhere."""
    docs = tmp_path / "benchmarks.md"
    docs.write_text("<!-- large_file -->\n")
    with pytest.raises(ValueError, match="has no lines"):
        write_block(docs, "large_file", "table")
    assert docs.read_text() == "<!-- large_file -->\n"


def job(port: int, target: str, content: bytes) -> transfer.Job:
    digest = hashlib.blake2b(content).hexdigest()
    return transfer.Job(
        os.getpid(), port, (request(port, target),), connections=2, seconds=0.1, digest=digest
    )


class QuietHandler(SimpleHTTPRequestHandler):
    """The standard library's file server, keeping connections open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""


class HoldingHandler(QuietHandler):
    """Holds every answer, after some, until a while after the first that it held."""

    def __init__(self, free: threading.Semaphore, going: threading.Event, *args: Any, **named: Any) -> None:
        self.free, self.going = free, going
        super().__init__(*args, **named)

    def do_GET(self) -> None:
        if not self.free.acquire(blocking=False):
            self.going.wait(0.6)
            self.going.set()
        super().do_GET()


class Hub:
    """What is published, for each subscriber; one of them may have one event not at all, or twice."""

    def __init__(self, heartbeat_seconds: float | None) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self.events = 0
        self.odd_event, self.odd_times = -1, 1
        self.queues: list[queue.SimpleQueue[bytes | None]] = []
        self.lock = threading.Lock()

    def publish(self, event: bytes | None) -> None:
        """None: the end."""
        with self.lock:
            for number, subscriber in enumerate(self.queues):
                odd = number == 0 and self.events == self.odd_event
                for _ in range(self.odd_times if odd else 1):
                    subscriber.put(event)
            self.events += event is not None


class HubHandler(QuietHandler):
    """POST and PUT publish, GET subscribes."""

    def __init__(self, hub: Hub, *args: Any, **named: Any) -> None:
        self.hub = hub
        super().__init__(*args, **named)

    def do_GET(self) -> None:
        own: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self.hub.lock:
            self.hub.queues.append(own)
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while True:
            try:
                event = own.get(timeout=self.hub.heartbeat_seconds)
            except queue.Empty:
                event = b":\n\n"
            if event is None:
                return
            self.wfile.write(event)

    def do_POST(self) -> None:
        if self.headers["Transfer-Encoding"]:
            while length := int(self.rfile.readline(), 16):
                for line in self.rfile.read(length).splitlines():
                    assert len(line) == fanout.DATA_BYTES
                    self.hub.publish(b"data: %s\n\n" % line)
                self.rfile.readline()
            self.rfile.readline()
        else:
            self.hub.publish(b"data: %s\n\n" % self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        assert self.headers["Authorization"] == "Basic c291cmNlOmJlbmNo"
        while received := self.rfile.read1(65536):
            self.hub.publish(received)


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients who leave in the middle, and waits for the end of its threads."""

    daemon_threads = False

    def handle_error(self, *_: object) -> None:
        assert isinstance(sys.exc_info()[1], ConnectionError)


@contextmanager
def http_server(folder: Path, handler: Callable[..., Any] = QuietHandler) -> Iterator[int]:
    with QuietServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def hub_server(folder: Path, heartbeat_seconds: float | None = None) -> Iterator[tuple[Hub, int]]:
    hub = Hub(heartbeat_seconds)
    with http_server(folder, partial(HubHandler, hub)) as port:
        try:
            yield hub, port
        finally:
            hub.publish(None)


def fanout_job(port: int, *, lines: bool = False) -> fanout.Job:
    return fanout.Job(os.getpid(), port, "/", 5, lines, seconds=0.1, steady_seconds=0.2)
