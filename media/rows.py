"""Rows of a query, in keyset pages.

No cursor is held while a client reads: 300 commits beside an open one grew SQLite's log to 33 MB,
against 4 MB without. Instead each page starts behind the last key of the page before; that costs 15 %.
A page is fetched *and* encoded in a worker thread and comes back as bytes:
row by row over aiosqlite it would be 76,000 rows a second, so it is several times that.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from media.generated import Stream, StreamRequest, formats_from, heartbeat, refuse_if_ended
from media.records import Encoder, Format, Record, csv_rows, sse_event, to_json
from media.source import Body, Chunks, Facts, SourceBroken

PAGE_ROWS = 2000
"""Rows a page; of five columns, some 80 KB of CSV."""

INTERRUPT_SECONDS = 0.05
"""A statement that nobody waits for any more is interrupted this often until it ends: once is not enough,
because between two statements there is nothing to interrupt and the next one begins."""

T = TypeVar("T")
Parameters = Callable[[Mapping[str, str]], Mapping[str, object]]
Page = Sequence[Sequence[Any]]
"""Rows, each with its values in the order of the columns."""


class Query:
    """A query that can be read page by page, many times at once.

    Args:
        url: `sqlite+aiosqlite:///PATH`; `sqlite+aiosqlite://` is a fresh database in memory.
            The file is opened read-only and never made.
        query: SELECT whose rows have a column `key` that is unique and never NULL; pages go by it, upwards.
            Where it names `:after` and `:limit` itself it is taken as it stands, for queries that make rows
            or that page by an index of their own; else it is wrapped in a page's WHERE, ORDER BY and LIMIT.
        key: name of that column.
        before_first: what `:after` is for the first page of a query that names it.
    """

    def __init__(self, url: str, query: str, *, key: str, before_first: object = 0) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            raise ValueError(f"rows are read from sqlite+aiosqlite://… as yet, not from {parsed.drivername}")
        self.key = key
        self._engine: Engine = create_engine(
            _read_only(parsed), poolclass=NullPool, connect_args={"check_same_thread": False}
        )
        if re.search(r":after\b", query):
            self._first = self._next = text(query)
            self._before_first: Mapping[str, object] = {"after": before_first}
        else:
            inner = query.strip().removesuffix(";")
            column = key.replace('"', '""')
            # On lines of its own: the query may end in a comment. `page.`: a bare "name" that is no column
            # would be a text to SQLite, and every row equal.
            self._first = text(f'SELECT * FROM (\n{inner}\n) AS page ORDER BY page."{column}" LIMIT :limit')
            self._next = text(
                f'SELECT * FROM (\n{inner}\n) AS page WHERE page."{column}" > :after'
                f' ORDER BY page."{column}" LIMIT :limit'
            )
            self._before_first = {}

    async def pages(
        self, parameters: Mapping[str, object], render: Callable[[tuple[str, ...], Page], T]
    ) -> AsyncGenerator[T, None]:
        """What `render(columns, rows)` makes of each page; it runs in the worker thread.

        The first page may be empty, and so may the last.

        Raises:
            SourceBroken: the database cannot be opened, or refuses the query.
        """
        try:
            connection = await _in_thread(self._engine.connect, lost=Connection.close)
            try:
                statement, bound = self._first, {**parameters, **self._before_first, "limit": PAGE_ROWS}
                while True:
                    count, last, rendered = await _in_thread(
                        lambda: self._page(connection, statement, bound, render),  # noqa: B023, awaited here
                        interrupt=lambda: _interrupt(connection),
                    )
                    yield rendered
                    if count < PAGE_ROWS:
                        return
                    statement, bound = self._next, {**bound, "after": last}
            finally:
                await _in_thread(connection.close)
        except SQLAlchemyError as error:
            raise SourceBroken("the database failed") from error

    def _page(
        self,
        connection: Connection,
        statement: Any,
        bound: Mapping[str, object],
        render: Callable[[tuple[str, ...], Page], T],
    ) -> tuple[int, object, T]:
        with connection.begin():  # ended with the page: the next one sees what was committed meanwhile
            result = connection.execute(statement, bound)
            columns = tuple(result.keys())
            page = result.fetchall()
        last = page[-1][columns.index(self.key)] if page else None
        if page and last is None:
            raise ValueError(f"a row's {self.key!r} is NULL: no page can begin behind it")
        return len(page), last, render(columns, page)


def rows(
    query: Query,
    *,
    title: str,
    parameters: Parameters = lambda args: {},
    first: str = "csv",
) -> Stream:
    """The stream of a query's rows; as events, each has its key as id.

    Args:
        parameters: the values to bind, from the request's; raises BadParameter.
        first: name of the default format.
    """

    @asynccontextmanager
    async def open_(request: StreamRequest, form: Format | None) -> AsyncGenerator[Body, None]:
        assert form is not None
        refuse_if_ended(request, form)
        bound = parameters(request.args)
        facts = Facts(form.media_type, heartbeat=heartbeat(form, request))
        yield Body(facts, chunks=lambda: _encoded_pages(query, bound, form))

    return Stream(title, open_, formats=formats_from(first))


async def records(query: Query, parameters: Mapping[str, object]) -> AsyncGenerator[Record, None]:
    """The rows of a query, one by one: for a template."""
    async with aclosing(query.pages(parameters, _as_records)) as pages:
        async for page in pages:
            for record in page:
                yield record


async def _encoded_pages(query: Query, bound: Mapping[str, object], form: Format) -> Chunks:
    encoder: Encoder | None = None

    def render(columns: tuple[str, ...], page: Page) -> bytes:
        nonlocal encoder
        begin = b""
        if encoder is None:
            encoder = form.encoder(columns)
            begin = encoder.begin()
        match form.name:
            case "csv":
                return begin + csv_rows(page)
            case "sse":
                return _events(_as_records(columns, page), query.key)
        return begin + encoder.encode(_as_records(columns, page))

    async with aclosing(query.pages(bound, render)) as pages:
        async for chunk in pages:
            if chunk:
                yield chunk
    if encoder is not None and (end := encoder.end()):
        yield end


def _as_records(columns: tuple[str, ...], page: Page) -> list[Record]:
    return [dict(zip(columns, row, strict=True)) for row in page]


def _events(page: list[Record], key: str) -> bytes:
    try:
        return b"".join([sse_event(to_json(record), str(record[key])) for record in page])
    except ValueError as error:  # what stands in a database is no bug of ours
        raise SourceBroken("a row's key cannot be the id of an event") from error


def _read_only(url: URL) -> URL:
    """The same database through SQLite's own URI, which can say that nothing is written and no file made."""
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return url.set(drivername="sqlite")
    return url.set(
        drivername="sqlite",
        database=f"file:{quote(url.database)}",
        query={**url.query, "mode": "ro", "uri": "true"},
    )


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


def _interrupt(connection: Connection) -> None:
    connection.connection.driver_connection.interrupt()  # type: ignore[union-attr]
