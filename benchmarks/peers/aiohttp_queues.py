"""Events in aiohttp as its examples do it: a queue and a task a client; an event is encoded once for all."""

import asyncio
import sys
from itertools import count

from benchmarks.peers import EVENTS, python_peer

MOST_WAITING = 1000
"""Events that may wait for a client."""

PEER = python_peer("aiohttp_queues", "aiohttp, a queue a client", "aiohttp")


def main(port: int) -> None:
    from aiohttp import web  # here, so that PEER can be read where aiohttp is not installed

    queues: set[asyncio.Queue[bytes]] = set()
    numbers = count(1)

    async def publish(request: web.Request) -> web.Response:
        event = b"id: %d\ndata: %s\n\n" % (next(numbers), await request.read())
        for queue in queues:
            queue.put_nowait(event)
        return web.Response(status=202)

    async def subscribe(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue(MOST_WAITING)
        queues.add(queue)
        try:
            while True:
                await response.write(await queue.get())
        finally:
            queues.remove(queue)

    application = web.Application()
    application.add_routes([web.get(EVENTS, subscribe), web.post(EVENTS, publish)])
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[2]))
