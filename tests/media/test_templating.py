"""A template as it renders."""

import asyncio
import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateNotFound, TemplateSyntaxError

from media import templating
from media.generated import Stream, StreamRequest
from media.records import Record
from media.source import BadParameter, Busy, NotFound, SourceBroken
from media.templating import template
from tests.conftest import ExpectLog
from tests.serving import eventually, request, serving, source_route

PAGES = {
    "page.html": (
        "<h1>{{ request.path }}</h1>\n{% for row in rows %}\n<li>{{ row.name }}\n{% endfor %}\nthe end\n"
    ),
    "two.html": (
        "{% for row in rows %}{{ row.name }}{% endfor %}|{% for row in others %}{{ row.name }}{% endfor %}"
    ),
    "plain.html": "just this",
    "value.html": "<p>{{ value.name }} {{ number }}",
    "list.html": "{% for row in value %}{{ row.name }}{% endfor %}",
    "asked.html": "{% for row in rows %}{{ row.name }} for {{ request.args.q }} {% endfor %}",
    "flushed.html": "{% from 'macros.html' import sent %}before{{ sent() }}{{ block() }}after",
    "macros.html": "{% macro sent() %}{{ flush() }}{% endmacro %}",
    "whole.html": "{% include 'parts/head.html' %}{{ 1 }}",
    "parts/head.html": "<b>head</b>",
    "note.txt": "{{ text }}",
    "note.txt.j2": "{{ text }}",
    "note.html.j2": "{{ text }}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


async def made(folder: Path, name: str, **context: Any) -> Stream:
    """As a user's module makes it: not on the loop."""
    return await asyncio.to_thread(template, name, folder=folder, **context)


async def text_of(stream: Stream, request: StreamRequest = StreamRequest()) -> str:  # noqa: B008, frozen
    async with stream.open(request, None) as body:
        chunks = [bytes(chunk) async for chunk in body.chunks()]
    assert all(chunks)
    return b"".join(chunks).decode("utf-8")


async def whole(folder: Path, name: str, args: dict[str, str] | None = None, **context: Any) -> str:
    return await text_of(await made(folder, name, **context), StreamRequest(args or {}, path="/x?<"))


# --- what a function may be ---


async def async_generator(request: StreamRequest) -> AsyncGenerator[Record, None]:
    for name in ("a", "<b>", "c & \ud800"):
        yield {"name": name}


def generator(request: StreamRequest) -> Iterator[Record]:
    assert threading.current_thread() is not threading.main_thread()
    for name in ("a", "<b>", "c & \ud800"):
        yield {"name": name}


async def async_function(request: StreamRequest) -> AsyncIterator[Record]:
    return async_generator(request)


async def async_list(request: StreamRequest) -> list[Record]:
    return [record async for record in async_generator(request)]


def function(request: StreamRequest) -> Iterator[Record]:
    assert threading.current_thread() is not threading.main_thread()
    return generator(request)


def same_record(request: StreamRequest) -> Iterator[Record]:
    record = {}
    for record["name"] in ("a", "<b>", "c & \ud800"):
        yield record


@pytest.mark.parametrize("rows", [
    async_generator, generator, async_function, async_list, function, same_record,
], ids=lambda rows: rows.__name__)  # fmt: skip
@pytest.mark.gen_test
async def test_rows_of_any_function(folder: Path, rows: Any) -> None:
    """Escaped, whatever they hold; one record that is given again and again is several."""
    expected = "<h1>/x?&lt;</h1>\n<li>a\n<li>&lt;b&gt;\n<li>c &amp; \ufffd\nthe end"
    assert await whole(folder, "page.html", rows=rows) == expected


@pytest.mark.gen_test
async def test_values(folder: Path) -> None:
    """A function may return one; what is no function is there as it is."""

    async def user(request: StreamRequest) -> Record:
        return {"name": "<x>"}

    def users(request: StreamRequest) -> list[Record]:
        return [{"name": "a"}, {"name": "b"}]

    assert await whole(folder, "value.html", value=user, number=7) == "<p>&lt;x&gt; 7"
    assert await whole(folder, "value.html", value={"name": 1}, number=[2]) == "<p>1 [2]"
    assert await whole(folder, "list.html", value=users) == "ab"
    assert await whole(folder, "plain.html") == "just this"


@pytest.mark.gen_test
async def test_parameters(folder: Path) -> None:
    """They are those of all functions, checked on entering; two may share one."""

    async def numbers(request: StreamRequest, *, count: int, base: int = 0) -> AsyncGenerator[Record, None]:
        for number in range(count):
            yield {"name": base + number}

    async def letters(request: StreamRequest, *, count: int) -> AsyncGenerator[Record, None]:
        for number in range(count):
            yield {"name": "abc"[number]}

    stream = await made(folder, "two.html", rows=numbers, others=letters)
    assert [(listed["name"], listed["required"]) for listed in stream.parameters] == [
        ("count", True),
        ("base", False),
    ]
    assert await text_of(stream, StreamRequest({"count": "2", "base": "8"})) == "89|ab"
    with pytest.raises(BadParameter, match='count must be a valid integer, not "x"'):
        async with stream.open(StreamRequest({"count": "x"}), None):
            pass


@pytest.mark.gen_test
async def test_the_request_is_there_to_the_end(folder: Path) -> None:
    """In the template and in its functions, while it streams."""

    async def rows(request: StreamRequest) -> AsyncGenerator[Record, None]:
        for _ in range(2):
            await asyncio.sleep(0)
            yield {"name": request.args["q"].upper()}

    assert await whole(folder, "asked.html", {"q": "x"}, rows=rows) == "X for x X for x "


# --- how it is sent ---


@pytest.mark.gen_test
async def test_the_first_part_comes_before_the_last_row_is_made(folder: Path) -> None:
    """What is rendered is on its way while a row is waited for."""
    go_on = asyncio.Event()

    async def slow(request: StreamRequest) -> AsyncGenerator[Record, None]:
        yield {"name": "first"}
        await go_on.wait()
        yield {"name": "last"}

    stream = await made(folder, "page.html", rows=slow)
    async with stream.open(StreamRequest(), None) as body, aclosing(body.chunks()) as chunks:
        received = b""
        async for chunk in chunks:
            received += bytes(chunk)
            if b"first" in received and not go_on.is_set():
                assert b"last" not in received
                go_on.set()
    assert received.endswith(b"the end")


@pytest.mark.gen_test
async def test_a_first_row_that_is_slow_does_not_hold_up_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands above it comes meanwhile."""
    monkeypatch.setattr(templating, "FIRST_SECONDS", 0.01)
    go_on = asyncio.Event()

    async def slow(request: StreamRequest) -> AsyncGenerator[Record, None]:
        await go_on.wait()
        yield {"name": "first"}

    stream = await made(folder, "page.html", rows=slow)
    async with stream.open(StreamRequest(path="/p"), None) as body, aclosing(body.chunks()) as chunks:
        received = b""
        while not received.endswith(b"</h1>\n"):
            received += bytes(await anext(chunks))
        go_on.set()
        assert b"".join([bytes(chunk) async for chunk in chunks]) == b"<li>first\nthe end"


@pytest.mark.slow
@pytest.mark.gen_test
async def test_flush(folder: Path) -> None:
    """The client has what stands before it when something blocks behind it."""
    received = threading.Event()

    def block() -> str:
        deadline = time.monotonic() + 5
        while not received.is_set():
            assert time.monotonic() < deadline
        return ""

    def blocking(request: StreamRequest) -> Any:
        return block

    stream = await made(folder, "flushed.html", block=blocking)
    routes = [source_route("/flushed", lambda: stream.open(StreamRequest(), None))]
    async with serving(folder, scan=False, routes=routes) as server:

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(b"GET /flushed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b""
                while b"before" not in answer:
                    answer += client.recv(1000)
                received.set()
                while more := client.recv(1000):
                    answer += more
                return answer

        answer = await asyncio.to_thread(ask)
    assert answer.endswith(b"6\r\nbefore\r\n5\r\nafter\r\n0\r\n\r\n")


@pytest.mark.gen_test
async def test_what_is_made_without_a_wait_goes_together(folder: Path) -> None:
    """Bounded in size, and nothing is lost."""

    async def many(request: StreamRequest) -> AsyncGenerator[Record, None]:
        for number in range(3000):
            yield {"name": number}

    stream = await made(folder, "page.html", rows=many)
    async with stream.open(StreamRequest(), None) as body:
        chunks = [bytes(chunk) async for chunk in body.chunks()]
    assert b"".join(chunks).decode().split("\n<li>")[1:-1] == [str(number) for number in range(2999)]
    assert len(chunks) < 1500


# --- how it fails, and ends ---


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("error", [SourceBroken, ValueError])
@pytest.mark.gen_test
async def test_a_failing_row_fails_the_page(folder: Path, before: int, error: type[Exception]) -> None:
    """With its own error. Nothing looks like an end."""

    async def failing(request: StreamRequest) -> AsyncGenerator[Record, None]:
        for number in range(before):
            yield {"name": number}
        raise error("it failed")

    chunks = []
    stream = await made(folder, "page.html", rows=failing)
    async with stream.open(StreamRequest(), None) as body:
        with pytest.raises(error, match="it failed"):  # noqa: PT012, what came before counts
            async for chunk in body.chunks():
                chunks.append(bytes(chunk))
    assert b"the end" not in b"".join(chunks)
    assert bool(chunks) is bool(before)


@pytest.mark.parametrize("error", [NotFound("no such day"), Busy(retry_after=3), BadParameter("q must be x")])
@pytest.mark.parametrize("kind", ["items", "thread", "value"])
@pytest.mark.gen_test
async def test_what_a_function_refuses_is_refused_before_the_first_byte(
    folder: Path, kind: str, error: Exception
) -> None:
    """Wherever its name stands in the template; what the other functions began is closed."""
    ended = []

    async def endless(request: StreamRequest) -> AsyncGenerator[Record, None]:
        try:
            while True:
                yield {"name": "a"}
        finally:
            ended.append(True)

    async def items(request: StreamRequest) -> AsyncGenerator[Record, None]:
        raise error
        yield {}

    def thread(request: StreamRequest) -> Iterator[Record]:
        raise error
        yield {}

    async def value(request: StreamRequest) -> Record:
        raise error

    refusing = {"items": items, "thread": thread, "value": value}[kind]
    stream = await made(folder, "two.html", rows=endless, others=refusing)
    async with stream.open(StreamRequest(), None) as body, aclosing(body.chunks()) as chunks:
        with pytest.raises(type(error)):
            await anext(chunks)
    assert ended == ([] if kind == "value" else [True])  # one that is refused at once has nothing begun


@pytest.mark.parametrize("leave", ["after a piece", "before the first row"])
@pytest.mark.gen_test
async def test_its_rows_are_closed_when_the_client_leaves(folder: Path, leave: str) -> None:
    """Jinja2 does not close what it iterates; leaving the source does."""
    ended = []
    waits = asyncio.Event()

    async def endless(request: StreamRequest) -> AsyncGenerator[Record, None]:
        try:
            if leave == "before the first row":
                waits.set()
                await asyncio.sleep(60)
            while True:
                yield {"name": "a"}
        finally:
            ended.append(True)

    stream = await made(folder, "page.html", rows=endless)
    async with stream.open(StreamRequest(), None) as body, aclosing(body.chunks()) as chunks:
        if leave == "after a piece":
            await anext(chunks)
        else:
            asked = asyncio.ensure_future(anext(chunks))
            await waits.wait()
            asked.cancel()
            await asyncio.wait({asked})
    assert ended == [True]


# --- the template ---


def test_it_lies_beside_the_module_that_calls(tmp_path: Path) -> None:
    """Or where its path says."""
    (tmp_path / "one.html").write_text("one")
    module = tmp_path / "module.py"
    source = "from media.templating import template\nstream = template({})\n"
    for name in ('"one.html"', repr(str(tmp_path / "one.html"))):
        made_there: dict[str, Any] = {}
        exec(compile(source.format(name), module, "exec"), made_there)
        assert made_there["stream"].title == "one.html"
    with pytest.raises(ValueError, match=r"there is no template one\.html in .*tests/media"):
        template("one.html")


@pytest.mark.parametrize(("name", "expected", "media_type"), [
    ("note.txt", "<&>", "text/plain; charset=utf-8"), ("note.txt.j2", "<&>", "text/plain; charset=utf-8"),
    ("note.html.j2", "&lt;&amp;&gt;", "text/html; charset=utf-8"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_plain_text_is_not_escaped(folder: Path, name: str, expected: str, media_type: str) -> None:
    """The name's end says what it is."""
    stream = await made(folder, name, text="<&>")
    assert stream.media_types == [media_type]
    assert await text_of(stream) == expected


@pytest.mark.gen_test
async def test_it_includes_what_lies_beside_it(folder: Path) -> None:
    """Inherited and included templates are found in its folder; a title and a type may be given."""
    stream = await made(folder, "whole.html", title="All of it", media_type="application/xhtml+xml")
    assert (stream.title, stream.media_type) == ("All of it", "application/xhtml+xml")
    assert await text_of(stream) == "<b>head</b>1"


@pytest.mark.parametrize(("text", "said"), [
    ("one\n{% for x in %}", "broken.html, line 2: Expected an expression, got 'end of statement block'"),
    ("{{ x", "broken.html, line 1: unexpected end of template, expected 'end of print statement'."),
    ("\n\n{% nonsense %}", "broken.html, line 3: Encountered unknown tag 'nonsense'."),
])  # fmt: skip
@pytest.mark.parametrize("name", ["broken.html", "around.html"])
def test_one_that_cannot_be_compiled(tmp_path: Path, name: str, text: str, said: str) -> None:
    """The start stops, with its line; that of what it includes, too."""
    (tmp_path / "broken.html").write_text(text)
    (tmp_path / "around.html").write_text("{% include ['not there', 'inner.html'] %}")
    (tmp_path / "inner.html").write_text("{% include 'broken.html' %}{% include 'around.html' %}")
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        template(name, folder=tmp_path)


@pytest.mark.gen_test
async def test_one_that_changes(folder: Path) -> None:
    """The next request has the new one, and a bug in it; one that is gone is a bug too."""
    stream = await made(folder, "plain.html")
    path = folder / "plain.html"
    assert await text_of(stream) == "just this"
    write(path, "and that", 1)
    assert await text_of(stream) == "and that"
    write(path, "{% broken", 2)
    with pytest.raises(TemplateSyntaxError):
        await text_of(stream)
    path.unlink()
    with pytest.raises(TemplateNotFound):
        await text_of(stream)


def write(path: Path, text: str, second: int) -> None:
    path.write_text(text)
    os.utime(path, (second, second))  # it is the time that is looked at


@pytest.mark.parametrize(("context", "said"), [
    ({"request": 1}, "'request' has a meaning of its own"),
    ({"flush": 1}, "'flush' has a meaning of its own"),
    ({"rows": lambda: None}, "must take the request"),
])  # fmt: skip
def test_a_context_that_cannot_be(folder: Path, context: dict[str, Any], said: str) -> None:
    """The start stops."""
    with pytest.raises(TypeError, match=said):
        template("plain.html", folder=folder, **context)


# --- served ---


async def rows_and_waits(request: StreamRequest, *, fails_at: int = 10**9) -> AsyncGenerator[Record, None]:
    for number in range(10**9):
        if number == fails_at:
            raise LookupError("no such row")
        yield {"name": "x" * 50}
        await asyncio.sleep(0.001 if number % 7 == 0 else 0)


def blocking_rows(request: StreamRequest) -> Iterator[Record]:
    while True:
        time.sleep(0.001)
        yield {"name": "y"}


@pytest.mark.slow
@pytest.mark.gen_test
async def test_the_client_can_tell_where_it_broke(folder: Path, expect_log: ExpectLog) -> None:
    """At 50 random rows: a status before the first byte, and never a body that looks whole."""
    expect_log("millrace", logging.ERROR, "no such row")  # a status
    expect_log("millrace.serve", logging.ERROR, "no such row")
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    streams = {"page": await made(folder, "page.html", rows=rows_and_waits)}
    async with serving(folder, scan=False, channels=streams) as server:
        for fails_at in [0, 1, 2, *(chance.randrange(300) for _ in range(47))]:
            coding = chance.choice(["identity", "gzip"])
            response = await server.get(f"/stream/page?fails_at={fails_at}", accept_encoding=coding)
            assert (response.status, response.whole) == ((500, True) if fails_at == 0 else (200, False)), seed


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_clients_that_are_killed_leave_nothing(folder: Path) -> None:
    """At 50 random points: no task, no thread."""
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    streams = {"page": await made(folder, "two.html", rows=rows_and_waits, others=blocking_rows)}
    async with serving(folder, scan=False, channels=streams) as server:
        assert (await server.get("/stream/page?fails_at=0x")).status == 400
        tasks, threads = len(asyncio.all_tasks()), producing_threads()
        for _ in range(50):
            async with server.connect(request("/stream/page")) as client:
                wanted = chance.choice([0, 1, 500, 20_000])
                while len(client.received) < wanted and await client.read(1000):
                    pass
                if chance.random() < 0.5:
                    client.reset()
        await eventually(lambda: len(asyncio.all_tasks()) == tasks and producing_threads() == threads)


def producing_threads() -> int:
    """How many generators run in threads."""
    return sum(thread.name == "a user's generator" for thread in threading.enumerate())
