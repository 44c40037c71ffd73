"""Several processes that serve together: forked, watched, replaced when they die, told to end.

The supervisor forks before it has a loop, a thread or a database, and holds the sockets that all workers
accept from. One socket, not one each with SO_REUSEPORT: clients that wait in the queue of a process that is
killed would be lost with it. It knows nothing of HTTP, and waits for nothing but signals, children and what
they say.

Theory of operation. Supervisor and worker hold the two ends of a pipe that nobody else has. The worker says
that it is ready, or why it cannot start. The supervisor says *how often* it was asked to end, and the worker
goes by that or by the signals that it was sent itself, whichever are more: Ctrl-C reaches all processes of a
terminal, and systemd sends SIGTERM to all of a unit; passed on as signals they would count twice, and the
second one cuts downloads. When the supervisor dies, however that was, the pipe ends, and its workers drain.

The first worker starts alone: it makes the database's tables and scans the library, and if a setting is
wrong it is the only one to say so. The others are forked when it is ready, and the start line comes when all
are. Until then a worker that ends is the end of all, as with one process; from then on it is replaced.
"""

import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import NoReturn

from server.settings import SettingsError

FIRST_PAUSE_SECONDS = 0.1
"""How long a place stays empty whose worker has died a second time; it doubles with each further one."""

MOST_PAUSE_SECONDS = 5.0
"""The longest such pause."""

STEADY_SECONDS = 10.0
"""Who has lived so long is replaced at once, however often the place was empty before."""

GRACE_SECONDS = 1.0
"""How much longer than its own limit a worker may take to end; it is killed then."""

_HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

log = logging.getLogger("millrace")


class Worker:
    """One of several processes, to itself.

    `sockets` are shared with the others, and this process's to close. `first`: the whole is starting, and
    waits for this worker. `scans`: it is the one that keeps the catalogue up to date for all.
    """

    def __init__(
        self, supervisor: Connection, sockets: Sequence[socket.socket], *, scans: bool, first: bool
    ) -> None:
        self.sockets = list(sockets)
        self.scans = scans
        self.first = first
        self._supervisor = supervisor

    def attend(self, told: Callable[[int], None]) -> None:
        """From now on signals arrive, and `told` is called with how often the supervisor was asked to end.

        By a thread, because the loop may not exist yet, or be held by a stream that never awaits.
        """
        threading.Thread(target=self._listen, args=(told,), name="supervisor", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)

    def ready(self, greeting: str) -> None:
        """Say that requests are taken. The first worker's `greeting` is the start line."""
        self._say("ready", greeting)

    def refuse(self, sentence: str) -> None:
        """Say which setting is wrong."""
        self._say("refused", sentence)

    def scanned(self) -> None:
        """Say that the catalogue is up to date: a worker that replaces this one need not scan."""
        self._say("scanned", "")

    def _say(self, what: str, text: str) -> None:
        with suppress(OSError):  # the supervisor has gone; `_listen` notices
            self._supervisor.send((what, text))

    def _listen(self, told: Callable[[int], None]) -> None:
        try:
            while True:
                told(self._supervisor.recv())
        except (EOFError, OSError):
            log.warning("the supervisor has gone, so this process ends, too")
            told(1)


@dataclass(slots=True)
class _Place:
    """Where a worker works, and another one after it. `pid` is 0 while there is none."""

    number: int
    pid: int = 0
    pipe: Connection | None = None
    born: float = 0.0
    due: float = math.inf  # when the next one is forked
    deaths: int = 0  # in a row, each soon after the one before
    ready: bool = False
    refusal: str = ""
    missed_hangup: bool = False

    def close_pipe(self) -> None:
        """Close the supervisor's end."""
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None

    def hang_up(self) -> None:
        """Pass SIGHUP on; to one that is still starting as soon as it is ready."""
        if self.ready:
            os.kill(self.pid, signal.SIGHUP)
        self.missed_hangup = not self.ready


class Supervisor:
    """Keeps `count` processes at work until it is asked to end. Only the main thread may run it, and once.

    Args:
        work: what a worker does, signals blocked until it attends; gives its exit code. A SettingsError that
            it raises is what the supervisor ends with if the start is not over.
        sockets: shared with all workers, open while new ones may be forked; the supervisor closes its own.
        greet: called once, when all are ready, with what the first worker said.
        limits: how many seconds workers may take to end after the first and after the second time of asking.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[Worker], int],
        sockets: Sequence[socket.socket],
        greet: Callable[[str], None],
        limits: tuple[float, float],
    ) -> None:
        self._work = work
        self._sockets = sockets
        self._greet = greet
        self._limits = limits
        self._places = [_Place(number) for number in range(count)]
        self._greeting = ""
        self._started = False
        self._scan_due = True
        self._asked = 0
        self._deadline = math.inf
        self._killed = False
        self._refusal = ""
        self._exit_code = 0
        self._signals: tuple[socket.socket, ...] = ()

    def run(self) -> int:
        """Fork, watch, replace; after SIGTERM or SIGINT wait until all have ended. Gives the exit code.

        0 after an end that was asked for, unless a worker crashed in it; 1 also if the start failed.

        Raises:
            SettingsError: a worker could not start.
        """
        with _signals_as_bytes() as self._signals:
            self._places[0].due = 0
            self._fork_due()
            while any(place.pid or place.due < math.inf for place in self._places):
                pipes = [place.pipe for place in self._places if place.pipe is not None]
                heard = wait([self._signals[0], *pipes], self._timeout())
                if self._signals[0] in heard:
                    for number in self._signals[0].recv(4096):
                        self._heed(number)
                for place in self._places:
                    self._hear(place)
                    self._bury(place)
                self._fork_due()
                self._press()
        if self._refusal:
            raise SettingsError(self._refusal)
        return self._exit_code

    def _timeout(self) -> float | None:
        soonest = min(self._deadline, *(place.due for place in self._places))
        return None if soonest == math.inf else max(0.0, soonest - time.monotonic())

    # --- what is heard ---

    def _heed(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._end(self._asked + 1)
        elif number == signal.SIGHUP and self._started and not self._asked:
            # Before the start line it is ignored, as with one process: the first scan is still to come.
            self._scan_due = True
            for place in self._places:
                place.hang_up()

    def _hear(self, place: _Place) -> None:
        try:
            while place.pipe is not None and place.pipe.poll():
                what, text = place.pipe.recv()
                if what == "ready":
                    place.ready = True
                    self._welcome(place, text)
                elif what == "refused":
                    place.refusal = text
                else:
                    self._scan_due = False
        except (EOFError, OSError):  # it has ended: SIGCHLD is on its way
            place.close_pipe()

    def _welcome(self, place: _Place, greeting: str) -> None:
        if self._started:
            log.info("process %d serves", place.pid)
            if place.missed_hangup:
                place.hang_up()
        elif not self._asked:
            if place.number == 0:
                self._greeting = greeting
                for other in self._places[1:]:
                    other.due = 0
            if all(other.ready for other in self._places):
                self._started = True
                pids = ", ".join(str(other.pid) for other in self._places)
                log.info("%d processes serve: %s", len(self._places), pids)
                self._greet(self._greeting)

    # --- who ends ---

    def _bury(self, place: _Place) -> None:
        """See whether the worker has ended, and if so replace it, or end with it."""
        pid = place.pid
        # Its number is given back only when its last words are heard: for them it may be sent a signal.
        if not pid or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        self._hear(place)
        place.close_pipe()
        _, status = os.waitpid(pid, 0)
        place.pid, place.ready = 0, False
        code = os.waitstatus_to_exitcode(status)
        how = f"process {pid} {_ending(code)}" + (f" ({place.refusal})" if place.refusal else "")
        if not self._asked:
            self._lose(place, how, logging.INFO if code == 0 else logging.WARNING)
        elif code and not self._killed and not place.refusal:
            log.warning("%s", how)
            self._exit_code = 1

    def _lose(self, place: _Place, how: str, level: int) -> None:
        """A worker has ended, or could not be forked."""
        if not self._started:
            self._refusal = place.refusal
            self._exit_code = 1
            if not self._refusal:
                log.error("%s during the start", how)
            self._end(1)
            return
        now = time.monotonic()
        place.deaths = 1 if now - place.born >= STEADY_SECONDS else place.deaths + 1
        pause = pause_seconds(place.deaths)
        place.due = now + pause
        log.log(level, "%s; another follows %s", how, f"in {pause:.1f} s" if pause else "at once")

    def _end(self, times: int) -> None:
        """Ask all workers to end, for the `times`-th time; the third does not ask."""
        self._asked = times
        for shared in self._sockets:
            shared.close()
        for place in self._places:
            place.due = math.inf
            if place.pipe is not None:
                with suppress(OSError):  # it has just died
                    place.pipe.send(times)
        if times > len(self._limits):
            self._kill()
        else:
            self._deadline = time.monotonic() + self._limits[times - 1] + GRACE_SECONDS

    def _press(self) -> None:
        """Kill what has not ended in time; what does not even die (a dead disk) is left behind."""
        if time.monotonic() < self._deadline:
            return
        late = [place for place in self._places if place.pid]
        log.warning("did not end in time: %s", ", ".join(f"process {place.pid}" for place in late))
        if self._killed:
            for place in late:
                place.pid = 0
        else:
            self._kill()

    def _kill(self) -> None:
        self._killed = True
        self._deadline = time.monotonic() + GRACE_SECONDS
        for place in self._places:
            if place.pid:
                os.kill(place.pid, signal.SIGKILL)

    # --- who begins ---

    def _fork_due(self) -> None:
        for place in self._places:
            if time.monotonic() >= place.due:
                place.due = math.inf
                place.born = time.monotonic()
                place.refusal = ""
                try:
                    self._fork(place)
                except OSError as error:
                    self._lose(place, f"no process could be forked ({error.strerror})", logging.ERROR)

    def _fork(self, place: _Place) -> None:
        scans = place.number == 0
        place.missed_hangup = scans and self._started and self._scan_due  # its predecessor owes a scan
        place.pipe, supervisor = Pipe()
        worker = Worker(supervisor, self._sockets, scans=scans, first=scans and not self._started)
        _flush()  # what is in the buffers would be written twice
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)
        try:
            place.pid = os.fork()
            if place.pid == 0:
                self._become(worker)
        except OSError:
            place.close_pipe()
            raise
        finally:
            supervisor.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _become(self, worker: Worker) -> NoReturn:
        """In the child: let go of what is the supervisor's, work, and never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (*self._signals, *(place.pipe for place in self._places)):
                # Another worker's pipe, kept open here, would not end with the supervisor.
                if end is not None:
                    end.close()
            code = self._work(worker)
        except SettingsError as error:
            worker.refuse(str(error))
            code = 2
        except BaseException:
            log.exception("process %d failed", os.getpid())
        finally:
            logging.shutdown()
            _flush()
            os._exit(code)


def pause_seconds(deaths: int) -> float:
    """How long to wait before a place is filled again, after so many deaths in a row."""
    return 0.0 if deaths < 2 else min(FIRST_PAUSE_SECONDS * 2.0 ** min(deaths - 2, 99), MOST_PAUSE_SECONDS)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was ended by signal {-code}"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()


@contextmanager
def _signals_as_bytes() -> Iterator[tuple[socket.socket, ...]]:
    """A socket that each signal comes from as a byte, its number, and the one that they are written to."""
    reading, writing = socket.socketpair()
    with reading, writing:
        for end in (reading, writing):
            end.setblocking(False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in _HEEDED}
        descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading, writing
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in handlers.items():
                signal.signal(number, handler)
