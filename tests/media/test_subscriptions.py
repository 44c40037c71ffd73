"""The table of channels, and what those are sent who ask for one or several."""

import asyncio
import itertools
import json
from contextlib import AsyncExitStack, aclosing
from typing import Any

import orjson
import pytest

from media import channel as log
from media import events, subscriptions
from media.channel import History
from media.events import EARLIEST
from media.parameters import BadParameter
from media.source import Body
from media.subscriptions import NAME, ChannelRow, Channels, channel
from tests.media.channels import (
    following_of,
    get,
    id_of,
    numbers,
    publish,
    subscribed,
)


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


# --- what they are sent ---


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
    monkeypatch.setattr(events, "POLLS_AT_ONCE", 3)
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
