"""What channels promise: nothing is lost unsaid, memory has bounds, and a shutdown ends all in order."""

import asyncio
import json
import random
import re
import selectors
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from media.channel import History
from media.source import RUN_BYTES
from media.subscriptions import channel
from tests.conftest import AccessLog
from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, until
from tests.serving import Client, Server, eventually, request, serving

pytestmark = pytest.mark.slow

MEGABYTE = 1000 * 1000

EVENTS, DISCONNECTS, SUBSCRIBERS = 10_000, 400, 400
SECONDS, STALL_SECONDS = 4, 2
"""100,000 events, 1,000 of the others, and a minute with the usual stall limit were run once, by hand."""

EVENT = re.compile(rb"(event: gap\n)?id: (\w+-([0-9]+))\ndata: (.*)\n\n")


class Reader:
    """A client that is torn away again and again, and comes back behind what it saw last."""

    def __init__(self, server: Server, target: str) -> None:
        self.server, self.target = server, target
        self.last_id = server.resources.channels.ids.of(0)
        self.seen: list[int] = []
        self.gaps = 0

    async def follow(self, most_bytes: int, last: int, patience: float | None = None) -> None:
        """Take in what comes, until there is more than that, the event of the number `last`, or silence."""
        asked_as, received, rest, whole = self.last_id, 0, b"", []
        asking = request(self.target, accept="text/event-stream", last_event_id=asked_as)
        async with self.server.connect(asking, receive_bytes=16_384) as client:
            while received < most_bytes and self.seen[-1:] != [last]:
                client.received = b""
                with suppress(ConnectionResetError, TimeoutError):
                    await asyncio.wait_for(client.read(min(65_536, most_bytes - received)), patience)
                if not client.received:  # it fell behind, or nothing comes
                    break
                received += len(client.received)
                events, end, rest = (rest + client.received).rpartition(b"\n\n")
                for gap, id_, number, data in EVENT.findall(events + end):
                    whole.append((bool(gap), id_.decode(), int(number), data))
                    if not gap:
                        self.seen.append(int(number))
            (Client.reset if random.random() < 0.5 else Client.close)(client)
        self._check(asked_as, whole)

    def _check(self, asked_as: str, whole: list[tuple[bool, str, int, bytes]]) -> None:
        """A connection begins with a gap if, and only if, something is missing; and it says what."""
        if not whole:
            return
        self.last_id = whole[-1][1]
        number = int(asked_as.rpartition("-")[2])
        if whole[0][0]:
            self.gaps += 1
            told = json.loads(whole.pop(0)[3])
            assert told["last_event_id"] == asked_as
            if not whole:
                return
            assert told["first_id"] == whole[0][1]
            assert whole[0][2] > number + 1
            number = whole[0][2] - 1
        assert not any(gap for gap, _, _, _ in whole)
        assert [event for _, _, event, _ in whole] == list(range(number + 1, number + 1 + len(whole)))
        assert all(data == b"%d" % event for _, _, event, data in whole)


async def torn(server: Server, name: str, count: int, disconnects: int) -> list[Reader]:
    """Ten readers that are disconnected so often while so many events are published, and then read on."""
    published = server.resources.channels.get(name)
    assert published is not None
    readers = [Reader(server, f"/stream/{name}") for _ in range(10)]
    left = disconnects

    async def follow(reader: Reader) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await reader.follow(random.choice((300, 3000, count)), count, patience=0.02)
        while reader.seen[-1:] != [count]:
            await reader.follow(10**12, count)

    following = [asyncio.create_task(follow(reader)) for reader in readers]
    for number in range(1, count + 1):
        published.publish(b"%d" % number)
        if number % 50 == 0:
            await asyncio.sleep(0)
            enough = disconnects * number // count
            await eventually(lambda: left <= 0 or disconnects - left >= enough)  # noqa: B023
    await asyncio.gather(*following)
    await eventually(lambda: len(server.open_streams) == 0)
    return readers


@pytest.mark.gen_test(timeout=50)
async def test_no_disconnect_loses_an_event(tmp_path: Path, access_log: AccessLog) -> None:
    """Where the history holds them, everybody has every event once, in order."""
    rows = {"all": channel(title="", history=History(EVENTS, 1000 * MEGABYTE, 0))}
    async with serving(tmp_path, scan=False, channels=rows) as server:
        for reader in await torn(server, "all", EVENTS, DISCONNECTS):
            assert reader.seen == list(range(1, EVENTS + 1))
            assert reader.gaps == 0
    assert len(access_log) >= DISCONNECTS
    assert {outcome for outcome, _ in access_log.endings} == {"disconnected"}


@pytest.mark.gen_test(timeout=50)
async def test_each_loss_is_announced_by_one_gap(tmp_path: Path, access_log: AccessLog) -> None:
    """Where it does not: what is missing, where, and nothing else."""
    rows = {"few": channel(title="", history=5)}
    async with serving(tmp_path, scan=False, channels=rows) as server:
        readers = await torn(server, "few", EVENTS, DISCONNECTS)
    assert sum(reader.gaps for reader in readers) > DISCONNECTS / 10
    assert {outcome for outcome, _ in access_log.endings} <= {"disconnected", "behind"}


# --- memory ---


def subscribed(server: Process, target: str, receive_bytes: int = 0) -> socket.socket:
    """A connection on which the stream has begun."""
    client = server.send(target, receive_bytes)
    client.recv(4096, socket.MSG_PEEK)
    return client


class Publisher:
    """One body of NDJSON that goes on: 1,000 events a second, of 100 bytes and some."""

    def __init__(self, server: Process) -> None:
        self.client = server.connect()
        self.client.sendall(
            b"POST /stream/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        self.published = 0
        self.began = time.monotonic()

    def go_on(self) -> None:
        """As many as are due by now."""
        due = int((time.monotonic() - self.began) * 1000) - self.published
        lines = b"".join(
            b'{"n": %d, "x": "%s"}\n' % (self.published + number, b"x" * 100) for number in range(due)
        )
        if lines:
            self.client.sendall(b"%x\r\n%b\r\n" % (len(lines), lines))
            self.published += due

    def end(self) -> bytes:
        """The answer."""
        self.client.sendall(b"0\r\n\r\n")
        answer = b""
        while more := self.client.recv(65_536):
            answer += more
        self.client.close()
        return answer


class Listeners:
    """Clients that read what comes, and count."""

    def __init__(self, clients: list[socket.socket]) -> None:
        self._selector = selectors.DefaultSelector()
        self._rests = dict.fromkeys(clients, b"")
        self.numbers: dict[socket.socket, list[int]] = {client: [] for client in clients}
        for client in clients:
            self._selector.register(client, selectors.EVENT_READ)

    def read(self, seconds: float) -> None:
        """What comes within this time, or has come."""
        for key, _ in self._selector.select(seconds):
            client = key.fileobj
            assert isinstance(client, socket.socket)
            received = client.recv(1_000_000)
            assert received, "a healthy one was let go"
            lines, end, self._rests[client] = (self._rests[client] + received).rpartition(b"\n")
            self.numbers[client] += map(int, re.findall(rb'"n": ([0-9]+)', lines + end))

    def close(self) -> None:
        """The selector; the clients are their maker's."""
        self._selector.close()


@pytest.mark.left_out("processes", reason="a channel is of one process")
def test_those_who_never_read_cost_no_more_than_their_bounds(
    start: Starter, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is let go, and counted; those who read lose nothing."""
    server = start("--stall", str(STALL_SECONDS))
    deaf = 200
    with ExitStack() as stack:
        target = "/stream/events?format=ndjson"
        for _ in range(deaf):
            stack.enter_context(subscribed(server, target, 4096))
        listeners = Listeners([stack.enter_context(subscribed(server, target)) for _ in range(10)])
        stack.callback(listeners.close)
        before = server.memory("VmRSS")
        publisher = Publisher(server)
        while time.monotonic() < publisher.began + SECONDS:
            publisher.go_on()
            listeners.read(0.01)
        assert b" 202 " in publisher.end()
        expected = list(range(publisher.published))
        until(lambda: listeners.read(0.1) or all(n == expected for n in listeners.numbers.values()), 10)
        rise = (server.memory("VmHWM") - before) / MEGABYTE
        until(lambda: len(re.findall(r" 200 (?:stalled|behind) ", server.log)) >= deaf, 15)
    outcomes = {name: len(re.findall(rf" 200 {name} ", server.log)) for name in ("stalled", "behind")}
    with capsys.disabled():
        sys.stdout.write(
            f"\n{deaf} that never read: {outcomes}; {len(expected)} events, {rise:.1f} MB more\n"
        )
    assert sum(outcomes.values()) == deaf
    assert rise < 20 + deaf * RUN_BYTES / MEGABYTE


# --- shutdown ---


@pytest.mark.left_out("processes", reason="a channel is of one process")
def test_a_shutdown_sends_everybody_home_in_order(start: Starter) -> None:
    """Each is told when to come back, not all the same, and its body ends as it should."""
    server = start("--drain", "5")
    with ExitStack() as stack:
        clients = [stack.enter_context(server.send("/stream/events?format=sse")) for _ in range(SUBSCRIBERS)]
        opened = [received_until(client, rb"\nid: [^\n]+\n\n\r\n") for client in clients]
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        endings = [received_until(client, rb"\r\n0\r\n\r\n$") for client in clients]
        assert server.ended() == 0
        took = time.monotonic() - began
    assert took < 10
    assert len(opened) == len(endings) == SUBSCRIBERS
    told = [re.fullmatch(rb"[0-9a-f]+\r\nretry: ([0-9]+)\n\n\r\n0\r\n\r\n", ending) for ending in endings]
    retries = [int(found[1]) for found in told if found]
    assert len(retries) == SUBSCRIBERS
    assert all(1000 <= retry <= 5000 for retry in retries)
    assert len(set(retries)) > SUBSCRIBERS / 2
    server.logged(rf"draining; responses under way: {SUBSCRIBERS}")
    assert len(re.findall(" 200 drained ", server.log)) == SUBSCRIBERS


def received_until(client: socket.socket, marker: bytes) -> bytes:
    """What comes until there is something like that."""
    received = b""
    while not re.search(marker, received):
        more = client.recv(65_536)
        assert more, received
        received += more
    return received
