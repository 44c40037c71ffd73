"""Which of several media types a client wants."""

import pytest

from handlers.accept import preferred

TEXT, EVENTS, JSON = "text/plain; charset=utf-8", "text/event-stream", "application/json"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", TEXT),
        (",, ,", TEXT),
        ("*/*", TEXT),
        ("image/png", TEXT),
        ("text/event-stream", EVENTS),
        ("TEXT/Event-Stream", EVENTS),
        ("text/event-stream;charset=utf-8", EVENTS),
        ("text/event-stream, */*", EVENTS),
        ("*/*, text/event-stream", EVENTS),
        ("text/*, application/json", JSON),
        ("application/*", JSON),
        ("application/json;q=0.5, text/event-stream;q=0.4", JSON),
        ("application/json; Q=0.3 , text/event-stream ; q=0.4", EVENTS),
        ("text/plain;q=0, text/event-stream;q=0.1", EVENTS),
        ("text/plain;q=0, */*", EVENTS),
        ("text/*;q=0.2, application/json;q=0.1", TEXT),
        ("text/event-stream;q=high, application/json;q=0.001", JSON),
        ("text/event-stream;q=nan, application/json;q=0.001", JSON),
        ("text/event-stream;q=-1, application/json;q=0.001", JSON),
        ("application/json, text/event-stream;q=9", EVENTS),
        ("text/event-stream;q, application/json;q=0.5", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        ("application/json;q=0.1, application/json;q=0.9, text/event-stream;q=0.5", JSON),
    ],
)
def test_preferred(accept: str, wanted: str) -> None:
    """The highest weight, then the most specific range, then our own order."""
    assert preferred(accept, [TEXT, EVENTS, JSON]) == wanted


def test_a_long_list_is_cut() -> None:
    """What a client may send is unbounded; nobody has 64 wishes."""
    assert preferred("a/b," * 64 + "text/event-stream", [TEXT, EVENTS]) == TEXT
    assert preferred("a/b," * 63 + "text/event-stream", [TEXT, EVENTS]) == EVENTS
