"""The log: lines on a descriptor, and nobody waits for them."""

import logging
import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server import log


def record(text: str) -> logging.LogRecord:
    """A record of level INFO."""
    return logging.LogRecord("millrace", logging.INFO, "", 0, text, None, None)


def test_each_record_is_a_line(tmp_path: Path) -> None:
    """In order, and written when the handler is closed; what UTF-8 does not know is escaped."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        handler = log.StderrHandler(file.fileno())
        for text in ("one", "둘", "\udcff"):
            handler.emit(record(text))
        handler.close()

    lines = path.read_text("utf-8").splitlines()
    assert [line.partition(" INFO millrace: ")[2] for line in lines] == ["one", "둘", "\\udcff"]


def test_nobody_waits_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody reads takes 64 KiB. What comes then is dropped, and counted once somebody reads."""
    monkeypatch.setattr(log, "QUEUE_LINES", 10)
    monkeypatch.setattr(log, "CLOSE_SECONDS", 0.01)
    reading, writing = os.pipe()
    handler = log.StderrHandler(writing)
    for _ in range(100):
        handler.emit(record("x" * 10_000))
    handler.close()
    read = b""
    while b"dropped" not in read:
        read += os.read(reading, 65536)
        handler.emit(record("more"))
    handler.close()
    assert b"because nobody read the log" in read
    os.close(reading)
    handler.emit(record("into nowhere"))
    os.close(writing)


def test_lines_of_several_processes_are_not_mixed() -> None:
    """What is written at once is whole lines, and no more than a pipe takes in one piece."""
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reading, writing:
        handler = log.StderrHandler(writing.fileno(), shared=True)
        for length in (100, 4000, 3000, 2000) * 5:
            handler.emit(record("x" * length))
        handler.close()
        reading.setblocking(False)
        pieces = []
        with suppress(BlockingIOError):
            while True:
                pieces.append(reading.recv(65536))
    assert sum(piece.count(b"\n") for piece in pieces) == 20
    for piece in pieces:
        assert piece.endswith(b"\n")
        assert len(piece) <= select.PIPE_BUF


def test_a_process_that_forks_drops_what_nobody_reads() -> None:
    """It has no thread to wait for a reader; what a pipe has room for is written at once."""
    reading, writing = os.pipe()
    handler = log.PromptHandler(writing)
    handler.emit(record("one \udcff"))
    assert os.read(reading, 65536).endswith(b"]: one \\udcff\n")
    for _ in range(100):
        handler.emit(record("x" * 10_000))
    read = os.read(reading, 1_000_000)
    assert read.count(b"\n") == 16  # 64 KiB in lines of a page
    handler.emit(record("again"))
    assert os.read(reading, 65536).endswith(b"]: again\n")
    os.close(reading)
    handler.emit(record("into nowhere"))
    os.close(writing)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger; its level is as before when the test has ended."""
    logger = logging.getLogger()
    level = logger.level
    yield logger
    logger.setLevel(level)


def test_log_of_several_processes(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The supervisor's has no thread, a worker's has one, and each line says which process it is from."""
    monkeypatch.setattr(root, "handlers", [])
    log.start_log("info", processes=2)
    assert [type(handler) for handler in root.handlers] == [log.PromptHandler]
    root.handle(record("the supervisor's"))
    log.start_worker_log()
    assert [type(handler) for handler in root.handlers] == [log.StderrHandler]
    root.handle(record("a worker's"))
    root.handlers[0].close()
    lines = capfd.readouterr().err.splitlines()
    start = f" INFO millrace[{os.getpid()}]: "
    assert [line.partition(start)[2] for line in lines] == ["the supervisor's", "a worker's"]


def test_a_process_without_stderr_logs_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever started it closed it: its number may by now be another file's."""
    handlers: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: handlers.extend(options["handlers"]))
    monkeypatch.setattr("sys.stderr", None)
    log.start_log("info")
    assert [type(handler) for handler in handlers] == [logging.NullHandler]
