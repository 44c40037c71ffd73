"""What is live on the page, in Chromium: the events of a channel."""

import json
import urllib.request

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='hit'\"><script>document.title = 'hit'</script>"


@pytest.fixture
def jobs(start: Starter) -> Process:
    """A server with a channel `jobs` of its own."""
    return start("--channels", "jobs")


def publish(server: Process, data: str, event: str = "", media_type: str = "application/json") -> str:
    """Publish to `jobs`; the id."""
    request = urllib.request.Request(
        f"{server.url}/stream/jobs" + (f"?event={event}" if event else ""),
        data=data.encode(),
        headers={"Content-Type": media_type},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(json.load(response)["id"])


def open_jobs(page: Page, server: Process) -> None:
    """The page, with `jobs` chosen and nothing followed yet."""
    page.goto(server.url)
    page.locator("#channel-choice").select_option("jobs")


def follow(page: Page, server: Process) -> None:
    """The page, with `jobs` followed."""
    open_jobs(page, server)
    page.locator("#channel-start").click()
    expect(page.locator("#channel-state")).to_have_text("Following jobs")


def test_events_arrive(page: Page, jobs: Process) -> None:
    """What is remembered stands there first, then what comes, each by its name and id."""
    first = publish(jobs, "before", media_type="text/plain")
    follow(page, jobs)
    expect(page.locator("#channel .event")).to_have_count(1)
    second = publish(jobs, '{"at": 2}', event="deploy")
    expect(page.locator("#channel .event pre")).to_have_text(["before", '{"at": 2}'])
    expect(page.locator("#channel .event-name")).to_have_text(["message", "deploy"])
    expect(page.locator("#channel .event-id")).to_have_text([first, second])
    expect(page.locator("#channel-count")).to_have_text("2 events")
    expect(page.locator("#channel-listening")).to_have_text("1 listening")
    page.locator("#channel-stop").click()
    expect(page.locator("#channel-state")).to_have_text("Stopped")
    jobs.logged(r"GET /stream/jobs\?format=sse&last_event_id=earliest 200 disconnected ")
    expect(page.locator("#channel-listening")).to_have_text("0 listening", timeout=10_000)


def test_last_events_are_shown(page: Page, jobs: Process) -> None:
    """200 of them are on the page, the newest in view."""
    publish(jobs, "".join(f"{number}\n" for number in range(300)), media_type="application/x-ndjson")
    follow(page, jobs)
    expect(page.locator("#channel-count")).to_have_text("last 200 of 300 events")
    expect(page.locator("#channel .event")).to_have_count(200)
    assert page.locator("#channel .event pre").first.text_content() == "100"
    expect(page.locator("#channel .event").last).to_be_in_viewport()


def test_hostile_event_is_text(page: Page, jobs: Process) -> None:
    """Markup in data and name stays what it is, numbers keep their digits, and a gap that is none is none."""
    data = {"html": HOSTILE, "number": 12345678901234567890}
    publish(jobs, json.dumps(data), event="%3Cimg%20src=x%3E")
    publish(jobs, "null", event="gap")
    publish(jobs, HOSTILE, event="gap", media_type="text/plain")
    follow(page, jobs)
    expect(page.locator("#channel .event pre")).to_have_text([json.dumps(data, indent=2), "null", HOSTILE])
    expect(page.locator("#channel .event-name")).to_have_text(["<img src=x>", "gap", "gap"])
    expect(page.locator("#channel :is(img, script)")).to_have_count(0)
    expect(page).to_have_title("Millrace")


def test_publishing_from_the_page(browser: Browser, jobs: Process) -> None:
    """What the form sends arrives; what the server says against it stands beside it, and the text stays."""
    page = browser.new_page()
    follow(page, jobs)
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


def test_publishing_that_needs_a_token(page: Page, start: Starter) -> None:
    """There is no form, and the page says why."""
    open_jobs(page, start("--channels", "jobs", "--publish-token", "secret"))
    expect(page.locator("#publish-closed")).to_be_visible()
    expect(page.locator("#publish")).to_be_hidden()


def test_gap_after_a_restart(browser: Browser, start: Starter, jobs: Process) -> None:
    """The page comes back by itself; what the server cannot have any more is shown as missing, once."""
    last = publish(jobs, "1")
    page = browser.new_page()
    follow(page, jobs)
    expect(page.locator("#channel .event")).to_have_count(1)
    jobs.stop()
    expect(page.locator("#channel-state")).to_contain_text("Trying again in")
    again = start("--channels", "jobs", "--port", str(jobs.port))
    expect(page.locator("#channel-state")).to_have_text("Following jobs", timeout=20_000)
    publish(again, "2")
    expect(page.locator("#channel > *")).to_have_count(3)
    expect(page.locator("#channel .gap")).to_have_text([f"Events are missing here after {last}"])
    expect(page.locator("#channel .event pre")).to_have_text(["1", "2"])
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_events_on_a_phone(browser: Browser, jobs: Process, scheme: str) -> None:
    """However long a word of theirs is, nothing is wider than the screen."""
    publish(jobs, "x" * 5000, event="y" * 250, media_type="text/plain")
    context = browser.new_context(viewport={"width": 320, "height": 640}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    follow(page, jobs)
    expect(page.locator("#channel .event")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate("document.getElementById('channel').scrollWidth") <= 320
    context.close()
