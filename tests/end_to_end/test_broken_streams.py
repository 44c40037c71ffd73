"""Streams that break at random places: the client can tell, nothing is left, and what goes on is joined.

Two servers with the same module of streams: one relays what the other has. The seed of each test stands in
the message of its failure.
"""

import http.client
import json
import random
import re
import sqlite3
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import quote

import pytest

from media.query import FIRST_ROWS
from tests.end_to_end.process import Process, program, run, surroundings, until
from tests.end_to_end.test_exports import last_key, whole_rows
from tests.postgresql import PostgreSQL
from tests.serving import Response, request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.left_out("processes", reason="each process has runs and descriptors of its own"),
]

POINTS = 50
WITH_CURL = 15
AT_ONCE = 8
BREAKS = 20
JOBS = 3
ROWS = 20_000
ROW_BYTES = 130
"""Of a row and of an item, on average."""

BEGUN = 30_000
"""Bytes; where it breaks behind them its first chunk has been sent."""

FURTHEST = 200_000
"""Bytes; more than the kernel takes of them while nobody reads."""

MODULE = """
import asyncio, os, sys, threading, time
from media.streams import generated, relay, rows, shared, template

OTHER = os.environ.get("OTHER", "http://127.0.0.1:1")
GO_ON = threading.Event()


def record(n):
    return {"n": n, "name": 'a, "' + "x" * (n * 7919 % 200)}


async def items(request, *, fails_at: int = 10**12, pause: float = 0.0005, name: str = ""):
    n = given = 0
    while given < fails_at:
        yield record(n)
        n, given = n + 1, given + 130
        if n % 7 == 0:
            await asyncio.sleep(pause)
    raise LookupError("it broke")


def in_thread(request, *, fails_at: int = 10**12):
    n = given = 0
    while given < fails_at:
        yield record(n)
        n, given = n + 1, given + 130
        if n % 7 == 0:
            time.sleep(0.0005)
    raise LookupError("it broke")


async def sleeper(request):
    try:
        yield {"n": 0}
        await asyncio.sleep(60)
    finally:
        print("woken:", request.path, file=sys.stderr, flush=True)


def blocked(request):
    try:
        yield {"n": 0}
        GO_ON.wait(60)
        yield {"n": 1}
    finally:
        print("woken:", request.path, file=sys.stderr, flush=True)


async def go_on(request):
    GO_ON.set()
    yield {}


async def held(request):
    "What the process holds; its pool of threads stays."
    yield {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "threads": sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate()),
    }


def numbers(url, broken, wide):
    query = f"SELECT n, name || {wide} AS name, CASE WHEN n = :fails THEN {broken} END AS b"
    declared = {"fails": (int, 0), "most": (int, 20000), "wide": (int, 0)}
    return rows(url, query + " FROM numbers WHERE n <= :most", key="n", parameters=declared)


STREAMS = {
    "task": generated(items),
    "thread": generated(in_thread),
    "sqlite": numbers(os.environ["SQLITE"], "abs(-9223372036854775807 - 1)", "hex(zeroblob(:wide))"),
    "postgresql": numbers(os.environ["POSTGRESQL"], "goes_away()", "repeat('x', :wide)"),
    "template": template("page.html", rows=items),
    "relay": relay(f"{OTHER}/stream/task", args=("fails_at", "format")),
    "shared": shared(items, linger=0, key="name"),
    "job": shared(items, detached=True, key="name"),
    "sleeps/task": generated(sleeper),
    "sleeps/relay": relay(f"{OTHER}/stream/sleeps/task"),
    "sleeps/shared": shared(sleeper, linger=0),
    "blocked": generated(blocked),
    "go-on": generated(go_on),
    "held": generated(held),
}
"""

PAGE = "<ul>{% for row in rows %}<li>{{ row.n }} {{ row.name }}</li>\n{% endfor %}</ul>"

RECORDS = ("text", "ndjson", "json", "csv", "sse")
FOLLOWED = ("text", "ndjson", "sse")
KINDS: dict[str, tuple[str, ...]] = {
    "task": RECORDS,
    "thread": RECORDS,
    "sqlite": RECORDS,
    "postgresql": RECORDS,
    "template": ("html",),
    "relay": RECORDS,
    "shared": FOLLOWED,
    "job": FOLLOWED,
}
"""Each kind of stream, and what it is asked for as."""

ROWS_OF = ("sqlite", "postgresql")

FAILURES = r"Traceback|broke off|failed|LookupError|SourceBroken|terminating connection"


@dataclass(frozen=True)
class Servers:
    """One that has everything, and the one behind its relays. `environment` is that of the first."""

    here: Process
    there: Process
    flags: tuple[str, ...]
    environment: dict[str, str]

    def settled(self) -> dict[str, int]:
        """What they hold when that has been the same for a while."""
        seen = [self.held()]

        def same() -> bool:
            seen.append(self.held())
            return seen[-10:] == seen[-1:] * 10

        until(same, 10)
        return seen[-1]

    def held(self) -> dict[str, int]:
        """What the two hold."""
        return {
            f"{name} of {server.port}": count
            for server in (self.here, self.there)
            for name, count in json.loads(server.get("/stream/held")[1]).items()
        }


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[Servers]:
    """Both, with the same rows in SQLite and in PostgreSQL."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "streams.py").write_text(MODULE)
    (folder / "page.html").write_text(PAGE)
    with closing(sqlite3.connect(folder / "numbers.db")) as connection, connection:
        connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany(
            "INSERT INTO numbers VALUES (?, ?)",
            ((n, 'a, "' + "\r\n" * (n % 3) + "x" * (n * 7919 % 200)) for n in range(1, ROWS + 1)),
        )
    postgresql.execute("DROP TABLE IF EXISTS numbers")
    postgresql.execute(
        "CREATE TABLE numbers AS SELECT n, 'a, \"' || repeat(E'\\r\\n', n % 3)"
        f" || repeat('x', (n * 7919 % 200)) AS name FROM generate_series(1, {ROWS}) AS n"
    )
    postgresql.execute("ALTER TABLE numbers ADD PRIMARY KEY (n)")
    postgresql.execute("ANALYZE numbers")
    # STABLE, which it is not: else the first page would call it for every row of the table.
    postgresql.execute(
        "CREATE OR REPLACE FUNCTION goes_away() RETURNS text STABLE LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
    )
    environment = {"SQLITE": f"sqlite+aiosqlite:///{folder}/numbers.db", "POSTGRESQL": postgresql.url}
    flags = ("--streams", str(folder / "streams.py"))
    with ExitStack() as stack:

        def started(name: str) -> Process:
            server = Process(folder / name, flags, environment)
            stack.callback(server.stop)
            server.expect_log(FAILURES)
            return server.started()

        there = started("there")
        environment["OTHER"] = there.url
        yield Servers(started("here"), there, flags, environment)


@dataclass(frozen=True)
class Point:
    """A request, and the place at which it breaks, in bytes: about that, where the server does it."""

    kind: str
    number: int
    form: str
    place: int
    version: str
    coding: str
    with_curl: bool = False
    by_reset: bool = False

    @classmethod
    def at_random(cls, kind: str, number: int, chance: random.Random) -> "Point":
        """At the very beginning, near it, or anywhere."""
        forms = KINDS[kind]
        place = chance.choice([0, 1, chance.randrange(2000), chance.randrange(FURTHEST)])
        version, coding = chance.choice(["1.1", "1.1", "1.0"]), chance.choice(["identity", "gzip"])
        form = forms[number % len(forms)]
        return cls(kind, number, form, place, version, coding, number < WITH_CURL, chance.random() < 0.5)

    def target(self, *, failing: bool) -> str:
        """Of its request."""
        number = self.number if failing or self.kind != "job" else self.number % JOBS
        target = f"/stream/{self.kind}?name=n{number}" + f"&format={self.form}" * (self.form != "html")
        if not failing:
            return target
        return target + (
            f"&fails={self.place // ROW_BYTES + 1}" if self.kind in ROWS_OF else f"&fails_at={self.place}"
        )


def points(kind: str, seed: int) -> list[Point]:
    chance = random.Random(seed)
    return [Point.at_random(kind, number, chance) for number in range(POINTS)]


def side_by_side(work: Callable[[Point], str], points: list[Point], seed: int) -> None:
    """Do it for all of them, a few at once; a text that comes of it is what is wrong."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = {point: found for point, found in zip(points, pool.map(work, points), strict=True) if found}
    assert not wrong, f"seed {seed}: {wrong}"


# --- the server breaks ---


def asked_for(server: Process, method: str, target: str) -> int:
    """The status of the answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request(method, target)
        return connection.getresponse().status


def start_job(server: Process, target: str) -> int:
    return asked_for(server, "POST", target)


def received(server: Process, target: str, version: str, coding: str) -> Response:
    """Everything until the server closes."""
    with server.connect() as client:
        asked = request(target, version=version, connection="close", accept_encoding=coding)
        client.sendall(asked)
        parts = []
        try:
            while more := client.recv(65536):
                parts.append(more)
        except ConnectionResetError:
            return Response.parsed(b"".join(parts) or b"HTTP/1.0 000 reset\r\n\r\n", reset=True)
        return Response.parsed(b"".join(parts))


def seems_whole(server: Process, folder: Path, point: Point) -> str:
    """How a client could take what it got for the whole; empty: it cannot."""
    target = point.target(failing=True)
    if point.kind == "job" and start_job(server, target) >= 500:
        return "" if point.place == 0 else "the job was not begun"
    if point.with_curl:
        curl = (program("curl"), "-sSfN", "--max-time", "40", f"--http{point.version}")
        done = run(folder, *curl, "-H", f"Accept-Encoding: {point.coding}", server.url + target)
        if done.returncode == 0:
            return "curl's exit code is 0"
        return untold(point, done.stdout) if done.returncode != 22 else untimely(point, done.stderr)
    response = received(server, target, point.version, point.coding)
    if response.status >= 500:
        return untimely(point, response.body)
    if response.whole:
        return f"a whole body of {len(response.body)} bytes"
    return untold(point, response.body)


def untimely(point: Point, said: bytes) -> str:
    """What is wrong with a status; empty: nothing, for there was nothing to send yet."""
    return "" if point.place < BEGUN else f"no body, but {said!r}"


def untold(point: Point, body: bytes) -> str:
    """What is wrong with the body of a broken stream; empty: nothing."""
    if point.place == 0:
        return "no status, although nothing was sent"
    if point.form == "sse" and point.version == "1.1" and not re.search(rb"\n\nevent: error\n.*\n\n\Z", body):
        return f"no event says so: {body[-100:]!r}"
    if point.coding == "gzip" and body[:2] == b"\x1f\x8b":
        decoder = zlib.decompressobj(31)
        body = decoder.decompress(body)
        if decoder.eof:
            return "gzip has an end"
    if point.form == "json":
        with suppress(ValueError):
            json.loads(body)
            return "an array with an end"
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_can_tell(kind: str, servers: Servers, tmp_path: Path) -> None:
    """Its function fails, its database or the other server is cut, at 50 random places, in each format."""
    seed = random.randrange(10**9)
    side_by_side(partial(seems_whole, servers.here, tmp_path), points(kind, seed), seed)


def downloading(server: Process, folder: Path, target: str, *options: str) -> "subprocess.Popen[bytes]":
    """curl, at a moderate pace, into a file named after what is asked."""
    command = (program("curl"), "-sSfN", "--max-time", "40", "--limit-rate", "2M", *options)
    file = folder / quote(" ".join((target, *options)), safe="")
    return subprocess.Popen(
        (*command, "-o", file, server.url + target), env=surroundings(folder), stderr=subprocess.DEVNULL
    )


def test_a_server_that_is_killed(servers: Servers, tmp_path: Path) -> None:
    """By SIGKILL, beneath 48 downloads: curl can tell, also where the end of the connection is the body's."""
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    folder = tmp_path / "got"
    folder.mkdir()
    server = Process(tmp_path / "server", servers.flags, servers.environment).started()
    downloads: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
    try:
        assert start_job(server, "/stream/job?name=a") == 202
        for kind, forms in KINDS.items():
            for version in ("1.0", "1.1") * 3:
                target = f"/stream/{kind}?name=a&n={len(downloads)}&wide=1000"
                target += f"&format={chance.choice(forms)}" * (kind != "template")
                # Coded, all the rows would fit into the kernel's buffers, and be whole there.
                coding = "identity" if kind in ROWS_OF else chance.choice(("identity", "gzip"))
                asked = (target, f"--http{version}", "-H", f"Accept-Encoding: {coding}")
                downloads[asked] = downloading(server, folder, *asked)
        until(lambda: len(list(folder.iterdir())) == len(downloads), 30)
        enough = chance.randrange(len(downloads) * 20_000)
        until(lambda: sum(file.stat().st_size for file in folder.iterdir()) >= enough, 20)
        server.popen.kill()
        codes = {asked: download.wait(20) for asked, download in downloads.items()}
        assert set(codes.values()) <= {18, 56}, f"seed {seed}: {codes}"
    finally:
        server.popen.kill()
        server.popen.wait()
        for download in downloads.values():
            download.kill()
            download.wait()


# --- the client leaves ---


def leave(server: Process, point: Point) -> str:
    """Read up to the place, and go."""
    with server.connect(receive_bytes=8192) as client:
        asked = request(point.target(failing=False), version=point.version, accept_encoding=point.coding)
        client.sendall(asked)
        # A job goes on slowly: what it has is soon read.
        wanted = min(point.place, 5000) if point.kind == "job" or point.coding == "gzip" else point.place
        got = 0
        while got < wanted:
            more = client.recv(min(65536, wanted - got))
            if not more:
                return f"it ended after {got} bytes"
            if not got and more[:12] != b"HTTP/1.1 200"[: len(more)]:
                return repr(more[:100])
            got += len(more)
        if point.by_reset:
            client.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_clients_that_leave_leave_nothing(kind: str, servers: Servers, postgresql: PostgreSQL) -> None:
    """At 50 random places: no descriptor, task, thread, connection to another server or to a database."""
    seed = random.randrange(10**9)
    if kind == "job":
        for number in range(JOBS):
            assert start_job(servers.here, f"/stream/job?name=n{number}&pause=0.02") == 202
    before = servers.settled()
    side_by_side(partial(leave, servers.here), points(kind, seed), seed)

    def left() -> dict[str, int]:
        now = servers.held()
        return {name: now[name] for name in now if now[name] > before[name]}

    until(lambda: not left(), 3)  # it is far less; the machine may be busy
    until(lambda: not postgresql.activity(), 3)
    for number in range(JOBS if kind == "job" else 0):
        assert asked_for(servers.here, "DELETE", f"/stream/job?name=n{number}") == 204


@pytest.mark.parametrize("name", ["task", "relay", "shared"])
def test_a_sleeper_is_woken(name: str, servers: Servers) -> None:
    """Its `finally` runs within a second, although it sleeps for a minute."""
    woken = servers.there if name == "relay" else servers.here
    before = woken.log.count("woken: ")
    with servers.here.send(f"/stream/sleeps/{name}") as client:
        until(lambda: b'"n":0' in client.recv(65536), 10)
    until(lambda: woken.log.count("woken: ") > before, 3)  # the machine may be busy


def test_a_call_that_blocks_ends_at_the_next_item(servers: Servers) -> None:
    """Nobody can end it before; its client's leaving is noticed at once."""
    with servers.here.send("/stream/blocked") as client:
        until(lambda: b'"n":0' in client.recv(65536), 10)
    servers.here.logged("GET /stream/blocked 200 disconnected", 3)
    assert "woken: /stream/blocked" not in servers.here.log
    assert servers.here.get("/stream/go-on")[0] == 200
    servers.here.logged("woken: /stream/blocked", 3)


# --- what broke goes on ---


def some(server: Process, target: str, most: int, last_event_id: str = "") -> tuple[bytes, bool]:
    """What came before somebody broke off, after so many bytes the client; and whether it is the end."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    body = b""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while len(body) < most:
            try:
                more = response.read1(most - len(body))
            except http.client.IncompleteRead:
                return body, False
            if not more:
                return body, True
            body += more
    return body, False


def whole_lines(body: bytes) -> bytes:
    return body[: body.rfind(b"\n") + 1]


def whole_events(body: bytes) -> bytes:
    """Without what says that the stream broke."""
    before, end, _ = body.rpartition(b"\n\n")
    return (before + end).partition(b"event: error\n")[0]


WHOLE = {"csv": whole_rows, "ndjson": whole_lines, "sse": whole_events}
LAST: dict[str, Callable[[bytes], str]] = {
    "csv": last_key,
    "ndjson": lambda body: str(json.loads(body.splitlines()[-1])["n"]),
    "sse": lambda body: re.findall(rb"^id: (\d+)$", body, re.MULTILINE)[-1].decode(),
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("database", ROWS_OF)
def test_what_broke_is_joined(database: str, form: str, servers: Servers) -> None:
    """Broken 20 times by the client or by the database, it is byte for byte the unbroken one: CSV and NDJSON
    by `?after=`, events by Last-Event-ID."""
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    target = f"/stream/{database}?most=4000&format={form}"
    unbroken, _ = some(servers.here, target, FURTHEST * 10)
    joined, ended, broken, behind = b"", False, 0, ""
    while not ended:
        most, more = FURTHEST * 10, f"&after={behind}" if behind and form != "sse" else ""
        if broken < BREAKS and chance.random() < 0.5:
            most = 1 + chance.randrange(len(unbroken) // BREAKS)
        elif broken < BREAKS:
            # Behind the first page, and the row that is read with it: among those it would be a status.
            more += f"&fails={int(behind or 0) + FIRST_ROWS + 2 + chance.randrange(100)}"
        body, ended = some(servers.here, target + more, most, behind if form == "sse" else "")
        joined += body if ended else WHOLE[form](body)
        broken += not ended
        if b"x" in joined:
            behind = LAST[form](joined)
    assert joined == unbroken, f"seed {seed}"
    assert broken == BREAKS, f"seed {seed}"
