"""TLS: all that holds without it holds with it, and nobody who breaks it off makes noise."""

import re
import shutil
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import Pair, make_pair
from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process, program, run, until

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
TEXT = (ROOT / "media" / "samples" / "text_sample").read_bytes()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The certificate of `server`."""
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def server(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of the samples, over TLS."""
    process = Process(tmp_path_factory.mktemp("tls"), [*pair.flags, "--heartbeat", "0.2"])
    try:
        yield process.started()
    finally:
        process.stop()


def connected(server: Process, pair: Pair, receive_bytes: int = 0) -> ssl.SSLSocket:
    """A connection that raises SSLEOFError where it ends without close_notify."""
    client = server.connect(receive_bytes)
    return pair.trusting().wrap_socket(client, server_hostname="localhost", suppress_ragged_eofs=False)


def asked(server: Process, pair: Pair, request: str, receive_bytes: int = 0) -> ssl.SSLSocket:
    """A connection on which a request was sent, such as `GET / HTTP/1.1`."""
    client = connected(server, pair, receive_bytes)
    client.sendall(f"{request}\r\nHost: localhost\r\n\r\n".encode())
    return client


def rest(client: ssl.SSLSocket) -> bytes:
    """All that comes until close_notify."""
    received = bytearray()
    while more := client.recv(65536):
        received += more
    return bytes(received)


@contextmanager
def file(folder: Path, length: int) -> Iterator[Path]:
    """A track of so many bytes, none of them on the disk."""
    path = folder / "large.wav"
    with path.open("wb") as track:
        track.truncate(length)
    yield path


def test_answers_are_those_without_tls(server: Process, pair: Pair, tmp_path: Path) -> None:
    """curl: a text whole, a range, the headers alone, a stream; the start line says https."""
    assert server.out.endswith(f" at {server.url}/\n")
    assert server.url.startswith("https://127.0.0.1:")
    curl = (program("curl"), "-sS", "--cacert", str(pair.certificate))
    assert run(tmp_path, *curl, f"{server.url}/text/text_sample").stdout == TEXT
    assert run(tmp_path, *curl, "-r", "100-199", f"{server.url}/text/text_sample").stdout == TEXT[100:200]
    head = run(tmp_path, *curl, "-I", f"{server.url}/text/text_sample").stdout
    assert f"content-length: {len(TEXT)}\r\n" in head.decode().lower()
    hello = run(tmp_path, *curl, f"{server.url}/stream/hello?name=x", f"{server.url}/stream/hello?name=y")
    assert hello.stdout == b"Hello x!Hello y!"
    version = run(tmp_path, *curl, "--http2", "-o", "body", "-w", "%{http_version}", f"{server.url}/healthz")
    assert version.stdout == b"1.1"


def test_heartbeat_and_disconnect(server: Process, pair: Pair) -> None:
    """A silent stream shows life; its client is missed at once when it goes, with or without close_notify."""
    for ending in ("unwrap", "close"):
        with asked(server, pair, f"GET /stream?format=sse&sleep=60&id={ending} HTTP/1.1") as client:
            received = b""
            while received.count(b"\r\n:") < 3:
                received += client.recv(65536)
            if ending == "unwrap":
                with pytest.raises(ssl.SSLError):  # what is on its way comes in place of an answer
                    client.unwrap()
        server.logged(f"id={ending} 200 disconnected ")


def test_broken_handshakes_leave_no_word(server: Process, pair: Pair) -> None:
    """Plain HTTP, a client that distrusts, an old one, noise, and port scans: the log has nothing of them."""
    before = server.log
    with server.send("/healthz") as plain:
        _closed(plain)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    for context in (old, ssl.create_default_context()):
        with server.connect() as client, pytest.raises(ssl.SSLError):
            context.wrap_socket(client, server_hostname="localhost")
    for sent in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", bytes(100)):
        for reset in (False, True):
            for _ in range(10):
                with server.connect() as client:
                    client.sendall(sent)
                    if reset:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with connected(server, pair) as client:
        socket.socket.send(client, b"\x17\x03\x03\x00\x05wrong")  # not encrypted by the key of both
        _closed(client)
    with asked(server, pair, "GET /healthz HTTP/1.1\r\nConnection: close") as client:
        assert b"ok\n" in client.recv(65536)
    server.logged("GET /healthz 200")
    assert [line for line in server.log[len(before) :].splitlines() if "millrace.access" not in line] == []


def _closed(client: socket.socket) -> None:
    """Wait until the server has closed, however."""
    try:
        while client.recv(65536):
            pass
    except OSError:
        pass


def test_stalled_client_is_let_go_and_a_slow_one_is_not(start: Starter, library: Path, pair: Pair) -> None:
    """What the client's kernel has acknowledged tells them apart, as without TLS."""
    with file(library, 40 * MEGABYTE):
        server = start("--media", str(library), "--stall", "2", *pair.flags)
        server.expect_log("large.wav")
        stalled = asked(server, pair, "GET /audio/1?stalled HTTP/1.1", 65536)
        slow = asked(server, pair, "GET /audio/1?slow HTTP/1.1", 65536)
        with stalled, slow:
            ends = time.monotonic() + 7
            while time.monotonic() < ends:
                assert slow.recv(16384)
                time.sleep(0.02)
            server.logged(r"GET /audio/1\?stalled 200 stalled ")
            assert "?slow" not in server.log
        server.logged(r"GET /audio/1\?slow 200 disconnected ")


@pytest.mark.left_out("processes", reason="one process counts both")
def test_drain(start: Starter, library: Path, pair: Pair, tmp_path: Path) -> None:
    """A download arrives whole, an endless stream ends as a whole body, and the exit code is 0."""
    with file(library, 40 * MEGABYTE) as large:
        server = start("--media", str(library), "--drain", "20", *pair.flags)
        server.expect_log("large.wav")
        download = asked(server, pair, "GET /audio/1 HTTP/1.1", 65536)
        stream = asked(server, pair, "GET /stream?sleep=0.1 HTTP/1.1")
        with download, stream:
            assert download.recv(1000).startswith(b"HTTP/1.1 200 ")
            received = stream.recv(1000)
            assert received.startswith(b"HTTP/1.1 200 ")
            server.signal(signal.SIGTERM)
            server.logged("draining; responses under way: 2")
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += stream.recv(65536)
            missing = large.stat().st_size
            while missing > 0:
                missing -= len(download.recv(min(65536, missing)))
        assert server.ended() == 0


@pytest.mark.left_out("processes", reason="one process counts both")
def test_only_a_whole_body_ends_in_peace(start: Starter, pair: Pair) -> None:
    """Without length and chunks close_notify says that it is whole, and a reset that it is not."""
    server = start(*pair.flags, "--drain", "0.5")
    server.expect_log("broken off; responses that did not end in time: 2")
    with asked(server, pair, "GET /large.csv?rows=10 HTTP/1.0") as small:
        assert rest(small).count(b"\r\n") > 10
    with asked(server, pair, "GET /large.csv?rows=200000 HTTP/1.0", 65536) as large:
        server.logged("rows=10 200 complete")
        time.sleep(1)  # the kernel's buffers are full: close_notify has to wait, too
        _, _, body = rest(large).partition(b"\r\n\r\n")
        assert body.count(b"\r\n") == 200_001
    endless = asked(server, pair, "GET /large.csv?rows=90000000 HTTP/1.0", 65536)
    chunked = asked(server, pair, "GET /large.csv?rows=80000000 HTTP/1.1", 65536)
    with endless, chunked:
        assert endless.recv(1000)
        assert chunked.recv(1000)
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            rest(endless)
        with pytest.raises(ssl.SSLEOFError):
            rest(chunked)


@pytest.mark.left_out("processes", reason="one error, and not one of each process")
def test_sighup_renews_the_certificate(start: Starter, tmp_path: Path) -> None:
    """New connections get the new one, open ones go on; what is broken is one error and changes nothing."""
    first, second = make_pair(tmp_path / "first"), make_pair(tmp_path / "second")
    live = tmp_path / "live"
    live.symlink_to(first.certificate.parent)
    used = Pair(live / "certificate.pem", live / "key.pem")
    server = start(*used.flags)
    trusting = first.trusting()
    with connected(server, first) as before, server.connect() as plain:
        before.sendall(b"GET /stream?sleep=0.2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert before.recv(1000)
        with trusting.wrap_socket(plain, server_hostname="localhost") as resumable:
            resumable.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert resumable.recv(1000)
            session = resumable.session
        live.unlink()
        live.symlink_to(second.certificate.parent)
        server.signal(signal.SIGHUP)
        server.logged("INFO millrace.tls: the certificate was loaded again")
        connected(server, second).close()
        with server.connect() as client, pytest.raises(ssl.SSLCertVerificationError):
            trusting.wrap_socket(client, server_hostname="localhost", session=session)
        server.expect_log("the certificate stays as it was: --key must be the key of the certificate")
        shutil.copy(first.key, second.key)
        server.signal(signal.SIGHUP)
        server.logged("the certificate stays as it was")
        connected(server, second).close()
        assert before.recv(1000)  # what it missed
        until(lambda: b"]" in before.recv(1000), 5)
    assert len(re.findall("the certificate stays", server.log)) == 1


def test_sighup_reaches_every_process(start: Starter, tmp_path: Path) -> None:
    """Each of several processes loads the pair again."""
    pair = make_pair(tmp_path / "pair")
    server = start("--processes", "2", *pair.flags)
    make_pair(tmp_path / "pair")
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count("the certificate was loaded again") == 2, 10)
    for _ in range(10):
        connected(server, pair).close()


def test_memory_of_a_large_download(start: Starter, library: Path, pair: Pair, tmp_path: Path) -> None:
    """A GB in the pace of its client, and one that nobody reads: some MB more than before."""
    with file(library, 1024 * MEGABYTE):
        server = start("--media", str(library), *pair.flags)
        server.expect_log("large.wav")
        url = f"{server.url}/audio/1"
        curl = (program("curl"), "-sS", "--cacert", str(pair.certificate), "-o", "/dev/null")
        assert run(tmp_path, *curl, "-r", "0-9999999", url).returncode == 0
        before = server.memory("VmRSS")
        with asked(server, pair, "GET /audio/1?unread HTTP/1.1"):
            done = run(tmp_path, *curl, "--limit-rate", "120M", "-w", "%{size_download}", url)
        assert (done.returncode, done.stdout) == (0, str(1024 * MEGABYTE).encode()), done.stderr
        assert server.memory("VmHWM") - before < 16 * MEGABYTE
