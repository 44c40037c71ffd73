"""What an operator can set: one field is one flag, one environment variable, one row of docs/operations.md.

A flag wins over its environment variable, and that over the default.
Nothing else in the program parses flags or reads `MILLRACE_*`.
The first line of a field's docstring is its line in `--help` and its meaning in the docs.

pydantic-settings reads the environment and checks the values. The flags are argparse's: an operator
is told in one sentence what would be right, and pydantic-settings would tell the name of a type.
"""

import argparse
import configparser
import importlib.metadata
import ipaddress
import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from server import tls
from server.forwarded import trusted

MOST_SECONDS = 86_400
"""The longest time that can be set: a day. "No limit" is 0."""

MOST_PROCESSES = 1024
"""More than any machine has cores for; beyond it a mistyped number would fork until memory ends."""

MOST_BYTES = 10**12
"""The most bytes, or bytes a second, that can be set."""

MOST_STREAMS = 1_000_000
"""The most streams that can be set."""

_ROOT = Path(__file__).resolve().parent.parent
_PREFIX = "MILLRACE_"
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
_PLAIN: dict[object, str] = {int: r"[0-9]+", float: r"[0-9]+(\.[0-9]+)?"}
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")  # RFC 1123 §2.1, and containers' underscores
_LOCATION = re.compile(r"/(?:(?!\.\.?/)[A-Za-z0-9._~-]+/)+")


class SettingsError(Exception):
    """A setting is wrong. The text is one sentence for the operator; the exit code that goes with it is 2."""


def _setting(default: Any, group: str, value: str, right: str, shown: str = "", **checks: Any) -> Any:
    """A field with its heading, its value's name, what it must be, and its default if another is shown."""
    words: dict[str, Any] = {"group": group, "value": value, "right": right, "default": shown or str(default)}
    return Field(default, json_schema_extra=words, **checks)


def _seconds(default: int) -> Any:
    right = f"a number of seconds from 0 to {MOST_SECONDS}"
    return _setting(default, "Times", "SECONDS", right, ge=0, le=MOST_SECONDS)


def _whole(default: int, group: str, value: str, most: int) -> Any:
    """A field of a whole number, 0 included."""
    return _setting(default, group, value, f"a whole number from 0 to {most}", ge=0, le=most)


class Settings(BaseSettings):
    """Everything that can be set, checked; read once at start and passed on as an argument.

    An environment variable that is set but empty counts as not set. No `.env` file is read.

    Raises:
        pydantic.ValidationError: a value is wrong; `read_settings` turns it into a sentence.
    """

    model_config = SettingsConfigDict(
        frozen=True, env_prefix=_PREFIX, env_ignore_empty=True, use_attribute_docstrings=True
    )

    port: int = _setting(8888, "Network", "NUMBER", "a whole number from 0 to 65535", ge=0, le=65535)
    """Port to listen on; 0: any free one."""

    address: str = _setting("127.0.0.1", "Network", "HOST", "an IP address or a host name, without a port")
    """Address to listen on; 0.0.0.0: all of IPv4.

    `::` is all of IPv6, without IPv4. Empty is refused: a variable that a script
    forgot to set must not open the server to the world.
    """

    certificate: Path | None = _setting(None, "TLS", "FILE", "a file that exists", "plain HTTP")
    """Certificate and chain in PEM, for https.

    Absolute, links not resolved: a renewal may turn them. None: plain HTTP is spoken.
    """

    key: Path | None = _setting(None, "TLS", "FILE", "a file that exists", "none")
    """Its private key in PEM, without a passphrase.

    Checked, it belongs to `certificate`. None exactly where that is.
    """

    accel_redirect: str = _setting(
        "", "Proxy", "URI", "a path that begins and ends with a slash, such as /files/", "off"
    )
    """Where nginx sends files from, /files/ say.

    Empty: Millrace sends them itself.
    """

    trusted_proxies: str = _setting(
        "", "Proxy", "ADDRESSES", "IP addresses or networks, such as 10.0.0.1,192.168.0.0/16", "none"
    )
    """Proxies whose X-Forwarded-For is believed."""

    media: Path = _setting(_ROOT / "media" / "samples", "Library", "FOLDER", "a folder", "our samples")
    """Folder with texts and tracks to serve.

    It exists and can be read; absolute, links resolved. `~` is understood.
    """

    database: str = _setting(
        "",
        "Library",
        "URL",
        "an SQLAlchemy URL that begins with sqlite+aiosqlite:// or postgresql+asyncpg://",
        "SQLite, data folder",
        repr=False,  # it may hold a password
    )
    """Catalogue, an SQLAlchemy URL.

    Empty: a SQLite file for each library in the user's data folder (`media.catalogue.default_database`).
    """

    heartbeat: float = _seconds(15)
    """Silence before a heartbeat shows life; 0: none."""

    stall: float = _seconds(30)
    """Time a client may take no byte; 0: no limit."""

    drain: float = _seconds(10)
    """Time to finish downloads at shutdown; 0: none."""

    header_timeout: float = _seconds(20)
    """Time for a request's header; 0: no limit."""

    idle_timeout: float = _seconds(75)
    """Time to wait for the next request; 0: no limit."""

    body_timeout: float = _seconds(75)
    """Time for a request's body; 0: no limit."""

    max_streams: int = _whole(10_000, "Limits", "NUMBER", MOST_STREAMS)
    """Most streams at a time; 0: no limit."""

    max_streams_per_client: int = _whole(1000, "Limits", "NUMBER", MOST_STREAMS)
    """Most streams of one client address; 0: no limit."""

    max_body: int = _whole(1024 * 1024, "Limits", "BYTES", MOST_BYTES)
    """Most bytes of a request's body; 0: no limit."""

    min_rate: int = _whole(240, "Limits", "BYTES", MOST_BYTES)
    """Least bytes a second of a client; 0: no limit."""

    rate_limit: int = _whole(0, "Limits", "BYTES", MOST_BYTES)
    """Most bytes a second to a client; 0: no limit."""

    sendfile: Literal["on", "off"] = _setting("on", "Process", "SWITCH", "on or off")
    """Have the kernel send files, where it can.

    Off: they are read, for file systems whose pages the kernel sends wrong.
    """

    loop: Literal["asyncio", "uvloop", "auto"] = _setting(
        "asyncio", "Process", "NAME", "asyncio, uvloop or auto"
    )
    """Event loop: asyncio, uvloop, or auto.

    uvloop is an extra; auto takes it where it is installed.
    """

    processes: int = _setting(
        1, "Process", "NUMBER", f"a whole number from 0 to {MOST_PROCESSES}", ge=0, le=MOST_PROCESSES
    )
    """Processes that serve together; 0: one a core.

    Checked, it is the number itself: 0 has become the cores that this process may use.
    """

    compression: int = _setting(4, "Streams", "LEVEL", "a whole number from 0 to 9", ge=0, le=9)
    """Level of gzip for text, 1 fast to 9 small; 0: none.

    0 is no zstd either; it has a level of its own.
    """

    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Log", "LEVEL", "debug, info, warning or error"
    )
    """Least to log: debug, info, warning or error."""

    # A ValueError below says what would be right, or nothing where the field's own words do.

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain_number(cls, value: object, field: ValidationInfo) -> object:
        # pydantic would also take `1_000`, ` 7 `, `1e3` and `nan`.
        pattern = _PLAIN.get(cls.model_fields[str(field.field_name)].annotation)
        if pattern and isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError
        return value

    @field_validator("address")
    @classmethod
    def _can_be_bound(cls, value: str) -> str:
        labels = value.split(".")
        # A name that ends in a number is a wrong IPv4 address (WHATWG URL §3.5), and would be looked up.
        if labels[-1].isdigit() or not all(map(_HOST_LABEL.fullmatch, labels)):
            with suppress(ValueError):
                return str(ipaddress.ip_address(value))
            raise ValueError
        return value

    @field_validator("loop")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        if value != "asyncio" and find_spec("uvloop") is None:
            if value == "uvloop":
                raise ValueError("asyncio or auto where uvloop is not installed (the extra `uvloop`)")
            return "asyncio"
        return value.replace("auto", "uvloop")

    @field_validator("certificate", "key", mode="before")
    @classmethod
    def _is_path(cls, value: object) -> Path | None:
        if value == "":  # again a variable that was forgotten: it must not turn TLS off
            raise ValueError
        try:
            return None if value is None else Path(str(value)).expanduser().absolute()
        except RuntimeError:  # the home of nobody
            raise ValueError from None

    @field_validator("certificate")
    @classmethod
    def _is_certificate(cls, value: Path | None) -> Path | None:
        if value is not None:
            tls.check_certificate(value)
        return value

    @field_validator("key")
    @classmethod
    def _belongs_to_certificate(cls, value: Path | None, others: ValidationInfo) -> Path | None:
        if "certificate" not in others.data:  # it is wrong, and will be named
            return value
        certificate = others.data["certificate"]
        if value is None and certificate is not None:
            raise ValueError("given together with --certificate")
        if value is not None:
            if certificate is None:
                raise ValueError("the key of a certificate that --certificate names")
            tls.load(certificate, value)
        return value

    @field_validator("accel_redirect")
    @classmethod
    def _is_location(cls, value: str) -> str:
        if value and not _LOCATION.fullmatch(value):
            raise ValueError
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _is_networks(cls, value: str) -> str:
        try:
            trusted(value)
        except ValueError:
            raise ValueError from None
        return value

    @field_validator("media", mode="before")
    @classmethod
    def _is_readable_folder(cls, value: object) -> Path:
        try:
            # An empty path would be the current folder: again a variable that was forgotten.
            folder = Path(str(value) or "\0").expanduser().resolve(strict=True)
            os.scandir(folder).close()
        except NotADirectoryError:
            raise ValueError from None
        except PermissionError:
            raise ValueError("a folder that this user may read") from None
        except (OSError, RuntimeError, ValueError):  # RuntimeError: a loop of links, the home of nobody
            raise ValueError("a folder that exists") from None
        return folder

    @field_validator("processes")
    @classmethod
    def _can_be_forked(cls, value: int) -> int:
        if value != 1 and not hasattr(os, "fork"):
            raise ValueError("1 on a system that cannot fork")
        return value or len(os.sched_getaffinity(0))

    @field_validator("database")
    @classmethod
    def _has_async_driver(cls, value: str) -> str:
        if not value:
            return value
        try:
            url = make_url(value)
            driver = _DRIVERS[url.get_backend_name()]
        except (ArgumentError, ValueError, KeyError):  # ValueError: the port is no number
            raise ValueError from None
        if url.drivername != driver:
            raise ValueError(_quoted(driver + value.removeprefix(url.drivername)))
        return value


class Row(NamedTuple):
    """One setting as `--help`, the docs and the errors show it; `right` stands behind "must be"."""

    name: str
    flag: str
    variable: str
    meaning: str
    group: str
    value: str
    right: str
    default: str


def rows() -> list[Row]:
    """Every setting, in the order of the fields."""
    shown = []
    for name, field in Settings.model_fields.items():
        meaning = str(field.description).partition("\n")[0].removesuffix(".")
        words = cast(dict[str, str], field.json_schema_extra)
        shown.append(Row(name, "--" + name.replace("_", "-"), _PREFIX + name.upper(), meaning, **words))
    return shown


def version() -> str:
    """The version that is installed; in a checkout that is not installed, the one in its setup.cfg."""
    try:
        return importlib.metadata.version("millrace")
    except importlib.metadata.PackageNotFoundError:
        configuration = configparser.ConfigParser()
        configuration.read(_ROOT / "setup.cfg", encoding="utf-8")
        return configuration["metadata"]["version"]


def read_settings(arguments: Sequence[str]) -> Settings:
    """The settings from flags (without the program's name), the environment and the defaults.

    `--help` and `--version` print to stdout and leave with SystemExit(0), whatever else is wrong.

    Raises:
        SettingsError: a flag or a `MILLRACE_*` variable is unknown, or a value is wrong.
    """
    flags = _flags(arguments)
    known = [row.variable for row in rows()]
    # A misspelt variable would be ignored without a word. As in pydantic-settings, its case is no matter.
    for name in sorted(os.environ):
        if name.upper().startswith(_PREFIX) and name.upper() not in known:
            raise SettingsError(f"{name} is not a setting; {_hint(name.upper(), known)}")
    try:
        return Settings(**flags)
    except ValidationError as error:
        # Not `from error`: its text holds the values as they are, passwords too.
        raise SettingsError(_sentence(error.errors()[0], flags)) from None


def _flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by field name, as text."""
    try:
        found, others = _parser().parse_known_args(arguments)
    except argparse.ArgumentError as error:
        right = {row.flag: row.right for row in rows()}.get(str(error.argument_name))
        wants = f"needs a value: {right}" if right else "takes no value"
        raise SettingsError(f"{error.argument_name} {wants}") from None
    if others:
        name = others[0].partition("=")[0]
        raise SettingsError(f"{_quoted(name)} is not a flag; {_hint(name, [row.flag for row in rows()])}")
    return vars(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--flag value] ...",
        description="Serve text, audio and live data over HTTP.",
        epilog="In brackets: the default. Each flag is also an environment variable, MILLRACE_ and its name: "
        "--log-level is MILLRACE_LOG_LEVEL. The flag wins. docs/operations.md says more.",
        add_help=False,
        allow_abbrev=False,  # an abbreviation breaks on the day a flag is added that begins alike
        exit_on_error=False,
    )
    for heading, members in groupby(rows(), key=lambda row: row.group):
        group = parser.add_argument_group(heading)
        for row in members:
            line = f"{row.meaning} [{row.default}]"
            group.add_argument(row.flag, metavar=row.value, help=line, default=argparse.SUPPRESS)
    group = parser.add_argument_group("Help")
    group.add_argument("-h", "--help", action="help", help="Show this and exit")
    shown = f"millrace {version()}"
    group.add_argument("--version", action="version", version=shown, help="Show the version and exit")
    return parser


def _hint(name: str, known: Collection[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else "--help lists what there is"


def _sentence(error: ErrorDetails, flags: Collection[str]) -> str:
    """The setting as the operator named it, what it must be, and what it is."""
    row = next(row for row in rows() if row.name == error["loc"][0])
    given = {name.upper() for name, value in os.environ.items() if value}
    name = row.variable if row.name not in flags and row.variable in given else row.flag
    right = str(error.get("ctx", {}).get("error", "")) or row.right
    found = "" if error["input"] is None else f", not {_quoted(str(error['input']))}"
    return f"{name} must be {right}{found}"


def _quoted(text: str) -> str:
    """A value back to the operator, without the password of a URL, and cut so that it stays readable."""
    shown = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)
    return f'"{shown if len(shown) <= 80 else shown[:79] + "…"}"'
