"""A client of a file that grows: where it begins, what it gets of the disk, how it comes back."""

import asyncio
import itertools
import os
import random
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from media import files, window
from media import tail as module
from media.decoding import EncodingCache
from media.generated import Stream, StreamRequest
from media.records import FORMATS
from media.source import BadParameter, FellBehind, SourceNotFound
from media.tail import Followed, file, tail_lines
from tests.media.following import append, content, delete, following, move, numbered, read_of, rewrite
from tests.serving import eventually


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Longer than what is read of a file at first."""
    path = tmp_path / "log"
    path.write_text(numbered(0, 20_000))
    return path


@pytest.mark.parametrize(("lines", "first"), [
    (None, 0), (0, 20_000), (1, 19_999), (10, 19_990), (5000, 15_000), (19_999, 1), (20_000, 0), (10**9, 0),
])  # fmt: skip
@pytest.mark.gen_test
async def test_where_a_client_begins(log: Path, lines: int | None, first: int) -> None:
    """So many whole lines before the end; what is begun comes when it ends."""
    append(log, "020000")
    async with following(log, lines=lines) as client, following(log, lines=lines, form="text") as other:
        await eventually(lambda: client.joined and other.joined)
        append(log, " line\n" + numbered(20_001, 20_003))
        await client.until("020002 line\n\n")
        await other.until("020002 line\n")
        assert client.numbers == list(range(first, 20_003))
        assert other.received.decode() == numbered(first, 20_003)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_history_and_news_meet(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without loss or doubling, while the file grows faster than what is kept of it."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 100_000)
    monkeypatch.setattr(window, "AHEAD_BYTES", 50_000)
    async with AsyncExitStack() as stack:
        clients = []
        for at in range(20_000, 40_000, 2_000):
            clients.append(await stack.enter_async_context(following(log)))
            append(log, numbered(at, at + 2_000))
            await asyncio.sleep(0)
        done = []
        for client in clients:
            await eventually(lambda: client.error or client.received.endswith(b"039999 line\n\n"), 20)  # noqa: B023
            assert client.error is None or isinstance(client.error, FellBehind)
            done += [client] if client.error is None else []
            assert client.numbers == list(range(len(client.numbers)))
        assert done


@pytest.mark.gen_test
async def test_what_the_page_cache_has_in_part(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that gives less than was asked for is not the end of the file, nor is the file another."""
    read = files.read_once

    async def in_part(descriptor: int, start: int, length: int) -> memoryview:
        return await read(descriptor, start, min(length, 50 if start % 3 else 10_000))

    monkeypatch.setattr(files, "read_once", in_part)
    async with following(log) as client, following(log, lines=15_000) as other:
        await client.until("019999 line\n\n")
        await other.until("019999 line\n\n")
        append(log, numbered(20_000, 20_100))
        await client.until("020099 line\n\n")
        await other.until("020099 line\n\n")
        assert client.numbers == list(range(20_100))
        assert other.numbers == list(range(5_000, 20_100))
        assert b"rotated" not in client.received
        last_id = client.events[-1].id
    async with following(log, last_id) as again:
        append(log, "end\n")
        await again.until("end")
        assert again.lines == ["end"]


@pytest.mark.gen_test
async def test_many_follow_what_is_read_once(log: Path) -> None:
    """Each of 200 sees each line once; those who begin near the end do not read at all."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(following(log, lines=10)) for _ in range(200)]
        for client in clients:
            await client.until("019999 line\n\n")
        for at in range(20_000, 21_000, 100):
            append(log, numbered(at, at + 100))
            await asyncio.sleep(0.005)
        for client in clients:
            await client.until("020999 line\n\n")
            assert client.numbers == list(range(19_990, 21_000))
        assert read_of(log).read_bytes < 64 * 1024 + 20_000


@pytest.mark.slow
@pytest.mark.gen_test
async def test_resumed_behind_an_id(log: Path) -> None:
    """Cut off at 20 places, in the middle of an event, too; every line once."""
    pick, seen, last_id = random.Random(5), [], None
    written = itertools.count(20_000)
    for _ in range(20):
        async with following(log, last_id) as client:
            most = pick.randrange(1, 100_000)
            number = next(written)
            append(log, numbered(number, number + 1))
            await eventually(lambda: len(client.received) > most or f"{number:06d}" in str(client.received))  # noqa: B023
            whole = client.received[:most].rpartition(b"\n\n")
        client.received = bytearray(whole[0] + whole[1])
        assert all(event.event == "message" for event in client.events)
        seen += client.numbers
        last_id = client.events[-1].id if client.lines else last_id
    async with following(log, last_id) as client:
        last = next(written)
        append(log, numbered(last, last + 1))
        await client.until(f"{last:06d} line\n\n")
        seen += client.numbers
    assert seen == list(range(last + 1))


async def last_id_of(path: Path) -> str:
    async with following(path, lines=1) as client:
        await eventually(lambda: client.lines)
        return client.events[-1].id


@pytest.mark.parametrize("change", ["replaced", "cut", "longer", "beyond"])
@pytest.mark.gen_test
async def test_resumed_in_another_file(log: Path, change: str) -> None:
    """It begins at its beginning, and the client is told that it is another."""
    last_id = await last_id_of(log)
    if change == "replaced":
        rewrite(log, content(move(log)))
    elif change == "cut":
        rewrite(log, numbered(0, 5))
    elif change == "longer":
        rewrite(log, "x" + numbered(0, 30_000))
    else:
        last_id = str(len(content(log)) + 1)
    expected = content(log).splitlines()
    async with following(log, last_id) as client:
        await eventually(lambda: len(client.lines) == len(expected))
        assert client.lines == expected
        [first, *rest] = client.events
        assert (first.event, first.data) == (
            "rotated", f'{{"cause":"unknown","last_event_id":"{last_id}"}}',
        )  # fmt: skip
        assert all(event.event == "message" for event in rest)


@pytest.mark.gen_test
async def test_resumed_in_the_file_before(log: Path) -> None:
    """Where somebody else follows, the rest of it is still there: nothing is lost."""
    async with following(log, lines=1) as other:
        await eventually(lambda: other.lines)
        last_id = other.events[-1].id
        append(log, "rest\n")
        await other.until("rest")
        move(log)
        append(log, "new\n")
        await other.until("new")
        async with following(log, last_id) as client:
            await client.until("new")
            assert [(event.event, event.data) for event in client.events] == [
                ("message", "rest"), ("rotated", '{"cause":"replaced"}'), ("message", "new"),
            ]  # fmt: skip


@pytest.mark.gen_test
async def test_resumed_in_a_file_that_has_gone(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none in its place yet: the rest of it comes at once, where somebody else follows."""
    monkeypatch.setattr("media.growing.GONE_SECONDS", 0.0)
    monkeypatch.setattr("media.growing.POLL_SECONDS", 0.02)
    async with following(log, lines=1) as other:
        await eventually(lambda: other.lines)
        last_id = other.events[-1].id
        append(log, "rest\n")
        await other.until("rest")
        growing = read_of(log)
        delete(log)
        await eventually(lambda: growing.file is None)
        async with following(log, last_id) as client:
            await client.until("rest")
            append(log, "new\n")
            await client.until("new")
            assert [(event.event, event.data) for event in client.events] == [
                ("message", "rest"), ("rotated", '{"cause":"replaced"}'), ("message", "new"),
            ]  # fmt: skip


@pytest.mark.gen_test
async def test_a_plain_number_is_a_place_in_the_file(log: Path) -> None:
    """As the events of a file that is not followed have it; in a line, too, or in one that is not ended."""
    length = len(content(log))
    for last_id, line in (
        (str(length - 12), "019999 line"),
        (str(length - 4), "ine"),
        (str(length), "020000 line"),
    ):
        async with following(log, last_id) as client:
            append(log, numbered(20_000, 20_001))
            await client.until("020000 line\n\n")
            assert client.lines[0] == line
        os.truncate(log, length)
    append(log, "begun")
    async with following(log, str(length + 2)) as client:
        await asyncio.sleep(0.02)
        append(log, "!\n")
        await client.until("gun!")
        assert client.lines == ["gun!"]


async def begun(log: Path, form: str) -> AsyncGenerator[bytes, None]:
    """What a client is sent who reads when it is asked to, from the beginning on."""
    source = Followed(None, str(log), StreamRequest(), FORMATS[form], lines=None, encoding="utf-8")
    async with source as body, aclosing(body.chunks()) as chunks:
        async for chunk in chunks:
            yield bytes(chunk)  # type: ignore[arg-type]


@pytest.mark.parametrize("unfinished", ["", "020000"])
@pytest.mark.parametrize("form", ["sse", "text"])
@pytest.mark.gen_test
async def test_a_client_in_a_file_that_is_left_reads_it_to_its_end(
    log: Path, monkeypatch: pytest.MonkeyPatch, form: str, unfinished: str
) -> None:
    """Although others are in the next one by then, and nothing of it is kept."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 1500)  # some short blocks
    append(log, unfinished)
    async with aclosing(begun(log, form)) as client:
        received = await anext(client) + await anext(client)
        async with following(log, lines=0) as other:
            await eventually(lambda: other.joined)
            move(log)
            for name in ("a", "b", "c"):
                append(log, f"00000{name}\n")
                await other.until(f"00000{name}")
            while b"00000c" not in received:
                received += await anext(client)
    lines = re.findall("data: (.*)" if form == "sse" else "(.+)", received.decode())
    rotated = ['{"cause":"replaced"}'] if form == "sse" else []
    before = (numbered(0, 20_000) + unfinished).splitlines()
    assert [line for line in lines if "retry" not in line] == [
        *before, *rotated, "00000a", "00000b", "00000c",
    ]  # fmt: skip


@pytest.mark.gen_test
async def test_a_client_at_the_end_of_a_file_that_is_left(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing but the news of the next one is kept, it gets that as all do."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 1)
    async with aclosing(begun(log, "text")) as client:
        received = await anext(client)
        async with following(log, lines=0) as other:
            await eventually(lambda: other.joined)
            move(log)
            append(log, "begun")
            await other.until("rotated")
            while b"019999 line\n" not in received:
                received += await anext(client)
            append(log, "!\n")
            while b"begun!" not in received:
                received += await anext(client)
    assert received.decode() == numbered(0, 20_000) + "begun!\n"


@pytest.mark.gen_test
async def test_a_client_in_a_file_that_is_cut_goes_on_with_what_is_kept(log: Path) -> None:
    """What was cut away before it was read is lost, and that is said."""
    append(log, numbered(20_000, 100_000))
    async with aclosing(begun(log, "sse")) as client:
        received = b""
        while b"000001" not in received:
            received += await anext(client)
        rewrite(log, "anew\n")
        while b"anew" not in received:
            received += await anext(client)
    lines = re.findall("data: (.*)", received.decode())
    lost = lines.index('{"cause":"truncated"}')
    assert [int(line[:6]) for line in lines[:lost]] == list(range(lost))
    assert lost < 90_000
    kept = [int(line[:6]) for line in lines[lost + 1 : -2]]
    assert kept == list(range(100_000 - len(kept), 100_000))
    assert len(kept) > 5000
    assert lines[-2:] == ['{"cause":"truncated"}', "anew"]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "count", "last"), [
    ("text", 1_000_000, b"999999\n"), ("sse", 100_000, b"data: 99999\n\n"),
])  # fmt: skip
@pytest.mark.gen_test(timeout=60)
async def test_a_million_short_lines(tmp_path: Path, form: str, count: int, last: bytes) -> None:
    """Written at once, and read in time; what is kept of them is bounded."""
    log = tmp_path / "log"
    rewrite(log, "")
    async with following(log, lines=0, form=form) as client:
        await eventually(lambda: client.joined)
        append(log, "".join(f"{number}\n" for number in range(count)))
        await eventually(lambda: client.received.endswith(last), 40)
        assert client.received.count(b"data: " if form == "sse" else b"\n") == count
        kept = read_of(log).window
        assert kept.blocks[-1].total - kept.blocks[0].total <= window.WINDOW_BYTES


@pytest.mark.gen_test
async def test_who_is_slower_than_others_by_the_window_falls_behind(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it never is: nothing is read ahead of it."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 300_000)
    monkeypatch.setattr(window, "AHEAD_BYTES", 100_000)
    request = StreamRequest()
    async with Followed(None, str(log), request, FORMATS["text"], lines=0, encoding="utf-8") as body:
        chunks = body.chunks()
        append(log, numbered(20_000, 20_001))
        received = bytes(await anext(chunks))  # type: ignore[arg-type]
        append(log, numbered(20_001, 70_000))
        while not received.endswith(b"069999 line\n"):
            received += bytes(await anext(chunks))  # type: ignore[arg-type]
        async with following(log, lines=0) as other:
            await asyncio.sleep(0.05)
            append(log, numbered(70_000, 99_000))
            await other.until("098999 line\n\n")
            with pytest.raises(FellBehind):
                await anext(chunks)
    assert received.decode().endswith(numbered(20_001, 70_000))


# --- rows and parameters ---


@pytest.fixture
def row(log: Path) -> Stream:
    """Made before there is a loop, as in a user's module."""
    return file(log)


@pytest.mark.gen_test
async def test_a_row_of_a_whole_file(log: Path, row: Stream) -> None:
    """As a track: its length, its tag, and slices of it."""
    assert (row.title, row.media_types, row.live) == ("log", ["application/octet-stream"], False)
    async with row.open(StreamRequest(), None) as body:
        assert body.facts.length == len(content(log))
        assert body.slice is not None
    delete(log)
    with pytest.raises(SourceNotFound):
        async with row.open(StreamRequest(), None):
            pass


def test_the_media_type_of_a_row() -> None:
    """As the name ends, or as it is said."""
    assert file("song.mp3").media_types == ["audio/mpeg"]
    assert file("x", "text/x", title="Mine").media_types == ["text/x"]


@pytest.mark.gen_test
async def test_a_row_of_a_file_that_is_followed(log: Path) -> None:
    """The last ten lines, as `tail` has it, or as many as are asked for."""
    row = file(str(log), follow=True, title="The log")
    assert (row.title, row.live) == ("The log", True)
    assert row.media_types[0].startswith("text/plain")
    for args, lines in (({}, 10), ({"tail": "3"}, 3)):
        async with row.open(StreamRequest(args), FORMATS["text"]) as body:
            chunks, received = body.chunks(), b""
            while received.count(b"\n") < lines:
                received += bytes(await anext(chunks))  # type: ignore[arg-type]
            assert received.decode() == numbered(20_000 - lines, 20_000)
            await chunks.aclose()
    with pytest.raises(BadParameter):
        file(log, follow=True, encoding="utf-16")


@pytest.mark.parametrize("text", ["", "-1", "x", "1000000001", "1.5"])
def test_tail_is_a_number_of_lines(text: str) -> None:
    """What is malformed is named."""
    with pytest.raises(BadParameter, match="tail"):
        tail_lines({"tail": text}, 10)


@pytest.mark.gen_test
async def test_a_text_is_examined_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it has become; a client's own idea of it is its own."""
    log = tmp_path / "log"
    rewrite(log, "바람이 불어오는 곳으로 흘러가는 강물 위에\n".encode("cp949") * 50)
    examined, encodings = [], EncodingCache()
    find = module.encoding_of

    async def counted(*args: object) -> object:
        examined.append(args)
        return await find(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encoding_of", counted)

    def asked(encoding: str = "") -> Followed:
        request = StreamRequest()
        return Followed(
            tmp_path, "log", request, FORMATS["text"], lines=1, encoding=encoding, encodings=encodings
        )  # fmt: skip

    async with asked() as first:
        assert "바람이" in bytes(await anext(first.chunks())).decode()  # type: ignore[arg-type]
        append(log, b"more\n")
        async with asked():
            pass
        assert len(examined) == 1
        async with asked("cp1252") as other:
            assert other.following is not None
            assert first.following is not None
            assert other.following.feed is not first.following.feed
        with pytest.raises(BadParameter):
            async with asked("utf-16"):
                pass
    source = asked()
    async with source:
        pass
    with pytest.raises(RuntimeError):
        async with source:
            pass
