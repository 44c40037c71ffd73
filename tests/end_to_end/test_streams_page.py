"""The streams on the page, in Chromium: forms, what is watched, what is saved, jobs.

The page may go on reading, so it is the last fixture of a test: it goes before the server does.
"""

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='hit'\">"
TONE = b"".join(struct.pack("<h", round(8000 * math.sin(n / 3))) for n in range(8000))
FACTS = (b"RIFF", 36 + 160_000, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16_000, 2, 16, b"data", 160_000)
HEAD = struct.pack("<4sI4s4sIHHIIHH4sI", *FACTS)
READ_TO_THE_BREAK = """addresses => Promise.all(addresses.map(async address => {
    const reader = (await fetch(address)).body.getReader();
    const decoder = new TextDecoder();
    let text = '';
    try {
        for (;;) text += decoder.decode((await reader.read()).value, { stream: true });
    } catch (error) {
        return text;
    }
}))"""
ROWS = """async ([format, body, size]) => {
    const { Rows } = await import('/static/rows.js');
    const rows = Rows.of(format);
    const bytes = new TextEncoder().encode(body);
    for (let at = 0; at < bytes.length; at += size) rows.add(bytes.subarray(at, at + size));
    return [rows.count, rows.whole, rows.count ? await rows.value('id') : null];
}"""
STREAMS = f'''
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Literal

from media.source import SourceBroken
from media.streams import BadRequest, generated, relay, rows, shared

NUMBERS = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 5000) SELECT id FROM n"

TONE = {TONE!r}
HEAD = {HEAD!r}


Unit = Literal["EUR", "KRW"]


async def orders(request, *, rows: int = 1000, unit: Unit = "EUR", paid: bool = False, buyer: str):
    """Orders, {HOSTILE}"""
    if buyer == "nobody":
        raise BadRequest("buyer must be somebody")
    for number in range(rows):
        order = {{"id": 2**60 + number, "buyer": buyer, "note": 'two\\nlines, "quoted"'}}
        yield order | {{"unit": unit, "paid": paid}}


async def failing(request):
    """Breaks off"""
    yield "the first"
    await asyncio.sleep(0.2)
    raise RuntimeError("boom")


async def breaking(request):
    """Goes on behind a row"""
    after = request.args.get("after")
    for number in range(int(after or 0), 1000):
        if number == 600 and after is None:
            await asyncio.sleep(0.2)
            raise SourceBroken("on the way")
        yield {{"n": 'a "quoted",\\n' * (number % 3), "id": number + 1}}


async def ticks(request):
    """Ticks"""
    number = 0
    while True:
        number += 1
        yield {{"number": number}}
        await asyncio.sleep(0.05)


async def work(request, *, name: str = "daily"):
    """A long job"""
    yield {{"done": 1, "total": 4}}
    while not Path(__file__).with_name(name).exists():
        await asyncio.sleep(0.05)
    for number in range(2, 5):
        yield {{"done": number, "total": 4}}


async def tone(request):
    """A tone"""
    yield HEAD
    for second in range(10):
        yield TONE


STREAMS = {{
    "team/orders.csv": generated(orders, first="csv"),
    "failing": generated(failing, first="text"),
    "counted": rows("sqlite+aiosqlite://", NUMBERS, key="id", count=True),
    "breaking": replace(generated(breaking), key="id"),
    "elsewhere": relay("http://127.0.0.1:1/"),
    "ticks": generated(ticks, live=True),
    "work": shared(work, key="name", detached=True),
    "tone.wav": generated(tone, media_type="audio/wav"),
}}
for number in range(MORE):
    STREAMS[f"more/{{number}}"] = generated(ticks, title=f"Number {{number}}", live=True)
'''


def module(folder: Path, more: int = 0) -> str:
    """A module of streams; `more`: so many others."""
    path = folder / "own_streams.py"
    path.write_text(STREAMS.replace("MORE", str(more)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """For the tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("streams")
    process = Process(folder, ["--streams", module(folder)])
    process.expect_log("^Traceback|broke off|127.0.0.1:1/ did not answer")
    try:
        yield process.started()
    finally:
        process.stop()


def open_stream(page: Page, server: Process, name: str) -> Locator:
    """The page, with a stream opened."""
    page.goto(server.url)
    item = page.locator(".stream-item", has=page.get_by_text(name, exact=True))
    item.locator("summary").click()
    return item


def press(item: Locator, label: str) -> None:
    """Press the button that has this text."""
    item.get_by_text(label, exact=True).first.click()


def test_parameters_and_what_comes(server: Process, page: Page) -> None:
    """The form has each parameter by its type, and asks for what differs; records are a table."""
    orders = open_stream(page, server, "team/orders.csv")
    expect(orders.locator(".stream-title")).to_have_text(f"Orders, {HOSTILE}")
    expect(orders.get_by_label("rows")).to_have_attribute("type", "number")
    expect(orders.get_by_label("rows")).to_have_value("1000")
    expect(orders.get_by_label("paid")).not_to_be_checked()
    orders.get_by_label("unit").select_option("KRW")
    press(orders, "Watch")  # buyer must be given, and the browser says so
    expect(orders.locator("[role=log]")).to_be_empty()
    orders.get_by_label("buyer").fill(HOSTILE)
    orders.get_by_label("buyer").press("Enter")
    expect(orders.get_by_text("Complete")).to_be_visible()
    expect(orders.locator("th")).to_have_text(["id", "buyer", "note", "unit", "paid"])
    expect(orders.locator("tbody tr")).to_have_count(200)
    last = orders.locator("tbody tr").last.locator("td")
    expect(last).to_have_text([str(2**60 + 999), HOSTILE, 'two\nlines, "quoted"', "KRW", "false"])
    expect(orders.get_by_text("last 200 of 1,000 rows")).to_be_visible()
    server.logged(r"GET /stream/team/orders.csv\?unit=KRW&buyer=%3Cimg\S+&format=sse 200 complete ", 5)
    expect(orders.get_by_role("link", name="ndjson")).to_have_attribute(
        "href", re.compile(r"/stream/team/orders\.csv\?unit=KRW&buyer=.*&format=ndjson$")
    )
    expect(page).to_have_title("Millrace")


def test_failures_are_told_in_the_server_s_words(server: Process, browser: Browser) -> None:
    """What a function says, before its first item or behind it, stands by the button; its rows stay."""
    page = browser.new_page()
    orders = open_stream(page, server, "team/orders.csv")
    orders.get_by_label("buyer").fill("nobody")
    press(orders, "Watch")
    expect(orders.locator(".state").first).to_contain_text("buyer must be somebody")
    press(orders, "Save")
    expect(orders.locator(".state").last).to_contain_text("buyer must be somebody")
    elsewhere = open_stream(page, server, "elsewhere")
    expect(elsewhere.get_by_role("link")).to_have_text("it comes")
    press(elsewhere, "Save")
    expect(elsewhere.locator(".state")).to_contain_text(re.compile(r"\(Request [0-9a-f]+\)"))
    failing = open_stream(page, server, "failing")
    press(failing, "Watch")
    state = failing.locator(".state").first
    expect(state).to_contain_text("Failed. The server failed; the log has the cause")
    expect(state).to_contain_text(re.compile(r"\(Request [0-9a-f]+\)"))
    expect(failing.locator("[role=log] p")).to_have_text(["the first"])
    press(failing, "Save")
    expect(failing.locator(".state").last).to_contain_text("Broken off")
    page.close()


def test_last_words_of_a_stream_that_breaks_are_heard(server: Process, browser: Browser) -> None:
    """Chromium drops what has come and was not read when a body breaks; the break comes a little later."""
    page = browser.new_page()
    page.goto(f"{server.url}/healthz")
    bodies = page.evaluate(READ_TO_THE_BREAK, ["/stream/failing?format=sse"] * 12)
    assert all("event: error" in body for body in bodies)
    page.close()


def test_stop_ends_it_for_the_server_too(server: Process, page: Page) -> None:
    """What is endless goes on until it is stopped; what had come stays."""
    ticks = open_stream(page, server, "ticks")
    press(ticks, "Watch")
    expect(ticks.locator("tbody tr").nth(3)).to_be_visible()
    press(ticks, "Stop")
    expect(ticks.locator(".state")).to_have_text("Stopped")
    server.logged(r"GET /stream/ticks\?format=sse 200 disconnected ", 5)
    assert ticks.locator("tbody tr").count() >= 4


def test_saved_file_is_the_stream(server: Process, page: Page) -> None:
    """Byte for byte, under its name; rows are counted as CSV has them."""
    orders = open_stream(page, server, "team/orders.csv")
    orders.get_by_label("buyer").fill("a")
    with page.expect_download() as begun:
        press(orders, "Save")
    assert begun.value.suggested_filename == "orders.csv"
    assert begun.value.path().read_bytes() == server.get("/stream/team/orders.csv?buyer=a&format=csv")[1]
    expect(orders.get_by_text("1,000 rows, ")).to_be_visible()
    expect(orders.get_by_role("link", name="The file again")).to_be_visible()
    counted = open_stream(page, server, "counted")
    with page.expect_download():
        press(counted, "Save")
    expect(counted.get_by_text("5,000 of 5,000 rows, ")).to_be_visible()


def test_download_goes_on_where_it_broke_off(server: Process, browser: Browser) -> None:
    """Behind the last row that is whole, and the file is that of a stream that did not break."""
    page = browser.new_page()
    breaking = open_stream(page, server, "breaking")
    with page.expect_download() as begun:
        press(breaking, "Save")
    assert begun.value.path().read_bytes() == server.get("/stream/breaking?after=0")[1]
    expect(breaking.get_by_text("1,000 rows, ")).to_be_visible()
    server.logged(r"GET /stream/breaking\?format=ndjson&after=[1-9][0-9]* 200 complete ", 5)
    page.close()


@pytest.mark.parametrize(
    ("form", "body", "count", "whole", "value"),
    [
        ("csv", "id,n\r\n", 0, 6, None),
        ("csv", "id,n\r\n1,a\r\n2,b", 1, 11, "1"),
        ("csv", 'n,id\r\n"a\r\nb","x,""y"\r\n"c', 1, 22, 'x,"y'),
        ("csv", "n,id\r\n,\r\n", 1, 9, ""),
        ("ndjson", '{"id":9007199254740993}\n\n{"id"', 1, 24, "9007199254740993"),
        ("ndjson", '\n{"id":"é\\n"}\n', 1, 15, "é\n"),
        ("ndjson", '"a line"\n', 1, 9, None),
        ("text", "\na\n", 2, 3, None),
    ],
)
def test_rows_of_a_body(
    page: Page, server: Process, form: str, body: str, count: int, whole: int, value: str | None
) -> None:
    """They are told apart wherever the body is cut, with the value that the last whole one has."""
    page.goto(server.url)
    for size in (1, 3, 100):
        assert page.evaluate(ROWS, [form, body, size]) == [count, whole, value]


def test_audio_is_heard(server: Process, page: Page) -> None:
    """A stream of audio has a player, and the page's own one falls silent."""
    tone = open_stream(page, server, "tone.wav")
    page.locator(".track").first.click()
    page.wait_for_function("() => document.getElementById('player').currentTime > 0.1")
    tone.locator("audio").evaluate("audio => audio.play()")
    page.wait_for_function("() => document.querySelector('.stream-player audio').currentTime > 0.1")
    assert page.evaluate("player.paused")


def test_job_is_come_back_to(start: Starter, tmp_path: Path, page: Page) -> None:
    """It is started and watched, goes on while the page is loaded anew, and is told of until it is done."""
    server = start("--streams", module(tmp_path))
    work = open_stream(page, server, "work")
    work.get_by_label("name (required)").fill("go")
    press(work, "Start the job")
    states = work.locator(".state")
    expect(states).to_have_text(["Running, 20 %", "Running"])
    assert work.get_by_role("progressbar").evaluate("bar => bar.value") == 0.25
    page.reload()
    expect(states).to_have_text(["Running, 20 %", "Running"])
    expect(work.get_by_label("name (required)")).to_have_value("go")
    (tmp_path / "go").touch()
    expect(states).to_have_text(["Done", "Complete"])
    expect(work.locator("tbody tr")).to_have_count(4)
    page.reload()
    expect(page.locator(".stream-item")).to_have_count(14)
    expect(page.locator("details[open]")).to_have_count(0)


def test_job_is_cancelled(server: Process, browser: Browser) -> None:
    """Its generator ends, and then there is no such job; a job that nobody has started is not there."""
    page = browser.new_page()
    work = open_stream(page, server, "work")
    states = work.locator(".state")
    press(work, "Watch")
    expect(states.first).to_have_text("Not started, or forgotten")
    press(work, "Start the job")
    expect(states).to_have_text(["Running, 20 %", "Running"])
    press(work, "Cancel")
    expect(states.first).to_have_text("Cancelled, and forgotten")
    expect(states.last).to_have_text("Stopped")
    assert server.get("/stream/work?name=daily")[0] == 404
    page.close()


def test_keyboard_and_roles(server: Process, page: Page) -> None:
    """By keys alone a stream is opened, watched and stopped; what it is at is said politely."""
    page.goto(server.url)
    item = page.locator(".stream-item", has=page.get_by_text("ticks", exact=True))
    item.locator("summary").focus()
    page.keyboard.press("Enter")
    watch = item.get_by_role("button", name="Watch ticks")
    for _ in range(10):
        if watch.evaluate("button => button === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(item.get_by_role("status")).to_have_text("Running")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(item.get_by_role("status")).to_have_text("Stopped")
    expect(item.get_by_role("log")).to_have_attribute("aria-live", "off")


def test_only_what_is_shipped(samples: Process, page: Page) -> None:
    """They are few: nothing filters them. A page opens, and is not watched."""
    large = open_stream(page, samples, "large.html")
    expect(large.get_by_role("link")).to_have_attribute("target", "_blank")
    expect(large.get_by_role("button")).to_have_count(0)
    expect(page.locator("#stream-filter")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_two_hundred(start: Starter, tmp_path: Path, page: Page, width: int) -> None:
    """They are filtered by name and title, and nothing is wider than the screen."""
    server = start("--streams", module(tmp_path, 200))
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(server.url)
    expect(page.locator(".stream-item")).to_have_count(214)
    page.locator("#stream-filter").fill("NUMBER 17")
    shown = page.locator(".stream-item:visible")
    expect(shown).to_have_count(12)
    expect(page.locator("#stream-count")).to_have_text("12 of 214 streams")
    shown.last.locator("summary").click()
    expect(shown.last.get_by_text("Watch", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
