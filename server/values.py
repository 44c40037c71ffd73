"""What a setting's value must be, where its type and bounds do not say it: a function each.

Each gives the value as the program goes by it. A ValueError says what would be right, or nothing where the
setting's own words do. What a value must be beside others is in `settings`.
"""

import ipaddress
import os
import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from media.own import NAME as STREAM_NAME
from media.subscriptions import NAME
from server import tls
from server.forwarded import trusted

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")  # RFC 1123 §2.1, and containers' underscores
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_EXPORT = re.compile(
    rf"^({STREAM_NAME.pattern.replace('(', '(?:')})(?::([^=\n]+))?=", re.MULTILINE
)  # its parts: a name, and a key
_LOCATION = re.compile(r"/(?:(?!\.\.?/)[A-Za-z0-9._~-]+/)+")


def bindable(value: str) -> str:
    """An address or a host name to listen on."""
    labels = value.split(".")
    # A name that ends in a number is a wrong IPv4 address (WHATWG URL §3.5), and would be looked up.
    if labels[-1].isdigit() or not all(map(_HOST_LABEL.fullmatch, labels)):
        with suppress(ValueError):
            return str(ipaddress.ip_address(value))
        raise ValueError
    return value


def installed(value: str) -> str:
    """The event loop itself: `auto` has become one that is there."""
    if value != "asyncio" and find_spec("uvloop") is None:
        if value == "uvloop":
            raise ValueError("asyncio or auto where uvloop is not installed (the extra `uvloop`)")
        return "asyncio"
    return value.replace("auto", "uvloop")


def absolute(value: object) -> Path | None:
    """An absolute path, its links not resolved; None stays None."""
    if value == "":  # again a variable that was forgotten: it must not turn TLS off
        raise ValueError
    try:
        return None if value is None else Path(str(value)).expanduser().absolute()
    except RuntimeError:  # the home of nobody
        raise ValueError from None


def certificate(value: Path | None) -> Path | None:
    """A file with a certificate, or None."""
    if value is not None:
        tls.check_certificate(value)
    return value


def location(value: str) -> str:
    """Where nginx sends files from, or nothing."""
    if value and not _LOCATION.fullmatch(value):
        raise ValueError
    return value


def proxies(value: str) -> str:
    """Addresses and networks with commas between."""
    try:
        trusted(value)
    except ValueError:
        raise ValueError from None
    return value


def folder(value: object) -> Path:
    """A folder that can be read: absolute, its links resolved."""
    try:
        # An empty path would be the current folder: again a variable that was forgotten.
        found = Path(str(value) or "\0").expanduser().resolve(strict=True)
        os.scandir(found).close()
    except NotADirectoryError:
        raise ValueError from None
    except PermissionError:
        raise ValueError("a folder that this user may read") from None
    except (OSError, RuntimeError, ValueError):  # RuntimeError: a loop of links, the home of nobody
        raise ValueError("a folder that exists") from None
    return found


def database(value: str) -> str:
    """The URL of a database with an asynchronous driver, or nothing."""
    if not value:
        return value
    try:
        url = make_url(value)
        driver = _DRIVERS[url.get_backend_name()]
    except (ArgumentError, ValueError, KeyError):  # ValueError: the port is no number
        raise ValueError from None
    if url.drivername != driver:
        raise ValueError(quoted(driver + value.removeprefix(url.drivername)))
    return value


def token(value: str) -> str:
    """A bearer token, or nothing."""
    if value and not _TOKEN.fullmatch(value):
        raise ValueError
    return value


def token_in(value: str) -> str:
    """The bearer token that is all of this file."""
    try:
        found = Path(value).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError):
        raise ValueError("a file that exists and can be read") from None
    if not _TOKEN.fullmatch(found):
        raise ValueError
    return found


def origins(value: str) -> str:
    """Origins with commas between, `*`, or nothing; as browsers send them."""
    if value and value != "*" and not all(map(_ORIGIN.fullmatch, value.split(","))):
        raise ValueError
    return value.lower()


def printable(value: str) -> str:
    """A password that can be typed."""
    if not value.isprintable():
        raise ValueError
    return value


def exports(value: str) -> str:
    """`NAME=QUERY` or `NAME:KEY=QUERY`, a line each, each name once."""
    found = parted_exports(value)
    if value and (not _EXPORT.match(value) or not all(query for _, _, query in found)):
        raise ValueError
    if len({name for name, _, _ in found}) < len(found):
        raise ValueError("an export of each name")
    return value


def parted_exports(value: str) -> list[tuple[str, str, str]]:
    """Name, key and query of each. A line that begins with no name goes on with the query before it."""
    _, *parts = _EXPORT.split(value)
    return [
        (name, key or "", query.strip())
        for name, key, query in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def stations(value: str) -> str:
    """`NAME=PLAYLIST` with `;` between, each name once; the playlists are files, absolute, or `*`."""
    named = [one.partition("=") for one in value.split(";")]
    if not all(NAME.fullmatch(name) and not name.endswith(".json") for name, _, _ in named):
        raise ValueError
    if len({name for name, _, _ in named}) < len(named):
        raise ValueError("a station of each name")
    return ";".join(f"{name}={_playlist(path)}" for name, _, path in named)


def _playlist(value: str) -> str:
    """A playlist's absolute path; `*` as it is."""
    if value == "*":
        return value
    path = Path(value)
    if path.suffix.lower() not in (".m3u", ".m3u8"):
        raise ValueError
    try:
        path = path.expanduser().absolute()
        readable = path.is_file() and os.access(path, os.R_OK)
    except (OSError, ValueError, RuntimeError):  # the home of nobody
        readable = False
    if not readable or ";" in str(path):
        raise ValueError("NAME=PLAYLIST with a playlist that exists and can be read, without ';' in its path")
    return str(path)


def quoted(text: str) -> str:
    """A value back to the operator, without the password of a URL, and cut so that it stays readable."""
    shown = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)
    return f'"{shown if len(shown) <= 80 else shown[:79] + "…"}"'
