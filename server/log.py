"""The log, written to stderr by a thread of its own.

A stderr that nobody reads is full after 64 KiB, and who writes to it then waits: on the loop that would be
every client. So a line goes into a bounded queue; when that is full too, lines are dropped, and counted.

The thread writes what has come within LATER_SECONDS at once. Woken for each line it cost 50 µs of CPU a line,
half of a small answer, and nearly all of that to change between two threads.
"""

import logging
import os
import sys
import threading
import time
from collections import deque

QUEUE_LINES = 10_000
"""The most lines that wait to be written."""

LATER_SECONDS = 0.02
"""How long a line may wait for others."""

CLOSE_SECONDS = 1.0
"""How long the end of the process waits for the last lines."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Formatter(logging.Formatter):
    """Formats the time once a second."""

    _second = 0
    _shown = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._shown = time.strftime("%Y-%m-%d %H:%M:%S", self.converter(second))
        return f"{self._shown},{int(record.msecs):03d}"


class StderrHandler(logging.Handler):
    """Writes each record as a line to a descriptor, and never makes the caller wait for it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(_Formatter(_FORMAT))
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._waiting = threading.Event()
        self._closing = threading.Event()
        # By os.write and as a daemon: a stuck write holds no lock that the end of the process would wait for.
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or count it as dropped."""
        if len(self._lines) >= QUEUE_LINES:
            self._dropped += 1
            return
        self._lines.append(self.format(record))
        if not self._waiting.is_set():
            self._waiting.set()

    def close(self) -> None:
        """Write what waits, for at most CLOSE_SECONDS."""
        self._closing.set()
        self._waiting.set()
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _write_all(self) -> None:
        while not self._closing.is_set() or self._lines:
            self._waiting.wait()
            self._closing.wait(LATER_SECONDS)
            self._waiting.clear()  # before the lines are taken: one that comes later sets it again
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(f"(lines dropped here, because nobody read the log: {dropped})")
            self._write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass  # closed, or its disk is full: there is nowhere left to say so


def start_log(level: str) -> None:
    """Log to stderr from `level` on; nowhere if the process was started without a stderr."""
    # What no line shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.NullHandler() if sys.stderr is None else StderrHandler(2)
    logging.basicConfig(level=level.upper(), handlers=[handler])
