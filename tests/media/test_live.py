"""Mounts: who is heard, where a listener begins, what is kept, and titles between the bytes."""

import asyncio
import json
import random
import re
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from media.channel import Ids
from media.frames import FormatError, Piece
from media.live import (
    AHEAD_SECONDS,
    KEPT_BYTES,
    KEPT_STRETCHES,
    LAG_SECONDS,
    MOST_BYTES_PER_SECOND,
    MOST_MOUNTS,
    STRETCH_BYTES,
    STRETCH_SECONDS,
    TITLE_CHARACTERS,
    AudioFeed,
    IcyBlocks,
    Mount,
    MountBusy,
    Mounts,
    Playing,
    Preempted,
    Session,
    one_line,
)
from media.source import RUN_BYTES, Body, Cursor, FellBehind, SourceBusy, SourceNotFound
from tests.media.live_audio import decoded, encoded
from tests.serving import eventually

MP3, OGG, WEBM = "audio/mpeg", "audio/ogg", "audio/webm"


def frame(number: int, seconds: float = 0.5, head: bytes | None = b"") -> Piece:
    """A piece that is a stretch by itself, if it plays as long as that."""
    return Piece(b"<%d>" % number, seconds, head)


def frames(start: int, stop: int, seconds: float = 0.5) -> list[Piece]:
    """Those of these numbers."""
    return [frame(number, seconds) for number in range(start, stop)]


def heard(feed: AudioFeed, cursor: Cursor | None = None) -> bytes:
    """What a listener gets who begins now, or stands at `cursor`, up to now."""
    if cursor is None:
        cursor, sent = feed.beginning()
    else:
        sent = b""
    while cursor != feed.newest:
        run, cursor = feed.after(cursor, RUN_BYTES)
        sent += run
    return sent


async def listened(stack: AsyncExitStack, mount: Mount) -> AudioFeed:
    """The feed of one more listener."""
    body: Body = await stack.enter_async_context(mount.heard())
    assert body.following is not None
    feed = body.following.feed
    assert isinstance(feed, AudioFeed)
    return feed


def mounts(burst_seconds: float = 5, grace_seconds: float = 0.05) -> Mounts:
    """None yet, with a short grace."""
    return Mounts(Ids(), burst_seconds=burst_seconds, grace_seconds=grace_seconds)


# --- the feed ---


@pytest.mark.parametrize(("burst_seconds", "first"), [(0, 20), (0.5, 19), (2, 16), (5, 10), (60, 0)])
def test_a_listener_begins_seconds_back(burst_seconds: float, first: int) -> None:
    """The burst is counted in seconds; without one a listener gets what comes, from the newest stretch on."""
    feed = AudioFeed(MP3, burst_seconds)
    for number in range(20):
        feed.publish(b"%d," % number, 0.5, b"")
    number = min(first, 19)  # the newest is sent in any case: silence until the next would be longer
    assert heard(feed) == b"".join(b"%d," % n for n in range(number, 20))


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
    assert heard(feed) == (heads[begins] or b"") + b"0123"[begins:]


def test_a_listener_begins_before_the_burst_if_it_must() -> None:
    """The last place where one can begin, however old it is."""
    feed = AudioFeed(OGG, 1)
    feed.publish(b"0", 1, b"H")
    for number in range(1, 9):
        feed.publish(b"%d" % number, 1, None)
    assert heard(feed) == b"H012345678"


def test_a_feed_before_its_first_byte() -> None:
    """A listener waits for what comes."""
    feed = AudioFeed(MP3, 5)
    cursor, head = feed.beginning()
    assert (head, cursor) == (b"", feed.newest)
    assert not feed.lost(cursor)
    feed.publish(b"a", 1, b"")
    assert heard(feed, cursor) == b"a"


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
    assert len(heard(feed, (number,))) == kept * size
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


# --- a source ---


@pytest.mark.gen_test
async def test_frames_become_stretches() -> None:
    """A quarter of a second is a stretch, and what is left of one comes with the next or at the end."""
    mount = Mount("a", Ids(), burst_seconds=60, grace_seconds=10)
    session = mount.claim("live", MP3)
    async with AsyncExitStack() as stack:
        feed = await listened(stack, mount)
        session.play(frames(0, 9, STRETCH_SECONDS / 3))
        assert feed.newest == (3,)
        session.play(frames(9, 11, STRETCH_SECONDS / 3))
        assert feed.newest == (3,)
        session.close()
        assert feed.newest == (4,)
        assert heard(feed, (0,)) == b"".join(b"<%d>" % number for number in range(11))
    mount.end()


@pytest.mark.gen_test
async def test_headers_are_a_stretch_of_their_own() -> None:
    """So that one can begin at the very first sound, and hears no header twice."""
    mount = Mount("a", Ids(), burst_seconds=60, grace_seconds=10)
    session = mount.claim("live", OGG)
    session.play([frame(0, 0, None), frame(1, 0, None), frame(2, 0.1, b"H"), frame(3, 0.1, b"H")])
    session.close()
    async with AsyncExitStack() as stack:
        assert heard(await listened(stack, mount)) == b"H<2><3>"
    mount.end()


@pytest.mark.gen_test
async def test_what_plays_no_time_is_bounded_too() -> None:
    """Its stretches end by size, and it is taken no faster than the most that a sound can have."""
    mount = Mount("a", Ids(), burst_seconds=5, grace_seconds=10)
    session = mount.claim("live", MP3)
    waits = [session.play([Piece(bytes(100_000), 0.0)]) for _ in range(300)]
    async with AsyncExitStack() as stack:
        feed = await listened(stack, mount)
        assert feed.newest == (300,)
        assert feed.lost((0,))
        assert STRETCH_BYTES < 100_000
    expected = 30_000_000 / MOST_BYTES_PER_SECOND - AHEAD_SECONDS
    assert waits[-1] == pytest.approx(expected, abs=3)
    mount.end()


@pytest.mark.gen_test
async def test_a_source_is_asked_to_wait_when_it_is_ahead() -> None:
    """As long as what it sent is more than so many seconds ahead; one in real time never is."""
    mount = Mount("a", Ids(), burst_seconds=5, grace_seconds=10)
    session = mount.claim("live", MP3)
    assert session.play(frames(0, 20, 0.45)) == 0
    assert session.play(frames(20, 40, 0.5)) == pytest.approx(9, abs=0.5)
    assert session.play([]) == pytest.approx(9, abs=0.5)
    mount.end()


@pytest.mark.parametrize("media_type", [MP3, "AUDIO/MPEG; foo=bar", " audio/mpeg "])
@pytest.mark.gen_test
async def test_a_type_is_told_plainly(media_type: str) -> None:
    """Without parameters and in lower case, also to listeners."""
    live = mounts()
    session = live.claim("a", "live", media_type)
    assert (session.media_type, live.get("a").media_type) == (MP3, MP3)
    async with live.get("a").heard() as body:
        assert body.facts.media_type == MP3
    live.get("a").end()


@pytest.mark.gen_test
async def test_what_is_no_sound_is_refused() -> None:
    """A type that has no parser claims nothing; another format than was said raises, and ends no feed."""
    live = mounts()
    with pytest.raises(ValueError, match="audio/ogg"):
        live.claim("a", "live", "video/mp4")
    with pytest.raises(SourceNotFound):
        live.get("a")
    session = live.claim("a", "live", OGG)
    feed = live.get("a")._feed
    with pytest.raises(FormatError):
        session.take(b"ID3" + bytes(1000))
    session.close()
    assert feed is not None
    assert not feed.ended
    await eventually(lambda: feed.ended)


# --- who is heard ---


@pytest.mark.gen_test
async def test_a_mount_has_one_source() -> None:
    """A second one is refused, and the first stays; when it has left there may be another."""
    live = mounts()
    first = live.claim("a", "live", MP3)
    for kind in ("live", "station"):
        with pytest.raises(MountBusy):
            live.claim("a", kind, MP3)  # type: ignore[arg-type]
    assert live.get("a").session is first
    first.close()
    first.close()
    assert live.get("a").vacant.is_set()
    live.claim("a", "station", MP3)
    live.get("a").end()


@pytest.mark.gen_test
async def test_a_live_source_takes_over_from_a_station() -> None:
    """Its listeners hear it in the same feed; the station is told, and comes back when it leaves."""
    live = mounts()
    station = live.claim("a", "station", MP3)
    mount = live.get("a")
    mount.has_station = True
    async with AsyncExitStack() as stack:
        feed = await listened(stack, mount)
        station.play(frames(0, 1))
        source = live.claim("a", "live", MP3)
        with pytest.raises(Preempted):
            station.play(frames(1, 2))
        station.close()
        assert mount.session is source
        assert not mount.vacant.is_set()
        source.play(frames(2, 3))
        source.close()
        await asyncio.wait_for(mount.vacant.wait(), 5)
        await asyncio.sleep(0.15)  # three times the grace: with a station there is none
        assert not feed.ended
        live.claim("a", "station", MP3).play(frames(3, 4))
        assert heard(feed, (0,)) == b"<0><2><3>"
    mount.end()


@pytest.mark.parametrize(("media_type", "same"), [(MP3, True), ("audio/aac", False)])
@pytest.mark.gen_test
async def test_a_source_that_comes_back(media_type: str, same: bool) -> None:
    """With the same type it is heard by those who waited; another type ends them, with its first sound."""
    live = mounts(grace_seconds=60)
    first = live.claim("a", "live", MP3)
    mount = live.get("a")
    async with AsyncExitStack() as stack:
        feed = await listened(stack, mount)
        first.play(frames(0, 1))
        first.close()
        assert (mount.source, mount.listeners) == (None, 1)
        second = live.claim("a", "live", media_type)
        assert not feed.ended
        second.play(frames(1, 2))
        assert feed.ended is not same
        assert (mount.media_type, mount.listeners) == (media_type, 1 if same else 0)
        assert heard(feed, (0,)) == (b"<0><1>" if same else b"<0>")
        assert heard(await listened(stack, mount)) == (b"<0><1>" if same else b"<1>")
    mount.end()


@pytest.mark.gen_test
async def test_a_webm_stream_is_never_continued() -> None:
    """Its header stands once, at the beginning: one that comes back is another feed."""
    live = mounts(grace_seconds=60)
    async with AsyncExitStack() as stack:
        live.claim("a", "live", WEBM).play([frame(0, 1, None)])
        feed = await listened(stack, live.get("a"))
        session = live.get("a").session
        assert session is not None
        session.close()
        live.claim("a", "live", WEBM).play([frame(1, 1, None)])
        assert feed.ended
    live.get("a").end()


@pytest.mark.gen_test
async def test_listeners_are_held_and_then_ended() -> None:
    """For the grace time; the mount is forgotten then, and another of its name is a new one."""
    live = mounts()
    live.claim("a", "live", MP3).close()
    mount = live.get("a")
    async with AsyncExitStack() as stack:
        feed = await listened(stack, mount)
        assert not feed.ended
        await eventually(lambda: feed.ended)
    with pytest.raises(SourceNotFound):
        live.get("a")
    assert list(live) == []
    with pytest.raises(SourceNotFound):
        async with mount.heard():
            pass
    live.claim("a", "live", MP3)
    assert live.get("a") is not mount
    live.get("a").end()


@pytest.mark.gen_test
async def test_who_follows_the_news_keeps_the_mount() -> None:
    """So that its followers hear of the source that comes, whenever that is."""
    live = mounts(grace_seconds=0)
    live.claim("a", "live", MP3).close()
    mount = live.get("a")
    mount.news_feed.enter()
    await eventually(lambda: mount._feed is None)
    assert live.get("a") is mount
    assert (mount.media_type, mount.listeners, mount.source) == ("", 0, None)
    before = mount.news_feed.newest
    session = live.claim("a", "live", MP3)
    assert live.get("a") is mount
    assert mount.news_feed.newest > before
    session.close()
    await eventually(lambda: mount._feed is None)
    mount.news_feed.leave()
    with pytest.raises(SourceNotFound):
        live.get("a")


@pytest.mark.gen_test
async def test_mounts_are_bounded() -> None:
    """A further one is refused; those that are over make room."""
    live = mounts(grace_seconds=0)
    sessions = [live.claim(f"a{number}", "live", MP3) for number in range(MOST_MOUNTS)]
    with pytest.raises(SourceBusy):
        live.claim("b", "live", MP3)
    sessions[0].close()
    await eventually(lambda: len(list(live)) == MOST_MOUNTS - 1)
    live.claim("b", "live", MP3)
    for mount in live:
        mount.end()


@pytest.mark.gen_test
async def test_listeners_are_counted() -> None:
    """Who is connected, at every moment."""
    live = mounts()
    live.claim("a", "live", MP3)
    mount = live.get("a")
    async with AsyncExitStack() as stack:
        await listened(stack, mount)
        async with mount.heard(), mount.heard():
            assert mount.listeners == 3
            assert mount.now_playing()["listeners"] == 3
        assert mount.listeners == 1
    assert mount.listeners == 0
    mount.end()


# --- what is playing ---


def news(mount: Mount) -> dict[str, object]:
    """The data of the newest event."""
    (entry,) = mount.news.after(mount.news.newest - 1)
    told: dict[str, object] = json.loads(entry.data)
    assert entry.event == "now-playing"
    return told


@pytest.mark.gen_test
async def test_what_is_playing_is_told_at_each_change() -> None:
    """A title, and who is heard; what stays the same is no news, and a new source begins without a title."""
    live = mounts()
    live.claim("a", "live", MP3)
    mount = live.get("a")
    assert news(mount).items() >= {"name": "a", "title": "", "source": "live", "media_type": MP3}.items()
    mount.play(Playing("One", "http://example.org/"))
    assert news(mount).items() >= {"title": "One", "link": "http://example.org/"}.items()
    newest = mount.news.newest
    mount.play(Playing(" One\n", "http://example.org/"))
    assert mount.news.newest == newest
    assert mount.session is not None
    mount.session.play([Piece(b"a", 1, title="Two")])
    assert (news(mount)["title"], news(mount)["link"]) == ("Two", "")
    mount.session.close()
    assert (news(mount)["title"], news(mount)["source"]) == ("", None)
    live.claim("a", "station", MP3)
    assert (news(mount)["title"], news(mount)["source"]) == ("", "station")
    mount.end()


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("a\r\nb\tc\0d", "a b c d"),
        ("  a   b ", "a b"),
        ("\u202edlrow \ud800x", "dlrow x"),
        ("é" * 1000, "é" * TITLE_CHARACTERS),
        ("", ""),
    ],
)
def test_a_title_is_one_printable_line(title: str, shown: str) -> None:
    """Whatever a stranger sends."""
    assert one_line(title) == shown


# --- ICY ---


class Radio:
    """Takes the blocks out again, as players do: the titles where they stood, and the sound."""

    def __init__(self) -> None:
        self.sound = b""
        self.titles: list[tuple[int, str]] = []

    def take(self, received: bytes) -> None:
        """All that was sent."""
        while len(received) > IcyBlocks.INTERVAL:
            self.sound += received[: IcyBlocks.INTERVAL]
            length = received[IcyBlocks.INTERVAL] * 16
            block = received[IcyBlocks.INTERVAL + 1 : IcyBlocks.INTERVAL + 1 + length]
            assert len(block) == length
            received = received[IcyBlocks.INTERVAL + 1 + length :]
            if length:
                text = block.rstrip(b"\0")
                assert length - len(text) < 16
                self.titles.append((len(self.sound), text.decode()))
        self.sound += received


def a_mount(play: Callable[[int, Mount], None], runs: list[bytes]) -> bytes:
    """The runs with their blocks; `play(number, mount)` is called before each."""
    mount = Mount("a", Ids(), burst_seconds=5, grace_seconds=10)
    own = IcyBlocks(mount)
    sent = []
    for number, run in enumerate(runs):
        play(number, mount)
        sent.append(own(run))
    return b"".join(sent)


@pytest.mark.parametrize("sizes", [[100_000], [1] * 20_000, [15_999, 1, 1, 15_999], [16_000] * 3, [48_000]])
def test_blocks_stand_after_each_interval(sizes: list[int]) -> None:
    """However the bytes come; the first says what plays, and then a zero says that nothing has changed."""
    runs = [random.randbytes(size) for size in sizes]
    sent = a_mount(lambda number, mount: mount.play(Playing("A title")), runs)
    radio = Radio()
    radio.take(sent)
    sound = b"".join(runs)
    blocks = len(sound) // IcyBlocks.INTERVAL
    text = b"StreamTitle='A title';"
    assert len(sent) == len(sound) + blocks + (-(-len(text) // 16) * 16 if blocks else 0)
    assert radio.sound == sound or sent == sound + sent[len(sound) :]
    assert radio.titles in ([], [(IcyBlocks.INTERVAL, text.decode())])


def test_a_title_comes_with_the_next_block() -> None:
    """Each change once, and its address beside it."""

    def play(number: int, mount: Mount) -> None:
        if number in (1, 3):
            mount.play(Playing(f"Title {number}", "http://example.org/" if number == 3 else ""))

    radio = Radio()
    radio.take(a_mount(play, [bytes(16_000)] * 6 + [b"."]))
    assert radio.titles == [
        (16_000, "StreamTitle='';"),
        (32_000, "StreamTitle='Title 1';"),
        (64_000, "StreamTitle='Title 3';StreamUrl='http://example.org/';"),
    ]


@pytest.mark.parametrize(
    "title",
    [
        "It's",
        "'",
        "''",
        "a';b",
        "';StreamUrl='http://evil';",
        "a;b",
        "\u0414\u043e\u0436\u0434\u044c 🎵",
        "🎵" * 5000,
    ],
)
def test_a_hostile_title_stays_one(title: str) -> None:
    """A player reads to the first quote with a semicolon behind it: there is none before the end."""

    def play(number: int, mount: Mount) -> None:
        mount.play(Playing(title, "🎵" * 5000))

    radio = Radio()
    radio.take(a_mount(play, [bytes(16_001)]))
    ((_, block),) = radio.titles
    found = re.match("StreamTitle='(.*?)';StreamUrl='(.*?)';$", block)
    assert found is not None
    assert found[1].replace("' ;", "';") == title[:TITLE_CHARACTERS]
    assert found[2] == "🎵" * TITLE_CHARACTERS


# --- with real streams ---


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libvorbis", "libopus", "flac"])
@pytest.mark.gen_test
async def test_a_late_listener_decodes(codec: str) -> None:
    """Of a source that has sent for long, and of one that has come back, ffmpeg decodes what is left."""
    stream = await asyncio.to_thread(
        lambda: encoded("-c:a", codec, "-metadata", "title=T", "-f", "ogg", "-page_duration", "200000")
    )
    live = mounts(burst_seconds=2)
    session = live.claim("a", "live", OGG)
    for start in range(0, len(stream), 1400):
        session.take(stream[start : start + 1400])
    mount = live.get("a")
    assert mount.playing == Playing("T")
    async with AsyncExitStack() as stack:
        feed = await listened(stack, mount)
        late = heard(feed)
        assert await asyncio.to_thread(decoded, late) == pytest.approx(2, abs=0.5)
        assert len(late) < len(stream)
        session.close()
        back: Session = live.claim("a", "live", OGG)
        back.take(stream)
        back.close()
        assert await asyncio.to_thread(decoded, heard(feed)) == pytest.approx(2, abs=0.5)
    mount.end()
