"""Tornado's own StaticFileHandler: reads 64 KiB at a time on the loop."""

from benchmarks.peers import python_peer

PEER = python_peer("static_file_handler", "StaticFileHandler")

if __name__ == "__main__":
    from tornado.web import StaticFileHandler

    from benchmarks.peers.tornado_server import serve_folder

    serve_folder(lambda folder: ("/(.+)", StaticFileHandler, {"path": str(folder)}))
