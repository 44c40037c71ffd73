"""What many follow: who is sent what, at what cost, and how each way of leaving ends."""

import asyncio
import json
import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from handlers import fanout
from handlers.fanout import Fanout, Subscriber, framed
from handlers.limits import Limits
from handlers.open_streams import Outcome
from handlers.outgoing import Outgoing
from media import channel as log
from media import source
from media.channel import Channel, History
from media.events import EARLIEST, Events
from media.source import RUN_BYTES, Feed, Following, SourceBroken
from media.stretches import AudioFeed
from media.subscriptions import channel
from server import tls
from tests.certificates import make_pair
from tests.conftest import AccessLog, ExpectLog
from tests.serving import Client, Response, Server, eventually, feed_route, request, serving

MIB = 1024 * 1024

CHANNELS = {
    "all": channel(title="Everything", history=History(100_000, 512 * MIB, 0)),
    "few": channel(title="Few", history=3),
    "none": channel(title="No history", history=0),
}


def asked(target: str = "all", version: str = "1.1", **headers: str) -> bytes:
    """A subscriber's request; as SSE, if the target does not say otherwise. The connection ends with it."""
    headers = {"accept": "text/event-stream", "connection": "close", **headers}
    return request(f"/stream/{target}", version=version, **headers)


def log_of(server: Server, name: str = "all") -> Channel:
    found = server.resources.channels.get(name)
    assert found is not None
    return found


def subscribers(server: Server, name: str = "all") -> object:
    return server.resources.channels.facts(name)["subscribers"]


async def following(server: Server, count: int = 1, name: str = "all") -> None:
    """Wait until so many are."""
    await eventually(lambda: subscribers(server, name) == count)
    await asyncio.sleep(0)


def body_of(client: Client) -> bytes:
    """What has come of its one response."""
    return Response.parsed(client.received).body


async def until_end(client: Client, marker: bytes) -> None:
    """Read until `marker` stands at the end of what has come: of megabytes the rest is not looked through."""
    while marker not in client.received[-100:]:
        assert await client.read(MIB)


EVENT = re.compile(rb"(?:event: (.*)\n)?id: \w+-([0-9]+)\ndata: (.*)\n\n")


def numbers(stream: bytes) -> list[int]:
    """Of the events that came whole, those of channels."""
    return [int(number) for name, number, _ in EVENT.findall(stream) if name != b"gap"]


def gaps(stream: bytes) -> list[dict[str, str | None]]:
    """What the gaps say."""
    return [json.loads(data) for name, _, data in EVENT.findall(stream) if name == b"gap"]


# --- what goes out ---


@pytest.mark.gen_test
async def test_all_are_sent_the_same(tmp_path: Path, access_log: AccessLog) -> None:
    """Each event once, as one chunk; the opening with the headers, at once."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(tmp_path, scan=False, channels=CHANNELS, tick_seconds=0)
        )
        clients = [await stack.enter_async_context(server.connect(asked())) for _ in range(5)]
        for client in clients:
            await client.until(b"id: ")
        await following(server, 5)
        for number in range(3):
            log_of(server).publish(b"%d" % number)
            await asyncio.sleep(0)
        for client in clients:
            await client.until(b"data: 2")
        server.open_streams.drain()
        responses = [Response.parsed((await client.rest())[0]) for client in clients]
    ids = [f"{server.resources.channels.ids.epoch}-{number}" for number in range(4)]
    for response in responses:
        assert response.whole
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.chunks is not None
        opening, *chunks, farewell = response.chunks
        assert re.fullmatch(rf"retry: [0-9]+\nid: {ids[0]}\n\n", opening.decode())
        assert chunks == [f"id: {ids[number]}\ndata: {number - 1}\n\n".encode() for number in (1, 2, 3)]
        assert re.fullmatch(rb"retry: [0-9]+\n\n", farewell)
    assert sorted(access_log.endings) == sorted(("drained", len(response.body)) for response in responses)


class Calls:
    """How often the streams of the server were sent to, and written to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = self.written = 0
        send_now, write = Outgoing.send_now, Outgoing.write

        def sending(stream: Outgoing, data: bytes) -> int:
            self.sent += 1
            return send_now(stream, data)

        def writing(stream: Outgoing, data: Any) -> Any:
            self.written += 1
            return write(stream, data)

        monkeypatch.setattr(Outgoing, "send_now", sending)
        monkeypatch.setattr(Outgoing, "write", writing)


@pytest.mark.gen_test
async def test_an_idle_subscriber_costs_one_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no write of Tornado's, no task, whatever the number of events."""
    calls = Calls(monkeypatch)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, scan=False, channels=CHANNELS))
        clients = [await stack.enter_async_context(server.connect(asked())) for _ in range(10)]
        for client in clients:
            await client.until(b"id: ")
        await following(server, 10)
        tasks = len(asyncio.all_tasks())
        calls.sent = calls.written = 0
        for number in range(100):
            log_of(server).publish(b"%d" % number)
        for client in clients:
            await client.until(b"data: 99")
        assert len(asyncio.all_tasks()) == tasks
        assert (calls.sent, calls.written) == (10, 0)
        assert all(numbers(body_of(client)) == list(range(1, 101)) for client in clients)


@pytest.mark.slow
@pytest.mark.gen_test
async def test_what_comes_within_a_tick_goes_out_together(tmp_path: Path) -> None:
    """The first at once, the rest at its end."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, tick_seconds=0.4) as server,
        server.connect(asked("all?format=ndjson")) as client,
    ):
        await following(server)
        began = time.monotonic()
        log_of(server).publish(b"first")
        await client.until(b"first")
        if time.monotonic() - began > 0.3:
            pytest.fail("the first waited")
        for number in range(5):
            log_of(server).publish(b"%d" % number)
            await asyncio.sleep(0.01)
        await client.until(b'"4"')
        assert time.monotonic() - began >= 0.4
        log_of(server).publish(b"again")
        await client.until(b"again")
        server.open_streams.drain()
        chunks = Response.parsed((await client.rest())[0]).chunks
    assert chunks is not None
    assert [chunk.count(b"\n") for chunk in chunks] == [1, 5, 1]


@pytest.mark.gen_test
async def test_no_tick_joins_nothing_that_the_loop_turns_between(tmp_path: Path) -> None:
    """What is published in one turn of the loop still goes out together."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, tick_seconds=0) as server,
        server.connect(asked("all?format=ndjson")) as client,
    ):
        await following(server)
        for joined in (1, 1, 3, 1):
            for _ in range(joined):
                log_of(server).publish(b"x")
            await asyncio.sleep(0)
        server.open_streams.drain()
        chunks = Response.parsed((await client.rest())[0]).chunks
    assert chunks is not None
    assert [chunk.count(b"\n") for chunk in chunks] == [1, 1, 3, 1]


@pytest.mark.gen_test
async def test_history_and_live_events_meet(tmp_path: Path) -> None:
    """Who comes in the middle has every event once, wherever it begins."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, scan=False, channels=CHANNELS))
        places = {}
        for number in range(300):
            log_of(server).publish(b"%d" % number)
            if number % 10 == 0:
                seen = number // 2
                target = f"all?last_event_id={server.resources.channels.ids.of(seen)}"
                places[await stack.enter_async_context(server.connect(asked(target)))] = seen
            await asyncio.sleep(0)
        for client, seen in places.items():
            await client.until(b"data: 299\n")
            assert numbers(body_of(client)) == list(range(seen + 1, 301))
            assert gaps(body_of(client)) == []


@pytest.mark.gen_test
async def test_a_format_that_channels_do_not_have(tmp_path: Path) -> None:
    """It is refused, and those that there are are named."""
    async with serving(tmp_path, scan=False, channels=CHANNELS) as server:
        response = await server.get("/stream/all?format=csv")
    assert response.status == 400
    assert b"format must be sse or ndjson or text or json" in response.body


@pytest.mark.parametrize("target", ["all?format=ndjson", "all?format=text", "all,none", "all"])
@pytest.mark.gen_test
async def test_formats_and_several_channels(tmp_path: Path, target: str) -> None:
    """Each as its own feed, and none coded, whatever is asked for."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS) as server,
        server.connect(asked(target, accept_encoding="gzip")) as client,
    ):
        await following(server)
        log_of(server).publish(b"one\ntwo")
        if "," in target:
            log_of(server, "none").publish(b"three")
        await client.until(b"three" if "," in target else b"two")
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
    assert "Content-Encoding" not in response.headers
    assert response.headers["Vary"] == "Accept"
    assert response.whole
    if "format=text" in target:
        assert response.body == b"one\ntwo\n"
    elif "ndjson" in target:
        assert json.loads(response.body)["data"] == "one\ntwo"
    else:
        assert b"data: one\ndata: two\n\n" in response.body
        assert (b"data: three" in response.body) == ("," in target)


@pytest.mark.gen_test
async def test_a_head_is_no_subscriber(tmp_path: Path, access_log: AccessLog) -> None:
    """It has the headers, at once, and nothing stays of it."""
    async with serving(tmp_path, scan=False, channels=CHANNELS) as server:
        response = await server.get("/stream/all", "HEAD", accept="text/event-stream")
        assert (response.status, response.body) == (200, b"")
        assert response.headers["Content-Type"] == "text/event-stream"
        assert "Content-Length" not in response.headers
        assert subscribers(server) == 0
        await eventually(lambda: access_log.endings == [("complete", 0)])


# --- who reads slowly ---


def large(number: int, length: int = 20_000) -> bytes:
    return b"%d " % number + b"x" * length


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.gen_test
async def test_a_slow_reader_goes_on_from_its_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Nothing is lost or comes twice, and nothing is queued: one run waits, however much there is."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS) as server,
        server.connect(asked(version=version), receive_bytes=65536) as client,
    ):
        await client.until(b"id: ")
        await following(server)
        calls = Calls(monkeypatch)
        for number in range(400):
            log_of(server).publish(large(number))
            if number % 50 == 0:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        calls.written = 0
        await asyncio.sleep(0.05)
        assert calls.written == 0
        log_of(server).publish(b"end")
        await until_end(client, b"data: end\n\n")
        server.open_streams.drain()
        received, reset = await client.rest()
    response = Response.parsed(received, reset=reset)
    assert response.whole
    assert numbers(response.body) == list(range(1, 402))


@pytest.mark.slow
@pytest.mark.gen_test
async def test_who_falls_behind_is_let_go_and_comes_back_to_a_gap(
    tmp_path: Path, access_log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others lose nothing. It is told what is missing, once, and misses nothing else."""
    monkeypatch.setattr(log, "LAG_BYTES", MIB)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, scan=False, channels=CHANNELS))
        slow = await stack.enter_async_context(server.connect(asked("few"), receive_bytes=65536))
        healthy = await stack.enter_async_context(server.connect(asked("few")))
        await following(server, 2, "few")
        reading = asyncio.create_task(healthy.until(b"data: end\n"))
        number = 0
        while not access_log.endings:
            assert number < 2000
            log_of(server, "few").publish(large(number))
            number += 1
            await asyncio.sleep(0.002)
        log_of(server, "few").publish(b"end")
        await reading
        received, _ = await slow.rest()
        assert access_log.endings[0][0] == "behind"
        assert subscribers(server, "few") == 1
        broken = Response.parsed(received)
        assert not broken.whole
        seen = numbers(broken.body)
        assert seen == list(range(1, len(seen) + 1))
        ids = server.resources.channels.ids
        back = await stack.enter_async_context(server.connect(asked("few", last_event_id=ids.of(seen[-1]))))
        await back.until(b"data: end\n")
    assert numbers(body_of(healthy)) == list(range(1, number + 2))
    assert gaps(body_of(back)) == [{"last_event_id": ids.of(seen[-1]), "first_id": ids.of(number - 1)}]
    assert numbers(body_of(back)) == [number - 1, number, number + 1]


@pytest.mark.slow
@pytest.mark.gen_test
async def test_who_takes_nothing_is_stalled(tmp_path: Path, access_log: AccessLog) -> None:
    """Where the history holds everything it would never be behind: the watch lets it go."""
    limits = Limits(stall_seconds=0.5)
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, limits=limits) as server,
        server.connect(asked(), receive_bytes=65536),
    ):
        await following(server)
        for number in range(600):
            log_of(server).publish(large(number))
        await eventually(lambda: access_log.endings, 10)
        assert access_log.endings[0][0] == "stalled"
        assert subscribers(server) == 0


# --- heartbeat ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "heartbeat"),
    [
        ("all", b":\n"),
        ("all?format=ndjson", b"\n"),
        ("all?format=text", b" "),
        ("all?format=json&wait=9", b" "),
    ],
    ids=["sse", "ndjson", "text", "poll"],
)
@pytest.mark.gen_test
async def test_silence_is_filled(
    tmp_path: Path, target: str, heartbeat: bytes, access_log: AccessLog
) -> None:
    """With what the format may have between two events, as chunks of their own, and they are counted."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, limits=Limits(heartbeat_seconds=0.1)) as server,
        server.connect(asked(target)) as client,
    ):
        await client.until(b"\r\n" + framed(heartbeat), times=3)
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
        await eventually(lambda: access_log.endings == [("drained", len(response.body))])
    assert response.whole


@pytest.mark.slow
@pytest.mark.gen_test
async def test_text_may_be_had_without_heartbeats(tmp_path: Path) -> None:
    """And beside those who have them."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, limits=Limits(heartbeat_seconds=0.1)) as server,
        server.connect(asked("all?format=text")) as with_them,
        server.connect(asked("all?format=text&heartbeat=0")) as without,
    ):
        await following(server, 2)
        await with_them.until(framed(b" "), times=3)
        log_of(server).publish(b"x")
        await without.until(b"x\n")
    assert body_of(without) == b"x\n"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_no_heartbeat_while_events_flow(tmp_path: Path) -> None:
    """Each of them shows life by itself."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, limits=Limits(heartbeat_seconds=1)) as server,
        server.connect(asked("all?format=text")) as client,
    ):
        await following(server)
        for _ in range(15):
            log_of(server).publish(b"x")
            await asyncio.sleep(0.1)
        log_of(server).publish(b"end")
        await client.until(b"end")
    assert body_of(client) == b"x\n" * 15 + b"end\n"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_no_heartbeat_stands_in_the_middle_of_an_event(tmp_path: Path) -> None:
    """Who has not taken the one that is on its way gets none, and the others do."""
    data = b"x" * (12 * MIB)
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, limits=Limits(heartbeat_seconds=0.05)) as server,
        server.connect(asked("all?format=text"), receive_bytes=65536) as slow,
        server.connect(asked("all?format=text")) as quick,
    ):
        await following(server, 2)
        log_of(server).publish(data)
        await quick.until(framed(b" "), times=3)
        await until_end(slow, framed(b" "))
    assert body_of(slow).startswith(data + b"\n")


# --- leaving ---


def closes(client: Client) -> None:
    client.close()


def resets(client: Client) -> None:
    client.reset()


def half_closes(client: Client) -> None:
    client.half_close()


@pytest.mark.parametrize("leave", [closes, resets, half_closes])
@pytest.mark.parametrize("target", ["all", "all?format=json&wait=60"])
@pytest.mark.gen_test
async def test_who_leaves_while_nothing_comes_is_missed_at_once(
    tmp_path: Path, access_log: AccessLog, leave: Callable[[Client], None], target: str
) -> None:
    """Nothing of it is left: no subscriber, no watcher, no audience, no task."""
    async with serving(tmp_path, scan=False, channels=CHANNELS) as server:
        tasks = len(asyncio.all_tasks())
        async with server.connect(asked(target)) as client:
            await following(server)
            leave(client)
            await eventually(lambda: subscribers(server) == 0, 1)
            await eventually(lambda: access_log.endings)
        assert access_log.endings[0][0] == "disconnected"
        assert len(server.open_streams) == 0
        assert server.resources.delivery.fanout._audiences == {}
        assert log_of(server)._watchers == {}
        await eventually(lambda: len(asyncio.all_tasks()) == tasks)


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_reset_in_the_middle_of_an_event(tmp_path: Path, access_log: AccessLog) -> None:
    """One that is half sent to it; the others have it whole."""
    data = b"x" * (12 * MIB)
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS) as server,
        server.connect(asked(), receive_bytes=65536) as leaving,
        server.connect(asked()) as staying,
    ):
        await following(server, 2)
        log_of(server).publish(data)
        await leaving.until(b"data: ")
        leaving.reset()
        await eventually(lambda: access_log.endings)
        log_of(server).publish(b"end")
        await staying.until(b"data: end\n")
        assert access_log.endings[0][0] == "disconnected"
        assert subscribers(server) == 1
    assert numbers(body_of(staying)) == [1, 2]


# --- draining ---


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("form", ["sse", "ndjson", "text"])
@pytest.mark.gen_test
async def test_draining_ends_a_subscription_in_order(
    tmp_path: Path, access_log: AccessLog, form: str, version: str
) -> None:
    """The body is whole; an event stream says when to come back."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS) as server,
        server.connect(asked(f"all?format={form}", version)) as client,
    ):
        await following(server)
        log_of(server).publish(b"last one")
        await client.until(b"last one")
        server.open_streams.drain()
        received, reset = await client.rest()
        await asyncio.wait_for(server.open_streams.ended(), 1)
    response = Response.parsed(received, reset=reset)
    assert response.whole
    assert ("Transfer-Encoding" in response.headers) == (version == "1.1")
    assert bool(re.search(rb"retry: [0-9]{4}\n\n$", response.body)) == (form == "sse")
    assert access_log.endings == [("drained", len(response.body))]


@pytest.mark.gen_test
async def test_draining_ends_a_poll_with_its_answer(tmp_path: Path) -> None:
    """It is whole, of what there is; asked again it goes on from there."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS) as server,
        server.connect(asked("all?format=json&wait=60")) as client,
    ):
        log_of(server).publish(b"before")
        await following(server)
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
    assert response.whole
    assert json.loads(response.body)["events"] == []


@pytest.mark.gen_test
async def test_who_comes_while_draining_is_ended_at_once(tmp_path: Path, access_log: AccessLog) -> None:
    """With the last words, and nothing else."""
    async with serving(tmp_path, scan=False, channels=CHANNELS) as server:
        log_of(server).publish(b"x")
        server.open_streams.drain()
        response = await server.get(f"/stream/all?format=sse&last_event_id={EARLIEST}")
    assert response.whole
    assert re.fullmatch(rb"retry: [0-9]+\n\n", response.body)
    assert access_log.endings[0][0] == "drained"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_slow_reader_is_drained_behind_the_event_on_its_way(tmp_path: Path) -> None:
    """None is cut."""
    data = b"x" * (12 * MIB)
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS) as server,
        server.connect(asked(), receive_bytes=65536) as client,
    ):
        await client.until(b"id: ")
        await following(server)
        log_of(server).publish(data)
        await client.until(b"data: ")
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
    assert response.whole
    assert re.search(rb"x\n\nretry: [0-9]+\n\n$", response.body)
    assert numbers(response.body) == [1]


# --- other ways to send ---


@pytest.fixture
def encryption(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's context, and a client's."""
    pair = make_pair(tmp_path / "pair")
    return tls.load(pair.certificate, pair.key), pair.trusting()


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_over_tls(
    tmp_path: Path, access_log: AccessLog, encryption: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Where no socket can be sent to directly: the same events, also to one that reads slowly."""
    ours, its = encryption
    async with serving(tmp_path, scan=False, channels=CHANNELS, encryption=ours) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=its)
        writer.write(asked())
        await reader.readuntil(b"id: ")
        await following(server)
        for number in range(300):
            log_of(server).publish(large(number))
        await asyncio.sleep(0.05)
        log_of(server).publish(b"end")
        received = b""
        while b"data: end\n\n" not in received:
            received += await reader.read(MIB)
        assert re.findall(rb"data: ([0-9]+) x", received) == [b"%d" % number for number in range(300)]
        writer.transport.abort()
        await eventually(lambda: subscribers(server) == 0)
        await eventually(lambda: access_log.endings)
    assert access_log.endings[0][0] == "disconnected"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_under_a_rate_limit(tmp_path: Path) -> None:
    """Each has its own chunks then: the same events, as fast as it may."""
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, rate_limit=400_000) as server,
        server.connect(asked(connection="close")) as client,
    ):
        await following(server)
        began = time.monotonic()
        for number in range(20):
            log_of(server).publish(large(number))
            await asyncio.sleep(0)
        await client.until(b"data: 19 ")
        assert time.monotonic() - began > 0.3
        server.open_streams.drain()
        response = Response.parsed((await client.rest())[0])
    assert response.whole
    assert numbers(response.body) == list(range(1, 21))


@pytest.mark.slow
@pytest.mark.gen_test
async def test_who_falls_behind_under_a_rate_limit(
    tmp_path: Path, access_log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is let go as without one: that is no failure."""
    monkeypatch.setattr(log, "LAG_BYTES", 50_000)
    async with (
        serving(tmp_path, scan=False, channels=CHANNELS, rate_limit=100_000) as server,
        server.connect(asked("none")) as client,
    ):
        await following(server, 1, "none")
        for number in range(1000):
            log_of(server, "none").publish(large(number))
            await asyncio.sleep(0.001)
            if access_log.endings:
                break
        response = Response.parsed((await client.rest())[0])
    assert access_log.endings[0][0] == "behind"
    assert not response.whole
    assert b"event: error" not in response.body


@pytest.mark.gen_test
async def test_a_poll_may_be_coded(tmp_path: Path) -> None:
    """It is one document, of its own."""
    async with serving(tmp_path, scan=False, channels=CHANNELS) as server:
        for number in range(100):
            log_of(server).publish(b"%d" % number)
        response = await server.get(
            f"/stream/all?format=json&last_event_id={EARLIEST}", accept_encoding="gzip"
        )
    assert response.headers["Content-Encoding"] == "gzip"
    events = json.loads(zlib.decompress(response.body, 31))["events"]
    assert [event["data"] for event in events] == [str(number) for number in range(100)]


# --- what is a client's own ---


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.gen_test
async def test_a_client_may_have_something_of_its_own(tmp_path: Path, version: str) -> None:
    """Made of the run, and framed behind that; of nothing nothing is sent, which would be the end."""
    published = Channel()
    feed = Events((published,), "text")
    routes = [
        feed_route("/own", feed, own=lambda run: b"" if b"skip" in run else run.upper() + b"!"),
        feed_route("/plain", feed),
    ]
    async with (
        serving(tmp_path, scan=False, routes=routes, tick_seconds=0) as server,
        server.connect(request("/own", version=version, connection="close")) as own,
        server.connect(request("/plain", version=version, connection="close")) as plain,
    ):
        await eventually(lambda: len(server.open_streams) == 2)
        for data in (b"one", b"skip", b"two"):
            published.publish(data)
            await asyncio.sleep(0)
        await own.until(b"TWO\n!")
        await plain.until(b"two")
        server.open_streams.drain()
        bodies = [Response.parsed((await client.rest())[0]) for client in (own, plain)]
    assert [(response.body, response.whole) for response in bodies] == [
        (b"ONE\n!TWO\n!", True),
        (b"one\nskip\ntwo\n", True),
    ]


@pytest.mark.gen_test
async def test_an_error_of_one_is_not_the_end_of_the_round(
    tmp_path: Path, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """Those behind it in the same slice are sent to; it alone is broken off, and its failure logged."""
    expect_log("millrace.serve", 40, "RuntimeError: of one")

    def failing(run: bytes) -> bytes:
        raise RuntimeError("of one")

    published = Channel()
    feed = Events((published,), "text")
    routes = [feed_route("/failing", feed, own=failing), feed_route("/plain", feed)]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/failing")) as broken,
    ):
        await eventually(lambda: len(server.open_streams) == 1)
        async with server.connect(request("/plain")) as client:
            await eventually(lambda: len(server.open_streams) == 2)
            published.publish(b"one")
            await client.until(b"one")
            received, _ = await broken.rest()
            published.publish(b"two")
            await client.until(b"two")
            await eventually(lambda: access_log.endings)
    assert not Response.parsed(received).whole
    assert access_log.endings[0] == ("failed", 0)
    assert body_of(client) == b"one\ntwo\n"


@pytest.mark.gen_test
async def test_a_feed_that_ends_ends_its_bodies(tmp_path: Path, access_log: AccessLog) -> None:
    """Behind everything that it had: those who have it, and those who come afterwards."""
    feed = AudioFeed("audio/mpeg", 5)
    async with (
        serving(tmp_path, scan=False, routes=[feed_route("/feed", feed)]) as server,
        server.connect(request("/feed", connection="close")) as client,
    ):
        await eventually(lambda: len(server.open_streams) == 1)
        for _ in range(50):
            feed.publish(bytes(10_000), 0.1, b"")
        feed.end()
        response = Response.parsed((await client.rest())[0])
        late = await server.get("/feed")
        assert server.resources.delivery.fanout._audiences == {}
    assert (len(response.body), response.whole) == (500_000, True)
    assert (late.body, late.whole) == (b"", True)
    assert access_log.endings == [("complete", 500_000), ("complete", 0)]


@pytest.mark.gen_test
async def test_a_connection_goes_on_behind_a_feed(tmp_path: Path, access_log: AccessLog) -> None:
    """One that has ended, or was drained, leaves it to the next request; also to one that came before."""
    feed, other = AudioFeed("audio/mpeg", 5), AudioFeed("audio/mpeg", 5)
    routes = [feed_route("/feed", feed, b"opening"), feed_route("/other", other)]
    async with (
        serving(tmp_path, scan=False, routes=routes) as server,
        server.connect(request("/feed") + request("/other")) as client,
    ):
        await client.until(b"opening")
        feed.publish(b"sound", 0.1, b"")
        feed.end()
        await client.until(b"HTTP/1.1 200", times=2)
        await client.send(request("/healthz", connection="close"))
        await eventually(lambda: len(server.open_streams) == 1)
        server.open_streams.drain()
        received, _ = await client.rest()
        assert server.resources.delivery.fanout._audiences == {}
    responses = Response.all(received, ["GET", "GET", "GET"])
    assert [response.body for response in responses] == [b"openingsound", b"", b"ok\n"]
    assert [outcome for outcome, _ in access_log.endings] == ["complete", "drained", "complete"]


# --- rounds, without sockets ---


class Sink:
    """The border to the kernel: a stream that takes `most` bytes of what it is sent, or none."""

    def __init__(self, most: int = 10**9, seconds: float = 0) -> None:
        self.most, self.seconds = most, seconds
        self.taken = b""
        self.is_closed = False
        self.waiting: asyncio.Future[None] | None = None
        self._left = b""

    def send_now(self, data: bytes) -> int:
        until = time.perf_counter() + self.seconds
        while time.perf_counter() < until:
            pass
        self.taken += data[: self.most]
        return min(self.most, len(data))

    def write(self, data: memoryview) -> "asyncio.Future[None]":
        assert self.waiting is None, "one write at a time"
        self._left = bytes(data)
        self.waiting = asyncio.get_running_loop().create_future()
        return self.waiting

    def flow(self) -> None:
        """Take what waits."""
        assert self.waiting is not None
        waiting, self.waiting = self.waiting, None
        self.taken += self._left
        waiting.set_result(None)

    def writing(self) -> bool:
        return self.waiting is not None

    def closed(self) -> bool:
        return self.is_closed


class Ends:
    """How subscribers were ended: nothing else is done about it."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def fail(self, error: Exception) -> None:
        raise AssertionError from error


@contextmanager
def sinks(
    feed: Feed, streams: list[Sink], to: Fanout, heartbeat_seconds: float = 0, ends: Ends | None = None
) -> Iterator[list[Subscriber]]:
    """Have them follow the feed from now on."""
    following, sending = Following(feed, feed.newest), ends or Ends()
    subscribers = [
        Subscriber(stream, following, chunked=True, heartbeat=b":", sending=sending) for stream in streams
    ]
    for subscriber in subscribers:
        to.join(feed, subscriber, heartbeat_seconds)
    try:
        yield subscribers
    finally:
        for subscriber in subscribers:
            to.leave(feed, subscriber)


@pytest.mark.gen_test
async def test_a_frame_that_is_taken_in_part_is_finished_first() -> None:
    """Whatever comes meanwhile, and then that comes in one run."""
    published = Channel()
    feed = Events((published,), "text")
    sink, whole = Sink(most=5), Sink()
    with sinks(feed, [sink, whole], Fanout(0)) as (slow, quick):
        published.publish(b"one")
        await asyncio.sleep(0)
        assert (sink.taken, slow.writing) == (framed(b"one\n")[:5], True)
        for data in (b"two", b"three"):
            published.publish(data)
            await asyncio.sleep(0)
        assert sink.taken == framed(b"one\n")[:5]
        sink.most = 10**9
        sink.flow()
        await asyncio.sleep(0)
        assert sink.taken == framed(b"one\n") + framed(b"two\nthree\n")
        assert whole.taken == framed(b"one\n") + framed(b"two\n") + framed(b"three\n")
        assert (slow.writing, slow.sent_bytes, quick.sent_bytes) == (False, 14, 14)


@pytest.mark.gen_test
async def test_who_is_behind_is_found_while_its_write_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the round after what it has not been sent has gone."""
    monkeypatch.setattr(log, "LAG_BYTES", 1)
    published = Channel(history=History(events=2))
    feed, ends = Events((published,), "text"), Ends()
    with sinks(feed, [Sink(most=0)], Fanout(0), ends=ends):
        outcomes = []
        for _ in range(5):
            published.publish(b"x")
            await asyncio.sleep(0)
            outcomes.append(len(ends.outcomes))
    assert outcomes == [0, 0, 0, 1, 2]
    assert set(ends.outcomes) == {Outcome.BEHIND}


@pytest.mark.parametrize("form", ["sse", "text"])
@pytest.mark.gen_test
async def test_a_feed_that_ends_ends_who_has_all_of_it(form: str) -> None:
    """As whole, and who is slow when it has been sent the rest. Nothing is sent for an end without bytes."""
    published = Channel()
    feed, ends = Events((published,), form), Ends()
    slow, quick = Sink(most=3), Sink()
    with sinks(feed, [slow, quick], Fanout(0), ends=ends):
        published.publish(b"a")
        published.end()
        await eventually(lambda: ends.outcomes)
        assert ends.outcomes == [Outcome.COMPLETE]
        slow.most = 10**9
        slow.flow()
        await eventually(lambda: len(ends.outcomes) == 2)
        assert slow.taken == quick.taken
        assert b"0\r\n\r\n" not in quick.taken


class Failures(Ends):
    """And by what."""

    def fail(self, error: Exception) -> None:
        self.failures.append(error)

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []


@pytest.mark.gen_test
async def test_a_feed_that_fails_fails_its_followers() -> None:
    """Each behind what there is."""
    published, failure = Channel(), SourceBroken("it")
    feed, ends = Events((published,), "text"), Failures()
    all_sinks = [Sink(), Sink()]
    with sinks(feed, all_sinks, Fanout(0), ends=ends):
        published.publish(b"a")
        published.end(failure)
        await eventually(lambda: len(ends.failures) == 2)
        assert ends.failures == [failure] * 2
        assert {sink.taken for sink in all_sinks} == {framed(b"a\n")}
    assert ends.outcomes == []


@pytest.mark.slow
@pytest.mark.gen_test
async def test_requests_are_answered_in_the_middle_of_a_round(tmp_path: Path) -> None:
    """Beside an event to 2,000 of which each takes its time."""
    async with serving(tmp_path, scan=False, channels=CHANNELS) as server:
        feed = Events((log_of(server),), "sse")
        all_sinks = [Sink(seconds=0.0005) for _ in range(2000)]
        with sinks(feed, all_sinks, server.resources.delivery.fanout):
            log_of(server).publish(b"x")
            await asyncio.sleep(0)
            answered_at = []
            for _ in range(2):
                assert (await server.get("/healthz")).status == 200
                answered_at.append(sum(bool(sink.taken) for sink in all_sinks))
            await eventually(lambda: all(sink.taken for sink in all_sinks))
    assert answered_at[0] < 2000
    assert len({sink.taken for sink in all_sinks}) == 1


@pytest.mark.gen_test
async def test_what_comes_during_a_round_is_the_next_ones() -> None:
    """Also to those who had been sent to already."""
    published = Channel()
    feed = Events((published,), "text")
    all_sinks = [Sink() for _ in range(3 * fanout.SLICE)]
    with sinks(feed, all_sinks, Fanout(0)):
        published.publish(b"one")
        await asyncio.sleep(0)
        assert sum(bool(sink.taken) for sink in all_sinks) == fanout.SLICE
        published.publish(b"two")
        await eventually(lambda: all(b"two" in sink.taken for sink in all_sinks))
    assert {sink.taken.count(b"one") for sink in all_sinks} == {1}
    assert {sink.taken.count(b"two") for sink in all_sinks} == {1}


@pytest.mark.gen_test
async def test_who_leaves_in_the_middle_of_a_round_is_sent_nothing() -> None:
    """And the last one takes the round with it."""
    published = Channel()
    feed, to = Events((published,), "text"), Fanout(0)
    first = [Sink() for _ in range(fanout.SLICE)]
    late = Sink()
    with sinks(feed, first, to):
        with sinks(feed, [late], to):
            published.publish(b"one")
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert late.taken == b""
        published.publish(b"two")
    assert published._watchers == {}
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(b"two" in sink.taken for sink in first)


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_closed_stream_takes_no_heartbeat_from_the_others() -> None:
    """Its response has not had its turn to leave yet."""
    feed = Events((Channel(),), "text")
    closed, waiting, open_ = Sink(), Sink(most=0), Sink()
    closed.is_closed = True
    with sinks(feed, [closed, waiting, open_], Fanout(0), 0.05):
        await eventually(lambda: open_.taken.count(framed(b":")) == 2)
        assert (closed.taken, waiting.taken) == (b"", b"")
        waiting.most = 10**9
        waiting.flow()
        await eventually(lambda: waiting.taken == framed(b":") * 2)


# --- what a publisher waits for ---


def runs(published: Channel, count: int) -> None:
    """So much that a subscriber is sent it in as many turns of the loop."""
    for _ in range(count):
        published.publish(bytes(RUN_BYTES - 1))


@pytest.mark.gen_test
async def test_offered_is_what_every_kernel_was_asked_to_take() -> None:
    """By all slices of the round, and by those who have several runs to go."""
    published = Channel(history=History(events=1000))
    all_sinks, to = [Sink() for _ in range(3 * fanout.SLICE)], Fanout(0)
    with sinks(Events((published,), "text"), all_sinks, to):
        await published.offered()
        assert not any(sink.taken for sink in all_sinks)
        runs(published, 3)
        await published.offered()
        assert {sink.taken.count(b"\n") for sink in all_sinks} == {3 * 3}
    await published.offered()


@pytest.mark.gen_test
async def test_who_takes_nothing_is_not_waited_for() -> None:
    """Nor is one that left in the middle."""
    published, ends = Channel(history=History(events=1000)), Ends()
    deaf, to = Sink(most=0), Fanout(0)
    feed = Events((published,), "text")
    with sinks(feed, [deaf], to, ends=ends), sinks(feed, [Sink()], to, ends=ends):
        runs(published, 3)
        await published.offered()
        assert deaf.waiting is not None
    assert ends.outcomes == []


@pytest.mark.gen_test
async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here for a tick that is far too long."""
    monkeypatch.setattr(source, "OFFERING_SECONDS", 0.05)
    published, sink, to = Channel(), Sink(), Fanout(60)
    with sinks(Events((published,), "text"), [sink], to):
        published.publish(b"at once")
        await published.offered()
        published.publish(b"later")
        await published.offered()
        assert sink.taken == framed(b"at once\n")
