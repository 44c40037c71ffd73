"""A feed of sound: where a listener begins, what is kept, and who is told."""

import pytest

from media.source import RUN_BYTES, FellBehind
from media.stretches import KEPT_BYTES, KEPT_STRETCHES, LAG_SECONDS, AudioFeed
from tests.media.live_audio import received

MP3, OGG = "audio/mpeg", "audio/ogg"


@pytest.mark.parametrize(("burst_seconds", "first"), [(0, 20), (0.5, 19), (2, 16), (5, 10), (60, 0)])
def test_a_listener_begins_seconds_back(burst_seconds: float, first: int) -> None:
    """The burst is counted in seconds; without one a listener gets what comes, from the newest stretch on."""
    feed = AudioFeed(MP3, burst_seconds)
    for number in range(20):
        feed.publish(b"%d," % number, 0.5, b"")
    number = min(first, 19)  # the newest is sent in any case: silence until the next would be longer
    assert received(feed) == b"".join(b"%d," % n for n in range(number, 20))


@pytest.mark.parametrize(
    ("heads", "begins"),
    [
        ([b"", b"", b"", b""], 0),
        ([None, b"H", None, b"I"], 1),
        ([None, b"H", None, None], 1),
        ([None, None, None, None], 0),
    ],
)
def test_a_listener_begins_where_a_decoder_can(heads: list[bytes | None], begins: int) -> None:
    """At a stretch that says so, behind its head; if none does, with everything there is."""
    feed = AudioFeed(OGG, 10)
    for number, head in enumerate(heads):
        feed.publish(b"%d" % number, 1, head)
    assert received(feed) == (heads[begins] or b"") + b"0123"[begins:]


def test_a_listener_begins_before_the_burst_if_it_must() -> None:
    """The last place where one can begin, however old it is."""
    feed = AudioFeed(OGG, 1)
    feed.publish(b"0", 1, b"H")
    for number in range(1, 9):
        feed.publish(b"%d" % number, 1, None)
    assert received(feed) == b"H012345678"


def test_a_feed_before_its_first_byte() -> None:
    """A listener waits for what comes."""
    feed = AudioFeed(MP3, 5)
    cursor, head = feed.beginning()
    assert (head, cursor) == (b"", feed.newest)
    assert not feed.lost(cursor)
    feed.publish(b"a", 1, b"")
    assert received(feed, cursor) == b"a"


@pytest.mark.parametrize(
    ("size", "seconds", "kept"),
    [
        (10, 0.5, int((5 + LAG_SECONDS) / 0.5)),
        (1024 * 1024, 0.5, KEPT_BYTES // 1024 // 1024),
        (10, 0.0, KEPT_STRETCHES),
        (2 * KEPT_BYTES, 1.0, 1),
    ],
    ids=["seconds", "bytes", "stretches", "one that is larger"],
)
def test_what_a_feed_keeps_is_bounded(size: int, seconds: float, kept: int) -> None:
    """By seconds, by bytes and by number; a listener who stands behind that has fallen behind."""
    feed = AudioFeed(MP3, 5)
    for _ in range(kept + 10):
        feed.publish(bytes(size), seconds, b"")
    number = feed.newest[0] - kept
    assert not feed.lost((number,))
    assert feed.lost((number - 1,))
    assert len(received(feed, (number,))) == kept * size
    with pytest.raises(FellBehind):
        feed.after((number - 1,), RUN_BYTES)


@pytest.mark.parametrize(("size", "most", "got"), [(10, 25, 20), (10, 5, 10), (10, 20, 20), (10, 1000, 50)])
def test_a_run_is_bounded(size: int, most: int, got: int) -> None:
    """At least one stretch, else no more bytes than asked for."""
    feed = AudioFeed(MP3, 5)
    for _ in range(5):
        feed.publish(bytes(size), 0.1, b"")
    run, cursor = feed.after((0,), most)
    assert (len(run), cursor) == (got, (got // size,))
    assert feed.after(feed.newest, most) == (b"", feed.newest)


def test_watchers_are_told_of_pieces_and_of_the_end() -> None:
    """Each once, until it no longer wants to; one may leave while it is told."""
    feed = AudioFeed(MP3, 5)
    told: list[str] = []

    def leaves() -> None:
        told.append("leaves")
        feed.detach(leaves)

    feed.attach(leaves)
    feed.attach(lambda: told.append("stays"))
    feed.publish(b"a", 1, b"")
    feed.end()
    assert told == ["leaves", "stays", "stays"]
    assert feed.ended
