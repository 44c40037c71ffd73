"""Values that a database or a program may hold → JSON and CSV."""

import csv
import io
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.records import FORMATS
from media.values import csv_rows, to_json


class Name(str):
    """Not exactly a str."""


VALUES = {
    # value → the JSON, the field of CSV
    "none": (None, "null", ""),
    "true": (True, "true", "true"),
    "false": (False, "false", "false"),
    "float": (0.1, "0.1", "0.1"),
    "nan": (math.nan, "null", "nan"),
    "infinity": (math.inf, "null", "inf"),
    "64_bits": (2**64 - 1, "18446744073709551615", "18446744073709551615"),
    "over_64_bits": (2**64, "18446744073709551616", "18446744073709551616"),
    "far_below": (-(10**40), "-1" + "0" * 40, "-1" + "0" * 40),
    "decimal": (Decimal("1.10"), '"1.10"', "1.10"),
    "long_decimal": (Decimal("0.1234567890123456789012"), '"0.1234567890123456789012"',
                     "0.1234567890123456789012"),
    "date": (date(2024, 2, 29), '"2024-02-29"', "2024-02-29"),
    "naive": (datetime(2024, 2, 29, 1, 2, 3), '"2024-02-29T01:02:03"', "2024-02-29T01:02:03"),
    "aware": (datetime(2024, 2, 29, tzinfo=UTC), '"2024-02-29T00:00:00+00:00"', "2024-02-29T00:00:00+00:00"),
    "time": (time(1, 2, 3), '"01:02:03"', "01:02:03"),
    "aware_time": (time(1, 2, tzinfo=UTC), '"01:02:00+00:00"', "01:02:00+00:00"),
    "span": (timedelta(minutes=1, microseconds=500_000), "60.5", "60.5"),
    "bytes": (b"\x00\xffa", '"AP9h"', "AP9h"),
    "bytearray": (bytearray(b"a"), '"YQ=="', "YQ=="),
    "memoryview": (memoryview(b"a"), '"YQ=="', "YQ=="),
    "uuid": (UUID(int=1), '"00000000-0000-0000-0000-000000000001"', "00000000-0000-0000-0000-000000000001"),
    "list": ([1, "a", (2.5, None)], '[1,"a",[2.5,null]]', '[1,"a",[2.5,null]]'),
    "mapping": (MappingProxyType({"a": 1}), '{"a":1}', '{"a":1}'),
    "ordered": (OrderedDict(b=1, a=2), '{"b":1,"a":2}', '{"b":1,"a":2}'),
    "kind_of_text": (Name('a"'), '"a\\""', 'a"'),
    "lone_half": ("a\ud800b", '"a\ufffdb"', "a\ufffdb"),
    "two_halves": ("\ud83c\udfb5", '"🎵"', "🎵"),
    "nothing": ("", '""', ""),
    "control": ("\0\x1f", '"\\u0000\\u001f"', "\0\x1f"),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_a_value_in_json(case: str) -> None:
    """Also beside what only the slow way can write: both ways write the same."""
    value, expected, _ = VALUES[case]
    assert to_json({"v": value}).decode() == f'{{"v":{expected}}}'
    assert to_json({"v": value, "n": 2**70}).decode() == f'{{"v":{expected},"n":{2**70}}}'


@pytest.mark.parametrize("case", VALUES)
def test_a_value_in_csv(case: str) -> None:
    """As a record and as a bare row."""
    value, _, expected = VALUES[case]
    for encoded in (
        FORMATS["csv"].encoder(("v", "n")).encode([{"v": value, "n": 1}]),
        csv_rows([(value, 1)]),
    ):
        assert list(csv.reader(io.StringIO(encoded.decode(), newline=""))) == [[expected, "1"]]


@given(
    columns=st.integers(1, 4),
    values=st.lists(
        st.none() | st.integers() | st.floats() | st.text(',"\r\n;a \0é', max_size=4), max_size=300
    ),
)
def test_rows_are_those_of_the_csv_module(columns: int, values: list[object]) -> None:
    """However many are written together, and whatever has to be quoted in some of them."""
    rows = list(zip(*[iter(values)] * columns, strict=False))
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\r\n").writerows(rows)
    assert csv_rows(rows).decode() == written.getvalue()
    names = tuple(f"c{number}" for number in range(columns))
    encoder = FORMATS["csv"].encoder(names)
    assert encoder.encode([dict(zip(names, row, strict=True)) for row in rows]) == csv_rows(rows)


@pytest.mark.parametrize("value", [{1: "a"}, {None: 1}, {1.5: {2: math.nan}}])
def test_keys_that_are_no_text(value: Mapping[object, object]) -> None:
    """They are written as JSON would."""
    assert to_json(value) == json.dumps(value, separators=(",", ":")).replace("NaN", "null").encode()


@pytest.mark.parametrize("value", [object(), {1, 2}, {"a": [{3}], "n": 2**70}, 1j])
def test_what_has_no_json_is_a_bug_of_the_program(value: object) -> None:
    """Nobody could read what would be guessed."""
    with pytest.raises(TypeError):
        to_json(value)
    with pytest.raises(TypeError):
        csv_rows([[value]])
