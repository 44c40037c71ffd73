"""Stations: heard at once, in real time, with titles that change, and behind a live source again."""

import json
import re
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from media.frames import parser
from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, run, surroundings, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.left_out("processes", reason="several processes have no stations"),
]

TONES = {"low": 400, "high": 800, "live": 1600}
TRACK_SECONDS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A station of two tones in turn."""
    folder = tmp_path_factory.mktemp("tones")
    library = folder / "library"
    library.mkdir()
    for title in ("low", "high"):
        sine = f"sine=frequency={TONES[title]}:duration={TRACK_SECONDS}"
        made = ["-f", "lavfi", "-i", sine, "-b:a", "128k", "-metadata", f"title={title}"]
        done = run(folder, program("ffmpeg"), "-v", "error", *made, str(library / f"{title}.mp3"))
        assert done.returncode == 0, done.stderr
    (library / "tones.m3u").write_text("low.mp3\nhigh.mp3\n")
    process = Process(folder, ["--media", str(library), "--station", f"tones={library / 'tones.m3u'}"])
    try:
        yield process.started()
    finally:
        process.stop()


class Listener:
    """Hears a mount, in a thread; `arrived` has the moment and the bytes of all that came."""

    def __init__(self, server: Process, **headers: str) -> None:
        self.arrived: list[tuple[float, bytes]] = []
        self.connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
        self.connection.request("GET", "/audio/live/tones", headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200

    def hear(self, seconds: float) -> None:
        """For so long, or until the server ends it."""
        stop = time.monotonic() + seconds
        while time.monotonic() < stop and (data := self.response.read1(65536)):
            self.arrived.append((time.monotonic(), data))

    @property
    def sound(self) -> bytes:
        return b"".join(data for _, data in self.arrived)


@contextmanager
def told(server: Process) -> Iterator[list[dict[str, object]]]:
    """What the mount's events say meanwhile."""
    said: list[dict[str, object]] = []
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/audio/live/tones.json", headers={"Accept": "text/event-stream"})
    response = connection.getresponse()

    def read() -> None:
        while line := response.readline():
            if line.startswith(b"data:"):
                said.append(json.loads(line[5:]))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield said
    finally:
        connection.sock.shutdown(2)
        thread.join()
        response.close()
        connection.close()


def tones(folder: Path, sound: bytes) -> list[str]:
    """The tones in an MP3 that ffmpeg decodes without a complaint, one after the other.

    Its last frame may be cut off: who listens leaves when it likes.
    """
    path = folder / "heard.mp3"
    path.write_bytes(sound[: sum(len(piece.data) for piece in parser("audio/mpeg").feed(sound))])
    decode = ["-i", str(path), "-f", "s16le", "-ac", "1", "-ar", "16000", "pipe:1"]
    done = run(folder, program("ffmpeg"), "-v", "error", *decode)
    assert (done.returncode, done.stderr) == (0, b"")
    samples = array("h", done.stdout)
    heard = []
    for start in range(0, len(samples) - 1600, 1600):
        window = samples[start : start + 1600]
        hertz = 10 * sum(a < 0 <= b for a, b in pairwise(window))
        heard += [name for name, tone in TONES.items() if abs(hertz - tone) < 50]
    return [name for name, many in groupby(heard) if len(list(many)) > 3]


def test_samples_are_on_air_at_once(samples: Process) -> None:
    """`radio` plays our own MP3s, each with its title and a link to it."""
    until(lambda: samples.get("/audio/live/radio.json")[0] == 200, 10)
    facts = json.loads(samples.get("/audio/live/radio.json")[1])
    assert re.fullmatch(r"Millrace - (Opening the Sluice|Turning Wheel)", facts["title"])
    assert facts["source"] == "station"
    track = json.loads(samples.get(facts["link"] + ".json")[1])
    assert facts["title"].endswith(track["title"])
    assert [mount["name"] for mount in json.loads(samples.get("/audio/live")[1])["mounts"]] == ["radio"]


def test_station_is_heard_in_real_time(
    server: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither faster nor slower; tracks go over into each other, and titles change, also in ICY blocks."""
    until(lambda: server.get("/audio/live/tones.json")[0] == 200, 10)
    with told(server) as said:
        listener, other = Listener(server), Listener(server, **{"Icy-MetaData": "1"})
        with closing(listener.connection), closing(other.connection):
            thread = threading.Thread(target=other.hear, args=(2 * TRACK_SECONDS,))
            thread.start()
            listener.hear(2 * TRACK_SECONDS)
            thread.join()
    frames = parser("audio/mpeg")
    arrived = [(when, sum(piece.seconds for piece in frames.feed(data))) for when, data in listener.arrived]
    paced = [(when, seconds) for when, seconds in arrived if when > arrived[0][0] + 0.5]  # without the burst
    sound, took = sum(seconds for _, seconds in paced[1:]), paced[-1][0] - paced[0][0]
    with capsys.disabled():
        sys.stdout.write(f"\nstation: {sound:.2f} s of sound in {took:.2f} s\n")
    assert abs(sound - took) < 1
    heard = tones(tmp_path, listener.sound)
    assert len(heard) > 1
    assert {"low", "high"} == set(heard)
    titles = [str(event["title"]) for event in said]
    assert titles[:2] in (["low", "high"], ["high", "low"])
    assert [event["source"] for event in said] == ["station"] * len(said)
    blocks = re.findall(rb"StreamTitle='(low|high)';StreamUrl='/audio/[12]';\0*", other.sound)
    assert {*blocks} == {b"low", b"high"}


def test_live_source_takes_over(server: Process, tmp_path: Path) -> None:
    """One listener hears the station, the source, and the station again; the events say who it is."""
    until(lambda: server.get("/audio/live/tones.json")[0] == 200, 10)
    sine = f"sine=frequency={TONES['live']}:duration=2"
    live = ["-re", "-f", "lavfi", "-i", sine, "-b:a", "128k", "-content_type", "audio/mpeg", "-f", "mp3"]
    url = f"icecast://source:any@127.0.0.1:{server.port}/audio/live/tones"
    with told(server) as said:
        listener = Listener(server)
        with closing(listener.connection):
            listener.hear(1)
            source = subprocess.Popen(
                [program("ffmpeg"), "-v", "error", *live, url],
                env=surroundings(tmp_path),
                stdin=subprocess.DEVNULL,
            )
            try:
                until(lambda: said[-1]["source"] == "live", 10)
                while source.poll() is None:
                    listener.hear(0.2)
                assert source.returncode == 0
            finally:
                source.kill()
                source.wait()
            while said[-1]["source"] != "station":
                listener.hear(0.2)
            listener.hear(1.5)
    sources = [kind for kind, _ in groupby(event["source"] for event in said)]
    assert [kind for kind in sources if kind] == ["station", "live", "station"]
    heard = tones(tmp_path, listener.sound)
    assert heard.count("live") == 1
    assert heard[0] != "live" != heard[-1]


def test_page_plays_the_station(server: Process, page: Page) -> None:
    """Chromium hears it, and the title changes by itself."""
    until(lambda: server.get("/audio/live/tones.json")[0] == 200, 10)
    page.goto(server.url)
    row = page.locator(".mount", has_text="tones")
    row.locator("button").click()
    expect(page.locator("#radio-state")).to_have_text("Playing tones", timeout=15_000)
    expect(row.locator(".badge")).to_have_text("station")
    for title in ("low", "high", "low"):
        expect(row.locator(".mount-title")).to_have_text(title, timeout=15_000)
    page.wait_for_function(
        f"() => document.getElementById('radio').currentTime > {TRACK_SECONDS + 1}", timeout=15_000
    )


def test_several_processes_have_no_station(start: Starter) -> None:
    """The log says so."""
    server = start("--processes", "2")
    assert json.loads(server.get("/audio/live")[1]) == {"mounts": []}
    server.logged("the station radio does not play")
