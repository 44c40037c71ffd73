"""The tracks of one library in a database: stable ids, search, pages.

SQLite by default, any database that `media/database.py` opens. One database holds one library.

The one thing to know is how a track keeps its id: a track that has gone stays in its row, unseen, and
`media/identity.py` says which row a file takes.
"""

import asyncio
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from media.database import CatalogueError, Database, uninterrupted
from media.identity import Found, Reading, Row, assign

SCHEMA_VERSION = 1
SEARCH_WORDS = 32
"""How many different words of a query are looked for; more are ignored."""

_SORT_CHARACTERS = 120  # of each field: PostgreSQL indexes at most 2704 bytes a row
_TOO_LARGE_ID = 2**31

_metadata = sa.MetaData()
# No UNIQUE on path: gone rows keep theirs, and rows that swap would trip over it. Writers take turns
# (`Database.writing`) and see all rows before they write, which is what keeps a path to one present row.
_tracks = sa.Table(
    "tracks",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("present", sa.Boolean, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("mtime_ns", sa.BigInteger, nullable=False),
    sa.Column("content_id", sa.String(64), nullable=False),
    sa.Column("media_type", sa.String(64), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("artist", sa.Text),
    sa.Column("album", sa.Text),
    sa.Column("track_number", sa.Integer),
    sa.Column("duration_seconds", sa.Double),
    sa.Column("has_cover", sa.Boolean, nullable=False),
    sa.Column("search", sa.Text, nullable=False),
    # Sorted by code point everywhere: a locale's order may change under the index with a system update.
    sa.Column(
        "sort_key", sa.String(640).with_variant(sa.String(640, collation="C"), "postgresql"), nullable=False
    ),
    sa.Index("tracks_in_order", "present", "sort_key", "id"),
    sqlite_autoincrement=True,  # plain SQLite gives the highest id again once its row is deleted
)


@dataclass(frozen=True, slots=True)
class Track:
    """One audio file. `path` is relative to the library, '/' between folders, exactly as on disk.

    `length` is in bytes. `title` is the file name without its end if there is no tag;
    None elsewhere: the tags do not say.
    """

    id: int
    path: str
    title: str
    artist: str | None
    album: str | None
    track_number: int | None
    duration_seconds: float | None
    media_type: str
    length: int
    has_cover: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What decides which files are opened: length and mtime_ns by path, and every content ever seen."""

    files: dict[str, tuple[int, int]]
    content_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Counts:
    """What an update did, in tracks. One that came back is `added`."""

    added: int
    changed: int
    moved: int
    removed: int


class Catalogue:
    """The tracks of one library; an async context manager that opens the database and closes it.

    Entering creates the tables in an empty database.
    No connection is held between two calls. Every method raises CatalogueError if the database fails,
    and one that is cancelled ends first what it has begun.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, _metadata, SCHEMA_VERSION)

    async def __aenter__(self) -> "Catalogue":
        await self._database.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.__aexit__()

    @uninterrupted
    async def track(self, id: int) -> Track | None:  # noqa: A002
        """The track with this id, or None if there is none or it has gone."""
        if not 0 < id < _TOO_LARGE_ID:
            return None
        async with self._database.connection() as connection:
            wanted = sa.select(*_track_columns).where(_tracks.c.id == id, _tracks.c.present)
            row = (await connection.execute(wanted)).mappings().first()
        return None if row is None else Track(**row)

    @uninterrupted
    async def tracks(
        self, query: str = "", after: int | None = None, limit: int = 100
    ) -> tuple[list[Track], int | None]:
        """A page of the tracks by artist, album, number and title, and the `after` of the next page if any.

        Every word of `query` occurs in title, artist or album, in any case and any normal form.
        `after` is the last track of the page before; it may have gone since.
        The caller bounds query and limit.
        """
        columns = _tracks.c
        words = list(dict.fromkeys(_normal(query).split()))[:SEARCH_WORDS]
        page = sa.select(*_track_columns).where(columns.present)
        page = page.where(*(columns.search.contains(word, autoescape=True) for word in words))
        if after is not None:
            known_id = after if 0 < after < _TOO_LARGE_ID else 0
            key = sa.select(columns.sort_key).where(columns.id == known_id).scalar_subquery()
            page = page.where(sa.tuple_(columns.sort_key, columns.id) > sa.tuple_(key, known_id))
        page = page.order_by(columns.sort_key, columns.id).limit(limit + 1)
        async with self._database.connection() as connection:
            rows = (await connection.execute(page)).mappings().all()
        found = [Track(**row) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    @uninterrupted
    async def count(self) -> int:
        """How many tracks there are."""
        async with self._database.connection() as connection:
            wanted = sa.select(sa.func.count()).select_from(_tracks).where(_tracks.c.present)
            return int((await connection.execute(wanted)).scalar_one())

    @uninterrupted
    async def ids(self, media_type: str) -> dict[str, int]:
        """The id of each track of this type, by its path."""
        columns = _tracks.c
        wanted = sa.select(columns.path, columns.id).where(columns.present, columns.media_type == media_type)
        async with self._database.connection() as connection:
            rows = (await connection.execute(wanted)).all()
        return await asyncio.to_thread(lambda: {row.path: row.id for row in rows})

    @uninterrupted
    async def known(self) -> Known:
        """What the catalogue holds, for `library.scan` to compare with the folder."""
        async with self._database.connection() as connection:
            rows = await _rows(connection)
        return await asyncio.to_thread(_known, rows)

    @uninterrupted
    async def add(self, found: Mapping[str, Found]) -> int:
        """Add files at new paths whose content was never seen; a path that is there by now is left alone.

        Gives their number. Lets a long scan write as it goes: such files are new whatever else it finds.
        """
        columns = _tracks.c
        async with self._database.writing() as connection:
            there = sa.select(columns.path).where(columns.present, columns.path.in_(found))
            new = found.keys() - set((await connection.execute(there)).scalars())
            if new:
                rows = await asyncio.to_thread(lambda: [_values(path, found) for path in sorted(new)])
                await connection.execute(sa.insert(_tracks), rows)
        return len(new)

    @uninterrupted
    async def update(self, found: Mapping[str, Found]) -> Counts:
        """Bring the catalogue in line with everything that was found; what is not in `found` has gone.

        One transaction: another process sees all of it or nothing.
        """
        async with self._database.writing() as connection:
            rows = await _rows(connection)
            plan = await asyncio.to_thread(_plan, rows, found)
            if plan.updates:
                await connection.execute(_update_row, plan.updates)
            if plan.gone:
                await connection.execute(_update_row, plan.gone)
            if plan.inserts:
                await connection.execute(sa.insert(_tracks), plan.inserts)
        return plan.counts


def default_database(root: Path) -> str:
    """The URL of the SQLite file for the library `root`, in the user's data folder (XDG base directories).

    Each library has a file of its own, so that its ids begin at 1. Blocking: makes the data folder.

    Raises:
        CatalogueError: the user has no home folder, or the data folder cannot be made.
    """
    real = root.resolve()
    try:
        data = Path(os.environ.get("XDG_DATA_HOME", ""))
        if not data.is_absolute():  # the specification has such a value ignored
            data = Path.home() / ".local" / "share"
        folder = data / "millrace"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except RuntimeError as error:
        raise CatalogueError("the user has no home folder for the database: give its address") from error
    except OSError as error:
        raise CatalogueError(
            f"the folder {folder} for the database cannot be made ({error.strerror}): give another database"
        ) from error
    slug = re.sub(r"\W+", "-", _normal(real.name)).strip("-")[:40] or "library"
    digest = blake2b(os.fsencode(real), digest_size=4).hexdigest()
    file = folder / f"{slug}-{digest}.sqlite3"
    return URL.create("sqlite+aiosqlite", database=str(file)).render_as_string(hide_password=False)


# --- rows ---

_track_columns = [_tracks.c[field.name] for field in fields(Track)]
_row_columns = [_tracks.c[field.name] for field in fields(Row)]
_update_row = sa.update(_tracks).where(_tracks.c.id == sa.bindparam("row"))


async def _rows(connection: AsyncConnection) -> list[Row]:
    # In a thread: ten thousand rows would hold the loop. So with all that goes through all rows.
    fetched = (await connection.execute(sa.select(*_row_columns))).all()
    return await asyncio.to_thread(lambda: [Row(*row) for row in fetched])


def _known(rows: Iterable[Row]) -> Known:
    return Known(
        {row.path: (row.length, row.mtime_ns) for row in rows if row.present},
        frozenset(row.content_id for row in rows if row.content_id),
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """The values to be written, as the statements take them."""

    inserts: list[dict[str, Any]]
    updates: list[dict[str, Any]]
    gone: list[dict[str, Any]]
    counts: Counts


def _plan(rows: list[Row], found: Mapping[str, Found]) -> _Plan:
    taken, new = assign(rows, found)
    read = [row for row in rows if row.id in taken and found[taken[row.id]].reading]
    gone = [{"row": row.id, "present": False} for row in rows if row.present and row.id not in taken]
    back = sum(not row.present for row in read)
    moved = sum(row.present and row.path != taken[row.id] for row in read)
    return _Plan(
        inserts=[_values(path, found) for path in new],
        updates=[{"row": row.id, **_values(taken[row.id], found)} for row in read],
        gone=gone,
        counts=Counts(len(new) + back, len(read) - back - moved, moved, len(gone)),
    )


def _values(path: str, found: Mapping[str, Found]) -> dict[str, Any]:
    reading = found[path].reading
    assert reading is not None  # the callers write only what was read
    values = asdict(reading)
    del values["disc_number"]  # only orders
    return values | {
        "present": True,
        "path": path,
        "length": found[path].length,
        "mtime_ns": found[path].mtime_ns,
        "search": _normal("\n".join(text or "" for text in (reading.title, reading.artist, reading.album))),
        "sort_key": _sort_key(reading, path),
    }


def _sort_key(reading: Reading, path: str) -> str:
    """Artist, album, disc, number, title, path. What has no artist or no album comes last; 2 before 10."""
    place = f"{reading.disc_number or 0:04d}{reading.track_number or 9999:04d}"
    parts = [_order(reading.artist), _order(reading.album), place, _order(reading.title), _order(path)]
    return "\x1f".join(parts)


def _order(text: str | None) -> str:
    if text is None:
        return "~"  # behind every "-"
    padded = re.sub(r"\d+", lambda digits: digits[0].zfill(8), _normal(text), flags=re.ASCII)
    return "-" + padded[:_SORT_CHARACTERS]


def _normal(text: str) -> str:
    """The form in which texts are compared: any case and any normal form of a text give the same.

    NUL, which PostgreSQL does not store, and lone surrogates, which nobody encodes, are replaced.
    """
    whole = text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", whole).casefold())
