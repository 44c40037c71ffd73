"""What lives as long as the process: opened in order, closed in reverse."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from handlers.cors import Cors
from handlers.delivery import Delivery, NginxFiles
from handlers.fanout import Fanout
from handlers.limits import Limits, RateLimit
from handlers.open_streams import OpenStreams
from handlers.writers import Writers
from media.catalogue import Catalogue, default_database
from media.database import CatalogueError
from media.decoding import EncodingCache
from media.generated import Stream
from media.library import LibraryError, ScanResult, scan
from media.live import Mounts
from media.own import OwnStreamsError, Row, load
from media.rows import export
from media.shipped import STREAMS
from media.station import Station
from media.subscriptions import ChannelRow, Channels, channel
from server.settings import Settings, SettingsError, StreamsError

log = logging.getLogger("millrace")


class Scanner:
    """Keeps the catalogue up to date: one scan at a time, however often one is asked for."""

    def __init__(self, root: Path, catalogue: Catalogue, *, progress: bool) -> None:
        self._root = root
        self._catalogue = catalogue
        self._progress = progress
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self.scanned: list[Callable[[], None]] = []
        """Called when a scan has ended well."""

    def start(self) -> "asyncio.Task[None]":
        """Begin a scan; asked while one runs, another follows it. Gives the task that ends with the last."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._scan(), name="library scan")
        return self._task

    async def stop(self) -> None:
        """Break off the scan that runs, if any, and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _scan(self) -> None:
        while self._again:
            self._again = False
            try:
                found = await scan(self._root, self._catalogue, progress=self._progress)
            except (LibraryError, CatalogueError) as error:
                log.error("the library was not scanned: %s", error)
            except Exception:
                # Nobody waits for this task: a bug in it would be seen at the end of the process, or never.
                log.exception("the library was not scanned")
            else:
                log.info("%s", _summary(found))
                for tell in self.scanned:
                    tell()


@dataclass(slots=True)
class Resources:
    """Handed to `make_app`. `ready` is what /readyz says; draining overrides it."""

    root: Path
    catalogue: Catalogue
    scanner: Scanner
    delivery: Delivery
    streams: Mapping[str, Stream]
    channels: Channels
    writers: Writers
    mounts: Mounts
    cors: Cors = field(default_factory=Cors)
    max_event: int = 64 * 1024
    source_seconds: float = 10
    encodings: EncodingCache = field(default_factory=EncodingCache)
    accepting: bool = False

    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.accepting and not self.delivery.open_streams.draining

    async def end_runs(self, seconds: float) -> None:
        """Cancel the generators that clients share, and give them so long to close."""
        runs = [stream.runs for stream in self.streams.values() if stream.runs is not None]
        await asyncio.gather(*(each.close(seconds) for each in runs))


@asynccontextmanager
async def open_resources(settings: Settings, *, progress: bool = False) -> AsyncIterator[Resources]:
    """Open the catalogue, with a scanner that has not begun.

    Args:
        progress: draw a progress bar on stderr.

    Raises:
        SettingsError: a database or a query cannot be used, or two streams have one name.
    """
    async with AsyncExitStack() as stack:
        try:
            url = settings.database or await asyncio.to_thread(default_database, settings.media)
            catalogue = Catalogue(url)
            await stack.enter_async_context(catalogue)
        except CatalogueError as error:
            raise SettingsError(f"--database cannot be used: {error}") from error
        scanner = Scanner(settings.media, catalogue, progress=progress)
        stack.push_async_callback(scanner.stop)
        own = await _own(settings)
        own |= await _exports(settings, own)
        streams, channels = tables({**STREAMS, **own, **_declared(settings, own)})
        for stream in streams.values():
            if stream.close is not None:
                stack.push_async_callback(stream.close)
        mounts = Mounts(
            channels.ids, burst_seconds=settings.burst_seconds, grace_seconds=settings.source_grace
        )
        for name, playlist in settings.stations.items():
            station = Station(name, playlist, root=settings.media, catalogue=catalogue, mounts=mounts)
            scanner.scanned.append(station.look_again)
            await stack.enter_async_context(_on_air(station))
        yield Resources(
            settings.media,
            catalogue,
            scanner,
            _delivery(settings),
            streams,
            channels,
            writers=_writers(settings),
            mounts=mounts,
            cors=Cors(_origins(settings)),
            max_event=settings.max_event,
            source_seconds=settings.source_timeout,
        )


@asynccontextmanager
async def _on_air(station: Station) -> AsyncIterator[None]:
    """Have a station play meanwhile."""

    async def play() -> None:
        try:
            await station.run()
        except Exception:
            # Nobody waits for this task: a bug in it would be seen at the end of the process, or never.
            log.exception("the station %s has ended", station.name)

    task = asyncio.create_task(play(), name=f"station {station.name}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def _delivery(settings: Settings) -> Delivery:
    limits = Limits(
        heartbeat_seconds=settings.heartbeat,
        stall_seconds=settings.stall,
        min_rate=settings.min_rate,
        header_seconds=settings.header_timeout,
        body_seconds=settings.body_timeout,
        idle_seconds=settings.idle_timeout,
        most_streams=settings.max_streams,
        most_streams_per_client=settings.max_streams_per_client,
    )
    return Delivery(
        limits,
        OpenStreams(),
        RateLimit(settings.rate_limit),
        fanout=Fanout(settings.tick / 1000),
        compression=settings.compression,
        nginx=NginxFiles(settings.accel_redirect, settings.media) if settings.accel_redirect else None,
    )


async def _own(settings: Settings) -> dict[str, Row]:
    """The streams of `--streams`, which may take a while to import."""
    rows: dict[str, Row] = {}
    for module in filter(None, settings.streams.split(";")):
        try:
            found = await asyncio.to_thread(load, module)
        except OwnStreamsError as error:
            raise StreamsError(f"--streams: {error}") from error
        if taken := [name for name in found if name in STREAMS or name in rows]:
            whose = "Millrace itself" if taken[0] in STREAMS else "another module"
            said = f'{module} has a stream "{taken[0]}", and that name is one of {whose}'
            raise StreamsError(f"--streams: {said}")
        rows |= found
    return rows


async def _exports(settings: Settings, own: Mapping[str, Row]) -> dict[str, Row]:
    """The streams of `--export`, whose queries the database has looked at."""
    rows: dict[str, Row] = {}
    for name, (key, query) in settings.exports.items():
        if name in STREAMS or name in own:
            raise SettingsError(f'--export must have a name that no other stream has, not "{name}"')
        try:
            rows[name] = await export(settings.export_database, query, key=key)
        except ValueError as error:
            raise SettingsError(f"--export {name} cannot be read: {error}") from error
    return rows


def _declared(settings: Settings, own: Mapping[str, Row]) -> dict[str, ChannelRow]:
    """The channels of `--channels`."""
    names = settings.channels.split(",") if settings.channels else []
    if taken := [name for name in names if name in STREAMS or name in own]:
        raise StreamsError(f'--channels must be names that no stream has, not "{taken[0]}"')
    return {name: channel(title="A channel") for name in names}


def _writers(settings: Settings) -> Writers:
    try:
        loopback = ip_address(settings.address).is_loopback
    except ValueError:
        loopback = settings.address == "localhost"
    return Writers(
        token=settings.publish_token or settings.publish_token_file,
        password=settings.source_password,
        loopback=loopback,
        origins=_origins(settings),
        processes=settings.processes,
    )


def _origins(settings: Settings) -> frozenset[str]:
    return frozenset(filter(None, settings.cors_origin.split(",")))


def tables(rows: Mapping[str, Row]) -> tuple[dict[str, Stream], Channels]:
    """The streams that a request opens, and the channels, which are there all the time."""
    declared = {name: row for name, row in rows.items() if isinstance(row, ChannelRow)}
    return {name: row for name, row in rows.items() if isinstance(row, Stream)}, Channels(declared)


def _summary(found: ScanResult) -> str:
    changes = {
        name: getattr(found, name) for name in ("added", "changed", "moved", "removed", "unchanged", "failed")
    }
    counts = ", ".join(f"{count} {name}" for name, count in changes.items() if count) or "no tracks"
    return f"library scanned in {found.seconds:.1f} s: {counts}"
