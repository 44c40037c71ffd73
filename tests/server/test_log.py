"""The log: lines on a descriptor, and nobody waits for them."""

import logging
import os
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


def test_a_process_without_stderr_logs_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever started it closed it: its number may by now be another file's."""
    handlers: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: handlers.extend(options["handlers"]))
    monkeypatch.setattr("sys.stderr", None)
    log.start_log("info")
    assert [type(handler) for handler in handlers] == [logging.NullHandler]
