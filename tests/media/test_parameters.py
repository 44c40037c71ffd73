"""Parameters of a query: what is malformed is named, never guessed."""

import json
import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, Field

from media.parameters import RESERVED, Declared, choice, flag, number, text, whole
from media.source import BadParameter

NUMBERS = {
    "whole": ("7", 7.0),
    "fraction": ("0.25", 0.25),
    "no_leading_zero": (".5", 0.5),
    "no_fraction": ("2.", 2.0),
    "exponent": ("1e-3", 0.001),
    "zero": ("0", 0.0),
    "minus_zero": ("-0", 0.0),
    "most": ("3600", 3600.0),
}

NO_NUMBERS = [
    "",
    " ",
    "abc",
    "-1",
    "3600.1",
    "nan",
    "inf",
    "-inf",
    "1_0",
    " 7",
    "7 ",
    "7\n",
    "७",
    "0x10",
    "1,5",
]
NO_NUMBERS += ["1e999", "1" * 100, "1.2.3", "+", "."]


@pytest.mark.parametrize("given", NUMBERS)
def test_a_number(given: str) -> None:
    """Decimal digits, with a fraction or an exponent."""
    asked, value = NUMBERS[given]
    assert number({"sleep": asked}, "sleep", 1, most=3600, unit="seconds") == value


def test_an_absent_number_is_the_default() -> None:
    """Whatever the limit is."""
    assert number({}, "sleep", 5000, most=3600, unit="seconds") == 5000


@pytest.mark.parametrize("asked", NO_NUMBERS)
def test_no_number_is_named(asked: str) -> None:
    """The message says what would be right, and stays short."""
    with pytest.raises(
        BadParameter, match=r"^sleep must be a number of seconds from 0 to 3600, not "
    ) as error:
        number({"sleep": asked}, "sleep", 1, most=3600, unit="seconds")
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(("asked", "value"), [("5", 5), ("10", 10), ("007", 7), (None, 6)])
def test_a_whole_number(asked: str | None, value: int) -> None:
    """Decimal digits; the limits belong to it."""
    assert whole({} if asked is None else {"limit": asked}, "limit", 6, least=5, most=10) == value


@pytest.mark.parametrize("asked", ["", "4", "11", "-5", "5.0", "1_0", " 5", "５", "²", "5" * 21, "abc"])
def test_no_whole_number_is_named(asked: str) -> None:
    """Digits of other scripts are none, though int() would take them."""
    with pytest.raises(BadParameter, match=r"^limit must be a whole number from 5 to 10, not "):
        whole({"limit": asked}, "limit", 6, least=5, most=10)


def test_the_largest_64_bit_number_is_whole() -> None:
    """An offset in a file may be that large."""
    assert whole({"id": str(2**63 - 1)}, "id", 0, least=0, most=2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize(("args", "default", "value"), [
    ({"x": "1"}, False, True), ({"x": "0"}, True, False), ({}, True, True), ({}, False, False),
])  # fmt: skip
def test_a_flag(args: dict[str, str], default: bool, value: bool) -> None:
    """1 or 0, or the default."""
    assert flag(args, "x", default) is value


@pytest.mark.parametrize("asked", ["", "yes", "true", "2"])
def test_no_flag_is_named(asked: str) -> None:
    """Nothing but 0 and 1."""
    with pytest.raises(BadParameter, match=r"^x must be 0 or 1, not "):
        flag({"x": asked}, "x", False)


def test_a_choice() -> None:
    """One of those, or the default."""
    assert choice({"format": "csv"}, "format", "text", ("text", "csv")) == "csv"
    assert choice({}, "format", "text", ("text", "csv")) == "text"
    with pytest.raises(BadParameter, match=r'^format must be text or csv, not "bogus"$'):
        choice({"format": "bogus"}, "format", "text", ("text", "csv"))


def test_a_text() -> None:
    """Anything that is not empty."""
    assert text({"name": "바람"}, "name") == "바람"
    with pytest.raises(BadParameter, match=r"^name must not be empty$"):
        text({"name": ""}, "name")
    with pytest.raises(BadParameter, match=r"^name must be given$"):
        text({}, "name")


# --- declared by a user ---


class Colour(Enum):
    """Two."""

    RED = "red"
    BLUE = "blue"


def even(value: int) -> int:
    """A user's own rule."""
    if value % 2:
        raise ValueError("it has to be even")
    return value


def small(value: int) -> int:
    """Another."""
    if value > 9:
        raise AssertionError("at most nine")
    return value


Even = Annotated[int, AfterValidator(even)]
Small = Annotated[int, AfterValidator(small)]
OneToFive = Annotated[int, Field(ge=1, le=5)]
Code = Annotated[str, Field(min_length=3, pattern="^a")]

VALUES: list[tuple[object, str, object]] = [
    # type, what the client gives, the value or the words that refuse it
    (int, "7", 7),
    (int, "-7", -7),
    (int, "9" * 30, int("9" * 30)),
    (int, "abc", 'x must be a valid integer, not "abc"'),
    (int, "7.5", 'x must be a valid integer, not "7.5"'),
    (int, "", 'x must be a valid integer, not ""'),
    (float, "1e3", 1000.0),
    (float, "nan", 'x must be a finite number, not "nan"'),
    (float, "inf", 'x must be a finite number, not "inf"'),
    (float, "abc", 'x must be a valid number, not "abc"'),
    (bool, "1", True),
    (bool, "false", False),
    (bool, "2", 'x must be a valid boolean, not "2"'),
    (str, "", ""),
    (str, "바람", "바람"),
    (bytes, "a", b"a"),
    (Colour, "red", Colour.RED),
    (Colour, "green", "x must be 'red' or 'blue', not \"green\""),
    (Colour | None, "blue", Colour.BLUE),
    (Literal["a", "b"], "b", "b"),
    (Literal["a", "b"], "c", "x must be 'a' or 'b', not \"c\""),
    (OneToFive, "5", 5),
    (OneToFive, "6", 'x must be less than or equal to 5, not "6"'),
    (Code, "abc", "abc"),
    (Code, "ab", 'x must have at least 3 characters, not "ab"'),
    (Code, "bcd", "x must match pattern '^a', not \"bcd\""),
    (Even, "4", 4),
    (Even, "3", 'x cannot be used: it has to be even, not "3"'),
    (Small, "30", 'x cannot be used: at most nine, not "30"'),
    (date, "2024-02-29", date(2024, 2, 29)),
    (
        date,
        "2023-02-29",
        'x must be a valid date or datetime, day value is outside expected range, not "2023-02-29"',
    ),
    (datetime, "2024-02-29T01:02:03", datetime(2024, 2, 29, 1, 2, 3)),
    (timedelta, "PT5S", timedelta(seconds=5)),
    (Decimal, "1.10", Decimal("1.10")),
    (UUID, "0" * 32, UUID(int=0)),
    (int | str, "a", "a"),
    (int | None, "", 'x must be a valid integer, not ""'),
    (int, "1" * 50 + "x", f'x must be a valid integer, not "{"1" * 39}…"'),
]


@pytest.mark.parametrize(("type_", "given", "expected"), VALUES)
def test_a_declared_parameter(type_: object, given: str, expected: object) -> None:
    """Converted, or refused in a sentence that names it and says what would be right."""
    declared = Declared({"x": (type_, ...)})
    if isinstance(expected, str) and expected.startswith("x "):
        with pytest.raises(BadParameter) as caught:
            declared.read({"x": given})
        assert str(caught.value) == expected
    else:
        found = declared.read({"x": given})["x"]
        assert (found, type(found)) == (expected, type(expected))


def test_what_is_not_given() -> None:
    """The default as it is, or the name of the one that has none; what nobody declared is ignored."""
    default = [1]
    declared = Declared({"x": (int, 5), "y": (Any, default), "z": (str, ...)})
    read = declared.read({"z": "", "others": "1"})
    assert read == {"x": 5, "y": default, "z": ""}
    with pytest.raises(BadParameter, match=r"^z must be given$"):
        declared.read({"x": "1"})
    assert Declared({}).read({"x": "1"}) == {}
    assert Declared({}).listed == ()


def test_declared_parameters_are_listed() -> None:
    """With JSON Schema's words, each complete in itself."""
    declared = Declared({
        "every": (Annotated[float, Field(ge=0, description="Seconds between two")], 1.0),
        "name": (str, ...),
        "colour": (Colour, Colour.RED),
        "other": (Colour | None, None),
        "model_config": (int, 1),
        "since": (date, date(2024, 1, 1)),
        "most": (float, math.inf),
        "whatever": (str, object()),
    })  # fmt: skip
    colours = {"description": "Two.", "enum": ["red", "blue"], "type": "string"}
    listed = {str(each["name"]): each for each in declared.listed}
    assert list(listed) == ["every", "name", "colour", "other", "model_config", "since", "most", "whatever"]
    assert listed["every"] == {
        "name": "every", "required": False, "default": 1.0, "description": "Seconds between two",
        "minimum": 0, "type": "number",
    }  # fmt: skip
    assert listed["name"] == {"name": "name", "required": True, "type": "string"}
    assert listed["colour"] == {"name": "colour", "required": False, "default": "red", **colours}
    assert listed["other"]["anyOf"] == [colours, {"type": "null"}]
    assert listed["since"]["default"] == "2024-01-01"
    assert listed["whatever"] == {"name": "whatever", "required": False, "type": "string"}
    json.dumps(declared.listed)


@pytest.mark.parametrize(
    "type_", [Callable[..., int], type("Own", (), {}), list[int], dict, set[str]], ids=str
)
def test_no_parameter_can_be_of_this_type(type_: object) -> None:
    """Nothing can be made of a text, or it is more than one."""
    with pytest.raises(TypeError, match=r"no parameter can be of this type|is one text of a query"):
        Declared({"x": (type_, ...)})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_parameter_of_every_stream_cannot_be_declared(name: str) -> None:
    """It would have two meanings."""
    with pytest.raises(TypeError, match=f'"{name}" has a meaning of its own'):
        Declared({name: (str, "")})


def test_a_declared_validator_runs_once() -> None:
    """Run again, it would be given what it has made."""
    declared = Declared({"n": (Annotated[int, AfterValidator(lambda n: n + 1)], ...)})
    assert declared.read({"n": "1"}) == {"n": 2}
