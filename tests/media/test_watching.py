"""That files have changed: who is told, and what is open meanwhile."""

import os
from pathlib import Path
from typing import Any

import asyncinotify
import pytest

from media.watching import Changes
from tests.media.following import append, delete, move
from tests.serving import eventually


class Told:
    """Whether each call was about a name."""

    def __init__(self) -> None:
        self.calls: list[bool] = []

    def __call__(self, names: bool) -> None:
        self.calls.append(names)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.gen_test
async def test_who_watches_is_told(tmp_path: Path) -> None:
    """Of what is written, of names that come and go, and no longer afterwards."""
    log, changes = tmp_path / "log", Changes()
    append(log, "one\n")
    before = descriptors()
    file, other, folder = Told(), Told(), Told()
    of_file = changes.watch(str(log), file, names=False)
    assert changes.watch(str(log), other, names=False) == of_file
    of_folder = changes.watch(str(tmp_path), folder, names=True)
    assert of_file is not None
    assert of_folder is not None
    append(log, "two\n")
    await eventually(lambda: file.calls and other.calls)
    assert set(file.calls) == {False}
    assert not folder.calls
    changes.unwatch(of_file, other)
    move(log)
    await eventually(lambda: True in file.calls and folder.calls)
    append(log, "new\n")
    delete(log.with_name("log.1"))
    await eventually(lambda: len(folder.calls) >= 1)
    changes.unwatch(of_file, file)
    changes.unwatch(of_folder, folder)
    changes.unwatch(of_folder, folder)
    assert set(other.calls) == {False}
    assert descriptors() == before


@pytest.mark.gen_test
async def test_what_cannot_be_watched_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there; a system whose watches are used up. Nothing is left open."""
    before = descriptors()
    changes = Changes()
    assert changes.watch(str(tmp_path / "none"), Told(), names=True) is None

    def none(*args: Any, **kwargs: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncinotify, "Inotify", none)
    assert changes.watch(str(tmp_path), Told(), names=True) is None
    assert descriptors() == before


@pytest.mark.slow
@pytest.mark.gen_test
async def test_where_too_much_happens_all_are_told(tmp_path: Path) -> None:
    """The system says then that it has forgotten what."""
    changes, told = Changes(), [Told(), Told()]
    for number in range(2):
        append(tmp_path / f"log{number}", "x")
    watches = [changes.watch(str(tmp_path / f"log{n}"), each, names=False) for n, each in enumerate(told)]
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())  # noqa: ASYNC240
    for _ in range(most // 2 + 10):
        for number in range(2):  # what is alike and comes in a row is told once
            append(tmp_path / f"log{number}", "x")
    await eventually(lambda: all(True in each.calls for each in told), 20)
    for watch, each in zip(watches, told, strict=True):
        assert watch is not None
        changes.unwatch(watch, each)
