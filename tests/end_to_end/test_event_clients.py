"""Clients of channels that others wrote: each comes back by itself, and nothing is lost unsaid.

Chromium's EventSource, the npm package `eventsource` and Python's httpx-sse follow side by side, so that they
wait for their reconnects, up to five seconds each, together.
"""

import ast
import json
import select
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.certificates import make_pair
from tests.end_to_end.conftest import Starter
from tests.end_to_end.nginx import example, free_port, http_part, main_part, nginx
from tests.end_to_end.process import ROOT, Process, program, surroundings, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.left_out("processes", reason="each process has channels of its own"),
]

NPM_PACKAGE = "eventsource@3"
"""The newest that runs with the Node.js of Debian 12."""

Seen = list[list[str | None]]
"""What a client was given, in order: each event's name, data and id."""

FLAGS = ("--channels", "jobs,quiet", "--heartbeat", "0.3")
RETURN_SECONDS = 20
"""A client comes back within five; the machine may be busy."""

FOLLOW = """address => {
    const seen = [];
    const source = new EventSource(address);
    for (const name of ['message', 'price', 'gap'])
        source.addEventListener(name, event => seen.push([name, event.data, event.lastEventId]));
    source.onerror = () => { if (source.readyState === source.CLOSED) seen.push(['closed', null, null]); };
    (window.followed ??= []).push(seen);
    return window.followed.length - 1;
}"""
PUBLISH = """address => fetch(address, {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{"from": "a page"}',
}).then(answer => answer.json(), error => error.name)"""
FETCH_LINES = """async address => {
    const response = await fetch(address);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    window.lines = [];
    let text = '';
    (async () => {
        for (;;) {
            text += (await reader.read()).value;
            const whole = text.split('\\n');
            text = whole.pop();
            window.lines.push(...whole.filter(line => line).map(line => JSON.parse(line).data));
        }
    })();
}"""
ADDRESS_IN_DOCS = "http://127.0.0.1:8888/stream/events"
NODE = """import { EventSource } from 'eventsource';
const source = new EventSource(process.argv[2]);
for (const name of ['message', 'price', 'gap'])
    source.addEventListener(name, event =>
        console.log(JSON.stringify([name, event.data, event.lastEventId])));
"""


class Wire(socketserver.ThreadingTCPServer):
    """A way to a server that can be cut."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.behind = port
        self.cut_at: bytes | None = None
        self.cuts = 0

    def cut_behind(self, last_words: bytes) -> None:
        """Reset each connection behind the first place where the server says these words on it."""
        self.cut_at, self.cuts = last_words, 0


class _Relay(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire = self.server
        assert isinstance(wire, Wire)
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", wire.behind)) as server:
            ways = {self.request: server, server: self.request}
            while True:
                for ready in select.select(ways, (), ())[0]:
                    passed = ready.recv(65536)
                    place = passed.find(wire.cut_at) if wire.cut_at and ready is server else -1
                    if place >= 0:
                        self.request.sendall(passed[: place + len(wire.cut_at or b"")])
                        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.request.close()
                        wire.cuts += 1
                        return
                    if not passed:
                        return
                    ways[ready].sendall(passed)


@pytest.fixture
def wire() -> Iterator[Callable[[Process], Wire]]:
    """Make wires."""
    with ExitStack() as stack:

        def made(server: Process) -> Wire:
            wire = stack.enter_context(Wire(server.port))
            stack.callback(wire.shutdown)
            threading.Thread(target=wire.serve_forever, args=(0.05,), daemon=True).start()
            return wire

        yield made


@pytest.fixture(scope="module")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node.js finds the package; a skip where it cannot be had."""
    folder = tmp_path_factory.mktemp("npm")
    retries = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000")
    install = (
        program("npm"),
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        *retries,
        NPM_PACKAGE,
    )
    # With the machine's settings: where packages come from is among them.
    try:
        subprocess.run(install, cwd=folder, capture_output=True, timeout=40, check=True)
    except subprocess.SubprocessError as error:
        pytest.skip(f"npm cannot install {NPM_PACKAGE}: {error}")
    return folder


class Clients:
    """Starts clients. Each gives what it has seen so far when it is asked."""

    def __init__(self, page: Page, npm_folder: Path, folder: Path, stack: ExitStack) -> None:
        self.page = page
        self._npm_folder = npm_folder
        self._folder = folder
        self._stack = stack
        self._count = 0

    def chromium(self, address: str) -> Callable[[], Seen]:
        """Its EventSource, on the page that is open."""
        number = self.page.evaluate(FOLLOW, address)
        return lambda: self.page.evaluate("number => window.followed[number]", number)  # type: ignore[no-any-return]

    def npm(self, address: str) -> Callable[[], Seen]:
        """The package `eventsource` under Node.js."""
        (self._npm_folder / "follow.mjs").write_text(NODE)
        return self._program(program("node"), str(self._npm_folder / "follow.mjs"), address)

    def python(self, address: str) -> Callable[[], Seen]:
        """httpx-sse, in the loop that docs/http.md has."""
        text = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
        blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
        [loop] = [block for block in blocks if block.count(ADDRESS_IN_DOCS) == 1]
        return self._program(sys.executable, "-c", loop.replace(ADDRESS_IN_DOCS, address))

    def _program(self, *command: str) -> Callable[[], Seen]:
        self._count += 1
        out = self._folder / f"seen{self._count}"
        with out.open("wb") as file:
            running = subprocess.Popen(
                command, env=surroundings(self._folder), stdin=subprocess.DEVNULL, stdout=file
            )

        def stop() -> None:
            left = running.poll()
            running.kill()
            running.wait()
            assert left is None, f"it ended by itself: {left}"

        self._stack.callback(stop)
        # Lists of strings, which JSON and Python write alike.
        return lambda: [ast.literal_eval(line) for line in out.read_text().splitlines()]


@pytest.fixture
def clients(browser: Browser, npm_folder: Path, tmp_path: Path) -> Iterator[Clients]:
    """All three of them."""
    with ExitStack() as stack:
        context = browser.new_context(ignore_https_errors=True)
        stack.callback(context.close)
        context.set_default_timeout(15_000)
        yield Clients(context.new_page(), npm_folder, tmp_path, stack)


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[Process]:
    """A server that the test may kill."""
    server = Process(folder, flags)
    try:
        yield server.started()
    finally:
        if server.popen.poll() is None:
            server.stop()


def publish(server: Process, channel: str, *lines: str, **headers: str) -> str:
    """Publish one event; with `event` its name. Gives its id."""
    event = headers.pop("event", "")
    with httpx.Client(trust_env=False) as client:
        answer = client.post(
            f"{server.url}/stream/{channel}",
            params={"event": event} if event else {},
            content="\n".join(lines),
            headers={"Content-Type": "text/plain", **headers},
        )
    assert answer.status_code == 202, answer.text
    id_ = answer.json()["id"]
    assert isinstance(id_, str)
    return id_


def followed_by(server: Process, channel: str, number: int) -> None:
    """Wait until so many follow the channel."""

    def subscribers() -> int:
        listed = json.loads(server.get("/streams")[1])["streams"]
        return sum(row["channel"]["subscribers"] for row in listed if row["name"] == channel)

    until(lambda: subscribers() == number, RETURN_SECONDS)


def same(clients: Sequence[Callable[[], Seen]], expected: Seen) -> None:
    """Wait until each client has seen as much, and hold it to exactly that."""
    for seen in clients:
        until(lambda seen=seen: len(seen()) >= len(expected), RETURN_SECONDS)
        assert seen() == expected


def test_cut_connection_loses_and_doubles_nothing(
    clients: Clients, start: Starter, wire: Callable[[Process], Wire]
) -> None:
    """Each is cut in the middle of an event, or before its first one, comes back by itself, and has every
    event once: names, line breaks and letters as they were published."""
    server = start(*FLAGS, "--cors-origin", "*")
    line, other_line = wire(server), wire(server)
    clients.page.goto(f"{line.url}/healthz")
    address, quiet = f"{line.url}/stream/jobs", f"{other_line.url}/stream/quiet"
    following = [clients.chromium(address), clients.npm(address), clients.python(address)]
    idle = [clients.chromium(quiet), clients.python(quiet)]
    followed_by(server, "jobs", 3)
    followed_by(server, "quiet", 2)
    other_line.cut_behind(b":\n")
    expected: Seen = [["message", "first", publish(server, "jobs", "first")]]
    expected += [["price", "3 €\n한글\n", publish(server, "jobs", "3 €", "한글", "", event="price")]]
    same(following, expected)
    line.cut_behind(b"data: half of thi")
    expected += [["message", "half of this", publish(server, "jobs", "half of this")]]
    until(lambda: line.cuts == 3 and other_line.cuts == 2, 10)
    line.cut_at = other_line.cut_at = None
    missed = publish(server, "quiet", "missed")
    expected += [["message", f"missed {n}", publish(server, "jobs", f"missed {n}")] for n in range(20)]
    same(following, expected)
    same(idle, [["message", "missed", missed]])
    expected += [["price", "", publish(server, "jobs", "", event="price")]]
    same(following, expected)


def test_killed_server_is_one_gap(clients: Clients, tmp_path: Path) -> None:
    """Started anew on its port: who had seen an event, and who had seen none, comes back by itself, is told
    once of the gap, and has all of the new run.

    The npm package forgets an id that came without data; who uses it asks for the earliest.
    """
    with running(tmp_path / "first", *FLAGS) as server:
        clients.page.goto(f"{server.url}/healthz")
        jobs, quiet = f"{server.url}/stream/jobs", f"{server.url}/stream/quiet"
        busy = [clients.chromium(jobs), clients.npm(jobs), clients.python(jobs)]
        idle = [clients.chromium(quiet), clients.python(quiet)]
        asking = [clients.npm(f"{quiet}?last_event_id=earliest")]
        followed_by(server, "jobs", 3)
        followed_by(server, "quiet", 3)
        before = publish(server, "jobs", "before")
        same(busy, [["message", "before", before]])
        server.signal(signal.SIGKILL)
        server.ended()
    with running(tmp_path / "second", *FLAGS, "--port", str(server.port)) as server:
        after = [publish(server, channel, "after") for channel in ("jobs", "quiet")]
        followed_by(server, "jobs", 3)
        followed_by(server, "quiet", 3)
        last = [publish(server, channel, "last") for channel in ("jobs", "quiet")]
        news = [[["message", "after", after[n]], ["message", "last", last[n]]] for n in (0, 1)]
        for seen in busy:
            came_back(seen, [["message", "before", before]], before, news[0])
        for seen in idle:
            came_back(seen, [], nothing_yet(before), news[1])
        same(asking, news[1])


def test_drained_server_is_one_gap(clients: Clients, tmp_path: Path) -> None:
    """The same after SIGTERM, with Chromium behind examples/nginx.conf: of its 502 an EventSource would never
    come back."""
    flags = (*FLAGS, "--trusted-proxies", "127.0.0.1")
    with ExitStack() as stack:
        with running(tmp_path / "first", *flags) as server:
            port = free_port()
            conf = example(tmp_path, make_pair(tmp_path / "pair"), server.port, port)
            stack.enter_context(nginx(tmp_path, conf, port, expected="Connection refused"))
            clients.page.goto(f"https://localhost:{port}/healthz")
            address = f"{server.url}/stream/jobs"
            following = [clients.chromium("/stream/jobs"), clients.npm(address), clients.python(address)]
            followed_by(server, "jobs", 3)
            before = publish(server, "jobs", "before")
            same(following, [["message", "before", before]])
        log = tmp_path / "access.log"
        until(lambda: '"GET /stream/jobs HTTP/2.0" 444 ' in log.read_text(), RETURN_SECONDS)
        with running(tmp_path / "second", *flags, "--port", str(server.port)) as server:
            after = publish(server, "jobs", "after")
            for seen in following:
                came_back(seen, [["message", "before", before]], before, [["message", "after", after]])


def came_back(seen: Callable[[], Seen], had: Seen, last_event_id: str, news: Seen) -> None:
    """Hold a client to one gap between what it had and what is new; it may have come before that was."""
    until(lambda: seen()[-1:] == news[-1:], RETURN_SECONDS)
    told = seen()
    assert told[: len(had)] + told[len(had) + 1 :] == had + news
    name, data, id_ = told[len(had)]
    gap = json.loads(data or "")
    first_id = news[0][2] or ""
    assert (name, gap["last_event_id"]) == ("gap", last_event_id)
    assert gap["first_id"] in (first_id, None)
    assert place_of(nothing_yet(first_id)) <= place_of(id_) < place_of(first_id)


def place_of(id_: str | None) -> tuple[str, int]:
    """Epoch and number."""
    epoch, _, number = (id_ or "").partition("-")
    return epoch, int(number)


def nothing_yet(id_: str) -> str:
    """The id, of the same run, of who has seen no event."""
    return f"{id_.partition('-')[0]}-0"


def test_page_of_another_origin_follows_and_publishes(
    clients: Clients, start: Starter, samples: Process
) -> None:
    """Where `--cors-origin` names it, and nowhere else."""
    server = start(*FLAGS, "--cors-origin", samples.url)
    clients.page.goto(f"{samples.url}/healthz")
    seen = clients.chromium(f"{server.url}/stream/jobs")
    followed_by(server, "jobs", 1)
    published = clients.page.evaluate(PUBLISH, f"{server.url}/stream/jobs")
    same([seen], [["message", '{"from": "a page"}', published["id"]]])
    clients.page.goto(f"{server.url}/healthz")
    assert clients.page.evaluate(PUBLISH, f"{samples.url}/stream/events") == "TypeError"
    same([clients.chromium(f"{samples.url}/stream/events")], [["closed", None, None]])


def test_lines_arrive_at_curl_urllib_and_fetch(clients: Clients, start: Starter, tmp_path: Path) -> None:
    """One by one, by those that know nothing of events."""
    server = start(*FLAGS)
    address = f"{server.url}/stream/jobs"
    clients.page.goto(f"{server.url}/healthz")
    clients.page.evaluate(FETCH_LINES, f"{address}?format=ndjson")
    curl = subprocess.Popen(
        [program("curl"), "-sSN", address],
        env=surroundings(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        with urllib.request.urlopen(f"{address}?format=text&heartbeat=0", timeout=20) as lines:
            followed_by(server, "jobs", 3)
            for number in range(5):
                id_ = publish(server, "jobs", f"line {number}")
                assert lines.readline().decode() == f"line {number}\n"
                assert curl.stdout is not None
                assert f"id: {id_}\n".encode() in iter(curl.stdout.readline, b"")
                assert curl.stdout.readline().decode() == f"data: line {number}\n"
                clients.page.wait_for_function("line => window.lines.includes(line)", arg=f"line {number}")
    finally:
        curl.kill()
        curl.communicate()
    told = clients.page.evaluate("window.lines")
    assert told == [f"line {number}" for number in range(5)]


@dataclass(frozen=True)
class Fronts:
    """A Millrace and the ports of an nginx before it, by how that is configured."""

    millrace: Process
    ports: dict[str, int]


WAYS_OF_NGINX = {
    "plain": "",  # as nginx has it: buffering on, HTTP/1.0 inside
    "kept": 'proxy_http_version 1.1; proxy_set_header Connection "";',
    "gzip": "gzip on; gzip_min_length 1; gzip_types text/event-stream application/x-ndjson text/plain;",
}


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronts]:
    """nginx with `proxy_buffering on` and little else."""
    folder = tmp_path_factory.mktemp("fronts")
    with running(folder / "millrace", "--channels", "jobs") as millrace:
        ports = {way: free_port() for way in WAYS_OF_NGINX}
        servers = "".join(
            f"server {{ listen 127.0.0.1:{ports[way]}; proxy_buffering on; {conf} "
            f"location / {{ proxy_pass http://127.0.0.1:{millrace.port}; }} }}\n"
            for way, conf in WAYS_OF_NGINX.items()
        )
        http = f"http {{ {http_part(folder)} access_log off; {servers} }}"
        with nginx(folder, f"{main_part(folder)} events {{}} {http}", ports["plain"]):
            yield Fronts(millrace, ports)


@pytest.mark.parametrize("form", ["sse", "ndjson", "text"])
@pytest.mark.parametrize("way", WAYS_OF_NGINX)
def test_event_is_not_held_back_by_nginx(fronts: Fronts, way: str, form: str) -> None:
    """Small or larger than nginx's buffers, each is with the client soon after it was published."""
    connection = HTTPConnection("127.0.0.1", fronts.ports[way], timeout=2)
    with closing(connection):
        connection.request("GET", f"/stream/jobs?format={form}", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        decoder = zlib.decompressobj(wbits=31) if way == "gzip" else None
        assert answer.getheader("Content-Encoding", "") == ("gzip" if decoder else "")
        followed_by(fronts.millrace, "jobs", 1)
        for number in range(6):
            words = f"event {number} " + "word " * (number % 2 * 10_000) + "."
            publish(fronts.millrace, "jobs", words)
            text = b""
            while words.encode() not in text:  # TimeoutError: it is held back
                read = answer.read1(65536)
                text += decoder.decompress(read) if decoder else read
    followed_by(fronts.millrace, "jobs", 0)
