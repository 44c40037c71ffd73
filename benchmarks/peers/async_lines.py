"""The lines of a CSV one by one, as an async generator: what the peers send that have an event loop.

From the table by a cursor of aiosqlite.
"""

from collections.abc import AsyncGenerator
from pathlib import Path

import aiosqlite

from benchmarks.orders import COLUMNS, DATABASE, QUERY, TABLE, line, orders


def lines(folder: Path, name: str, rows: int) -> AsyncGenerator[str, None]:
    """Of GENERATOR or TABLE."""
    return _selected(str(folder.parent / DATABASE), rows) if name == TABLE else _generated(rows)


async def _generated(rows: int) -> AsyncGenerator[str, None]:
    yield line(COLUMNS)
    for row in orders(rows):
        yield line(row)


async def _selected(database: str, rows: int) -> AsyncGenerator[str, None]:
    yield line(COLUMNS)
    async with aiosqlite.connect(database) as connection, connection.execute(QUERY, (rows,)) as cursor:
        async for row in cursor:
            yield line(row)
