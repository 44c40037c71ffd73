"""Files that a library may hold and nobody planned for."""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, run

pytestmark = pytest.mark.slow

MEGABYTE = 1024**2
GIGABYTE = 1024**3


def tracks(server: Process) -> dict[str, dict[str, object]]:
    """The catalogue by title."""
    status, body = server.get("/audio")
    assert status == 200
    return {track["title"]: track for track in json.loads(body)["tracks"]}


def test_broken_tags(start: Starter, library: Path) -> None:
    """The file name is the title, there is one warning, and the bytes are served as they are."""
    content = b"ID3\x03\x00\x00\x00\x00\x7f\x7fTIT2\xff\xff\xff\xff" + bytes(range(256)) * 40
    (library / "garbled song.mp3").write_bytes(content)
    server = start("--media", str(library))
    server.expect_log("WARNING millrace.library: the tags of 'garbled song.mp3' are not complete")
    track = tracks(server)["garbled song"]
    assert (track["artist"], track["album"], track["duration_seconds"]) == (None, None, None)
    assert server.get(f"/audio/{track['id']}") == (200, content)
    server.logged("library scanned")
    assert server.log.count("garbled") == 1


def test_empty_files(start: Starter, library: Path) -> None:
    """A track and a text of zero bytes are there, with a length of 0 (RFC 9110 §14 for the ranges)."""
    (library / "nothing.mp3").touch()
    (library / "nothing.txt").touch()
    server = start("--media", str(library))
    server.expect_log("'nothing.mp3' are not complete: it is empty")
    track = tracks(server)["nothing"]
    assert track["length"] == 0
    assert server.get(f"/audio/{track['id']}") == (200, b"")
    assert server.get(f"/audio/{track['id']}", range="bytes=0-")[0] == 416
    assert server.get("/text/nothing.txt") == (200, b"")


@pytest.mark.timeout(180)
def test_five_gigabytes(start: Starter, library: Path, tmp_path: Path) -> None:
    """Offsets beyond 32 bits: a range at 4.9 GB of a sparse file, and all of it, in flat memory."""
    length = 5 * GIGABYTE
    at = int(4.9 * GIGABYTE)
    with (library / "huge.wav").open("wb") as file:
        file.truncate(length)
        file.seek(at)
        file.write(b"millrace")
    server = start("--media", str(library))
    server.expect_log("'huge.wav' are not complete")
    track = tracks(server)["huge"]
    assert track["length"] == length
    assert server.get(f"/audio/{track['id']}", range=f"bytes={at - 2}-{at + 9}") == (206, b"\0\0millrace\0\0")
    assert server.get(f"/audio/{track['id']}", range=f"bytes={length}-")[0] == 416
    done = run(tmp_path, program("curl"), "-sI", f"{server.url}/audio/{track['id']}")
    assert f"Content-Length: {length}\r\n".encode() in done.stdout
    idle = server.memory("VmRSS")
    received, tail = 0, b""
    with urlopen(f"{server.url}/audio/{track['id']}", timeout=20) as response:
        while chunk := response.read(4 * MEGABYTE):
            if received <= at < received + len(chunk):
                tail = chunk[at - received :][:8]
            received += len(chunk)
    assert (received, tail) == (length, b"millrace")
    assert server.memory("VmHWM") - idle < 16 * MEGABYTE


def test_longest_name(start: Starter, library: Path) -> None:
    """255 bytes, the most that a file system takes, in Korean; one more is a 404 and no error."""
    title = "소" * 83 + "xx"
    (library / f"{title}.mp3").write_bytes(b"content")
    text = "리" * 85
    assert len(f"{title}.mp3".encode()) == len(text.encode()) == 255
    (library / text).write_text("본문")
    server = start("--media", str(library))
    server.expect_log("are not complete")
    assert server.get(f"/audio/{tracks(server)[title]['id']}") == (200, b"content")
    assert server.get(f"/text/{quote(text)}") == (200, "본문".encode())
    assert server.get(f"/text/{quote(text)}x")[0] == 404


def powerless() -> list[str]:
    """The command of a server that may not read everything: root may, unless it gives that up."""
    command = [sys.executable, "run.py"]
    if os.geteuid() != 0:
        return command
    return [program("setpriv"), "--bounding-set=-dac_override,-dac_read_search", *command]


def test_unreadable_files(start: Starter, library: Path) -> None:
    """What this user may not read is 404 and in the log; it is catalogued neither at once nor for ever."""
    secret, shut = library / "secret.txt", library / "shut.mp3"
    for path in (secret, shut):
        path.write_text("secret")
        path.chmod(0)
    server = start("--media", str(library), command=powerless())
    server.expect_log("WARNING millrace.library: cannot read 'shut.mp3': Permission denied")
    server.expect_log("WARNING millrace.files: cannot read 'secret.txt': permission denied")
    assert tracks(server) == {}
    assert server.get("/text/secret.txt")[0] == 404
    server.logged("cannot read 'shut.mp3'")
    server.logged("cannot read 'secret.txt'")
    assert json.loads(server.get("/text")[1]) == {"files": []}


def test_track_that_becomes_unreadable(start: Starter, library: Path) -> None:
    """One that is in the catalogue and was shut since: 404, and the cause in the log."""
    path = library / "track.mp3"
    path.write_bytes(b"content")
    server = start("--media", str(library), command=powerless())
    server.expect_log("'track.mp3' are not complete")
    server.expect_log("WARNING millrace.files: cannot read 'track.mp3': permission denied")
    assert server.get("/audio/1") == (200, b"content")
    path.chmod(0)
    assert server.get("/audio/1")[0] == 404
    server.logged("cannot read 'track.mp3': permission denied")
