"""Settings: every wrong one is one exact sentence, and flag, environment, help and docs say the same."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.flags import read_settings, rows, version
from server.settings import Settings, SettingsError
from server.values import quoted

ROOT = Path(__file__).resolve().parent.parent.parent
EXPORT = "NAME=QUERY or NAME:KEY=QUERY, beside --export-database"
PORT = "a whole number from 0 to 65535"
HOST = "an IP address or a host name, without a port"
BYTES = "a whole number from 0 to 1000000000000"
SECONDS = "a number of seconds from 0 to 86400"
PROCESSES = "a whole number from 0 to 1024"
LOCATION = "a path that begins and ends with a slash, such as /files/"
NETWORKS = "IP addresses or networks, such as 10.0.0.1,192.168.0.0/16"
NAMES = "names of letters, digits, '.', '-' and '_', with commas between"
ORIGINS = "* or origins such as https://example.org, with commas between"
PLAYLIST = "NAME=PLAYLIST with a playlist that exists and can be read, without ';' in its path"
STATION = "NAME=PLAYLIST with an M3U file or *, or none"
URL = "an SQLAlchemy URL that begins with sqlite+aiosqlite:// or postgresql+asyncpg://"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own MILLRACE_* variables are none of a test's business."""
    for name in list(os.environ):
        if name.upper().startswith("MILLRACE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder to serve."""
    folder = tmp_path / "library"
    folder.mkdir()
    return folder


def refusal(*arguments: str) -> str:
    """The sentence that these flags are refused with."""
    with pytest.raises(SettingsError) as caught:
        read_settings(arguments)
    return str(caught.value)


def test_defaults() -> None:
    """Without flags and variables the samples are served to this machine alone."""
    settings = read_settings([])
    assert settings.model_dump() == {
        "port": 8888,
        "address": "127.0.0.1",
        "certificate": None,
        "key": None,
        "accel_redirect": "",
        "media": ROOT / "media" / "samples",
        "database": "",
        "heartbeat": 15.0,
        "stall": 30.0,
        "drain": 10.0,
        "header_timeout": 20.0,
        "idle_timeout": 75.0,
        "body_timeout": 75.0,
        "max_streams": 10_000,
        "max_streams_per_client": 1000,
        "trusted_proxies": "",
        "max_body": 1024 * 1024,
        "min_rate": 240,
        "rate_limit": 0,
        "sendfile": "on",
        "loop": "asyncio",
        "processes": 1,
        "compression": 4,
        "streams": "",
        "reload": "off",
        "export_database": "",
        "export": "",
        "channels": "",
        "tick": 5.0,
        "max_event": 64 * 1024,
        "publish_token": "",
        "publish_token_file": "",
        "cors_origin": "",
        "source_password": "",
        "source_timeout": 10.0,
        "source_grace": 10.0,
        "burst_seconds": 5.0,
        "station": "",
        "log_level": "info",
    }


def test_every_flag_is_read(library: Path) -> None:
    """Each flag sets its field, with the value behind a space or behind `=`."""
    flags = (
        "--port 0 --address=::1 --database=sqlite+aiosqlite:///c.db --heartbeat 0 --stall=0.5 --drain 86400"
        " --compression=0 --accel-redirect /a/b.c/"
    )
    flags += " --header-timeout 0 --idle-timeout=1.5 --body-timeout 2 --max-body 0 --min-rate=1000"
    flags += (
        " --max-streams 0 --max-streams-per-client=7 --trusted-proxies ::1,10.0.0.0/8 --rate-limit 1000000"
    )
    flags += " --tick 0 --max-event=1000 --publish-token t0ken== --source-timeout 0"
    flags += " --cors-origin https://a.example,http://b:8000 --source-grace 1.5 --burst-seconds 0"
    flags += " --export-database sqlite+aiosqlite:///o.db --export a=VALUES(1) --export=b:id=VALUES(2)"
    flags += " --station none --streams my_streams.py --streams others"
    password = "--source-password=hack me"
    others = "--sendfile=off --loop=uvloop --processes=3 --log-level=error"
    settings = read_settings([*flags.split(), "--media", str(library), password, *others.split()])
    assert settings.model_dump() == {
        "port": 0,
        "address": "::1",
        "certificate": None,  # tests/server/test_tls.py has those two
        "key": None,
        "accel_redirect": "/a/b.c/",
        "media": library,
        "database": "sqlite+aiosqlite:///c.db",
        "heartbeat": 0.0,
        "stall": 0.5,
        "drain": 86400.0,
        "header_timeout": 0.0,
        "idle_timeout": 1.5,
        "body_timeout": 2.0,
        "max_streams": 0,
        "max_streams_per_client": 7,
        "trusted_proxies": "::1,10.0.0.0/8",
        "max_body": 0,
        "min_rate": 1000,
        "rate_limit": 1_000_000,
        "sendfile": "off",
        "loop": "uvloop",
        "processes": 3,
        "compression": 0,
        "streams": "my_streams.py;others",
        "reload": "off",  # below: not with several processes
        "export_database": "sqlite+aiosqlite:///o.db",
        "export": "a=VALUES(1)\nb:id=VALUES(2)",
        "channels": "",  # below: not with several processes
        "tick": 0.0,
        "max_event": 1000,
        "publish_token": "t0ken==",
        "publish_token_file": "",
        "cors_origin": "https://a.example,http://b:8000",
        "source_password": "hack me",
        "source_timeout": 0.0,
        "source_grace": 1.5,
        "burst_seconds": 0.0,
        "station": "none",
        "log_level": "error",
    }


def test_a_flag_wins_over_its_variable_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three sources in their order."""
    monkeypatch.setenv("MILLRACE_PORT", "9000")
    monkeypatch.setenv("MILLRACE_LOG_LEVEL", "debug")
    settings = read_settings(["--port", "9001"])
    assert (settings.port, settings.log_level, settings.stall) == (9001, "debug", 30)


def test_of_a_flag_given_twice_the_last_counts() -> None:
    """So a script can append to the arguments of another."""
    assert read_settings(["--port", "1", "--port=2"]).port == 2


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and units hand over variables that nobody filled."""
    monkeypatch.setenv("MILLRACE_ADDRESS", "")
    monkeypatch.setenv("MILLRACE_MEDIA", "")
    assert read_settings([]) == Settings()


def test_an_env_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to lie in the folder of the start does not change the server."""
    (tmp_path / ".env").write_text("MILLRACE_PORT=1\n")
    monkeypatch.chdir(tmp_path)
    assert read_settings([]).port == 8888


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "::",
        "fe80::1%lo",
        "localhost",
        "media.example.org",
        "a_container",
        "7th.example",
        "xn--bcher-kva",
    ],
)
def test_addresses_that_can_be_bound(address: str) -> None:
    """IPv4, IPv6 with and without a zone, and names."""
    assert read_settings(["--address", address]).address == address


@pytest.mark.parametrize(
    "url",
    [
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:////var/lib/c.db",
        "postgresql+asyncpg://u:p@host:5432/name?ssl=require",
    ],
)
def test_database_urls_of_asynchronous_drivers(url: str) -> None:
    """They are kept as they are."""
    assert read_settings(["--database", url]).database == url


def test_media_is_absolute_with_its_links_resolved(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the folder later or turning a link cannot move the library."""
    (library.parent / "link").symlink_to(library)
    monkeypatch.chdir(library.parent)
    assert read_settings(["--media", "link"]).media == library


def test_media_may_start_at_home(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves `--media=~/library` to us."""
    monkeypatch.setenv("HOME", str(library.parent))
    assert read_settings(["--media=~/library"]).media == library


@pytest.mark.parametrize(
    ("flag", "value", "right"),
    [
        ("--port", "abc", PORT),
        ("--port", "", PORT),
        ("--port", "-1", PORT),
        ("--port", "65536", PORT),
        ("--port", "80.0", PORT),
        ("--port", "1_000", PORT),
        ("--port", " 80", PORT),
        ("--port", "80\n", PORT),
        ("--port", "８０", PORT),
        ("--address", "", HOST),
        ("--address", "127.0.0.1:8888", HOST),
        ("--address", "http://localhost", HOST),
        ("--address", "[::1]", HOST),
        ("--address", "256.0.0.1", HOST),
        ("--address", "127.1", HOST),
        ("--address", "-a", HOST),
        ("--address", "a..b", HOST),
        ("--address", "a b", HOST),
        ("--address", "a" * 64, HOST),
        ("--accel-redirect", "files/", LOCATION),
        ("--accel-redirect", "/", LOCATION),
        ("--accel-redirect", "/files", LOCATION),
        ("--accel-redirect", "/a//b/", LOCATION),
        ("--accel-redirect", "/a/../b/", LOCATION),
        ("--accel-redirect", "/a b/", LOCATION),
        ("--media", "", "a folder that exists"),
        ("--media", "no/such/folder", "a folder that exists"),
        ("--media", "~nobody-of-this-name/music", "a folder that exists"),
        ("--media", __file__, "a folder"),
        ("--database", "catalogue.db", URL),
        ("--database", "mysql+aiomysql://host/name", URL),
        ("--database", "postgresql+asyncpg://host:port/name", URL),
        ("--database", "sqlite:///c.db", '"sqlite+aiosqlite:///c.db"'),
        ("--database", "sqlite+pysqlite:///c.db", '"sqlite+aiosqlite:///c.db"'),
        ("--database", "postgresql+psycopg2://host/name", '"postgresql+asyncpg://host/name"'),
        ("--database", "postgres://host/name", '"postgresql+asyncpg://host/name"'),
        ("--heartbeat", "15s", SECONDS),
        ("--stall", "nan", SECONDS),
        ("--stall", "inf", SECONDS),
        ("--stall", "-1", SECONDS),
        ("--stall", "1e3", SECONDS),
        ("--drain", "86400.1", SECONDS),
        ("--drain", "1,5", SECONDS),
        ("--header-timeout", "1m", SECONDS),
        ("--idle-timeout", "-1", SECONDS),
        ("--body-timeout", "", SECONDS),
        ("--max-streams", "many", "a whole number from 0 to 1000000"),
        ("--max-streams-per-client", "1000001", "a whole number from 0 to 1000000"),
        ("--trusted-proxies", "localhost", NETWORKS),
        ("--trusted-proxies", "10.0.0.1/8", NETWORKS),
        ("--trusted-proxies", "10.0.0.1,", NETWORKS),
        ("--max-body", "1M", BYTES),
        ("--min-rate", "0.5", BYTES),
        ("--rate-limit", "1000000000001", BYTES),
        ("--sendfile", "true", "on or off"),
        ("--loop", "", "asyncio, uvloop or auto"),
        ("--processes", "two", PROCESSES),
        ("--processes", "-1", PROCESSES),
        ("--processes", "1.5", PROCESSES),
        ("--processes", "1025", PROCESSES),
        ("--compression", "10", "a whole number from 0 to 9"),
        ("--compression", "4.5", "a whole number from 0 to 9"),
        ("--channels", "a,", NAMES),
        ("--channels", "a b", NAMES),
        ("--channels", "-a", NAMES),
        ("--tick", "5ms", "a number of milliseconds from 0 to 1000"),
        ("--tick", "1001", "a number of milliseconds from 0 to 1000"),
        ("--max-event", "0", "a whole number from 1 to 16777216"),
        ("--max-event", "64K", "a whole number from 1 to 16777216"),
        ("--publish-token-file", "no/such/file", "a file that exists and can be read"),
        ("--publish-token-file", "~nobody-of-this-name/token", "a file that exists and can be read"),
        ("--publish-token-file", __file__, "a file that holds the token, without --publish-token"),
        ("--cors-origin", "example.org", ORIGINS),
        ("--cors-origin", "https://example.org/", ORIGINS),
        ("--cors-origin", "https://a.example, https://b.example", ORIGINS),
        ("--cors-origin", "*,https://a.example", ORIGINS),
        ("--cors-origin", "null", ORIGINS),
        ("--source-timeout", "-1", SECONDS),
        ("--source-grace", "x", SECONDS),
        ("--burst-seconds", "61", "a number of seconds from 0 to 60"),
        ("--station", "radio", STATION),
        ("--station", "radio=", STATION),
        ("--station", "=*", STATION),
        ("--station", "a/b=*", STATION),
        ("--station", "a.json=*", STATION),
        ("--station", "radio=song.mp3", STATION),
        ("--station", "radio=*;", STATION),
        ("--station", "radio=no/such.m3u", PLAYLIST),
        ("--station", "radio=~nobody-of-this-name/a.m3u", PLAYLIST),
        ("--station", "radio=a\0.m3u", PLAYLIST),
        ("--station", "a=*;a=*", "a station of each name"),
        ("--export", "SELECT 1", EXPORT),
        ("--export", "a=", EXPORT),
        ("--export", "a b=SELECT 1", EXPORT),
        ("--export", "a:=SELECT 1", EXPORT),
        ("--export", "../a=SELECT 1", EXPORT),
        ("--export", "a=SELECT 1", "beside --export-database, which says where to ask"),
        ("--log-level", "INFO", "debug, info, warning or error"),
        ("--log-level", "", "debug, info, warning or error"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(flag: str, value: str, right: str) -> None:
    """One sentence: the flag, what it must be, what it is."""
    assert refusal(f"{flag}={value}") == f'{flag} must be {right}, not "{value}"'


@pytest.mark.parametrize(
    ("flag", "value", "right"),
    [
        ("--publish-token", "hack me", "letters, digits and -._~+/ with '=' at the end"),
        ("--publish-token", "hack=me", "letters, digits and -._~+/ with '=' at the end"),
        ("--source-password", "hack\x07me", "printable characters"),
    ],
)
def test_a_secret_is_never_shown(flag: str, value: str, right: str) -> None:
    """Not where it is wrong, and not where settings are."""
    assert refusal(flag, value) == f"{flag} must be {right}"
    right_one = read_settings([flag, "hackme"])
    assert "hackme" not in repr(right_one)


def test_a_token_from_a_file(tmp_path: Path) -> None:
    """The line end is none of it; its text is shown nowhere, and one token is enough."""
    file = tmp_path / "token"
    file.write_text("t0ken==\n")
    settings = read_settings(["--publish-token-file", str(file)])
    assert settings.publish_token_file == "t0ken=="
    assert "t0ken" not in repr(settings)
    sentence = "--publish-token-file must be a file that holds the token, without --publish-token"
    both = refusal("--publish-token", "t0ken", "--publish-token-file", str(file))
    assert both == f"{sentence}, not {quoted(str(file))}"
    file.write_text("hack me\n")
    assert refusal("--publish-token-file", str(file)) == f"{sentence}, not {quoted(str(file))}"


def test_channels_need_one_process() -> None:
    """Each process would have its own."""
    assert read_settings(["--channels", "a,b.c-d_1"]).channels == "a,b.c-d_1"
    sentence = "--channels must be left out with several processes: each would have channels of its own"
    assert refusal("--channels", "a", "--processes", "2") == f'{sentence}, not "a"'


def test_origins_are_as_browsers_send_them() -> None:
    """In small letters."""
    settings = read_settings(["--cors-origin", "https://Example.ORG,http://[::1]:3000"])
    assert settings.cors_origin == "https://example.org,http://[::1]:3000"
    assert read_settings(["--cors-origin", "*"]).cors_origin == "*"


def test_no_number_of_processes_is_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cores that this process may use, which the machine may have more of."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5})
    assert read_settings(["--processes", "0"]).processes == 3


def test_a_system_that_cannot_fork_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is refused there."""
    monkeypatch.delattr(os, "fork")
    assert refusal("--processes", "2") == '--processes must be 1 on a system that cannot fork, not "2"'
    assert read_settings(["--processes", "1"]).processes == 1


def test_a_wrong_variable_is_named_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who set the variable looks for the variable, not for a flag."""
    monkeypatch.setenv("MILLRACE_LOG_LEVEL", "loud")
    assert refusal() == 'MILLRACE_LOG_LEVEL must be debug, info, warning or error, not "loud"'


def test_of_a_right_variable_and_a_wrong_flag_the_flag_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value in the sentence is the flag's."""
    monkeypatch.setenv("MILLRACE_PORT", "1")
    assert refusal("--port", "abc") == f'--port must be {PORT}, not "abc"'


def test_of_several_wrong_settings_the_first_is_named() -> None:
    """One sentence, not a list."""
    assert refusal("--stall", "x", "--port", "y") == f'--port must be {PORT}, not "y"'


def test_a_loop_of_links_is_no_folder(tmp_path: Path) -> None:
    """It ends in a sentence, not in a traceback."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    value = str(tmp_path / "loop")
    assert refusal("--media", value).startswith("--media must be a folder that exists, not ")


def test_a_folder_that_may_not_be_read(library: Path) -> None:
    """Permission is told from absence."""
    with forbidden(library):
        sentence = refusal("--media", str(library))
    assert sentence.startswith("--media must be a folder that this user may read, not ")


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """Nobody may read the folder; root, who always may, is another user meanwhile."""
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_a_password_is_not_shown() -> None:
    """Neither in a sentence nor when the settings are printed."""
    sentence = refusal("--database", "postgres://me:p@ssword@host/name")
    assert sentence == (
        '--database must be "postgresql+asyncpg://me:***@host/name", not "postgres://me:***@host/name"'
    )
    assert "secret" not in repr(read_settings(["--database", "postgresql+asyncpg://me:secret@host/name"]))
    assert "secret" not in refusal("postgresql+asyncpg://me:secret@host/name")
    assert "secret" not in refusal("--database", "postgres://me:se@c:secret@host:port/name")


def test_a_long_value_is_cut() -> None:
    """The sentence stays readable."""
    assert refusal("--port", "9" * 5000) == f'--port must be {PORT}, not "{"9" * 79}…"'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prot", "1"], '"--prot" is not a flag; did you mean --port?'),
        (["--log_level=info"], '"--log_level" is not a flag; did you mean --log-level?'),
        (["-port", "1"], '"-port" is not a flag; did you mean --port?'),
        (["port=1"], '"port" is not a flag; did you mean --port?'),
        (["--por", "1"], '"--por" is not a flag; did you mean --port?'),
        (["--xyzzy"], '"--xyzzy" is not a flag; --help lists what there is'),
        (["8888"], '"8888" is not a flag; --help lists what there is'),
        (["--port"], f"--port needs a value: {PORT}"),
        (["--media", "--port", "1"], "--media needs a value: a folder"),
        (["--help=1"], "-h/--help takes no value"),
    ],
)
def test_flags_that_are_none(arguments: list[str], sentence: str) -> None:
    """A misspelt or abbreviated flag is named with the nearest real one."""
    assert refusal(*arguments) == sentence


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("MILLRACE_PROT", "MILLRACE_PROT is not a setting; did you mean MILLRACE_PORT?"),
        ("millrace_prot", "millrace_prot is not a setting; did you mean MILLRACE_PORT?"),
        ("MILLRACE_LOGLEVEL", "MILLRACE_LOGLEVEL is not a setting; did you mean MILLRACE_LOG_LEVEL?"),
        ("MILLRACE_", "MILLRACE_ is not a setting; did you mean MILLRACE_KEY?"),
        ("MILLRACE_QQQQQQQQQQQQ", "MILLRACE_QQQQQQQQQQQQ is not a setting; --help lists what there is"),
    ],
)
def test_a_misspelt_variable_is_refused(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be ignored without a word otherwise."""
    monkeypatch.setenv(name, "1")
    assert refusal() == sentence


@pytest.mark.parametrize(
    ("flags", "value"),
    [(["--reload"], "on"), (["--reload", "--port", "1"], "on"), (["--reload=off"], "off"), ([], "off")],
)
def test_reload_needs_no_value(flags: list[str], value: str) -> None:
    """A switch that is given is on."""
    assert read_settings(["--streams", "mine.py", *flags]).reload == value


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        (["--reload"], "given together with --streams, whose modules it looks at"),
        (
            ["--reload", "--streams", "mine.py", "--processes", "2"],
            "off with several processes: it is for development",
        ),
        (["--reload=yes", "--streams", "mine.py"], "on or off"),
    ],
)
def test_reload_that_cannot_be(flags: list[str], right: str) -> None:
    """It is refused at once."""
    value = "yes" if "--reload=yes" in flags else "on"
    assert refusal(*flags) == f'--reload must be {right}, not "{value}"'


def test_stations(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag may be given several times; the variable, and the flag too, has them with `;` between."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.M3U8").touch()
    expected = {"jazz": tmp_path / "a=b.M3U8", "all": None}
    assert read_settings(["--station", "jazz=a=b.M3U8", "--station=all=*"]).stations == expected
    monkeypatch.setenv("MILLRACE_STATION", "jazz=a=b.M3U8;all=*")
    assert read_settings([]).stations == expected
    assert read_settings(["--station", "none"]).stations == {}


def test_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key and the query of each; a query may have several lines, and so may the variable."""
    database = ("--export-database", "postgresql+asyncpg://me:secret@localhost/x")
    longer = "b/c.csv:the key=\n  SELECT *\n  FROM t -- a=b\n  WHERE a=b"
    expected = {
        "a.csv": ("", "SELECT a=1 FROM t;"),
        "b/c.csv": ("the key", "SELECT *\n  FROM t -- a=b\n  WHERE a=b"),
    }
    read = read_settings([*database, "--export", "a.csv=SELECT a=1 FROM t;", "--export", longer])
    assert read.exports == expected
    assert "secret" not in repr(read)
    monkeypatch.setenv("MILLRACE_EXPORT", f"a.csv=SELECT a=1 FROM t;\n{longer}")
    assert read_settings(database).exports == expected
    sentence = refusal(*database, "--export", "a=SELECT 1", "--export", "a=SELECT 2")
    assert sentence.startswith("--export must be an export of each name")


def test_our_samples_are_a_station(library: Path) -> None:
    """Another library has none unless it is asked for, and several processes never have one."""
    assert read_settings([]).stations == {"radio": None}
    assert read_settings(["--media", str(library)]).stations == {}
    assert read_settings(["--processes", "2"]).stations == {}
    sentence = "--station must be none where several processes serve: each would play by itself, not"
    assert refusal("--processes", "2", "--station", "a=*") == f'{sentence} "a=*"'


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_the_model_itself_is_as_strict(seconds: float) -> None:
    """Settings made in a program are checked like those from flags."""
    with pytest.raises(ValidationError):
        Settings(stall=seconds)


def test_settings_are_frozen() -> None:
    """Nobody changes a setting of the running process."""
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_help_fits_a_terminal_and_names_every_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line a setting within 80 columns, or two of a long flag; also when another setting is wrong."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("MILLRACE_PORT", "abc")
    with pytest.raises(SystemExit) as caught:
        read_settings(["--bogus", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for row in rows():
        (at,) = (number for number, line in enumerate(lines) if line.split()[:1] == [row.flag])
        assert any(line.endswith(f" [{row.default}]") for line in lines[at : at + 2])
    assert "MILLRACE_LOG_LEVEL" in shown
    assert "None" not in shown


def test_version_is_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the package's metadata has it."""
    folder = tmp_path / "millrace-9.8.7.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: millrace\nVersion: 9.8.7\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        read_settings(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == "millrace 9.8.7\n"


def test_version_of_a_checkout_is_that_of_setup_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python run.py` works without an installed package."""
    monkeypatch.setattr(sys, "path", [])
    assert f"\nversion = {version()}\n" in (ROOT / "setup.cfg").read_text()


def test_docs_table_is_the_fields() -> None:
    """docs/operations.md has a row for each field, in order, with the words of `--help`."""
    text = (ROOT / "docs" / "operations.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `--")]
    assert table == [
        f"| `{row.flag} {row.value}` | `{row.variable}` | {row.default} | {row.meaning} | {row.right} |"
        for row in rows()
    ]


@pytest.mark.parametrize(("installed", "loop"), [(True, "uvloop"), (False, "asyncio")])
def test_auto_takes_uvloop_where_it_is(installed: bool, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setattr("server.values.find_spec", lambda name: object() if installed else None)
    assert read_settings(["--loop", "auto"]).loop == loop


def test_uvloop_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what would do."""
    monkeypatch.setattr("server.values.find_spec", lambda name: None)
    sentence = "--loop must be asyncio or auto where uvloop is not installed (the extra `uvloop`), not"
    assert refusal("--loop", "uvloop") == f'{sentence} "uvloop"'
