"""SQLite files with one table, what reads them, and a count of what is open meanwhile."""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.pool import Pool

from media.generated import Stream, StreamRequest
from media.query import Query
from media.records import FORMATS
from media.rows import records

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

    def open(self, connection: Any, *args: object) -> None:
        self.opened += 1
        if isinstance(connection, sqlite3.Connection):
            connection.set_progress_handler(self.one_is_at_work.set, 100_000)

    def close(self, *args: object) -> None:
        self.closed += 1


@contextmanager
def counted_connections() -> Iterator[Connections]:
    """What is opened meanwhile is closed meanwhile."""
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
    """Of that database."""
    return URL.create("sqlite+aiosqlite", database=str(folder / "a ?#%.db")).render_as_string()


def changed(folder: Path, statement: str) -> None:
    """Change something in that database."""
    with closing(sqlite3.connect(folder / "a ?#%.db")) as connection, connection:
        connection.execute(statement)


async def ids(query: Query) -> list[Any]:
    """The keys of all rows, as they come."""
    async with aclosing(records(query, {})) as found:
        return [record[query.key] async for record in found]


async def body_of(stream: Stream, form: str, last_event_id: str | None = None, /, **args: str) -> bytes:
    """All of it, in a format."""
    async with (
        stream.open(StreamRequest(args, last_event_id=last_event_id), FORMATS[form]) as body,
        aclosing(body.chunks()) as chunks,
    ):
        found = [chunk async for chunk in chunks]
    assert all(found)
    return b"".join(bytes(chunk) for chunk in found)
