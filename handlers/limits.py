"""What a client may have of the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """When the server acts by itself; 0 is never, or no limit.

    Args:
        heartbeat_seconds: a heartbeat is sent when nothing else was for so long.
        stall_seconds: a client that takes no byte of what is on its way for so long is let go.
        min_rate: bytes a second; so is one that sends or takes fewer, over the same time.
        header_seconds: a request's header has so long from its first byte to its last.
    """

    heartbeat_seconds: float = 15
    stall_seconds: float = 30
    min_rate: int = 240
    header_seconds: float = 20
