"""Channels for tests, and what their followers are sent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from media.channel import Channel
from media.generated import StreamRequest
from media.records import FORMATS
from media.source import Body, Following
from media.subscriptions import Channels, channel

ROWS = {
    "a": channel(title="A", history=3),
    "b": channel(title="B", history=1000),
    "none": channel(title="No history", history=0),
}


def get(channels: Channels, name: str) -> Channel:
    found = channels.get(name)
    assert found is not None
    return found


def publish(channels: Channels, *names: str) -> None:
    """An event to each of the channels named, its data their own number."""
    for name in names:
        get(channels, name).publish(b"%d" % (channels.ids.newest + 1), json=True)


@asynccontextmanager
async def subscribed(
    channels: Channels, name: str, form: str = "sse", last_event_id: str | None = None, **args: str
) -> AsyncIterator[Body]:
    stream = channels.stream(name)
    assert stream is not None
    async with stream.open(StreamRequest(args, last_event_id=last_event_id), FORMATS[form]) as body:
        yield body


def id_of(channels: Channels, number: int) -> str:
    return channels.ids.of(number)


def following_of(body: Body) -> Following:
    assert body.following is not None
    return body.following


def drained(following: Following, most_bytes: int = 10**9) -> list[bytes]:
    """The runs behind its cursor, each no larger than asked."""
    feed, cursor, runs = following.feed, following.cursor, []
    while cursor != feed.newest:
        run, cursor = feed.after(cursor, most_bytes)
        runs.append(run)
    return runs


def numbers(runs: list[bytes]) -> list[int]:
    """Of the events in runs of SSE."""
    return [int(line.rpartition(b"-")[2]) for line in b"".join(runs).splitlines() if line.startswith(b"id: ")]


def events_in(stream: bytes) -> list[dict[str, str]]:
    """The blocks of a stream of SSE by their fields; data lines joined."""
    blocks = []
    for block in stream.decode().split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        blocks.append(fields)
    return blocks[:-1]
