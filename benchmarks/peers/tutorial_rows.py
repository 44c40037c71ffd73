"""Rows as Tornado tutorials send them: write and await flush, one after the other."""

from contextlib import aclosing
from pathlib import Path

from tornado.web import RequestHandler

from benchmarks.peers import python_peer


class RowsHandler(RequestHandler):
    """GET /NAME?rows=N: the CSV of this name."""

    def initialize(self, folder: Path) -> None:
        self.folder = folder

    async def get(self, name: str) -> None:
        from benchmarks.peers.async_lines import lines  # here: this file is read by those who only start it

        self.set_header("Content-Type", "text/csv; charset=utf-8")
        async with aclosing(lines(self.folder, name, int(self.get_argument("rows")))) as written:
            async for line in written:
                self.write(line)
                await self.flush()


PEER = python_peer("tutorial_rows", "write and flush of the tutorials", "aiosqlite")

if __name__ == "__main__":
    from benchmarks.peers.tornado_server import serve_folder

    serve_folder(lambda folder: ("/([^/]+)", RowsHandler, {"folder": folder}))
