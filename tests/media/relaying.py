"""A Millrace for tests that relays what another server of theirs answers."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from media.relay import relay
from tests.conftest import ExpectLog
from tests.media.upstreams import (
    Answer,
    Exchange,
    Upstream,
    saying,
    upstream,
)
from tests.serving import Server, serving

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\n\r\n"
CHUNKED = OK + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def relaying(
    root: Path, answer: Answer, target: str = "/", **options: Any
) -> AsyncIterator[tuple[Server, Upstream]]:
    """A Millrace whose /stream/r is a relay of `answer`."""
    async with upstream(answer) as there:
        row = relay(there.url + target, **options)
        async with serving(root, scan=False, channels={"r": row}) as server:
            yield server, there


def in_turn(*answers: Answer) -> Answer:
    """Each connection gets the next of them; all that come later are closed at once."""
    left = iter(answers)

    async def answer(exchange: Exchange) -> None:
        await next(left, saying())(exchange)

    return answer


def broken(expect_log: ExpectLog, text: str = "") -> None:
    """Announce that a body breaks off."""
    expect_log("millrace.serve", logging.WARNING, text)


def refused(expect_log: ExpectLog, text: str = "") -> None:
    """Announce a 502 or 504."""
    expect_log("millrace", logging.WARNING, text)
