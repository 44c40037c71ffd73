"""`--streams` and `--reload`: a user's own module in a server of its own, from the start to its end."""

import json
import os
import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page

from media.records import FORMATS
from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, run, until
from tests.end_to_end.test_start import refused
from tests.handlers.test_formats import items_of

pytestmark = pytest.mark.slow

MINE = """
import asyncio, sys, threading
from beside_it import GREETING
from media.streams import channel, generated, shared

async def ticks(request, *, every: float = 0.01, name: str = GREETING):
    "Ticks without end."
    print("ticks has begun", file=sys.stderr, flush=True)
    try:
        while True:
            yield {"name": name}
            await asyncio.sleep(every)
    finally:
        print("ticks has ended", file=sys.stderr, flush=True)

def blocked(request):
    yield "it begins"
    threading.Event().wait()

def exits(request):
    yield "it begins"
    sys.exit(3)

async def exits_at_once(request):
    raise SystemExit(4)

STREAMS = {
    "ticks": generated(ticks, live=True),
    "sensors/north/높이-höhe": generated(ticks, live=True),
    "blocked": generated(blocked, first="text"),
    "exits": generated(exits, first="text"),
    "exits-at-once": generated(exits_at_once),
    "jobs/höhe": channel(title="Jobs"),
    "export/höhe": shared(ticks, detached=True),
}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A module, and one beside it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "beside_it.py").write_text('GREETING = "hello"\n')
    path = folder / "my_streams.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def first_line(server: Process, target: str) -> bytes:
    """Of a body; then its client leaves."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", target)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    line = response.readline()
    connection.close()
    return line


def test_own_streams_are_served(start: Starter, mine: Path) -> None:
    """With their parameters, in the list, and under names with slashes and letters of any script."""
    server = start("--streams", str(mine))
    assert first_line(server, "/stream/ticks?name=n") == b'{"name":"n"}\n'
    assert first_line(server, "/stream/ticks") == b'{"name":"hello"}\n'
    status, body = server.get("/stream/ticks?every=soon")
    assert (status, json.loads(body)["detail"]) == (400, 'every must be a valid number, not "soon"')
    names = ["sensors/north/높이-höhe", "sensors/north/높이-ho\u0308he"]
    for target in [quote(name) for name in names] + [quote(names[0], safe="")]:
        assert first_line(server, f"/stream/{target}") == b'{"name":"hello"}\n'
    listed = {row["name"]: row for row in json.loads(server.get("/streams")[1])["streams"]}
    assert listed["ticks"]["title"] == "Ticks without end"
    assert listed["ticks"]["parameters"] == [
        {"name": "every", "required": False, "default": 0.01, "type": "number"},
        {"name": "name", "required": False, "default": "hello", "type": "string"},
    ]
    url = listed["sensors/north/높이-höhe"]["url"]
    assert first_line(server, url) == b'{"name":"hello"}\n'
    until(lambda: server.log.count("ticks has begun") == server.log.count("ticks has ended") == 6, 5)


def test_head_of_an_own_stream_starts_nothing(start: Starter, mine: Path) -> None:
    """Not even of one that would fail; a wrong parameter is found all the same."""
    server = start("--streams", str(mine))
    for target, status in (("ticks", 200), ("exits-at-once", 200), ("ticks?every=x", 400)):
        connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("HEAD", f"/stream/{target}")
        assert connection.getresponse().status == status
        connection.close()
    server.logged("HEAD .*every=x 400")
    assert "ticks has begun" not in server.log


@pytest.mark.left_out("processes", reason="each process has channels of its own")
def test_a_channel_with_a_long_name(start: Starter, mine: Path, tmp_path: Path) -> None:
    """It may have one that others may not, and so may a job: published to and followed, in either form."""
    curl = program("curl")
    server = start("--streams", str(mine))
    server.expect_log("the job is cancelled, for the server ends")
    for name, number in (("jobs/höhe", 1), ("jobs/ho\u0308he", 2)):
        url = f"{server.url}/stream/{quote(name)}"
        done = run(tmp_path, curl, "-s", "--json", '{"a": 1}', url)
        assert json.loads(done.stdout)["published"] == 1
        status, body = server.get(f"/stream/{quote(name)}?format=json&last_event_id=earliest")
        assert status == 200
        events = json.loads(body)["events"]
        assert [event["channel"] for event in events] == ["jobs/höhe"] * number
        posted = run(
            tmp_path, curl, "-s", "-X", "POST", f"{server.url}/stream/{quote(name.replace('jobs', 'export'))}"
        )
        assert json.loads(posted.stdout)["state"] == "running"


def test_what_a_function_raises_is_no_end_of_the_server(start: Starter, mine: Path, tmp_path: Path) -> None:
    """SystemExit, from a thread in the middle and from a task at once."""
    curl = program("curl")
    server = start("--streams", str(mine))
    server.expect_log("failed|broke off|Traceback")
    done = run(tmp_path, curl, "-sN", f"{server.url}/stream/exits")
    assert (done.returncode, done.stdout) == (18, b"it begins\n")
    assert server.get("/stream/exits-at-once")[0] == 500
    assert server.get("/healthz")[0] == 200


def test_a_thread_that_blocks_does_not_hold_up_the_end(start: Starter, mine: Path) -> None:
    """Its client has left, and the process ends as soon as it would."""
    server = start("--streams", str(mine))
    assert first_line(server, "/stream/blocked") == b"it begins\n"
    server.logged("GET /stream/blocked 200 disconnected")
    began = time.monotonic()
    server.stop()
    assert time.monotonic() < began + 4


SLOW = """
import asyncio
from media.streams import generated

async def slow(request):
    for number in range(3):
        yield {"n": number, "text": "=1+1, \\"a\\"\\nb"}
        await asyncio.sleep(0.5)

STREAMS = {"slow": generated(slow)}
"""


@pytest.mark.parametrize("how", [(), ("--compressed",), ("--http1.0",)], ids=["plain", "coded", "http_1_0"])
def test_curl_reads_over_heartbeats(start: Starter, mine: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    """Each format is whole, and its readers see the items alone."""
    curl = program("curl")
    mine.write_text(SLOW)
    server = start("--streams", str(mine), "--heartbeat", "0.1")
    for form, form_facts in FORMATS.items():
        done = run(tmp_path, curl, "-sN", *how, f"{server.url}/stream/slow?format={form}")
        assert done.returncode == 0
        assert done.stdout.count(form_facts.heartbeat) >= 6
        items = items_of(form, done.stdout)
        assert [int(item[0] if form == "csv" else item["n"]) for item in items] == [0, 1, 2]


def test_a_browser_reads_over_heartbeats_and_stops_at_the_end(start: Starter, mine: Path, page: Page) -> None:
    """Its EventSource gets the items alone; it comes back once, with the id of the end, and then no more."""
    mine.write_text(SLOW)
    server = start("--streams", str(mine), "--heartbeat", "0.1")
    page.goto(server.url)
    seen = page.evaluate(
        """() => new Promise(resolve => {
            const seen = [], source = new EventSource('/stream/slow');
            source.onmessage = event => seen.push([event.lastEventId, JSON.parse(event.data).n]);
            source.addEventListener('end', event => seen.push([event.lastEventId, event.type]));
            source.onerror = () => { if (source.readyState === source.CLOSED) resolve(seen); };
        })"""
    )
    assert seen == [["1", 0], ["2", 1], ["3", 2], ["(end)", "end"]]
    server.logged("GET /stream/slow 204")


def test_two_modules(start: Starter, mine: Path) -> None:
    """Their streams are there together."""
    other = mine.with_name("other.py")
    other.write_text(MINE.replace('"ticks":', '"tocks":').partition('    "sensors')[0] + "}\n")
    server = start("--streams", str(mine), "--streams", str(other))
    assert first_line(server, "/stream/ticks") == first_line(server, "/stream/tocks")


REFUSED: dict[str, tuple[str, list[str], str]] = {
    # what stands in the module, further flags, the sentence
    "ours": ('STREAMS = {"clock": channel(title="A")}', [],
             '--streams: {mine} has a stream "clock", and that name is one of Millrace itself'),
    "of_channels": ('STREAMS = {"jobs": channel(title="A")}', ["--channels", "a,jobs"],
                    '--channels must be names that no stream has, not "jobs"'),
    "of_another": ('STREAMS = {"jobs": channel(title="A")}', ["--streams", "{copy}"],
                   '--streams: {copy} has a stream "jobs", and that name is one of another module'),
    "constructor": ("STREAMS = {\n    'five': generated(5),\n}", [],
                    "--streams: {mine} fails: my_streams.py, line 3, 'five': generated(5),: TypeError: 5 is"
                    " not a function: give the function itself, and do not call it"),
    "import": ("import no_such_module", [],
               "--streams: {mine} fails: my_streams.py, line 2, import no_such_module:"
               " ModuleNotFoundError: No module named 'no_such_module'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_modules_that_are_refused(mine: Path, tmp_path: Path, case: str) -> None:
    """Exit code 2 and one sentence."""
    lines, flags, sentence = REFUSED[case]
    mine.write_text(f"from media.streams import channel, generated\n{lines}\n")
    copy = mine.with_name("copy.py")
    copy.write_text(mine.read_text())
    flags = [flag.format(copy=copy) for flag in flags]
    told = refused(tmp_path, "--port", "0", "--streams", str(mine), *flags)
    assert told == sentence.format(mine=mine, copy=copy)


def test_a_module_that_fails_in_several_processes(mine: Path, tmp_path: Path) -> None:
    """The first one says so, and none is begun."""
    mine.write_text("x = 1 / 0\n")
    told = refused(tmp_path, "--port", "0", "--processes", "2", "--streams", str(mine))
    assert told == (
        f"--streams: {mine} fails: my_streams.py, line 1, x = 1 / 0: ZeroDivisionError: division by zero"
    )


# --- --reload ---


@pytest.fixture
def reloading(start: Starter, mine: Path) -> Callable[..., Process]:
    """A server that looks at that module, on a port that stays."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return lambda **how: start("--streams", str(mine), "--reload", "--port", str(port), **how)


def greeted(server: Process, greeting: str) -> bool:
    """Whether it serves this version; while it starts anew it answers nothing."""
    try:
        return first_line(server, "/stream/ticks") == f'{{"name":"{greeting}"}}\n'.encode()
    except OSError:
        return False


@pytest.mark.left_out("processes", reason="only with one process")
def test_the_server_starts_anew_when_a_module_changes(reloading: Callable[..., Process], mine: Path) -> None:
    """The module, or one beside it, written in place or put in its place: same process, same port."""
    server = reloading()
    assert greeted(server, "hello")
    beside = mine.with_name("beside_it.py")
    beside.write_text('GREETING = "world"\n')
    until(lambda: greeted(server, "world"), 15)
    new = mine.with_name("new")
    new.write_text(MINE.replace("name: str = GREETING", 'name: str = "moved"'))
    os.utime(new, (1, 1))
    new.rename(mine)
    until(lambda: greeted(server, "moved"), 15)
    assert server.popen.poll() is None
    mine.with_name("unrelated.py").write_text("x = 1\n")
    mine.with_name("beside_it.py").touch()
    server.logged("(?s)(starting anew.*){3}")
    until(lambda: greeted(server, "moved"), 15)
    assert server.log.count("starting anew") == 3


@pytest.mark.left_out("processes", reason="only with one process")
def test_a_change_that_fails_is_waited_out(reloading: Callable[..., Process], mine: Path) -> None:
    """The log says the sentence; the next change is another try."""
    server = reloading()
    server.expect_log("ERROR millrace: --streams: .* waiting for a change")
    mine.write_text(MINE.replace("async def ticks", "async def ticks(", 1))
    found = server.logged(r"--streams: .*my_streams.py fails: my_streams.py, line [0-9]+, .*")
    assert "SyntaxError" in found[0]
    mine.write_text("import " + "not_yet_there\n" + MINE)
    server.logged("No module named 'not_yet_there'; waiting for a change")
    mine.with_name("not_yet_there.py").write_text("x = 1\n")
    until(lambda: greeted(server, "hello"), 15)


@pytest.mark.left_out("processes", reason="only with one process")
def test_one_that_waits_for_a_change_can_be_stopped(reloading: Callable[..., Process], mine: Path) -> None:
    """In order: the end of the test is one."""
    mine.write_text("x = 1 / 0\n")
    server = reloading(wait=False)
    server.expect_log("ERROR millrace: --streams: .* waiting for a change")
    server.logged("waiting for a change")
    assert server.popen.poll() is None
