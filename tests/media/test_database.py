"""The database: whose it is, what an address must be, who may write, and what a cancelled call leaves."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

from media.database import CatalogueError, Database, uninterrupted
from media.source import SourceBroken

TABLES = sa.MetaData()
songs = sa.Table("songs", TABLES, sa.Column("title", sa.Text))


def url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'tracks.sqlite3'}"


def opened(address: str) -> Database:
    return Database(address, TABLES, 1)


@uninterrupted
async def titles(database: Database) -> list[str]:
    async with database.connection() as connection:
        return list((await connection.execute(sa.select(songs.c.title))).scalars())


@uninterrupted
async def add(database: Database, title: str, *more: str) -> None:
    async with database.writing() as connection:
        await connection.execute(sa.insert(songs).values(title=title))
        for statement in more:
            await connection.exec_driver_sql(statement)


async def made(folder: Path) -> None:
    """A database of ours with one song, closed."""
    async with opened(url(folder)) as database:
        await add(database, "A")


def foreign(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as raw:
        for statement in statements:
            raw.execute(statement)
        raw.commit()


async def refusal(address: str) -> str:
    """What a database that does not open says: one sentence."""
    with pytest.raises(CatalogueError) as caught:
        async with opened(address):
            pass
    assert isinstance(caught.value, SourceBroken)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- whose database ---


@pytest.mark.gen_test
async def test_reopened_database_is_ours(tmp_path):
    """What one process wrote the next one has."""
    await made(tmp_path)
    async with opened(url(tmp_path)) as database:
        assert await titles(database) == ["A"]


@pytest.mark.gen_test
async def test_another_programs_database_is_left_alone(tmp_path):
    """Its tables are named, and not a byte of it has changed."""
    path = tmp_path / "tracks.sqlite3"
    foreign(path, *(f"CREATE TABLE {name} (x)" for name in ("moz_places", "b", "c", "d")))
    before = path.read_bytes()
    assert "another program's, it holds the tables b, c, d, …" in await refusal(url(tmp_path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.gen_test
async def test_newer_schema_is_refused(tmp_path):
    """A database of a later Millrace is not touched by an earlier one."""
    await made(tmp_path)
    foreign(tmp_path / "tracks.sqlite3", "UPDATE millrace_schema SET version = 2")
    assert "has the schema 2 of another Millrace, this one knows 1" in await refusal(url(tmp_path))


@pytest.mark.gen_test
async def test_file_that_is_no_database(tmp_path):
    """A file of something else is said to be none."""
    (tmp_path / "tracks.sqlite3").write_bytes(b"This is a shopping list. " * 100)
    assert "tracks.sqlite3 cannot be opened (file is not a database)" in await refusal(url(tmp_path))


@pytest.mark.gen_test
async def test_table_of_the_same_name_but_another_kind(tmp_path):
    """A table millrace_schema without our column is an error of the driver, in one sentence."""
    foreign(tmp_path / "tracks.sqlite3", "CREATE TABLE millrace_schema (x)")
    assert "no such column" in await refusal(url(tmp_path))


@pytest.mark.gen_test
async def test_folder_that_does_not_exist(tmp_path):
    """It is not made: a mistyped address would begin an empty catalogue there."""
    assert "a folder that does not exist" in await refusal(url(tmp_path / "typo"))
    assert not list(tmp_path.iterdir())


@pytest.mark.gen_test
async def test_folder_in_place_of_the_database(tmp_path):
    """A folder is no database."""
    (tmp_path / "tracks.sqlite3").mkdir()
    assert "cannot be opened (unable to open database file)" in await refusal(url(tmp_path))


@pytest.mark.gen_test
async def test_database_that_cannot_be_written(tmp_path):
    """It is noticed at the start, not at the first scan."""
    await made(tmp_path)
    address = f"sqlite+aiosqlite:///file:{tmp_path / 'tracks.sqlite3'}?mode=ro&uri=true"
    assert "cannot be opened (attempt to write a readonly database)" in await refusal(address)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nonsense", "is no address of a database: give one like sqlite+aiosqlite:///"),
        ("postgresql+asyncpg://me:secret@host:port/name", "is no address of a database"),
        ("sqlite+aiosqlite://host/name", "is no address of a database"),
        ("mongodb://host/name", "there is no database driver mongodb"),
        ("postgresql+nope://me:secret@host/name", "there is no database driver postgresql+nope"),
        ("sqlite:///name", "the database driver sqlite is not asynchronous"),
        (
            "oracle+oracledb_async://me:secret@host/name",
            "oracle+oracledb_async://me:***@host/name is not installed",
        ),
        ("sqlite+aiosqlite://", "in memory loses the ids"),
        ("sqlite+aiosqlite:///:memory:", "in memory loses the ids"),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", "in memory loses the ids"),
    ],
)
async def test_address_that_is_wrong(address, says):
    """What is wrong and what would be right, without a password."""
    message = await refusal(address)
    assert says in message
    assert "secret" not in message


@pytest.mark.gen_test
async def test_failure_after_the_start(tmp_path):
    """A database that breaks while the server runs is an outside failure."""
    async with opened(url(tmp_path)) as database:
        foreign(tmp_path / "tracks.sqlite3", "DROP TABLE songs")
        with pytest.raises(CatalogueError, match=r"tracks.sqlite3 failed: no such table"):
            await titles(database)


@pytest.mark.gen_test
async def test_database_that_stays_locked(tmp_path, monkeypatch):
    """Another process that never ends its transaction stops the start after a bounded time."""
    await made(tmp_path)
    monkeypatch.setattr("media.database.WAIT_SECONDS", 0.1)
    with closing(sqlite3.connect(tmp_path / "tracks.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "cannot be opened (database is locked)" in await refusal(url(tmp_path))


class Elsewhere(SQLiteDialect_aiosqlite):
    """A dialect of which we know nothing; underneath, to need no server, it is SQLite's."""

    name = "elsewhere"
    supports_statement_cache = True


@pytest.mark.gen_test
async def test_database_of_another_kind(tmp_path):
    """Any asynchronous dialect of SQLAlchemy opens, writes and opens again; we make no folder for it."""
    registry.register("elsewhere.aiosqlite", __name__, Elsewhere.__name__)
    address = f"elsewhere+aiosqlite:///{tmp_path / 'tracks.sqlite3'}"
    for songs_there in ([], ["A"]):
        async with opened(address) as database:
            assert await titles(database) == songs_there
            await add(database, "A")
    assert "cannot be opened (unable to open" in await refusal(address.replace("tracks", "missing/tracks"))


# --- two at once ---


@pytest.mark.gen_test
async def test_processes_open_and_write_at_once(tmp_path):
    """Each of several that open an empty database at once succeeds, and sees what the one before it wrote."""

    all_open = asyncio.Barrier(4)

    async def one() -> None:
        async with opened(url(tmp_path)) as database:
            await all_open.wait()
            async with database.writing() as connection:
                before = (await connection.execute(sa.select(songs.c.title))).all()
                await connection.execute(sa.insert(songs).values(title=str(len(before))))

    await asyncio.gather(*(one() for _ in range(4)))
    async with opened(url(tmp_path)) as database:
        assert sorted(await titles(database)) == ["0", "1", "2", "3"]


@pytest.mark.gen_test
async def test_readers_go_on_while_another_writes(tmp_path):
    """An open transaction of another process does not hold up a reader, not even an exclusive one."""
    await made(tmp_path)
    async with opened(url(tmp_path)) as database:
        with closing(sqlite3.connect(tmp_path / "tracks.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("UPDATE songs SET title = 'unfinished'")
            async with asyncio.timeout(2):
                assert await titles(database) == ["A"]


@pytest.mark.gen_test
async def test_block_that_fails_is_rolled_back(tmp_path):
    """What a transaction wrote before its block failed is not there, and the next one may write."""
    async with opened(url(tmp_path)) as database:
        with pytest.raises(CatalogueError):
            await add(database, "half", "a statement that is none")
        await add(database, "A")
        assert await titles(database) == ["A"]


# --- cancelled ---


@pytest.mark.gen_test
async def test_cancelled_call_ends_first_what_it_has_begun(tmp_path):
    """The transaction under way is committed, and only then the cancellation passes through."""
    async with opened(url(tmp_path)) as database:
        work = asyncio.create_task(add(database, "A"))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await titles(database) == ["A"]


@pytest.mark.gen_test
async def test_cancelled_call_that_fails_is_cancelled(tmp_path):
    """What a call would have raised is not reported to anybody once it is cancelled."""
    async with opened(url(tmp_path)) as database:
        foreign(tmp_path / "tracks.sqlite3", "DROP TABLE songs")
        work = asyncio.create_task(titles(database))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work


@pytest.mark.gen_test
async def test_cancelled_call_that_hangs_is_let_go(tmp_path, monkeypatch):
    """A cancelled call does not wait for ever for a database that does not answer."""
    monkeypatch.setattr("media.database._CANCEL_SECONDS", 0.05)
    async with opened(url(tmp_path)) as database:
        with closing(sqlite3.connect(tmp_path / "tracks.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            work = asyncio.create_task(add(database, "A"))
            await asyncio.sleep(0.02)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            other.rollback()
        assert await titles(database) == []
    for thread in threading.enumerate():  # its result must not arrive after the loop is closed
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 5)
