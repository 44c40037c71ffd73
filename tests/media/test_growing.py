"""A file that grows, is moved, cut, and comes back: what its reader makes of it."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from media import growing as module
from media import watching
from media.growing import growing_files
from media.source import SourceBroken, SourceBusy
from tests.conftest import ExpectLog
from tests.media.following import append, delete, following, move, read_of
from tests.serving import eventually


@pytest.fixture(params=["told", "polled"])
def log(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log, once where the system tells of changes and once where it does not."""
    if request.param == "polled":
        monkeypatch.setattr(watching.Changes, "watch", lambda *args, **kwargs: None)
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    else:
        monkeypatch.setattr(module, "POLL_SECONDS", 60.0)
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    return path


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.gen_test
async def test_what_is_written_is_sent_when_its_line_ends(log: Path) -> None:
    """Also where the writer cuts it in the middle of a character."""
    async with following(log) as client:
        await client.until("two")
        whole = "바람\n곳".encode()
        for byte in whole:
            append(log, bytes([byte]))
            await asyncio.sleep(0.01)
        await client.until("바람")
        assert client.lines == ["one", "two", "바람"]
        append(log, "으로\n")
        await client.until("곳으로")
        assert client.lines == ["one", "two", "바람", "곳으로"]


def moved(log: Path) -> None:
    """logrotate `create`: the program goes on writing to the old file for a while."""
    with log.open("ab") as old:
        log.rename(log.with_name("log.1"))
        log.touch()
        old.write(b"late\n")


def copied(log: Path) -> None:
    """logrotate `copytruncate`."""
    append(log, "late\n")
    log.with_name("log.1").write_bytes(log.read_bytes())


def deleted(log: Path) -> None:
    append(log, "late\n")
    log.unlink()


@pytest.mark.parametrize(("rotate", "cause"), [(moved, "replaced"), (deleted, "replaced")])
@pytest.mark.gen_test
async def test_another_file_of_the_name_comes_behind_the_first(log: Path, rotate: Any, cause: str) -> None:
    """The rest of the old one is read first, and the client is told where the new one begins."""
    async with following(log) as client:
        await client.until("two")
        rotate(log)
        await client.until("late")
        append(log, "new\n")
        await client.until("new")
        events = client.events
    assert [(event.event, event.data) for event in events] == [
        *[("message", line) for line in ("one", "two", "late")],
        ("rotated", f'{{"cause":"{cause}"}}'),
        ("message", "new"),
    ]
    assert events[3].id.startswith("0-")


@pytest.mark.parametrize("content", ["third\n", "three\nfour\n", "one\ntwo, but another\nand more\n" * 10])
@pytest.mark.gen_test
async def test_a_file_that_is_cut_is_begun_anew(log: Path, content: str) -> None:
    """Whether it is shorter, as long, or longer when it is looked at."""
    async with following(log) as client:
        await client.until("two")
        copied(log)
        await client.until("late")
        os.truncate(log, 0)
        append(log, content)
        await client.until(content.splitlines()[-1], content.count(content.splitlines()[-1]))
        events = client.events
    lines = [event.data for event in events if event.event == "message"]
    assert lines == ["one", "two", "late", *content.splitlines()]
    assert [event.data for event in events if event.event == "rotated"] == ['{"cause":"truncated"}']


@pytest.mark.gen_test
async def test_a_last_line_without_end_is_sent_when_nothing_follows_it(log: Path) -> None:
    """In text it gets an end, or the next file's first line would be its rest."""
    async with following(log, form="text") as client:
        append(log, "unfinis")
        await eventually(lambda: read_of(log).read_bytes == 15)
        move(log)
        append(log, "new\n")
        await client.until("new\n")
        assert client.received == b"one\ntwo\nunfinis\nnew\n"


@pytest.mark.gen_test
async def test_a_missing_file_is_waited_for(log: Path) -> None:
    """And sent from its beginning on; its folder may be missing, too."""
    missing = log.parent / "new"
    async with following(missing) as client:
        await asyncio.sleep(0.05)
        append(missing, "first\n")
        await client.until("first")
        assert client.lines == ["first"]
        assert [event.event for event in client.events] == ["message"]


@pytest.mark.slow
@pytest.mark.gen_test
async def test_nothing_is_open_behind_the_last_follower(log: Path) -> None:
    """Neither the file, nor what tells of it; and a file that is renamed away is closed with the next."""
    before = descriptors()
    async with following(log) as client, following(log) as other:
        await client.until("two")
        await other.until("two")
        held = descriptors()
        for number in range(5):
            move(log, f".{number}")
            append(log, f"file {number}\n")
            await client.until(f"file {number}")
        assert descriptors() == held
        assert len(growing_files()) == 1
    assert len(growing_files()) == 0
    assert descriptors() == before


@pytest.mark.gen_test
async def test_a_deleted_file_is_closed_after_a_while(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disk is free then, and whatever comes by its name is another."""
    monkeypatch.setattr(module, "GONE_SECONDS", 0.05)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    async with following(log) as client:
        await client.until("two")
        delete(log)
        await eventually(lambda: read_of(log).file is None)
        async with following(log) as late:
            await eventually(lambda: late.received)
            append(log, "again\n")
            await client.until("again")
            await late.until("again")
        assert client.lines == ["one", "two", "again"]
        assert late.lines[-1:] == ["again"]


@pytest.mark.gen_test
async def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a descriptor, and memory."""
    monkeypatch.setattr(module, "MOST_FILES", 1)
    async with following(tmp_path / "a"), following(tmp_path / "a"):
        with pytest.raises(SourceBusy):
            async with following(tmp_path / "b"):
                pass
    async with following(tmp_path / "b"):
        pass


@pytest.mark.gen_test
async def test_a_reader_that_fails_ends_its_followers(
    log: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """A bug must not look like silence."""
    expect_log("millrace.files", logging.ERROR, "no longer read")

    def broken(*args: object) -> None:
        raise ZeroDivisionError

    async with following(log) as client:
        await client.until("two")
        monkeypatch.setattr(module.Splitter, "feed", broken)
        append(log, "three\n")
        await eventually(lambda: client.error)
        assert isinstance(client.error, SourceBroken)
        async with following(log) as late:
            await eventually(lambda: late.error)


@pytest.mark.gen_test
async def test_a_disk_that_fails_is_asked_again(
    log: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    """And the log says so once."""
    expect_log("millrace.files", logging.WARNING, "cannot be read: [Errno 5]")
    read, failing = module.read_behind, True

    async def failed(*args: Any, **kwargs: Any) -> bytes | None:
        if failing:
            raise SourceBroken("reading failed") from OSError(5, "I/O error")
        return await read(*args, **kwargs)

    async with following(log) as client:
        await client.until("two")
        monkeypatch.setattr(module, "read_behind", failed)
        for number in range(3):
            append(log, f"{number}\n")
            await asyncio.sleep(0.03)
        failing = False
        append(log, "well again\n")
        await client.until("well again")
        assert client.lines == ["one", "two", "0", "1", "2", "well again"]


@pytest.mark.gen_test
async def test_cancelled_while_it_is_closed(log: Path) -> None:
    """The file and the watches are closed all the same."""
    before = descriptors()
    growing = growing_files().hold(None, str(log))
    await growing.started()
    releasing = asyncio.create_task(growing_files().release(growing))
    await asyncio.sleep(0)
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    assert growing.file is None
    assert descriptors() == before
