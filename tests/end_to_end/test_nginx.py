"""Debian's nginx in front, with examples/nginx.conf: what holds without it holds behind it."""

import filecmp
import gzip
import random
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.certificates import Pair, make_pair
from tests.end_to_end.nginx import example, free_port, nginx
from tests.end_to_end.process import Process, program, run, surroundings, until

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
TOKEN = "secret"
ODD_NAME = "노래 100% #1?.txt"
ODD_PATH = "/text/%EB%85%B8%EB%9E%98%20100%25%20%231%3F.txt"


@dataclass
class Front:
    """An nginx that runs, and the Millrace behind it."""

    url: str
    pair: Pair
    millrace: Process
    library: Path
    folder: Path

    def curl(
        self, target: str, *options: str, version: str = "--http2"
    ) -> "subprocess.CompletedProcess[bytes]":
        """A request through nginx."""
        command = (program("curl"), "-sS", version, "--cacert", str(self.pair.certificate), *options)
        return run(self.folder, *command, self.url + target)

    def tls(self) -> HTTPSConnection:
        """A connection to nginx."""
        trust = ssl.create_default_context(cafile=self.pair.certificate)
        return HTTPSConnection("localhost", int(self.url.rpartition(":")[2]), timeout=20, context=trust)

    def facts(self, target: str, *options: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case; the last of several counts) and body."""
        done = self.curl(target, "-i", *options, version="--http1.1")
        assert done.returncode == 0, done.stderr
        top, _, body = done.stdout.partition(b"\r\n\r\n")
        first, *lines = top.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(headers) == len(lines), lines  # none of them twice
        return int(first.split()[1]), headers, body


@contextmanager
def front(folder: Path, *flags: str) -> Iterator[Front]:
    """Start Millrace with a library of its own, and nginx in front; end both."""
    library = folder / "library"
    library.mkdir()
    (library / "track.wav").write_bytes(random.Random(5).randbytes(30 * MEGABYTE + 7))
    (library / ODD_NAME).write_text("한글 text\n" * 1000, encoding="utf-8")
    (library / "cp949.txt").write_text("맷돌이 돌아간다.\n" * 200, encoding="cp949")
    (library / "late.txt").write_text("short\n" * 200_000 + "long" * 150_000)
    pair = make_pair(folder / "pair")
    arguments = ["--media", str(library), "--trusted-proxies", "127.0.0.1"]  # as the example says
    arguments += ["--channels", "jobs", "--publish-token", TOKEN, *flags]
    millrace = Process(folder / "millrace", arguments)
    millrace.expect_log("track.wav")
    port = free_port()
    try:
        millrace.started()
        conf = example(folder, pair, millrace.port, port)
        with nginx(folder, conf, port, expected="upstream prematurely closed connection"):
            yield Front(f"https://localhost:{port}", pair, millrace, library, folder)
    finally:
        millrace.stop()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Millrace sends the files."""
    with front(tmp_path_factory.mktemp("plain")) as started:
        yield started


@pytest.fixture(scope="module")
def accelerated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """nginx sends the files."""
    with front(tmp_path_factory.mktemp("accelerated"), "--accel-redirect", "/files/") as started:
        yield started


def test_text_arrives_byte_for_byte(plain: Front) -> None:
    """As it is over HTTP/1.1 and HTTP/2, a decoded one too."""
    text = (plain.library / ODD_NAME).read_bytes()
    for version in ("--http1.1", "--http2"):
        assert plain.curl(ODD_PATH, version=version).stdout == text
    decoded = plain.curl("/text/cp949.txt").stdout.decode()
    assert decoded.encode("cp949") == (plain.library / "cp949.txt").read_bytes()


def test_compression_is_millraces(plain: Front, accelerated: Front) -> None:
    """Who accepts gzip gets it, with Millrace's entity tag, also where nginx sends files as they are."""
    for behind in (plain, accelerated):
        status, headers, body = behind.facts(ODD_PATH, "-H", "Accept-Encoding: gzip")
        assert (status, headers["content-encoding"]) == (200, "gzip")
        assert headers["vary"] == "Accept, Accept-Encoding"
        assert gzip.decompress(body) == (behind.library / ODD_NAME).read_bytes()
        assert behind.facts(ODD_PATH)[1]["etag"] != headers["etag"]


def test_http2_is_spoken(plain: Front) -> None:
    """And a page's worth of requests goes over one connection."""
    if b"HTTP2" not in run(plain.folder, program("curl"), "--version").stdout:
        pytest.skip("this curl has no HTTP/2")
    done = plain.curl("/healthz", "-o", "body", "-w", "%{http_version} %{http_code}")
    assert done.stdout == b"2 200"


def test_ranges_and_conditions_pass_through(plain: Front) -> None:
    """The answers are Millrace's: 206 and 416, 304 by its entity tag, an old If-Range gets the whole file."""
    track = (plain.library / "track.wav").read_bytes()
    status, headers, body = plain.facts("/audio/1", "-r", "1000000-1065535")
    assert (status, body) == (206, track[1_000_000:1_065_536])
    assert headers["content-range"] == f"bytes 1000000-1065535/{len(track)}"
    assert headers["content-type"] == "audio/wav"
    etag = headers["etag"]
    assert re.fullmatch('"[0-9a-f]+-[0-9a-f]+-[0-9a-f]+"', etag)
    assert plain.facts("/audio/1", "-H", f"If-None-Match: {etag}")[0] == 304
    assert plain.facts("/audio/1", "-H", 'If-Match: "other"')[0] == 412
    assert plain.facts("/audio/1", "-r", f"{len(track)}-")[0] == 416
    status, _, body = plain.facts("/audio/1", "-r", "0-9", "-H", 'If-Range: "other"')
    assert (status, len(body)) == (200, len(track))


def test_large_download_is_whole(plain: Front) -> None:
    """Also where its client is slower than Millrace."""
    done = plain.curl("/audio/1", "-o", "copy", "--limit-rate", "20M")
    assert done.returncode == 0, done.stderr
    assert filecmp.cmp(plain.folder / "copy", plain.library / "track.wav", shallow=False)


@pytest.mark.parametrize(("version", "code"), [("--http1.1", 18), ("--http2", 92)])
def test_broken_body_is_broken_for_the_client(plain: Front, version: str, code: int) -> None:
    """What Millrace breaks off does not end regularly behind nginx: curl says that it is not whole."""
    plain.millrace.expect_log("broke off: BadParameter")
    done = plain.curl("/text/late.txt?format=sse", version=version)
    assert done.returncode == code, done.stderr
    assert b"event: error\n" in done.stdout


def test_request_has_one_id_everywhere(plain: Front) -> None:
    """The client's own, or nginx's: in the response and in both logs."""
    _, headers, _ = plain.facts("/healthz", "-H", "X-Request-Id: asked-by-me")
    assert headers["x-request-id"] == "asked-by-me"
    _, fresh, _ = plain.facts("/healthz")
    _, other, _ = plain.facts("/healthz", "-H", "X-Request-Id: not one")  # Millrace would not take it
    log = plain.folder / "access.log"
    for name in ("asked-by-me", fresh["x-request-id"], other["x-request-id"]):
        plain.millrace.logged(f"GET /healthz 200 complete .* {name}\n")
        until(lambda line=f" {name}\n": line in log.read_text(), 5)


def test_client_is_who_asked(plain: Front, accelerated: Front) -> None:
    """Both logs have its address, and not the one that it claims."""
    for behind in (plain, accelerated):
        claim = ("-H", "X-Forwarded-For: 203.0.113.66")
        behind.facts("/healthz", "--interface", "127.0.0.2", *claim)
        behind.millrace.logged("127.0.0.2 GET /healthz 200 complete ")
        log = behind.folder / "access.log"
        until(lambda log=log: '127.0.0.2 "GET /healthz ' in log.read_text(), 5)


@contextmanager
def streaming(front: Front, target: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """curl on an endless stream; ended at the end."""
    cacert = ("--cacert", str(front.pair.certificate))
    client = subprocess.Popen(
        [program("curl"), "-sSN", *cacert, *options, front.url + target],
        env=surroundings(front.folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        yield client
    finally:
        client.kill()
        client.wait(10)
        assert client.stdout is not None
        client.stdout.close()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("target", ["/stream?format=sse&sleep=0.5", f"{ODD_PATH}?format=sse&pace=0.5"])
def test_events_arrive_as_they_are_made(plain: Front, target: str, version: str) -> None:
    """None waits for the next; and when the client goes, Millrace knows within seconds."""
    ended = plain.millrace.log.count(" 200 disconnected ")
    with streaming(plain, target, version) as client:
        assert client.stdout is not None
        times = []
        while len(times) < 5:
            if client.stdout.readline().startswith(b"data:"):
                times.append(time.monotonic())
        assert times[-1] - times[0] > 1.5  # held back they would come all at once
    until(lambda: plain.millrace.log.count(" 200 disconnected ") > ended, 5)


@pytest.mark.left_out("processes", reason="each process has channels of its own")
def test_events_are_published_as_they_come(plain: Front) -> None:
    """In a body that is longer than others may be: the first of them is at a subscriber before the last is
    sent."""
    with streaming(plain, "/stream/jobs?format=text") as subscriber, closing(plain.tls()) as publisher:
        assert subscriber.stdout is not None
        seen = iter(subscriber.stdout.readline, b"")

        def lines() -> Iterator[bytes]:
            until(lambda: b'"subscribers":1' in plain.millrace.get("/streams")[1], 10)
            yield b'"first"\n'
            assert next(line for line in seen if line.strip()) == b'"first"\n'
            yield from (b'"%s"\n' % (b"more" * 5000) for _ in range(2 * MEGABYTE // 20_000))

        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/x-ndjson"}
        publisher.request("POST", "/stream/jobs", lines(), headers, encode_chunked=True)
        answer = publisher.getresponse()
        assert (answer.status, answer.read().count(b'"id"')) == (202, 1)


def test_only_the_token_publishes(plain: Front) -> None:
    """A client of nginx is no program on this machine, whatever it says."""
    options = ("-H", "Content-Type: text/plain", "-d", "x", "-H", "Host: 127.0.0.1", "-H", "X-Forwarded-For;")
    assert plain.facts("/stream/jobs", *options)[0] == 401


def test_nginx_sends_files_whole(accelerated: Front) -> None:
    """A track, and a text whose name has Korean letters, spaces, `%`, `#` and `?`; Millrace sends no byte."""
    status, headers, body = accelerated.facts("/audio/1")
    assert (status, body) == (200, (accelerated.library / "track.wav").read_bytes())
    assert headers["content-type"] == "audio/wav"
    assert headers["accept-ranges"] == "bytes"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-content-type-options"] == "nosniff"
    assert "x-accel-redirect" not in headers
    accelerated.millrace.logged(f"GET /audio/1 200 complete 0 B .* {headers['x-request-id']}\n")
    status, headers, body = accelerated.facts(f"{ODD_PATH}?download=1")
    assert (status, body) == (200, (accelerated.library / ODD_NAME).read_bytes())
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["content-disposition"].startswith("attachment; ")
    assert headers["vary"] == "Accept, Accept-Encoding"


def test_nginx_answers_ranges_and_conditions(accelerated: Front) -> None:
    """With one entity tag in all of them, its own; Millrace has no say."""
    track = (accelerated.library / "track.wav").read_bytes()
    _, headers, _ = accelerated.facts("/audio/1", "-I")
    etag, modified = headers["etag"], headers["last-modified"]
    assert headers["content-length"] == str(len(track))
    status, headers, body = accelerated.facts("/audio/1", "-r", "1000000-1065535")
    assert (status, headers["etag"], body) == (206, etag, track[1_000_000:1_065_536])
    rows = [
        (f"If-None-Match: {etag}", 304, 0),
        ('If-None-Match: "other"', 206, 10),
        (f"If-Modified-Since: {modified}", 304, 0),
        (f"If-Match: {etag}", 206, 10),
        ('If-Match: "other"', 412, None),
        (f"If-Range: {etag}", 206, 10),
        (f"If-Range: {modified}", 206, 10),
        ('If-Range: "other"', 200, len(track)),
    ]
    for condition, expected, length in rows:
        status, headers, body = accelerated.facts("/audio/1", "-r", "0-9", "-H", condition)
        assert (status, len(body) if length is not None else None) == (expected, length), condition
        assert headers.get("etag", etag) == etag
        assert ("x-request-id" in headers) == (status != 412)
    assert accelerated.facts("/audio/1", "-r", f"{len(track)}-")[0] == 416


def test_millrace_sends_what_it_makes(accelerated: Front) -> None:
    """A decoded text, events, a page and what is missing come from it, and `/files/` itself is no door."""
    decoded = accelerated.facts("/text/cp949.txt")
    assert decoded[2].decode().encode("cp949") == (accelerated.library / "cp949.txt").read_bytes()
    assert decoded[1]["etag"].startswith('W/"')
    events = accelerated.facts(f"{ODD_PATH}?format=sse")[2]
    assert events.count(b"data:") == 1001
    assert b"<html" in accelerated.facts("/")[2]
    status, headers, _ = accelerated.facts("/text/missing")
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert accelerated.facts("/files/track.wav")[0] == 404
