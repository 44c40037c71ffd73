"""The rows of a query as a stream, in every format; one that broke off goes on behind its last row.

A page comes as bytes: each is encoded where it was fetched (`media.query`), and in CSV no row is an object of
its own on the way.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from media.connection import Page
from media.generated import Stream, StreamRequest, formats_from, heartbeat, refuse_if_ended
from media.parameters import Declared, flag, text
from media.query import Query
from media.records import Encoder, Format, Record, sse_event
from media.source import Body, Chunks, Facts, SourceBroken, SourceBusy, SourceEnded
from media.values import csv_rows, field_text, to_json

RESERVED = ("after", "header")
"""Parameters of every stream of rows, beside those of every stream."""


def rows(
    url: str,
    query: str,
    *,
    key: str,
    title: str = "",
    first: str = "csv",
    count: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> Stream:
    """The stream of a query's rows; as events, each has its key as id.

    Args:
        url, query, key: as Query has them.
        title: one line for people.
        first: name of the format for clients without a wish.
        count: count the rows before they are read, for X-Total-Count.
        parameters: of the query's `:name`s the types that a client's texts become, or (type, default);
            one that is not here is a text, and has to be given.

    Raises:
        ValueError: there is no such database, or no driver for it.
        TypeError: there can be no such parameter, or the query has none of that name.
    """
    asked = Query(url, query, key=key)
    declared = Declared(_fields(asked.parameters, parameters or {}))
    return stream_of(asked, declared.read, title=title, first=first, count=count, parameters=declared.listed)


def stream_of(
    query: Query,
    read: Callable[[Mapping[str, str]], Mapping[str, object]],
    *,
    title: str = "",
    first: str = "csv",
    count: bool = False,
    parameters: tuple[Mapping[str, object], ...] = (),
) -> Stream:
    """The same of a Query, whose values `read` takes from the request's; it raises BadParameter."""
    if count and not query.countable:
        raise ValueError("rows of a query with :after and :limit of its own cannot be counted")

    @asynccontextmanager
    async def open_(request: StreamRequest, form: Format | None) -> AsyncGenerator[Body, None]:
        assert form is not None
        refuse_if_ended(request, form)
        bound = read(request.args)
        after = _after(request, form)
        header = form.name != "csv" or flag(request.args, "header", after is None)
        media_type = form.media_type if header else form.media_type.replace("=present", "=absent")
        counted = await query.count(bound) if count else None
        facts = Facts(media_type, heartbeat=heartbeat(form, request), count=counted)
        yield Body(facts, chunks=lambda: _encoded_pages(query, bound, form, after, header))

    title = title or f"Rows by {query.key}"
    return Stream(title, open_, formats=formats_from(first), parameters=parameters, key=query.key)


async def export(url: str, query: str, *, key: str = "") -> Stream:
    """The stream of a query of which nothing else is known: the database is asked, and runs nothing.

    Args:
        key: empty: the first column.

    Raises:
        ValueError: it cannot be one. A sentence for the operator, without any password.
    """
    asked = await asyncio.to_thread(Query, url, query, key=key)  # imports the driver
    try:
        described = await asked.described()
    except (SourceBroken, SourceBusy) as error:
        raise ValueError(f"{error}: {_reason(error.__cause__)}") from error
    key = key or described.columns[0]
    if key not in described.columns:
        raise ValueError(f"the query has no column {key}: its columns are {', '.join(described.columns)}")
    if key != asked.key:
        asked = Query(url, query, key=key)
    try:
        declared = Declared(_fields(asked.parameters, described.types))
    except TypeError as error:
        raise ValueError(str(error)) from error
    return stream_of(asked, declared.read, parameters=declared.listed)


async def records(query: Query, parameters: Mapping[str, object]) -> AsyncGenerator[Record, None]:
    """The rows of a query, one by one: for a template."""
    async with aclosing(query.pages(parameters, _as_records)) as pages:
        async for page in pages:
            for record in page:
                yield record


def _fields(names: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, tuple[Any, object]]:
    """Each parameter of the query with its type and its default, `...` where it has none."""
    if unknown := [name for name in given if name not in names]:
        raise TypeError(f"the query has no :{unknown[0]}")
    if taken := [name for name in names if name in RESERVED]:
        raise TypeError(f'the parameter "{taken[0]}" has a meaning of its own in every stream of rows')
    declared = {name: given.get(name, str) for name in names}
    return {name: found if isinstance(found, tuple) else (found, ...) for name, found in declared.items()}


def _after(request: StreamRequest, form: Format) -> str | None:
    """The key behind which the client goes on. An EventSource repeats its URL: its id is the newer of two."""
    if form.name == "sse" and request.last_event_id:
        return request.last_event_id
    return text(request.args, "after") if "after" in request.args else None


async def _encoded_pages(
    query: Query, bound: Mapping[str, object], form: Format, after: str | None, header: bool
) -> Chunks:
    encoder: Encoder | None = None

    def render(page: Page) -> bytes:
        nonlocal encoder
        begin = b""
        if encoder is None:
            encoder = form.encoder(page.columns)
            begin = encoder.begin() if header else b""
            if form.name == "sse" and after is not None and not page.rows:
                raise SourceEnded("nothing is behind the client's key")
        match form.name:
            case "csv":
                return begin + csv_rows(page.rows)
            case "sse":
                return _events(page, query.key)
        return begin + encoder.encode(_as_records(page))

    async with aclosing(query.pages(bound, render, after=after)) as pages:
        async for chunk in pages:
            if chunk:
                yield chunk
    if encoder is not None and (end := encoder.end()):
        yield end


def _reason(error: BaseException | None) -> str:
    """The first line of what a driver says."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.partition("\n")[0] or type(error).__name__


def _as_records(page: Page) -> list[Record]:
    return [dict(zip(page.columns, row, strict=True)) for row in page.rows]


def _events(page: Page, key: str) -> bytes:
    try:
        return b"".join([sse_event(to_json(record), field_text(record[key])) for record in _as_records(page)])
    except ValueError as error:  # what stands in a database is no bug of ours
        raise SourceBroken("a row's key cannot be the id of an event") from error
