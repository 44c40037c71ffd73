"""The web page at / and its files."""

from pathlib import Path, PurePosixPath

from handlers.delivery import StreamResource
from handlers.serve import serve
from media.files import file

STATIC = Path(__file__).parent / "static"

# Not by `mimetypes`: it reads the system's own tables, and says something else on every other system.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Everything the page needs comes from here, and nothing on it runs that is not a file of ours.
_POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"


class PageResource(StreamResource):
    """GET / and /static/NAME. 200, 206, 304, 404, 412, 416."""

    async def answer(self, name: str = "index.html") -> None:  # type: ignore[override]
        media_type = _MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
        self.set_header("Content-Security-Policy", _POLICY)
        await serve(self, file(STATIC, name, media_type))
