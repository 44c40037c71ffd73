"""What the process is told by signals.

Theory of operation. Signals are Python's own and not the loop's: their handlers also run while the loop is
held by a stream of the user's that never awaits, or is being closed. The first SIGTERM or SIGINT asks for an
end and winds up a clock, the second asks for haste, the third does not ask; the clock ends a process that a
thread, a task or a database holds back.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType

BREAK_OFF_SECONDS = 1.0
"""How long streams that are broken off may take to close their sources."""

EXIT_SECONDS = 5.0
"""How long after that the process may take to close everything else."""

log = logging.getLogger("millrace")


class Signals:
    """What the process is told from outside, between entering and leaving.

    SIGTERM and SIGINT: the first sets `asked`, the second `hurried`, the third ends the process where it
    stands. SIGHUP calls `rescan` and `renew`; until there are any it is ignored, and does not kill. The
    process ends by itself, with exit code 0, when it has not `limit_seconds` after the first, and
    EXIT_SECONDS after the second. Only the main thread may enter.
    """

    def __init__(self, limit_seconds: float) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.rescan: Callable[[], object] = lambda: None
        self.renew: Callable[[], object] = lambda: None
        self._limit_seconds = limit_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0
        self._level = 0
        self._clock: threading.Timer | None = None
        self._before = ExitStack()

    def __enter__(self) -> "Signals":
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._hang_up}
        for number, handler in handlers.items():
            self._before.callback(signal.signal, number, signal.signal(number, handler))
        return self

    def __exit__(self, *_: object) -> None:
        self._before.close()
        self._wind_up(None)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the events are set, and `rescan` is called, by `loop`."""
        self._loop = loop

    def detach(self) -> None:
        """That loop has ended: the events are set where the signal is heard."""
        self._loop = None

    def told(self, times: int) -> None:
        """The supervisor of several processes was asked to end so often; from whichever thread.

        What this process was sent itself is not added: Ctrl-C reaches both.
        """
        if times <= self._level:
            return
        self._level = times
        if times == 1:
            self._tell(self.asked.set)
            self._wind_up(self._limit_seconds)
        elif times == 2:
            self._tell(self.hurried.set)
            self._wind_up(BREAK_OFF_SECONDS + EXIT_SECONDS)
        else:
            os._exit(0)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.told(self._count)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self._tell(lambda: (self.rescan(), self.renew()))

    def _tell(self, callback: Callable[[], object]) -> None:
        # A signal interrupts anything: only this call is safe then, and it wakes the loop.
        if self._loop is None:
            callback()
        else:
            with suppress(RuntimeError):  # the loop is closed: the end is near
                self._loop.call_soon_threadsafe(callback)

    def _wind_up(self, seconds: float | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if seconds is not None:
            self._clock = threading.Timer(seconds, _give_up)
            self._clock.daemon = True
            self._clock.start()


def _give_up() -> None:
    names = ", ".join(sorted(thread.name for thread in threading.enumerate() if not thread.daemon))
    log.warning("the end is taking too long; these threads are left behind: %s", names)
    logging.shutdown()  # waits for the last lines, but not for a stderr that nobody reads
    os._exit(0)
