"""A query that is read page by page, many times at once, each time by a connection of its own.

No cursor is held while a client reads: 300 commits beside an open one grew SQLite's log to 33 MB,
against 4 MB without. Instead each page starts behind the last key of the page before; that costs 15 %.
"""

import base64
import binascii
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sized
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from operator import eq
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import AllowInfNan, TypeAdapter, ValidationError
from sqlalchemy import Executable, bindparam, column, func, literal_column, select, text
from sqlalchemy.sql.elements import quoted_name

from media.connection import Bound, Page, Reader, database
from media.fields import can_be_far
from media.source import BadParameter, SourceBroken

PAGE_ROWS = 500
"""Rows a page, at most; of five columns, some 20 KB of CSV. With 2000 a small request beside it waited 18 ms
at p99, with 500 it was 7, for 2 % more CPU."""

FIRST_ROWS = 100
"""Rows of the first page: nobody knows yet how large they are."""

PAGE_BYTES = 1024 * 1024
"""About what a page becomes at most: rows of 100 KB come ten at a time."""

_KEYS: dict[type, TypeAdapter[Any]] = {
    **{kind: TypeAdapter(kind) for kind in (bool, int, float, str)},
    Decimal: TypeAdapter(Annotated[Decimal, AllowInfNan()]),
    **{kind: TypeAdapter(kind) for kind in (datetime, date, time, UUID)},
}
"""What reads a key that is given as text; the narrower types before the wider."""

_APART = re.compile(
    r"""
    \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(\w*)\$.*?\$\1\$
    | --[^\n]* | /\*.*?\*/ | :(?=[0-9]) | (?P<cast>(?<![:\w\\]):\w+(?=::))
    """,
    re.VERBOSE | re.DOTALL,
)
"""Where a colon begins no parameter: texts, names, comments, `[1 :2]`. To SQLAlchemy they are all alike.
And a parameter with PostgreSQL's `::` behind it, which to SQLAlchemy is none."""

T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True)
class Described:
    """What a database says of a query that it has not run.

    Args:
        columns: their names.
        types: of the parameters, where it knows them.
    """

    columns: tuple[str, ...]
    types: Mapping[str, type]


class Query:
    """A query, and the database that answers it. Making one does no I/O.

    Args:
        url: as SQLAlchemy has it, of a database with an asynchronous driver. `sqlite+aiosqlite:///PATH` is
            opened read-only and never made; `sqlite+aiosqlite://` is a fresh database in memory.
        query: SELECT whose rows have a column `key` that is unique and never NULL; pages go by it, upwards.
            `:name` in it is a parameter that is bound, never pasted; a colon that is none is written `\\:`.
            Where it names `:after` and `:limit` itself it is taken as it stands, for queries that make rows
            or that page by an index of their own; else it is wrapped in a page's WHERE, ORDER BY and LIMIT.
        key: name of that column; empty: it is not read yet, but can be described.
        before_first: what `:after` is for the first page of a query that names it.

    Raises:
        ValueError: there is no such database, or no driver for it.
    """

    def __init__(self, url: str, query: str, *, key: str, before_first: object = 0) -> None:
        self.key = key
        self._database = database(url)
        # A line of its own behind it: the query may end in a comment.
        inner = text(_APART.sub(_escaped, query.strip().removesuffix(";")) + "\n")
        names = inner.compile().params
        self._own_pages = "after" in names
        if self._own_pages and "limit" not in names:
            raise ValueError("a query with an own :after needs a :limit: where a page ends it must know, too")
        self.parameters = tuple(
            name for name in names if not self._own_pages or name not in ("after", "limit")
        )
        """The names of those that a request gives."""
        # Quoted: a bare "name" that is no column would be a text to SQLite, and every row equal.
        key_column: Any = column(quoted_name(key, quote=True))
        page = inner.columns(key_column).subquery("page")
        self._page_key = page.c[key_column.name]
        self._all: Any = select(literal_column("*")).select_from(page)
        self._count = select(func.count()).select_from(page)
        # Names that no query has for a parameter of its own, unless it makes its pages by them.
        self._after, self._limit = ("after", "limit") if self._own_pages else ("page after", "page limit")
        if self._own_pages:
            self._first: Executable = inner
            self._next: Executable = inner
            self._before_first: Bound = {"after": before_first}
        else:
            ordered: Any = self._all.order_by(self._page_key).limit(bindparam(self._limit))
            self._first, self._next = ordered, ordered.where(self._page_key > bindparam(self._after))
            self._before_first = {}

    @property
    def countable(self) -> bool:
        """Whether its rows can be counted: not where it makes its pages itself."""
        return not self._own_pages

    async def pages(
        self, parameters: Mapping[str, object], render: Callable[[Page], T], *, after: str | None = None
    ) -> AsyncGenerator[T, None]:
        """What `render` makes of each page; in a worker thread for SQLite.

        The first page may be empty, and so may the last.

        Args:
            after: a key as text, behind which to begin; None: at the first row.

        Raises:
            BadParameter: a parameter or `after` does not go with the query.
            SourceBroken: the database cannot be opened, or refuses the query.
            SourceBusy: it takes no more connections now.
        """
        limit = min(FIRST_ROWS, PAGE_ROWS)

        def made(page: Page) -> tuple[int, object, T]:
            last = _last_key(page, self.key, limit) if page.rows else None
            return len(page.rows), last, render(Page(page.columns, page.rows[:limit]))

        async with self._database.connect() as reader:
            statement, bound = self._first, {**parameters, **self._before_first}
            if after is not None:
                key = await self._key_from(reader, bound, after)
                statement, bound = self._next, {**bound, self._after: key}
            while True:
                # One more than is rendered: it tells whether there is a next page, and how that begins.
                count, last, rendered = await reader.fetch(statement, {**bound, self._limit: limit + 1}, made)
                yield rendered
                if count <= limit:
                    return
                limit = max(1, min(PAGE_ROWS, 5 * limit, limit * PAGE_BYTES // (len(rendered) + 1)))
                statement, bound = self._next, {**bound, self._after: last}

    async def count(self, parameters: Mapping[str, object]) -> int:
        """How many rows there are in all.

        Raises:
            BadParameter, SourceBroken, SourceBusy: as `pages`.
        """
        async with self._database.connect() as reader:
            return int(await reader.fetch(self._count, dict(parameters), lambda page: page.rows[0][0]))

    async def described(self) -> Described:
        """Have the database look at the query, without reading a row.

        Raises:
            SourceBroken: it cannot be opened, or refuses the query.
            SourceBusy: it takes no more connections now.
        """
        statement = self._all.limit(0)
        names = (*self.parameters, "after", "limit") if self._own_pages else self.parameters
        async with self._database.connect() as reader:
            columns = await reader.fetch(statement, dict.fromkeys(names), lambda page: page.columns)
            types = await reader.parameter_types(statement)
        return Described(columns, {name: kind for name, kind in types.items() if name in self.parameters})

    async def _key_from(self, reader: Reader, bound: Bound, key: str) -> object:
        """What a client gives as a key, as the type that the first row's key has."""
        first = await reader.fetch(
            self._first, {**bound, self._limit: 1}, lambda page: _first_of(page, self.key)
        )
        if first is None:  # there is no row, before that key or behind it
            return first
        if isinstance(first, bytes):
            try:
                return base64.b64decode(key, validate=True)
            except binascii.Error:
                raise BadParameter("after must be bytes in Base64") from None
        kind = next((kind for kind in _KEYS if isinstance(first, kind)), None)
        if kind is None:
            raise BadParameter("after cannot be given: the key of these rows is no plain value")
        if can_be_far(key, kind):
            return key  # as the text that it was sent as
        try:
            return _KEYS[kind].validate_python(key)
        except ValidationError:
            raise BadParameter(f'after must be a key of these rows, such as "{first}"') from None


def _escaped(found: re.Match[str]) -> str:
    r"""With its colons as SQLAlchemy wants those that begin no parameter, and as some write them: `\:`.
    A parameter in parentheses: `::` is of what is in them."""
    if found["cast"]:
        return f"({found[0]})"
    return re.sub(r"(?<!\\):", r"\\:", found[0])


def _last_key(page: Page, key: str, limit: int) -> object:
    """The key of the last of `limit` rows, behind which the next page begins.

    Where a page ended between two rows of one key the second would be left out, and the body would look
    whole. So they are looked for, with the first row of the next page, for 40 ns a row.

    Raises:
        SourceBroken: the column is no key.
    """
    if key not in page.columns:
        raise SourceBroken(f"the query has no column {key!r}: its columns are {', '.join(page.columns)}")
    at = page.columns.index(key)
    keys = [row[at] for row in page.rows]
    if None in (keys[0], keys[-1]):
        raise SourceBroken(f"a row's {key!r} is NULL: no page can begin behind it")
    if any(map(eq, keys, islice(keys, 1, None))):
        raise SourceBroken(f"two rows have the same {key!r}: it must be unique, or rows would be left out")
    return keys[limit - 1] if len(keys) > limit else keys[-1]


def _first_of(page: Page, key: str) -> Any:
    return page.rows[0][page.columns.index(key)] if page.rows else None
