"""Mounts: who is heard, what becomes of their listeners, and what is told of them."""

import asyncio
import json
import tracemalloc
from contextlib import AsyncExitStack

import pytest

from media.channel import Ids
from media.live import (
    AHEAD_SECONDS,
    MOST_BYTES_PER_SECOND,
    MOST_MOUNTS,
    NEWS_BYTES,
    Mount,
    MountBusy,
    Mounts,
    Playing,
    Preempted,
    Session,
    one_line,
)
from media.pieces import TITLE_CHARACTERS, FormatError, Piece
from media.source import Body, SourceBusy, SourceNotFound
from media.stretches import STRETCH_BYTES, STRETCH_SECONDS, AudioFeed
from tests.media.live_audio import decoded, encoded, received
from tests.serving import eventually

MP3, OGG, WEBM = "audio/mpeg", "audio/ogg", "audio/webm"


def frame(number: int, seconds: float = 0.5, head: bytes | None = b"") -> Piece:
    """A piece that is a stretch by itself, if it plays as long as that."""
    return Piece(b"<%d>" % number, seconds, head)


def frames(start: int, stop: int, seconds: float = 0.5) -> list[Piece]:
    """Those of these numbers."""
    return [frame(number, seconds) for number in range(start, stop)]


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


# --- a source ---


@pytest.mark.gen_test
async def test_frames_become_stretches() -> None:
    """Half a second is a stretch, and what is left of one comes with the next or at the end."""
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
        assert received(feed, (0,)) == b"".join(b"<%d>" % number for number in range(11))
    mount.end()


@pytest.mark.gen_test
async def test_headers_are_a_stretch_of_their_own() -> None:
    """So that one can begin at the very first sound, and hears no header twice."""
    mount = Mount("a", Ids(), burst_seconds=60, grace_seconds=10)
    session = mount.claim("live", OGG)
    session.play([frame(0, 0, None), frame(1, 0, None), frame(2, 0.1, b"H"), frame(3, 0.1, b"H")])
    session.close()
    async with AsyncExitStack() as stack:
        assert received(await listened(stack, mount)) == b"H<2><3>"
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
    """A type that has no parser claims nothing; another format than was said raises, and holds nobody."""
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
    assert feed.ended
    assert list(live) == []


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
    first.play(frames(0, 1))
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
        assert received(feed, (0,)) == b"<0><2><3>"
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
        assert received(feed, (0,)) == (b"<0><1>" if same else b"<0>")
        assert received(await listened(stack, mount)) == (b"<0><1>" if same else b"<1>")
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
async def test_who_waits_for_a_source_to_begin_hears_it() -> None:
    """ffmpeg's WebM is silent for its first five seconds: who listens by then gets all of it."""
    live = mounts(grace_seconds=60)
    async with AsyncExitStack() as stack:
        live.claim("a", "live", WEBM).close()  # without a byte
        session = live.claim("a", "live", WEBM)
        feed = await listened(stack, live.get("a"))
        session.play([frame(0, 1, None)])
        assert not feed.ended
        assert received(feed, (0,)) == b"<0>"
    live.get("a").end()


@pytest.mark.gen_test
async def test_what_is_kept_of_a_mounts_news_is_bounded() -> None:
    """A station says a title every few minutes, for months; 10,000 of them were 40 MB."""
    live = mounts()
    session = live.claim("a", "live", MP3)
    mount = live.get("a")
    tracemalloc.start()
    try:
        for number in range(10_000):
            mount.play(Playing(f"title {number}"))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 3 * NEWS_BYTES
    session.close()
    mount.end()


@pytest.mark.gen_test
async def test_listeners_are_held_and_then_ended() -> None:
    """For the grace time; the mount is forgotten then, and another of its name is a new one."""
    live = mounts()
    session = live.claim("a", "live", MP3)
    session.play(frames(0, 1))
    session.close()
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
    session = live.claim("a", "live", MP3)
    mount = live.get("a")
    mount.news_feed.enter()
    session.close()
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
        late = received(feed)
        assert await asyncio.to_thread(decoded, late) == pytest.approx(2, abs=0.5)
        assert len(late) < len(stream)
        session.close()
        back: Session = live.claim("a", "live", OGG)
        back.take(stream)
        back.close()
        assert await asyncio.to_thread(decoded, received(feed)) == pytest.approx(2, abs=0.5)
    mount.end()
