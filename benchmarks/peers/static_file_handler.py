"""Tornado's own StaticFileHandler: reads 64 KiB at a time on the loop."""

import asyncio
import sys
from pathlib import Path

from tornado.web import Application, StaticFileHandler

from benchmarks.peers import Peer


async def main(folder: str, port: str) -> None:
    Application([("/(.+)", StaticFileHandler, {"path": folder})]).listen(int(port), "127.0.0.1")
    await asyncio.Event().wait()


def _command(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.static_file_handler", str(folder), str(port)]


PEER = Peer("StaticFileHandler", _command, lambda port, name: f"/{name}")

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
