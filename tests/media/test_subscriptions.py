"""From a request to a cursor in one channel or several, and events in every format."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest

from media import channel as log
from media import subscriptions
from media.channel import Channel, History, Ids
from media.generated import StreamRequest
from media.parameters import BadParameter
from media.records import FORMATS
from media.source import Body, Following, SourceBroken, SourceEnded, Watched
from media.subscriptions import EARLIEST, NAME, ChannelRow, Channels, Events, channel

ROWS = {
    "a": channel(title="A", history=3),
    "b": channel(title="B", history=1000),
    "none": channel(title="No history", history=0),
}


@pytest.fixture
def channels() -> Channels:
    """Three channels, nothing published."""
    return Channels(ROWS)


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


async def answer(body: Body) -> dict[str, Any]:
    """Of a long poll."""
    async with aclosing(body.chunks()) as chunks:
        received = [bytes(chunk) async for chunk in chunks]  # type: ignore[arg-type]
    assert len(received) == 1
    return json.loads(received[0])  # type: ignore[no-any-return]


# --- the table ---


@pytest.mark.parametrize(
    ("history", "meant"),
    [(0, History(events=0)), (7, History(events=7)), (History(5, 6, 7), History(5, 6, 7))],
    ids=["none", "a number", "bounds"],
)
def test_a_row_says_what_is_kept(history: int | History, meant: History) -> None:
    """A number is of events."""
    assert channel(title="T", history=history) == ChannelRow("T", meant)
    assert get(Channels({"x": channel(title="T", history=history)}), "x").history == meant


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("a", "A"), ("a,b", "Several channels"), ("b,a,b", "Several channels"), ("a,a", "A"),
        ("", None), ("x", None), ("a,x", None), ("a,", None), (",", None), (" a", None),
    ],
)  # fmt: skip
def test_names_of_channels(channels: Channels, name: str, title: str | None) -> None:
    """With commas several; if there is none of one of these names, there is no stream."""
    stream = channels.stream(name)
    assert (None if stream is None else stream.title) == title


def test_more_together_than_may_be() -> None:
    """Each of them is a log that is looked into at each event."""
    rows = {f"c{number}": channel(title="") for number in range(subscriptions.MOST_TOGETHER + 1)}
    channels = Channels(rows)
    assert channels.stream(",".join(list(rows)[1:])) is not None
    assert channels.stream(",".join(rows)) is None


@pytest.mark.parametrize(
    ("name", "may"),
    [("a", True), ("A.b_c-9", True), ("a" * 100, True), ("a" * 101, False), ("", False), ("a,b", False),
     ("-a", False), ("a/b", False), ("바", False), ("a\n", False)],
)  # fmt: skip
def test_what_a_channel_may_be_called(name: str, may: bool) -> None:
    """What stands in a path as it is, and names one."""
    assert (NAME.fullmatch(name) is not None) == may


@pytest.mark.gen_test
async def test_the_facts_of_a_channel(channels: Channels) -> None:
    """Followers of several count for each of them."""
    publish(channels, "a", "b", "a", "a", "a")
    async with (
        subscribed(channels, "a"),
        subscribed(channels, "a", "ndjson"),
        subscribed(channels, "b,a"),
        subscribed(channels, "b", "json"),
    ):
        assert channels.facts("a") == {
            "published": 4,
            "remembered": 3,
            "last_event_id": id_of(channels, 5),
            "subscribers": 3,
        }
        assert channels.facts("b")["subscribers"] == 2
        assert channels.facts("none") == {
            "published": 0, "remembered": 0, "last_event_id": id_of(channels, 0), "subscribers": 0
        }  # fmt: skip
    assert channels.facts("a")["subscribers"] == channels.facts("b")["subscribers"] == 0


# --- feeds ---


@pytest.mark.gen_test
async def test_who_follow_the_same_share_a_feed(channels: Channels) -> None:
    """In whatever order they name it; another format is another feed."""
    async with AsyncExitStack() as stack:
        asked = [("a", "sse"), ("a", "sse"), ("a,a", "sse"), ("a", "ndjson"), ("a,b", "sse"), ("b,a", "sse")]
        bodies = [await stack.enter_async_context(subscribed(channels, *each)) for each in asked]
        feeds = [following_of(body).feed for body in bodies]
    assert feeds[0] is feeds[1] is feeds[2]
    assert feeds[4] is feeds[5]
    assert len(set(map(id, feeds))) == 3


@pytest.mark.parametrize("form", ["sse", "json"])
@pytest.mark.gen_test
async def test_a_feed_is_forgotten_with_its_last_follower(channels: Channels, form: str) -> None:
    """Whatever happened to it: there may be as many feeds as combinations of names."""
    async with subscribed(channels, "a,b", form):
        with pytest.raises(RuntimeError):
            async with subscribed(channels, "a,b", form):
                raise RuntimeError
        assert channels.facts("a")["subscribers"] == 1
        assert len(channels._feeds) == 1
    assert channels._feeds == {}
    assert get(channels, "a")._watchers == {}


@pytest.mark.gen_test
async def test_a_poll_that_asks_for_nonsense_is_no_subscriber(channels: Channels) -> None:
    """It is refused before it is one."""
    with pytest.raises(BadParameter):
        async with subscribed(channels, "a", "json", wait="long"):
            pass
    assert channels._feeds == {}


# --- positions ---

PLACES = {
    # what is published: a 1, b 2, a 3, a 4, b 5, a 6, a 7; of a are remembered 4, 6, 7 and of b all
    "none": ("a", None, [], None),
    "nonsense": ("a", "nonsense", [], None),
    "to come": ("a", "{epoch}-8", [], None),
    "newest": ("a", "{epoch}-7", [], None),
    "the one before": ("a", "{epoch}-6", [7], None),
    "another channel's": ("a", "{epoch}-5", [6, 7], None),
    "the last forgotten": ("a", "{epoch}-3", [4, 6, 7], None),
    "too old": ("a", "{epoch}-2", [4, 6, 7], 4),
    "the very first": ("a", "{epoch}-0", [4, 6, 7], 4),
    "another run's": ("a", "0-7", [4, 6, 7], 4),
    "another run's, nothing forgotten": ("b", "0-7", [2, 5], 2),
    "nothing forgotten": ("b", "{epoch}-0", [2, 5], None),
    "behind the newest of this one": ("b", "{epoch}-6", [], None),
    "earliest": ("a", EARLIEST, [4, 6, 7], None),
    "earliest of all": ("b", EARLIEST, [2, 5], None),
    "earliest of none": ("none", EARLIEST, [], None),
    "nothing was published": ("none", "{epoch}-0", [], None),
    "nothing was published by another's": ("none", "{epoch}-3", [], None),
    "nothing was published in this run": ("none", "0-3", [], 0),
    "several": ("a,b", "{epoch}-4", [5, 6, 7], None),
    "several, newest": ("a,b", "{epoch}-7", [], None),
    "several, one is too old": ("a,b", "{epoch}-1", [2, 4, 5, 6, 7], 2),
    "several, another run": ("a,b", "0-1", [2, 4, 5, 6, 7], 2),
    "several, earliest": ("a,b", EARLIEST, [2, 4, 5, 6, 7], None),
    "several, one has nothing": ("b,none", "{epoch}-2", [5], None),
    "several, the first known was seen": ("a,b", "{epoch}-2", [4, 5, 6, 7], 4),
}


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.gen_test
async def test_where_a_client_goes_on(channels: Channels, case: str) -> None:
    """With what it has not seen, each once, in order; and with a gap where something is missing."""
    name, last_event_id, expected, first = PLACES[case]
    publish(channels, "a", "b", "a", "a", "b", "a", "a")
    if last_event_id is not None:
        last_event_id = last_event_id.format(epoch=channels.ids.epoch)
    async with subscribed(channels, name, last_event_id=last_event_id) as body:
        following = following_of(body)
        opening = events_in(following.opening)
        assert numbers(drained(following)) == expected
        assert numbers(drained(following, 1)) == expected
    assert 1000 <= int(opening[0]["retry"]) <= 5000
    if first is None:
        assert [*opening[0]] == ["retry", "id"]
        assert len(opening) == 1
        return
    assert len(opening) == 2
    assert opening[1]["event"] == "gap"
    first_id = id_of(channels, first) if first else None
    assert json.loads(opening[1]["data"]) == {"last_event_id": last_event_id, "first_id": first_id}


@pytest.mark.parametrize("case", [case for case in PLACES if case != "several, one is too old"])
@pytest.mark.gen_test
async def test_who_got_no_further_than_the_opening_misses_nothing(channels: Channels, case: str) -> None:
    """The id that it holds is that of a place from which the same follows, and of the gap it was told."""
    name, last_event_id, expected, _ = PLACES[case]
    publish(channels, "a", "b", "a", "a", "b", "a", "a")
    if last_event_id is not None:
        last_event_id = last_event_id.format(epoch=channels.ids.epoch)
    async with subscribed(channels, name, last_event_id=last_event_id) as body:
        held = events_in(following_of(body).opening)[-1]["id"]
    async with subscribed(channels, name, last_event_id=held) as body:
        assert numbers(drained(following_of(body))) == expected
        if "," not in name:
            assert b"gap" not in following_of(body).opening


@pytest.mark.gen_test
async def test_a_cleared_channel_is_a_gap(channels: Channels) -> None:
    """For who comes back; who is connected goes on."""
    publish(channels, "b", "b")
    async with subscribed(channels, "b", last_event_id=id_of(channels, 1)) as body:
        get(channels, "b").clear()
        assert numbers(drained(following_of(body))) == [2]
    async with subscribed(channels, "b", last_event_id=id_of(channels, 1)) as body:
        opening = events_in(following_of(body).opening)
        assert json.loads(opening[1]["data"]) == {"last_event_id": id_of(channels, 1), "first_id": None}
        assert opening[1]["id"] == id_of(channels, 2)
        publish(channels, "b")
        assert numbers(drained(following_of(body))) == [3]
    async with subscribed(channels, "b", last_event_id=id_of(channels, 2)) as body:
        assert b"gap" not in following_of(body).opening


@pytest.mark.gen_test
async def test_no_run_is_empty(channels: Channels) -> None:
    """In HTTP an empty chunk is the end of the body: a place with nothing behind it is the newest one."""
    publish(channels, "b", "a")
    for name in "ab":
        get(channels, name).clear()
    for last_event_id in (EARLIEST, id_of(channels, 0), id_of(channels, 1), "0-1"):
        async with subscribed(channels, "a,b", last_event_id=last_event_id) as body:
            assert following_of(body).cursor == following_of(body).feed.newest


@pytest.mark.parametrize("most_bytes", [1, 60, 100, 1000])
@pytest.mark.gen_test
async def test_runs_are_bounded(channels: Channels, most_bytes: int) -> None:
    """By their bytes, or the one event that is larger; together they are everything."""
    publish(channels, *["b", "none"] * 20)
    get(channels, "b").publish(bytes(200))
    publish(channels, "none", "b")
    async with subscribed(channels, "b,none", last_event_id=id_of(channels, 0)) as body:
        runs = drained(Following(following_of(body).feed, (0, 40)), most_bytes)
    assert all(len(run) <= most_bytes or len(numbers([run])) == 1 for run in runs)
    assert numbers(runs) == [*range(1, 41, 2), 41, 42, 43]


# --- formats ---

WRITTEN: dict[str, tuple[bytes, bool, str, dict[str, bytes]]] = {
    "text": (b"hello", False, "", {
        "text": b"hello\n",
        "sse": b"id: ID\ndata: hello\n\n",
        "ndjson": b'{"id":"ID","channel":"b","event":"message","data":"hello"}\n',
    }),
    "json": (b'{"a": [1, 2]}', True, "", {
        "text": b'{"a": [1, 2]}\n',
        "sse": b'id: ID\ndata: {"a": [1, 2]}\n\n',
        "ndjson": b'{"id":"ID","channel":"b","event":"message","data":{"a": [1, 2]}}\n',
    }),
    "json over lines": (b'{\r\n"a": 1}', True, "", {
        "text": b'{  "a": 1}\n',
        "sse": b'id: ID\ndata: {  "a": 1}\n\n',
        "ndjson": b'{"id":"ID","channel":"b","event":"message","data":{  "a": 1}}\n',
    }),
    "named": (b"x", False, "price \"1\"", {
        "text": b"x\n",
        "sse": b'event: price "1"\nid: ID\ndata: x\n\n',
        "ndjson": b'{"id":"ID","channel":"b","event":"price \\"1\\"","data":"x"}\n',
    }),
    "line breaks": (b"1\n2\r3\r\n4\n", False, "", {
        "text": b"1\n2\r3\r\n4\n\n",
        "sse": b"id: ID\ndata: 1\ndata: 2\ndata: 3\ndata: 4\ndata: \n\n",
        "ndjson": b'{"id":"ID","channel":"b","event":"message","data":"1\\n2\\r3\\r\\n4\\n"}\n',
    }),
    "nul and colon": (b"a\0: b", False, "", {
        "text": b"a\0: b\n",
        "sse": b"id: ID\ndata: a\0: b\n\n",
        "ndjson": b'{"id":"ID","channel":"b","event":"message","data":"a\\u0000: b"}\n',
    }),
    "empty": (b"", False, "", {
        "text": b"\n",
        "sse": b"id: ID\ndata: \n\n",
        "ndjson": b'{"id":"ID","channel":"b","event":"message","data":""}\n',
    }),
    "unicode": ("바람\u2028".encode(), False, "바", {
        "text": "바람\u2028\n".encode(),
        "sse": "event: 바\nid: ID\ndata: 바람\u2028\n\n".encode(),
        "ndjson": '{"id":"ID","channel":"b","event":"바","data":"바람\u2028"}\n'.encode(),
    }),
}  # fmt: skip


@pytest.mark.parametrize("form", ["text", "sse", "ndjson"])
@pytest.mark.parametrize("case", WRITTEN)
@pytest.mark.gen_test
async def test_an_event_in_each_format(channels: Channels, case: str, form: str) -> None:
    """The same bytes each time it is asked for."""
    data, is_json, event, written = WRITTEN[case]
    get(channels, "b").publish(data, json=is_json, event=event)
    async with subscribed(channels, "b", form, EARLIEST) as body:
        runs = [drained(following_of(body)) for _ in range(2)]
        assert body.facts.media_type == FORMATS[form].media_type
        assert body.facts.live
    assert runs[0] == runs[1] == [written[form].replace(b"ID", id_of(channels, 1).encode())]


@pytest.mark.parametrize(
    ("form", "args", "heartbeat"),
    [("sse", {}, b":\n"), ("sse", {"heartbeat": "0"}, b":\n"), ("ndjson", {}, b"\n"),
     ("text", {}, b" "), ("text", {"heartbeat": "0"}, b""), ("json", {}, b" ")],
)  # fmt: skip
@pytest.mark.gen_test
async def test_heartbeats(channels: Channels, form: str, args: dict[str, str], heartbeat: bytes) -> None:
    """A person who reads text may do without."""
    async with subscribed(channels, "a", form, **args) as body:
        assert body.facts.heartbeat == heartbeat


@pytest.mark.parametrize("form", ["text", "ndjson"])
@pytest.mark.parametrize("last_event_id", [None, "0-1"])
@pytest.mark.gen_test
async def test_what_the_other_formats_begin_with(
    channels: Channels, form: str, last_event_id: str | None
) -> None:
    """A gap is a line of NDJSON; text has no word for it."""
    publish(channels, "b")
    async with subscribed(channels, "b", form, last_event_id) as body:
        opening = following_of(body).opening
    if form == "text" or last_event_id is None:
        assert opening == b""
    else:
        assert orjson.loads(opening) == {
            "id": id_of(channels, 0),
            "event": "gap",
            "data": {"last_event_id": "0-1", "first_id": id_of(channels, 1)},
        }


# --- the way of chunks ---


@pytest.mark.gen_test
async def test_the_chunks_are_what_the_others_are_sent(channels: Channels) -> None:
    """Opening, history, and then what comes, as it comes."""
    publish(channels, "b", "b")
    async with subscribed(channels, "b", last_event_id=id_of(channels, 1)) as body:
        async with aclosing(body.chunks()) as chunks:
            assert b"retry" in bytes(await anext(chunks))  # type: ignore[arg-type]
            assert numbers([await anext(chunks)]) == [2]  # type: ignore[list-item]
            waiting = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            assert not waiting.done()
            publish(channels, "a", "b", "b")
            assert numbers([await waiting]) == [4, 5]  # type: ignore[list-item]
        assert get(channels, "b")._watchers == {}


# --- long poll ---


def found(polled: dict[str, Any]) -> list[int]:
    """The numbers of its events."""
    return [int(event["id"].rpartition("-")[2]) for event in polled["events"]]


@pytest.mark.parametrize("wait", [None, "0", "60"])
@pytest.mark.gen_test
async def test_a_poll_gives_what_there_is_at_once(channels: Channels, wait: str | None) -> None:
    """However long it would wait."""
    publish(channels, "b", "b", "b")
    args = {} if wait is None else {"wait": wait}
    async with subscribed(channels, "b", "json", id_of(channels, 1), **args) as body:
        assert await answer(body) == {
            "events": [
                {"id": id_of(channels, number), "channel": "b", "event": "message", "data": number}
                for number in (2, 3)
            ],
            "last_event_id": id_of(channels, 3),
        }


@pytest.mark.parametrize("last_event_id", [None, EARLIEST, "nonsense"])
@pytest.mark.gen_test
async def test_a_poll_that_does_not_wait_may_be_empty(channels: Channels, last_event_id: str | None) -> None:
    """It tells where the next one begins."""
    publish(channels, "b")
    async with subscribed(channels, "none", "json", last_event_id) as body:
        assert await answer(body) == {"events": [], "last_event_id": id_of(channels, 0)}


@pytest.mark.parametrize("name", ["b", "a,b"])
@pytest.mark.parametrize("last_event_id", [None, EARLIEST])
@pytest.mark.gen_test
async def test_a_poll_waits_for_the_next_event(
    channels: Channels, name: str, last_event_id: str | None
) -> None:
    """Of its own channels; all that came at once comes with it."""
    publish(channels, "a", "b")
    for each in "ab":
        get(channels, each).clear()
    async with subscribed(channels, name, "json", last_event_id, wait="60") as body:
        waiting = asyncio.ensure_future(answer(body))
        await asyncio.sleep(0)
        publish(channels, "none")
        await asyncio.sleep(0)
        assert not waiting.done()
        publish(channels, "b", "b")
        polled = await asyncio.wait_for(waiting, 1)
    assert found(polled) == [4, 5]
    assert polled["last_event_id"] == id_of(channels, 5)
    assert get(channels, "b")._watchers == {}


@pytest.mark.gen_test
async def test_a_poll_that_waited_in_vain(channels: Channels) -> None:
    """It is empty, and says the same place."""
    publish(channels, "b")
    async with subscribed(channels, "b", "json", id_of(channels, 1), wait="0.02") as body:
        assert await answer(body) == {"events": [], "last_event_id": id_of(channels, 1)}
    assert get(channels, "b")._watchers == {}


@pytest.mark.gen_test
async def test_a_poll_is_cancelled_while_it_waits(channels: Channels) -> None:
    """Nothing of it is left."""
    async with subscribed(channels, "b", "json", wait="60") as body:
        waiting = asyncio.ensure_future(answer(body))
        await asyncio.sleep(0)
        assert len(get(channels, "b")._watchers) == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        assert get(channels, "b")._watchers == {}


@pytest.mark.gen_test
async def test_a_poll_begins_with_its_gap(channels: Channels) -> None:
    """At once, whether or not anything else is there."""
    publish(channels, "a", "a")
    async with subscribed(channels, "a", "json", "0-9", wait="60") as body:
        polled = await asyncio.wait_for(answer(body), 1)
    data = {"last_event_id": "0-9", "first_id": id_of(channels, 1)}
    assert polled["events"][0] == {"id": id_of(channels, 0), "event": "gap", "data": data}
    assert found(polled) == [0, 1, 2]
    get(channels, "a").clear()
    async with subscribed(channels, "a", "json", "0-9", wait="60") as body:
        polled = await asyncio.wait_for(answer(body), 1)
    assert [event["data"] for event in polled["events"]] == [{"last_event_id": "0-9", "first_id": None}]
    assert polled["last_event_id"] == id_of(channels, 2)


@pytest.mark.gen_test
async def test_a_poll_that_was_overrun_while_it_waited(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More came at once than is kept: that is a gap, and no failure."""
    monkeypatch.setattr(log, "LAG_BYTES", 1000)
    publish(channels, "a")
    async with subscribed(channels, "a", "json", wait="60") as body:
        waiting = asyncio.ensure_future(answer(body))
        await asyncio.sleep(0)
        publish(channels, *"aaaaaaaaaa")
        polled = await asyncio.wait_for(waiting, 1)
    data = {"last_event_id": id_of(channels, 1), "first_id": id_of(channels, 9)}
    assert polled["events"][0] == {"id": id_of(channels, 8), "event": "gap", "data": data}
    assert found(polled) == [8, 9, 10, 11]


@pytest.mark.gen_test
async def test_many_polls_go_on_in_slices(channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns between them; none is forgotten, and one that asks again waits for the next event."""
    monkeypatch.setattr(subscriptions, "POLLS_AT_ONCE", 3)
    answered: list[int] = []

    async def poll(last_event_id: str | None) -> None:
        async with subscribed(channels, "b", "json", last_event_id, wait="60") as body:
            answered.extend(found(await answer(body)))

    polls = [asyncio.ensure_future(poll(None)) for _ in range(10)]
    await asyncio.sleep(0)
    polls.pop(4).cancel()
    await asyncio.sleep(0)
    publish(channels, "b")
    counts = [0]
    again = asyncio.ensure_future(poll(id_of(channels, 1)))
    while len(answered) < 9:
        await asyncio.sleep(0)
        counts.append(len(answered))
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 3
    await asyncio.gather(*polls)
    assert not again.done()
    publish(channels, "b")
    await again
    assert answered == [1] * 9 + [2]
    assert get(channels, "b")._watchers == {}


@pytest.mark.parametrize("drained_at", ["waiting", "answered"])
@pytest.mark.gen_test
async def test_a_poll_that_is_drained_is_whole(channels: Channels, drained_at: str) -> None:
    """Its ending is the answer, of what there is; and nothing, if that is on its way."""
    publish(channels, "b")
    async with subscribed(channels, "b", "json", None, wait="60") as body:
        if drained_at == "waiting":
            assert json.loads(body.ending()) == {"events": [], "last_event_id": id_of(channels, 1)}
        else:
            waiting = asyncio.ensure_future(answer(body))
            await asyncio.sleep(0)
            publish(channels, "b")
            assert found(await waiting) == [2]
        assert body.ending() == b""


@pytest.mark.parametrize(
    ("most", "most_bytes", "lengths"),
    [(10, 10**9, [10, 10, 5, 0]), (10**9, 400, [5] * 5 + [0]), (10**9, 1, [1] * 25 + [0])],
    ids=["events", "bytes", "one is larger"],
)
@pytest.mark.gen_test
async def test_the_rest_comes_with_the_next_poll(
    channels: Channels, monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int, lengths: list[int]
) -> None:
    """An answer has a bound in events and in bytes; behind its last id the next one goes on."""
    channels.ids.epoch = "0123456789abc"
    monkeypatch.setattr(subscriptions, "POLL_EVENTS", most)
    monkeypatch.setattr(subscriptions, "POLL_BYTES", most_bytes)
    for _ in range(25):
        get(channels, "b").publish(b"12345")
    place, polls = EARLIEST, []
    for _ in lengths:
        async with subscribed(channels, "b", "json", place) as body:
            polled = await answer(body)
        place = polled["last_event_id"]
        polls.append(found(polled))
    assert [len(poll) for poll in polls] == lengths
    assert [number for poll in polls for number in poll] == list(range(1, 26))


@pytest.mark.parametrize("wait", ["-1", "3601", "x", "nan"])
@pytest.mark.gen_test
async def test_a_wait_that_is_none(channels: Channels, wait: str) -> None:
    """The text names the parameter and what would be right."""
    with pytest.raises(BadParameter, match="wait must be"):
        async with subscribed(channels, "a", "json", wait=wait):
            pass


# --- a channel that ends ---


def test_the_end_of_a_channel_is_an_event() -> None:
    """With an id of its own, for whoever has seen it."""
    channel = Channel(ids=Ids("e"))
    feed = Events((channel,), "sse")
    assert (feed.ended, feed.failure) == (False, None)
    channel.publish(b"a")
    channel.end()
    assert (feed.ended, feed.failure) == (True, None)
    assert feed.after((0,), 100)[0] == b"id: e-1\ndata: a\n\nevent: end\nid: (end)\ndata: {}\n\n"
    assert feed.position("e-1").cursor == (1,)
    for last_event_id in (None, "e-2", "other"):
        with pytest.raises(SourceEnded):
            feed.position(last_event_id)


def test_a_channel_that_fails_has_no_end_event() -> None:
    """Who has all of it is told the failure."""
    channel = Channel(ids=Ids("e"))
    feed = Events((channel,), "text")
    channel.publish(b"a")
    failure = SourceBroken("it")
    channel.end(failure)
    assert (feed.ended, feed.failure) == (True, failure)
    assert feed.after(feed.position("earliest").cursor, 100)[0] == b"a\n"
    with pytest.raises(SourceBroken, match="it"):
        feed.position("e-1")


def test_its_followers_are_told_of_the_end() -> None:
    """Once, when everything is there."""
    channel, told = Channel(), list[bool]()
    channel.attach(lambda: told.append(channel.ended))
    channel.end()
    assert told == [True]


def test_who_lost_the_end_is_told_of_the_gap() -> None:
    """Also when nothing is left to be sent: 204 would say that nothing was missed."""
    channel = Channel(ids=Ids("e"), history=History(events=0), lag_bytes=1)
    feed = Events((channel,), "sse")
    for _ in range(3):
        channel.publish(b"a")
    channel.end()
    assert json.loads(feed.position("e-1").gap) == {"last_event_id": "e-1", "first_id": None}


@pytest.mark.gen_test
async def test_offered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever those do who are waited for."""
    monkeypatch.setattr("media.source.OFFERING_SECONDS", 0.05)
    watched = Watched()
    watched.attach(lambda: None, asyncio.Event().wait)  # type: ignore[arg-type]
    watched.attach(list)
    await watched.offered()
