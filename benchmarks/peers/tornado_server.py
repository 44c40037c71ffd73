"""A Tornado application as a peer's whole program: one process, no log line a request."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.web import Application, RequestHandler

from benchmarks.peers import TINY


class TinyHandler(RequestHandler):
    """GET /tiny."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(TINY)


def serve_folder(files: Callable[[Path], tuple[Any, ...]]) -> None:
    """Serve as the command line says until terminated; `files(folder)` is the route of the files."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])

    async def main() -> None:
        Application([("/tiny", TinyHandler), files(folder)]).listen(port, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(main())
