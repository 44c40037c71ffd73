"""Rows in Django by ASGI: a StreamingHttpResponse of an async generator, on uvicorn with uvloop."""

import sys
from pathlib import Path

from benchmarks.peers import TINY, python_peer

PEER = python_peer(
    "django_rows", "Django on uvicorn", "django", "uvicorn", "uvloop", "httptools", "aiosqlite"
)


def main(folder: Path, port: int) -> None:
    import django  # here, so that PEER can be read where it is not installed
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.urls import path

    from benchmarks.peers.async_lines import lines
    from benchmarks.peers.starlette import run

    async def tiny(_: HttpRequest) -> HttpResponse:
        # The length, which Django leaves to a middleware.
        return HttpResponse(TINY, content_type="text/plain", headers={"Content-Length": str(len(TINY))})

    async def csv(request: HttpRequest, name: str) -> StreamingHttpResponse:
        rows = int(request.GET["rows"])
        return StreamingHttpResponse(lines(folder, name, rows), content_type="text/csv; charset=utf-8")

    class Routes:
        urlpatterns = (path("tiny", tiny), path("<name>", csv))

    settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=Routes, SECRET_KEY="bench")
    django.setup()
    run(get_asgi_application(), port)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
