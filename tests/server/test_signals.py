"""What signals do to the process, in the test's own. tests/end_to_end sends them to one of its own."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from server.signals import Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    """Those of this process, until the test has ended."""
    with Signals(60) as entered:
        yield entered


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set where the process would have ended on the spot."""
    event = threading.Event()

    def end(code: int) -> None:
        assert code == 0
        event.set()

    monkeypatch.setattr(os, "_exit", end)
    return event


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
@pytest.mark.gen_test
async def test_first_signal_asks_second_hurries_third_ends(
    signals: Signals, ended: threading.Event, number: signal.Signals
) -> None:
    """Each of the three does more."""
    signals.attach(asyncio.get_running_loop())
    signal.raise_signal(number)
    await signals.asked.wait()
    assert not signals.hurried.is_set()
    signal.raise_signal(number)
    await signals.hurried.wait()
    assert not ended.is_set()
    signal.raise_signal(number)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("events", "level"),
    [
        (["sent", "told 1"], 1),  # Ctrl-C reaches supervisor and worker
        (["told 1", "sent"], 1),
        (["told 1", "told 2"], 2),
        (["sent", "sent", "told 1", "told 2"], 2),
        (["told 1", "told 2", "sent"], 2),
        (["sent", "told 1", "sent"], 2),
        (["told 1", "told 2", "told 3"], 3),
        (["sent", "told 1", "sent", "told 2", "sent"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_worker_goes_by_what_it_was_sent_or_told(
    signals: Signals, ended: threading.Event, events: list[str], level: int
) -> None:
    """Whichever is more, never the sum: the second time cuts downloads."""
    for event in events:
        if event == "sent":
            signal.raise_signal(signal.SIGTERM)
        else:
            signals.told(int(event.removeprefix("told ")))
    assert (signals.asked.is_set(), signals.hurried.is_set(), ended.is_set()) == (True, level > 1, level > 2)


def test_signal_before_there_is_a_loop(signals: Signals) -> None:
    """It is not lost: the server ends before it has begun."""
    signal.raise_signal(signal.SIGTERM)
    assert signals.asked.is_set()


def test_signal_after_the_loop(signals: Signals) -> None:
    """While the process closes what is left there is nobody to tell."""
    loop = asyncio.new_event_loop()
    signals.attach(loop)
    loop.close()
    signal.raise_signal(signal.SIGTERM)
    assert not signals.asked.is_set()


@pytest.mark.slow
def test_clock_ends_a_process_that_hangs(
    ended: threading.Event, expect_log: Callable[[str, int, str], None]
) -> None:
    """It is wound up by the first signal, and names the threads that are left."""
    expect_log("millrace", logging.WARNING, "these threads are left behind: MainThread")
    with Signals(0.1):
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(5)


@pytest.mark.slow
def test_second_signal_winds_the_clock_up_anew(
    ended: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    expect_log: Callable[[str, int, str], None],
) -> None:
    """Who asks twice does not wait for the drain's own limit."""
    monkeypatch.setattr("server.signals.BREAK_OFF_SECONDS", 0.05)
    monkeypatch.setattr("server.signals.EXIT_SECONDS", 0.05)
    expect_log("millrace", logging.WARNING, "the end is taking too long")
    with Signals(60):
        signal.raise_signal(signal.SIGTERM)
        assert not ended.wait(0.3)
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(5)


@pytest.mark.slow
def test_clock_is_stopped_by_an_orderly_end(ended: threading.Event) -> None:
    """What follows in the process is not ended."""
    with Signals(0.6):
        signal.raise_signal(signal.SIGTERM)
    assert not ended.wait(0.8)
