"""Parameters of a query: what is malformed is named, never guessed."""

import pytest

from media.parameters import choice, flag, number, text, whole
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
    for args in ({}, {"name": ""}):
        with pytest.raises(BadParameter, match=r"^name must not be empty$"):
            text(args, "name")
