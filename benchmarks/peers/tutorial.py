"""A file as Tornado tutorials send it: aiofiles, 64 KiB at a time, write, await flush.

It announces the length, which tutorials leave out: without it every piece would be framed as a chunk, and the
loop would look worse than it is. Of ranges it knows one, `bytes=START-STOP`: tutorials know none.
"""

import re
from pathlib import Path

import aiofiles
from tornado.web import RequestHandler

from benchmarks.peers import python_peer

READ_BYTES = 64 * 1024


class FileHandler(RequestHandler):
    """GET /NAME: the file of this name, or a range of it."""

    def initialize(self, folder: Path) -> None:
        self.folder = folder

    async def get(self, name: str) -> None:
        path = self.folder / name
        start, stop = 0, path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.request.headers.get("Range", ""))
        if asked:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{stop}")
            start, stop = int(asked[1]), int(asked[2]) + 1
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", stop - start)
        async with aiofiles.open(path, "rb") as file:
            await file.seek(start)
            while start < stop:
                chunk = await file.read(min(READ_BYTES, stop - start))
                self.write(chunk)
                await self.flush()
                start += len(chunk)


PEER = python_peer("tutorial", "aiofiles loop of the tutorials")

if __name__ == "__main__":
    from benchmarks.peers.tornado_server import serve_folder

    serve_folder(lambda folder: ("/([^/]+)", FileHandler, {"folder": folder}))
