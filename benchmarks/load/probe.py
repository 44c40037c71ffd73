"""How long a tiny request waits: one is due every 10 ms on a kept connection, and one on a new one.

A wait is counted from the time when the request was due, also where the client had to send it later because
all its connections were still waiting: else a server that stops for a second would cost one request and not
a hundred. Those not sent when the time is over count with what they had waited until then.
"""

import json
import select
import sys
import time
from dataclasses import asdict, dataclass, field

from benchmarks.load import SILENCE_SECONDS, found
from benchmarks.load.exchange import Exchange, request
from benchmarks.measure import BenchmarkError

INTERVAL_SECONDS = 0.01
CONNECTIONS = 32
"""How many requests of a kind may wait at a time. Fewer than a listening socket's backlog of 128."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to ask of 127.0.0.1, and for how long.

    Args:
        kept: also on connections that are kept.
        patient: what was asked has to be answered. Else what is not when the time is over counts with what
            it had waited until then: a server that does one thing at a time may take minutes.
    """

    port: int
    target: str
    seconds: float
    kept: bool = True
    patient: bool = True


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that requests waited, on connections that were there and on new ones; not sorted."""

    kept: tuple[float, ...]
    new: tuple[float, ...]


def measured(job: Job) -> Waits:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: the server sent wrong bytes, or none.
    """
    return Waits(**found("probe", job, job.seconds))


def run(job: Job) -> Waits:
    """Ask as long as the job says, then wait for what was asked."""
    buffer = memoryview(bytearray(64 * 1024))
    wish = request(job.port, job.target)
    warmed = [_warmed(job.port, wish, buffer) for _ in range(CONNECTIONS)] if job.kept else []
    began = time.perf_counter()
    end = began + job.seconds
    kept, new = Lane([*warmed], began, new=False), Lane([None] * CONNECTIONS, began, new=True)
    lanes = (kept, new) if job.kept else (new,)
    while (now := time.perf_counter()) < end:
        for lane in lanes:
            lane.fall_due(now)
            lane.ask(job.port, wish, buffer)
        _receive(kept, new, max(0.0, min(new.next_due, end) - time.perf_counter()))
    for lane in lanes:
        lane.fall_due(end)
        lane.waits += [end - since for since in lane.due]
        if not job.patient:
            lane.give_up(end)
    while kept.asked or new.asked:
        if not _receive(kept, new, SILENCE_SECONDS):
            raise BenchmarkError(f"a tiny request was not answered for {SILENCE_SECONDS} s")
    for exchange in warmed:
        exchange.socket.close()
    return Waits(tuple(kept.waits), tuple(new.waits))


@dataclass(slots=True)
class Lane:
    """Requests of one kind.

    Attributes:
        idle: connections that wait for nothing; None: one still to be opened.
        next_due: when the next request will be due.
        due: since when those wait that are not sent.
        asked: what waits for its answer, and since when it was due.
    """

    idle: list[Exchange | None]
    next_due: float
    new: bool
    due: list[float] = field(default_factory=list)
    asked: dict[Exchange, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)

    def fall_due(self, now: float) -> None:
        """Let all requests wait that are due by now."""
        while self.next_due < now:
            self.due.append(self.next_due)
            self.next_due += INTERVAL_SECONDS

    def ask(self, port: int, wish: str, buffer: memoryview) -> None:
        """Send what is due, as far as there are connections."""
        while self.due and self.idle:
            exchange = self.idle.pop(0) or Exchange(port, buffer)
            self.asked[exchange] = self.due.pop(0)
            exchange.ask(wish)

    def receive(self, exchange: Exchange) -> None:
        """Take an answer."""
        exchange.receive(64 * 1024)
        if exchange.complete:
            self.waits.append(time.perf_counter() - self.asked.pop(exchange))
            if self.new:
                exchange.socket.close()
            self.idle.append(None if self.new else exchange)

    def give_up(self, now: float) -> None:
        """Wait no longer for what was asked."""
        for exchange, since in self.asked.items():
            self.waits.append(now - since)
            exchange.socket.close()
        self.asked.clear()


def _warmed(port: int, wish: str, buffer: memoryview) -> Exchange:
    exchange = Exchange(port, buffer)
    exchange.ask(wish)
    while not exchange.complete:
        exchange.receive(len(buffer))
    return exchange


def _receive(kept: Lane, new: Lane, seconds: float) -> bool:
    """Take the answers that come within this time; whether there were any.

    By select(2), whose time-out is exact to a fraction of the millisecond that epoll rounds up to.
    """
    sockets = {exchange.socket: (lane, exchange) for lane in (kept, new) for exchange in lane.asked}
    ready, _, _ = select.select(list(sockets), [], [], seconds)
    for connection in ready:
        lane, exchange = sockets[connection]
        lane.receive(exchange)
    return bool(ready)


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
