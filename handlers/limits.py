"""What a client may have of the server: how many streams, for how long without taking them, and how fast."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network

from media.source import Chunk, Chunks, FileRegion

BURST_SECONDS = 0.5
"""What a client that took nothing may have at once: a download of 10 seconds is 5 % faster by it."""

PIECES_PER_SECOND = 8
LEAST_PIECE_BYTES = 16 * 1024
"""What a client is sent at a time: less would cost more turns of the loop, more would come in jerks."""

_CLIENTS = 1000  # so many before those that are idle are forgotten


@dataclass(frozen=True, slots=True)
class Limits:
    """When the server acts by itself; 0 is never, or no limit.

    Args:
        heartbeat_seconds: a heartbeat is sent when nothing else was for so long.
        stall_seconds: a client that takes no byte of what is on its way for so long is let go.
        min_rate: bytes a second; so is one that sends or takes fewer, over the same time.
        header_seconds: a request's header has so long from its first byte to its last.
        body_seconds: a request's body has so long; one of many events so long between two of its bytes.
        idle_seconds: a connection may wait so long for a request to begin.
        most_streams: so many responses are streamed at a time.
        most_streams_per_client: so many of one client (`client_of`).
    """

    heartbeat_seconds: float = 15
    stall_seconds: float = 30
    min_rate: int = 240
    header_seconds: float = 20
    body_seconds: float = 75
    idle_seconds: float = 75
    most_streams: int = 10_000
    most_streams_per_client: int = 1000


@lru_cache(1024)
def client_of(address: str) -> str:
    """Whom a request from this address counts for: one of IPv6 stands for its /64, which a client has."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a socket that is not IP
        return address
    if isinstance(parsed, IPv4Address) or parsed.ipv4_mapped:
        return str(getattr(parsed, "ipv4_mapped", None) or parsed)
    return str(ip_network((int(parsed) >> 64 << 64, 64)))


class RateLimit:
    """A token bucket for each client, over all its connections; 0 bytes a second: no limit.

    What is kept of a client is until when what it has been granted lasts at that rate. Who asks for more is
    told to wait until then, and has it granted: so they are served in the order in which they ask, and
    what is granted and not sent is lost. A client that has been idle has BURST_SECONDS in hand, and is
    forgotten.
    """

    def __init__(self, bytes_per_second: int = 0) -> None:
        self.bytes_per_second = bytes_per_second
        self._lasts_until: dict[str, float] = {}
        self._most = _CLIENTS

    def __len__(self) -> int:
        return len(self._lasts_until)

    def grant(self, client: str, length: int, now: float) -> float:
        """Grant `length` bytes to `client`. Gives the seconds that it has to wait for them."""
        if not self.bytes_per_second:
            return 0
        earliest = now - BURST_SECONDS
        start = max(self._lasts_until.get(client, earliest), earliest)
        self._lasts_until[client] = start + length / self.bytes_per_second
        if len(self._lasts_until) > self._most:
            self._forget(earliest)
        return max(0.0, start - now)

    async def paced(self, client: str, chunks: Chunks, *, whole: bool) -> Chunks:
        """The same bytes, each when `client` may have it.

        Args:
            whole: the chunks stay as they are. Else they are cut, so that nobody waits long for the next.
        """
        loop = asyncio.get_running_loop()
        async with aclosing(chunks):
            async for chunk in chunks:
                for piece in (chunk,) if whole else self._pieces(chunk):
                    await asyncio.sleep(self.grant(client, len(piece), loop.time()))
                    yield piece

    def _pieces(self, chunk: Chunk) -> Iterator[Chunk]:
        """Of equal length, so that none of a FileRegion is too short to be one."""
        if not isinstance(chunk, FileRegion):
            chunk = memoryview(chunk).cast("B")
        length = len(chunk)
        most = max(LEAST_PIECE_BYTES, self.bytes_per_second // PIECES_PER_SECOND)
        size = math.ceil(length / max(1, math.ceil(length / most)))
        for start in range(0, length, size or 1):
            stop = min(start + size, length)
            if isinstance(chunk, FileRegion):
                yield FileRegion(chunk.descriptor, chunk.start + start, chunk.start + stop)
            else:
                yield chunk[start:stop]

    def _forget(self, earliest: float) -> None:
        self._lasts_until = {client: until for client, until in self._lasts_until.items() if until > earliest}
        self._most = max(_CLIENTS, 2 * len(self._lasts_until))
