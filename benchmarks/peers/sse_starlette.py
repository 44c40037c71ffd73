"""Events in Starlette by sse-starlette: a queue and a generator a client, on uvicorn with uvloop."""

import asyncio
import sys
from collections.abc import AsyncIterator
from itertools import count

from benchmarks.peers import EVENTS, python_peer
from benchmarks.peers.starlette import run

MOST_WAITING = 1000
"""Events that may wait for a client."""

PEER = python_peer(
    "sse_starlette",
    "sse-starlette on uvicorn",
    "sse_starlette",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
)


def main(port: int) -> None:
    from sse_starlette import (  # here, so that PEER can be read without it
        EventSourceResponse,
        ServerSentEvent,
    )
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    queues: set[asyncio.Queue[ServerSentEvent]] = set()
    numbers = count(1)

    async def publish(request: Request) -> Response:
        event = ServerSentEvent((await request.body()).decode(), id=str(next(numbers)))
        for queue in queues:
            queue.put_nowait(event)
        return Response(status_code=202)

    async def subscribe(_: Request) -> EventSourceResponse:
        queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue(MOST_WAITING)

        async def events() -> AsyncIterator[ServerSentEvent]:
            try:
                while True:
                    yield await queue.get()
            finally:
                queues.remove(queue)

        queues.add(queue)
        return EventSourceResponse(events())

    routes = [Route(EVENTS, subscribe), Route(EVENTS, publish, methods=["POST"])]
    run(Starlette(routes=routes), port)


if __name__ == "__main__":
    main(int(sys.argv[2]))
