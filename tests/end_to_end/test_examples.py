"""docs/own_streams.md: its examples, as they stand there, and those of examples/my_streams.py."""

import csv
import hashlib
import io
import json
import re
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from pathlib import Path

import pytest

from media.own import load
from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process, program, until
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "own_streams.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:python|html)\n((?:#|{#) (\S+)(?: #})?\n.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {name: text for text, name in BLOCK.findall(PAGE)}
MODULES = [name for name in FILES if name.endswith(".py")]
FEED_LIFE_SECONDS = 20


class Feed(BaseHTTPRequestHandler):
    """Another server's events, numbered behind Last-Event-ID; five of them, and then silence."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        first = int(self.headers.get("Last-Event-ID", "0")) + 1
        for number in range(first, first + 5):
            self.wfile.write(b'id: %d\ndata: {"change": %d}\n\n' % (number, number))
        self.over.wait(FEED_LIFE_SECONDS)

    def log_message(self, *args: object) -> None:
        """Nowhere."""


@pytest.fixture(scope="module")
def feed() -> Iterator[str]:
    """The address of another server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Feed) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/feed"
        Feed.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, beside each other."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that is written to."""
    path = tmp_path_factory.mktemp("log") / "app.log"
    path.write_text("one\ntwo\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with 5000 orders, of which every second one is large."""
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, day TEXT, customer TEXT, total INT)")
        connection.executemany(
            "INSERT INTO orders VALUES (?, '2026-05-01', 'A, \"B\"', ?)",
            ((number, number % 2 * 100) for number in range(1, 5001)),
        )
    return path


@pytest.fixture(scope="module")
def server(
    folder: Path, feed: str, log_file: Path, shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """One server of all of them."""
    environment = {
        "FEED": feed,
        "FOLDER": str(folder),
        "LOG_FILE": str(log_file),
        "SHOP_DATABASE": f"sqlite+aiosqlite:///{shop}",
    }
    flags = [flag for name in MODULES for flag in ("--streams", str(folder / name))]
    process = Process(tmp_path_factory.mktemp("server"), flags, environment)
    try:
        yield process.started()
    finally:
        process.stop()


@contextmanager
def opened(
    server: Process, target: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> Iterator[HTTPResponse]:
    """A response whose body is read as it comes; the client leaves at the end."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    with closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, headers=named)
        yield connection.getresponse()


def events(response: HTTPResponse, count: int = 0) -> list[dict[str, str]]:
    """The next events, by their fields; 0: all, to the end of the body."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    while line := response.readline().decode():
        name, _, value = line.removesuffix("\n").partition(": ")
        if name and value:
            fields[name] = value
        elif line == "\n":
            found += [fields] if "data" in fields else []
            fields = {}
            if found and len(found) == count:
                break
    return found


def records(response: HTTPResponse, count: int) -> list[dict[str, object]]:
    """The next records of NDJSON."""
    lines = (line for line in iter(response.readline, b"") if line.strip())
    found = [json.loads(line) for line in islice(lines, count)]
    assert len(found) == count
    return found


# --- the page ---


def test_every_example_is_on_the_page() -> None:
    """Ten, and those in front of and behind them."""
    assert len(re.findall(r"^## [0-9]+\. ", PAGE, re.MULTILINE)) == 10
    assert len(MODULES) == 12
    assert PAGE.count("```python\n") == len(MODULES)


def test_every_link_leads_somewhere() -> None:
    """To a heading of docs/http.md."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "http.md").read_text(encoding="utf-8"), re.MULTILINE)
    there = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    assert set(re.findall(r"\(http\.md#([\w-]+)\)", PAGE)) <= there


def test_the_readme_has_a_module(tmp_path: Path) -> None:
    """It can be loaded as it stands there."""
    [(text, name)] = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert set(load(str(tmp_path / name))) == {"greetings"}


def test_every_command_asks_for_a_stream_that_is_there(server: Process) -> None:
    """And no stream is without a command; all are listed, with a title."""
    listed = {row["name"]: row for row in json.loads(server.get("/streams")[1])["streams"]}
    asked = set(re.findall(r"127\.0\.0\.1:8888/stream/([\w.]+)", PAGE))
    shipped = {"lines", "hello", "clock", "events", "large.csv", "large.html"}
    assert set(listed) - shipped == asked
    assert all(listed[name]["title"] for name in asked)
    [hertz] = listed["tone.mp3"]["parameters"]
    assert (hertz["name"], hertz["default"], hertz["maximum"]) == ("hertz", 440, 20000)


def test_thirty_seconds(server: Process) -> None:
    """What the page shows, in every format; what is wrong is named."""
    with opened(server, "/stream/greetings?name=Ada&every=0.01") as response:
        assert records(response, 2) == [{"number": number, "text": "Hello Ada!"} for number in (1, 2)]
    with opened(server, "/stream/greetings?every=0.01&format=sse") as response:
        assert events(response, 2)[1] == {"id": "2", "data": '{"number":2,"text":"Hello World!"}'}
    with opened(server, "/stream/greetings?every=0.01&format=csv") as response:
        assert [response.readline() for _ in range(2)] == [b"number,text\r\n", b"1,Hello World!\r\n"]
    status, body = server.get("/stream/greetings?every=often")
    assert status == 400
    assert json.loads(body)["detail"] == 'every must be a valid number, not "often"'


# --- the ten ---


def test_a_clock(server: Process) -> None:
    """It tells the time, and keeps to what its parameter may be."""
    with opened(server, "/stream/ticks?every=0.05") as response:
        times = [datetime.fromisoformat(str(record["time"])) for record in records(response, 3)]
    assert times == sorted(times)
    assert abs(datetime.now(UTC) - times[-1]) < timedelta(seconds=20)
    assert server.get("/stream/ticks?every=0")[0] == 400


def test_the_progress_of_a_job(server: Process) -> None:
    """Started once, watched from its beginning and from an id on, and forgotten."""
    target = "/stream/resize?album=may"
    assert server.get(target)[0] == 404
    states = []
    for _ in range(2):
        with opened(server, f"{target}&pictures=5", "POST") as response:
            states.append((response.status, json.load(response)["state"]))
    assert states[0] == (202, "running")
    assert states[1][0] == 200
    with opened(server, f"{target}&format=sse") as response:
        seen = events(response, 2)
    with opened(server, f"{target}&format=sse", Last_Event_ID=seen[-1]["id"]) as response:
        seen += events(response)
    progress = [json.loads(event["data"]) for event in seen if event["event"] == "progress"]
    assert progress == [{"done": done, "of": 5} for done in range(1, 6)]
    assert [event["event"] for event in seen[-2:]] == ["result", "end"]
    assert json.loads(seen[-2]["data"]) == {"album": "may", "url": "/albums/may.zip"}
    with opened(server, target, "DELETE") as response:
        assert response.status == 204
    assert server.get(target)[0] == 404


def test_the_tail_of_a_log(server: Process, log_file: Path) -> None:
    """From some lines before the end on, and what is written meanwhile; also behind a rotation."""
    with opened(server, "/stream/log?tail=1") as response:
        assert response.readline() == b"two\n"
        with log_file.open("a", encoding="utf-8") as log:
            log.write("three\n")
        assert response.readline() == b"three\n"
        log_file.rename(log_file.with_suffix(".1"))
        log_file.write_text("four\n", encoding="utf-8")
        assert response.readline() == b"four\n"


def test_a_table_as_csv(server: Process) -> None:
    """Only what was asked for, counted, and joined where it broke off."""
    target = "/stream/orders.csv?least=100"
    with opened(server, target) as response:
        assert response.headers["X-Total-Count"] == "2500"
        whole = response.read().decode()
    found = list(csv.DictReader(io.StringIO(whole, newline="")))
    assert [row["id"] for row in found] == [str(number) for number in range(1, 5001, 2)]
    assert found[0] == {"id": "1", "day": "2026-05-01", "customer": 'A, "B"', "total": "100"}
    first, _, _ = whole.partition("3001,")
    status, rest = server.get(f"{target}&after=2999")
    assert status == 200
    assert first + rest.decode() == whole
    assert server.get("/stream/orders.csv?least=much")[0] == 400


def test_the_tokens_of_a_language_model(server: Process) -> None:
    """As events, and as text; no prompt is refused."""
    with opened(server, "/stream/chat?prompt=hello") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        *tokens, usage, end = events(response)
    assert "".join(json.loads(event["data"])["text"] for event in tokens) == "You said: hello."
    assert {event["event"] for event in tokens} == {"token"}
    assert (usage["event"], usage["data"], end["event"]) == ("usage", '{"tokens":5}', "end")
    assert server.get("/stream/chat.txt?prompt=hello+you") == (200, b"You said: hello you.")
    status, body = server.get("/stream/chat?prompt=+")
    assert (status, json.loads(body)["detail"]) == (400, "prompt must not be empty")
    assert server.get("/stream/chat")[0] == 400


def test_notifications_of_postgresql(start: Starter, folder: Path, postgresql: PostgreSQL) -> None:
    """Two clients have one connection."""
    address = postgresql.url.replace("+asyncpg", "")
    server = start("--streams", str(folder / "orders.py"), environment={"ORDERS_DATABASE": address})
    with opened(server, "/stream/orders?format=sse") as one:
        assert json.loads(events(one, 1)[0]["data"]) == {"state": "listening"}
        with opened(server, "/stream/orders?format=ndjson") as other:
            postgresql.execute("""NOTIFY orders, '{"id": 7}'""")
            assert json.loads(events(one, 1)[0]["data"]) == {"id": 7}
            assert records(other, 1)[0]["data"] == {"id": 7}
            assert len([line for line in postgresql.activity() if "LISTEN" in line]) == 1


def test_two_streams_as_one(server: Process) -> None:
    """Items of both come, each kind in its order."""
    with opened(server, "/stream/weather") as response:
        found = records(response, 6)
    assert {record["kind"] for record in found} == {"temperature", "wind"}
    celsius = [record["celsius"] for record in found if record["kind"] == "temperature"]
    assert celsius == [*range(10, 10 + len(celsius))]


def test_a_library_that_blocks(server: Process, folder: Path) -> None:
    """Every file, with the checksum that it has."""
    status, body = server.get("/stream/checksums?suffix=.py")
    assert status == 200
    found = {row["path"]: row["sha256"] for row in csv.DictReader(io.StringIO(body.decode(), newline=""))}
    assert found == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MODULES}


def test_another_servers_feed(server: Process) -> None:
    """Its events, its ids, and going on behind one of them."""
    with opened(server, "/stream/changes", Last_Event_ID="7") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert events(response, 2) == [
            {"id": "8", "data": '{"change": 8}'},
            {"id": "9", "data": '{"change": 9}'},
        ]


def test_audio_from_a_process(server: Process) -> None:
    """MP3 as it is made; when the client has left there is no process."""
    program("ffmpeg")
    children = Path(f"/proc/{server.popen.pid}/task/{server.popen.pid}/children")
    before = children.read_text()
    with opened(server, "/stream/tone.mp3?hertz=523") as response:
        assert response.headers["Content-Type"] == "audio/mpeg"
        piece = response.read(4000)
        assert children.read_text() != before
    assert b"\xff\xfb" in piece
    until(lambda: children.read_text() == before, 10)


# --- templates, and what is shipped ---


def test_a_template(server: Process) -> None:
    """Its head comes before its last row; what its functions refuse is a status."""
    with opened(server, "/stream/report?day=2026-05-02&hours=3") as response:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        page = response.read().decode()
    assert "<h1>The Mill, 2026-05-02</h1>" in page
    assert page.count("<tr>") == 3
    assert page.endswith("<p>You asked for /stream/report, 2026-05-02.")
    tomorrow = date.today() + timedelta(days=2)
    status, body = server.get(f"/stream/report?day={tomorrow}")
    assert (status, json.loads(body)["detail"]) == (404, "That day has not been yet.")
    assert server.get("/stream/report?day=today")[0] == 400


@pytest.fixture(scope="module")
def shipped(feed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of examples/my_streams.py."""
    flags = ("--streams", "examples/my_streams.py")
    process = Process(tmp_path_factory.mktemp("shipped"), flags, {"WEATHER_URL": feed})
    try:
        yield process.started()
    finally:
        process.stop()


def test_the_shipped_examples(shipped: Process) -> None:
    """One row of each kind, and each gives what it says."""
    with opened(shipped, "/stream/ticks?every=0.05") as response:
        assert set(records(response, 2)[1]) == {"time"}
    with opened(shipped, "/stream/prices?format=sse") as response:
        assert "price" in events(response, 1)[0]["data"]
    with opened(shipped, "/stream/count?most=2", "POST") as posted:
        assert posted.status == 202
    with opened(shipped, "/stream/count") as response:
        assert [event["data"] for event in events(response, 2)] == ['{"done":1,"of":2}', '{"done":2,"of":2}']
    with opened(shipped, "/stream/news?format=sse") as response:
        with opened(shipped, "/stream/news", "POST", b"some", Content_Type="text/plain") as posted:
            assert posted.status == 202
        assert events(response, 1)[0]["data"] == "some"
    assert b"STREAMS = {" in shipped.get("/stream/my_streams.py")[1]
    status, body = shipped.get("/stream/orders.csv")
    assert (status, body.count(b"\r\n")) == (200, 10001)
    assert b"<tr><td>2<td>4" in shipped.get("/stream/report.html?hours=3")[1]
    with opened(shipped, "/stream/weather") as response:
        assert events(response, 1) == [{"id": "1", "data": '{"change": 1}'}]


def test_the_shipped_tone(shipped: Process) -> None:
    """It is as long as it says, and swings as often as it was asked to."""
    status, body = shipped.get("/stream/tone.wav?seconds=1&hertz=100")
    assert (status, len(body)) == (200, 44 + 2 * 8000)
    assert (body[:4], body[8:12], struct.unpack("<I", body[4:8])[0]) == (b"RIFF", b"WAVE", len(body) - 8)
    samples = struct.unpack("<8000h", body[44:])
    rising = sum(before < 0 <= after for before, after in pairwise(samples))
    assert 98 <= rising <= 100
