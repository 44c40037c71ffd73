"""The responses that are being sent, and how they end.

A server that shuts down ends them here. By how many there are `serve` refuses further ones, and a pump gives
the loop its turn sooner.
"""

import asyncio
from collections import Counter
from enum import StrEnum
from typing import Any, Protocol

from handlers.outgoing import ClientStalled

TURN_SECONDS = 0.005
"""How long the pumps of all open streams together hold the loop before each has given it a turn."""

LEAST_TURN_SECONDS = 0.0002
"""A turn itself costs time: no pump gives the loop one sooner than this."""


class Outcome(StrEnum):
    """How a response ended."""

    COMPLETE = "complete"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    BEHIND = "behind"
    DRAINED = "drained"
    FAILED = "failed"


def ended_by_closing(stream: Any) -> Outcome:
    """How a response has ended whose connection is closed, and not by us at its end."""
    return Outcome.STALLED if isinstance(stream.error, ClientStalled) else Outcome.DISCONNECTED


class Ending(Protocol):
    """What is asked of a pump here."""

    def drain(self) -> None: ...

    def end(self, outcome: Outcome) -> None: ...


class OpenStreams:
    """The responses from entering their source to leaving it, so that a server shutting down can end them."""

    def __init__(self) -> None:
        self.draining = False
        self._pumps: set[Ending] = set()
        self._of_client: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._pumps)

    @property
    def turn_seconds(self) -> float:
        """How long a pump may hold the loop: all that there are share TURN_SECONDS."""
        # A request needs some four turns of the loop: beside 100 streams of 5 ms it waited 2 s, now 80 ms.
        return max(LEAST_TURN_SECONDS, TURN_SECONDS / max(1, len(self)))

    def hold(self, pump: Ending, client: str) -> None:
        """Count `pump` among the open ones, and among those of `client`, until it is let go."""
        self._pumps.add(pump)
        self._of_client[client] += 1
        self._empty.clear()

    def let_go(self, pump: Ending, client: str) -> None:
        """Count it no longer."""
        self._pumps.remove(pump)
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]
        if not self._pumps:
            self._empty.set()

    def of(self, client: str) -> int:
        """How many of them are sent to `client`."""
        return self._of_client[client]

    def drain(self) -> None:
        """End the endless ones at a chunk boundary, now and as they come; finite ones go on."""
        self.draining = True
        for pump in tuple(self._pumps):
            pump.drain()

    def break_off(self) -> None:
        """End them all, whole or not."""
        for pump in tuple(self._pumps):
            pump.end(Outcome.DRAINED)

    async def ended(self) -> None:
        """Wait until none is open."""
        await self._empty.wait()
