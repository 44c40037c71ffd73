"""Where a request comes from: the address of its connection, or what a proxy that is trusted reports.

`X-Forwarded-For` grows at its right end: each proxy adds the address that it was asked from. So it is read
from there, as long as the one who added an entry is trusted; everything further left may have been made up
by the client. Only the connection's own address says whether to begin. Of a proxy that is trusted also
`X-Forwarded-Proto` is believed. No other header is read: Tornado's own `xheaders` believes `X-Real-Ip` of
anyone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

MOST_HOPS = 32
"""The most entries that are read: a header may hold thousands."""

Trusted = tuple[IPv4Network | IPv6Network, ...]

_WITH_PORT = re.compile(r"\[(?P<six>[^]]*)\](:[0-9]+)?|(?P<four>[0-9.]+):[0-9]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """The context of a connection, as Tornado's HTTPServerRequest reads it."""

    remote_ip: str
    protocol: str

    def __str__(self) -> str:
        return self.remote_ip


def trusted(text: str) -> Trusted:
    """Addresses and networks in CIDR notation, with commas between; empty: none.

    Raises:
        ValueError: a part is neither.
    """
    return tuple(ip_network(part.strip()) for part in text.split(",")) if text else ()


def origin(context: Any, headers: Mapping[str, str], proxies: Trusted) -> Any:
    """The context of a request's connection: as it is, or as its proxy reports it.

    Args:
        context: has `remote_ip` and `protocol`.
    """
    if not _is_among(_address(context.remote_ip), proxies):
        return context
    protocol = headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    return Origin(
        client(context.remote_ip, headers.get("X-Forwarded-For", ""), proxies),
        protocol if protocol in ("http", "https") else context.protocol,
    )


def client(peer: str, forwarded_for: str, proxies: Trusted) -> str:
    """The first address from the right that is not trusted, or the last that could be read.

    Args:
        peer: the address of the connection.
        forwarded_for: what X-Forwarded-For says, several lines joined by commas.
    """
    found, address = peer, _address(peer)
    for entry in reversed(forwarded_for.rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
        if not _is_among(address, proxies):
            break
        address = _address(entry.strip())
        if address is None:
            break
        found = str(address)
    return found


def _is_among(address: IPv4Address | IPv6Address | None, networks: Trusted) -> bool:
    return address is not None and any(address in network for network in networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it, some of them with a port. None: it is none."""
    if with_port := _WITH_PORT.fullmatch(text):
        text = with_port["six"] or with_port["four"] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
