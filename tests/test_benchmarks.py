"""The benchmarks: they run, they print ratios, and they measure nothing that is wrong."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.load import Download, Job, run
from benchmarks.measure import BenchmarkError
from benchmarks.report import Spread, write_block

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_large_file_prints_its_tables_and_writes_them_into_the_docs(tmp_path: Path) -> None:
    """A short run prints a ratio and a figure for every pair and peer, and replaces the block of the docs."""
    docs = tmp_path / "benchmarks.md"
    docs.write_text("before\n<!-- large_file -->\nold\n<!-- /large_file -->\nafter\n")
    effort = ["--seconds", "0.2", "--rounds", "1", "--size-mib", "2", "--markdown", str(docs)]
    command = [sys.executable, "-m", "benchmarks", "large_file", *effort]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    spread = r"(\d[\d.]*) \([\d.]+–[\d.]+\)"
    for other in ("aiofiles loop of the tutorials", "StaticFileHandler"):
        for connections in (1, 4):
            row = rf"\| Millrace : {other} \| {connections} \| {spread} \| {spread} \|"
            assert re.search(row, done.stdout), done.stdout
    figures = re.findall(rf"\| \S.* \| [14] \| {spread} \| {spread} \| {spread} \|", done.stdout)
    assert len(figures) == 6
    assert all(float(figure) > 0 for row in figures for figure in row)
    assert docs.read_text() == (
        f"before\n<!-- large_file -->\n\n{done.stdout}\n<!-- /large_file -->\nafter\n"
    )


def test_wrong_bytes_are_not_measured(tmp_path: Path) -> None:
    """A server whose file is not the one that was meant stops the run."""
    (tmp_path / "noise.wav").write_bytes(b"right" * 100_000)
    with http_server(tmp_path) as port, pytest.raises(BenchmarkError, match="not those of the file"):
        run(job(port, "/noise.wav", b"wrong" * 100_000))


def test_an_error_is_not_measured(tmp_path: Path) -> None:
    """A status that is not 200 stops the run."""
    with http_server(tmp_path) as port, pytest.raises(BenchmarkError, match="expected a 200"):
        run(job(port, "/noise.wav", b""))


def test_received_bytes_are_the_bodies_alone(tmp_path: Path) -> None:
    """Downloads follow each other on a connection, and headers do not count."""
    content = bytes(range(256)) * 1000
    (tmp_path / "noise.wav").write_bytes(content)
    buffer = memoryview(bytearray(10_000))
    with http_server(tmp_path) as port:
        download = Download(port, "/noise.wav", buffer)
        with download.socket:
            for _ in range(2):
                received = b""
                while not download.complete:
                    received += buffer[: download.receive()]
                assert received == content
                download.ask()


def test_a_ratio_is_taken_round_by_round() -> None:
    """A round in which everything took twice as long has the same ratio."""
    ratio = Spread((1.0, 2.0, 3.0)) / Spread((2.0, 4.0, 4.0))
    assert str(ratio) == "0.500 (0.500–0.750)"


def test_docs_without_the_block_are_left_alone(tmp_path: Path) -> None:
    """Tables are not put just anywhere."""
    docs = tmp_path / "benchmarks.md"
    docs.write_text("<!-- large_file -->\n")
    with pytest.raises(ValueError, match="has no lines"):
        write_block(docs, "large_file", "table")
    assert docs.read_text() == "<!-- large_file -->\n"


def job(port: int, target: str, content: bytes) -> Job:
    digest = hashlib.blake2b(content).hexdigest()
    return Job(os.getpid(), port, target, digest, connections=2, seconds=0.1)


class QuietHandler(SimpleHTTPRequestHandler):
    """The standard library's file server, keeping connections open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def http_server(folder: Path) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
