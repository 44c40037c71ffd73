"""Functions that clients share, for tests: led by the hand, asked for over HTTP."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from typing import Any

from media.generated import StreamRequest
from tests.serving import Client, Response, Server, eventually, request

MIB = 1024 * 1024
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
WARNING, ERROR = 30, 40


class Function:
    """A user's function that a test leads by the hand: it yields what is put in."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        self.requests: list[StreamRequest] = []
        self.running = 0

    async def __call__(self, request: StreamRequest) -> AsyncGenerator[Any, None]:
        """Items, as a test puts them in."""
        self.requests.append(request)
        self.running += 1
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.running -= 1

    def put(self, *items: Any) -> None:
        """Have these yielded; None ends it, an exception is raised."""
        for item in items:
            self.items.put_nowait(item)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def count(request: StreamRequest, *, to: int = 10) -> AsyncGenerator[Any, None]:
    """Numbers from 0 on."""
    for n in range(to):
        yield {"n": n}


def asked(target: str = "s", method: str = "GET", **headers: str) -> bytes:
    """A request on a connection that ends with it; as SSE, if the target does not say otherwise."""
    return request(
        f"/stream/{target}", method, **{"accept": "text/event-stream", "connection": "close", **headers}
    )


async def following(server: Server, count: int, name: str = "s") -> None:
    """Wait until so many are."""
    await eventually(lambda: facts(server, name)["subscribers"] == count)
    await asyncio.sleep(0)


def facts(server: Server, name: str = "s") -> dict[str, Any]:
    found = server.resources.streams[name].runs
    assert found is not None
    return found.facts()


def events(stream: bytes) -> list[tuple[str, str, str]]:
    """Those of a stream of SSE: name, id and data."""
    found = []
    for block in stream.decode().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.split("\n"))
        if "data" in fields:
            found.append((fields.get("event", ""), fields.get("id", ""), fields["data"]))
    return found


def data_of(stream: bytes) -> list[Any]:
    """What the events of a run hold, in the order in which they came."""
    return [json.loads(data) for name, _, data in events(stream) if not name]


async def ended(client: Client) -> Response:
    """The response, read to its end."""
    received, reset = await client.rest()
    return Response.parsed(received, reset=reset)


async def post(
    server: Server, target: str = "s", body: bytes = b"", media_type: str = "", **headers: str
) -> Response:
    """Start a job."""
    if media_type:
        headers["content_type"] = media_type
    return await server.exchange(asked(target, "POST", content_length=str(len(body)), **headers) + body)
