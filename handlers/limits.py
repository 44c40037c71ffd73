"""What a client may have of the server."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network


@dataclass(frozen=True, slots=True)
class Limits:
    """When the server acts by itself; 0 is never, or no limit.

    Args:
        heartbeat_seconds: a heartbeat is sent when nothing else was for so long.
        stall_seconds: a client that takes no byte of what is on its way for so long is let go.
        min_rate: bytes a second; so is one that sends or takes fewer, over the same time.
        header_seconds: a request's header has so long from its first byte to its last.
        most_streams: so many responses are streamed at a time.
        most_streams_per_client: so many of one client (`client_of`).
    """

    heartbeat_seconds: float = 15
    stall_seconds: float = 30
    min_rate: int = 240
    header_seconds: float = 20
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
