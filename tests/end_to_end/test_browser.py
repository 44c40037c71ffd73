"""The page, and bare addresses, in Chromium without a window."""

import json
import math
import re
import struct
import wave
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process

pytestmark = pytest.mark.slow

LYRIC = (ROOT / "media" / "samples" / "text_sample").read_text(encoding="utf-8")
_CONTENT_RANGE = re.compile("bytes ([0-9]+)-")
READ_LINES = """async address => {
    const response = await fetch(address);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    while (text.split('\\n').length < 4) text += (await reader.read()).value;
    await reader.cancel();
    return text;
}"""
FIRST_EVENT = """address => new Promise((resolve, reject) => {
    const source = new EventSource(address);
    source.onmessage = event => { source.close(); resolve(event.data); };
    source.onerror = reject;
})"""
CAN_PLAY = "type => document.createElement('audio').canPlayType(type)"


@pytest.fixture(scope="session")
def tracks(samples: Process) -> list[dict[str, object]]:
    """The catalogue of the samples."""
    listed: list[dict[str, object]] = json.loads(samples.get("/audio")[1])["tracks"]
    assert len(listed) == 5
    return listed


def plays_and_seeks(page: Page, selector: str, duration_seconds: float) -> None:
    """The element plays, knows how long it is, and goes on after a jump to 70 %."""
    element = f"document.querySelector('{selector}')"
    page.wait_for_function(f"() => {element} && {element}.currentTime > 0.1")
    assert page.evaluate(f"{element}.duration") == pytest.approx(duration_seconds, abs=0.2)
    page.evaluate(f"{element}.currentTime = {element}.duration * 0.7")
    after = 0.7 * duration_seconds + 0.3
    page.wait_for_function(f"() => {element}.currentTime > {after} && !{element}.seeking")
    assert page.evaluate(f"{element}.currentTime") < after + 10
    assert page.evaluate(f"{element}.error") is None


def write_tone(path: Path, seconds: float) -> None:
    """A tone of 440 Hz."""
    samples = (round(8000 * math.sin(n * 2 * math.pi * 440 / 8000)) for n in range(int(8000 * seconds)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))


@pytest.mark.parametrize("number", range(5))
def test_bare_address_plays_and_seeks(
    page: Page, samples: Process, tracks: list[dict[str, object]], number: int
) -> None:
    """As the tutorial does it: the address of a track, opened in the browser."""
    track = tracks[number]
    if not page.evaluate(CAN_PLAY, track["media_type"]):
        pytest.skip(f"this Chromium does not play {track['media_type']}")
    page.goto(f"{samples.url}/audio?track_id={track['id']}")
    duration = track["duration_seconds"]
    assert isinstance(duration, float)
    page.evaluate("document.querySelector('video').play()")
    plays_and_seeks(page, "video", duration)


def test_long_track_seeks_by_ranges(page: Page, start: Starter, library: Path) -> None:
    """Where Chromium has not the bytes yet it asks for them: a track of ten minutes and 105 MB."""
    path = library / "long.wav"
    frames = 600 * 44_100 * 4
    header = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + frames, b"WAVE", b"fmt ", 16, 1, 2, 44_100, 176_400, 4, 16
    )
    with path.open("wb") as file:
        file.write(header + struct.pack("<4sI", b"data", frames))
        file.truncate(44 + frames)
    server = start("--media", str(library))
    ranges: list[str] = []
    page.on("response", lambda answer: ranges.append(answer.headers.get("content-range", "")))
    page.goto(f"{server.url}/audio?track_id=1")
    page.evaluate("document.querySelector('video').play()")
    try:
        plays_and_seeks(page, "video", 600)
        begins = [int(found[1]) for found in map(_CONTENT_RANGE.match, ranges) if found]
        assert any(begin > 0.6 * frames for begin in begins), ranges
    finally:
        page.goto("about:blank")  # a paused track would be waited for when the server ends


@pytest.mark.parametrize("number", range(5))
def test_page_plays_and_seeks(
    page: Page, samples: Process, tracks: list[dict[str, object]], number: int
) -> None:
    """A click on a track plays it."""
    track = tracks[number]
    page.goto(samples.url)
    page.locator(f".track[data-id='{track['id']}']").click()
    expect(page.locator("#now-title")).to_have_text(str(track["title"]))
    duration = track["duration_seconds"]
    assert isinstance(duration, float)
    plays_and_seeks(page, "#player", duration)


def test_tracks_are_listed_and_searched(
    page: Page, samples: Process, tracks: list[dict[str, object]]
) -> None:
    """All tracks are shown; a search leaves what it finds; none is a sentence."""
    page.goto(samples.url)
    titles = page.locator("#track-list .track-title")
    expect(titles).to_have_text([str(track["title"]) for track in tracks])
    expect(page.locator("#track-count")).to_have_text("5 tracks")
    page.locator("#search").fill("lANTERNS")
    expect(titles).to_have_text(["Lanterns Downstream"])
    page.locator("#search").fill("nothing like that")
    expect(titles).to_have_count(0)
    expect(page.locator("#track-count")).to_contain_text("No track matches")


def test_covers_are_shown(page: Page, samples: Process) -> None:
    """Each sample has a picture, and it is one."""
    page.goto(samples.url)
    expect(page.locator("#track-list .cover img")).to_have_count(5)
    page.wait_for_function(
        "() => [...document.querySelectorAll('#track-list img')].every(image => image.naturalWidth > 0)"
    )


def test_next_track_follows_the_end(page: Page, samples: Process, tracks: list[dict[str, object]]) -> None:
    """A track that ends hands over to the next."""
    first, second = tracks[0], tracks[1]
    page.goto(samples.url)
    page.locator(f".track[data-id='{first['id']}']").click()
    page.wait_for_function("() => document.getElementById('player').currentTime > 0")
    page.evaluate("player.currentTime = player.duration - 0.5")
    expect(page.locator("#now-title")).to_have_text(str(second["title"]))
    page.wait_for_function(
        f"() => player.src.endsWith('{second['url']}') && player.currentTime > 0.1 && !player.paused"
    )
    expect(page.locator(f".track[data-id='{second['id']}']")).to_have_attribute("aria-current", "true")


def test_keyboard_alone(page: Page, samples: Process, tracks: list[dict[str, object]]) -> None:
    """From the search field the first track is reached and played by keys."""
    page.goto(samples.url)
    expect(page.locator("#track-list .track")).to_have_count(5)
    page.locator("#search").focus()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('track')"):
            break
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('player').currentTime > 0.1")
    expect(page.locator("#now-title")).to_have_text(str(tracks[0]["title"]))


def test_text_is_shown(page: Page, samples: Process) -> None:
    """A text that is chosen stands on the page, each character of it."""
    page.goto(samples.url)
    page.locator(".text-file[data-name='text_sample']").click()
    expect(page.locator("#text-state")).to_have_text("Complete")
    assert page.locator("#text").text_content() == LYRIC


def test_text_arrives_line_by_line(page: Page, samples: Process) -> None:
    """A paced text grows, and stops when it is told to."""
    page.goto(samples.url)
    page.locator("#text-pace").select_option("0.5")
    page.locator(".text-file[data-name='text_sample']").click()
    page.wait_for_function("() => document.getElementById('text').textContent.split('\\n').length >= 3")
    page.locator("#text-stop").click()
    expect(page.locator("#text-state")).to_have_text("Stopped")
    shown = page.locator("#text").text_content()
    assert shown
    assert LYRIC.startswith(shown)
    assert len(shown) < len(LYRIC)


def test_lines_tick_until_they_are_stopped(page: Page, samples: Process) -> None:
    """Lines come one after the other; the button stops them, and the server learns of it."""
    page.goto(samples.url)
    page.locator("#lines-sleep").select_option("0.2")
    page.locator("#lines-start").click()
    lines = page.locator("#lines p")
    page.wait_for_function("() => document.querySelectorAll('#lines p').length >= 4")
    assert re.match(r"\[ *0 s\] ", lines.first.text_content() or "")
    expect(page.locator("#lines-state")).to_have_text("Running")
    page.locator("#lines-stop").click()
    expect(page.locator("#lines-state")).to_have_text("Stopped")
    count = lines.count()
    samples.logged(r"GET /stream/lines\?format=text&heartbeat=0&sleep=0.2 200 disconnected ", 5)
    assert lines.count() == count


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser: Browser, samples: Process, scheme: str) -> None:
    """On a phone nothing is wider than the screen, in both colour schemes."""
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(samples.url)
    expect(page.locator("#track-list .track")).to_have_count(5)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    if background == "rgba(0, 0, 0, 0)":
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"[0-9]+", background)[:3]))
    assert (brightness > 384) == (scheme == "light"), background
    context.close()


def test_track_that_has_gone_is_told_to_the_person(browser: Browser, start: Starter, library: Path) -> None:
    """The page says which track cannot be played, and the next one can."""
    write_tone(library / "1.wav", 3)
    write_tone(library / "2.wav", 3)
    server = start("--media", str(library))
    page = browser.new_page()
    page.goto(server.url)
    expect(page.locator("#track-list .track")).to_have_count(2)
    (library / "2.wav").unlink()
    page.locator(".track", has_text="2").first.click()
    alert = page.locator("#alerts")
    expect(alert).to_contain_text("“2” cannot be played.")
    expect(alert).to_contain_text("There is nothing here by this name.")
    page.locator(".track", has_text="1").first.click()
    page.wait_for_function("() => document.getElementById('player').currentTime > 0.1")
    expect(alert).not_to_contain_text("cannot be played")
    page.close()


def test_server_that_has_gone_is_told_to_the_person(browser: Browser, start: Starter) -> None:
    """The page says that the server cannot be reached, where something is asked of it."""
    server = start()
    page = browser.new_page()
    page.goto(server.url)
    expect(page.locator("#track-list .track")).to_have_count(5)
    server.stop()
    page.locator("#search").fill("water")
    expect(page.locator("#alerts")).to_contain_text("The tracks could not be listed.")
    page.close()


def test_one_very_long_line_is_shown(page: Page, start: Starter, library: Path) -> None:
    """A line of 900 kB takes seconds and not a minute, and a copy of it is the text."""
    text = (
        "first\r\n"
        + "".join(f"word{number} " for number in range(90_000))[:900_000]
        + "\n\nlast\n"
        + "x😀" * 9000
    )
    (library / "long.txt").write_bytes(text.encode())
    server = start("--media", str(library))
    page.goto(server.url)
    page.locator(".text-file").click()
    expect(page.locator("#text-state")).to_have_text("Complete")
    shown = page.evaluate("document.getElementById('text').textContent")
    assert shown == text
    blocks = page.locator("#text .block").all_text_contents()
    assert max(map(len, blocks)) <= 16_384
    assert all(page.evaluate("blocks => blocks.map(block => block.isWellFormed())", blocks))
    page.evaluate("getSelection().selectAllChildren(document.getElementById('text'))")
    assert page.evaluate("getSelection().toString()") == text
    page.goto("about:blank")


def test_copy_of_many_lines_is_the_text(page: Page, start: Starter, library: Path) -> None:
    """Where one block of lines ends and the next begins, a copy has the line ends of the text."""
    text = "".join(f"line {number}\n" + "\n" * (number % 3) for number in range(5000)) + "end"
    (library / "lines.txt").write_text(text)
    server = start("--media", str(library))
    page.goto(server.url)
    page.locator(".text-file").click()
    expect(page.locator("#text-state")).to_have_text("Complete")
    assert page.locator("#text .block").count() > 3
    page.evaluate("getSelection().selectAllChildren(document.getElementById('text'))")
    assert page.evaluate("getSelection().toString()") == text


def test_lines_are_followed_in_a_smaller_window(page: Page, samples: Process) -> None:
    """The newest line stays in view when the window shrinks, and the person's own scrolling ends that."""
    at_end = "() => lines.scrollHeight - lines.scrollTop - lines.clientHeight < 2 && lines.scrollTop > 0"
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(samples.url)
    page.locator("#lines-sleep").select_option("0.2")
    page.locator("#lines-start").click()
    page.evaluate("lines.style.flex = 'none'; lines.style.height = '12vh'")
    page.wait_for_function(at_end)
    page.set_viewport_size({"width": 1280, "height": 700})
    count = page.locator("#lines p").count()
    page.wait_for_function(f"() => lines.childElementCount > {count} + 2")
    page.wait_for_function(at_end, timeout=1000)
    page.locator("#lines").hover()
    page.mouse.wheel(0, -30)
    page.wait_for_function(f"() => !({at_end})()")
    top = page.evaluate("lines.scrollTop")
    count = page.locator("#lines p").count()
    page.wait_for_function(f"() => lines.childElementCount > {count} + 2")
    assert page.evaluate("lines.scrollTop") == top
    page.mouse.wheel(0, 10_000)
    page.wait_for_function(at_end)
    page.locator("#lines-stop").click()
    page.set_viewport_size({"width": 1280, "height": 600})
    page.wait_for_function(at_end, timeout=1000)


def test_what_failed_is_tried_again_when_the_server_is_back(
    browser: Browser, start: Starter, tmp_path: Path
) -> None:
    """The list that could not be had is there by itself, and its notice gone."""
    server = start()
    page = browser.new_page()
    page.goto(server.url)
    expect(page.locator("#track-list .track")).to_have_count(5)
    server.stop()
    page.locator("#search").fill("lanterns")
    expect(page.locator("#alerts")).to_contain_text("The tracks could not be listed.")
    start("--port", str(server.port))
    expect(page.locator("#track-list .track")).to_have_count(1, timeout=20_000)
    expect(page.locator("#alerts .notice")).to_have_count(0)
    page.close()


def test_track_that_fails_is_passed_over(browser: Browser, start: Starter, library: Path) -> None:
    """One that followed another is passed over and told; the page's title names what the player shows."""
    for name in ("1", "2", "3", "4", "5"):
        write_tone(library / f"{name}.wav", 1)
    server = start("--media", str(library))
    page = browser.new_page()
    page.goto(server.url)
    expect(page.locator("#track-list .track")).to_have_count(5)
    for name in ("2", "4", "5"):
        (library / f"{name}.wav").unlink()
    alert = page.locator("#alerts")
    page.locator(".track", has_text="1").first.click()
    expect(alert).to_contain_text("“2” cannot be played. The next one follows.")
    expect(page).to_have_title("2 · Millrace")
    expect(alert).to_contain_text("“2” cannot be played. It was passed over.")
    expect(page).to_have_title("3 · Millrace")
    # The next two in a row fail: the second stays.
    expect(alert).to_contain_text("“4” cannot be played. It was passed over.")
    expect(alert).to_contain_text("“5” cannot be played.")
    expect(page.locator("#now-title")).to_have_text("5")
    page.close()


def test_failing_track_that_was_chosen_stays(browser: Browser, start: Starter, library: Path) -> None:
    """The page passes over nothing that the person chose; the server's own words come second."""
    write_tone(library / "1.wav", 1)
    write_tone(library / "2.wav", 1)
    server = start("--media", str(library))
    page = browser.new_page()
    page.goto(server.url)
    expect(page.locator("#track-list .track")).to_have_count(2)
    (library / "1.wav").write_bytes(b"")
    page.reload()
    page.locator(".track", has_text="1").first.click()
    expect(page.locator("#alerts")).to_contain_text("“1” cannot be played. The server said: ")
    page.wait_for_timeout(3500)
    expect(page.locator("#now-title")).to_have_text("1")
    page.close()


def test_gzip_is_decoded_as_it_comes(page: Page, samples: Process) -> None:
    """Chromium asks for it by itself, an EventSource too; and that one gets its events as they are."""
    codings: dict[str, str] = {}
    page.on(
        "response", lambda answer: codings.update({answer.url: answer.headers.get("content-encoding", "")})
    )
    page.goto(samples.url)
    lines, events = f"{samples.url}/stream?sleep=0.2", f"{samples.url}/text/mill_stream.txt?format=sse"
    for line in page.evaluate(READ_LINES, lines).splitlines()[:3]:
        assert line.startswith("[  ")
    assert page.evaluate(FIRST_EVENT, events)
    page_files = [f"{samples.url}/", f"{samples.url}/static/app.js"]
    assert (codings[lines], codings[events]) == ("gzip", "")
    assert {codings[url] for url in page_files} <= {"gzip", "zstd"}
