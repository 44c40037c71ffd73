"""Publishing: what a body becomes, who may, and what is said to what cannot be published."""

import json
from pathlib import Path

import pytest

from tests.serving import Response, Server, request, serving

TEXT, JSON, LINES = "text/plain", "application/json", "application/x-ndjson"


async def publish(
    server: Server, body: bytes, media_type: str = TEXT, target: str = "/stream/events", **headers: str
) -> Response:
    """One POST on a connection of its own."""
    length = str(len(body))
    head = request(
        target, "POST", connection="close", content_type=media_type, content_length=length, **headers
    )
    return await server.exchange(head + body)


async def published(server: Server) -> list[dict[str, object]]:
    """The events of the channel."""
    answer = await server.get("/stream/events?format=json&last_event_id=earliest")
    events: list[dict[str, object]] = json.loads(answer.body)["events"]
    return events


@pytest.mark.parametrize(
    ("media_type", "body", "data"),
    [
        (TEXT, b"Hello", ["Hello"]),
        (TEXT, b"", [""]),
        (TEXT, b"a\0b\rc\r\nd\n", ["a\0b\rc\r\nd\n"]),
        (TEXT + "; charset=UTF-8", "ä€🎵".encode(), ["ä€🎵"]),
        (JSON, b'{"a": [1, null]}', [{"a": [1, None]}]),
        (JSON, b' \r\n{\n "a":\r\n 1\n}\n', [{"a": 1}]),
        (JSON, b'"a\\nb\\u0000"', ["a\nb\0"]),
        (LINES, b'1\n"two"\n{"three": 3}\n', [1, "two", {"three": 3}]),
        (LINES, b"\n 1 \r\n\r\n\t\n2", [1, 2]),
        (LINES, b"", []),
    ],
)
@pytest.mark.gen_test
async def test_a_body_becomes_events(
    tmp_path: Path, media_type: str, body: bytes, data: list[object]
) -> None:
    """Text and JSON are one event, NDJSON one a line, and the answer has the id of the last."""
    async with serving(tmp_path, scan=False) as server:
        answer = await publish(server, body, media_type)
        events = await published(server)
    assert (answer.status, answer.headers["Content-Type"]) == (202, JSON)
    assert [event["data"] for event in events] == data
    last = events[-1]["id"] if events else None
    assert json.loads(answer.body) == {"id": last, "published": len(data)}
