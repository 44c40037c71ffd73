"""Streams of a function's items: how they are made, and how they end."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from media.generated import StreamRequest, formats_from, generated
from media.records import END_ID, FORMATS, Event, Item
from media.source import CHUNK_LIMIT, BadParameter, SourceBroken, SourceEnded


async def three(request: StreamRequest) -> AsyncGenerator[Item, None]:
    for number in range(3):
        yield {"n": number, "q": request.args.get("q", "")}


async def none(request: StreamRequest) -> AsyncGenerator[Item, None]:
    return
    yield {}


END = b"event: end\nid: (end)\ndata: {}\n\n"

EMPTY = {"text": b"", "sse": END, "ndjson": b"", "json": b"[]\n", "csv": b""}

THREE = {
    "text": [b'{"n":0,"q":"x"}\n', b'{"n":1,"q":"x"}\n', b'{"n":2,"q":"x"}\n'],
    "ndjson": [b'{"n":0,"q":"x"}\n', b'{"n":1,"q":"x"}\n', b'{"n":2,"q":"x"}\n'],
    "json": [b'[{"n":0,"q":"x"}', b',\n{"n":1,"q":"x"}', b',\n{"n":2,"q":"x"}', b"]\n"],
    "csv": [b"n,q\r\n0,x\r\n", b"1,x\r\n", b"2,x\r\n"],
    "sse": [b'id: 1\ndata: {"n":0,"q":"x"}\n\n', b'id: 2\ndata: {"n":1,"q":"x"}\n\n',
            b'id: 3\ndata: {"n":2,"q":"x"}\n\n', END],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_the_items_are_written_in_every_format(form: str) -> None:
    """Those that come without a wait between them go together."""
    async with generated(three, title="").open(StreamRequest({"q": "x"}), FORMATS[form]) as body:
        assert body.facts.media_type == FORMATS[form].media_type
        assert body.facts.heartbeat == FORMATS[form].heartbeat
        assert (body.facts.length, body.facts.etag, body.slice) == (None, None, None)
        assert b"".join([chunk async for chunk in body.chunks()]) == b"".join(THREE[form])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_no_items(form: str) -> None:
    """The smallest whole body that the format has; nothing at all where that is empty."""
    async with generated(none, title="").open(StreamRequest(), FORMATS[form]) as body:
        chunks = [chunk async for chunk in body.chunks()]
    assert b"".join(chunks) == EMPTY[form]
    assert len(chunks) == bool(EMPTY[form])


class Broken(Exception):
    """A bug of the program."""


@pytest.mark.parametrize("error", [Broken, SourceBroken, BadParameter, OSError])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_a_failing_function_fails_as_it_did(form: str, before: int, error: type[Exception]) -> None:
    """Before the first item no chunk has come; in the middle nothing comes that looks like an end."""

    async def failing(request: StreamRequest) -> AsyncGenerator[Item, None]:
        for number in range(before):
            yield {"n": number, "q": "x"}
        raise error("it failed")

    chunks = []
    async with generated(failing, title="").open(StreamRequest(), FORMATS[form]) as body:
        with pytest.raises(error, match="it failed"):  # noqa: PT012, what came before counts
            async for chunk in body.chunks():
                chunks.append(chunk)
    assert b"".join(chunks) == b"".join(THREE[form][:before])


@pytest.mark.gen_test
async def test_the_function_ends_when_its_client_leaves() -> None:
    """Its `finally` has run when the chunks are closed, although it would sleep for a minute."""
    ended = []

    async def sleeping(request: StreamRequest) -> AsyncGenerator[Item, None]:
        try:
            yield "first"
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async with generated(sleeping, title="", live=True).open(StreamRequest(), FORMATS["text"]) as body:
        assert body.facts.live
        async with aclosing(body.chunks()) as chunks:
            assert await anext(chunks) == b"first\n"
            waiting = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert ended == [True]


@pytest.mark.parametrize("form", [*FORMATS, ""])
@pytest.mark.gen_test
async def test_the_function_ends_with_the_chunks(form: str) -> None:
    """Not only with the source: whoever iterates it closes it."""
    ended = []

    async def endless(request: StreamRequest) -> AsyncGenerator[Any, None]:
        try:
            while True:
                yield {"n": 1} if form else b"bytes"
        finally:
            ended.append(True)

    stream = generated(endless, title="") if form else generated(endless, title="", media_type="audio/wav")
    async with stream.open(StreamRequest(), FORMATS.get(form)) as body:
        async with aclosing(body.chunks()) as chunks:
            await anext(chunks)
        assert ended == [True]


@pytest.mark.parametrize(("heartbeat", "expected"), [(None, b" "), ("1", b" "), ("0", b"")])
@pytest.mark.gen_test
async def test_a_reader_of_plain_text_can_decline_the_heartbeat(
    heartbeat: str | None, expected: bytes
) -> None:
    """He would see the spaces."""
    request = StreamRequest({} if heartbeat is None else {"heartbeat": heartbeat})
    async with generated(three, title="").open(request, FORMATS["text"]) as body:
        assert body.facts.heartbeat == expected
    async with generated(three, title="").open(request, FORMATS["sse"]) as body:
        assert body.facts.heartbeat == b":\n"


@pytest.mark.gen_test
async def test_a_malformed_heartbeat_is_named() -> None:
    """Before anything has begun."""
    with pytest.raises(BadParameter, match="heartbeat"):
        async with generated(three, title="").open(StreamRequest({"heartbeat": "no"}), FORMATS["text"]):
            pass


@pytest.mark.gen_test
async def test_bytes_go_out_as_they_are() -> None:
    """Empty pieces are left out, large ones cut."""
    large = bytes(range(256)) * (CHUNK_LIMIT // 128 + 1)

    async def pieces(request: StreamRequest) -> AsyncGenerator[bytes, None]:
        for piece in (b"", b"a", b"", large, b"\0"):
            yield piece

    stream = generated(pieces, title="", media_type="audio/wav", live=True)
    async with stream.open(StreamRequest(), None) as body:
        assert (body.facts.media_type, body.facts.live, body.facts.heartbeat) == ("audio/wav", True, b"")
        chunks = [chunk async for chunk in body.chunks()]
    assert [len(chunk) for chunk in chunks] == [1, CHUNK_LIMIT, CHUNK_LIMIT, 256, 1]
    assert b"".join(chunks) == b"a" + large + b"\0"


@pytest.mark.gen_test
async def test_events_keep_their_ids() -> None:
    """An item may be wrapped in one."""

    async def ticks(request: StreamRequest) -> AsyncGenerator[Item, None]:
        yield Event("a", id="x", event="tick")

    async with generated(ticks, title="").open(StreamRequest(), FORMATS["sse"]) as body:
        chunks = [chunk async for chunk in body.chunks()]
        assert b"".join(chunks) == b"event: tick\nid: x\ndata: a\n\n" + END


@pytest.mark.gen_test
async def test_an_event_source_that_has_seen_the_end_is_told_to_stop() -> None:
    """It asks again after every end. A live stream has none, and begins anew."""
    again = StreamRequest(last_event_id=END_ID)
    with pytest.raises(SourceEnded):
        async with generated(three, title="").open(again, FORMATS["sse"]):
            pass
    async with generated(three, title="").open(again, FORMATS["ndjson"]) as body:
        assert [chunk async for chunk in body.chunks()]
    async with generated(three, title="", live=True).open(again, FORMATS["sse"]) as body:
        assert [chunk async for chunk in body.chunks()]


@pytest.mark.parametrize("first", FORMATS)
def test_the_first_format_is_the_default(first: str) -> None:
    """And each is there once."""
    forms = formats_from(first)
    assert forms[0] is FORMATS[first]
    assert sorted(form.name for form in forms) == sorted(FORMATS)
    stream = generated(three, title="t", first=first)
    assert stream.media_types == [form.media_type for form in forms]
    assert (stream.title, stream.live) == ("t", False)


def test_a_format_or_a_media_type_that_is_none() -> None:
    """Said when the table is made, with what would be right."""
    with pytest.raises(ValueError, match=r'^first must be text, .* or csv, not "jsonl"$'):
        generated(three, first="jsonl")
    with pytest.raises(ValueError, match=r'^media_type must be such as text/plain, not "json"$'):
        generated(three, media_type="json")


def test_a_stream_of_bytes_has_one_media_type() -> None:
    """And no formats to choose from."""

    async def pieces(request: StreamRequest) -> AsyncGenerator[bytes, None]:
        yield b"a"

    stream = generated(pieces, title="", media_type="audio/wav")
    assert stream.media_types == ["audio/wav"]
    assert stream.formats == ()


@pytest.mark.gen_test
async def test_text_under_a_media_type_is_utf_8() -> None:
    """A lone half of a surrogate pair is what it is in every format."""

    async def pieces(request: StreamRequest) -> AsyncGenerator[str, None]:
        yield "바람\udc80"

    stream = generated(pieces, title="", media_type="text/plain")
    async with stream.open(StreamRequest(), None) as body:
        received = b"".join([bytes(chunk) async for chunk in body.chunks()])
    assert received == "바람\ufffd".encode()
