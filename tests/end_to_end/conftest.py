"""Servers for the tests to talk to: each ends in order, with nothing unexpected in its log."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.end_to_end.process import Process, program

Starter = Callable[..., Process]

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start servers of the test's own; the arguments are Process's, behind the folder."""
    with ExitStack() as stack:

        def started(*flags: str, wait: bool = True, **options: object) -> Process:
            folder = tmp_path / f"server{len(list(tmp_path.glob('server*')))}"
            process = Process(folder, flags, **options)  # type: ignore[arg-type]
            stack.callback(process.stop)
            return process.started() if wait else process

        yield started


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder to serve."""
    folder = tmp_path / "library"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of what is shipped, for all tests that leave it as it is."""
    process = Process(tmp_path_factory.mktemp("samples"))
    try:
        yield process.started()
    finally:
        process.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a file."""
    chromium = program("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_FLAGS)
        yield started
        started.close()
