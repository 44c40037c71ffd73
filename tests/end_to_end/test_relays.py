"""A Millrace in front of another one: what its clients get is what they would get there."""

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from media.relay import relay
from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, until
from tests.serving import Response, Server, eventually, request, serving

CONTENT = "".join(f"{number:06} 바람이 불어오는 곳\n" for number in range(5000))

CASES: dict[str, dict[str, str]] = {
    "whole": {},
    "first_bytes": {"range": "bytes=0-99"},
    "last_bytes": {"range": "bytes=-100"},
    "to_the_end": {"range": "bytes=1000-"},
    "several": {"range": "bytes=0-9,100-109"},
    "behind_the_end": {"range": "bytes=999999-"},
    "malformed": {"range": "bytes=b-a"},
    "another_unit": {"range": "lines=1-2"},
    "unchanged": {"if_none_match": "{etag}"},
    "changed": {"if_none_match": '"other"'},
    "any": {"if_none_match": "*"},
    "not_since": {"if_modified_since": "{modified}"},
    "since": {"if_modified_since": "Wed, 01 Jan 2020 00:00:00 GMT"},
    "the_one_meant": {"if_match": "{etag}", "range": "bytes=5-9"},
    "not_the_one_meant": {"if_match": '"other"'},
    "not_unchanged": {"if_unmodified_since": "Wed, 01 Jan 2020 00:00:00 GMT"},
    "range_of_this": {"if_range": "{etag}", "range": "bytes=5-9"},
    "range_of_this_date": {"if_range": "{modified}", "range": "bytes=5-9"},
    "range_of_another": {"if_range": '"other"', "range": "bytes=5-9"},
}

SAME = (
    "Accept-Ranges",
    "Cache-Control",
    "Content-Encoding",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "Etag",
    "Last-Modified",
    "Vary",
)


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Server, Server]]:
    """One that relays what another has: its text as `r`, its lyric as `lyric`, its rows as `rows`."""
    root = folder / "library"
    root.mkdir()
    (root / "text").write_text(CONTENT, encoding="utf-8")
    (folder / "empty").mkdir()
    async with serving(root, scan=False) as there:
        rows = {
            "r": relay(f"{there.url}/text/text"),
            "lyric": relay(f"{there.url}/stream/lines", args=("sleep", "format")),
            "rows": relay(f"{there.url}/large.csv?rows=200000"),
        }
        async with serving(folder / "empty", scan=False, channels=rows) as here:
            yield here, there


def told(response: Response) -> tuple[object, ...]:
    """What a client can tell apart; the boundary of a multipart is random."""
    headers = {name: response.headers.get(name, "") for name in SAME}
    _, _, boundary = headers["Content-Type"].partition("boundary=")
    headers["Content-Type"] = (
        headers["Content-Type"].replace(boundary, "") if boundary else headers["Content-Type"]
    )
    body = response.body.replace(boundary.encode(), b"") if boundary else response.body
    return response.status, headers, body, response.whole


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.gen_test
async def test_conditions_and_ranges_are_answered_there(method: str, tmp_path: Path) -> None:
    """Status, headers and bytes are the same, through the relay and without it."""
    async with two(tmp_path) as (here, there):
        first = await there.get("/text/text")
        known = {"etag": first.headers["Etag"], "modified": first.headers["Last-Modified"]}
        for name, headers in CASES.items():
            asked = {header: value.format(**known) for header, value in headers.items()}
            for coding in ("identity", "gzip"):
                direct = await there.get("/text/text", method, accept_encoding=coding, **asked)
                relayed = await here.get("/stream/r", method, accept_encoding=coding, **asked)
                if direct.status in (412, 416):  # a problem document, with an id of the request
                    direct.body = relayed.body = b""
                    for response in (direct, relayed):
                        del response.headers["Content-Length"]
                assert told(direct) == told(relayed), (name, coding)


@pytest.mark.gen_test
async def test_events_of_another_come_as_they_are(tmp_path: Path) -> None:
    """In the format that the client asks for, each when it is there; who comes back goes on."""
    async with two(tmp_path) as (here, there):
        asked = request("/stream/lyric?sleep=0.01", accept="text/event-stream", last_event_id="7")
        async with here.connect(asked) as client:
            received = await client.until(b"\n\n", 3)
        assert b"Content-Type: text/event-stream" in received
        assert b"id: 8\n" in received
        await eventually(lambda: len(there.open_streams) == 0)


def held() -> int:
    """Descriptors of the process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
async def test_nothing_is_left_of_fifty_that_were_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Client or server, at any moment: descriptors, tasks and connections are what they were, in a second."""
    chance = random.Random(7)
    async with two(tmp_path) as (here, there):
        for target in ("/stream/rows", "/stream/lyric?sleep=0"):  # what is opened once is open
            async with here.connect(request(target)) as client:
                await client.until(b"\r\n\r\n")
        await eventually(lambda: len(here.open_streams) + len(there.open_streams) == 0)
        descriptors, tasks = held(), len(asyncio.all_tasks())
        for number in range(50):
            target = chance.choice(("/stream/lyric?sleep=0", "/stream/lyric?sleep=60", "/stream/rows"))
            if number % 5 == 4:
                target = "/stream/rows"  # the lyric would end regularly
            async with here.connect(request(target, connection="close")) as client:
                if number % 2:
                    await client.until(b"\r\n\r\n")
                    for _ in range(0 if "60" in target else chance.randrange(20)):
                        await asyncio.wait_for(client.read(), 5)
                else:
                    await asyncio.sleep(chance.random() * 0.02)
                if number % 5 == 4:
                    await eventually(lambda: len(there.open_streams))
                    there.open_streams.break_off()
                    response = Response.parsed((await client.rest())[0])
                    assert response.status == 502 or not response.whole
                elif number % 5 == 3:
                    client.reset()
            took = await eventually(lambda: len(here.open_streams) + len(there.open_streams) == 0)
            assert took < 3  # it is some milliseconds; the machine may be busy
        assert "Traceback" not in caplog.text
        await eventually(lambda: held() <= descriptors)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)


RELAYS = """
from media.streams import relay

STREAMS = {{
    "rows": relay("{url}/large.csv?rows=100000000", title="Rows of another"),
    "lyric": relay("{url}/stream/lines?sleep=0.01&format=sse"),
    "together": relay("{url}/stream/lines?sleep=0.01&format=sse", shared=True),
}}
"""


@pytest.mark.slow
def test_a_server_that_dies_is_told_to_every_client(start: Starter, tmp_path: Path) -> None:
    """curl exits with 18; those who share a connection stay, and go on when the other is back."""
    curl = program("curl")
    other = Process(tmp_path / "other").started()
    module = tmp_path / "relays.py"
    module.write_text(RELAYS.format(url=other.url))
    server = start("--streams", str(module))
    server.expect_log("broke off|it is asked again")
    received = [tmp_path / name for name in ("rows", "lyric")]
    cut = [
        subprocess.Popen([curl, "-sN", "--max-time", "40", "-o", path, f"{server.url}/stream/{path.name}"])
        for path in received
    ]
    with server.send("/stream/together?format=sse") as together:
        until(lambda: b"data: [" in together.recv(65536), 10)
        until(lambda: all(path.exists() and path.stat().st_size for path in received), 10)
        other.popen.kill()
        other.popen.wait()
        assert [process.wait(20) for process in cut] == [18, 18]
        server.logged("it is asked again")
        together.settimeout(1)
        with suppress(TimeoutError):
            while together.recv(65536):  # what had come before
                pass
        together.settimeout(20)
        start("--port", str(other.port))
        until(lambda: b"data: [" in together.recv(65536), 20)
