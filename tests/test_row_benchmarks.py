"""The benchmark of rows: every peer's rows are the same, all of them are counted, and its client leaves."""

import csv
import hashlib
import io
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import orders
from benchmarks.load import going_on, probe, rows
from benchmarks.measure import BenchmarkError
from tests.test_benchmarks import QuietHandler, http_server

ROWS = 20_000


def test_the_table_has_the_rows_of_the_generator(tmp_path: Path) -> None:
    """And so has the CSV, whose digest is that of its bytes; each row has one mark, and the header none."""
    orders.make_table(tmp_path / orders.DATABASE, 3000)
    with closing(sqlite3.connect(tmp_path / orders.DATABASE)) as connection:
        found = connection.execute(orders.QUERY, (2500,)).fetchall()
    assert found == list(orders.orders(2500))
    text = "".join(map(orders.line, (orders.COLUMNS, *found)))
    assert orders.digest(2500) == hashlib.blake2b(text.encode()).hexdigest()
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert tuple(header) == orders.COLUMNS
    assert lines == [list(map(str, row)) for row in found]
    assert {line.encode().count(orders.MARK) for line in text.splitlines()[1:]} == {1}
    assert orders.MARK not in orders.line(orders.COLUMNS).encode()


@pytest.mark.slow
def test_rows_are_counted_and_the_last_body_is_left_in_the_middle(tmp_path: Path) -> None:
    """Bodies follow each other; what was measured is there when the client has been told to end."""
    with row_server(tmp_path) as (bodies, port):
        with going_on("rows", job(port)) as answer:
            assert not answer
        reading = rows.Reading(**answer)
    assert reading.rows > 0
    assert reading.cpu_seconds > 0
    *whole, last = bodies[1:]  # of the first every byte is compared
    assert set(whole) <= {ROWS}
    assert 0 < last < ROWS


@pytest.mark.parametrize(("more", "found"), [(1, "others than those"), (-1, "others than those")])
def test_other_rows_are_not_measured(tmp_path: Path, more: int, found: str) -> None:
    """Be it one more or one less."""
    with row_server(tmp_path, more) as (_, port), pytest.raises(BenchmarkError, match=found):
        rows.compare(job(port))


@pytest.mark.slow
@pytest.mark.parametrize("more", [1, -1])
def test_a_row_too_many_or_lost_stops_the_run(tmp_path: Path, more: int) -> None:
    """Also where no byte is looked at."""
    with row_server(tmp_path, more) as (_, port):
        download = rows.Download(job(port), bytearray(65536))
        with download.socket, pytest.raises(BenchmarkError, match=f"where {ROWS} were asked for"):
            receive_all(download)


@pytest.mark.slow
def test_a_probe_that_is_not_patient_counts_what_was_not_answered(tmp_path: Path) -> None:
    """With what it had waited when the time was over; nothing is asked of kept connections."""
    with row_server(tmp_path) as (_, port):
        waits = probe.run(probe.Job(port, "/held", seconds=0.3, kept=False, patient=False))
    assert not waits.kept
    assert len(waits.new) in (30, 31)  # one every 10 ms
    assert max(waits.new) == pytest.approx(0.3, abs=0.1)


class RowHandler(QuietHandler):
    """Sends the CSV in chunks of a row, some rows more than asked for; never answers /held."""

    def __init__(self, bodies: list[int], more: int, *args: Any, **named: Any) -> None:
        self.bodies, self.more = bodies, more
        super().__init__(*args, **named)

    def do_GET(self) -> None:  # noqa: N802, as the standard library names it
        if self.path == "/held":
            self.rfile.read(1)  # until the client has gone
            return
        count = int(self.path.partition("rows=")[2])
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        number = len(self.bodies)
        self.bodies.append(0)
        for row in (orders.COLUMNS, *orders.orders(count + self.more)):
            chunk = orders.line(row).encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.bodies[number] += row is not orders.COLUMNS
        self.wfile.write(b"0\r\n\r\n")


@contextmanager
def row_server(folder: Path, more: int = 0) -> Iterator[tuple[list[int], int]]:
    """How many rows of each body were sent, and the port."""
    bodies: list[int] = []
    with http_server(folder, partial(RowHandler, bodies, more)) as port:
        yield bodies, port


def receive_all(download: rows.Download) -> None:
    while not download.complete:
        download.receive()


def job(port: int) -> rows.Job:
    return rows.Job(os.getpid(), port, "/rows", ROWS, 100, orders.digest(100), seconds=0.2)
