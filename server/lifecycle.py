"""The life of the process: bind, start, signals, readiness, drain with a deadline, exit code.

Theory of operation. Signals are Python's own and not the loop's: their handlers also run while the loop is
held by a stream of the user's that never awaits, or is being closed. The first SIGTERM or SIGINT asks for an
end and winds up a clock, the second asks for haste, the third does not ask; the clock ends a process that a
thread, a task or a database holds back. Before the start line there is nothing to drain: the start is
broken off, and what it had opened is closed.

A drain waits for connections, not for streams: one is at work from the last byte of its request until the
kernel has the last byte of the response. So the final chunk is out before the connection is closed, and
answers that are no streams are waited for too.
"""

import asyncio
import errno
import logging
import math
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import bind_sockets

from handlers import outgoing
from handlers.limits import Limits
from handlers.pump import OpenStreams
from handlers.repeats import Answer, Repeats
from handlers.resource import request_id
from media.database import CatalogueError
from server import tls
from server.access_log import log_repeat
from server.app import make_app
from server.connections import Connection, Watch
from server.forwarded import Trusted, origin, trusted
from server.log import start_worker_log
from server.processes import Supervisor, Worker
from server.resources import Resources, open_resources
from server.settings import Settings, SettingsError

FIRST_SCAN_SECONDS = 2.0
"""How long the first connection may wait for the library: a small one is there when it is answered."""

AHEAD_BYTES = 1024 * 1024
"""The most bytes of what a client may send ahead while a response is under way."""

NEVER_SECONDS = 10 * 365 * 86400.0
"""In place of no limit, where Tornado's own would be an hour."""

SETTLE_SECONDS = 0.05
"""A drain waits at least so long, for requests that were on their way when it was asked for.
Connections that were made by then are already accepted: the loop has turned since the signal."""

BREAK_OFF_SECONDS = 1.0
"""How long streams that are broken off may take to close their sources."""

EXIT_SECONDS = 5.0
"""How long after that the process may take to close everything else."""

_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)

log = logging.getLogger("millrace")


class Signals:
    """What the process is told from outside, between entering and leaving.

    SIGTERM and SIGINT: the first sets `asked`, the second `hurried`, the third ends the process where it
    stands. SIGHUP calls `rescan` and `renew`; until there are any it is ignored, and does not kill. The
    process ends by itself, with exit code 0, when it has not `limit_seconds` after the first, and
    EXIT_SECONDS after the second. Only the main thread may enter.
    """

    def __init__(self, limit_seconds: float) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.rescan: Callable[[], object] = lambda: None
        self.renew: Callable[[], object] = lambda: None
        self._limit_seconds = limit_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0
        self._level = 0
        self._clock: threading.Timer | None = None
        self._before = ExitStack()

    def __enter__(self) -> "Signals":
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._hang_up}
        for number, handler in handlers.items():
            self._before.callback(signal.signal, number, signal.signal(number, handler))
        return self

    def __exit__(self, *_: object) -> None:
        self._before.close()
        self._wind_up(None)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the events are set, and `rescan` is called, by `loop`."""
        self._loop = loop

    def told(self, times: int) -> None:
        """The supervisor of several processes was asked to end so often; from whichever thread.

        What this process was sent itself is not added: Ctrl-C reaches both.
        """
        if times <= self._level:
            return
        self._level = times
        if times == 1:
            self._tell(self.asked.set)
            self._wind_up(self._limit_seconds)
        elif times == 2:
            self._tell(self.hurried.set)
            self._wind_up(BREAK_OFF_SECONDS + EXIT_SECONDS)
        else:
            os._exit(0)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.told(self._count)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self._tell(lambda: (self.rescan(), self.renew()))

    def _tell(self, callback: Callable[[], object]) -> None:
        # A signal interrupts anything: only this call is safe then, and it wakes the loop.
        if self._loop is None:
            callback()
        else:
            with suppress(RuntimeError):  # the loop is closed: the end is near
                self._loop.call_soon_threadsafe(callback)

    def _wind_up(self, seconds: float | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if seconds is not None:
            self._clock = threading.Timer(seconds, _give_up)
            self._clock.daemon = True
            self._clock.start()


def _give_up() -> None:
    names = ", ".join(sorted(thread.name for thread in threading.enumerate() if not thread.daemon))
    log.warning("the end is taking too long; these threads are left behind: %s", names)
    logging.shutdown()  # waits for the last lines, but not for a stderr that nobody reads
    os._exit(0)


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
        if self._closing and server_conn in self.at_work:
            cast(HTTP1ServerConnection, server_conn).stream.close()
        self._rest(server_conn)
        if server_conn in self._watched:
            self._watched[server_conn].waits()
        else:
            connection = cast(HTTP1ServerConnection, server_conn)
            self._watched[server_conn] = self._watch.over(connection.stream, str(connection.context))
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


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Gives the exit code.

    Raises:
        SettingsError: the address cannot be listened on, or the database cannot be used.
    """
    _raise_open_files()
    hurry_seconds = BREAK_OFF_SECONDS + EXIT_SECONDS
    limits = settings.drain + hurry_seconds, hurry_seconds
    if settings.processes > 1:
        with _listening(settings) as sockets:
            work = partial(_work, settings, limits[0])
            return Supervisor(settings.processes, work, sockets, _greet, limits).run()
    return _work(settings, limits[0])


def _work(settings: Settings, limit_seconds: float, worker: Worker | None = None) -> int:
    """What the only process does, or one of several on sockets that it shares."""
    if worker:
        start_worker_log()
    with Signals(limit_seconds) as signals:
        if worker:
            worker.attend(signals.told)
        with asyncio.Runner(loop_factory=_loop_factory(settings.loop)) as runner:
            runner.run(run(settings, signals, worker))
    return 0


def _raise_open_files() -> None:
    """Have as many open files as this user may: a connection is one, a download of it another."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls it unlimited, and allows less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    log.debug("open files: %d at most", soft)


async def run(settings: Settings, signals: Signals, worker: Worker | None = None) -> None:
    """Serve until `signals` ask for an end, then drain. `worker`: as one of several processes.

    Raises:
        SettingsError: the address cannot be listened on, or the database or certificate cannot be used.
    """
    signals.attach(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        sockets = worker.sockets if worker else stack.enter_context(_listening(settings))
        with _cancelled_by(signals.asked):
            progress = sys.stderr is not None and sys.stderr.isatty()
            resources = await stack.enter_async_context(open_resources(settings, progress=progress))
            server = Server(
                make_app(resources),
                repeats=resources.delivery.repeats,
                sendfile=settings.sendfile == "on",
                limits=resources.delivery.limits,
                proxies=trusted(settings.trusted_proxies),
                max_body_size=settings.max_body or sys.maxsize,
                max_buffer_size=AHEAD_BYTES,
                idle_connection_timeout=settings.idle_timeout or NEVER_SECONDS,
                body_timeout=settings.body_timeout or None,
            )
            if settings.certificate and settings.key:
                speaking = tls.speaking(server, settings.certificate, settings.key)
                try:
                    signals.renew = await stack.enter_async_context(speaking)
                except tls.PairError as error:  # changed since the settings were read
                    raise SettingsError(f"--{error.setting} must be {error}") from error
            scan = partial(_scan, resources, worker)
            if worker is None or worker.scans:
                signals.rescan = scan
            if worker is None or worker.first:
                await asyncio.wait({scan()}, timeout=FIRST_SCAN_SECONDS)
            greeting = await _greeting(settings, resources, sockets)
        if signals.asked.is_set():
            return
        server.add_sockets(sockets)
        resources.accepting = True
        (worker.ready if worker else _greet)(greeting)
        await signals.asked.wait()
        signals.rescan = lambda: None
        await _drain(server, resources.delivery.open_streams, signals.hurried, settings.drain)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


class _Listening(socket.socket):
    """A listening socket that turns clients away while the process has no descriptor left for them.

    Tornado would fail at each turn of the loop, because they are still there: half a CPU, and 1.4 MB of
    tracebacks a second. One descriptor is kept to take them in and close them at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setblocking(False)
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._warned_at = -math.inf

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket's; BlockingIOError also where a client was turned away."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._turn_away()
            raise BlockingIOError from error

    def close(self) -> None:
        """Close it, and the descriptor that is kept."""
        if self.fileno() != -1:
            os.close(self._spare)
        super().close()

    def _turn_away(self) -> None:
        if time.monotonic() > self._warned_at + 10:
            self._warned_at = time.monotonic()
            log.error("no descriptor is left: clients are turned away; raise the limit of open files")
        os.close(self._spare)
        try:
            super().accept()[0].close()
        except BlockingIOError:
            pass
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def _listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Listen, so that a port in use stops the start at once; connections wait until the server is ready."""
    try:
        sockets = bind_sockets(settings.port, settings.address, reuse_port=False)
    except OSError as error:
        where = f"{settings.address} port {settings.port}"
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(
            f"--port and --address must name a place that is free to listen on, not {where}: {reason}"
        ) from error
    listening = [_Listening(fileno=bound.detach()) for bound in sockets]
    try:
        yield list(listening)
    finally:
        for bound in listening:
            bound.close()


def _scan(resources: Resources, worker: Worker | None) -> "asyncio.Task[None]":
    """Begin a scan, or have another follow the one that runs; of several processes the others are told."""

    def scanned(task: "asyncio.Task[None]") -> None:
        if worker and not task.cancelled():
            worker.scanned()

    task = resources.scanner.start()
    task.add_done_callback(scanned)
    return task


@contextmanager
def _cancelled_by(event: asyncio.Event) -> Iterator[None]:
    """Leave the block where it waits as soon as `event` is set."""
    task = asyncio.current_task()
    assert task is not None

    async def watch() -> None:
        await event.wait()
        task.cancel()

    watching = asyncio.create_task(watch(), name="a signal during the start")
    try:
        yield
    except asyncio.CancelledError:
        if not event.is_set():
            raise
        task.uncancel()
    finally:
        watching.cancel()


async def _greeting(settings: Settings, resources: Resources, sockets: list[socket.socket]) -> str:
    try:
        tracks = await resources.catalogue.count()
        many = "1 track" if tracks == 1 else f"{tracks} tracks"
    except CatalogueError as error:
        log.error("the tracks cannot be counted: %s", error)
        many = "the tracks"
    host = settings.address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host else host
    port = sockets[0].getsockname()[1]
    scheme = "http" if settings.certificate is None else "https"
    return f"Millrace serves {many} and the texts of {settings.media} at {scheme}://{host}:{port}/"


def _greet(greeting: str) -> None:
    """The start line, on stdout. A server whose stdout nobody reads serves all the same."""
    if sys.stdout is None:  # closed by whoever started us
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        # A folder's name may hold what the terminal, or UTF-8, does not know.
        print(greeting.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201
    except OSError as error:
        log.warning("the start line could not be written: %s", error.strerror)
        # What is left in the buffer would be written again at the end, and be the exit code then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


async def _drain(
    server: Server, open_streams: OpenStreams, hurried: asyncio.Event, drain_seconds: float
) -> None:
    """Stop accepting, end what is endless, give finite bodies their time, break off the rest."""
    log.info("draining; responses under way: %d", len(server.at_work))
    open_streams.drain()
    server.stop()
    await asyncio.sleep(SETTLE_SECONDS)
    rested = asyncio.create_task(server.rested(open_streams), name="the last response")
    hurry = asyncio.create_task(hurried.wait(), name="a second signal")
    await asyncio.wait({rested, hurry}, timeout=drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not rested.done():
        log.warning("broken off; responses that did not end in time: %d", len(server.at_work))
        open_streams.break_off()
        await asyncio.wait({rested}, timeout=BREAK_OFF_SECONDS)
    for task in (rested, hurry):
        task.cancel()
    await asyncio.wait({rested, hurry})
    await server.close_all_connections()
