"""Rows in Starlette: a StreamingResponse that is given one line after the other, on uvicorn with uvloop."""

import sys
from pathlib import Path

from benchmarks.peers import TINY, python_peer

PEER = python_peer(
    "starlette_rows", "Starlette on uvicorn", "starlette", "uvicorn", "uvloop", "httptools", "aiosqlite"
)


def main(folder: Path, port: int) -> None:
    from starlette.applications import Starlette  # here, so that PEER can be read where it is not installed
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    from benchmarks.peers.async_lines import lines
    from benchmarks.peers.starlette import run

    async def tiny(_: Request) -> PlainTextResponse:
        return PlainTextResponse(TINY)

    async def csv(request: Request) -> StreamingResponse:
        rows = int(request.query_params["rows"])
        return StreamingResponse(lines(folder, request.path_params["name"], rows), media_type="text/csv")

    run(Starlette(routes=[Route("/tiny", tiny), Route("/{name}", csv)]), port)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
