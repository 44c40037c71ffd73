"""Parameters of a query string, read strictly: what is malformed is named, never guessed.

Every function takes the query's arguments (the last value of each name) and the parameter's name.
An absent parameter is the default; an empty one is malformed.
"""

import math
import re
from collections.abc import Mapping

from media.source import BadParameter

_NUMBER = re.compile(r"-?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def number(args: Mapping[str, str], name: str, default: float, *, most: float, unit: str) -> float:
    """A finite number from 0 to `most`; `unit` ("seconds") is only for the message.

    Raises:
        BadParameter: it is not.
    """
    text = args.get(name)
    if text is None:
        return default
    # float() alone would take "1_000", " 7 ", "nan" and other scripts' digits.
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 <= value <= most:
        raise BadParameter(f"{name} must be a number of {unit} from 0 to {most:g}, not {_quoted(text)}")
    return value


def whole(args: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    """A whole number in decimal digits, from `least` to `most` inclusive.

    Raises:
        BadParameter: it is not.
    """
    text = args.get(name)
    if text is None:
        return default
    # int() alone would take "1_000", " 7 " and other scripts' digits; 20 digits hold any 64-bit number.
    if text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most:
        return int(text)
    raise BadParameter(f"{name} must be a whole number from {least} to {most}, not {_quoted(text)}")


def flag(args: Mapping[str, str], name: str, default: bool) -> bool:
    """`1` or `0`.

    Raises:
        BadParameter: it is neither.
    """
    return choice(args, name, "1" if default else "0", ("0", "1")) == "1"


def choice(args: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    """One of `choices`.

    Raises:
        BadParameter: it is none of them.
    """
    text = args.get(name, default)
    if text not in choices:
        raise BadParameter(f"{name} must be {' or '.join(choices)}, not {_quoted(text)}")
    return text


def text(args: Mapping[str, str], name: str) -> str:
    """A text that is not empty.

    Raises:
        BadParameter: it is absent or empty.
    """
    value = args.get(name, "")
    if not value:
        raise BadParameter(f"{name} must not be empty")
    return value


def _quoted(text: str) -> str:
    """The client's own text back to it, cut so that an error stays readable."""
    shown = text if len(text) <= 40 else text[:39] + "…"
    return f'"{shown}"'
