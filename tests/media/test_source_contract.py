"""Every source that media makes, against every clause of the contract in media/source.py."""

import asyncio
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import charset_normalizer  # noqa: F401, else its first use would count as work
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.pool import Pool

from media import shipped
from media.channel import Ids
from media.cover import cover
from media.decoding import EncodingCache
from media.events import EARLIEST
from media.files import REGION_BYTES, file, loaded
from media.generated import Stream, StreamRequest, generated
from media.live import Mount
from media.pieces import Piece
from media.records import FORMATS, Item, Record
from media.relay import relay
from media.rows import rows
from media.shared import shared
from media.shipped import STREAMS
from media.source import (
    CHUNK_LIMIT,
    RUN_BYTES,
    Body,
    Chunk,
    FileRegion,
    SourceBroken,
    SourceError,
    SourceNotFound,
)
from media.subscriptions import Channels, channel
from media.tail import Followed
from media.tail import file as file_row
from media.templating import template
from media.text import text, text_events
from tests.media.test_cover import png, track
from tests.media.upstreams import another_process

Source = AbstractAsyncContextManager[Body]

LINE = "바람이 불어오는 곳으로 흘러가는 강물 위에 달빛이 비치고 있었다\n"
LINE_LENGTH = len(LINE.encode())


@dataclass
class World:
    """A library, a database, and what the sources of this test have done so far."""

    root: Path
    begun: int = 0
    ended: int = 0

    def __post_init__(self) -> None:
        # Read and compiled as a user's module is, which runs before there is a loop.
        self.page = template("page.html", title="", folder=self.root, rows=self.records)

    @property
    def database(self) -> str:
        return f"sqlite+aiosqlite:///{self.root / 'rows.db'}"

    def items(self, request: StreamRequest) -> AsyncGenerator[Item, None]:
        return self._counted({"n": 1, "text": "바람"})

    def pieces(self, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        return self._counted(b"bytes" * 1000)

    def records(self, request: StreamRequest) -> AsyncGenerator[Record, None]:
        return self._counted({"name": "<바람>"})

    async def _counted(self, item: Any) -> AsyncGenerator[Any, None]:
        self.begun += 1
        try:
            for _ in range(5):
                yield item
                await asyncio.sleep(0)
        finally:
            self.ended += 1


def filled(root: Path) -> Path:
    (root / "track.wav").write_bytes(bytes(range(256)) * 4000)
    (root / "clean").write_text(LINE * 8000, encoding="utf-8")
    (root / "legacy").write_bytes((LINE * 8000).encode("cp949"))
    (root / "short").write_text(LINE * 5, encoding="utf-8")
    (root / "page.html").write_text(
        "<ul>{% for row in rows %}<li>{{ row.name }}{% endfor %}</ul>", encoding="utf-8"
    )
    track(root, png(CHUNK_LIMIT * 2), "song.mp3")
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    (root / "out").symlink_to("/etc/passwd")
    (root / "loop").symlink_to(root / "loop")
    with closing(sqlite3.connect(root / "rows.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((n * 3, "바람") for n in range(5000)))
    return root


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("library"))


@pytest.fixture
def world(library: Path) -> World:
    """Files that nobody changes."""
    return World(library)


@pytest.fixture
def own_world(tmp_path: Path) -> World:
    """Files that the test may change."""
    return World(filled(tmp_path))


# --- the table ---

Make = Callable[[World], Source]

other_server = ""


def opened(stream: Callable[[World], Stream], form: str = "", **args: str) -> Make:
    """A stream, as one request asks for it."""
    return lambda world: stream(world).open(StreamRequest(args, path="/x"), FORMATS.get(form))


def table_of(world: World) -> Stream:
    return rows(world.database, "SELECT id, name FROM t", key="id")


def shipped_rows(world: World) -> Stream:
    return STREAMS["large.csv"]


def a_channel(world: World) -> Stream:
    """What is behind its first event is more than five chunks."""
    channels = Channels({"c": channel(title="")})
    published = channels.get("c")
    assert published is not None
    for _ in range(8):
        published.publish("바람\n".encode() * (RUN_BYTES // 10))
    stream = channels.stream("c")
    assert stream is not None
    return stream


def followed(form: str, **args: str) -> Make:
    """From its first event on."""
    request = StreamRequest(args, last_event_id=EARLIEST)
    return lambda world: a_channel(world).open(request, FORMATS[form])


def all_of_a_run(
    form: str, make: Callable[[World], Stream] = lambda world: shared(world.items), **args: str
) -> Make:
    """Of a shared stream, whose generator is closed with it: by itself it would go on for a while."""

    @asynccontextmanager
    async def opened(world: World) -> AsyncGenerator[Body, None]:
        stream = make(world)
        assert stream.close is not None
        try:
            async with stream.open(StreamRequest(args), FORMATS[form]) as body:
                yield body
        finally:
            await stream.close()

    return opened


@pytest.fixture(scope="module", autouse=True)
def _other_server() -> Iterator[None]:
    """In a process of its own: its descriptors are not ours."""
    global other_server
    with another_process() as other_server:
        asyncio.run(_asked_once())
        yield


async def _asked_once() -> None:
    """What httpx imports at its first use would count as work."""
    async with relay(f"{other_server}/length").open(StreamRequest(), None) as body:
        await some(body, 1)


def relayed(path: str) -> Make:
    """What another server sends."""
    return lambda world: relay(other_server + path).open(StreamRequest(), None)


def live_audio(world: World) -> Source:
    """With all of it as the burst."""
    mount = Mount("m", Ids(), burst_seconds=60, grace_seconds=0)
    session = mount.claim("live", "audio/mpeg")
    for _ in range(8):
        session.play([Piece(bytes(RUN_BYTES), 1)])
    return mount.heard()


def grown(name: str, form: str, lines: int | None = None, last_event_id: str | None = None) -> Make:
    """A text of the library, as it grows."""
    request = StreamRequest(last_event_id=last_event_id)
    return lambda world: Followed(
        world.root, name, request, FORMATS[form], lines=lines, encodings=EncodingCache()
    )


CUTTABLE: dict[str, Make] = {
    "file_row": opened(lambda world: file_row(world.root / "track.wav", "audio/wav")),
    "file": lambda world: file(world.root, "track.wav", "audio/wav"),
    "text": lambda world: text(world.root, "clean", EncodingCache()),
    "cover": lambda world: cover(world.root, "song.mp3"),
}

SOURCES: dict[str, Make] = {
    **CUTTABLE,
    "text_decoded": lambda world: text(world.root, "legacy", EncodingCache()),
    "text_paced": lambda world: text(world.root, "short", EncodingCache(), pace_seconds=0.001),
    "events": lambda world: text_events(world.root, "clean", EncodingCache()),
    "events_decoded": lambda world: text_events(world.root, "legacy", EncodingCache()),
    "events_resumed": lambda world: text_events(world.root, "clean", EncodingCache(), after=LINE_LENGTH),
    "events_decoded_resumed": lambda world: text_events(
        world.root, "legacy", EncodingCache(), after=LINE_LENGTH * 4000
    ),
    "text_tail": lambda world: text(world.root, "clean", EncodingCache(), tail=7999),
    "text_decoded_tail": lambda world: text(world.root, "legacy", EncodingCache(), tail=10),
    "events_tail": lambda world: text_events(world.root, "clean", EncodingCache(), tail=10),
    **{f"followed_{form}": grown("clean", form) for form in ("sse", "ndjson", "text")},
    "followed_decoded": grown("legacy", "text"),
    "followed_tail": grown("clean", "sse", lines=7999),
    "followed_resumed": grown("clean", "sse", last_event_id=str(LINE_LENGTH * 4000)),
    "file_followed": opened(
        lambda world: file_row(world.root / "clean", follow=True), "text", tail="7999"
    ),
    "events_paced": lambda world: text_events(world.root, "short", EncodingCache(), pace_seconds=0.001),
    **{f"generated_{form}": opened(lambda world: generated(world.items, title=""), form) for form in FORMATS},
    "generated_bytes": opened(lambda world: generated(world.pieces, title="", media_type="audio/wav")),
    **{f"rows_{form}": opened(table_of, form) for form in FORMATS},
    "template": opened(lambda world: world.page),
    "lines": opened(lambda world: STREAMS["lines"], "text", sleep="0"),
    "lines_sse": opened(lambda world: STREAMS["lines"], "sse", sleep="0"),
    "hello": opened(lambda world: STREAMS["hello"], name="바람"),
    "clock": opened(lambda world: STREAMS["clock"], "ndjson"),
    **{f"large.csv_{form}": opened(shipped_rows, form, rows="4100") for form in FORMATS},
    **{f"channel_{form}": followed(form) for form in ("sse", "ndjson", "text")},
    "channel_poll": followed("json", wait="60"),
    **{f"shared_{form}": all_of_a_run(form) for form in ("sse", "ndjson", "text")},
    "shared_poll": all_of_a_run("json", wait="60"),
    "live_audio": live_audio,
    "large.html": opened(lambda world: STREAMS["large.html"], rows="2100"),
    "relay_shared": all_of_a_run("sse", lambda world: relay(f"{other_server}/events", shared=True)),
    **{f"relay_{framing}": relayed(f"/{framing}") for framing in ("length", "chunks", "close", "events")},
}  # fmt: skip

every_source = pytest.mark.parametrize("name", SOURCES)
every_cuttable = pytest.mark.parametrize("name", CUTTABLE)


def test_every_shipped_stream_is_in_the_table() -> None:
    """A new one comes here first."""
    assert {name for name in STREAMS if any(source.startswith(name) for source in SOURCES)} == set(STREAMS)


# --- what is watched ---


class Watch:
    """What the process holds, and what it has done meanwhile that reaches outside."""

    def __init__(self) -> None:
        self.outside: list[str] = []
        self.connections = 0
        self.watching = False

    def audit(self, name: str, args: tuple[object, ...]) -> None:
        if self.watching and name in (
            "open",
            "sqlite3.connect",
            "socket.connect",
            "subprocess.Popen",
            "os.listdir",
        ):
            self.outside.append(f"{name} {args[0]!r}")

    def connected(self, *args: object) -> None:
        self.connections += 1

    def disconnected(self, *args: object) -> None:
        self.connections -= 1

    def held(self) -> tuple[Counter[str], int]:
        """Descriptors by what they lead to, and open connections."""
        links: Counter[str] = Counter()
        self.watching = False
        for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208
            try:
                links[os.readlink(f"/proc/self/fd/{descriptor}")] += 1  # noqa: PTH115
            except OSError:  # the descriptor of this listing itself
                continue
        self.watching = True
        return links, self.connections


@cache
def the_watch() -> Watch:
    """One for the process: an audit hook cannot be taken back."""
    watch = Watch()
    sys.addaudithook(watch.audit)
    return watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = the_watch()
    watch.outside, watch.connections, watch.watching = [], 0, True
    event.listen(Pool, "connect", watch.connected)
    event.listen(Pool, "close", watch.disconnected)
    yield watch
    event.remove(Pool, "connect", watch.connected)
    event.remove(Pool, "close", watch.disconnected)
    watch.watching = False


@asynccontextmanager
async def nothing_left(watch: Watch, world: World) -> AsyncIterator[None]:
    """Descriptors, connections and tasks are at the end what they were; what began has ended."""
    threads = ThreadPoolExecutor()
    asyncio.get_running_loop().set_default_executor(threads)
    before, tasks = watch.held(), asyncio.all_tasks()
    yield
    assert watch.connections == before[1]
    assert asyncio.all_tasks() == tasks
    assert world.begun == world.ended
    # Who is cancelled while a thread reads leaves it to the thread to close what is its own.
    threads.shutdown(wait=True)
    assert watch.held() == before
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())


def content(chunk: Chunk) -> bytes:
    """What a chunk stands for."""
    if isinstance(chunk, FileRegion):
        return os.pread(chunk.descriptor, len(chunk), chunk.start)
    return bytes(chunk)


async def some(body: Body, most: int = 10**9) -> list[bytes]:
    """The first chunks; of an endless body at most five."""
    received = []
    async with aclosing(body.chunks()) as chunks:
        if most:
            async for chunk in chunks:
                received.append(content(chunk))
                if len(received) >= (min(most, 5) if body.facts.live else most):
                    break
    return received


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that pass in a moment: `clock` sleeps by this."""

    class Time:
        monotonic = staticmethod(shipped.time.monotonic)

        @staticmethod
        def time() -> float:
            return 5.949  # a sleep of 1.05 s less 0.999 s

    monkeypatch.setattr(shipped, "time", Time)


pytestmark = pytest.mark.usefixtures("quick_clock")


# --- 1: making does no I/O ---


@every_source
@pytest.mark.gen_test
async def test_making_a_source_does_nothing(name: str, world: World, watch: Watch) -> None:
    """And one that is never entered has nothing to close."""
    async with nothing_left(watch, world):
        watch.outside.clear()
        source = SOURCES[name](world)
        assert watch.outside == []
        del source
    assert world.begun == 0


# --- 2: entering acquires no more than is needed ---


@every_source
@pytest.mark.gen_test
async def test_entering_starts_no_work(name: str, world: World, watch: Watch) -> None:
    """At most one descriptor is held; no query, no generator, no connection begins."""
    async with nothing_left(watch, world):
        before, _ = watch.held()
        watch.outside.clear()
        async with SOURCES[name](world) as body:
            held, connections = watch.held()
            assert (held - before).total() <= 1
            assert connections == 0
            # Another server is asked: how else would its headers be known.
            allowed = ("open ", "socket.connect ") if body.passed else ("open ",)
            assert not [done for done in watch.outside if not done.startswith(allowed)]
            assert world.begun == 0
            assert "/" in body.facts.media_type
    assert world.begun == 0


@every_source
@pytest.mark.gen_test
async def test_asking_for_the_chunks_starts_no_work(name: str, world: World, watch: Watch) -> None:
    """The first of them does."""
    async with nothing_left(watch, world), SOURCES[name](world) as body:
        before = watch.held()
        watch.outside.clear()
        chunks = body.chunks()
        assert (watch.held(), watch.outside, world.begun) == (before, [], 0)
        await chunks.aclose()


# --- 3: chunks ---

ENDS = {"text": b"\n", "ndjson": b"\n", "sse": b"\n\n", "csv": b"\r\n"}


@every_source
@pytest.mark.gen_test(timeout=20)
async def test_chunks_are_bounded_and_end_where_a_heartbeat_may_stand(name: str, world: World) -> None:
    """Never empty; a text never ends inside a code point, records and events never inside one."""
    async with SOURCES[name](world) as body:
        chunks = await some(body)
        media_type, heartbeat = body.facts.media_type, body.facts.heartbeat
    assert chunks
    assert all(0 < len(chunk) <= REGION_BYTES for chunk in chunks)
    if media_type.startswith(("text/", "application/")):
        assert all(isinstance(chunk.decode("utf-8"), str) for chunk in chunks)
    for form, end in ENDS.items():
        if media_type == FORMATS[form].media_type and (heartbeat or form == "csv"):
            assert all(chunk.endswith(end) for chunk in chunks)


# --- 4 and 8: leaving, on every path ---


@every_source
@pytest.mark.gen_test(timeout=20)
async def test_finished(name: str, world: World, watch: Watch) -> None:
    """All of it, or five chunks of what is endless."""
    async with nothing_left(watch, world), SOURCES[name](world) as body:
        await some(body)


@every_source
@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.gen_test
async def test_broken_off(name: str, after: int, world: World, watch: Watch) -> None:
    """Before the first chunk, behind it, in the middle."""
    async with nothing_left(watch, world), SOURCES[name](world) as body:
        await some(body, after)


@every_source
@pytest.mark.gen_test
async def test_never_iterated(name: str, world: World, watch: Watch) -> None:
    """As for HEAD and 304."""
    async with nothing_left(watch, world), SOURCES[name](world):
        pass


class Failure(Exception):
    """Of whoever reads the source."""


@every_source
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.gen_test
async def test_its_reader_fails(name: str, after: int, world: World, watch: Watch) -> None:
    """The failure passes through as it is."""
    async with nothing_left(watch, world):
        with pytest.raises(Failure):  # noqa: PT012, whatever raises it
            async with SOURCES[name](world) as body:
                await some(body, after)
                raise Failure


async def cancelled_after(turns: int, source: Source) -> None:
    """Read to the end, cancelled when the loop has turned so often."""
    task = asyncio.current_task()
    assert task is not None

    def cancel(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(cancel, turns - 1)
        else:
            task.cancel()

    asyncio.get_running_loop().call_soon(cancel, turns)
    async with source as body, aclosing(loaded(body.chunks())) as chunks:
        async for _ in chunks:
            await asyncio.sleep(0)
    await asyncio.sleep(60)  # it was so short that it ended first


@every_source
@pytest.mark.parametrize("turns", [0, 1, 2, 5, 40])
@pytest.mark.gen_test
async def test_cancelled_while_waiting(name: str, turns: int, world: World, watch: Watch) -> None:
    """While entering, before the first chunk, for a thread, between two chunks: it passes through at once."""
    async with nothing_left(watch, world):
        task = asyncio.create_task(cancelled_after(turns, SOURCES[name](world)))
        _, late = await asyncio.wait({task}, timeout=2)
        assert not late
        assert task.cancelled()


class Border:
    """The border to the system: every descriptor that is opened, and every one that is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[int] = []
        self.closed: list[int] = []
        self._open, self._dup, self._close = os.open, os.dup, os.close
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "dup", self.dup)
        monkeypatch.setattr(os, "close", self.close)

    def open(self, *args: object, **options: object) -> int:
        self.opened.append(self._open(*args, **options))  # type: ignore[arg-type]
        return self.opened[-1]

    def dup(self, descriptor: int) -> int:
        self.opened.append(self._dup(descriptor))
        return self.opened[-1]

    def close(self, descriptor: int) -> None:
        self.closed.append(descriptor)
        self._close(descriptor)


@pytest.mark.parametrize("name", ["file", "text", "text_decoded", "events", "events_decoded", "cover"])
@pytest.mark.parametrize("after", [0, 1, 1000])
@pytest.mark.gen_test
async def test_each_descriptor_is_closed_exactly_once(
    name: str, after: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second time it may be another's."""
    source = SOURCES[name](world)
    border = Border(monkeypatch)
    async with source as body:
        await some(body, after)
    assert border.opened
    assert sorted(border.opened) == sorted(border.closed)


# --- 5: the length adds up ---


@every_source
@pytest.mark.gen_test(timeout=20)
async def test_the_length_adds_up(name: str, world: World) -> None:
    """Where it is known."""
    async with SOURCES[name](world) as body:
        length = body.facts.length
        if length is not None:
            assert sum(map(len, await some(body))) == length
        assert (body.slice is not None) == (name in CUTTABLE)
        assert (length is not None) == (name in CUTTABLE or name == "relay_length")


@pytest.mark.parametrize("name", ["file", "text", "text_decoded", "events", "events_decoded"])
@pytest.mark.parametrize("left", [0, 1, 300_000])
@pytest.mark.gen_test
async def test_a_file_cut_short_is_broken(name: str, left: int, own_world: World, watch: Watch) -> None:
    """While it is read. Nothing that looks like a whole body comes."""
    world = own_world
    path = world.root / {"file": "track.wav", "text": "clean", "events": "clean"}.get(name, "legacy")
    async with nothing_left(watch, world), SOURCES[name](world) as body:
        received = []
        with pytest.raises(SourceBroken):  # noqa: PT012, where it raises is the point
            async with aclosing(loaded(body.chunks())) as chunks:
                async for chunk in chunks:
                    os.truncate(path, left)
                    received.append(bytes(chunk))
        assert not any(b"event: end" in chunk for chunk in received)


# --- 6: slices ---


@pytest.fixture(scope="module")
def wholes(library: Path) -> dict[str, bytes]:
    async def read(name: str) -> bytes:
        async with CUTTABLE[name](World(library)) as body:
            return b"".join(await some(body))

    return {name: asyncio.run(read(name)) for name in CUTTABLE}


@pytest.mark.slow
@every_cuttable
@given(data=st.data())
def test_a_slice_is_what_the_whole_has_there(
    name: str, data: st.DataObject, library: Path, wholes: dict[str, bytes]
) -> None:
    """Any two of them, one after the other, of one entered source."""
    world, whole = World(library), wholes[name]
    places = st.integers(0, len(whole)) | st.sampled_from(
        [0, 1, len(whole) - 1, len(whole), 262_144, 262_145]
    )
    ranges = [sorted((data.draw(places), data.draw(places))) for _ in range(2)]

    async def read() -> None:
        async with CUTTABLE[name](world) as body:
            assert body.slice is not None
            for start, stop in ranges:
                chunks = [bytes(chunk) async for chunk in loaded(body.slice(start, stop))]
                assert all(0 < len(chunk) <= CHUNK_LIMIT for chunk in chunks)
                assert b"".join(chunks) == whole[start:stop]

    asyncio.run(read())


# --- 7: only SourceErrors, and only for what is outside ---


@pytest.mark.parametrize("path", ["/short", "/reset", "/no_last_chunk", "/nobody"])
@pytest.mark.gen_test
async def test_a_broken_server_breaks_the_body(path: str, world: World, watch: Watch) -> None:
    """On entering or later; nothing stays open."""
    async with nothing_left(watch, world):
        with pytest.raises(SourceBroken):
            async with relayed(path)(world) as body:
                await some(body)


NAMES = ["missing", "folder", "fifo", "out", ".hidden", "clean/x", "a\0b", "../clean", "x" * 300, "loop"]

BY_NAME: dict[str, Callable[[Path, str], Source]] = {
    "file": lambda root, name: file(root, name, "audio/wav"),
    "text": lambda root, name: text(root, name, EncodingCache()),
    "text_paced": lambda root, name: text(root, name, EncodingCache(), pace_seconds=1),
    "events": lambda root, name: text_events(root, name, EncodingCache()),
    "cover": cover,
}


@pytest.mark.parametrize("kind", BY_NAME)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:10])
@pytest.mark.gen_test
async def test_what_is_no_file_of_the_library_is_not_found(
    kind: str, name: str, world: World, watch: Watch
) -> None:
    """On entering; nothing blocks, nothing stays open."""
    async with nothing_left(watch, world):
        with pytest.raises(SourceNotFound):
            async with BY_NAME[kind](world.root, name):
                pass


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith(("rows", "large"))])
@pytest.mark.gen_test
async def test_a_broken_database_breaks_the_body(
    name: str, own_world: World, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on entering: so a HEAD costs nothing. What came before is not made a whole body."""
    world = own_world
    if name.startswith("rows"):
        (world.root / "rows.db").write_bytes(b"no database" * 1000)
    else:
        monkeypatch.setattr(shipped._ORDERS._database._engine.dialect, "connect", refused)
    async with nothing_left(watch, world), SOURCES[name](world) as body:
        with pytest.raises(SourceBroken):
            await some(body)


def refused(*args: object, **options: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("error", [ValueError, OSError, SourceBroken, SourceError])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_a_failing_generator_fails_as_it_did(
    form: str, error: type[Exception], world: World, watch: Watch
) -> None:
    """A bug stays a bug, a source's error that source's."""

    async def failing(request: StreamRequest) -> AsyncGenerator[Item, None]:
        async with aclosing(world.items(request)) as items:
            async for item in items:
                yield item
                raise error("it failed")

    stream = generated(failing, title="")
    async with nothing_left(watch, world), stream.open(StreamRequest(), FORMATS[form]) as body:
        with pytest.raises(error, match="it failed"):
            await some(body)


@every_source
@pytest.mark.gen_test
async def test_it_can_be_entered_once(name: str, world: World, watch: Watch) -> None:
    """A second time is a bug of the program."""
    async with nothing_left(watch, world):
        source = SOURCES[name](world)
        async with source:
            pass
        with pytest.raises((RuntimeError, AttributeError)):
            async with source:
                pass
