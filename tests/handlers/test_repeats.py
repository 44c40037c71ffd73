"""Small answers from files, given again: never something else than the ordinary way says."""

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from handlers import repeats
from handlers.repeats import Repeats, Sent
from media.files import LEAST_REGION_BYTES
from tests.conftest import AccessLog
from tests.serving import Client, Response, eventually, request, serving

TEXT = "안녕, hello\n" * 1000


@dataclass
class Watch:
    """What was answered again, and what only could have been."""

    sent: list[Sent] = field(default_factory=list)
    given_up: int = 0


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Looks over the shoulder of every Repeats."""
    seen, send = Watch(), Repeats.send

    def watched(*args: object) -> Sent | None:
        sent = send(*args)  # type: ignore[arg-type]
        if sent is None:
            seen.given_up += 1
        else:
            seen.sent.append(sent)
        return sent

    monkeypatch.setattr(Repeats, "send", watched)
    monkeypatch.setattr(repeats, "REPEAT_SECONDS", 60)
    return seen


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "large.txt").write_bytes(b"line\n" * (LEAST_REGION_BYTES // 5 + 1))
    return folder


async def ask(client: Client, target: str, method: str = "GET", **headers: str) -> Response:
    """One request on a connection that stays open."""
    client.received = b""
    await client.send(request(target, method, **headers))
    top, _, _ = (await client.until(b"\r\n\r\n")).partition(b"\r\n\r\n")
    head = method == "HEAD" or Response.parsed(top + b"\r\n\r\n", head=True).status == 304
    while not Response.parsed(client.received, head=head).whole:
        assert await client.read()
    return Response.parsed(client.received, head=head)


def comparable(response: Response) -> tuple[int, dict[str, str], bytes]:
    """All of it but what every response has of its own; a header's name in any case."""
    own = ("date", "x-request-id")
    headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in own}
    return response.status, headers, response.body


ALIKE = {
    "whole": {},
    "from the start": {"range": "bytes=0-9"},
    "in the middle": {"range": "bytes=100-4711"},
    "to the end": {"range": "bytes=9000-"},
    "a suffix": {"range": "bytes=-5"},
    "all as a range": {"range": "bytes=0-"},
    "not modified": {"if_none_match": "*"},
    "not modified since": {"if_modified_since": "Fri, 31 Dec 2100 23:59:59 GMT"},
    "if-range of another": {"if_range": '"other"', "range": "bytes=3-4"},
    "malformed": {"range": "bytes=what"},
}


@pytest.mark.parametrize("headers", ALIKE.values(), ids=ALIKE)
@pytest.mark.gen_test
async def test_the_second_answer_is_the_first(headers: dict[str, str], library: Path, watch: Watch) -> None:
    """Status, headers and body, byte for byte; what differs is the date and the request's id."""
    async with serving(library, scan=False) as server, server.connect() as client:
        before = await ask(client, "/text/a.txt", connection="keep-alive", **headers)
        assert not watch.sent
        again = await ask(client, "/text/a.txt", **headers)
    assert watch.sent == [Sent(before.status, len(before.body))]
    assert comparable(again) == comparable(before)
    assert again.headers["X-Request-Id"] != before.headers["X-Request-Id"]


ORDINARY = {
    "several ranges": {"range": "bytes=0-1,5-6"},
    "no range that can be met": {"range": "bytes=999999-"},
    "a condition that fails": {"if_match": '"other"'},
}


@pytest.mark.parametrize("headers", ORDINARY.values(), ids=ORDINARY)
@pytest.mark.gen_test
async def test_what_is_not_small_and_plain_goes_the_ordinary_way(
    headers: dict[str, str], library: Path, watch: Watch
) -> None:
    """Found, looked at, and passed on with nothing sent."""
    async with serving(library, scan=False) as server, server.connect() as client:
        await ask(client, "/text/a.txt")
        response = await ask(client, "/text/a.txt", **headers)
    assert response.status in (206, 412, 416)
    assert (watch.sent, watch.given_up) == ([], 1)


NEVER = {
    "HEAD": ("HEAD", {}),
    "another representation": ("GET", {"accept": "text/event-stream"}),
    "a wish for the connection": ("GET", {"connection": "Keep-Alive"}),
    "a body": ("GET", {"content_length": "0"}),
}


@pytest.mark.parametrize(("method", "headers"), NEVER.values(), ids=NEVER)
@pytest.mark.gen_test
async def test_another_question_is_not_looked_up(
    method: str, headers: dict[str, str], library: Path, watch: Watch
) -> None:
    """What an answer depends on stands in its Vary; a HEAD, a body and a Connection are Tornado's."""
    async with serving(library, scan=False) as server, server.connect() as client:
        await ask(client, "/text/a.txt")
        client.received = b""
        await client.send(request("/text/a.txt", method, **headers))
        await client.until(b"\r\n\r\n")
        await eventually(lambda: not len(server.open_streams))
    assert (watch.sent, watch.given_up) == ([], 0)


@pytest.mark.gen_test
async def test_a_large_body_is_streamed(library: Path, watch: Watch) -> None:
    """A range of it that is small is answered again."""
    async with serving(library, scan=False) as server, server.connect() as client:
        whole = await ask(client, "/text/large.txt")
        again = await ask(client, "/text/large.txt")
        assert watch.sent == []
        part = await ask(client, "/text/large.txt", range=f"bytes=1-{LEAST_REGION_BYTES}")
    assert len(watch.sent) == 1
    assert whole.body == again.body == b"line\n" * (LEAST_REGION_BYTES // 5 + 1)
    assert part.body == whole.body[1 : LEAST_REGION_BYTES + 1]


@pytest.mark.parametrize("change", ["content", "time", "replaced", "link", "gone", "folder"])
@pytest.mark.gen_test
async def test_a_file_that_changes_is_found_out(change: str, library: Path, watch: Watch) -> None:
    """Within the second: the entity tag must be the same, else nothing of what was known is used."""
    path = library / "a.txt"
    outside = library.parent / "secret"
    outside.write_bytes(b"x" * path.stat().st_size)
    async with serving(library, scan=False) as server, server.connect() as client:
        before = await ask(client, "/text/a.txt")
        match change:
            case "content":
                path.write_bytes(b"other")
            case "time":
                os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
            case "replaced":
                (library / "new").write_bytes(before.body)
                (library / "new").rename(path)
            case _:
                path.unlink()
        if change == "link":
            path.symlink_to(outside)
        elif change == "folder":
            path.mkdir()
        after = await ask(client, "/text/a.txt")
    assert watch.sent == []
    if change in ("link", "gone", "folder"):
        assert after.status == 404
    else:
        assert after.body == path.read_bytes()
        assert after.headers["ETag"] != before.headers["ETag"]


@pytest.mark.gen_test
async def test_it_is_forgotten(library: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time one asks anew while the others still get it; after the time of grace nobody does."""
    monkeypatch.setattr(repeats, "GRACE_SECONDS", 60)
    async with serving(library, scan=False) as server, server.connect() as client:
        monkeypatch.setattr(repeats, "REPEAT_SECONDS", 0)
        await ask(client, "/text/a.txt")
        monkeypatch.setattr(repeats, "REPEAT_SECONDS", 60)
        await ask(client, "/text/a.txt", x_request_id="anew")
        assert watch.sent == []
        await ask(client, "/text/a.txt")
        assert len(watch.sent) == 1
        monkeypatch.setattr(repeats, "REPEAT_SECONDS", 0)
        await ask(client, "/text/a.txt", connection="keep-alive")
        monkeypatch.setattr(repeats, "GRACE_SECONDS", 0)
        await ask(client, "/text/a.txt")
    assert len(watch.sent) == 1


@pytest.mark.gen_test
async def test_few_are_kept(library: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was used longest ago gives way."""
    monkeypatch.setattr(repeats, "MOST_ANSWERS", 2)
    async with serving(library, scan=False) as server, server.connect() as client:
        for target in ("/text/a.txt", "/text/a.txt?1", "/text/a.txt?2"):
            await ask(client, target)
        for target in ("/text/a.txt?1", "/text/a.txt?2"):
            await ask(client, target)
        assert len(watch.sent) == 2
        await ask(client, "/text/a.txt")
    assert len(watch.sent) == 2


@pytest.mark.gen_test
async def test_it_is_logged(library: Path, watch: Watch, access_log: AccessLog) -> None:
    """As any other, under the id that its client gave it."""
    async with serving(library, scan=False) as server, server.connect() as client:
        await ask(client, "/text/a.txt")
        response = await ask(client, "/text/a.txt", range="bytes=0-2", x_request_id="mine")
    assert response.headers["X-Request-Id"] == "mine"
    await eventually(lambda: len(access_log) == 2)
    assert access_log.lines[1].startswith("127.0.0.1 GET /text/a.txt 206 complete 3 B first ")
    assert access_log.lines[1].endswith(" mine")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_pipelined_answers_arrive_in_order(library: Path, watch: Watch) -> None:
    """Also to a client that reads late: what the kernel does not take is not written over."""
    ranges = [(start, start + 60_000) for start in range(0, 5000, 100)]
    content = (library / "large.txt").read_bytes()
    async with serving(library, scan=False) as server, server.connect(receive_bytes=4096) as client:
        await ask(client, "/text/large.txt")
        client.received = b""
        asked = [request("/text/large.txt", range=f"bytes={start}-{stop - 1}") for start, stop in ranges]
        await client.send(b"".join(asked))
        await eventually(lambda: len(watch.sent) > 3)
        while client.received.count(b"HTTP/1.1 206") < len(ranges) or not client.received.endswith(
            content[ranges[-1][0] : ranges[-1][1]]
        ):
            assert await client.read()
    responses = Response.all(client.received, ["GET"] * len(ranges))
    assert [response.body for response in responses] == [content[start:stop] for start, stop in ranges]
    assert len(watch.sent) == len(ranges)


@pytest.mark.parametrize("host", [b"", b"Host: a\r\nHost: b\r\n", b"Host: a b\r\n", b"Host: a/b\r\n"])
@pytest.mark.gen_test
async def test_a_request_without_a_proper_host_is_refused(host: bytes, library: Path, watch: Watch) -> None:
    """With 400, as it is the first time."""
    async with serving(library, scan=False) as server, server.connect() as client:
        await ask(client, "/text/a.txt")
        refused = await server.exchange(b"GET /text/a.txt HTTP/1.1\r\n" + host + b"\r\n")
    assert refused.status == 400
    assert (watch.sent, watch.given_up) == ([], 0)


@pytest.mark.gen_test
async def test_a_download_is_not_given_again(library: Path, watch: Watch) -> None:
    """A 304 to it has no Content-Disposition, and the 200 after it must have one."""
    async with serving(library, scan=False) as server, server.connect() as client:
        for _ in range(2):
            not_modified = await ask(client, "/text/a.txt?download=1", if_none_match="*")
            assert (not_modified.status, not_modified.headers.get("Content-Disposition")) == (304, None)
            whole = await ask(client, "/text/a.txt?download=1")
            assert whole.headers["Content-Disposition"].startswith("attachment")
    assert watch.sent == []


@pytest.mark.gen_test
async def test_a_coded_answer_is_not_given_again(library: Path, watch: Watch) -> None:
    """Nor is one that was sent as it is for the sake of its range; each accepted coding has its own."""
    text, gzipped = TEXT.encode(), {"accept_encoding": "gzip"}
    async with serving(library, scan=False) as server, server.connect() as client:
        for _ in range(2):
            assert gzip.decompress((await ask(client, "/text/a.txt", **gzipped)).body) == text
            part = await ask(client, "/text/a.txt", range="bytes=0-5", **gzipped)
            assert (part.status, part.body) == (206, text[:6])
            match = await ask(client, "/text/a.txt", if_match=part.headers["ETag"], **gzipped)
            assert (match.status, match.body) == (200, text)
        assert not watch.sent
        for _ in range(2):
            assert (await ask(client, "/text/a.txt")).body == text
            assert gzip.decompress((await ask(client, "/text/a.txt", **gzipped)).body) == text
    assert len(watch.sent) == 1
