"""A database of our own: its address is checked, it is opened if it is ours or empty, and writers take turns.

SQLite, or any database that SQLAlchemy reaches with an asynchronous driver. Tests run on SQLite.
The table `millrace_schema` says that a database is ours, and of which version; another program's is not
touched.

The one thing to know: no call to the database is cancelled halfway. `uninterrupted` says why.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from media.source import SourceBroken

WAIT_SECONDS = 10
"""How long SQLite waits for another process that is writing, and PostgreSQL's driver for the server."""

_CANCEL_SECONDS = 2 * WAIT_SECONDS

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_schema = sa.Table("millrace_schema", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False))

_TURN = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(1835625580)",  # "mill" in ASCII
}
"""What makes a transaction wait until no other one writes. Empty elsewhere: one process at a time."""


class CatalogueError(SourceBroken):
    """The database cannot be used. One sentence for the operator: what is wrong and what would be right."""


def uninterrupted(
    method: Callable[_Arguments, Coroutine[Any, Any, _Result]],
) -> Callable[_Arguments, Coroutine[Any, Any, _Result]]:
    """Let what is under way end before a cancellation passes through: milliseconds, or `_CANCEL_SECONDS`.

    A statement that is cancelled goes on in aiosqlite's thread, and its connection may never be rolled back:
    "database is locked" for everyone after a cancelled BEGIN IMMEDIATE (SQLAlchemy 2.1.9, aiosqlite 0.22.1).
    """

    @wraps(method)
    async def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        work = asyncio.create_task(method(*args, **kwargs), name=f"catalogue {method.__name__}")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work], timeout=_CANCEL_SECONDS)
            if not work.cancel():  # else it hangs: a server that does not answer
                work.exception()  # seen: nobody is left to tell
            raise

    return call


class Database:
    """A database with `tables` of this schema `version`; an async context manager that opens and closes it.

    Entering creates the tables in an empty database.
    No connection is held between two uses. Entering and the two methods raise CatalogueError if the
    database fails.
    """

    def __init__(self, url: str, tables: sa.MetaData, version: int) -> None:
        self._url = url
        self._tables = tables
        self._version = version

    async def __aenter__(self) -> "Database":
        # In a thread: imports the driver.
        self._engine = await asyncio.to_thread(_engine, self._url)
        try:
            await self._open()
        except BaseException:
            await self._engine.dispose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with."""
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
            raise CatalogueError(
                f"the database {_shown(self._engine.url)} failed: {_reason(error)}"
            ) from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction in which nobody else writes; rolled back unless its block ends well."""
        async with self.connection() as connection:
            await connection.run_sync(_take_turn)
            yield connection
            await connection.commit()

    @uninterrupted
    async def _open(self) -> None:
        """Check that the database is ours, or empty: then it becomes ours."""
        try:
            async with self._engine.connect() as connection:
                await connection.run_sync(_is_ours, self._version)
                await connection.rollback()
                await connection.run_sync(_take_turn)
                mark: sa.Insert | sa.Update
                # By now it is ours, perhaps: another process may have been quicker.
                if await connection.run_sync(_is_ours, self._version):
                    mark = sa.update(_schema)  # changes nothing, but shows if it can be
                else:
                    await connection.run_sync(_schema.create)
                    await connection.run_sync(self._tables.create_all)
                    mark = sa.insert(_schema)
                await connection.execute(mark.values(version=self._version))
                await connection.commit()
                if connection.dialect.name == "sqlite":
                    # Readers go on while a scan writes; stays with the file. SQLite does not wait here for
                    # another process that opens it too, and then that one has done it.
                    with suppress(exc.OperationalError):
                        await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except CatalogueError:
            raise
        except Exception as error:  # drivers raise what they like while connecting
            raise CatalogueError(
                f"the database {_shown(self._engine.url)} cannot be opened ({_reason(error)}): "
                "give one that can be reached and written, empty or made by Millrace"
            ) from error


def _engine(address: str) -> AsyncEngine:
    """The engine, not yet connected. Blocking: imports the driver."""
    right = "give one like sqlite+aiosqlite:////home/me/tracks.sqlite3 or postgresql+asyncpg://user@host/name"
    try:
        url = make_url(address)
        sqlite = url.get_backend_name() == "sqlite"
        arguments = {"timeout": WAIT_SECONDS} if url.drivername.endswith(("aiosqlite", "asyncpg")) else {}
        if sqlite:
            _prepare_file(url)
        # A server that was restarted has closed the connections of the pool: they are tried before use.
        engine = create_async_engine(url, connect_args=arguments, pool_pre_ping=not sqlite)
    except ImportError as error:
        raise CatalogueError(
            f"the driver of {_shown(url)} is not installed ({error}): install it with pip"
        ) from error
    except exc.NoSuchModuleError as error:
        raise CatalogueError(f"there is no database driver {url.drivername}: {right}") from error
    except exc.InvalidRequestError as error:
        raise CatalogueError(f"the database driver {url.drivername} is not asynchronous: {right}") from error
    except (exc.ArgumentError, ValueError) as error:  # its text is not shown: a password may stand in it
        raise CatalogueError(f"this is no address of a database: {right}") from error
    if sqlite:
        event.listen(engine.sync_engine, "connect", _sync_at_checkpoints)
    return engine


def _prepare_file(url: URL) -> None:
    database = url.database or ":memory:"
    if ":memory:" in database or url.query.get("mode") == "memory":
        raise CatalogueError("a database in memory loses the ids of the tracks: give a file")
    if database.startswith("file:"):
        return
    if not Path(database).parent.is_dir():  # made, a mistyped one would begin an empty catalogue
        raise CatalogueError(
            f"the database {database} lies in a folder that does not exist: make it, or correct the address"
        )


def _sync_at_checkpoints(connection: Any, _record: object) -> None:
    # In WAL mode NORMAL cannot damage the file; at worst the last scan is done again after a power cut.
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _is_ours(connection: sa.Connection, known: int) -> bool:
    """Whether the database is Millrace's; False if it is empty.

    Raises:
        CatalogueError: it is another program's, or of another version.
    """
    tables = sorted(sa.inspect(connection).get_table_names())
    address = _shown(connection.engine.url)
    if _schema.name in tables:
        version = connection.scalar(sa.select(_schema.c.version))
        if version == known:
            return True
        raise CatalogueError(
            f"the database {address} has the schema {version} of another Millrace, this one knows "
            f"{known}: run that version, or give another database"
        )
    if tables:
        names = ", ".join(tables[:3]) + (", …" if len(tables) > 3 else "")
        raise CatalogueError(
            f"the database {address} is another program's, it holds the tables {names}: "
            "give an empty or a new one"
        )
    return False


def _take_turn(connection: sa.Connection) -> None:
    if statement := _TURN.get(connection.dialect.name):
        connection.exec_driver_sql(statement)


def _shown(url: URL) -> str:
    """How messages name the database: an SQLite file by its path, anything else without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


def _reason(error: BaseException) -> str:
    """The first line of what the driver says."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
