"""Live audio with real programs: sources of every format, and listeners that come late."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, run, surroundings, until
from tests.end_to_end.test_browser import CAN_PLAY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.left_out("processes", reason="live audio lives in one process"),
]

PASSWORD = "hackme"
TONE = ("-v", "error", "-re", "-f", "lavfi", "-i", "sine=440:sample_rate=44100")

FFMPEG: dict[str, tuple[str, tuple[str, ...]]] = {
    "mp3": ("audio/mpeg", ("-c:a", "libmp3lame", "-f", "mp3")),
    "legacy": ("audio/mpeg", ("-c:a", "libmp3lame", "-f", "mp3", "-legacy_icecast", "1")),
    "adts": ("audio/aac", ("-c:a", "aac", "-f", "adts")),
    "vorbis": ("audio/ogg", ("-c:a", "libvorbis", "-f", "ogg")),
    "opus": ("audio/ogg", ("-c:a", "libopus", "-ar", "48000", "-f", "ogg")),
    "flac": ("audio/ogg", ("-c:a", "flac", "-f", "ogg")),
    "webm": ("audio/webm", ("-c:a", "libopus", "-ar", "48000", "-f", "webm", "-live", "1")),
}
"""What ffmpeg sends, by mount: the type that it announces, and how it encodes."""

PROGRAMS = {**dict.fromkeys(FFMPEG, "ffmpeg"), "ices2": "ices2", "ezstream": "ezstream", "curl": "curl"}
"""What each mount's source is."""

ICES2 = """<?xml version="1.0"?>
<ices><background>0</background><logpath>{folder}</logpath><logfile>ices.log</logfile><loglevel>1</loglevel>
<stream><metadata><name>Ices</name></metadata>
<input><module>playlist</module><param name="type">basic</param>
<param name="file">{folder}/tone.ogg.m3u</param><param name="random">0</param></input>
<instance><hostname>127.0.0.1</hostname><port>{port}</port><password>{password}</password>
<mount>/audio/live/ices2</mount></instance></stream></ices>
"""
EZSTREAM = """<?xml version="1.0"?>
<ezstream><servers><server><protocol>HTTP</protocol><hostname>127.0.0.1</hostname><port>{port}</port>
<user>source</user><password>{password}</password></server></servers>
<streams><stream><mountpoint>/audio/live/ezstream</mountpoint><format>MP3</format>
<stream_name>Ez</stream_name></stream></streams>
<intakes><intake><type>playlist</type><filename>{folder}/tone.mp3.m3u</filename></intake></intakes></ezstream>
"""
PLAY = """address => new Promise((resolve, reject) => {
    const audio = new Audio(address);
    audio.onerror = () => reject(audio.error.message);
    audio.ontimeupdate = () => {
        if (audio.currentTime < 1) return;
        audio.pause();
        audio.src = '';
        audio.onerror = null;
        resolve();
    };
    audio.play().catch(reject);
})"""
EVENT_NAMED = """([address, title]) => new Promise((resolve, reject) => {
    const source = new EventSource(address);
    source.addEventListener('now-playing', event => {
        const playing = JSON.parse(event.data);
        if (playing.title !== title) return;
        source.close();
        resolve(playing.source);
    });
    source.onerror = reject;
})"""


class Sources:
    """Programs that send, and how to end them."""

    def __init__(self, folder: Path, server: Process) -> None:
        self.folder, self.server = folder, server
        self._stack = ExitStack()

    def address(self, name: str) -> str:
        """Of a mount, for ffmpeg as a source."""
        return f"icecast://source:{PASSWORD}@127.0.0.1:{self.server.port}/audio/live/{name}"

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """A program that goes on until it is ended."""
        started = subprocess.Popen(
            command,
            cwd=self.folder,
            env=surroundings(self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def end() -> None:
            started.kill()
            started.wait()

        self._stack.callback(end)
        return started

    def start_ffmpeg(self, name: str, kind: str) -> "subprocess.Popen[bytes]":
        """One that sends a tone to a mount."""
        media_type, options = FFMPEG[kind]
        return self.start("ffmpeg", *TONE, *options, "-content_type", media_type, self.address(name))

    def start_programs(self) -> None:
        """Those that send files: ices2, ezstream and curl, as far as they are installed."""
        facts = {"folder": self.folder, "port": self.server.port, "password": PASSWORD}
        for suffix, codec in (("ogg", "libvorbis"), ("mp3", "libmp3lame")):
            tone = self.folder / f"tone.{suffix}"
            make = f"-v error -f lavfi -i sine=440:sample_rate=44100 -t 60 -ac 2 -c:a {codec}"
            tags = ("-metadata", "artist=Someone", "-metadata", "title=Näme")
            subprocess.run(["ffmpeg", *make.split(), *tags, str(tone)], check=True, timeout=30)
            (self.folder / f"tone.{suffix}.m3u").write_text(f"{tone}\n")
        if shutil.which("ices2"):
            (self.folder / "ices.xml").write_text(ICES2.format(**facts))
            self.start("ices2", "ices.xml")
        if shutil.which("ezstream"):
            config = self.folder / "ezstream.xml"
            config.write_text(EZSTREAM.format(**facts))
            config.chmod(0o600)
            self.start("ezstream", "-c", str(config))
        if shutil.which("curl"):
            self.start(
                *("curl", "--silent", "--user", f"source:{PASSWORD}", "--header", "Content-Type: audio/mpeg"),
                *("--upload-file", "tone.mp3", f"{self.server.url}/audio/live/curl"),
            )

    def end(self) -> None:
        """All of them."""
        self._stack.close()


def mounts(server: Process) -> Mapping[str, dict[str, object]]:
    """Those that have a source, by name."""
    listed = json.loads(server.get("/audio/live")[1])["mounts"]
    return {mount["name"]: mount for mount in listed if mount["source"] == "live"}


@pytest.fixture(scope="module")
def radio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with a live source of every kind that is installed."""
    program("ffmpeg")
    folder = tmp_path_factory.mktemp("sources")
    library = folder / "library"
    library.mkdir()
    server = Process(folder / "server", ("--media", str(library), "--source-password", PASSWORD)).started()
    sources = Sources(folder, server)
    try:
        for kind in FFMPEG:
            sources.start_ffmpeg(kind, kind)
        sources.start_programs()
        expected = {name for name, needs in PROGRAMS.items() if shutil.which(needs)}
        until(lambda: mounts(server).keys() == expected, 20)
        yield server
    finally:
        sources.end()
        server.stop()


@pytest.fixture(scope="module")
def listener(radio: Process, browser: Browser) -> Iterator[Page]:
    """A page of the server, in Chromium."""
    opened = browser.new_page()
    opened.set_default_timeout(20_000)
    opened.goto(f"{radio.url}/healthz")
    yield opened
    opened.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_late_listener_decodes_without_a_complaint(radio: Process, tmp_path: Path, name: str) -> None:
    """From the middle of what each source sends, ffmpeg has its first two seconds from the burst."""
    program(PROGRAMS[name])
    until(lambda: json.loads(radio.get(f"/audio/live/{name}.json")[1])["source"] == "live", 5)
    listen = f"-v error -i {radio.url}/audio/live/{name} -t 2 -f s16le -ac 1 -ar 8000 pipe:"
    heard = run(tmp_path, "ffmpeg", *listen.split())
    assert (heard.returncode, heard.stderr) == (0, b"")
    assert len(heard.stdout) == pytest.approx(32_000, abs=800)
    assert any(heard.stdout)


@pytest.mark.parametrize("name", ["mp3", "vorbis", "webm"])
def test_mpv_listens(radio: Process, tmp_path: Path, name: str) -> None:
    """For a second, without a complaint."""
    options = ("--no-config", "--no-video", "--ao=null", "--length=1", "--msg-level=all=error")
    heard = run(tmp_path, program("mpv"), *options, f"{radio.url}/audio/live/{name}")
    assert (heard.returncode, heard.stdout + heard.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_an_audio_element_listens(listener: Page, radio: Process, name: str) -> None:
    """Its time goes on."""
    media_type = str(mounts(radio)[name]["media_type"])
    if not listener.evaluate(CAN_PLAY, media_type):
        pytest.skip(f"this Chromium does not play {media_type}")
    listener.evaluate(PLAY, f"/audio/live/{name}")


@pytest.mark.parametrize("name", ["ices2", "ezstream"])
def test_titles_of_programs(radio: Process, name: str) -> None:
    """ices2 has them in its pages, ezstream sends them beside its sound."""
    program(name)
    until(lambda: mounts(radio)[name]["title"] == "Someone - Näme", 10)


def test_a_title_arrives_everywhere(listener: Page, radio: Process) -> None:
    """Sent as source clients do it: in ICY to a radio, and as an event to a page."""
    title = "Ein Stück — 노래"
    target = f"/admin/metadata?mode=updinfo&mount=/audio/live/mp3&song={quote(title)}"
    radio_set = radio.connect()
    radio_set.sendall(b"GET /audio/live/mp3 HTTP/1.0\r\nIcy-MetaData: 1\r\n\r\n")
    command = ("curl", "--silent", "--fail", "--user", f"source:{PASSWORD}", radio.url + target)
    subprocess.run((program("curl"), *command[1:]), check=True, capture_output=True, timeout=20)
    assert listener.evaluate(EVENT_NAMED, ["/audio/live/mp3.json?format=sse", title]) == "live"
    received = b""
    while f"StreamTitle='{title}';".encode() not in received:
        more = radio_set.recv(65536)
        assert more
        received += more
    radio_set.close()


def test_a_source_that_comes_back_is_heard(start: Starter, library: Path, tmp_path: Path) -> None:
    """By who has waited, in the same response; ffmpeg decodes on, over the seam."""
    program("ffmpeg")
    server = start("--media", str(library), "--source-password", PASSWORD, "--source-grace", "20")
    sources = Sources(tmp_path, server)
    try:
        first = sources.start_ffmpeg("a", "mp3")
        until(lambda: "a" in mounts(server), 10)
        pcm = tmp_path / "heard"
        listen = f"-v error -i {server.url}/audio/live/a -f s16le -ac 1 -ar 8000 -flush_packets 1 {pcm}"
        listener = sources.start("ffmpeg", *listen.split())
        until(lambda: pcm.exists() and pcm.stat().st_size > 16_000, 10)
        first.send_signal(signal.SIGTERM)
        first.wait()
        until(lambda: "a" not in mounts(server), 10)
        before = pcm.stat().st_size
        sources.start_ffmpeg("a", "mp3")
        until(lambda: pcm.stat().st_size > before + 32_000, 15)
        assert listener.poll() is None
    finally:
        sources.end()


def test_sigterm_with_a_source_and_listeners(start: Starter, library: Path, tmp_path: Path) -> None:
    """A hundred listeners end as after a whole body, and the process well within the drain time."""
    program("ffmpeg")
    server = start("--media", str(library), "--source-password", PASSWORD, "--drain", "10")
    sources = Sources(tmp_path, server)
    clients: list[socket.socket] = []
    try:
        sources.start_ffmpeg("a", "mp3")
        until(lambda: "a" in mounts(server), 10)
        clients = [server.send("/audio/live/a") for _ in range(100)]
        until(lambda: mounts(server)["a"]["listeners"] == 100, 10)
        received = b""
        while len(received) < 4000:
            received += clients[0].recv(65536)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        assert time.monotonic() - began < 8
        for client in clients:
            while more := client.recv(65536):
                received += more
            assert received.startswith(b"HTTP/1.1 200 OK")
            assert received.endswith(b"\r\n0\r\n\r\n")
            received = b""
    finally:
        for client in clients:
            client.close()
        sources.end()
    assert len(re.findall(r"GET /audio/live/a 200 drained [1-9]", server.log)) == 100
    assert re.search(r"PUT /audio/live/a (200|503) drained", server.log)
