"""Which of several media types and content codings a client wants."""

import pytest

from handlers.accept import codings, preferred, wanted_format
from media.records import FORMATS
from media.source import BadParameter

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


@pytest.mark.parametrize(
    ("query", "accept", "wanted"),
    [("", "*/*", "json"), ("", EVENTS, "sse"), ("sse", JSON, "sse"), ("json", EVENTS, "json")],
)
def test_the_parameter_wins_over_accept(query: str, accept: str, wanted: str) -> None:
    """Without either it is the first one."""
    args = {"format": query} if query else {}
    assert wanted_format(args, accept, (FORMATS["json"], FORMATS["sse"])).name == wanted


@pytest.mark.parametrize("query", ["csv", "SSE", ""])
def test_a_format_that_is_not_offered(query: str) -> None:
    """It is refused, also where it is one of another resource."""
    with pytest.raises(BadParameter, match="format must be json or sse"):
        wanted_format({"format": query}, "*/*", (FORMATS["json"], FORMATS["sse"]))


def test_a_long_list_is_cut() -> None:
    """What a client may send is unbounded; nobody has 64 wishes."""
    assert preferred("a/b," * 64 + "text/event-stream", [TEXT, EVENTS]) == TEXT
    assert preferred("a/b," * 63 + "text/event-stream", [TEXT, EVENTS]) == EVENTS


@pytest.mark.parametrize(
    ("accept_encoding", "wanted"),
    [
        ("", ()),
        (",, ,", ()),
        ("identity", ()),
        ("deflate", ()),
        ("gzip", ("gzip",)),
        ("GZip", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("gzip;q=0", ()),
        ("gzip;q=0.000", ()),
        ("gzip;q=0.001", ("gzip",)),
        ("gzip; Q=0.5 ", ("gzip",)),
        ("gzip;q=high", ()),
        ("gzip, deflate", ("gzip",)),
        ("gzip, deflate, br, zstd", ("br", "zstd", "gzip")),
        ("gzip, br;q=0.9, zstd;q=0.8", ("gzip", "br", "zstd")),
        ("gzip;q=0.5, br;q=0.5", ("br", "gzip")),
        ("*", ("br", "zstd", "gzip")),
        ("*;q=0", ()),
        ("*;q=0, gzip", ("gzip",)),
        ("*;q=0.1, br;q=0", ("zstd", "gzip")),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", ("gzip",)),
        ("identity, gzip", ("gzip",)),
        ("identity, gzip;q=0.9", ()),
        ("identity;q=0.5, gzip;q=0.4, br", ("br",)),
        ("*;q=0.5, gzip;q=0.2", ("br", "zstd")),
        ("identity;q=0", ()),
        ("identity;q=0, gzip;q=0.1", ("gzip",)),
        ("gzip;q=0, gzip;q=0.7", ("gzip",)),
    ],
)
def test_codings(accept_encoding: str, wanted: tuple[str, ...]) -> None:
    """By weight, then in our own order (RFC 9110 §12.5.3); never what ranks below the bytes as they are."""
    assert codings(accept_encoding, ("br", "zstd", "gzip")) == wanted
