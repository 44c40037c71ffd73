"""aiohttp's FileResponse (sendfile) on asyncio's loop, access log off.

asyncio's, because uvloop has no sendfile and aiohttp would fall back to reading.
"""

import sys
from pathlib import Path

from benchmarks.peers import TINY, python_peer

PEER = python_peer("aiohttp", "aiohttp", "aiohttp")


def main(folder: Path, port: int) -> None:
    from aiohttp import web  # here, so that PEER can be read where aiohttp is not installed

    async def tiny(_: web.Request) -> web.Response:
        return web.Response(text=TINY)

    async def file(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.match_info["name"])

    application = web.Application()
    application.add_routes([web.get("/tiny", tiny), web.get("/{name}", file)])
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
