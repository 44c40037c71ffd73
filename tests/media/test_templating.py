"""A template as it renders."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from jinja2 import TemplateNotFound

from media.generated import StreamRequest
from media.records import Record
from media.source import BadParameter, SourceBroken
from media.templating import template

PAGE = """<h1>{{ request.path }}</h1>
{% for row in rows %}
<li>{{ row.name }}
{% endfor %}
the end
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "plain.html").write_text("just this")
    return tmp_path


async def names(request: StreamRequest) -> AsyncGenerator[Record, None]:
    for name in ("a", "<b>", "c & \ud800"):
        yield {"name": name}


async def whole(folder: Path, name: str = "page.html", **context: object) -> str:
    stream = template(name, title="", folder=folder, **context)  # type: ignore[arg-type]
    async with stream.open(StreamRequest(path="/x?<"), None) as body:
        assert body.facts.media_type == "text/html; charset=utf-8"
        chunks = [bytes(chunk) async for chunk in body.chunks()]
    assert all(chunks)
    return b"".join(chunks).decode("utf-8")


@pytest.mark.gen_test
async def test_a_template_with_rows(folder: Path) -> None:
    """Escaped, whatever they hold."""
    expected = "<h1>/x?&lt;</h1>\n<li>a\n<li>&lt;b&gt;\n<li>c &amp; \ufffd\nthe end"
    assert await whole(folder, rows=names) == expected


@pytest.mark.gen_test
async def test_a_template_without_rows(folder: Path) -> None:
    """It needs no context."""
    assert await whole(folder, "plain.html") == "just this"


@pytest.mark.gen_test
async def test_the_first_part_comes_before_the_last_row_is_made(folder: Path) -> None:
    """What is rendered is on its way while a row is waited for."""
    go_on = asyncio.Event()

    async def slow(request: StreamRequest) -> AsyncGenerator[Record, None]:
        yield {"name": "first"}
        await go_on.wait()
        yield {"name": "last"}

    stream = template("page.html", title="", folder=folder, rows=slow)
    async with stream.open(StreamRequest(), None) as body, aclosing(body.chunks()) as chunks:
        received = b""
        async for chunk in chunks:
            received += chunk
            if b"first" in received and not go_on.is_set():
                assert b"last" not in received
                go_on.set()
    assert received.endswith(b"the end")


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("error", [SourceBroken, ValueError])
@pytest.mark.gen_test
async def test_a_failing_row_fails_the_page(folder: Path, before: int, error: type[Exception]) -> None:
    """With its own error."""

    async def failing(request: StreamRequest) -> AsyncGenerator[Record, None]:
        for number in range(before):
            yield {"name": number}
        raise error("it failed")

    with pytest.raises(error, match="it failed"):
        await whole(folder, rows=failing)


@pytest.mark.gen_test
async def test_a_malformed_parameter_is_named_on_entering(folder: Path) -> None:
    """Other rows that were made by then are closed: none has begun."""

    def malformed(request: StreamRequest) -> AsyncGenerator[Record, None]:
        raise BadParameter("rows must be …")

    stream = template("page.html", title="", folder=folder, other=names, rows=malformed)
    with pytest.raises(BadParameter, match="rows must be"):
        async with stream.open(StreamRequest(), None):
            pass


@pytest.mark.gen_test
async def test_a_template_that_is_missing_is_a_bug(folder: Path) -> None:
    """Nobody outside can mend that."""
    with pytest.raises(TemplateNotFound):
        await whole(folder, "missing.html")


@pytest.mark.gen_test
async def test_its_rows_are_closed_when_the_client_leaves(folder: Path) -> None:
    """Jinja2 does not close what it iterates; leaving the source does."""
    ended = []

    async def endless(request: StreamRequest) -> AsyncGenerator[Record, None]:
        try:
            while True:
                yield {"name": "a"}
        finally:
            ended.append(True)

    stream = template("page.html", title="", folder=folder, rows=endless)
    async with stream.open(StreamRequest(), None) as body, aclosing(body.chunks()) as chunks:
        async for chunk in chunks:
            if chunk == b"a":
                break
    assert ended == [True]
