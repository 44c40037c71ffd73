"""Another server's response, passed on as it comes.

Only the URL in the table is asked, never one of the client's. The client's conditions, ranges and codings go
to the other server, and what it answers comes back as it is: status, bytes, Content-Encoding, validators.
What this adds is an honest ending. A response that breaks off there breaks off here, in every framing.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from media.generated import Stream, StreamRequest
from media.hops import passed_headers
from media.records import Format
from media.source import Body, Facts, Passed
from media.upstream import Asking, Upstream

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0
CONNECTIONS = 100


def relay(
    url: str,
    *,
    title: str = "",
    headers: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
    sent_on: Sequence[str] = (),
    connect_seconds: float = CONNECT_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
    connections: int = CONNECTIONS,
    live: bool = False,
) -> Stream:
    """The stream that another server sends, as it sends it.

    Args:
        url: http or https, without a user: credentials belong in `headers`.
        headers: sent with every request, in place of the client's.
        args: the parameters of the client's query that are sent on, behind those of the URL.
        sent_on: headers of the client that are sent on besides SENT_ON.
        connect_seconds: for a free connection, and for its beginning; 0: any time.
        idle_seconds: until the headers come, and between two pieces of a body that is not live; 0: any time.
        connections: the most at once.
        live: endless; an event stream is it by itself. Draining ends it, and it is whole as far as it goes.

    Raises:
        ValueError: the URL cannot be asked, or a header is not for others.
    """
    upstream = Upstream(
        url,
        headers or {},
        args,
        sent_on,
        connect_seconds=connect_seconds,
        idle_seconds=idle_seconds,
        connections=connections,
    )

    @asynccontextmanager
    async def open_(request: StreamRequest, form: Format | None) -> AsyncGenerator[Body, None]:
        asking = Asking(upstream, request)
        try:
            yield _body(asking, await asking.answer(), request, live, idle_seconds)
        finally:
            await asking.leave()

    listed = tuple({"name": name, "required": False} for name in args)
    return Stream(title or f"What {urlsplit(url).hostname} sends", open_, live=live, parameters=listed)


def _body(
    asking: Asking, response: "httpx.Response", request: StreamRequest, live: bool, idle_seconds: float
) -> Body:
    """What is passed on of a response.

    Raises:
        SourceBroken: its headers are malformed.
    """
    headers = passed_headers(response.headers.raw)
    if response.status_code in (204, 205):
        headers.pop("Content-Length", None)
    media_type = headers.get("Content-Type", "application/octet-stream")
    length = headers.get("Content-Length")
    is_events = media_type.partition(";")[0].strip().lower() == "text/event-stream"
    # One of known length is whole only as it is promised, and a coded one only with the end of its coding.
    endless = (live or is_events) and length is None and "Content-Encoding" not in headers
    sent = request.method != "HEAD" and response.status_code not in (204, 304)
    facts = Facts(media_type, length=int(length) if length and sent else None, live=endless)
    limit = None if live or is_events or not idle_seconds else idle_seconds
    return Body(facts, chunks=lambda: asking.chunks(limit), passed=Passed(response.status_code, headers))
