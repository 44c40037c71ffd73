"""Shared streams and jobs of a user's own module, in a process, for clients that others wrote."""

import json
import signal
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import ROOT, Process, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.left_out("processes", reason="each process has runs of its own"),
]

MODULE = """
import asyncio
import pathlib

from media.streams import Event, shared

CALLS = pathlib.Path(__file__).with_name("calls")
CLOSED = pathlib.Path(__file__).with_name("closed")


async def steps(request, *, many: int = 5, pause: float = 0.05):
    "The steps of some work"
    with CALLS.open("a") as calls:
        calls.write(request.method + "\\n")
    try:
        for n in range(many):
            yield Event({"step": n}, event="step")
            await asyncio.sleep(pause)
        yield {"result": many}
    finally:
        await asyncio.sleep(0.2)
        CLOSED.write_text("closed")


STREAMS = {"steps": shared(steps), "work": shared(steps, detached=True, key="name")}
"""

FOLLOW = """address => {
    window.seen = [];
    const source = new EventSource(address);
    for (const name of ['message', 'step', 'end', 'gap'])
        source.addEventListener(name, event => seen.push([name, event.data]));
    source.onerror = () => { if (source.readyState === source.CLOSED) seen.push(['closed', null]); };
}"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module with a shared stream and a job."""
    path = tmp_path / "mine.py"
    path.write_text(MODULE, encoding="utf-8")
    return path


def test_an_event_source_stops_at_the_end(module: Path, start: Starter, page: Page) -> None:
    """It comes back once more, is told that it has everything, and the function is not called again."""
    server = start("--streams", str(module))
    page.goto(server.url)
    page.evaluate(FOLLOW, f"{server.url}/stream/steps?many=3")
    steps = [["step", json.dumps({"step": n}, separators=(",", ":"))] for n in range(3)]
    until(lambda: ["closed", None] in page.evaluate("seen"), 20)
    assert page.evaluate("seen") == [*steps, ["message", '{"result":3}'], ["end", "{}"], ["closed", None]]
    assert module.with_name("calls").read_text() == "GET\n"


def test_the_example_of_the_docs(tmp_path: Path, start: Starter) -> None:
    """As it stands there: followed by two, one generator."""
    text = (ROOT / "docs" / "http.md").read_text(encoding="utf-8").partition("## Shared streams")[2]
    module = tmp_path / "mine.py"
    module.write_text(text.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    server = start("--streams", str(module))
    with httpx.Client(trust_env=False, base_url=server.url) as client:
        for _ in range(2):
            with client.stream("GET", "/stream/prices?every=0.01&format=ndjson") as response:
                lines = response.iter_lines()
                assert [json.loads(next(lines))["data"] for _ in range(3)] == [{"price": 100.0}] * 3
        listed = {stream["name"]: stream for stream in client.get("/streams").json()["streams"]}
    assert listed["prices"]["title"] == "The price, once a second"
    assert listed["prices"]["shared"]["running"] == 1


def lines_of(server: Process, last_event_id: str = "", most: int = 10**9) -> list[dict[str, object]]:
    """The events of the job from a place on; cut behind so many."""
    lines = []
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("GET", f"{server.url}/stream/work?name=a&format=ndjson", headers=headers) as response,
    ):
        assert response.status_code == 200
        for line in response.iter_lines():
            if line:
                lines.append(json.loads(line))
            if len(lines) == most:
                break
    return lines


def test_a_job_is_watched_in_pieces(module: Path, start: Starter) -> None:
    """What is lost is taken up behind its last id; the result is there at the end, and later."""
    server = start("--streams", str(module))
    with httpx.Client(trust_env=False, base_url=server.url) as client:
        assert client.get("/stream/work?name=a").status_code == 404
        started = client.post("/stream/work", data={"name": "a", "many": "20"})
        assert (started.status_code, started.headers["Location"]) == (202, "/stream/work?name=a")
        seen = lines_of(server, most=3)
        seen += lines_of(server, str(seen[-1]["id"]), most=5)
        seen += lines_of(server, str(seen[-1]["id"]))
        assert [line["data"] for line in seen] == [*({"step": n} for n in range(20)), {"result": 20}, {}]
        assert lines_of(server) == seen
        said = client.post("/stream/work", json={"name": "a"})
        assert (said.status_code, said.json()["state"], said.json()["items"]) == (200, "ended", 21)
        assert client.delete("/stream/work?name=a").status_code == 204
        assert client.get("/stream/work?name=a").status_code == 404


def test_a_job_is_cancelled_at_the_end(module: Path, start: Starter) -> None:
    """Its generator closes within the time for draining, and the log says that it did not end by itself."""
    server = start("--streams", str(module))
    server.expect_log("/stream/work a: the job is cancelled, for the server ends")
    with httpx.Client(trust_env=False, base_url=server.url) as client:
        assert client.post("/stream/work?name=a&pause=60").status_code == 202
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert module.with_name("closed").read_text() == "closed"


def test_a_job_that_does_not_close_is_left(module: Path, start: Starter) -> None:
    """After --drain seconds, and not before."""
    module.write_text(MODULE.replace("asyncio.sleep(0.2)", "asyncio.sleep(60)"), encoding="utf-8")
    server = start("--streams", str(module), "--drain", "0.5")
    server.expect_log("the job is cancelled")
    server.expect_log("generators that did not close within 0.5 s: 1")
    server.expect_log("generators that did not close within 1 s: 1")
    with httpx.Client(trust_env=False, base_url=server.url) as client:
        assert client.post("/stream/work?name=a&pause=60").status_code == 202
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert not module.with_name("closed").exists()
