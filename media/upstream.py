"""Another server's resource, asked by httpx: one connection for each request, which ends with its response.

So a client that leaves ends the work over there, and no request is lost on a connection that was kept and
that the other side is closing just then.

Of httpx only the transport is used, and a new one for each request. Its client, above that, keeps cookies and
sends them with the next request, whosever it is. Its pool, below, loses a place for good to a request that is
cancelled just when the other server has been reached, and leaves the connection open: here who leaves then.

It is imported by the first request: 3.2 MB, and 1.2 more for TLS, that a server without a relay never takes.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from media.generated import StreamRequest
from media.hops import HOP_BY_HOP, NEVER_SENT_ON, SENT_ON, sent_headers
from media.source import SourceBroken, SourceBusy, SourceError, SourceSlow

if TYPE_CHECKING:
    import httpx

MOST_REDIRECTS = 5

ALIVE_SECONDS = 60
"""A connection that is silent for so long is asked by the kernel whether it lives: an event stream has no
other limit, and its other end may be gone without a word."""

_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
if hasattr(socket, "TCP_KEEPIDLE"):
    _ALIVE += [
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ALIVE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ALIVE_SECONDS // 4),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    ]

_REDIRECTS = (301, 302, 303, 307, 308)


class Upstream:
    """Another server's resource.

    Args:
        url: http or https, without a user.
        headers: sent with every request, in place of the client's.
        args: the parameters of the client's query that are sent on, behind those of the URL.
        sent_on: headers of the client that are sent on besides SENT_ON.
        connect_seconds: for a free connection, and for its beginning; 0: any time.
        idle_seconds: until the headers come; 0: any time.
        connections: the most at once.

    Raises:
        ValueError: the URL cannot be asked, or a header is not for others.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        args: Sequence[str],
        sent_on: Sequence[str],
        *,
        connect_seconds: float,
        idle_seconds: float,
        connections: int,
    ) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError("a relay's URL must have no user: its headers may have an Authorization")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f'a relay\'s URL must begin with http:// or https:// and a host, not be "{url}"')
        if kept := [name for name in sent_on if name.lower() in NEVER_SENT_ON | HOP_BY_HOP]:
            raise ValueError(f'a relay\'s sent_on must be headers that are for others, not "{kept[0]}"')
        self.called = f"{parts.scheme}://{parts.netloc}{parts.path}"
        """For the log: a query may have a key."""
        # httpx's own limit would begin anew with each byte of a header.
        self.answer_seconds = 2 * connect_seconds + idle_seconds if connect_seconds and idle_seconds else None
        self._url = url.partition("#")[0]
        self._encrypted = parts.scheme == "https"
        self._headers = {"user-agent": "Millrace"} | {name.lower(): value for name, value in headers.items()}
        self._args = tuple(args)
        self._sent_on = (*SENT_ON, *(name.lower() for name in sent_on))
        self._connect_seconds = connect_seconds or None
        self._places = asyncio.Semaphore(connections)

    async def ask(self, request: StreamRequest, opened: list[Any]) -> "httpx.Response":
        """The response to what `request` asks, behind redirects to the same server (RFC 9110 §15.4), with its
        headers read. The caller closes it, and all that is added to `opened`.

        Raises:
            SourceBroken: it leads to another server, or is none that a client can make something of.
            httpx.HTTPError, httpx.InvalidURL: it did not come, or is malformed.
        """
        trust = await asyncio.to_thread(_trust, self._encrypted)
        import httpx

        async def note(event: str, facts: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                opened.append(facts["return_value"])

        transport = httpx.AsyncHTTPTransport(verify=trust, socket_options=_ALIVE)
        headers = sent_headers(request, self._sent_on, self._headers)
        method = "HEAD" if request.method == "HEAD" else "GET"
        extensions = {"timeout": {"connect": self._connect_seconds}, "trace": note}
        url = httpx.URL(self._asked(request))
        for _ in range(MOST_REDIRECTS + 1):
            asked = httpx.Request(method, url, headers=headers, extensions=extensions)
            response = await transport.handle_async_request(asked)
            leads_to = response.headers.get("location")
            if response.status_code not in _REDIRECTS or leads_to is None:
                return _acceptable(response)
            await response.aclose()
            there = url.join(leads_to)
            if (there.scheme, there.host, there.port) != (url.scheme, url.host, url.port):
                raise SourceBroken(f"{self.called} leads to another server, {there.scheme}://{there.host}")
            url = there
        raise SourceBroken(f"{self.called} redirects more than {MOST_REDIRECTS} times")

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None, None]:
        """One of the connections that may be.

        Raises:
            SourceBusy: none has become free.
        """
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._places.acquire()
        except TimeoutError as error:
            raise SourceBusy(f"all connections to {self.called} are in use") from error
        try:
            yield
        finally:
            self._places.release()

    def _asked(self, request: StreamRequest) -> str:
        given = urlencode([(name, request.args[name]) for name in self._args if name in request.args])
        if not given:
            return self._url
        return f"{self._url}{'&' if '?' in self._url else '?'}{given}"


class Asking:
    """One request to another server, and its response.

    Whatever is httpx's is done in one task, which is cancelled once. A second cancellation, while httpx
    closes a connection because of the first or because that broke, would leave it open.
    """

    def __init__(self, upstream: Upstream, request: StreamRequest) -> None:
        self._upstream = upstream
        self._answer: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()
        self._wanted = asyncio.Event()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(1)  # the empty one is the end
        self._failure: Exception | None = None
        self._task = asyncio.create_task(self._ask(request), name=f"asking {upstream.called}")

    async def answer(self) -> "httpx.Response":
        """The response, with its headers read.

        Raises:
            SourceBusy: all connections are in use.
            SourceSlow: it did not come in time.
            SourceBroken: it did not come, is malformed, or leads to another server.
        """
        called = self._upstream.called
        try:
            async with asyncio.timeout(self._upstream.answer_seconds):
                return await self._answer
        except SourceError:
            raise
        except TimeoutError as error:
            raise SourceSlow(f"{called} did not answer in time") from error
        except Exception as error:
            import httpx

            if isinstance(error, httpx.TimeoutException):
                raise SourceSlow(f"{called} did not answer in time") from error
            if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
                raise SourceBroken(f"{called} did not answer") from error
            raise

    async def chunks(self, idle_seconds: float | None) -> AsyncGenerator[bytes, None]:
        """The bytes of the body as they come, coded as they are. At most two pieces are read ahead.

        Raises:
            SourceBroken: the body broke off, or nothing came for `idle_seconds`; None: that may be.
        """
        self._wanted.set()
        while True:
            try:
                async with asyncio.timeout(idle_seconds):
                    piece = await self._pieces.get()
            except TimeoutError as error:
                raise SourceBroken(f"nothing came for {idle_seconds:g} s") from error
            if piece:
                yield piece
            elif self._failure is None:
                return
            else:
                import httpx

                if isinstance(self._failure, httpx.HTTPError):
                    raise SourceBroken("the other server's response broke off") from self._failure
                raise self._failure

    async def leave(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _ask(self, request: StreamRequest) -> None:
        opened: list[Any] = []
        try:
            async with self._upstream.place():
                try:
                    await self._pass_on(await self._upstream.ask(request, opened))
                finally:
                    for connection in opened:
                        await connection.aclose()
        except Exception as error:
            self._failure = error
            if not self._answer.done():
                self._answer.set_exception(error)
        await self._pieces.put(b"")

    async def _pass_on(self, response: "httpx.Response") -> None:
        import httpx

        pieces = response.aiter_raw()
        try:
            if not self._answer.done():
                self._answer.set_result(response)
            await self._wanted.wait()
            async for piece in pieces:
                await self._pieces.put(piece)
        finally:
            await response.aclose()
            # httpx's generators are nested, and closing the outer one leaves the others to the garbage
            # collector, which has tasks close them. Read from a closed connection they end by themselves.
            with suppress(httpx.HTTPError, httpx.StreamError):
                async for _ in pieces:
                    pass


def _acceptable(response: "httpx.Response") -> "httpx.Response":
    """The response, if a client can make something of it.

    Raises:
        SourceBroken: it is about us, or is none.
    """
    status = response.status_code
    # What is asked of us there, no client can give: its own credentials are not sent on.
    if status in (401, 407) or not 200 <= status < 600:
        raise SourceBroken(f"the other server said {status}")
    return response


@cache
def _trust(encrypted: bool) -> ssl.SSLContext:
    """The authorities that httpx trusts, or those of SSL_CERT_FILE; none where nothing is encrypted.

    In a thread: importing takes 0.1 s, and reading the certificates 30 ms.
    """
    import httpx

    return httpx.create_ssl_context(verify=encrypted)
