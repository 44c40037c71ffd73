"""Rows of a database over HTTP: exports that break off and go on, clients that leave, and what it takes."""

import http.client
import random
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process, program, run, until
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.slow

ROWS = 100_000
BREAKS = 20
MEGABYTE = 1000 * 1000

COLUMNS = "id, name, quantity, price, day"


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """Its address: orders whose names have commas, quotes, line breaks."""
    with closing(sqlite3.connect(tmp_path / "orders.db")) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name, quantity, price, day)")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)"
            " INSERT INTO orders"
            " SELECT i * 3, 'Order, \"' || i || CASE i % 7 WHEN 0 THEN '\"' || char(13, 10) ELSE '' END,"
            " i * 7919 % 100, nullif(i * 104729 % 100000 / 100.0, 0.5), date('2020-01-01', i % 999 || ' day')"
            " FROM n",
            (ROWS,),
        )
    return f"sqlite+aiosqlite:///{tmp_path}/orders.db"


@pytest.fixture(scope="module")
def postgres(postgresql: PostgreSQL) -> str:
    """Its address, with the like."""
    postgresql.execute("DROP TABLE IF EXISTS orders")
    postgresql.execute(
        f"""CREATE TABLE orders AS SELECT i * 3 AS id,
            'Order, "' || i || CASE i % 7 WHEN 0 THEN E'"\\r\\n' ELSE '' END AS name,
            i::bigint * 7919 % 100 AS quantity, i::bigint * 104729 % 100000 / 100.0 AS price,
            date '2020-01-01' + i % 2000 AS day FROM generate_series(1, {ROWS}) AS i"""
    )
    postgresql.execute("ALTER TABLE orders ADD PRIMARY KEY (id)")
    return postgresql.url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.getfixturevalue(request.param))


def exporting(
    start: Starter, database: str, query: str = f"SELECT {COLUMNS} FROM orders", drain_seconds: float = 10
) -> Process:
    flags = ("--export", f"orders.csv={query}", "--min-rate", "0", "--drain", str(drain_seconds))
    return start(*flags, environment={"MILLRACE_EXPORT_DATABASE": database})


def whole_rows(received: bytes) -> bytes:
    """As docs/http.md says it: up to the last line break that is in no quotes."""
    end = received.rfind(b"\r\n")
    while end >= 0 and received.count(b'"', 0, end) % 2:
        end = received.rfind(b"\r\n", 0, end)
    return received[: end + 2] if end >= 0 else b""


def last_key(rows: bytes) -> str:
    """The first field of the last row; a row with a line break in it has that in its second."""
    before = whole_rows(rows[:-2])
    return rows[len(before) :].split(b",")[0].decode()


def part(server: Process, target: str, most: int) -> tuple[bytes, bool]:
    """What came before the client broke off, or the end."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        received = b""
        while len(received) < most:
            more = response.read1(most - len(received))
            if not more:
                return received, True
            received += more
        return received, False
    finally:
        connection.close()


def test_an_export_that_breaks_again_and_again(
    start: Starter, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At random places: the joined file is byte for byte the unbroken one, and memory stays where it was."""
    server = exporting(start, database)
    server.get("/stream/orders.csv?after=299990")
    idle = server.memory("VmHWM")
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    status, unbroken = server.get("/stream/orders.csv")
    assert (status, unbroken.count(b"Order")) == (200, ROWS)
    joined, ended, broken = b"", False, 0
    while not ended:
        target = "/stream/orders.csv" + (f"?after={last_key(joined)}" if joined.count(b"Order") else "")
        most = chance.randrange(len(unbroken) // BREAKS * 2) + 1 if broken < BREAKS else sys.maxsize
        received, ended = part(server, target, most)
        joined += received if ended else whole_rows(received)
        broken += not ended
    assert joined == unbroken, f"seed {seed}"
    assert part(server, f"/stream/orders.csv?after={last_key(joined)}", sys.maxsize) == (b"", True)
    peak = (server.memory("VmHWM") - idle) / MEGABYTE
    with capsys.disabled():
        sys.stdout.write(f"\n{broken} breaks: {peak:.1f} MB\n")
    assert peak < 30


def test_a_server_that_ends_in_the_middle(start: Starter, database: str, tmp_path: Path) -> None:
    """curl can tell, and another server goes on where it was."""
    # More than the kernel holds: else the server is done with it before it ends.
    query = f"SELECT {COLUMNS}, '{'x' * 200}' AS filling FROM orders"
    server = exporting(start, database, query, drain_seconds=0.1)
    server.expect_log("broken off|broke off|cut")
    got = tmp_path / "got"
    command = [
        program("curl"),
        "-sS",
        "--limit-rate",
        "2M",
        "-o",
        str(got),
        f"{server.url}/stream/orders.csv",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as curl:
        until(lambda: got.exists() and got.stat().st_size > 500_000, 20)
        server.signal(signal.SIGTERM)
        assert curl.wait(20) in (18, 56)
    another = exporting(start, database, query)
    joined = whole_rows(got.read_bytes())
    joined += another.get(f"/stream/orders.csv?after={last_key(joined)}")[1]
    assert joined == another.get("/stream/orders.csv")[1]


def test_the_docs_program_goes_on(start: Starter, sqlite: str, tmp_path: Path) -> None:
    """As it stands in docs/http.md, run again on a file that lacks its end, in the middle of a row."""
    server = exporting(start, sqlite)
    text = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(import csv\n.*?)```", text, re.DOTALL)
    program = program.replace("http://127.0.0.1:8888", server.url)
    unbroken = server.get("/stream/orders.csv")[1]
    for most in (5, len(unbroken) // 2, len(unbroken)):
        (tmp_path / "orders.csv").write_bytes(unbroken[:most])
        done = run(tmp_path, sys.executable, "-c", program)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "orders.csv").read_bytes() == unbroken


def test_a_client_that_leaves_ends_its_statement(start: Starter, postgresql: PostgreSQL) -> None:
    """Within a second; so does its connection."""
    server = exporting(start, postgresql.url, "SELECT n, pg_sleep(60) FROM generate_series(1, 9) AS n")
    client = server.send("/stream/orders.csv")
    until(lambda: any("active" in line for line in postgresql.activity()), 10)
    client.close()
    until(lambda: not postgresql.activity(), 3)
    assert server.get("/healthz")[0] == 200


def test_a_client_that_does_not_read_holds_nothing(
    start: Starter, postgres: str, postgresql: PostgreSQL
) -> None:
    """Between two pages no transaction is open, and others may change the table."""
    server = exporting(start, postgres)
    client = server.send("/stream/orders.csv", receive_bytes=4096)
    assert client.recv(12) == b"HTTP/1.1 200"
    until(lambda: [line.partition("|")[0] for line in postgresql.activity()] == ["idle"], 10)
    postgresql.execute(
        "SET lock_timeout = '2s'; ALTER TABLE orders ADD more int; ALTER TABLE orders DROP more"
    )
    client.close()
    until(lambda: not postgresql.activity(), 3)


def test_a_database_that_goes_away(start: Starter, tmp_path: Path) -> None:
    """502 before the first byte, a broken body after it, and no password in the log."""
    own = PostgreSQL()
    try:
        address = own.url.replace("postgres@", "postgres:secret@")
        server = exporting(start, address, "SELECT n, repeat('x', 500) FROM generate_series(1, 100000) AS n")
        server.expect_log("broke off: SourceBroken: the database failed|the database cannot be reached|502")
        client = server.send("/stream/orders.csv", receive_bytes=4096)
        assert client.recv(12) == b"HTTP/1.1 200"
    finally:
        own.stop()
    received = b""
    while more := client.recv(65536):
        received += more
    client.close()
    assert not received.endswith(b"0\r\n\r\n")
    server.logged("broke off: SourceBroken: the database failed")
    assert server.get("/stream/orders.csv")[0] == 502
    server.logged("the database cannot be reached")
    assert "secret" not in server.log


def test_a_start_that_is_refused(tmp_path: Path) -> None:
    """One sentence, exit code 2."""
    server = Process(
        tmp_path / "server",
        ("--export", "orders=SELECT 1"),
        {"MILLRACE_EXPORT_DATABASE": "postgresql+asyncpg://me:secret@127.0.0.1:1/x"},
    )
    assert server.ended() == 2
    [line] = server.log.splitlines()
    assert line.startswith("millrace: --export orders cannot be read: the database cannot be reached: ")
    assert "secret" not in line


def test_several_processes_export(start: Starter, sqlite: str) -> None:
    """Each asks the database by itself, after the fork."""
    server = start(
        "--processes", "2", "--export-database", sqlite, "--export", "orders=SELECT id FROM orders"
    )
    for _ in range(8):
        assert server.get("/stream/orders")[1].count(b"\n") == ROWS + 1


def test_the_rest_of_events(start: Starter, sqlite: str) -> None:
    """With Last-Event-ID as a header, also of texts; behind the last one there is nothing: 204."""
    query = "SELECT '바람 ' || printf('%06d', id) AS k FROM orders WHERE id > CAST(:least AS int)"
    server = exporting(start, sqlite, query)
    key = "바람 299997".encode().decode("latin-1")
    status, body = server.get("/stream/orders.csv?least=0&format=sse", last_event_id=key)
    assert (status, body.count(b"id: ")) == (200, 2)
    last = "바람 300000".encode().decode("latin-1")
    assert server.get("/stream/orders.csv?least=0&format=sse", last_event_id=last) == (204, b"")
    assert server.get("/stream/orders.csv?format=sse")[0] == 400
