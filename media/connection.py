"""Read-only connections to whatever database SQLAlchemy reaches, each for one reader and closed behind it.

SQLite is read in worker threads, by the module of the standard library: a page is fetched *and* given its
form there in one go. Row by row over aiosqlite it would be 76,000 rows a second, so it is several times that.
Every other database is read on the loop, by its asynchronous driver.

The one thing to know: no transaction and no cursor is open between two statements, however long that is.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, Executable, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from media import fields
from media.source import BadParameter, SourceBroken, SourceBusy

CONNECT_SECONDS = 10
"""How long a server may take to answer a new connection."""

CANCEL_SECONDS = 1
"""How long a connection that is being made is waited for when nobody wants it any more."""

CLOSE_SECONDS = 5
"""How long a statement may take to end that was cancelled, and a connection to say goodbye."""

INTERRUPT_SECONDS = 0.05
"""A statement that nobody waits for any more is interrupted this often until it ends: once is not enough,
because between two statements there is nothing to interrupt and the next one begins."""

_OF_PARAMETERS = ("22000", "22021")
"""What is wrong with a parameter, as PostgreSQL names errors: asyncpg says the first of one of another type,
before it is sent; the second is a NUL in a text."""

_OF_ITS_LOAD = ("53300", "57P03")
"""All connections that PostgreSQL may have are in use; it is starting, or ending."""

T = TypeVar("T")
Bound = dict[str, object]


@dataclass(frozen=True, slots=True)
class Page:
    """What a statement gave: rows, each with its values in the order of the columns."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


class Reader(Protocol):
    """A connection. One statement at a time; cancelled, it is interrupted first."""

    async def fetch(self, statement: Executable, bound: Bound, made: Callable[[Page], T]) -> T:
        """What `made` makes of the rows: in a worker thread for SQLite, on the loop else.

        Raises:
            BadParameter: a value does not go with the type of what it is compared to.
            SourceBroken: the database refuses the statement, or has gone.
        """

    async def parameter_types(self, statement: Executable) -> dict[str, type]:
        """Of the parameters those whose types the database knows of itself; runs nothing."""


class Database(Protocol):
    """Where queries are read."""

    def connect(self) -> AbstractAsyncContextManager[Reader]:
        """A connection of its own.

        Raises:
            SourceBroken: there is none to be had.
            SourceBusy: there is none now.
        """


def database(address: str) -> Database:
    """The database at an SQLAlchemy URL. No I/O, but for the import of its driver.

    Raises:
        ValueError: it cannot be reached so; one sentence, without any password.
    """
    right = "one like sqlite+aiosqlite:///PATH or postgresql+asyncpg://USER@HOST/NAME"
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # its text may hold a password
        raise ValueError(f"this is no address of a database: give {right}") from None
    if url.get_backend_name() != "sqlite" and "+" not in url.drivername:
        raise ValueError(f"{url.drivername}:// names no asynchronous driver: give {right}")
    try:
        return _Threads(url) if url.get_backend_name() == "sqlite" else _Loop(url)
    except ModuleNotFoundError as error:
        # Not our extra: pip would look for a package of our name, and most who run this have a checkout.
        raise ValueError(
            f"the driver of {url.drivername} is not installed: pip install {error.name}"
        ) from None
    except NoSuchModuleError:
        raise ValueError(f"SQLAlchemy knows no database {url.drivername}: give {right}") from None
    except InvalidRequestError:
        raise ValueError(f"the driver of {url.drivername} is not asynchronous: give {right}") from None


class _Threads:
    """SQLite, read in worker threads."""

    def __init__(self, url: URL) -> None:
        self._engine: Engine = create_engine(
            _read_only(url),
            poolclass=NullPool,
            connect_args={"check_same_thread": False},
            hide_parameters=True,
        )

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Reader, None]:
        try:
            connection = await _in_thread(self._engine.connect, lost=Connection.close)
        except SQLAlchemyError as error:
            raise SourceBroken("the database cannot be opened") from error
        try:
            yield _InThread(connection)
        finally:
            await _in_thread(connection.close)


class _InThread:
    """A connection to it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: Executable, bound: Bound, made: Callable[[Page], T]) -> T:
        def fetched() -> T:
            with self._connection.begin():  # ended with the page: the next one sees what was committed since
                return made(_page(self._connection, statement, bound))

        try:
            return await _in_thread(fetched, interrupt=self._interrupt)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise SourceBroken("the database failed") from error
        except OverflowError as error:
            raise BadParameter("a number has more than the 64 bits that the database knows") from error

    async def parameter_types(self, statement: Executable) -> dict[str, type]:
        return {}

    def _interrupt(self) -> None:
        self._connection.connection.driver_connection.interrupt()  # type: ignore[union-attr]


def _read_only(url: URL) -> URL:
    """The same database through SQLite's own URI, which can say that nothing is written and no file made."""
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return url.set(drivername="sqlite")
    return url.set(
        drivername="sqlite",
        database=f"file:{quote(url.database)}",
        query={**url.query, "mode": "ro", "uri": "true"},
    )


class _Loop:
    """Any other, read on the loop by its asynchronous driver."""

    def __init__(self, url: URL) -> None:
        arguments: dict[str, object] = {}
        if url.get_driver_name() == "asyncpg":
            read_only = {"default_transaction_read_only": "on"}
            arguments = {"timeout": CONNECT_SECONDS, "server_settings": read_only}
        # AUTOCOMMIT: a transaction of its own for each statement, and none between them.
        # What clients give as parameters is not for the log.
        self._engine: AsyncEngine = create_async_engine(
            url,
            poolclass=NullPool,
            connect_args=arguments,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )
        if url.get_driver_name() == "asyncpg":
            event.listen(self._engine.sync_engine, "connect", fields.prepare)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Reader, None]:
        try:
            connection = await _apart(
                self._connected(), patience_seconds=CANCEL_SECONDS, lost=AsyncConnection.close
            )
        except Exception as error:  # drivers raise what they like while connecting
            if getattr(getattr(error, "orig", error), "sqlstate", "") in _OF_ITS_LOAD:
                raise SourceBusy("the database takes no more connections now", retry_after=5) from error
            raise SourceBroken("the database cannot be reached") from error
        try:
            yield _OnLoop(connection)
        finally:
            await _ended_within(CLOSE_SECONDS, asyncio.create_task(connection.close()))

    async def _connected(self) -> AsyncConnection:
        return await self._engine.connect()


class _OnLoop:
    """A connection to it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def fetch(self, statement: Executable, bound: Bound, made: Callable[[Page], T]) -> T:
        try:
            page = await _apart(self._connection.run_sync(partial(_page, statement=statement, bound=bound)))
        except SQLAlchemyError as error:
            if getattr(getattr(error, "orig", None), "sqlstate", "") in _OF_PARAMETERS:
                raise BadParameter("a parameter is of another type than the query takes") from error
            raise SourceBroken("the database failed") from error
        except (OSError, ValueError) as error:  # the connection is gone; a value that the driver cannot read
            raise SourceBroken("the database failed") from error
        return made(Page(page.columns, fields.written(page.rows)))

    async def parameter_types(self, statement: Any) -> dict[str, type]:
        if self._connection.dialect.driver != "asyncpg":
            return {}
        compiled: Any = statement.compile(dialect=self._connection.dialect)
        driver: Any = (await self._connection.get_raw_connection()).driver_connection
        prepared = await driver.prepare(str(compiled))
        names = compiled.positiontup
        return fields.types_of(dict(zip(names, prepared.get_parameters(), strict=True)))


def _page(connection: Connection, statement: Executable, bound: Bound) -> Page:
    result = connection.execute(statement, bound)
    columns = tuple(result.keys())
    # Not result.fetchall(): a Row of SQLAlchemy for each costs a fifth of the rows a second.
    rows = result.cursor.fetchall()
    result.close()
    return Page(columns, rows)


async def _apart(
    work: Coroutine[Any, Any, T],
    *,
    patience_seconds: float = 0,
    lost: Callable[[T], Coroutine[Any, Any, None]] | None = None,
) -> T:
    """Wait for it in a task of its own, which is cancelled once, however often its caller is.

    A driver that is cancelled sends the server word of it; cancelled again meanwhile, the statement goes on
    there (asyncpg 0.32). A connection that is cancelled while SQLAlchemy greets the server is never closed.

    Args:
        patience_seconds: how long it may still end by itself first.
        lost: is given the result that a cancelled caller never sees.
    """
    task = asyncio.create_task(work, name="a statement")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended_within(patience_seconds, task)
        task.cancel()
        await _ended_within(CLOSE_SECONDS, task)
        if task.done() and not task.cancelled() and task.exception() is None and lost is not None:
            await _ended_within(CLOSE_SECONDS, asyncio.create_task(lost(task.result())))
        raise


async def _ended_within(seconds: float, task: "asyncio.Task[Any]") -> None:
    """Wait for it so long. Another cancellation changes nothing: one is on its way already."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not task.done() and (left := deadline - loop.time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=left)
    if task.done() and not task.cancelled():
        task.exception()  # what it did not do, nobody waits for


async def _in_thread(
    function: Callable[[], T],
    *,
    interrupt: Callable[[], None] = lambda: None,
    lost: Callable[[T], None] | None = None,
) -> T:
    """Run in a worker thread, and do not leave before it has ended, whoever cancels and how often.

    A connection that is closed under a running statement is undefined.

    Args:
        interrupt: makes it end early; may be called many times.
        lost: is given, in a thread, the result that a cancelled caller never sees.
    """
    loop = asyncio.get_running_loop()
    running = loop.run_in_executor(None, function)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await _ended(running, interrupt)
        if running.exception() is None and lost is not None:  # what else it was is nobody's any more
            await _ended(loop.run_in_executor(None, lost, running.result()), lambda: None)
        raise


async def _ended(running: asyncio.Future[Any], interrupt: Callable[[], None]) -> None:
    """Wait until it has ended. Another cancellation changes nothing: one is on its way already."""
    while not running.done():
        interrupt()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({running}, timeout=INTERRUPT_SECONDS)
