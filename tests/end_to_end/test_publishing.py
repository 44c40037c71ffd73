"""Publishing with curl, as people and scripts do it, and as many events as there may be."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, run, surroundings, until

MEGABYTE = 1000 * 1000
TEXT = ("-H", "Content-Type: text/plain")
LINES = ("-H", "Content-Type: application/x-ndjson")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.left_out("processes", reason="a channel lives in one process"),
]


FLAGS = ("--channels", "jobs", "--publish-token", "s3cret")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server to whose channel `jobs` whoever knows the token publishes."""
    process = Process(tmp_path_factory.mktemp("publishing"), FLAGS)
    try:
        yield process.started()
    finally:
        process.stop()


@pytest.fixture
def server(shared: Process, tmp_path: Path) -> Process:
    """The same without a history."""
    bearer = ("-H", "Authorization: Bearer s3cret")
    done = run(tmp_path, program("curl"), "-sSf", "-X", "DELETE", *bearer, f"{shared.url}/stream/jobs")
    assert (done.returncode, done.stdout) == (0, b"")
    return shared


def curl(
    folder: Path, server: Process, *arguments: str, token: str = "s3cret"
) -> tuple[int, dict[str, object]]:
    """Publish to `jobs`: the status, and the answer."""
    bearer = ("-H", f"Authorization: Bearer {token}")
    shown = ("-sS", "-w", "\n%{http_code}")
    done = run(folder, program("curl"), *shown, *bearer, *arguments, f"{server.url}/stream/jobs")
    assert (done.returncode, done.stderr) == (0, b"")
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)


def events(server: Process) -> list[object]:
    """The data of the channel's events."""
    _, body = server.get("/stream/jobs?format=json&last_event_id=earliest")
    return [event["data"] for event in json.loads(body)["events"]]


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ((*TEXT, "-d", "Hello"), ["Hello"]),
        (("--json", '{"a": 1}'), [{"a": 1}]),
        ((*LINES, "--data-binary", "@lines"), [0, 1, 2]),
        ((*LINES, "-T", "lines", "-X", "POST"), [0, 1, 2]),
        ((*LINES, "-T", "lines", "-X", "POST", "-H", "Transfer-Encoding: chunked"), [0, 1, 2]),
        ((*LINES, "-T", "lines", "-X", "POST", "-H", "Expect: 100-continue"), [0, 1, 2]),
        ((*LINES, "-T", "lines", "-X", "POST", "--http1.0"), [0, 1, 2]),
    ],
    ids=["text", "json", "data", "upload", "chunked", "expect", "http-1.0"],
)
def test_curl_publishes(
    server: Process, tmp_path: Path, arguments: tuple[str, ...], data: list[object]
) -> None:
    """In each of its ways to send a body."""
    (tmp_path / "lines").write_text("0\n1\n2\n")
    status, answer = curl(tmp_path, server, *arguments)
    assert (status, answer["published"]) == (202, len(data))
    assert events(server) == data


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
@pytest.mark.parametrize(
    ("media_type", "token", "status"), [(LINES, "wrong", 403), (TEXT, "s3cret", 413), (LINES, "s3cret", 413)]
)
def test_a_refusal_reaches_curl(
    server: Process, tmp_path: Path, media_type: tuple[str, ...], token: str, status: int, expect: str
) -> None:
    """Which has 20 MB to send, whether it waits for 100 (Continue) or not."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(20 * MEGABYTE)
    sent = ("-T", "large", "-X", "POST", "-H", expect)
    found, answer = curl(tmp_path, server, *media_type, *sent, token=token)
    assert (found, answer["status"]) == (status, status)
    assert events(server) == []


def test_a_million_events(start: Starter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Published as they come, while others are answered; memory stays that of the history."""
    server = start(*FLAGS)
    many = 1_000_000
    with (tmp_path / "million").open("w") as file:
        file.writelines(f'{{"number": {number}}}\n' for number in range(many))
    before = server.memory("VmHWM")
    began = time.monotonic()
    command = (
        program("curl"),
        "-sS",
        *LINES,
        "-H",
        "Authorization: Bearer s3cret",
        "-T",
        "million",
        "-X",
        "POST",
    )
    publishing = subprocess.Popen(
        (*command, f"{server.url}/stream/jobs"),
        cwd=tmp_path,
        env=surroundings(tmp_path),
        stdout=subprocess.PIPE,
    )
    slowest = 0.0
    while publishing.poll() is None:
        asked = time.monotonic()
        assert server.get("/healthz")[0] == 200
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.05)
    seconds = time.monotonic() - began
    answer, _ = publishing.communicate()
    more = (server.memory("VmHWM") - before) / MEGABYTE
    with capsys.disabled():
        sys.stdout.write(
            f"\na million events: {seconds:.1f} s, {more:.1f} MB, a small answer in {slowest * 1000:.0f} ms\n"
        )
    assert json.loads(answer)["published"] == many
    assert events(server) == [{"number": number} for number in range(many - 1000, many)]
    assert more < 10  # 1 was measured
    assert seconds < 60  # 4 were measured


def test_a_publisher_is_told_of_a_drain(start: Starter, tmp_path: Path) -> None:
    """One whose body has no end is answered with how far it came, and the server ends."""
    server = start(*FLAGS)
    bearer = ("-H", "Authorization: Bearer s3cret")
    with subprocess.Popen(
        (program("curl"), "-sSN", *LINES, *bearer, "-T", ".", "-X", "POST", f"{server.url}/stream/jobs"),
        cwd=tmp_path, env=surroundings(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as publishing:  # fmt: skip
        assert publishing.stdin is not None
        assert publishing.stdout is not None
        publishing.stdin.write(b"1\n2\n")
        publishing.stdin.flush()
        until(lambda: events(server) == [1, 2], 10)
        server.signal(15)
        answer = json.loads(publishing.stdout.read())
        assert (answer["status"], answer["published"]) == (503, 2)
        assert server.ended() == 0


def test_several_processes_have_no_channels_of_their_own(start: Starter, tmp_path: Path) -> None:
    """A start with both is refused, and publishing to a channel that is shipped."""
    server = start("--processes", "2")
    status = run(tmp_path, program("curl"), "-sS", *TEXT, "-d", "x", f"{server.url}/stream/events").stdout
    assert "start it with --processes 1" in json.loads(status)["detail"]
    refused = run(tmp_path, sys.executable, str(Path.cwd() / "run.py"), "--processes", "2", "--channels", "a")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"millrace: --channels must be left out with several processes")
