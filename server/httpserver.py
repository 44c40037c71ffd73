"""The HTTP server: which of its connections are at work, and how a request finds its answer."""

import asyncio
import os
import re
import time
from contextlib import suppress
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream

from handlers import outgoing
from handlers.limits import Limits
from handlers.open_streams import OpenStreams
from handlers.repeats import Answer, Repeats
from handlers.resource import request_id
from server.access_log import log_repeat
from server.connections import Connection, Watch
from server.forwarded import Trusted, origin

AHEAD_BYTES = 1024 * 1024
"""The most bytes of what a client may send ahead while a response is under way."""

_DISCARDED_BYTES = 64 * 1024  # at a time
_LONGEST_HOST = 1024  # 253 characters of a name, percent-encoded, and a port

_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class Server(HTTPServer):
    """An HTTPServer that can say which of its connections are at work, and wait until none is."""

    def initialize(  # type: ignore[override]
        self,
        *args: Any,
        repeats: Repeats,
        limits: Limits,
        proxies: Trusted = (),
        sendfile: bool = True,
        **kwargs: Any,
    ) -> None:
        super().initialize(*args, **kwargs)
        # The watch sees to it. Tornado's own would set and cancel a timer for each request: 9 of 84 µs.
        self.conn_params.header_timeout = None
        self._sendfile = sendfile and outgoing.SUPPORTED
        self.repeats = repeats
        self.proxies = proxies
        self._watch = Watch(limits)
        self._watched: dict[object, Connection] = {}
        self.at_work: set[object] = set()
        self._resting = asyncio.Event()
        self._resting.set()
        self._closing = False

    def stop(self) -> None:
        """Accept no more. Connections that are open get one more answer each: a proxy would go on asking."""
        self._closing = True
        super().stop()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a connection that was accepted."""
        if not isinstance(stream, SSLIOStream):
            # The other has done nothing yet, and leaves its socket to this one.
            stream = outgoing.Outgoing(
                stream.socket, max_buffer_size=self.max_buffer_size, read_chunk_size=self.read_chunk_size
            )
            stream.takes_regions = self._sendfile
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """The connection waits for a request: its first, or the one before has been answered."""
        stream = cast(HTTP1ServerConnection, server_conn).stream
        if self._closing and server_conn in self.at_work and not stream.closed():
            _close(stream)
        self._rest(server_conn)
        if server_conn in self._watched:
            self._watched[server_conn].waits()
        else:
            address = str(cast(HTTP1ServerConnection, server_conn).context)
            self._watched[server_conn] = self._watch.over(stream, address)
        return _Request(self, server_conn, request_conn, self._watched[server_conn])

    def application_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """What takes the request on behalf of the application."""
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._rest(server_conn)
        self._watch.ended(self._watched.pop(server_conn))
        super().on_close(server_conn)

    async def rested(self, open_streams: OpenStreams) -> None:
        """Wait until no connection is at work and no stream is open: those that were cut still clean up."""
        while self.at_work or len(open_streams):
            await self._resting.wait()
            await open_streams.ended()

    def work(self, server_conn: object) -> None:
        """The connection has a whole request."""
        self.at_work.add(server_conn)
        self._resting.clear()

    def _rest(self, server_conn: object) -> None:
        self.at_work.discard(server_conn)
        if not self.at_work:
            self._resting.set()


class _Request(HTTPMessageDelegate):
    """One request: announced when it is whole, and answered again or passed on to the application."""

    __slots__ = (
        "_answer",
        "_began",
        "_delegate",
        "_headers",
        "_request_conn",
        "_server",
        "_server_conn",
        "_start_line",
        "_watched",
    )

    def __init__(
        self, server: Server, server_conn: object, request_conn: HTTPConnection, watched: Connection
    ) -> None:
        self._server = server
        self._watched = watched
        self._server_conn = server_conn
        self._request_conn = request_conn
        self._delegate: HTTPMessageDelegate | None = None

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Any:
        assert isinstance(start_line, RequestStartLine)
        self._watched.receives()
        if len(headers.get("Host", "")) > _LONGEST_HOST:
            # Tornado makes a number of its port, and of one with 4300 digits a traceback.
            raise HTTPInputError("Host header too long")
        if self._server.proxies:
            # A request has a connection object of its own: what is set here is not the next one's.
            connection = cast(HTTP1Connection, self._request_conn)
            connection.context = origin(connection.context, headers, self._server.proxies)
        if not start_line.path.startswith("/"):
            # A whole URL in place of a path must be taken (RFC 9112 §3.2.2).
            path = _ABSOLUTE.sub("", start_line.path, count=1) or "/"
            start_line = start_line._replace(path=path if path.startswith(("/", "*")) else "/" + path)
        self._began, self._start_line, self._headers = time.monotonic(), start_line, headers
        self._answer = self._server.repeats.find(start_line, headers)
        return self._pass_on() if self._answer is None else None

    def data_received(self, chunk: bytes) -> Any:
        self._watched.received += len(chunk)
        return None if self._delegate is None else self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._watched.answers()
        self._server.work(self._server_conn)
        if self._answer is not None:
            if self._repeat(self._answer):
                return
            self._pass_on()
        assert self._delegate is not None
        self._delegate.finish()

    def on_connection_close(self) -> None:
        if self._delegate is not None:
            self._delegate.on_connection_close()

    def _pass_on(self) -> Any:
        self._delegate = self._server.application_request(self._server_conn, self._request_conn)
        return self._delegate.headers_received(self._start_line, self._headers)

    def _repeat(self, answer: Answer) -> bool:
        id_ = request_id(self._headers)
        sent = self._server.repeats.send(answer, self._request_conn, self._headers, id_)
        if sent is not None:
            remote_ip = self._request_conn.context.remote_ip  # type: ignore[attr-defined]
            log_repeat(remote_ip, self._start_line.path, sent, time.monotonic() - self._began, id_)
        return sent is not None


def _close(stream: IOStream) -> None:
    """Close it behind a whole answer, of which the kernel may still hold megabytes.

    It would drop them, and reset the connection, if anything was unread: further requests, which Tornado
    leaves there as long as it has one in its buffer.
    """
    with suppress(OSError):  # there is no more
        for _ in range(AHEAD_BYTES // _DISCARDED_BYTES):
            if not os.read(stream.socket.fileno(), _DISCARDED_BYTES):
                break
    stream.close()
