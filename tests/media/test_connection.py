"""Connections to databases: what they may do, and what becomes of them, SQLite's and PostgreSQL's."""

import asyncio
import sqlite3
import sys
import threading
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from media import connection
from media.connection import database
from media.generated import StreamRequest
from media.query import Query
from media.records import FORMATS
from media.rows import rows
from media.source import SourceBroken, SourceBusy
from tests.media.tables import ENDLESS, Connections, body_of, table
from tests.postgresql import PostgreSQL
from tests.serving import eventually

pytestmark = pytest.mark.usefixtures("connections")


# --- leaving ---


@pytest.mark.gen_test
async def test_broken_off_after_a_page(small_pages: None, tmp_path: Path, connections: Connections) -> None:
    """The connection is closed at once."""
    stream = rows(table(tmp_path, range(50)), "SELECT id FROM t", key="id")
    async with stream.open(StreamRequest(), FORMATS["csv"]) as body, aclosing(body.chunks()) as chunks:
        await anext(chunks)
        assert (connections.opened, connections.closed) == (1, 0)
    assert connections.closed == 1


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.gen_test
async def test_cancelled_in_a_long_query(times: int, connections: Connections) -> None:
    """The statement is interrupted, the connection closed, and that within a moment; cancelled again and
    again, too."""
    task = asyncio.create_task(body_of(rows("sqlite+aiosqlite://", ENDLESS, key="id"), "csv"))
    assert await asyncio.to_thread(connections.one_is_at_work.wait, 5)
    began = time.monotonic()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 1
    assert connections.closed == 1


@pytest.mark.gen_test
async def test_cancelled_before_the_statement_has_begun(
    monkeypatch: pytest.MonkeyPatch, connections: Connections
) -> None:
    """An interrupt then finds nothing to interrupt: it is repeated until the statement ends."""
    page, about_to_begin = connection._page, threading.Event()

    def late(*args: Any) -> Any:
        about_to_begin.set()
        time.sleep(0.1)
        return page(*args)

    monkeypatch.setattr(connection, "_page", late)
    task = asyncio.create_task(body_of(rows("sqlite+aiosqlite://", ENDLESS, key="id"), "csv"))
    await asyncio.to_thread(about_to_begin.wait, 5)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 1


class Held:
    """A call in a worker thread that a task waits for, and that goes on when the task has been cancelled."""

    def __init__(self) -> None:
        self._begun, self._let_go = threading.Event(), threading.Event()

    def hold(self) -> None:
        """In the thread: wait until the task has been cancelled."""
        self._begun.set()
        assert self._let_go.wait(5)

    async def cancelled(self, task: "asyncio.Task[Any]") -> None:
        """Cancel the task meanwhile; it does not leave before the thread does."""
        assert await asyncio.to_thread(self._begun.wait, 5)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        self._let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.gen_test
async def test_cancelled_while_it_connects(monkeypatch: pytest.MonkeyPatch, connections: Connections) -> None:
    """What the thread opens all the same is closed."""
    connect = sqlite3.connect
    held = Held()

    def slow(*args: Any, **options: Any) -> sqlite3.Connection:
        held.hold()
        return connect(*args, **options)

    query = Query("sqlite+aiosqlite://", "SELECT 1 AS id", key="id")
    monkeypatch.setattr(query._database._engine.dialect, "connect", slow)
    await held.cancelled(asyncio.create_task(query.count({})))
    assert (connections.opened, connections.closed) == (1, 1)


@pytest.mark.gen_test
async def test_cancelled_while_it_fails_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to close, and the cancellation is what counts."""
    held = Held()

    def slow(*args: Any, **options: Any) -> sqlite3.Connection:
        held.hold()
        raise sqlite3.OperationalError("unable to open database file")

    query = Query("sqlite+aiosqlite://", "SELECT 1 AS id", key="id")
    monkeypatch.setattr(query._database._engine.dialect, "connect", slow)
    await held.cancelled(asyncio.create_task(query.count({})))


# --- addresses ---

ADDRESSES = {
    "postgresql://me:secret@localhost/x": "names no asynchronous driver: give one like .*postgresql.asyncpg",
    "sqlserver+nonsense://me:secret@localhost/x": "knows no database",
    "nonsense+x://me:secret@localhost/x": "knows no database nonsense.x",
    "secret": "no address of a database",
    "postgresql+asyncpg://me:secret@localhost:port/x": "no address of a database",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_none(address: str) -> None:
    """One sentence, when the stream is made, and no password in it."""
    with pytest.raises(ValueError, match=ADDRESSES[address]) as error:
        rows(address, "SELECT 1 AS id", key="id")
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(("address", "missing", "words"), [
    ("postgresql+asyncpg://x", "asyncpg", "pip install asyncpg"),
    ("mysql+aiomysql://x", "aiomysql", "pip install aiomysql"),
])  # fmt: skip
def test_a_driver_that_is_not_installed(
    address: str, missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says what installs it."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=words):
        database(address)


# --- PostgreSQL ---

SLOW = "SELECT n AS id, pg_sleep(60) FROM generate_series(1, 3) AS n"


@pytest.mark.parametrize("statement", [
    "DELETE FROM kept RETURNING id", "INSERT INTO kept VALUES (2) RETURNING id",
    "WITH gone AS (DELETE FROM kept RETURNING id) SELECT id FROM gone", "SELECT nextval('counter') AS id",
    "DROP TABLE kept",
])  # fmt: skip
@pytest.mark.gen_test
async def test_postgresql_is_only_read(statement: str, postgresql: PostgreSQL) -> None:
    """Whatever stands in a query, and also where nothing wraps it."""
    postgresql.execute(
        "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS id;"
        " CREATE SEQUENCE IF NOT EXISTS counter"
    )
    with pytest.raises(SourceBroken):
        await body_of(rows(postgresql.url, statement, key="id"), "csv")
    async with database(postgresql.url).connect() as reader:
        with pytest.raises(SourceBroken) as error:
            await reader.fetch(text(statement), {}, lambda page: page)
        assert "read-only" in str(error.value.__cause__)
    assert postgresql.execute("SELECT * FROM kept") == "1"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_nothing_is_open_while_a_client_reads(small_pages: None, postgresql: PostgreSQL) -> None:
    """Between two pages its connection is idle, and in no transaction; left, it is gone."""
    stream = rows(postgresql.url, "SELECT n AS id FROM generate_series(1, 100) AS n", key="id")
    async with stream.open(StreamRequest(), FORMATS["csv"]) as body, aclosing(body.chunks()) as chunks:
        for _ in range(3):
            await anext(chunks)
            [activity] = await asyncio.to_thread(postgresql.activity)
            assert activity.startswith("idle|SELECT")
            assert await asyncio.to_thread(postgresql.execute, "SELECT count(*) FROM pg_cursors") == "0"
    await eventually(lambda: not postgresql.activity(), 1)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.gen_test
async def test_a_client_that_leaves_ends_the_statement(
    times: int, postgresql: PostgreSQL, connections: Connections
) -> None:
    """Of PostgreSQL, which goes on with one that nobody waits for; its connection is closed."""
    task = asyncio.create_task(body_of(rows(postgresql.url, SLOW, key="id"), "csv"))
    await eventually(lambda: any("active" in line and "pg_sleep" in line for line in postgresql.activity()))
    began = time.monotonic()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not postgresql.activity(), 1)
    assert time.monotonic() - began < 2
    assert connections.opened == connections.closed


@pytest.mark.slow
@pytest.mark.gen_test
async def test_cancelled_while_it_connects_to_postgresql(postgresql: PostgreSQL) -> None:
    """At any moment of it: nothing stays open."""
    for turns in range(0, 40, 3):
        task = asyncio.create_task(Query(postgresql.url, "SELECT 1 AS id", key="id").count({}))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        await asyncio.wait({task})
    await eventually(lambda: not postgresql.activity())


@pytest.mark.gen_test
async def test_a_connection_that_dies_breaks_the_body(small_pages: None, postgresql: PostgreSQL) -> None:
    """What came before has come."""
    stream = rows(postgresql.url, "SELECT n AS id FROM generate_series(1, 100) AS n", key="id")
    async with stream.open(StreamRequest(), FORMATS["csv"]) as body, aclosing(body.chunks()) as chunks:
        assert (await anext(chunks)).startswith(b"id\r\n1\r\n")  # type: ignore[union-attr]
        await asyncio.to_thread(
            postgresql.execute,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()",
        )
        with pytest.raises(SourceBroken):
            await anext(chunks)


@pytest.mark.gen_test
async def test_a_server_without_a_free_connection(postgresql: PostgreSQL) -> None:
    """It has one again when another client has left."""
    await asyncio.to_thread(postgresql.execute, "CREATE ROLE single LOGIN CONNECTION LIMIT 1")
    query = Query(postgresql.url.replace("postgres@", "single@"), "SELECT 1 AS id", key="id")
    async with aclosing(query.pages({}, lambda page: page.rows)) as pages:
        await anext(pages)
        with pytest.raises(SourceBusy) as error:
            await query.count({})
        assert error.value.retry_after == 5


@pytest.mark.parametrize("where", ["/postgres?host=/nowhere", "127.0.0.1:1/postgres"])
@pytest.mark.gen_test
async def test_a_server_that_is_down(where: str) -> None:
    """Nothing that is said of it holds the password."""
    with pytest.raises(SourceBroken) as error:
        await body_of(rows(f"postgresql+asyncpg://me:secret@{where}", "SELECT 1 AS id", key="id"), "csv")
    assert "secret" not in f"{error.value} {error.value.__cause__}"
