"""Rows of a query, in keyset pages, against real SQLite files."""

import asyncio
import csv
import io
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, event
from sqlalchemy.pool import Pool

from media import rows as rows_module
from media.generated import StreamRequest
from media.records import FORMATS
from media.rows import Query, records, rows
from media.source import BadParameter, SourceBroken
from tests.media.test_records import events_of

# Many seconds of work inside one statement, before its first row.
ENDLESS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000)
    SELECT count(*) AS id FROM n
"""


class Connections:
    """Those of every engine: opened and closed so far."""

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.one_is_at_work = threading.Event()
        """Set in the midst of a statement that is longer than those that a connection begins with."""

    def open(self, connection: sqlite3.Connection, *args: object) -> None:
        self.opened += 1
        connection.set_progress_handler(self.one_is_at_work.set, 100_000)

    def close(self, *args: object) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def connections() -> Iterator[Connections]:
    """Each test closes what it opened."""
    counted = Connections()
    listeners: list[tuple[str, Callable[..., None]]] = [("connect", counted.open), ("close", counted.close)]
    for name, listener in listeners:
        event.listen(Pool, name, listener)
    yield counted
    for name, listener in listeners:
        event.remove(Pool, name, listener)
    assert counted.opened == counted.closed


def table(folder: Path, keys: Iterable[Any], create: str = "t (id INTEGER PRIMARY KEY, name TEXT)") -> str:
    """A database with one row for each key; its URL."""
    with closing(sqlite3.connect(folder / "a ?#%.db")) as connection, connection:
        connection.execute(f"CREATE TABLE {create}")
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((key, f"name {key}") for key in keys))
    return url(folder)


def url(folder: Path) -> str:
    return URL.create("sqlite+aiosqlite", database=str(folder / "a ?#%.db")).render_as_string()


def changed(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "a ?#%.db")) as connection, connection:
        connection.execute(statement)


async def ids(query: Query) -> list[int]:
    async with aclosing(records(query, {})) as found:
        return [record["id"] async for record in found]  # type: ignore[misc]


async def body_of(query: Query, form: str, **args: str) -> bytes:
    parameters: Callable[[Any], Any] = lambda args: {name: int(value) for name, value in args.items()}  # noqa: E731
    stream = rows(query, title="", parameters=parameters)
    async with stream.open(StreamRequest(args), FORMATS[form]) as body:
        chunks = [chunk async for chunk in body.chunks()]
    assert all(chunks)
    return b"".join(bytes(chunk) for chunk in chunks)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "PAGE_ROWS", 10)


# --- pages ---


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 25])
@pytest.mark.gen_test
async def test_every_row_comes_once(count: int, small_pages: None, tmp_path: Path) -> None:
    """With gaps in the keys and negative ones, in the order of the keys, however many pages it takes."""
    keys = [number * number - 30 for number in range(count)]
    query = Query(table(tmp_path, reversed(keys)), "SELECT id, name FROM t", key="id")
    assert await ids(query) == keys


QUERIES = {
    "plain": "SELECT id, name FROM t",
    "ended": "SELECT id, name FROM t; \n",
    "comment_at_the_end": "SELECT id, name FROM t -- all of them",
    "own_order": "SELECT id, name FROM t ORDER BY name DESC",
    "own_paging": "SELECT id, name FROM t WHERE id > :after ORDER BY id LIMIT :limit",
    "joined": "SELECT t.id, other.name FROM t JOIN t AS other ON other.id = t.id",
}


@pytest.mark.parametrize("case", QUERIES)
@pytest.mark.gen_test
async def test_a_query_is_paged(case: str, small_pages: None, tmp_path: Path) -> None:
    """However it is written."""
    query = Query(table(tmp_path, range(1, 26)), QUERIES[case], key="id")
    assert await ids(query) == list(range(1, 26))


@pytest.mark.gen_test
async def test_keys_may_be_texts_and_strangely_named(small_pages: None, tmp_path: Path) -> None:
    """Any column that SQLite can order."""
    database = table(tmp_path, [f"k{n:02}" for n in range(25)], 't ("the ""key""" TEXT, name TEXT)')
    query = Query(database, "SELECT * FROM t", key='the "key"')
    async with aclosing(records(query, {})) as found:
        assert [record['the "key"'] async for record in found] == [f"k{n:02}" for n in range(25)]


@pytest.mark.gen_test
async def test_rows_change_while_they_are_read(small_pages: None, tmp_path: Path) -> None:
    """What stays comes once; no cursor is held, so another may write all the time."""
    query = Query(table(tmp_path, range(0, 60, 2)), "SELECT id, name FROM t", key="id")
    seen = []
    async with aclosing(records(query, {})) as found:
        async for record in found:
            seen.append(record["id"])
            if record["id"] == 18:  # the first page's last row
                changed(tmp_path, "DELETE FROM t WHERE id IN (4, 18, 20, 40)")
                changed(tmp_path, "INSERT INTO t VALUES (1, 'behind'), (19, 'next'), (99, 'last')")
    assert seen == [*range(0, 20, 2), 19, *(n for n in range(22, 60, 2) if n != 40), 99]


@pytest.mark.gen_test
async def test_parameters_are_bound(small_pages: None, tmp_path: Path) -> None:
    """On every page."""
    query = Query(table(tmp_path, range(50)), "SELECT id FROM t WHERE id >= :least", key="id")
    assert await body_of(query, "csv", least="35") == b"id\r\n" + b"".join(
        b"%d\r\n" % n for n in range(35, 50)
    )


# --- formats ---

END = b"event: end\nid: (end)\ndata: {}\n\n"
EMPTY = {"csv": b"id,name\r\n", "json": b"[]\n", "ndjson": b"", "text": b"", "sse": END}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_no_rows(form: str, tmp_path: Path) -> None:
    """CSV has its header all the same."""
    query = Query(table(tmp_path, []), "SELECT id, name FROM t", key="id")
    assert await body_of(query, form) == EMPTY[form]


@pytest.mark.parametrize("count", [1, 10, 25])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_rows_in_each_format(form: str, count: int, small_pages: None, tmp_path: Path) -> None:
    """The same rows, read back; as events each has its key as id."""
    query = Query(table(tmp_path, range(1, count + 1)), "SELECT id, name FROM t", key="id")
    expected = [{"id": n, "name": f"name {n}"} for n in range(1, count + 1)]
    body = await body_of(query, form)
    match form:
        case "csv":
            read: list[Any] = list(csv.DictReader(io.StringIO(body.decode(), newline=""), strict=True))
            read = [{**row, "id": int(row["id"])} for row in read]
        case "json":
            read = json.loads(body)
        case "sse":
            *events, end = events_of(body)
            read = [json.loads(seen.data) for seen in events]
            assert [seen.id for seen in events] == [str(n) for n in range(1, count + 1)]
            assert end.event == "end"
        case _:
            read = [json.loads(line) for line in body.splitlines()]
    assert read == expected


@pytest.mark.gen_test
async def test_what_sqlite_holds(tmp_path: Path) -> None:
    """NULL, bytes, infinity, and integers to the last digit."""
    query = Query(
        "sqlite+aiosqlite://",
        "SELECT 1 AS id, NULL AS n, x'00ff' AS b, 9e999 AS f, 9223372036854775807 AS i",
        key="id",
    )
    assert (
        await body_of(query, "ndjson") == b'{"id":1,"n":null,"b":"AP8=","f":null,"i":9223372036854775807}\n'
    )
    assert await body_of(query, "csv") == b"id,n,b,f,i\r\n1,,AP8=,inf,9223372036854775807\r\n"


@pytest.mark.gen_test
async def test_a_key_that_no_event_can_have_as_id(tmp_path: Path) -> None:
    """What stands in a database is no bug of the program."""
    query = Query(table(tmp_path, ["a\nb"], "t (id TEXT, name TEXT)"), "SELECT * FROM t", key="id")
    assert b'"a\nb"' in await body_of(query, "csv")
    with pytest.raises(SourceBroken, match="id of an event"):
        await body_of(query, "sse")


# --- bugs of the program ---


@pytest.mark.gen_test
async def test_a_key_that_is_null(tmp_path: Path) -> None:
    """No page could begin behind it: rows would be lost without a word."""
    database = table(tmp_path, [None], "t (id INTEGER, name TEXT)")
    with pytest.raises(ValueError, match="NULL"):
        await ids(Query(database, "SELECT * FROM t", key="id"))


@pytest.mark.parametrize("database", ["postgresql+asyncpg://localhost/x", "mysql://localhost/x"])
def test_another_database_is_refused(database: str) -> None:
    """Before anything is served."""
    with pytest.raises(ValueError, match="sqlite"):
        Query(database, "SELECT 1 AS id", key="id")


# --- failures outside ---


@pytest.mark.parametrize(("query", "key"), [
    ("SELECT id FROM missing", "id"), ("SELEC 1", "id"), ("SELECT id FROM t WHERE id = :unbound", "id"),
    ("SELECT id FROM t", "not_a_column"), ("SELECT 1 AS id; SELECT 2 AS id", "id"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_a_refused_query_is_broken(query: str, key: str, tmp_path: Path) -> None:
    """Before the first chunk; entering it costs nothing and tells nothing."""
    with pytest.raises(SourceBroken) as error:
        await body_of(Query(table(tmp_path, [1]), query, key=key), "csv")
    assert error.value.__cause__ is not None
    assert str(tmp_path) not in str(error.value)


@pytest.mark.gen_test
async def test_a_missing_database_is_broken_and_not_made(tmp_path: Path) -> None:
    """SQLite would make an empty one."""
    with pytest.raises(SourceBroken):
        await body_of(Query(url(tmp_path), "SELECT 1 AS id", key="id"), "csv")
    assert not os.listdir(tmp_path)  # noqa: PTH208


@pytest.mark.gen_test
async def test_another_file_is_no_database(tmp_path: Path) -> None:
    """It is left as it is."""
    (tmp_path / "a ?#%.db").write_bytes(b"no database" * 1000)
    with pytest.raises(SourceBroken):
        await body_of(Query(url(tmp_path), "SELECT id FROM t", key="id"), "csv")


@pytest.mark.gen_test
async def test_text_that_is_no_utf8_is_broken(tmp_path: Path) -> None:
    """Others may write into a database what SQLite never looks at."""
    database = table(tmp_path, [1])
    changed(tmp_path, "UPDATE t SET name = CAST(x'ff' AS TEXT)")
    with pytest.raises(SourceBroken):
        await body_of(Query(database, "SELECT * FROM t", key="id"), "csv")


@pytest.mark.gen_test
async def test_a_table_that_goes_away_breaks_the_body(small_pages: None, tmp_path: Path) -> None:
    """What was read until then has come."""
    query = Query(table(tmp_path, range(30)), "SELECT id FROM t", key="id")
    seen = []
    with pytest.raises(SourceBroken):  # noqa: PT012, what came before counts
        async for record in records(query, {}):
            seen.append(record["id"])
            if len(seen) == 10:
                changed(tmp_path, "DROP TABLE t")
    assert seen == list(range(10))


@pytest.mark.parametrize("statement", [
    "DELETE FROM t WHERE :after = 0 AND :limit RETURNING id",
    "INSERT INTO t SELECT 5, 'x' WHERE :after = 0 AND :limit RETURNING id",
    "UPDATE t SET name = 'x' WHERE :after = 0 AND :limit RETURNING id",
])  # fmt: skip
@pytest.mark.gen_test
async def test_a_query_cannot_write(statement: str, tmp_path: Path) -> None:
    """The file is opened read-only."""
    with pytest.raises(SourceBroken):
        await ids(Query(table(tmp_path, [1, 2]), statement, key="id"))
    assert await ids(Query(url(tmp_path), "SELECT id FROM t WHERE name LIKE 'name %'", key="id")) == [1, 2]


@pytest.mark.gen_test
async def test_a_database_by_its_own_uri(tmp_path: Path) -> None:
    """Who writes one says himself how it is opened."""
    table(tmp_path, [1, 2])
    (tmp_path / "a ?#%.db").rename(tmp_path / "b.db")
    query = Query(f"sqlite+aiosqlite:///file:{tmp_path}/b.db?mode=ro&uri=true", "SELECT id FROM t", key="id")
    assert await ids(query) == [1, 2]


# --- leaving ---


@pytest.mark.gen_test
async def test_broken_off_after_a_page(small_pages: None, tmp_path: Path, connections: Connections) -> None:
    """The connection is closed at once."""
    query = Query(table(tmp_path, range(50)), "SELECT id FROM t", key="id")
    stream = rows(query, title="")
    async with stream.open(StreamRequest(), FORMATS["csv"]) as body, aclosing(body.chunks()) as chunks:
        await anext(chunks)
        assert (connections.opened, connections.closed) == (1, 0)
    assert connections.closed == 1


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.gen_test
async def test_cancelled_in_a_long_query(times: int, connections: Connections) -> None:
    """The statement is interrupted, the connection closed, and that within a moment; cancelled again and
    again, too."""
    task = asyncio.create_task(body_of(Query("sqlite+aiosqlite://", ENDLESS, key="id"), "csv"))
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
    page, about_to_begin = Query._page, threading.Event()

    def late(self: Query, *args: Any) -> Any:
        about_to_begin.set()
        time.sleep(0.1)
        return page(self, *args)

    monkeypatch.setattr(Query, "_page", late)
    task = asyncio.create_task(body_of(Query("sqlite+aiosqlite://", ENDLESS, key="id"), "csv"))
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

    async def cancelled(self, task: "asyncio.Task[bytes]") -> None:
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
    monkeypatch.setattr(query._engine.dialect, "connect", slow)
    await held.cancelled(asyncio.create_task(body_of(query, "csv")))
    assert (connections.opened, connections.closed) == (1, 1)


@pytest.mark.gen_test
async def test_cancelled_while_it_fails_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to close, and the cancellation is what counts."""
    held = Held()

    def slow(*args: Any, **options: Any) -> sqlite3.Connection:
        held.hold()
        raise sqlite3.OperationalError("unable to open database file")

    query = Query("sqlite+aiosqlite://", "SELECT 1 AS id", key="id")
    monkeypatch.setattr(query._engine.dialect, "connect", slow)
    await held.cancelled(asyncio.create_task(body_of(query, "csv")))


# --- what a stream says of itself ---


@pytest.mark.gen_test
async def test_a_malformed_parameter_is_named_on_entering(connections: Connections) -> None:
    """No connection is opened for it."""

    def parameters(args: object) -> dict[str, object]:
        raise BadParameter("rows must be …")

    stream = rows(Query("sqlite+aiosqlite://", "SELECT 1 AS id", key="id"), title="", parameters=parameters)
    with pytest.raises(BadParameter):
        async with stream.open(StreamRequest(), FORMATS["csv"]):
            pass
    assert connections.opened == 0


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_entering_starts_no_query(form: str, connections: Connections) -> None:
    """So that HEAD costs nothing: not even a connection."""
    stream = rows(Query("sqlite+aiosqlite://", "SELECT 1 AS id", key="id"), title="rows")
    async with stream.open(StreamRequest(), FORMATS[form]) as body:
        assert body.facts.media_type == FORMATS[form].media_type
        assert body.facts.heartbeat == FORMATS[form].heartbeat
        assert not body.facts.live
    assert connections.opened == 0
    assert (stream.title, stream.formats[0].name, len(stream.formats)) == ("rows", "csv", len(FORMATS))
