"""What an operator can set: one field is one flag, one environment variable, one row of docs/operations.md.

A flag wins over its environment variable, and that over the default.
Nothing else in the program parses flags or reads `MILLRACE_*`.
The first line of a field's docstring is its line in `--help` and its meaning in the docs.

pydantic-settings reads the environment; `values` has what a value must be, `flags` the command line.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from media.subscriptions import NAME as CHANNEL_NAME
from server import tls, values

MOST_SECONDS = 86_400
"""The longest time that can be set: a day. "No limit" is 0."""

MOST_PROCESSES = 1024
"""More than any machine has cores for; beyond it a mistyped number would fork until memory ends."""

MOST_BYTES = 10**12
"""The most bytes, or bytes a second, that can be set."""

MOST_EVENT_BYTES = 16 * 1024 * 1024
"""The largest event that can be allowed: it is held once, and once more for each format."""

MOST_STREAMS = 1_000_000
"""The most streams that can be set."""

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "media" / "samples"
PREFIX = "MILLRACE_"
NO_STATION = "none"
_PLAIN: dict[object, str] = {int: r"[0-9]+", float: r"[0-9]+(\.[0-9]+)?"}


class SettingsError(Exception):
    """A setting is wrong. The text is one sentence for the operator; the exit code that goes with it is 2."""


class StreamsError(SettingsError):
    """The same of a module of streams, which may be mended while the server waits for it (`--reload`)."""


def _setting(
    default: Any, group: str, value: str, right: str, shown: str = "", secret: bool = False, **checks: Any
) -> Any:
    """A field with its heading, its value's name, what it must be, and its default if another is shown.

    Args:
        secret: its value is not shown, not even a wrong one.
    """
    words: dict[str, Any] = {"group": group, "value": value, "right": right, "default": shown or str(default)}
    if secret:
        words["secret"], checks["repr"] = True, False
    return Field(default, json_schema_extra=words, **checks)


def _seconds(default: int, group: str = "Times", most: int = MOST_SECONDS) -> Any:
    return _setting(default, group, "SECONDS", f"a number of seconds from 0 to {most}", ge=0, le=most)


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
        frozen=True, env_prefix=PREFIX, env_ignore_empty=True, use_attribute_docstrings=True
    )

    port: int = _setting(8888, "Network", "NUMBER", "a whole number from 0 to 65535", ge=0, le=65535)
    """Port to listen on; 0: any free one."""

    address: Annotated[str, AfterValidator(values.bindable)] = _setting(
        "127.0.0.1", "Network", "HOST", "an IP address or a host name, without a port"
    )
    """Address to listen on; 0.0.0.0: all of IPv4.

    `::` is all of IPv6, without IPv4. Empty is refused: a variable that a script
    forgot to set must not open the server to the world.
    """

    certificate: Annotated[
        Path | None, BeforeValidator(values.absolute), AfterValidator(values.certificate)
    ] = _setting(None, "TLS", "FILE", "a file that exists", "plain HTTP")
    """Certificate and chain in PEM, for https.

    Absolute, links not resolved: a renewal may turn them. None: plain HTTP is spoken.
    """

    key: Annotated[Path | None, BeforeValidator(values.absolute)] = _setting(
        None, "TLS", "FILE", "a file that exists", "none"
    )
    """Its private key in PEM, without a passphrase.

    Checked, it belongs to `certificate`. None exactly where that is.
    """

    accel_redirect: Annotated[str, AfterValidator(values.location)] = _setting(
        "", "Proxy", "URI", "a path that begins and ends with a slash, such as /files/", "off"
    )
    """Where nginx sends files from, /files/ say.

    Empty: Millrace sends them itself.
    """

    trusted_proxies: Annotated[str, AfterValidator(values.proxies)] = _setting(
        "", "Proxy", "ADDRESSES", "IP addresses or networks, such as 10.0.0.1,192.168.0.0/16", "none"
    )
    """Proxies whose X-Forwarded-For is believed."""

    media: Annotated[Path, BeforeValidator(values.folder)] = _setting(
        SAMPLES, "Library", "FOLDER", "a folder", "our samples"
    )
    """Folder with texts and tracks to serve.

    It exists and can be read; absolute, links resolved. `~` is understood.
    """

    database: Annotated[str, AfterValidator(values.database)] = _setting(
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

    loop: Annotated[Literal["asyncio", "uvloop", "auto"], AfterValidator(values.installed)] = _setting(
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

    streams: str = _setting("", "Streams", "MODULE", "a file that ends in .py, or a module", "ours alone")
    """Your own streams, of a module; repeatable.

    Several have ';' between. Each has a dict STREAMS of names and streams.
    """

    reload: Literal["on", "off"] = _setting("off", "Streams", "SWITCH", "on or off")
    """Start anew when those modules change.

    For development. Without a value it is on.
    """

    export_database: str = _setting(
        "", "Streams", "URL", "an SQLAlchemy URL with an asynchronous driver", "none", repr=False
    )
    """Database of --export, an SQLAlchemy URL.

    Whether there is one is known when it is asked about the queries, at the start.
    """

    export: Annotated[str, AfterValidator(values.exports)] = _setting(
        "", "Streams", "NAME=QUERY", "NAME=QUERY or NAME:KEY=QUERY, beside --export-database", "none"
    )
    """Rows of a query as a stream; repeatable.

    Several have a line each. KEY is the column that is unique, the first if it is not named.
    Taken apart: `exports`.
    """

    channels: str = _setting(
        "", "Channels", "NAMES", "names of letters, digits, '.', '-' and '_', with commas between", "none"
    )
    """Channels to publish to, jobs,prices say.

    Beside those in the table of streams; none of them has the name of a stream.
    """

    tick: float = _setting(
        5, "Channels", "MILLISECONDS", "a number of milliseconds from 0 to 1000", ge=0, le=1000
    )
    """Events within it are sent together; 0: each alone."""

    max_event: int = _setting(
        64 * 1024,
        "Channels",
        "BYTES",
        f"a whole number from 1 to {MOST_EVENT_BYTES}",
        ge=1,
        le=MOST_EVENT_BYTES,
    )
    """Most bytes of one event."""

    publish_token: Annotated[str, AfterValidator(values.token)] = _setting(
        "",
        "Channels",
        "TOKEN",
        "letters, digits and -._~+/ with '=' at the end",
        "this machine only",
        secret=True,
    )
    """Bearer token for publishing.

    None: publishing is open where the server listens on loopback, to programs on the same machine.
    """

    publish_token_file: str = _setting(
        "", "Channels", "FILE", "a file that holds the token, without --publish-token", "none", repr=False
    )
    """File that the token is read from.

    Checked, it is the token itself.
    """

    cors_origin: Annotated[str, AfterValidator(values.origins)] = _setting(
        "", "Channels", "ORIGINS", "* or origins such as https://example.org, with commas between", "none"
    )
    """Sites whose pages may read and publish; *: all."""

    source_password: Annotated[str, AfterValidator(values.printable)] = _setting(
        "", "Live audio", "PASSWORD", "printable characters", "loopback", secret=True
    )
    """Password of live sources (user: source).

    None: as with `publish_token`.
    """

    source_timeout: float = _seconds(10, "Live audio")
    """Silence of a source before it is let go; 0: any."""

    source_grace: float = _seconds(10, "Live audio")
    """Time listeners wait for a source that left."""

    burst_seconds: float = _seconds(5, "Live audio", most=60)
    """Sound that a listener gets at once."""

    station: str = _setting(
        "",
        "Live audio",
        "NAME=PLAYLIST",
        "NAME=PLAYLIST with an M3U file or *, or none",
        "our samples",
    )
    """Play tracks as a station; repeatable.

    Several have ';' between. Empty: of our samples, `radio` plays all.
    Checked, the playlists are absolute; `stations` has them.
    """

    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Log", "LEVEL", "debug, info, warning or error"
    )
    """Least to log: debug, info, warning or error."""

    @property
    def stations(self) -> dict[str, Path | None]:
        """The playlist of each station by its name; None: the whole library, shuffled."""
        if self.station == NO_STATION or self.processes > 1:
            return {}
        if not self.station:
            return {"radio": None} if self.media == SAMPLES else {}
        named = [one.partition("=") for one in self.station.split(";")]
        return {name: None if playlist == "*" else Path(playlist) for name, _, playlist in named}

    @property
    def exports(self) -> dict[str, tuple[str, str]]:
        """The key and the query of each export by its name; an empty key: the first column."""
        return {name: (key, query) for name, key, query in values.parted_exports(self.export)}

    # What a value must be by itself is in `values`; below, what it must be beside others, or as a number.

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain_number(cls, value: object, field: ValidationInfo) -> object:
        # pydantic would also take `1_000`, ` 7 `, `1e3` and `nan`.
        pattern = _PLAIN.get(cls.model_fields[str(field.field_name)].annotation)
        if pattern and isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError
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

    @field_validator("reload")
    @classmethod
    def _has_what_to_reload(cls, value: str, others: ValidationInfo) -> str:
        if value == "on" and others.data.get("processes", 1) > 1:
            raise ValueError("off with several processes: it is for development")
        if value == "on" and not others.data.get("streams", "-"):
            raise ValueError("given together with --streams, whose modules it looks at")
        return value

    @field_validator("channels")
    @classmethod
    def _are_names(cls, value: str, others: ValidationInfo) -> str:
        if value and not all(CHANNEL_NAME.fullmatch(name) for name in value.split(",")):
            raise ValueError
        if value and others.data.get("processes", 1) > 1:
            raise ValueError("left out with several processes: each would have channels of its own")
        return value

    @field_validator("publish_token_file")
    @classmethod
    def _is_file_of_token(cls, value: str, others: ValidationInfo) -> str:
        if not value:
            return value
        if others.data.get("publish_token"):
            raise ValueError
        return values.token_in(value)

    @field_validator("export")
    @classmethod
    def _has_database(cls, value: str, others: ValidationInfo) -> str:
        if value and not others.data.get("export_database"):
            raise ValueError("beside --export-database, which says where to ask")
        return value

    @field_validator("station")
    @classmethod
    def _are_stations(cls, value: str, others: ValidationInfo) -> str:
        if value in ("", NO_STATION):
            return value
        if others.data.get("processes", 1) > 1:
            raise ValueError("none where several processes serve: each would play by itself")
        return values.stations(value)

    @field_validator("processes")
    @classmethod
    def _can_be_forked(cls, value: int) -> int:
        if value != 1 and not hasattr(os, "fork"):
            raise ValueError("1 on a system that cannot fork")
        return value or len(os.sched_getaffinity(0))
