"""Texts, as people read them: with curl, with HTTPie, and as events."""

import json
import os
import pty
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.end_to_end.process import ROOT, Process, program, run, surroundings

pytestmark = pytest.mark.slow

SAMPLES = ROOT / "media" / "samples"
LYRIC = (SAMPLES / "text_sample").read_bytes()

Events = list[dict[str, str]]


def events_of(stream: bytes) -> Events:
    """The fields of each event; the stream must end with a whole one."""
    blocks = stream.decode().removesuffix("\n\n").split("\n\n")
    assert stream.endswith(b"\n\n")
    return [dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":") for block in blocks]


def httpie(folder: Path, *arguments: str) -> list[str]:
    """The command, and settings that keep it from looking for a newer version of itself."""
    (folder / "config.json").write_text(json.dumps({"disable_update_warnings": True}))
    return [sys.executable, "-m", "httpie", "--ignore-stdin", *arguments]


def test_text_is_the_file_byte_for_byte(samples: Process, tmp_path: Path) -> None:
    """What curl saves is what lies in the library."""
    done = run(tmp_path, program("curl"), "-sf", f"{samples.url}/text?file_name=text_sample")
    assert (done.returncode, done.stdout) == (0, LYRIC)


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.txt")))
def test_every_sample_arrives_as_utf8(samples: Process, name: str) -> None:
    """Whatever its encoding: the CP949 one is what Python decodes it to."""
    raw = (SAMPLES / name).read_bytes()
    expected = raw.decode("cp949") if "cp949" in name else raw.decode()
    status, body = samples.get(f"/text/{name}")
    assert (status, body.decode()) == (200, expected)


def test_every_text_is_listed(samples: Process) -> None:
    """The list's addresses lead to the texts."""
    _, body = samples.get("/text")
    listed = {file["name"]: file for file in json.loads(body)["files"]}
    assert {"text_sample", "korean_cp949.txt", "mill_stream.txt"} <= listed.keys()
    for name, file in listed.items():
        assert file["length"] == (SAMPLES / name).stat().st_size
        assert samples.get(file["url"])[0] == 200


def test_every_line_is_an_event(samples: Process) -> None:
    """The data are the lines in order; an id is the offset just behind its line; the end says the length."""
    _, body = samples.get("/text?file_name=text_sample", accept="text/event-stream")
    *lines, end = events_of(body)
    assert [event.get("data", "") for event in lines] == LYRIC.decode().splitlines()
    for event, line in zip(lines, LYRIC.splitlines(keepends=True), strict=True):
        assert LYRIC[: int(event["id"])].endswith(line)
    assert (end["event"], json.loads(end["data"])) == ("end", {"length": len(LYRIC)})


def test_events_go_on_where_the_connection_broke(samples: Process) -> None:
    """A client that is cut in the middle and comes back with its last id has each line once."""
    _, whole = samples.get("/text?file_name=text_sample&format=sse")
    connection = HTTPConnection("127.0.0.1", samples.port, timeout=20)
    target = "/text?file_name=text_sample&pace=0.02"
    with closing(connection):
        connection.request("GET", target, headers={"Accept": "text/event-stream"})
        response = connection.getresponse()
        received = b""
        while received.count(b"\n\n") < 7:
            received += response.readline()
    first = events_of(received)
    _, body = samples.get(
        "/text?file_name=text_sample", accept="text/event-stream", last_event_id=first[-1]["id"]
    )
    assert first + events_of(body) == events_of(whole)


def test_events_resume_behind_any_line(samples: Process) -> None:
    """Whichever event was the last, the rest is the rest; who has them all gets 204."""
    _, body = samples.get("/text?file_name=korean_cp949.txt&format=sse")
    events = events_of(body)
    for seen in range(1, len(events) - 1):
        last = events[seen - 1]["id"]
        _, body = samples.get("/text?file_name=korean_cp949.txt&format=sse", last_event_id=last)
        assert events_of(body) == events[seen:]
    status, body = samples.get("/text?file_name=korean_cp949.txt&format=sse", last_event_id=events[-1]["id"])
    assert (status, body) == (204, b"")


def test_httpie_piped(samples: Process, tmp_path: Path) -> None:
    """The tutorial's own client, into a pipe."""
    command = httpie(tmp_path, "--stream", "--body", f"{samples.url}/text?file_name=text_sample")
    done = run(tmp_path, *command)
    assert (done.returncode, done.stdout) == (0, LYRIC)


@pytest.mark.parametrize("flags", [["--stream"], []], ids=["stream", "whole"])
def test_httpie_on_a_terminal(samples: Process, tmp_path: Path, flags: list[str]) -> None:
    """The tutorial's own client, as a person sees it: no character is cut in two."""
    ours, theirs = pty.openpty()
    command = httpie(tmp_path, *flags, "--body", f"{samples.url}/text?file_name=text_sample")
    client = subprocess.Popen(
        command,
        env=surroundings(tmp_path, {"HTTPIE_CONFIG_DIR": str(tmp_path), "TERM": "xterm"}),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # EIO: the last one who could write has gone
                break
        assert client.wait(20) == 0
    finally:
        os.close(ours)
        client.kill()
        client.wait()
    # Streaming to a terminal HTTPie ends every line twice, so empty ones are left out.
    assert [line for line in shown.decode().split("\r\n") if line] == [
        line for line in LYRIC.decode().split("\n") if line
    ]
