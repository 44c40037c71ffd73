"""Publishes events and receives them as every subscriber, in one thread: memory, latency, full speed.

An event's data is `DATA_BYTES` with one MARK, which nothing around it has. So a subscriber's events are
counted by counting a byte, wherever an event was cut, and nothing else is parsed. Each subscriber has to have
had every event before a measurement ends; of the first one the numbers are compared, too.
"""

import json
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Protocol

from benchmarks.load import found
from benchmarks.load.endless import Endless, opened, subscription
from benchmarks.load.exchange import Exchange
from benchmarks.measure import BenchmarkError, pss_bytes, usage

DATA_BYTES = 100
MARK = b"~"

PUBLISHED = 201, 202
"""How a publication is answered: by nchan with 201."""

IN_FLIGHT = 64
"""Most events on their way: fewer than any peer lets wait for a subscriber, enough that a server has work."""

CONNECTIONS = 8
"""Over which events are published, one after the other on each."""

INTERVAL_SECONDS = 0.1
"""Between events at the steady rate."""

WARMING_EVENTS = 20
LOST_SECONDS = 10
"""What has not come by then will not come."""

SETTLING_SECONDS = 0.3
"""After subscribers came: nginx sends the headers before it counts them in."""

NAP_SECONDS = 0.001
"""At full speed the load looks that often: a client that was woken for each delivery would be the limit, and
each time on the server's account."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with 127.0.0.1.

    Args:
        target: subscribers GET it, events are POSTed to it.
        lines: many events in one body (NDJSON), and not each in its own.
        seconds: of events at full speed, twice.
        steady_seconds: of one event each INTERVAL_SECONDS.
    """

    server_pid: int
    port: int
    target: str
    subscribers: int
    lines: bool
    seconds: float
    steady_seconds: float


@dataclass(frozen=True, slots=True)
class Pace:
    """As many events as the server took, from the first one until the last subscriber had the last one.

    Attributes:
        deliveries: events that subscribers had, each counted for each of them.
        cpu_seconds: of the server.
        load_share: how much of its core the load used; near 1 it was the limit.
    """

    deliveries: int
    seconds: float
    cpu_seconds: float
    load_share: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement.

    Attributes:
        many: with IN_FLIGHT events on their way, so that some can be sent together.
        single: each event once all have the one before.
        p50_ms, p99_ms: of all deliveries at the steady rate, since the event was sent.
        idle_bytes: of the server's memory (PSS), for each subscriber before they had events.
    """

    many: Pace
    single: Pace
    p50_ms: float
    p99_ms: float
    idle_bytes: float


def measured(job: Job) -> Reading:
    """Run a job in a process on the core of the load.

    Raises:
        BenchmarkError: a subscriber did not get every event, or the server refused something.
    """
    answer = found("fanout", job, 2 * job.seconds + job.steady_seconds)
    return Reading(Pace(**answer.pop("many")), Pace(**answer.pop("single")), **answer)


def run(job: Job) -> Reading:
    """Measure memory, then the steady rate, then full speed."""
    with ExitStack() as stack:
        return _read(job, stack)


def _read(job: Job, stack: ExitStack) -> Reading:
    poll = stack.enter_context(select.epoll())
    publisher = (Lines if job.lines else Posts)(job, poll, stack)
    audience = Audience(poll, publisher)
    wish = subscription(job.port, job.target)
    audience.join(opened(stack, job.port, wish, 1))
    time.sleep(SETTLING_SECONDS)
    for _ in range(WARMING_EVENTS):  # what is loaded late is loaded now
        audience.publish(1)
        audience.settle()
    before = pss_bytes(job.server_pid)
    audience.join(opened(stack, job.port, wish, job.subscribers - 1))
    time.sleep(SETTLING_SECONDS)
    idle_bytes = (pss_bytes(job.server_pid) - before) / (job.subscribers - 1)
    audience.steady(job.steady_seconds)
    percentiles = quantiles(audience.latencies_ns, n=100, method="inclusive")
    single = paced(job.server_pid, audience, job.seconds, in_flight=1)
    many = paced(job.server_pid, audience, job.seconds, IN_FLIGHT)
    audience.compare()
    return Reading(many, single, percentiles[49] / 1e6, percentiles[98] / 1e6, idle_bytes)


def paced(server_pid: int, audience: "Audience", seconds: float, in_flight: int) -> Pace:
    """So many seconds of full speed, with so many events on their way at most."""
    already = audience.deliveries
    began, cpu, load = time.perf_counter(), usage(server_pid).cpu_seconds, time.process_time()
    audience.full_speed(seconds, in_flight)
    seconds, load_seconds = time.perf_counter() - began, time.process_time() - load
    cpu_seconds = usage(server_pid).cpu_seconds - cpu
    return Pace(audience.deliveries - already, seconds, cpu_seconds, load_seconds / seconds)


class Publisher(Protocol):
    """Sends events; its sockets are registered with the poll that it was made with."""

    def publish(self, texts: Sequence[str]) -> int:
        """Send the first ones, as many as can be sent now; gives how many. Each is to be DATA_BYTES long."""

    def receive(self, descriptor: int) -> None:
        """Take what there is of an answer."""

    def finish(self) -> bool:
        """Let the server know that there are no more for now; whether it has answered everything."""


class Posts:
    """Each event in a POST of its own, one after the other on each of some connections."""

    def __init__(self, job: Job, poll: select.epoll, stack: ExitStack) -> None:
        self._head = (
            f"POST {job.target} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {DATA_BYTES}\r\n\r\n"
        )
        buffer = memoryview(bytearray(65536))
        self._exchanges = {}
        for _ in range(CONNECTIONS):
            exchange = Exchange(job.port, buffer, PUBLISHED)
            poll.register(stack.enter_context(exchange.socket), select.EPOLLIN)
            self._exchanges[exchange.socket.fileno()] = exchange
        self._idle = list(self._exchanges.values())

    def publish(self, texts: Sequence[str]) -> int:
        count = min(len(texts), len(self._idle))
        for text in texts[:count]:
            self._idle.pop().ask(self._head + text)
        return count

    def receive(self, descriptor: int) -> None:
        exchange = self._exchanges[descriptor]
        exchange.receive(65536)
        if exchange.complete:
            self._idle.append(exchange)

    def finish(self) -> bool:
        return len(self._idle) == len(self._exchanges)


class Lines:
    """One body of NDJSON, chunked, that goes on until `finish`."""

    def __init__(self, job: Job, poll: select.epoll, stack: ExitStack) -> None:
        self._head = (
            f"POST {job.target} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\n"
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self._exchange = Exchange(job.port, memoryview(bytearray(65536)), PUBLISHED)
        poll.register(stack.enter_context(self._exchange.socket), select.EPOLLIN)
        # Else a line would wait up to 40 ms for the server's acknowledgement of the one before (Nagle).
        self._exchange.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open = False

    def publish(self, texts: Sequence[str]) -> int:
        if texts and not self._open:
            self._exchange.ask(self._head)
            self._open = True
        # The quotation marks belong to the data; a text ends with what can be left out for them.
        lines = "".join(f'"{text[:-2]}"\n' for text in texts)
        if lines:
            self._exchange.socket.sendall(f"{len(lines):x}\r\n{lines}\r\n".encode())
        return len(texts)

    def receive(self, descriptor: int) -> None:
        del descriptor
        self._exchange.receive(65536)

    def finish(self) -> bool:
        if self._open:
            self._exchange.socket.sendall(b"0\r\n\r\n")
            self._open = False
        return self._exchange.complete


class Audience:
    """All the subscribers, and what was published for them.

    Attributes:
        deliveries: events that subscribers had, each counted for each of them.
        latencies_ns: of the deliveries at the steady rate.
    """

    def __init__(self, poll: select.epoll, publisher: Publisher) -> None:
        self._poll = poll
        self._publisher = publisher
        self._subscribers: dict[int, Endless] = {}
        self._counts: dict[int, int] = {}  # what each one has, those before it joined included
        self._sent_ns: list[int] = []  # of each event
        self._buffer = bytearray(256 * 1024)
        self._first_descriptor = -1
        self._first = bytearray()  # all that it received
        self._slowest = 0  # how many all of them have, or fewer
        self._looked_at = 0
        self._timed = False
        self._due = 0  # deliveries of what was published
        self.deliveries = 0
        self.latencies_ns: list[int] = []

    def join(self, subscribers: Sequence[Endless]) -> None:
        """Let these have all that is published from now on; nothing is on its way."""
        for subscriber in subscribers:
            descriptor = subscriber.connection.fileno()
            if not self._subscribers:
                self._first_descriptor = descriptor
            self._subscribers[descriptor] = subscriber
            self._counts[descriptor] = len(self._sent_ns)
            self._poll.register(descriptor, select.EPOLLIN)

    def publish(self, most: int) -> int:
        """Send so many events at most, as far as that goes now; gives how many."""
        now, number = time.monotonic_ns(), len(self._sent_ns)
        texts = [
            f"{MARK.decode()}{number + each} {now} ".ljust(DATA_BYTES, "x") for each in range(max(0, most))
        ]
        count = self._publisher.publish(texts)
        self._sent_ns += [now] * count
        self._due += count * len(self._subscribers)
        return count

    def steady(self, seconds: float) -> None:
        """One event each INTERVAL_SECONDS; waits until all have them."""
        self._timed = True
        due = time.perf_counter()
        for _ in range(max(1, round(seconds / INTERVAL_SECONDS))):
            while (wait := due - time.perf_counter()) > 0:
                self._receive(wait)
            self._wait(lambda: self.publish(1) == 1)
            due += INTERVAL_SECONDS
        self.settle()
        self._timed = False

    def full_speed(self, seconds: float, in_flight: int) -> None:
        """As many as the server takes, at most so many on their way; waits until all have them."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.publish(in_flight - (len(self._sent_ns) - self._had_by_all()))
            self._receive(NAP_SECONDS)
            time.sleep(NAP_SECONDS)
        self.settle()

    def settle(self) -> None:
        """Wait until all have everything.

        Raises:
            BenchmarkError: nothing more comes, and somebody has not, or somebody has more.
        """
        self._wait(lambda: self._publisher.finish() and self.deliveries >= self._due)
        wrong = sum(count != len(self._sent_ns) for count in self._counts.values())
        if wrong:
            raise BenchmarkError(f"{wrong} of {len(self._counts)} subscribers had other than every event")

    def compare(self) -> None:
        """Look at the numbers that the first subscriber received.

        Raises:
            BenchmarkError: they are not all there, each once. Two connections have no common order.
        """
        numbers = [int(number) for number in re.findall(rb"~(\d+) ", self._first)]
        if sorted(numbers) != list(range(len(self._sent_ns))):
            raise BenchmarkError("a subscriber had other events than were published")

    def _had_by_all(self) -> int:
        """Looked for only once an event, because it costs as much as some deliveries."""
        if self.deliveries == self._due:
            self._slowest = len(self._sent_ns)
        elif self.deliveries - self._looked_at >= len(self._counts):
            self._looked_at = self.deliveries
            self._slowest = min(self._counts.values())
        return self._slowest

    def _wait(self, reached: Callable[[], bool]) -> None:
        """Raises a BenchmarkError where nothing more comes. A heartbeat is nothing."""
        deadline = time.perf_counter() + LOST_SECONDS
        while not reached():
            if self._receive(LOST_SECONDS):
                deadline = time.perf_counter() + LOST_SECONDS
            elif time.perf_counter() > deadline:
                behind = sum(count < len(self._sent_ns) for count in self._counts.values())
                raise BenchmarkError(
                    f"{behind} of {len(self._counts)} subscribers did not get every event, "
                    f"and none has come for {LOST_SECONDS} s"
                )

    def _receive(self, seconds: float) -> bool:
        """Take what comes, waiting so long for it; whether there were events or answers."""
        before = self.deliveries
        answered = False
        for descriptor, _ in self._poll.poll(seconds):
            if descriptor in self._counts:
                self._take(descriptor)
            else:
                self._publisher.receive(descriptor)
                answered = True
        return answered or self.deliveries > before

    def _take(self, descriptor: int) -> None:
        received = self._subscribers[descriptor].connection.recv_into(self._buffer)
        if not received:
            raise BenchmarkError("the server closed the connection of a subscriber")
        if descriptor == self._first_descriptor:
            self._first += self._buffer[:received]
        events = self._buffer.count(MARK, 0, received)
        had = self._counts[descriptor]
        self._counts[descriptor] = had + events
        self.deliveries += events
        if self._timed:
            now = time.monotonic_ns()
            self.latencies_ns += [now - sent for sent in self._sent_ns[had : had + events]]


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
    except (BenchmarkError, OSError) as error:
        sys.exit(str(error))
