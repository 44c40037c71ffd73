"""Starlette's FileResponse on uvicorn with uvloop and httptools, one worker, access log off."""

import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import TINY, python_peer

PEER = python_peer("starlette", "Starlette on uvicorn", "starlette", "uvicorn", "uvloop", "httptools")


def main(folder: Path, port: int) -> None:
    from starlette.applications import Starlette  # here, so that PEER can be read where it is not installed
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse
    from starlette.routing import Route

    async def tiny(_: Request) -> PlainTextResponse:
        return PlainTextResponse(TINY)

    async def file(request: Request) -> FileResponse:
        return FileResponse(folder / request.path_params["name"])

    run(Starlette(routes=[Route("/tiny", tiny), Route("/{name}", file)]), port)


def run(application: Any, port: int) -> None:
    """Serve an ASGI application on this port of 127.0.0.1 until the process is ended."""
    import uvicorn

    uvicorn.run(
        application,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
