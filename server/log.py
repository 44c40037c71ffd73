"""The log, written to stderr by a thread of its own.

A stderr that nobody reads is full after 64 KiB, and who writes to it then waits: on the loop that would be
every client. So a line goes into a bounded queue; when that is full too, lines are dropped, and counted.

The thread writes what has come within LATER_SECONDS at once. Woken for each line it cost 50 µs of CPU a line,
half of a small answer, and nearly all of that to change between two threads.

Only the supervisor of several processes has no thread, because it forks.
"""

import logging
import os
import select
import sys
import threading
import time
from collections import deque
from contextlib import suppress

QUEUE_LINES = 10_000
"""The most lines that wait to be written."""

LATER_SECONDS = 0.02
"""How long a line may wait for others."""

CLOSE_SECONDS = 1.0
"""How long the end of the process waits for the last lines."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s{process}: %(message)s"


class _Formatter(logging.Formatter):
    """Formats the time once a second. `shared`: others write this log too, so each line names its process."""

    _second = 0
    _shown = ""

    def __init__(self, *, shared: bool) -> None:
        super().__init__(_FORMAT.format(process=f"[{os.getpid()}]" if shared else ""))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._shown = time.strftime("%Y-%m-%d %H:%M:%S", self.converter(second))
        return f"{self._shown},{int(record.msecs):03d}"


class StderrHandler(logging.Handler):
    """Writes each record as a line to a descriptor, and never makes the caller wait for it."""

    def __init__(self, descriptor: int, *, shared: bool = False) -> None:
        super().__init__()
        self.setFormatter(_Formatter(shared=shared))
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
            piece = b""
            for line in lines:
                data = f"{line}\n".encode("utf-8", "backslashreplace")
                # A pipe that other processes write to takes no more than this without mixing it with theirs.
                if piece and len(piece) + len(data) > select.PIPE_BUF:
                    self._write(piece)
                    piece = b""
                piece += data
            self._write(piece)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass  # closed, or its disk is full: there is nowhere left to say so


class PromptHandler(logging.Handler):
    """Writes each record at once, for a process that forks and so has no thread.

    A line that the descriptor has no room for is dropped: who waits to be read does not supervise.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(_Formatter(shared=True))
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line, up to a page of it: so much a pipe that is not full takes at once."""
        line = self.format(record).encode("utf-8", "backslashreplace")[: select.PIPE_BUF - 1] + b"\n"
        with suppress(OSError):  # closed, or its disk is full
            if self._room.poll(0):
                os.write(self._descriptor, line)


def start_log(level: str, processes: int = 1) -> None:
    """Log to stderr from `level` on; nowhere if the process was started without a stderr.

    With several `processes` this one is their supervisor, and each line has the number of its process.
    """
    # What no line shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler: logging.Handler
    if sys.stderr is None:
        handler = logging.NullHandler()
    else:
        handler = StderrHandler(2) if processes == 1 else PromptHandler(2)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def start_worker_log() -> None:
    """In a process that a supervisor forked: go on logging as it does, by a thread."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, PromptHandler):
            root.removeHandler(handler)
            root.addHandler(StderrHandler(2, shared=True))
