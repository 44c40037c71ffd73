"""Chromium joins live audio in the middle, and is a source itself."""

import base64
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page

from media.ogg import OggParser
from media.webm import WebmParser
from tests.end_to_end.test_browser import CAN_PLAY
from tests.media.live_audio import cut, decoded, encoded, fed, joined, places, seconds

pytestmark = pytest.mark.slow

STREAMS: dict[str, tuple[str, type[OggParser] | type[WebmParser], tuple[str, ...]]] = {
    "vorbis": ("audio/ogg", OggParser, ("-c:a", "libvorbis", "-f", "ogg")),
    "opus": ("audio/ogg", OggParser, ("-c:a", "libopus", "-f", "ogg")),
    "flac": ("audio/ogg", OggParser, ("-c:a", "flac", "-f", "ogg")),
    "webm": ("audio/webm", WebmParser, ("-c:a", "libopus", "-f", "webm", "-live", "1")),
    "webm, begun long ago": (
        "audio/webm",
        WebmParser,
        ("-c:a", "libopus", "-f", "webm", "-live", "1", "-output_ts_offset", "36000"),
    ),
}
HEARD = """address => new Promise((resolve, reject) => {
    const audio = new Audio(address);
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    context.createMediaElementSource(audio).connect(analyser).connect(context.destination);
    const samples = new Float32Array(analyser.fftSize);
    let begin = null, looks = 0, heard = 0;
    audio.onerror = () => reject(audio.error.message);
    audio.ontimeupdate = () => {
        if (begin === null && audio.currentTime > 0) begin = audio.currentTime;
        if (begin === null || audio.currentTime < begin + 0.4) return;
        analyser.getFloatTimeDomainData(samples);
        looks += 1;
        if (Math.max(...samples) > 0.05) heard += 1;
        if (audio.currentTime < begin + 2) return;
        audio.pause();
        context.close();
        resolve(heard / looks);
    };
    audio.play().catch(reject);
})"""
"""Plays two seconds, and gives the loudest sample of when it was least loud."""
RECORD = """milliseconds => new Promise(resolve => {
    const context = new AudioContext();
    const tone = context.createOscillator();
    const destination = context.createMediaStreamDestination();
    tone.connect(destination);
    tone.start();
    const recorder = new MediaRecorder(destination.stream, {mimeType: 'audio/webm;codecs=opus'});
    const parts = [];
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.onstop = () => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result.split(',')[1]);
        reader.readAsDataURL(new Blob(parts));
    };
    recorder.start(milliseconds || undefined);
    setTimeout(() => recorder.stop(), 3000);
})"""

Offer = Callable[[str, bytes], str]
"""Offers bytes of a media type; returns their address."""


@pytest.fixture
def offer() -> Iterator[Offer]:
    """A small server, in place of ours: what is tried is whether the pieces play."""
    offered: dict[str, tuple[str, bytes]] = {"/": ("text/html", b"<title>Joins</title>")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            media_type, content = offered.get(self.path, ("text/plain", b""))
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    def add(media_type: str, content: bytes) -> str:
        path = f"/{len(offered)}"
        offered[path] = media_type, content
        return f"http://127.0.0.1:{server.server_port}{path}"

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield add
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One page for all."""
    opened = browser.new_page()
    opened.set_default_timeout(15_000)
    yield opened
    opened.close()


@pytest.mark.parametrize("stream", STREAMS)
def test_chromium_plays_from_the_middle(page: Page, offer: Offer, stream: str) -> None:
    """An audio element that begins at the third second plays, whatever the time of what it gets."""
    media_type, parser, options = STREAMS[stream]
    if not page.evaluate(CAN_PLAY, media_type):
        pytest.skip(f"this Chromium does not play {media_type}")
    pieces = parser().feed(encoded(*options))
    place = places(pieces)[len(places(pieces)) // 2]
    page.goto(offer("text/html", b"<title>Join</title>"))
    assert page.evaluate(HEARD, offer(media_type, joined(pieces, place))) > 0.7


@pytest.mark.parametrize("milliseconds", [0, 250], ids=["in one go", "in parts"])
def test_what_chromium_records_can_be_joined(page: Page, offer: Offer, milliseconds: int) -> None:
    """MediaRecorder's WebM decodes from any place and plays from the middle.

    In parts its sizes are unknown; in one go Chromium goes back, states them, and adds Cues.
    """
    page.goto(offer("text/html", b"<title>Record</title>"))
    recorded = base64.b64decode(page.evaluate(RECORD, milliseconds))
    pieces, failure, _ = fed(WebmParser(), cut(recorded))
    assert not failure
    assert b"".join(piece.data for piece in pieces[1:]) in recorded
    assert 2 < seconds(pieces) < 4
    for place in range(1, len(pieces), 10):
        assert decoded(joined(pieces, place)) == pytest.approx(seconds(pieces[place:]), abs=0.1)
    assert page.evaluate(HEARD, offer("audio/webm", joined(pieces, len(pieces) // 6))) > 0.7
