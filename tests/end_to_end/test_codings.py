"""Content codings with curl: what it decodes, and what it can tell of a body that is not whole."""

import gzip
import signal
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, run, surroundings, until

pytestmark = pytest.mark.slow


def test_curl_decodes_rows(samples: Process, tmp_path: Path) -> None:
    """The same rows, with less than half of the bytes on the wire."""
    url = f"{samples.url}/large.csv?rows=100000"
    plain = run(tmp_path, program("curl"), "-sf", url)
    coded = run(tmp_path, "curl", "-sf", "--compressed", url)
    raw = run(tmp_path, "curl", "-sf", "-H", "Accept-Encoding: gzip", url)
    assert coded.stdout == plain.stdout
    assert plain.stdout.count(b"\r\n") == 100_001
    assert len(raw.stdout) < len(plain.stdout) / 2
    assert gzip.decompress(raw.stdout) == plain.stdout


@pytest.mark.parametrize("flags", [("--http1.1",), ("--http1.0",)], ids=["1.1", "1.0"])
def test_curl_can_tell_a_broken_body(start: Starter, tmp_path: Path, flags: tuple[str]) -> None:
    """A download that the drain breaks off fails; what came before is there, and lacks its end."""
    server = start("--drain", "0.5")
    server.expect_log("broken off|broke off|cut")
    url = f"{server.url}/text/mill_stream.txt?pace=0.05"
    got, raw = tmp_path / "got", tmp_path / "raw"
    common = [program("curl"), "-sS", "-N", *flags]
    with (
        subprocess.Popen([*common, "--compressed", "-o", got, url], env=surroundings(tmp_path)) as decoding,
        subprocess.Popen(
            [*common, "-H", "Accept-Encoding: gzip", "-o", raw, url], env=surroundings(tmp_path)
        ) as keeping,
    ):
        until(lambda: got.exists() and got.read_bytes().count(b"\n") > 3, 10)
        until(lambda: raw.exists() and raw.stat().st_size > 100, 10)
        server.signal(signal.SIGTERM)
        assert decoding.wait(15) != 0
        assert keeping.wait(15) != 0
    assert server.ended() == 0
    text = samples_text()
    assert text.startswith(got.read_bytes())
    decoder = zlib.decompressobj(31)
    assert text.startswith(decoder.decompress(raw.read_bytes()))
    assert not decoder.eof


def test_curl_gets_a_drained_stream_whole(start: Starter, tmp_path: Path) -> None:
    """An endless stream that the server ends is decoded to its end, without an error."""
    server = start()
    got = tmp_path / "got"
    command = [program("curl"), "-sS", "-N", "--compressed", "-o", got, f"{server.url}/stream?sleep=0.1"]
    with subprocess.Popen(command, env=surroundings(tmp_path)) as client:
        until(lambda: got.exists() and got.read_bytes().count(b"\n") > 3, 10)
        server.signal(signal.SIGTERM)
        assert client.wait(15) == 0
    assert server.ended() == 0
    assert got.read_bytes().endswith(b"\n")


def test_curl_takes_what_lies_beside_a_text(start: Starter, library: Path, tmp_path: Path) -> None:
    """As gzip makes it; and a download that was broken goes on in the coded bytes."""
    (library / "song.txt").write_bytes(samples_text())
    assert run(library, program("gzip"), "--keep", "song.txt").returncode == 0
    server = start("--media", str(library), "--compression", "0")
    url = f"{server.url}/text/song.txt"
    assert run(tmp_path, program("curl"), "-sf", "--compressed", url).stdout == samples_text()
    whole = (library / "song.txt.gz").read_bytes()
    (tmp_path / "part").write_bytes(whole[:1000])
    gzipped = ("-H", "Accept-Encoding: gzip")
    assert run(tmp_path, "curl", "-sf", *gzipped, "-C", "-", "-o", "part", url).returncode == 0
    assert (tmp_path / "part").read_bytes() == whole


def samples_text() -> bytes:
    """A text of the samples, as it lies there."""
    return (Path(__file__).parent.parent.parent / "media" / "samples" / "mill_stream.txt").read_bytes()
