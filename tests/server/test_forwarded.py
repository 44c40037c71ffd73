"""Whose address counts: that of the connection, or what a trusted proxy reports, and nobody else."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from server.forwarded import MOST_HOPS, Origin, client, origin, trusted
from tests.conftest import AccessLog
from tests.serving import eventually, serving

PROXIES = trusted("10.0.0.1, 192.168.0.0/16, fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "found"),
    [
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.2", "203.0.113.7", "10.0.0.2"),
        ("203.0.113.7", "10.0.0.1", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7, 192.168.3.4", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1,203.0.113.7,192.168.3.4,10.0.0.1", "203.0.113.7"),
        ("10.0.0.1", "192.168.3.4, 192.168.3.5", "192.168.3.4"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, unknown, 192.168.3.4", "192.168.3.4"),
        ("10.0.0.1", "203.0.113.7, , 192.168.3.4", "192.168.3.4"),
        ("10.0.0.1", "203.0.113.7,", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.256", "10.0.0.1"),
        ("10.0.0.1", "<script>", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "[2001:DB8::7]", "2001:db8::7"),
        ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.0.0.1", "203.0.113.7, [fd00::1]:80", "203.0.113.7"),
        ("fd00::2", "203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"),
        ("not an address", "203.0.113.7", "not an address"),
        ("10.0.0.1", "203.0.113.7" + ",192.168.0.1" * MOST_HOPS, "192.168.0.1"),
        ("10.0.0.1", "203.0.113.7" + ",192.168.0.1" * (MOST_HOPS - 1), "203.0.113.7"),
    ],
)
def test_the_walk_from_the_right(peer: str, forwarded_for: str, found: str) -> None:
    """Trusted ones are skipped; the first other one is the client; what is no address ends the walk."""
    assert client(peer, forwarded_for, PROXIES) == found


@pytest.mark.parametrize(
    ("remote_ip", "headers", "protocol"),
    [
        ("10.0.0.1", {"X-Forwarded-Proto": "https"}, "https"),
        ("10.0.0.1", {"X-Forwarded-Proto": "ftp, HTTPS"}, "https"),
        ("10.0.0.1", {"X-Forwarded-Proto": "https, ftp"}, "http"),
        ("10.0.0.1", {}, "http"),
        ("10.0.0.2", {"X-Forwarded-Proto": "https"}, "http"),
    ],
)
def test_the_protocol(remote_ip: str, headers: Mapping[str, str], protocol: str) -> None:
    """Of a trusted proxy the last one is believed, if it is one."""
    assert origin(Origin(remote_ip, "http"), headers, PROXIES) == Origin(remote_ip, protocol)


def test_an_origin_shows_its_address() -> None:
    """Tornado's own log lines name it."""
    assert str(Origin("203.0.113.7", "http")) == "203.0.113.7"


@pytest.mark.parametrize(
    ("proxies", "headers", "seen"),
    [
        ("127.0.0.0/8", {"x_forwarded_for": "203.0.113.7"}, "203.0.113.7"),
        ("127.0.0.0/8", {"x_real_ip": "203.0.113.7", "forwarded": "for=203.0.113.7"}, "127.0.0.1"),
        ("10.0.0.1", {"x_forwarded_for": "203.0.113.7"}, "127.0.0.1"),
        ("", {"x_forwarded_for": "203.0.113.7", "x_real_ip": "203.0.113.7"}, "127.0.0.1"),
    ],
    ids=["trusted", "other-headers", "another-proxy", "none"],
)
@pytest.mark.gen_test
async def test_the_log_has_the_client(
    tmp_path: Path, access_log: AccessLog, proxies: str, headers: Mapping[str, str], seen: str
) -> None:
    """Also of what is answered again without a handler."""
    (tmp_path / "text").write_text("a line\n")
    async with serving(tmp_path, scan=False, proxies=proxies) as server:
        for _ in range(2):
            assert (await server.get("/text/text", **headers)).status == 200
        await eventually(lambda: len(access_log) == 2)
    assert [line.split()[0] for line in access_log.lines] == [seen, seen]


@pytest.mark.gen_test
async def test_each_request_of_a_connection_has_its_own_client(tmp_path: Path, access_log: AccessLog) -> None:
    """A proxy sends those of several over one connection."""
    asked = [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.8\r\nConnection: close\r\n\r\n",
    ]
    async with (
        serving(tmp_path, scan=False, proxies="127.0.0.1") as server,
        server.connect(b"".join(asked)) as connection,
    ):
        await connection.rest()
    assert [line.split()[0] for line in access_log.lines] == ["203.0.113.7", "127.0.0.1", "203.0.113.8"]
