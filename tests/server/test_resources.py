"""What lives as long as the process: one scan at a time, and everything closed in reverse."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from handlers.limits import Limits
from handlers.writers import Writers
from media.catalogue import Catalogue
from media.station import Station
from server import resources
from server.resources import Scanner, open_resources
from server.settings import Settings, SettingsError
from tests.media.audio_files import mp3
from tests.serving import eventually

WAV = b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data\x08\0\0\0"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with one track."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "one.wav").write_bytes(WAV + b"\x81" * 8)
    return folder


@pytest.fixture
def settings(library: Path, tmp_path: Path) -> Settings:
    """For that library."""
    return Settings(media=library, database=f"sqlite+aiosqlite:///{tmp_path}/tracks.sqlite3")


@asynccontextmanager
async def scanner_of(settings: Settings) -> AsyncIterator[Scanner]:
    async with Catalogue(settings.database) as catalogue:
        yield Scanner(settings.media, catalogue, progress=False)


def summaries(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the scans said, without their times."""
    said = [record.message for record in caplog.records if record.message.startswith("library scanned")]
    return [line.partition(": ")[2] for line in said]


@pytest.mark.gen_test
async def test_asked_while_a_scan_runs_another_follows(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Two more requests while one runs are one more scan, and its end is the end of the same task."""
    caplog.set_level(logging.INFO)
    async with scanner_of(settings) as scanner:
        task = scanner.start()
        await asyncio.sleep(0)
        assert scanner.start() is task
        assert scanner.start() is task
        await task
    assert summaries(caplog) == ["1 added", "1 unchanged"]


@pytest.mark.gen_test
async def test_asked_after_a_scan_is_another_scan(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A scan that is asked for later sees what has changed since."""
    caplog.set_level(logging.INFO)
    async with scanner_of(settings) as scanner:
        await scanner.start()
        (settings.media / "one.wav").unlink()
        await scanner.start()
    assert summaries(caplog) == ["1 added", "1 removed"]


@pytest.mark.gen_test
async def test_library_that_cannot_be_read_is_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that has gone is one line in the log, the tracks stay, and the next scan may succeed."""
    caplog.set_level(logging.INFO)
    async with Catalogue(settings.database) as catalogue:
        scanner = Scanner(settings.media, catalogue, progress=False)
        await scanner.start()
        elsewhere = settings.media.rename(settings.media.with_name("elsewhere"))
        await scanner.start()
        assert await catalogue.count() == 1
        elsewhere.rename(settings.media)
        await scanner.start()
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.message.startswith("the library was not scanned: the library ")
    assert line.exc_info is None
    assert summaries(caplog) == ["1 added", "1 unchanged"]


@pytest.mark.gen_test
async def test_bug_in_a_scan_is_logged_and_not_raised(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A program error is in the log with its traceback; neither the task nor the end of the process fails."""

    async def broken(*args: object, **flags: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(resources, "scan", broken)
    async with scanner_of(settings) as scanner:
        await scanner.start()
        await scanner.stop()
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.message == "the library was not scanned"
    assert line.exc_info
    assert line.exc_info[0] is ZeroDivisionError


@pytest.mark.gen_test
async def test_stop_breaks_a_scan_off(settings: Settings) -> None:
    """A scan that is stopped has ended when `stop` returns; stopping what never began does nothing."""
    async with scanner_of(settings) as scanner:
        await scanner.stop()
        task = scanner.start()
        await asyncio.sleep(0)
        await scanner.stop()
        assert task.cancelled()
        await scanner.stop()


@pytest.mark.gen_test
async def test_resources_are_closed_in_reverse(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan ends before its database is closed, also when the server fails."""
    closed = []
    stop, leave = Scanner.stop, Catalogue.__aexit__

    async def stopped(self: Scanner) -> None:
        closed.append("scanner")
        await stop(self)

    async def left(self: Catalogue, *error: object) -> None:
        closed.append("catalogue")
        await leave(self, *error)

    monkeypatch.setattr(Scanner, "stop", stopped)
    monkeypatch.setattr(Catalogue, "__aexit__", left)

    async def serve() -> None:
        async with open_resources(settings) as opened:
            opened.scanner.start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await serve()
    assert closed == ["scanner", "catalogue"]


@pytest.mark.gen_test
async def test_a_station_plays_what_the_scan_finds(settings: Settings, tmp_path: Path) -> None:
    """On the mount of its name, and it ends with the rest."""
    mp3(settings.media / "two.mp3", title="Two")
    async with open_resources(settings.model_copy(update={"station": "radio=*"})) as opened:
        await asyncio.sleep(0.05)
        assert not [*opened.mounts]
        await opened.scanner.start()
        await eventually(lambda: [mount.playing.title for mount in opened.mounts] == ["Two"])
        mount = opened.mounts.get("radio")
    assert mount.session is None
    mount.end()


@pytest.mark.gen_test
async def test_bug_in_a_station_is_logged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback; the server goes on."""

    async def broken(self: Station) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Station, "run", broken)
    async with open_resources(settings.model_copy(update={"station": "radio=*"})):
        await eventually(lambda: caplog.records)
    (line,) = caplog.records
    assert line.message == "the station radio has ended"
    assert line.exc_info


@pytest.mark.gen_test
async def test_ready_while_requests_are_taken(settings: Settings) -> None:
    """Not before the server accepts, and not while it drains."""
    async with open_resources(settings) as opened:
        assert not opened.ready()
        opened.accepting = True
        assert opened.ready()
        opened.delivery.open_streams.drain()
        assert not opened.ready()


@pytest.mark.parametrize(
    ("set_to", "writers"),
    [
        ({}, Writers(loopback=True)),
        ({"address": "::1"}, Writers(loopback=True)),
        ({"address": "localhost"}, Writers(loopback=True)),
        ({"address": "0.0.0.0"}, Writers()),
        ({"address": "media.example.org"}, Writers()),
        ({"publish_token": "t", "source_password": "p"}, Writers("t", "p", loopback=True)),
        ({"publish_token_file": "t"}, Writers("t", loopback=True)),
        ({"processes": 2}, Writers(loopback=True, processes=2)),
    ],
)
@pytest.mark.gen_test
async def test_who_may_write_is_the_settings(
    settings: Settings, set_to: dict[str, object], writers: Writers
) -> None:
    """Without a secret only a server on loopback is written to."""
    async with open_resources(settings.model_copy(update=set_to)) as opened:
        assert opened.writers == writers


@pytest.mark.gen_test
async def test_channels_are_the_settings(settings: Settings) -> None:
    """Beside those that are shipped; origins and the size of an event, too."""
    set_to = {"channels": "a,b", "cors_origin": "https://a.example,http://b:1", "max_event": 7}
    async with open_resources(settings.model_copy(update=set_to)) as opened:
        assert [*opened.channels] == ["events", "a", "b"]
        origins = frozenset({"https://a.example", "http://b:1"})
        assert opened.cors.origins == opened.writers.origins == origins
        assert opened.max_event == 7


@pytest.mark.gen_test
async def test_a_channel_with_the_name_of_a_stream(settings: Settings) -> None:
    """Is refused, and named."""
    with pytest.raises(SettingsError, match='names that no stream has, not "clock"'):
        async with open_resources(settings.model_copy(update={"channels": "a,clock"})):
            pass


def exporting(settings: Settings, tmp_path: Path, export: str, database: str = "") -> Settings:
    """With a database of three orders."""
    with closing(sqlite3.connect(tmp_path / "orders.db")) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders AS SELECT 1 AS id, 'x' AS name")
    address = database or f"sqlite+aiosqlite:///{tmp_path}/orders.db"
    return settings.model_copy(update={"export": export, "export_database": address})


@pytest.mark.gen_test
async def test_exports_are_streams(settings: Settings, tmp_path: Path) -> None:
    """With the parameters of their queries; a channel of that name is refused."""
    set_to = exporting(
        settings, tmp_path, "all=SELECT * FROM orders\na/b:id=SELECT name, id FROM orders WHERE id > :x"
    )
    async with open_resources(set_to) as opened:
        assert [name for name in opened.streams if name in ("all", "a/b")] == ["all", "a/b"]
        assert opened.streams["a/b"].title == "Rows by id"
        assert opened.streams["a/b"].parameters == ({"name": "x", "required": True, "type": "string"},)
    with pytest.raises(SettingsError, match='names that no stream has, not "all"'):
        async with open_resources(set_to.model_copy(update={"channels": "all"})):
            pass


@pytest.mark.parametrize(("export", "database", "sentence"), [
    ("clock=SELECT 1", "", '--export must have a name that no other stream has, not "clock"'),
    ("a=SELECT * FROM missing", "", "--export a cannot be read: the database failed: no such table: missing"),
    ("a:no=SELECT 1 AS id", "", "--export a cannot be read: the query has no column no: its columns are id"),
    ("a=SELECT 1", "postgres://me:secret@localhost/x", "--export a cannot be read: postgres:// names no"),
    ("a=SELECT 1", "postgresql+asyncpg://me:secret@127.0.0.1:1/x", "--export a cannot be read: the database"),
    ("a=SELECT 1", "sqlite+aiosqlite:////nowhere/x.db", "--export a cannot be read: the database can"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_an_export_that_cannot_be(
    export: str, database: str, sentence: str, settings: Settings, tmp_path: Path
) -> None:
    """The start stops with one sentence, and no password in it."""
    with pytest.raises(SettingsError) as error:
        async with open_resources(exporting(settings, tmp_path, export, database)):
            pass
    assert str(error.value).startswith(sentence)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.gen_test
async def test_limits_are_the_settings(settings: Settings) -> None:
    """Each is the one that was set."""
    set_to = {"heartbeat": 3.0, "stall": 4.0, "min_rate": 5, "header_timeout": 6.0}
    set_to |= {"body_timeout": 11.0, "idle_timeout": 10.0}
    set_to |= {"max_streams": 7, "max_streams_per_client": 8, "rate_limit": 9}
    async with open_resources(settings.model_copy(update=set_to)) as opened:
        assert opened.delivery.limits == Limits(3, 4, 5, 6, 11, 10, 7, 8)
        assert opened.delivery.rate.bytes_per_second == 9


@pytest.mark.gen_test
async def test_database_that_cannot_be_used(settings: Settings, tmp_path: Path) -> None:
    """The sentence names the flag."""
    (tmp_path / "notes").write_text("no database" * 100)
    other = settings.model_copy(update={"database": f"sqlite+aiosqlite:///{tmp_path}/notes"})
    with pytest.raises(
        SettingsError, match=r"^--database cannot be used: the database .*notes cannot be opened"
    ):
        async with open_resources(other):
            pytest.fail("it was opened")


@pytest.mark.gen_test
async def test_user_without_a_home(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no place for the default database, the sentence asks for one."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(SettingsError, match=r"^--database cannot be used: the user has no home"):
        async with open_resources(settings.model_copy(update={"database": ""})):
            pytest.fail("it was opened")
