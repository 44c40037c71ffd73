"""Regions of files on their way through the kernel."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError

from handlers import outgoing
from handlers.outgoing import Outgoing, RegionBroken
from media import files
from media.files import LEAST_REGION_BYTES
from media.source import FileRegion, SourceBusy
from tests.conftest import AccessLog, ExpectLog
from tests.serving import Response, eventually, request, serving

pytestmark = [
    pytest.mark.left_out("reads", reason="all of it is about sendfile"),
    pytest.mark.skipif(not outgoing.SUPPORTED, reason="sendfile and RWF_NOWAIT are Linux"),
]


REGION_BYTES = 4 * 1024 * 1024
"""Of the regions here, so that a file of nine megabytes has three."""


@pytest.fixture(autouse=True)
def _small_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REGION_BYTES", REGION_BYTES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of nine megabytes, no two windows of it alike."""
    (tmp_path / "library").mkdir()
    path = tmp_path / "library" / "large.txt"
    path.write_bytes(b"".join(b"%015d\n" % number for number in range(600_000)))
    return path


@pytest.fixture
def content(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.fixture
def ends(io_loop: IOLoop) -> Iterator[tuple[Outgoing, socket.socket]]:
    """A stream, and the socket at its other end, which does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        far = socket.create_connection(listening.getsockname())
        stream = Outgoing(listening.accept()[0])
    far.setblocking(False)
    yield stream, far
    far.close()
    stream.close()


async def arrived(far: socket.socket, length: int) -> bytes:
    """The next `length` bytes."""
    received = b""
    while len(received) < length:
        more = await IOLoop.current().asyncio_loop.sock_recv(far, length - len(received))  # type: ignore[attr-defined]
        assert more
        received += more
    return received


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


PLACES = [
    (0, LEAST_REGION_BYTES - 1),
    (0, LEAST_REGION_BYTES),
    (7, LEAST_REGION_BYTES + 8),
    (0, REGION_BYTES),
    (1, REGION_BYTES + 2),
    (5, 2 * REGION_BYTES + LEAST_REGION_BYTES + 4),
    (0, 9_600_000),
    (9_600_000 - LEAST_REGION_BYTES, 9_600_000),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.gen_test
async def test_the_bytes_are_the_files(
    place: tuple[int, int], path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a region begins and ends, and although it is sent in shares; short ones are read."""
    sent, sendfile = [], os.sendfile
    monkeypatch.setattr(os, "sendfile", lambda *args: sent.append(sendfile(*args)) or sent[-1])
    start, stop = place
    async with serving(path.parent, scan=False) as server:
        response = await server.get("/text/large.txt", range=f"bytes={start}-{stop - 1}")
    assert response.body == content[start:stop]
    by_kernel = (stop - start) // REGION_BYTES * REGION_BYTES
    if stop - start - by_kernel >= LEAST_REGION_BYTES:
        by_kernel = stop - start
    assert sum(sent) == by_kernel


@pytest.mark.gen_test
async def test_several_ranges_are_regions_too(path: Path, content: bytes) -> None:
    """With the framing between them."""
    async with serving(path.parent, scan=False) as server:
        response = await server.get("/text/large.txt", range="bytes=0-99999,5000000-5099999,-3")
    assert response.status == 206
    assert all(part in response.body for part in (content[:100_000], content[5_000_000:5_100_000]))
    assert response.whole


@pytest.mark.gen_test
async def test_a_region_outlives_its_source(
    ends: tuple[Outgoing, socket.socket], path: Path, content: bytes, tmp_path: Path
) -> None:
    """Its number may be another file's by the time it is sent."""
    stream, far = ends
    (tmp_path / "other").write_bytes(b"x" * 1_000_000)
    source = os.open(path, os.O_RDONLY)
    writing = stream.write(stream.placeholder(FileRegion(source, 0, REGION_BYTES)))
    os.close(source)
    other = os.open(tmp_path / "other", os.O_RDONLY)
    assert other == source
    assert await arrived(far, REGION_BYTES) == content[:REGION_BYTES]
    await writing
    os.close(other)
    assert stream.unsent_bytes == 0


@pytest.mark.gen_test
async def test_nothing_is_left_of_one_that_was_not_sent(
    ends: tuple[Outgoing, socket.socket], descriptor: int
) -> None:
    """The stream is closed while the client has taken only a part."""
    stream, _ = ends
    before = open_descriptors()
    for _ in range(20):  # until the socket is full
        writing = stream.write(stream.placeholder(FileRegion(descriptor, 0, REGION_BYTES)))
        if stream.writing():
            await eventually(lambda: stream.unsent_bytes < REGION_BYTES)
            break
    assert open_descriptors() == before + 1
    assert 0 < stream.unsent_bytes < REGION_BYTES
    stream.close()
    assert open_descriptors() == before - 1  # the socket is closed too
    with pytest.raises(StreamClosedError):
        await writing


@pytest.mark.gen_test
async def test_no_descriptor_is_left(
    ends: tuple[Outgoing, socket.socket], descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can still be a status: nothing was written."""

    def dup(number: int) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "dup", dup)
    with pytest.raises(SourceBusy):
        ends[0].placeholder(FileRegion(descriptor, 0, REGION_BYTES))


@pytest.mark.gen_test
async def test_a_stream_sends_its_share_and_lets_others(
    ends: tuple[Outgoing, socket.socket], descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the socket would take."""
    stream, _ = ends
    monkeypatch.setattr(outgoing, "TURN_BYTES", 100_000)
    monkeypatch.setattr(outgoing, "LEAST_TURN_BYTES", 1)
    placeholder = stream.placeholder(FileRegion(descriptor, 0, REGION_BYTES))
    assert [stream.write_to_fd(placeholder) for _ in range(4)] == [100_000, 0, 100_000, 0]
    monkeypatch.setattr(Outgoing, "_sending", 4)
    assert [stream.write_to_fd(placeholder) for _ in range(2)] == [25_000, 0]
    monkeypatch.setattr(Outgoing, "_sending", 1)


@pytest.mark.parametrize("failure", [errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.gen_test
async def test_a_file_that_cannot_be_mapped_is_read(
    failure: int, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems know no sendfile."""

    def sendfile(*args: object) -> int:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(os, "sendfile", sendfile)
    async with serving(path.parent, scan=False) as server:
        response = await server.get("/text/large.txt")
    assert response.body == content


@pytest.mark.gen_test
async def test_a_failing_disk_breaks_the_body(
    path: Path, monkeypatch: pytest.MonkeyPatch, access_log: AccessLog, expect_log: ExpectLog
) -> None:
    """The client sees that it is not whole, the log says why."""
    expect_log("millrace.serve", 30, "reading at byte 0 failed; OSError")

    def sendfile(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "sendfile", sendfile)
    async with serving(path.parent, scan=False) as server:
        response = await server.get("/text/large.txt")
        await eventually(lambda: access_log.endings)
    assert (response.status, response.whole, response.body) == (200, False, b"")
    assert access_log.endings == [("failed", 0)]


@pytest.mark.gen_test
async def test_the_log_tells_what_the_client_was_sent(path: Path, access_log: AccessLog) -> None:
    """Not what was put on the way: of a region that is not sent whole, the part that is."""
    async with serving(path.parent, scan=False) as server:
        async with server.connect(request("/text/large.txt"), receive_bytes=4096) as client:
            await client.read(1000)
            client.reset()
        await eventually(lambda: access_log.endings)
    outcome, length = access_log.endings[0]
    assert outcome == "disconnected"
    assert 0 < length < 9_600_000


@pytest.mark.gen_test
async def test_requests_follow_each_other_on_a_connection(path: Path, content: bytes) -> None:
    """Regions, small bodies and no bodies, pipelined."""
    targets = ["/text/large.txt", "/healthz", "/text/large.txt?2", "/healthz"]
    methods = ["GET", "GET", "HEAD", "GET"]
    asked = b"".join(request(target, method) for target, method in zip(targets, methods, strict=True))
    async with serving(path.parent, scan=False) as server, server.connect(asked) as client:
        await client.until(b"\r\n\r\nok\n", 2)
        responses = Response.all(client.received, methods)
    assert [response.body for response in responses] == [content, b"ok\n", b"", b"ok\n"]


def test_a_broken_region_is_not_logged_by_tornado() -> None:
    """It takes it for a reset."""
    assert RegionBroken(errno.ECONNRESET, "the disk").strerror == "the disk"
