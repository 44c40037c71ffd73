"""A channel by itself: ids, what is kept of it and for how long, and that no cursor misses a thing unsaid."""

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media import channel as channels
from media.channel import ENTRY_BYTES, EVENT_NAME_BYTES, LAG_BYTES, Channel, History, Ids
from media.source import BadParameter, FellBehind


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def published(channel: Channel, count: int, size: int = 1) -> list[int]:
    """The numbers of so many events, of `size` bytes each."""
    return [number_of(channel, channel.publish(b"x" * size)) for _ in range(count)]


def number_of(channel: Channel, id_: str) -> int:
    number = channel.ids.number(id_)
    assert number is not None
    return number


def behind(channel: Channel, number: int = 0) -> list[int]:
    """The numbers of the events that are kept behind one."""
    return [entry.number for entry in channel.after(number)]


@pytest.fixture
def no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest event is kept for those who are connected: the history alone decides."""
    monkeypatch.setattr(channels, "LAG_BYTES", 1)


# --- ids ---


def test_ids_rise_over_all_channels_of_a_process() -> None:
    """One number says where a subscriber of several stands."""
    ids = Ids("e")
    one, other = Channel("one", ids), Channel("other", ids)
    given_ids = [one.publish(b"1"), other.publish(b"2"), one.publish(b"3")]
    assert given_ids == ["e-1", "e-2", "e-3"]
    assert (one.newest, other.newest, ids.newest) == (3, 2, 3)
    assert behind(one) == [1, 3]


def test_an_epoch_is_later_than_the_one_before() -> None:
    """As a number in hexadecimal, which an id may have."""
    epochs = [Ids().epoch for _ in range(3)]
    assert [int(epoch, 16) for epoch in epochs] == sorted(int(epoch, 16) for epoch in epochs)
    assert Ids(epochs[0]).number(f"{epochs[0]}-0") == 0


@pytest.mark.parametrize(
    ("id_", "number"),
    [
        ("abc-1", 1),
        ("abc-3", 3),
        ("abc-0", 0),
        ("abc-4", None),
        ("abd-1", -1),
        ("ab-1", -1),
        ("abd-999", -1),
        ("abc", None),
        ("abc-", None),
        ("-1", None),
        ("abc--1", None),
        ("abc-1 ", None),
        ("abc-1\n", None),
        ("ABC-1", None),
        ("abc-٣", None),
        ("abc-1e0", None),
        (f"abc-{'9' * 16}", None),
        (f"{'a' * 17}-1", None),
        ("", None),
        ("latest", None),
    ],
)
def test_the_number_of_an_id(id_: str, number: int | None) -> None:
    """Of this run, of another (-1), or none that a channel gives; one that is still to come is none."""
    ids = Ids("abc")
    for _ in range(3):
        ids.next()
    assert ids.number(id_) == number


# --- what is kept ---


@pytest.mark.parametrize(
    ("history", "sizes", "remembered"),
    [
        (History(events=3), [1] * 2, 2),
        (History(events=3), [1] * 3, 3),
        (History(events=3), [1] * 9, 3),
        (History(events=0), [1] * 9, 0),
        (History(size=3 * (ENTRY_BYTES + 100)), [100] * 3, 3),
        (History(size=3 * (ENTRY_BYTES + 100)), [100] * 4, 3),
        (History(size=3 * (ENTRY_BYTES + 100) - 1), [100] * 4, 2),
        (History(size=1000), [100, 1000], 0),
        (History(size=1000), [100, 1000, 100, 100], 2),
        (History(size=0), [0], 0),
    ],
    ids=lambda value: re.sub(r"[^0-9a-z=]+", " ", str(value))[:40],
)
def test_a_history_has_bounds(history: History, sizes: list[int], remembered: int, no_lag: None) -> None:
    """In events and in bytes, each alone; what is beyond is told by its number."""
    channel = Channel(history=history)
    for size in sizes:
        channel.publish(b"x" * size)
    assert channel.remembered == remembered
    assert channel.forgotten == len(sizes) - remembered
    assert behind(channel, channel.forgotten) == list(range(len(sizes) - remembered + 1, len(sizes) + 1))
    assert channel.published == channel.newest == len(sizes)


@pytest.mark.parametrize("bounds", [{"events": "10"}, {"size": None}, {"seconds": -1}, {"seconds": math.nan}])
def test_a_history_that_is_none(bounds: Any) -> None:
    """Said when the table is made, and not to the first who publishes."""
    with pytest.raises(TypeError, match=f"the {next(iter(bounds))} of a history must be a number from 0 up"):
        History(**bounds)


def test_a_history_has_an_age() -> None:
    """It is over without anything being published, at the second that was said."""
    clock = Clock()
    channel = Channel(history=History(seconds=10), clock=clock)
    for _ in range(3):
        channel.publish(b"")
        clock.now += 4
    assert (channel.remembered, channel.forgotten) == (2, 1)  # of 12, 8 and 4 seconds
    clock.now += 2
    assert (channel.remembered, channel.forgotten) == (2, 1)
    clock.now += 0.1
    assert (channel.remembered, channel.forgotten) == (1, 2)
    clock.now += 1000
    assert (channel.remembered, channel.forgotten) == (0, 3)


def test_an_age_of_none_is_any() -> None:
    """0 seconds are no limit."""
    clock = Clock()
    channel = Channel(history=History(seconds=0), clock=clock)
    channel.publish(b"")
    clock.now += 1e9
    assert channel.remembered == 1


def test_clearing_forgets_the_history_and_takes_nothing_from_the_connected() -> None:
    """Who comes back is behind; who stands at a cursor still has what is behind it."""
    channel = Channel()
    published(channel, 3)
    channel.clear()
    assert (channel.remembered, channel.forgotten, channel.published) == (0, 3, 3)
    assert behind(channel, 1) == [2, 3]
    published(channel, 1)
    assert (channel.remembered, channel.forgotten) == (1, 3)
    channel.clear()
    channel.clear()
    assert (channel.remembered, channel.forgotten) == (0, 4)


def test_an_empty_channel_can_be_cleared() -> None:
    """And has then forgotten nothing."""
    channel = Channel()
    channel.clear()
    assert (channel.remembered, channel.forgotten, channel.newest) == (0, 0, 0)
    assert behind(channel) == []


# --- who is behind ---


def test_without_a_history_the_lag_keeps_those_who_are_connected() -> None:
    """They may be behind by LAG_BYTES; behind that, events are gone."""
    channel = Channel(history=History(events=0))
    size = LAG_BYTES // 10 - ENTRY_BYTES
    published(channel, 10, size)
    assert behind(channel, 0) == list(range(1, 11))
    published(channel, 1, size)
    assert channel.lost(0)
    with pytest.raises(FellBehind):
        channel.after(0)
    assert behind(channel, 1) == list(range(2, 12))


def test_the_newest_event_is_kept_however_large(no_lag: None) -> None:
    """Else nobody could be sent it."""
    channel = Channel(history=History(events=0))
    published(channel, 2, 3000)
    assert behind(channel, 1) == [2]
    assert channel.lost(0)


def test_a_history_longer_than_the_lag_keeps_all_of_it(no_lag: None) -> None:
    """Nobody is behind whom the history still reaches."""
    channel = Channel(history=History(events=100))
    published(channel, 20, 1000)
    assert behind(channel, 0) == list(range(1, 21))


@pytest.mark.parametrize("count", [50, 3000, 10_000])
def test_what_is_gone_is_let_go(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a log that goes on for ever, no more is held than a little over what is kept."""
    kept = 400
    monkeypatch.setattr(channels, "LAG_BYTES", kept * (20 + ENTRY_BYTES))
    channel = Channel(history=History(events=10))
    published(channel, count, 20)
    assert len(channel._entries) <= kept * 8 / 7 + 1
    assert len(behind(channel, max(0, count - kept))) == min(kept, count)


def test_events_are_found_behind_any_number() -> None:
    """Also behind one that another channel gave, and one that is still to come."""
    ids = Ids()
    channel, other = Channel("a", ids), Channel("b", ids)
    for _ in range(3):
        channel.publish(b"")
        other.publish(b"")
    assert [behind(channel, number) for number in range(8)] == [
        [1, 3, 5], [3, 5], [3, 5], [5], [5], [], [], []
    ]  # fmt: skip


class Follower:
    """A subscriber's cursor, and what it has been given; it may be behind and then begins anew."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.begin()

    def begin(self) -> None:
        """At the newest."""
        self.seen: list[int] = []
        self.cursor = self.began_behind = self.channel.newest

    def take(self, most: int) -> None:
        """The next few. Where some are missing, that is said, and nothing is given."""
        expected_from = self.cursor
        try:
            entries = self.channel.after(self.cursor)
        except FellBehind:
            assert self.channel.lost(self.cursor)
            assert self.cursor < self.channel.forgotten
            self.begin()
            return
        assert not self.channel.lost(self.cursor)
        for entry, _ in zip(entries, range(most), strict=False):
            assert entry.number == expected_from + 1  # of one channel alone they have no holes
            expected_from = entry.number
            self.seen.append(entry.number)
        self.cursor = expected_from


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 60), st.integers(0, 700)),
        st.tuples(st.just("pass"), st.floats(0, 20), st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
        st.tuples(st.just("take"), st.integers(0, 2), st.integers(0, 80)),
        st.tuples(st.just("look"), st.none(), st.none()),
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    history=st.builds(History, st.integers(0, 50), st.integers(0, 40_000), st.sampled_from([0.0, 5.0, 30.0])),
    lag_bytes=st.sampled_from([1, 5_000, 50_000]),
)
def test_a_cursor_sees_every_event_once_in_order_or_fell_behind(
    steps: list[tuple[str, int, int]], history: History, lag_bytes: int
) -> None:
    """Whatever is published, cleared and expired in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channels, "LAG_BYTES", lag_bytes)
        clock = Clock()
        channel = Channel(history=history, clock=clock)
        followers = [Follower(channel) for _ in range(3)]
        for step, first, second in steps:
            match step:
                case "publish":
                    published(channel, first, second)
                case "pass":
                    clock.now += first
                case "clear":
                    channel.clear()
                case "take":
                    followers[first].take(second)
                case "look":
                    bounds_hold(channel, history, clock)
        for follower in followers:
            follower.take(10**9)
            assert follower.cursor == channel.newest
            assert follower.seen == list(range(follower.began_behind + 1, channel.newest + 1))


def bounds_hold(channel: Channel, history: History, clock: Clock) -> None:
    """What is remembered is within them, and the next older event would not be."""
    kept = list(channel.after(channel.forgotten))
    assert channel.remembered == len(kept) <= history.events
    assert sum(entry.size for entry in kept) <= history.size
    if history.seconds:
        assert all(entry.at >= clock.now - history.seconds for entry in kept)
    # Whoever stands where the history begins, or later, is never behind.
    assert not channel.lost(channel.forgotten)


# --- who is told ---


def test_watchers_are_told_of_each_event() -> None:
    """As long as they are attached; one may leave while it is told."""
    channel = Channel()
    told: list[str] = []

    def leaving() -> None:
        told.append("leaving")
        channel.detach(leaving)

    def staying() -> None:
        told.append(f"staying {channel.newest}")

    channel.attach(leaving)
    channel.attach(staying)
    channel.publish(b"")
    channel.publish(b"")
    channel.detach(staying)
    channel.detach(staying)
    channel.publish(b"")
    assert told == ["leaving", "staying 1", "staying 2"]


def test_a_watcher_finds_the_event_it_is_told_of() -> None:
    """Also where nothing is remembered."""
    channel = Channel(history=History(events=0))
    found: list[list[int]] = []
    channel.attach(lambda: found.append(behind(channel, channel.newest - 1)))
    published(channel, 2)
    assert found == [[1], [2]]


# --- names and data ---


@pytest.mark.parametrize(
    "name", ["a\nb", "a\rb", "\0", "x" * (EVENT_NAME_BYTES + 1), "바" * (EVENT_NAME_BYTES // 3 + 1)]
)
def test_a_name_that_no_event_can_have(name: str) -> None:
    """Nothing is published, and no number used."""
    channel = Channel()
    with pytest.raises(BadParameter, match="event must be a name"):
        channel.publish(b"", event=name)
    assert (channel.published, channel.ids.newest, channel.remembered) == (0, 0, 0)


@pytest.mark.parametrize("name", ["", "a", "with space", "바람", "a:b", "x" * EVENT_NAME_BYTES, "\ud800"])
def test_a_name_that_an_event_can_have(name: str) -> None:
    """Anything else."""
    channel = Channel()
    channel.publish(b"", event=name)
    assert [entry.event for entry in channel.after(0)] == [name]


@pytest.mark.parametrize(
    ("data", "json", "kept"),
    [
        (b'{\r\n "a": 1\n}', True, b'{   "a": 1 }'),
        (b'"a\\nb"', True, b'"a\\nb"'),
        (b"a\r\nb", False, b"a\r\nb"),
    ],
)
def test_json_is_kept_in_one_line(data: bytes, json: bool, kept: bytes) -> None:
    """Between its tokens a line break is as good as a space; text is as it was."""
    channel = Channel("name")
    channel.publish(data, json=json)
    (entry,) = channel.after(0)
    assert (entry.data, entry.json, entry.channel) == (kept, json, "name")
