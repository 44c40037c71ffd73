"""The log, written to stderr by a thread of its own.

A stderr that nobody reads is full after 64 KiB, and who writes to it then waits: on the loop that would be
every client. So a line goes into a bounded queue; when that is full too, lines are dropped, and counted.
"""

import logging
import os
import queue
import sys
import threading

QUEUE_LINES = 10_000
"""The most lines that wait to be written."""

CLOSE_SECONDS = 1.0
"""How long the end of the process waits for the last lines."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class StderrHandler(logging.Handler):
    """Writes each record as a line to a descriptor, and never makes the caller wait for it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT))
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._dropped = 0
        # By os.write and as a daemon: a stuck write holds no lock that the end of the process would wait for.
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or count it as dropped."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for at most CLOSE_SECONDS."""
        try:
            self._lines.put_nowait(None)
            self._thread.join(CLOSE_SECONDS)
        except queue.Full:
            pass  # nobody reads
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                line = f"{line}\n(lines dropped before this one, because nobody read the log: {dropped})"
            self._write((line + "\n").encode("utf-8", "backslashreplace"))

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass  # closed, or its disk is full: there is nowhere left to say so


def start_log(level: str) -> None:
    """Log to stderr from `level` on; nowhere if the process was started without a stderr."""
    handler = logging.NullHandler() if sys.stderr is None else StderrHandler(2)
    logging.basicConfig(level=level.upper(), handlers=[handler])
