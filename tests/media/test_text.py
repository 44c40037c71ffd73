"""A text of the library: as it is, as UTF-8, line by line, or as events."""

import asyncio
import codecs
import json
import tempfile
import time
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import text as text_module
from media.decoding import EncodingCache
from media.files import READ_BYTES, loaded
from media.source import CHUNK_LIMIT, BadParameter, Body, SourceEnded, SourceNotFound
from media.text import EVENTS, PLAIN, text, text_events
from tests.media.test_records import Seen, events_of

LYRIC = "바람이 불어오는 곳\nwhere the wind comes from 🎵\n\n그곳으로 가네\n"
KOREAN = "바람이 불어오는 곳으로 흘러가는 강물 위에 달빛이 비치고 있었다\n" * 40

Source = AbstractAsyncContextManager[Body]


def written(folder: Path, content: bytes, name: str = "lyric") -> Path:
    (folder / name).write_bytes(content)
    return folder


async def whole(source: Source) -> bytes:
    async with source as body:
        chunks = [bytes(chunk) async for chunk in loaded(body.chunks())]
    assert all(0 < len(chunk) <= CHUNK_LIMIT for chunk in chunks)
    assert all(isinstance(chunk.decode("utf-8"), str) for chunk in chunks)
    return b"".join(chunks)


async def events(folder: Path, *, after: int | None = None, encoding: str = "") -> list[Seen]:
    return events_of(
        await whole(text_events(folder, "lyric", EncodingCache(), after=after, encoding=encoding))
    )


# --- as plain text ---


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.gen_test
async def test_utf8_is_sent_byte_for_byte(mark: bytes, tmp_path: Path) -> None:
    """Mark included, with a length, and it can be cut."""
    content = mark + LYRIC.encode()
    source = text(written(tmp_path, content), "lyric", EncodingCache())
    async with source as body:
        assert body.facts.media_type == PLAIN == "text/plain; charset=utf-8"
        assert body.facts.length == len(content)
        assert body.facts.etag is not None
        assert body.slice is not None
        assert b"".join([bytes(chunk) async for chunk in loaded(body.slice(4, 20))]) == content[4:20]
        assert b"".join([bytes(chunk) async for chunk in loaded(body.chunks())]) == content


@pytest.mark.gen_test
async def test_another_encoding_arrives_as_utf8(tmp_path: Path) -> None:
    """Its length is not known before, its entity tag is weak and names the encoding."""
    root = written(tmp_path, KOREAN.encode("cp949"))
    async with text(root, "lyric", EncodingCache()) as body:
        assert body.facts.length is None
        assert body.slice is None
        assert body.facts.etag is not None
        assert body.facts.etag.startswith('W/"')
        assert body.facts.etag.endswith('-cp949"')
        assert b"".join([bytes(chunk) async for chunk in loaded(body.chunks())]).decode() == KOREAN


@pytest.mark.gen_test
async def test_a_long_text_is_never_cut_inside_a_code_point(tmp_path: Path) -> None:
    """Wherever the reads end."""
    content = "a" + "바🎵" * (READ_BYTES // 5)
    assert (
        await whole(text(written(tmp_path, content.encode()), "lyric", EncodingCache())) == content.encode()
    )


ASKED = {
    # content, the encoding asked for → the text
    "the_right_one": ("바람".encode("cp949") * 3, "cp949", "바람" * 3),
    "a_wrong_one": ("바람".encode(), "iso8859-1", "바람".encode().decode("latin-1")),
    "utf8_that_it_is": ("바람".encode(), "utf-8", "바람"),
    "utf8_that_it_is_not": (b"a\xffb", "utf-8", "a\ufffdb"),
    "utf16_without_a_mark": ("plain 바람".encode("utf-16-le"), "utf-16-le", "plain 바람"),
    "utf16_guessed": ("plain 바람".encode("utf-16-le"), "utf-16", "plain 바람"),
    "utf32_without_a_mark": ("plain 바람".encode("utf-32-be"), "utf-32-be", "plain 바람"),
}


@pytest.mark.parametrize("case", ASKED)
@pytest.mark.gen_test
async def test_the_client_knows_the_encoding(case: str, tmp_path: Path) -> None:
    """What it says counts, and changes the entity tag."""
    content, encoding, expected = ASKED[case]
    root = written(tmp_path, content)
    assert (await whole(text(root, "lyric", EncodingCache(), encoding=encoding))).decode() == expected
    last = (await events(root, encoding=encoding))[-1]
    assert json.loads(last.data) == {"length": len(expected.encode())}


NOT_TEXT = {
    "track": ("song.mp3", b"plain enough", ""), "track_in_capitals": ("a.WAV", b"plain enough", ""),
    "binary": ("lyric", b"\0\1\2", ""), "binary_whatever_they_say": ("lyric", b"\0\1", "cp949"),
    "missing": ("missing", b"", ""), "outside": ("../lyric", b"", ""), "folder": (".", b"", ""),
}  # fmt: skip


@pytest.mark.parametrize("source", [text, text_events])
@pytest.mark.parametrize("case", NOT_TEXT)
@pytest.mark.gen_test
async def test_what_is_no_text_is_not_found(case: str, source: object, tmp_path: Path) -> None:
    """By its name, or by what it begins with."""
    name, content, encoding = NOT_TEXT[case]
    if case not in ("missing", "outside", "folder"):
        written(tmp_path, content, name)
    with pytest.raises(SourceNotFound):
        async with source(tmp_path, name, EncodingCache(), encoding=encoding):  # type: ignore[operator]
            pass


@pytest.mark.gen_test
async def test_an_empty_file_is_an_empty_text(tmp_path: Path) -> None:
    """And one event says so."""
    root = written(tmp_path, b"")
    assert await whole(text(root, "lyric", EncodingCache())) == b""
    assert await events(root) == [Seen('{"length": 0}', "0", "end")]


# --- paced ---


@pytest.mark.parametrize("content", [LYRIC.encode(), (LYRIC * 3).encode("cp949", "ignore"), b"no end"])
@pytest.mark.gen_test
async def test_paced_it_comes_line_by_line(content: bytes, tmp_path: Path) -> None:
    """A chunk a line; without ranges, since it has no length."""
    source = text(written(tmp_path, content), "lyric", EncodingCache(), pace_seconds=0.001)
    async with source as body:
        assert (body.facts.length, body.facts.etag, body.slice) == (None, None, None)
        chunks = [bytes(chunk) async for chunk in loaded(body.chunks())]
    unpaced = await whole(text(tmp_path, "lyric", EncodingCache()))
    assert chunks == unpaced.splitlines(keepends=True)


@pytest.mark.parametrize("source", [text, text_events])
@pytest.mark.gen_test
async def test_the_pause_is_after_each_line(source: object, tmp_path: Path) -> None:
    """The first leaves at once, the second not before its time."""
    root = written(tmp_path, b"a\nb\n")
    for seconds in (3600, 0.1):
        paced = source(root, "lyric", EncodingCache(), pace_seconds=seconds)  # type: ignore[operator]
        async with paced as body, aclosing(loaded(body.chunks())) as chunks:
            assert b"a" in await anext(chunks)
            if seconds < 1:
                began = time.monotonic()
                assert b"b" in await anext(chunks)
                assert time.monotonic() - began >= 0.09


# --- as events ---

LINES = {
    "lf": (b"a\nbc\n", [("a", 2), ("bc", 5)]),
    "crlf": (b"a\r\nbc\r\n", [("a", 3), ("bc", 7)]),
    "no_final_newline": (b"a\nbc", [("a", 2), ("bc", 4)]),
    "carriage_return_at_the_end": (b"a\nb\r", [("a", 2), ("b\n", 4)]),
    "lone_cr": (b"a\rb\nc\n", [("a\nb", 4), ("c", 6)]),  # an event stream has no other way to write it
    "cr_before_crlf": (b"a\r\r\nb\n", [("a\n", 4), ("b", 6)]),
    "empty_lines": (b"\n\na\n\n", [("", 1), ("", 2), ("a", 4), ("", 5)]),
    "mark": (codecs.BOM_UTF8 + b"a\nb\n", [("a", 5), ("b", 7)]),
    "mark_alone": (codecs.BOM_UTF8, [("", 3)]),
    "mark_inside": ("a\n\ufeffb\n".encode(), [("a", 2), ("\ufeffb", 7)]),
    "korean": ("바람\n".encode(), [("바람", 7)]),
    "spaces": (b"  a \n: b\ndata: c\n", [("  a ", 5), (": b", 9), ("data: c", 17)]),
    "other_line_ends": ("a\vb\u2028c\x85d\n".encode(), [("a\vb\u2028c\x85d", 11)]),
}


@pytest.mark.parametrize("case", LINES)
@pytest.mark.gen_test
async def test_every_line_is_an_event(case: str, tmp_path: Path) -> None:
    """Its id is the offset just behind it; the last event tells the length."""
    content, lines = LINES[case]
    seen = await events(written(tmp_path, content))
    assert [(event.data, int(event.id)) for event in seen[:-1]] == lines
    assert all(event.event == "message" for event in seen[:-1])
    assert seen[-1] == Seen(json.dumps({"length": len(content)}), str(len(content)), "end")


@pytest.mark.parametrize("content", [LYRIC.encode(), codecs.BOM_UTF8 + LYRIC.encode(), LYRIC.encode("utf-16"),
                                     b"a\r\nb\rc\n\nd", (KOREAN[:200] + "\n끝").encode("cp949")])  # fmt: skip
@pytest.mark.gen_test
async def test_resumed_at_every_id_nothing_is_lost_or_doubled(content: bytes, tmp_path: Path) -> None:
    """Whatever the file is encoded in; at the end there is nothing left to ask for."""
    root = written(tmp_path, content)
    seen = await events(root)
    for place, event in enumerate(seen[:-2]):
        assert await events(root, after=int(event.id)) == seen[place + 1 :]
    for after in (int(seen[-1].id), int(seen[-1].id) + 1, 2**63 - 1):
        with pytest.raises(SourceEnded):
            await events(root, after=after)


@pytest.mark.parametrize("content", [b"", "바람".encode("utf-16"), b"a"])
@pytest.mark.gen_test
async def test_resumed_at_the_end_it_has_ended(content: bytes, tmp_path: Path) -> None:
    """An empty file has ended at its beginning."""
    root = written(tmp_path, content)
    end = int((await events(root))[-1].id)
    with pytest.raises(SourceEnded):
        await events(root, after=end)


@pytest.mark.gen_test
async def test_resumed_far_behind_what_one_read_gives(tmp_path: Path) -> None:
    """A text that is decoded is decoded from its beginning; what the client has is left out."""
    root = written(tmp_path, ("물" * 1000 + "\n").encode("cp949") * 200)
    seen = await events(root, after=3001 * 197)
    assert [int(event.id) for event in seen] == [3001 * 198, 3001 * 199, 3001 * 200, 3001 * 200]


@pytest.mark.gen_test
async def test_a_made_up_id_gives_whole_code_points(tmp_path: Path) -> None:
    """It may lie inside a line, and even inside a code point."""
    root = written(tmp_path, "바람\n다음\n".encode())
    assert [event.data for event in await events(root, after=1)][:2] == ["람", "다음"]
    assert [event.data for event in await events(root, after=3)][:2] == ["람", "다음"]
    assert (await events(root, after=0))[0].data == "바람"


@pytest.mark.slow
@given(st.lists(st.text("a바🎵\r\n \ufeff", max_size=8), max_size=20), st.integers(0, 4))
def test_events_hold_the_whole_text(lines: list[str], skipped: int) -> None:
    """Put together again they are the file, from the beginning and from any event on."""
    content = "\n".join(lines)

    async def seen(folder: Path) -> None:
        root = written(folder, content.encode())
        every = await events(root)
        assert [event.data for event in every[:-1]] == [shown(line) for line in expected_lines(content)]
        if skipped < len(every) - 2:
            assert await events(root, after=int(every[skipped].id)) == every[skipped + 1 :]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(seen(Path(folder)))


def expected_lines(content: str) -> list[str]:
    lines = content.split("\n")
    ended = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    return [line if place else line.removeprefix("\ufeff") for place, line in enumerate(ended)]


def shown(line: str) -> str:
    """A line without its end; other carriage returns are line breaks to an event stream."""
    line = line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
    return line.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_many_short_lines_are_gathered_into_bounded_chunks(tmp_path: Path) -> None:
    """50,000 empty lines are a megabyte of events; no chunk is an event too many."""
    root = written(tmp_path, b"\n" * 50_000)
    async with text_events(root, "lyric", EncodingCache()) as body:
        assert body.facts.heartbeat == EVENTS.heartbeat == b":\n"
        lengths = [len(chunk) async for chunk in loaded(body.chunks())]
    assert max(lengths) < 70_000
    assert len(lengths) < 20


@pytest.mark.parametrize("length", [10, 11, 12])
@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.gen_test
async def test_a_line_that_is_too_long_for_an_event(
    length: int, end: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused; as plain text it goes out all the same."""
    monkeypatch.setattr(text_module, "LINE_BYTES", 11)
    root = written(tmp_path, b"a\n" + b"x" * length + end)
    if length <= 11:
        assert len(await events(root)) == 3
    else:
        with pytest.raises(BadParameter, match="longer than 11 bytes"):
            await events(root)
        with pytest.raises(BadParameter):
            await whole(text(root, "lyric", EncodingCache(), pace_seconds=0.001))
    assert len(await whole(text(root, "lyric", EncodingCache()))) == 2 + length + len(end)


@pytest.mark.gen_test
async def test_a_line_longer_than_a_read_is_one_event(tmp_path: Path) -> None:
    """Half a megabyte is the limit, a read is half of that."""
    line = "바" * (text_module.LINE_BYTES // 3)
    seen = await events(written(tmp_path, f"a\n{line}\nb\n".encode()))
    assert [len(event.data) for event in seen[:-1]] == [1, len(line), 1]
