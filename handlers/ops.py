"""What is asked of the server as a whole: does it live, does it take requests, what does it know."""

from collections.abc import Callable

from handlers.resource import Problem, Resource


class HealthResource(Resource):
    """GET /healthz: 200 `ok` while the process lives."""

    async def answer(self, **parts: str) -> None:
        _ok(self)


class ReadyResource(Resource):
    """GET /readyz: 200, or 503 while starting or draining."""

    def initialize(self, ready: Callable[[], bool]) -> None:
        self.ready = ready

    async def answer(self, **parts: str) -> None:
        if not self.ready():
            raise Problem(503, "The server is starting or shutting down.", {"Retry-After": "1"})
        _ok(self)


class ServerResource(Resource):
    """OPTIONS *: the methods that there are (RFC 9110 §9.3.7). libshout asks before it sends."""

    SUPPORTED_METHODS = ("OPTIONS",)
    allow = "GET, HEAD, OPTIONS, POST, DELETE, PUT, SOURCE"


def _ok(response: Resource) -> None:
    response.set_header("Content-Type", "text/plain; charset=utf-8")
    response.set_header("Cache-Control", "no-store")
    response.finish(b"ok\n")
