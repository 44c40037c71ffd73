"""The access log: one line a response, with the same facts at the same places."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.open_streams import Outcome
from server.access_log import URI_CHARACTERS
from tests.serving import serving

LINE = re.compile(
    r"127\.0\.0\.1 (?P<method>\S+) (?P<uri>\S+) (?P<status>[0-9]{3}) (?P<outcome>[a-z]+) (?P<bytes>[0-9]+) B "
    r"first (?P<first>[0-9]+\.[0-9]) ms total (?P<total>[0-9]+\.[0-9]) ms (?P<id>[A-Za-z0-9._-]+)"
)

Logged = Callable[[], list[dict[str, str]]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """The lines of the access log so far; one that has another form fails."""
    caplog.set_level(logging.INFO, "millrace.access")

    def lines() -> list[dict[str, str]]:
        said = [record.message for record in caplog.records if record.name == "millrace.access"]
        matches = [LINE.fullmatch(line) for line in said]
        assert None not in matches, said
        return [match.groupdict() for match in matches if match]

    return lines


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with one text."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "a.txt").write_text("ten bytes\n")
    return folder


def test_docs_show_a_line() -> None:
    """docs/operations.md has an example of the line."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    examples = re.findall(r"INFO millrace\.access: (.*)", text)
    assert examples
    assert all(map(LINE.fullmatch, examples))


@pytest.mark.gen_test
async def test_stream(library: Path, logged: Logged) -> None:
    """A streamed body: its bytes, and the request's id."""
    async with serving(library, scan=False) as server:
        await server.get("/text/a.txt", X_Request_Id="mine")
    (line,) = logged()
    assert (line["method"], line["uri"], line["status"]) == ("GET", "/text/a.txt", "200")
    assert (line["outcome"], line["bytes"], line["id"]) == ("complete", "10", "mine")
    assert float(line["first"]) <= float(line["total"])


@pytest.mark.gen_test
async def test_answer_that_is_no_stream(library: Path, logged: Logged) -> None:
    """Its first byte is its last."""
    async with serving(library, scan=False) as server:
        await server.get("/healthz")
    (line,) = logged()
    assert (line["status"], line["outcome"], line["bytes"]) == ("200", "complete", "3")
    assert line["first"] == line["total"]


@pytest.mark.gen_test
async def test_errors_and_other_methods(library: Path, logged: Logged) -> None:
    """What is not there, and what is not allowed, is logged like the rest."""
    async with serving(library, scan=False) as server:
        await server.get("/nothing")
        await server.get("/healthz", method="POST")
        await server.get("/text/a.txt", method="HEAD")
    assert [(line["method"], line["status"]) for line in logged()] == [
        ("GET", "404"),
        ("POST", "405"),
        ("HEAD", "200"),
    ]


@pytest.mark.gen_test
async def test_address_cannot_command_a_terminal(library: Path, logged: Logged) -> None:
    """Bytes above 127 are quoted (0x9b begins a command), and a long address is cut."""
    async with serving(library, scan=False) as server:
        await server.exchange(b"GET /\x9b31m\xc2\x85 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await server.get("/" + "x" * 5000)
    first, second = logged()
    assert first["uri"] == "/%9B31m%C2%85"
    assert second["uri"] == "/" + "x" * (URI_CHARACTERS - 1)


def test_docs_have_every_outcome() -> None:
    """A row of the table each, and a word in the design."""
    docs = Path(__file__).parent.parent.parent / "docs"
    operations = (docs / "operations.md").read_text(encoding="utf-8")
    architecture = (docs / "architecture.md").read_text(encoding="utf-8")
    for outcome in Outcome:
        assert f"\n| `{outcome}` | " in operations
        assert f"*{outcome}*" in architecture
