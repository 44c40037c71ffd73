"""What is live on the page, in Chromium: the events of a channel, and live audio.

The page asks its server again and again, so it is the last fixture of a test: it goes before the server does.
"""

import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process, until

pytestmark = pytest.mark.slow

Broadcast = Callable[[Process], socket.socket]

HOSTILE = "<img src=x onerror=\"document.title='hit'\"><script>document.title = 'hit'</script>"
SAMPLE = (ROOT / "media" / "samples" / "01 Opening the Sluice.mp3").read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """For the tests that leave it running, each with a channel of its own."""
    process = Process(tmp_path_factory.mktemp("live"), ["--channels", "arriving,many,hostile,form,phone"])
    try:
        yield process.started()
    finally:
        process.stop()


@pytest.fixture
def broadcast() -> Iterator[Broadcast]:
    """Send 12 seconds of a sample to the mount `demo`; the source stays until it is closed."""
    with ExitStack() as stack:

        def begun(server: Process) -> socket.socket:
            source = stack.enter_context(server.connect())
            head = f"Host: localhost\r\nContent-Type: audio/mpeg\r\nContent-Length: {len(SAMPLE)}\r\n\r\n"
            source.sendall(f"PUT /audio/live/demo HTTP/1.1\r\n{head}".encode() + SAMPLE[:200_000])
            until(lambda: server.get("/audio/live/demo.json")[0] == 200, 10)
            return source

        yield begun


def publish(server: Process, path: str, data: str, media_type: str = "application/json") -> str:
    """Publish to a channel; the id. Behind its name the path may have a query."""
    request = urllib.request.Request(
        f"{server.url}/stream/{path}", data=data.encode(), headers={"Content-Type": media_type}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(json.load(response)["id"])


def follow(page: Page, server: Process, channel: str) -> None:
    """The page, with a channel followed."""
    page.goto(server.url)
    page.locator("#channel-choice").select_option(channel)
    page.locator("#channel-start").click()
    expect(page.locator("#channel-state")).to_have_text(f"Following {channel}")


def test_events_arrive(server: Process, page: Page) -> None:
    """What is remembered stands there first, then what comes, each by its name and id."""
    first = publish(server, "arriving", "before", "text/plain")
    follow(page, server, "arriving")
    expect(page.locator("#channel .event")).to_have_count(1)
    second = publish(server, "arriving?event=deploy", '{"at": 2}')
    expect(page.locator("#channel .event pre")).to_have_text(["before", '{"at": 2}'])
    expect(page.locator("#channel .event-name")).to_have_text(["message", "deploy"])
    expect(page.locator("#channel .event-id")).to_have_text([first, second])
    expect(page.locator("#channel-count")).to_have_text("2 events")
    expect(page.locator("#channel-listening")).to_have_text("1 listening", timeout=10_000)
    page.locator("#channel-stop").click()
    expect(page.locator("#channel-state")).to_have_text("Stopped")
    server.logged(r"GET /stream/arriving\?format=sse&last_event_id=earliest 200 disconnected ")


def test_last_events_are_shown(server: Process, page: Page) -> None:
    """200 of them are on the page, the newest in view."""
    publish(server, "many", "".join(f"{number}\n" for number in range(300)), "application/x-ndjson")
    follow(page, server, "many")
    expect(page.locator("#channel-count")).to_have_text("last 200 of 300 events")
    expect(page.locator("#channel .event")).to_have_count(200)
    assert page.locator("#channel .event pre").first.text_content() == "100"
    expect(page.locator("#channel .event").last).to_be_in_viewport()


def test_hostile_event_is_text(server: Process, page: Page) -> None:
    """Markup in data and name stays what it is, and numbers keep their digits."""
    data = {"html": HOSTILE, "number": 12345678901234567890}
    publish(server, "hostile?event=%3Cimg%20src=x%3E", json.dumps(data))
    publish(server, "hostile", HOSTILE, "text/plain")
    follow(page, server, "hostile")
    expect(page.locator("#channel .event pre")).to_have_text([json.dumps(data, indent=2), HOSTILE])
    expect(page.locator("#channel .event-name")).to_have_text(["<img src=x>", "message"])
    expect(page.locator("#channel :is(img, script)")).to_have_count(0)
    expect(page).to_have_title("Millrace")


def test_publishing_from_the_page(server: Process, browser: Browser) -> None:
    """What the form sends arrives; what the server says against it stands beside it, and the text stays."""
    page = browser.new_page()
    follow(page, server, "form")
    page.locator("#publish-data").fill('{"half": ')
    page.locator("#publish-event").fill("tick & tock")
    page.locator("#publish-type").select_option(label="JSON")
    page.locator("#publish-send").click()
    outcome = page.locator("#publish-outcome")
    expect(outcome).to_have_text("The body must be one value of JSON, in UTF-8.")
    expect(page.locator("#publish-data")).to_have_value('{"half": ')
    page.locator("#publish-data").press_sequentially("1}")
    page.keyboard.press("Control+Enter")
    expect(outcome).to_contain_text("Published as ")
    expect(page.locator("#publish-data")).to_have_value("")
    expect(page.locator("#channel .event pre")).to_have_text(['{"half": 1}'])
    expect(page.locator("#channel .event-name")).to_have_text(["tick & tock"])
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_events_on_a_phone(server: Process, browser: Browser, scheme: str) -> None:
    """However long a word of theirs is, nothing is wider than the screen."""
    publish(server, f"phone?event={'y' * 250}", "x" * 5000, "text/plain")
    context = browser.new_context(viewport={"width": 320, "height": 640}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    follow(page, server, "phone")
    expect(page.locator("#channel .event").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate("document.getElementById('channel').scrollWidth") <= 320
    context.close()


def test_gap_after_a_restart(browser: Browser, start: Starter) -> None:
    """The page comes back by itself; what the server cannot have any more is shown as missing, once."""
    server = start()
    last = publish(server, "events", "1")
    page = browser.new_page()
    follow(page, server, "events")
    expect(page.locator("#channel .event")).to_have_count(1)
    server.stop()
    expect(page.locator("#channel-state")).to_contain_text("Trying again in")
    # The new server has another token, too: the page is told by itself that it may no longer publish.
    server = start("--port", str(server.port), "--publish-token", "secret")
    state = page.locator("#channel-state")
    expect(state).to_have_text("Following events. Some events are missing.", timeout=20_000)
    expect(page.locator("#channel .gap")).to_have_text([f"Events are missing here after {last}"])
    expect(page.locator("#channel .event pre")).to_have_text(["1"])
    expect(page.locator("#publish-closed")).to_be_visible(timeout=10_000)
    expect(page.locator("#publish")).to_be_hidden()
    page.close()


def hear(page: Page, mount: str) -> Locator:
    """Have the page play a mount; its row."""
    row = page.locator(".mount", has_text=mount)
    row.locator("button").click()
    expect(page.locator("#radio-state")).to_have_text(f"Playing {mount}", timeout=15_000)
    page.wait_for_function("() => document.getElementById('radio').currentTime > 0.2")
    return row


def test_radio_plays(start: Starter, broadcast: Broadcast, page: Page) -> None:
    """The title changes by itself and is text; radio and player take turns; to stop ends the download."""
    server = start()
    broadcast(server)
    page.goto(server.url)
    page.locator(".track").first.click()
    page.wait_for_function("() => document.getElementById('player').currentTime > 0.1")
    row = hear(page, "demo")
    assert page.evaluate("document.getElementById('player').paused")
    expect(row.locator(".badge")).to_have_text("live")
    expect(row).to_contain_text("1 listening")
    assert server.get(f"/admin/metadata?mode=updinfo&mount=/audio/live/demo&song={quote(HOSTILE)}")[0] == 200
    expect(row.locator(".mount-title")).to_have_text(HOSTILE)
    expect(page).to_have_title(f"{HOSTILE} · demo · Millrace")
    assert page.evaluate("navigator.mediaSession.metadata.title") == HOSTILE
    expect(page.locator(".mount :is(img, script)")).to_have_count(0)
    page.locator(".track").nth(1).click()
    expect(page.locator("#radio-state")).to_have_text("Stopped")
    page.wait_for_function("() => !document.getElementById('player').paused")
    assert page.evaluate("[radio.paused, radio.getAttribute('src')]") == [True, None]
    server.logged(r"GET /audio/live/demo 200 disconnected ")
    server.logged(r"GET /audio/live/demo.json\?format=sse 200 disconnected ")


def test_radio_that_is_lost_is_taken_up(browser: Browser, start: Starter, broadcast: Broadcast) -> None:
    """When its source has gone the page says so, and plays on when there is one again."""
    server = start("--source-grace", "0.1", "--burst-seconds", "3")
    source = broadcast(server)
    page = browser.new_page()
    page.goto(server.url)
    row = hear(page, "demo")
    source.close()
    expect(row.locator(".badge")).to_have_text("off air")
    expect(page.locator("#radio-state")).to_contain_text("Trying again in", timeout=20_000)
    broadcast(server)
    expect(page.locator("#radio-state")).to_have_text("Playing demo", timeout=30_000)
    page.close()


def test_station_is_heard(start: Starter, library: Path, page: Page) -> None:
    """The page plays the station from one track into the next, and the title changes by itself."""
    for path in (ROOT / "media" / "samples").glob("*.mp3"):
        (library / path.name).write_bytes(path.read_bytes()[:150_000])
    server = start("--media", str(library), "--station", "radio=*")
    page.goto(server.url)
    row = hear(page, "radio")
    expect(row.locator(".badge")).to_have_text("station")
    first = row.locator(".mount-title").text_content() or ""
    expect(row.locator(".mount-title")).not_to_have_text(first, timeout=30_000)
    expect(page.locator("#radio-state")).to_have_text("Playing radio")
