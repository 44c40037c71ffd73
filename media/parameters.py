"""Parameters of a query string, read strictly: what is malformed is named, never guessed.

Every function takes the query's arguments (the last value of each name) and the parameter's name.
An absent parameter is the default; an empty one is malformed.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic.fields import FieldInfo

from media.source import BadParameter

RESERVED = frozenset(("format", "heartbeat", "last_event_id"))
"""Parameters of every stream."""

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


class Declared:
    """Parameters that a user declares with types: what a client gives is converted, or refused by name.

    Args:
        fields: a type that pydantic can make of a text, and the default; `...` where there is none.

    Raises:
        TypeError: there can be no such parameter.
    """

    def __init__(self, fields: Mapping[str, tuple[Any, object]]) -> None:
        for name in fields:
            if name in RESERVED:
                raise TypeError(f'the parameter "{name}" has a meaning of its own in every stream')
        # Under names of our own: pydantic has rules for those of fields.
        aliased = {
            f"field{number}": (type_, FieldInfo.from_annotated_attribute(type_, Field(default, alias=name)))
            for number, (name, (type_, default)) in enumerate(fields.items())
        }
        self._names = dict(zip(aliased, fields, strict=True))
        try:
            config = ConfigDict(allow_inf_nan=False)
            self._model = create_model("Parameters", __config__=config, **aliased)  # type: ignore[call-overload]
            schema = self._model.model_json_schema()
        except PydanticUserError as error:
            raise TypeError(
                f"no parameter can be of this type: {str(error.message).partition('. ')[0]}"
            ) from error
        required = schema.get("required", ())
        self.listed: tuple[Mapping[str, object], ...] = tuple(
            {"name": name, "required": name in required} | {k: v for k, v in facts.items() if k != "title"}
            for name, facts in schema.get("properties", {}).items()
        )
        """As /streams shows them: the name, whether it is required, and JSON Schema's words for the rest."""

    def read(self, args: Mapping[str, str]) -> dict[str, Any]:
        """The values, by name; those that are absent have their default.

        Raises:
            BadParameter: one is absent that has none, or is not of its type.
        """
        if not self._names:
            return {}
        try:
            values = self._model.model_validate(args)
        except ValidationError as error:
            raise BadParameter(_words(error, args)) from None
        return {name: getattr(values, field) for field, name in self._names.items()}


def _words(error: ValidationError, args: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{name} must be given"
    right = (
        first["msg"].partition(", unable")[0].removeprefix("Input should be ").removeprefix("Value error, ")
    )
    return f"{name} must be {right}, not {_quoted(args.get(name, ''))}"
