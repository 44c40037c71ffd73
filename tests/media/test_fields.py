"""Every type of a column that PostgreSQL has, through its driver, as records write it."""

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from media.connection import database
from media.rows import rows
from tests.media.tables import body_of
from tests.postgresql import PostgreSQL

TYPES: dict[str, object] = {
    "NULL": None,
    "true": True,
    "(-32768)::int2": -32768,
    "9223372036854775807": 9223372036854775807,
    "0.1::float4": 0.1,
    "0.1::float8": 0.1,
    "'NaN'::float8": None,
    "'-Infinity'::float8": None,
    "12345678901234567890.1234567890": "12345678901234567890.1234567890",
    "'NaN'::numeric": "NaN",
    "'Infinity'::numeric": "Infinity",
    "'바람, \"x\"'::text": '바람, "x"',
    "'ab'::char(4)": "ab  ",
    "'x'::name": "x",
    "'\\xdeadbeef'::bytea": "3q2+7w==",
    "date '2020-02-29'": "2020-02-29",
    "date 'infinity'": "infinity",
    "date '-infinity'": "-infinity",
    "date '0044-03-15 BC'": "-0043-03-15",
    "date '0001-01-01'": "0001-01-01",
    "date '0001-12-31 BC'": "+0000-12-31",
    "date '5874897-12-31'": "+5874897-12-31",
    "timestamp '2020-01-01 01:02:03.5'": "2020-01-01T01:02:03.500000",
    "timestamp '20000-01-02 03:04:05'": "+20000-01-02T03:04:05",
    "timestamp 'infinity'": "infinity",
    "timestamptz '2020-01-01 00:00:00+02'": "2019-12-31T22:00:00+00:00",
    "timestamptz '4713-01-01 00:00:00+00 BC'": "-4712-01-01T00:00:00+00:00",
    "timestamptz '-infinity'": "-infinity",
    "time '04:05:06.7'": "04:05:06.700000",
    "time '24:00'": "24:00:00",
    "timetz '12:00:01.25+02:30'": "12:00:01.250000+02:30",
    "timetz '24:00-05'": "24:00:00-05:00",
    "interval '1 year 2 mon 3 days 4:05:06.7'": "P14M3DT14706.7S",
    "interval '-3 days 10:00'": "P-3DT36000S",
    "interval '0'": "PT0S",
    "interval '100 months'": "P100MT0S",
    "interval '-0.000001 s'": "PT-0.000001S",
    "'6f3c3c2c-4c1e-4d2f-9a39-3c9d0b1f2a77'::uuid": "6f3c3c2c-4c1e-4d2f-9a39-3c9d0b1f2a77",
    "'10.0.0.0/8'::inet": "10.0.0.0/8",
    "'10.0.0.1'::inet": "10.0.0.1",
    "'::1/128'::cidr": "::1/128",
    "'08:00:2b:01:02:03'::macaddr": "08:00:2b:01:02:03",
    "int4range(1, 5)": "[1,5)",
    "int4range(NULL, 5)": "(,5)",
    "'empty'::int4range": "empty",
    "numrange(1.5, 2.50, '[]')": "[1.5,2.50]",
    "daterange('2020-01-01', 'infinity')": "[2020-01-01,infinity)",
    "tstzrange('2020-01-01 00:00+00', NULL)": "[2020-01-01T00:00:00+00:00,)",
    "'{[1,3),[5,6)}'::int4multirange": ["[1,3)", "[5,6)"],
    "B'101'": "101",
    "point(1, 2)": "(1,2)",
    "box '((0,0),(1,1))'": "(1,1),(0,0)",
    "polygon '((0,0),(1,1),(2,0))'": "((0,0),(1,1),(2,0))",
    "circle '<(1,2),3>'": "<(1,2),3>",
    "'a b'::tsvector": "'a' 'b'",
    "'0/1234'::pg_lsn": "0/1234",
    "'(1,2)'::tid": "(1,2)",
    "'$1.00'::money": "$1.00",
    "'pg_class'::regclass": "pg_class",
    "'<a/>'::xml": "<a/>",
    "'$.a'::jsonpath": '$."a"',
    "'calm'::mood": "calm",
    "'1'::positive": 1,
    "ROW(1, 'x')::pair": {"number": 1, "said": "x"},
    "ROW(1, NULL, ROW(2))": [1, None, [2]],
    "'[a,c)'::letters": "[a,c)",
    "ARRAY[1, NULL]": [1, None],
    "ARRAY[[1,2],[3,4]]": [[1, 2], [3, 4]],
    "'{}'::text[]": [],
    "ARRAY['x', 'y\"z']": ["x", 'y"z'],
    "ARRAY[1.50]": ["1.50"],
    "ARRAY[date 'infinity', '2020-01-01']": ["infinity", "2020-01-01"],
    "ARRAY[NULL, interval '2 days']": [None, "P2DT0S"],
    "ARRAY['1.1.1.1'::inet]": ["1.1.1.1"],
    "ARRAY[int4range(1,2)]": ["[1,2)"],
    "ARRAY['calm'::mood]": ["calm"],
    "ARRAY[ROW(1, 'x')::pair]": [{"number": 1, "said": "x"}],
    "ARRAY['{\"a\": 1}'::jsonb]": [{"a": 1}],
    '\'{"a": [1, null, "x"]}\'::jsonb': {"a": [1, None, "x"]},
    'E\'{"a":\\n "\\\\n"}\'::json': {"a": "\n"},
    "'null'::jsonb": None,
    "'\"x\"'::jsonb": "x",
}


@pytest.fixture(scope="module")
def types(postgresql: PostgreSQL) -> PostgreSQL:
    """With types of its own."""
    postgresql.execute("CREATE TYPE mood AS ENUM ('calm', 'wild')")
    postgresql.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    postgresql.execute("CREATE TYPE pair AS (number int, said text)")
    postgresql.execute("CREATE TYPE letters AS RANGE (subtype = text)")
    return postgresql


@pytest.mark.gen_test
async def test_every_type(types: PostgreSQL) -> None:
    """In one line of JSON, and as a field of CSV: what JSON has as a string, without its quotes."""
    names = [f"c{number}" for number in range(len(TYPES))]
    columns = ", ".join(f"{expression} AS {name}" for name, expression in zip(names, TYPES, strict=True))
    stream = rows(types.url, f"SELECT 1 AS id, {columns}", key="id")
    [line] = (await body_of(stream, "ndjson")).splitlines()
    read = json.loads(line)
    assert [(expression, read[name]) for name, expression in zip(names, TYPES, strict=True)] == list(
        TYPES.items()
    )
    assert b'"c0":null' in line
    assert (await body_of(stream, "csv")).count(b"\n") == 2


@pytest.mark.gen_test
async def test_json_keeps_every_digit(types: PostgreSQL) -> None:
    """It is not read, but passed on."""
    stream = rows(
        types.url, "SELECT 1 AS id, '[12345678901234567890.123456789012345678]'::jsonb AS j", key="id"
    )
    assert await body_of(stream, "ndjson") == b'{"id":1,"j":[12345678901234567890.123456789012345678]}\n'


BOUND: list[tuple[str, Any]] = [
    ("date", date(2020, 2, 29)),
    ("timestamp", datetime(2020, 2, 29, 1, 2, 3, 4)),
    ("timestamptz", datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC)),
    ("timestamp", datetime(2020, 2, 29, tzinfo=UTC)),
    ("timestamptz", datetime(2020, 2, 29)),
    ("time", time(1, 2, 3, 4)),
    ("timetz", time(1, 2, 3, 4, tzinfo=UTC)),
    ("interval", timedelta(days=1, seconds=2, microseconds=3)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), BOUND, ids=[f"{kind} {value}" for kind, value in BOUND])
@pytest.mark.gen_test
async def test_parameters_that_are_bound(kind: str, value: Any, types: PostgreSQL) -> None:
    """Dates and times of Python arrive as what they are, without a zone as UTC."""
    told = f"'{value.total_seconds()} s'" if isinstance(value, timedelta) else f"'{value.isoformat()}'"
    select = f"SELECT 1 AS id WHERE {kind} {told} = :value"
    if kind == "timestamptz" and value.tzinfo is None:
        select = f"SELECT 1 AS id WHERE timestamptz '{value.isoformat()}Z' = :value"
    if kind == "interval":
        select = "SELECT 1 AS id WHERE interval '1 day 2.000003 s' = :value"
    stream = rows(types.url, select, key="id", parameters={"value": (object, value)})
    assert await body_of(stream, "csv") == b"id\r\n1\r\n"


FAR = [
    "date '5874897-12-31'",
    "timestamp '20000-01-01'",
    "timestamptz 'infinity'",
    "time '24:00'",
    "timetz '24:00-05'",
]
FAR += ["interval '1 month'"]


@pytest.mark.parametrize("expression", FAR)
@pytest.mark.gen_test
async def test_what_python_has_no_type_for_goes_back(expression: str, types: PostgreSQL) -> None:
    """Where it is the key behind which the next page begins."""
    async with database(types.url).connect() as reader:
        value = await reader.fetch(text(f"SELECT {expression}"), {}, lambda page: page.rows[0][0])
        same = await reader.fetch(
            text(f"SELECT {expression} = :value"), {"value": value}, lambda page: page.rows[0][0]
        )
    assert (type(value).__name__, same) == ("_Far", True)
