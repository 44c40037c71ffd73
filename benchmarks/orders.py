"""The rows that every peer of `rows` sends as CSV: five columns, from a generator or from a table of SQLite.

A peer's process imports this file: it has what they share, so that all send the same bytes.
"""

import csv
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, timedelta
from itertools import cycle
from pathlib import Path

COLUMNS = ("id", "item", "quantity", "price", "day")
MARK = b"#"
"""Every row has it once, and nothing else that is sent has it: rows are counted by counting a byte."""

GENERATOR, TABLE = "generator.csv", "table.csv"
"""What every peer sends its rows as, made by a generator or read from the table; `?rows=` says how many."""

DATABASE = "orders.sqlite3"
"""Of the table, in the parent of the folder that a peer serves."""

QUERY = f"SELECT {', '.join(COLUMNS)} FROM orders WHERE id <= ? ORDER BY id"

Row = tuple[int, str, int, float, str]

_ITEMS = tuple(f"Item #{number}" for number in range(997))
_QUANTITIES = tuple(number % 50 + 1 for number in range(101))
_PRICES = tuple(number * 7919 % 10_000 / 100 for number in range(1009))
_DAYS = tuple((date(2020, 1, 1) + timedelta(number)).isoformat() for number in range(2000))


def orders(count: int) -> Iterator[Row]:
    """So many rows, in the order of COLUMNS.

    A row costs 30 ns, as what is measured is the sending of rows and not the making.
    """
    values = map(cycle, (_ITEMS, _QUANTITIES, _PRICES, _DAYS))
    return zip(range(1, count + 1), *values)  # noqa: B905, cycles do not end


class _Echo:
    """What is written to it is what `writerow` returns: the way of Django's documentation."""

    def write(self, text: str) -> str:
        return text


line: Callable[[tuple[object, ...]], str] = csv.writer(_Echo()).writerow
"""A row as a line of CSV."""


def digest(count: int) -> str:
    """The BLAKE2b of the CSV with so many rows, in hex."""
    found = hashlib.blake2b(line(COLUMNS).encode())
    for row in orders(count):
        found.update(line(row).encode())
    return found.hexdigest()


def make_table(path: Path, count: int) -> None:
    """A database whose table `orders` has so many rows."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, quantity INTEGER, price REAL, day TEXT)"
        )
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", orders(count))
