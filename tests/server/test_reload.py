"""What is a change of a module of streams; tests/end_to_end/test_own_streams.py has what follows from it."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from media.own import load
from server import reload
from server.reload import Changes, start_anew


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files are looked at often, and nothing that was imported is left."""
    monkeypatch.setattr(reload, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module that imports one from beside it, in a folder with another."""
    (tmp_path / "beside_the_module.py").write_text("x = 1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "unrelated.py").write_text("x = 1\n")
    path = tmp_path / "module.py"
    path.write_text("import beside_the_module, package\nSTREAMS = {}\n")
    return path


def later() -> None:
    """Until the kernel's clock, which goes in steps of 4 ms or 10, shows another time than now."""
    time.sleep(0.03)


@pytest.mark.parametrize("changed", ["module.py", "beside_the_module.py", "package/__init__.py"])
@pytest.mark.parametrize("how", ["written", "replaced"])
@pytest.mark.gen_test
async def test_a_change_is_seen(module: Path, changed: str, how: str) -> None:
    """Of the module, and of what it has imported; also by a file that is older and was put in its place."""
    later()
    changes = Changes([str(module)])
    await asyncio.to_thread(load, str(module))
    coming = asyncio.ensure_future(changes.come())
    await asyncio.sleep(0.05)
    assert not changes.seen
    (module.parent / "unrelated.py").write_text("x = 2\n")
    await asyncio.sleep(0.05)
    assert not changes.seen
    path = module.parent / changed
    if how == "written":
        path.write_text("STREAMS = {}\n# more\n")
    else:
        new = module.with_name("new")
        new.write_text("STREAMS = {}\n")
        os.utime(new, (1, 1))
        new.rename(path)
    await asyncio.wait_for(coming, 5)
    assert changes.seen


@pytest.mark.gen_test
async def test_a_change_during_the_load_is_one(module: Path) -> None:
    """What was read may have been older."""
    later()
    changes = Changes([str(module)])
    await asyncio.to_thread(load, str(module))
    later()
    os.utime(module)
    await asyncio.wait_for(changes.come(), 5)
    assert changes.seen


@pytest.mark.gen_test
async def test_a_time_to_come_is_no_change(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another machine's clock, and the server would start anew without end."""
    monkeypatch.setattr(reload, "_changed_ns", lambda path: time.time_ns() + 10**12)
    coming = asyncio.ensure_future(Changes([str(module)]).come())
    await asyncio.sleep(0.05)
    assert not coming.done()
    coming.cancel()


@pytest.mark.parametrize("changed", ["module.py", "unrelated.py", "new.py", "package/new.py"])
def test_what_could_have_been_imported_is_waited_for(module: Path, changed: str) -> None:
    """Where a module has failed, it may be for one that is not there yet."""
    later()
    changes, looks = Changes([str(module)]), 0

    def asked() -> bool:
        nonlocal looks
        looks += 1
        if looks == 5:
            assert not changes.seen
            (module.parent / changed).write_text("x = 3\n")
        return looks > 1000

    changes.wait(asked)
    assert changes.seen


def test_the_wait_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    """Also for a module that never was there, which is no change."""
    changes, looks = Changes([str(tmp_path / "missing.py"), "missing"]), iter(range(5))
    changes.wait(lambda: next(looks, None) is None)
    assert not changes.seen


def test_the_same_command_runs_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With everything that stood before it, after the last line of the log."""
    caplog.set_level(logging.INFO)
    done: list[object] = []
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-X", "dev", "run.py", "--reload"])
    monkeypatch.setattr(logging, "shutdown", lambda: done.append("log"))
    monkeypatch.setattr(os, "execv", lambda *command: done.append(command))
    start_anew()
    assert done == ["log", (sys.executable, [sys.executable, "-X", "dev", "run.py", "--reload"])]
    assert "starting anew" in caplog.text
