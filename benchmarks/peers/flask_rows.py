"""Rows as Flask's documentation streams them: a generator of lines, on gunicorn with one sync worker.

From the table by a cursor of sqlite3.
"""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.orders import COLUMNS, DATABASE, GENERATOR, QUERY, TABLE, line, orders
from benchmarks.peers import TINY, Peer

if TYPE_CHECKING:
    from flask import Flask


def _command(folder: Path, port: int) -> list[str]:
    # A worker that sends a response for 30 s would be killed.
    settings = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--timeout", "0", "--log-level", "warning"]
    application = f"{__name__}:application({str(folder.parent / DATABASE)!r})"
    return [sys.executable, "-m", "gunicorn", *settings, application]


PEER = Peer("flask_rows", "Flask on gunicorn", _command, packages=("flask", "gunicorn"))


def application(database: str) -> "Flask":
    """What gunicorn serves."""
    from flask import Flask, request  # here, so that PEER can be read where it is not installed

    served = Flask(__name__)
    csv = {"Content-Type": "text/csv; charset=utf-8"}

    @served.get("/tiny")
    def tiny() -> str:
        return TINY

    @served.get(f"/{GENERATOR}")
    def generator() -> tuple[Iterator[str], dict[str, str]]:
        return _generated(int(request.args["rows"])), csv

    @served.get(f"/{TABLE}")
    def table() -> tuple[Iterator[str], dict[str, str]]:
        return _selected(database, int(request.args["rows"])), csv

    return served


def _generated(rows: int) -> Iterator[str]:
    yield line(COLUMNS)
    for row in orders(rows):
        yield line(row)


def _selected(database: str, rows: int) -> Iterator[str]:
    yield line(COLUMNS)
    with closing(sqlite3.connect(database)) as connection:
        for row in connection.execute(QUERY, (rows,)):
            yield line(row)
