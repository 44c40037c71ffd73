"""The life of the process: start, readiness, drain with a deadline, exit code.

Before the start line there is nothing to drain: the start is broken off, and what it had opened is closed.

A drain waits for connections, not for streams: one is at work from the last byte of its request until the
kernel has the last byte of the response. So the final chunk is out before the connection is closed, and
answers that are no streams are waited for too.
"""

import asyncio
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module

from media.database import CatalogueError
from server import tls
from server.app import make_app
from server.forwarded import trusted
from server.httpserver import AHEAD_BYTES, Server
from server.listening import listening
from server.log import start_worker_log
from server.processes import Supervisor, Worker
from server.reload import DRAIN_SECONDS, Changes, start_anew
from server.resources import Resources, open_resources
from server.settings import SAMPLES, Settings, SettingsError, StreamsError
from server.signals import BREAK_OFF_SECONDS, EXIT_SECONDS, Signals

FIRST_SCAN_SECONDS = 2.0
"""How long the first connection may wait for the library: a small one is there when it is answered."""

SETTLE_SECONDS = 0.05
"""A drain waits at least so long, for requests that were on their way when it was asked for.
Connections that were made by then are already accepted: the loop has turned since the signal."""

log = logging.getLogger("millrace")


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Gives the exit code.

    Raises:
        SettingsError: the address cannot be listened on, or the database cannot be used.
    """
    _raise_open_files()
    hurry_seconds = BREAK_OFF_SECONDS + EXIT_SECONDS
    limits = settings.drain + hurry_seconds, hurry_seconds
    if settings.processes > 1:
        with listening(settings) as sockets:
            work = partial(_work, settings, limits[0])
            return Supervisor(settings.processes, work, sockets, _greet, limits).run()
    return _work(settings, limits[0])


def _work(settings: Settings, limit_seconds: float, worker: Worker | None = None) -> int:
    """What the only process does, or one of several on sockets that it shares."""
    if worker:
        start_worker_log()
    changes = Changes(settings.streams.split(";")) if settings.reload == "on" else None
    with Signals(limit_seconds) as signals:
        if worker:
            worker.attend(signals.told)
        try:
            with asyncio.Runner(loop_factory=_loop_factory(settings.loop)) as runner:
                runner.run(run(settings, signals, worker, changes))
        except StreamsError as error:
            if changes is None:
                raise
            log.error("%s; waiting for a change", error)
            signals.detach()
            changes.wait(signals.asked.is_set)
    if changes is not None and changes.seen and not signals.asked.is_set():
        start_anew()
    return 0


def _raise_open_files() -> None:
    """Have as many open files as this user may: a connection is one, a download of it two more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls it unlimited, and allows less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    log.debug("open files: %d at most", soft)


async def run(
    settings: Settings, signals: Signals, worker: Worker | None = None, changes: Changes | None = None
) -> None:
    """Serve until `signals` ask for an end, or there are `changes`, then drain.

    Args:
        worker: as one of several processes.

    Raises:
        SettingsError: the address cannot be listened on, or the database or certificate cannot be used.
    """
    signals.attach(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        sockets = worker.sockets if worker else stack.enter_context(listening(settings))
        with _cancelled_by(signals.asked):
            progress = sys.stderr is not None and sys.stderr.isatty()
            resources = await stack.enter_async_context(open_resources(settings, progress=progress))
            server = _server(settings, resources)
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
        if worker and worker.first and settings.media == SAMPLES and not settings.station:
            log.info("the station radio does not play: each of several processes would play by itself")
        server.add_sockets(sockets)
        resources.accepting = True
        (worker.ready if worker else _greet)(greeting)
        changed = await _over(signals.asked, changes)
        signals.rescan = lambda: None
        drain_seconds = min(settings.drain, DRAIN_SECONDS) if changed else settings.drain
        await _drain(server, resources, signals.hurried, drain_seconds)


async def _over(asked: asyncio.Event, changes: Changes | None) -> bool:
    """Wait until the end is asked for, or there are changes; whether it is these."""
    ends: set[asyncio.Task[object]] = {asyncio.create_task(asked.wait(), name="a signal")}
    if changes is not None:
        ends.add(asyncio.create_task(changes.come(), name="a change"))
    _, left = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    return changes is not None and changes.seen


def _server(settings: Settings, resources: Resources) -> Server:
    return Server(
        make_app(resources),
        repeats=resources.delivery.repeats,
        sendfile=settings.sendfile == "on",
        limits=resources.delivery.limits,
        proxies=trusted(settings.trusted_proxies),
        max_body_size=settings.max_body or sys.maxsize,
        max_buffer_size=AHEAD_BYTES,
        body_timeout=settings.body_timeout or None,
    )


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


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


async def _drain(server: Server, resources: Resources, hurried: asyncio.Event, drain_seconds: float) -> None:
    """Stop accepting, end what is endless, give finite bodies their time, break off the rest.

    Generators that clients share are cancelled, and have the same time to close.
    """
    open_streams = resources.delivery.open_streams
    log.info("draining; responses under way: %d", len(server.at_work))
    open_streams.drain()
    closed = asyncio.create_task(resources.end_runs(drain_seconds), name="the end of what is shared")
    server.stop()
    await asyncio.sleep(SETTLE_SECONDS)
    rested = asyncio.create_task(server.rested(open_streams), name="the last response")
    hurry = asyncio.create_task(hurried.wait(), name="a second signal")
    await asyncio.wait({rested, hurry}, timeout=drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not rested.done():
        log.warning("broken off; responses that did not end in time: %d", len(server.at_work))
        open_streams.break_off()
        await asyncio.wait({rested}, timeout=BREAK_OFF_SECONDS)
    await asyncio.wait({closed, hurry}, return_when=asyncio.FIRST_COMPLETED)
    for task in (rested, closed, hurry):
        task.cancel()
    await asyncio.wait({rested, closed, hurry})
    await server.close_all_connections()
