"""The events of channels: where a client goes on, and what each is in every format."""

import asyncio
import json

import pytest

from media.channel import Channel, History, Ids
from media.events import EARLIEST, Events
from media.records import FORMATS
from media.source import Following, SourceBroken, SourceEnded, Watched
from media.subscriptions import Channels
from tests.media.channels import (
    drained,
    events_in,
    following_of,
    get,
    id_of,
    numbers,
    publish,
    subscribed,
)

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
