"""Parameters of a query string, read strictly: what is malformed is named, never guessed.

Every function takes the query's arguments (the last value of each name) and the parameter's name.
An absent parameter is the default; an empty one is malformed.
"""

import math
import re
import warnings
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
    value = args.get(name)
    if value is None:
        raise BadParameter(f"{name} must be given")
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
        # A type that is Annotated is in its field's facts: given once more, its validators would run twice.
        described = {
            f"field{number}": FieldInfo.from_annotated_attribute(type_, Field(default, alias=name))
            for number, (name, (type_, default)) in enumerate(fields.items())
        }
        aliased = {field: (facts.annotation, facts) for field, facts in described.items()}
        self._names = dict(zip(aliased, fields, strict=True))
        try:
            config = ConfigDict(allow_inf_nan=False)
            self._model = create_model("Parameters", __config__=config, **aliased)  # type: ignore[call-overload]
            with warnings.catch_warnings(action="ignore"):  # of a default that has no JSON, and is not listed
                schema = self._model.model_json_schema()
        except PydanticUserError as error:
            raise TypeError(
                f"no parameter can be of this type: {str(error.message).partition('. ')[0]}"
            ) from error
        required, shared = schema.get("required", ()), schema.get("$defs", {})
        listed = {name: _spelled_out(facts, shared) for name, facts in schema.get("properties", {}).items()}
        for name, facts in listed.items():
            if facts.get("type") in ("array", "object"):
                raise TypeError(f'the parameter "{name}" is one text of a query, and no {facts["type"]}')
        self.listed: tuple[Mapping[str, object], ...] = tuple(
            {"name": name, "required": name in required, **facts} for name, facts in listed.items()
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


def _spelled_out(facts: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's schema by itself: an Enum's is elsewhere, and pydantic's titles repeat the names."""
    facts = {**shared.get(str(facts.get("$ref")).removeprefix("#/$defs/"), {}), **facts}
    if "anyOf" in facts:
        facts["anyOf"] = [_spelled_out(each, shared) for each in facts["anyOf"]]
    return {name: fact for name, fact in facts.items() if name not in ("$ref", "title")}


def _words(error: ValidationError, args: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name, kind = str(first["loc"][0]), first["type"]
    if kind == "missing":
        return f"{name} must be given"
    not_that = f", not {_quoted(args.get(name, ''))}"
    if kind in ("value_error", "assertion_error"):  # in the words of a validator of the user's
        return f"{name} cannot be used: {first['msg'].partition(', ')[2]}{not_that}"
    # "Input should be a valid number, unable to parse it", "String should have at least 3 characters"
    right = first["msg"].partition(", unable")[0].partition(" should ")[2] or "be another value"
    return f"{name} must {right}{not_that}"
