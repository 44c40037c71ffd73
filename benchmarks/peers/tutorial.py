"""A file as Tornado tutorials send it: aiofiles, 64 KiB at a time, write, await flush.

It announces the length, which tutorials leave out: without it every piece would be framed as a chunk, and the
loop would look worse than it is.
"""

import asyncio
import sys
from pathlib import Path

import aiofiles
from tornado.web import Application, RequestHandler

from benchmarks.peers import Peer

READ_BYTES = 64 * 1024


class FileHandler(RequestHandler):
    """GET /NAME: the file of this name."""

    def initialize(self, folder: Path) -> None:
        self.folder = folder

    async def get(self, name: str) -> None:
        path = self.folder / name
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", path.stat().st_size)
        async with aiofiles.open(path, "rb") as file:
            while chunk := await file.read(READ_BYTES):
                self.write(chunk)
                await self.flush()


async def main(folder: str, port: str) -> None:
    Application([("/([^/]+)", FileHandler, {"folder": Path(folder)})]).listen(int(port), "127.0.0.1")
    await asyncio.Event().wait()


def _command(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.tutorial", str(folder), str(port)]


PEER = Peer("aiofiles loop of the tutorials", _command, lambda port, name: f"/{name}")

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
