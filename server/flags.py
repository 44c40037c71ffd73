"""The command line: how the settings are asked for, and what is said when one is wrong.

pydantic-settings reads the environment and checks the values. The flags are argparse's: an operator
is told in one sentence what would be right, and pydantic-settings would tell the name of a type.
"""

import argparse
import configparser
import importlib.metadata
import os
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Any, NamedTuple, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.settings import PREFIX, ROOT, Settings, SettingsError
from server.values import quoted

REPEATED = {"station": ";", "streams": ";", "export": "\n"}
"""The settings whose flags may be given several times, and what then stands between; of any other the last
one counts."""

SWITCHES = {"reload": "on"}
"""What a flag means that is given without a value."""


class Row(NamedTuple):
    """One setting as `--help`, the docs and the errors show it; `right` stands behind "must be".

    `secret`: it is never shown.
    """

    name: str
    flag: str
    variable: str
    meaning: str
    group: str
    value: str
    right: str
    default: str
    secret: bool = False


def rows() -> list[Row]:
    """Every setting, in the order of the fields."""
    shown = []
    for name, field in Settings.model_fields.items():
        meaning = str(field.description).partition("\n")[0].removesuffix(".")
        words = cast(dict[str, Any], field.json_schema_extra)
        shown.append(Row(name, "--" + name.replace("_", "-"), PREFIX + name.upper(), meaning, **words))
    return shown


def version() -> str:
    """The version that is installed; in a checkout that is not installed, the one in its setup.cfg."""
    try:
        return importlib.metadata.version("millrace")
    except importlib.metadata.PackageNotFoundError:
        configuration = configparser.ConfigParser()
        configuration.read(ROOT / "setup.cfg", encoding="utf-8")
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
        if name.upper().startswith(PREFIX) and name.upper() not in known:
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
        raise SettingsError(f"{quoted(name)} is not a flag; {_hint(name, [row.flag for row in rows()])}")
    given = vars(found)
    for name, between in REPEATED.items():
        if name in given:
            given[name] = between.join(given[name])
    return given


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
            how: dict[str, Any] = {"action": "append" if row.name in REPEATED else "store"}
            if row.name in SWITCHES:
                how |= {"nargs": "?", "const": SWITCHES[row.name]}
            group.add_argument(row.flag, metavar=row.value, help=line, default=argparse.SUPPRESS, **how)
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
    found = "" if error["input"] is None or row.secret else f", not {quoted(str(error['input']))}"
    return f"{name} must be {right}{found}"
