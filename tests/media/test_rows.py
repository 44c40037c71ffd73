"""Rows of a query as a stream, against real SQLite files and a real PostgreSQL."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from media.generated import Stream, StreamRequest
from media.query import Query
from media.records import FORMATS
from media.rows import export, rows, stream_of
from media.source import BadParameter, SourceBroken, SourceEnded
from tests.media.tables import Connections, body_of, table
from tests.media.test_records import events_of
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.usefixtures("connections")


# --- formats ---

END = b"event: end\nid: (end)\ndata: {}\n\n"
EMPTY = {"csv": b"id,name\r\n", "json": b"[]\n", "ndjson": b"", "text": b"", "sse": END}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_no_rows(form: str, tmp_path: Path) -> None:
    """CSV has its header all the same."""
    stream = rows(table(tmp_path, []), "SELECT id, name FROM t", key="id")
    assert await body_of(stream, form) == EMPTY[form]


@pytest.mark.parametrize("count", [1, 10, 25])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_rows_in_each_format(form: str, count: int, small_pages: None, tmp_path: Path) -> None:
    """The same rows, read back; as events each has its key as id."""
    stream = rows(table(tmp_path, range(1, count + 1)), "SELECT id, name FROM t", key="id")
    expected = [{"id": n, "name": f"name {n}"} for n in range(1, count + 1)]
    body = await body_of(stream, form)
    match form:
        case "csv":
            read: list[Any] = list(csv.DictReader(io.StringIO(body.decode(), newline=""), strict=True))
            read = [{**row, "id": int(row["id"])} for row in read]
        case "json":
            read = json.loads(body)
        case "sse":
            *events, end = events_of(body)
            read = [json.loads(seen.data) for seen in events]
            assert [seen.id for seen in events] == [str(n) for n in range(1, count + 1)]
            assert end.event == "end"
        case _:
            read = [json.loads(line) for line in body.splitlines()]
    assert read == expected


@pytest.mark.gen_test
async def test_what_sqlite_holds(tmp_path: Path) -> None:
    """NULL, bytes, infinity, and integers to the last digit."""
    stream = rows(
        "sqlite+aiosqlite://",
        "SELECT 1 AS id, NULL AS n, x'00ff' AS b, 9e999 AS f, 9223372036854775807 AS i",
        key="id",
    )
    assert (
        await body_of(stream, "ndjson") == b'{"id":1,"n":null,"b":"AP8=","f":null,"i":9223372036854775807}\n'
    )
    assert await body_of(stream, "csv") == b"id,n,b,f,i\r\n1,,AP8=,inf,9223372036854775807\r\n"


@pytest.mark.gen_test
async def test_a_key_that_no_event_can_have_as_id(tmp_path: Path) -> None:
    """What stands in a database is no bug of the program."""
    stream = rows(table(tmp_path, ["a\nb"], "t (id TEXT, name TEXT)"), "SELECT * FROM t", key="id")
    assert b'"a\nb"' in await body_of(stream, "csv")
    with pytest.raises(SourceBroken, match="id of an event"):
        await body_of(stream, "sse")


@pytest.mark.gen_test
async def test_what_postgresql_holds(postgresql: PostgreSQL) -> None:
    """In JSON and in CSV; what else there is, tests/media/test_fields.py has."""
    select = """
        SELECT 1 AS id, NULL AS n, '\\x00ff'::bytea AS b, 'nan'::float8 AS f, 9223372036854775807 AS i,
        1.50 AS d, '2020-02-03 04:05:06+01'::timestamptz AS t, '{"a": [1.50]}'::jsonb AS j,
        ARRAY[1, NULL] AS a
    """
    stream = rows(postgresql.url, select, key="id")
    assert await body_of(stream, "ndjson") == (
        b'{"id":1,"n":null,"b":"AP8=","f":null,"i":9223372036854775807,"d":"1.50",'
        b'"t":"2020-02-03T03:05:06+00:00","j":{"a": [1.50]},"a":[1,null]}\n'
    )
    assert await body_of(stream, "csv") == (
        b"id,n,b,f,i,d,t,j,a\r\n1,,AP8=,nan,9223372036854775807,1.50,2020-02-03T03:05:06+00:00,"
        b'"{""a"": [1.50]}","[1,null]"\r\n'
    )


# --- parameters ---


def between(folder: Path, **declared: Any) -> Stream:
    address = table(folder, range(50))
    return rows(
        address, "SELECT id FROM t WHERE id >= :least AND id < :most", key="id", parameters=declared or None
    )


@pytest.mark.gen_test
async def test_parameters_are_bound(small_pages: None, tmp_path: Path) -> None:
    """On every page; a text that looks like SQL is a text."""
    found = b"id\r\n" + b"".join(b"%d\r\n" % n for n in range(15, 40))
    assert await body_of(between(tmp_path, least=int, most=(int, 40)), "csv", least="15") == found
    other = tmp_path / "other"
    other.mkdir()
    named = rows(table(other, []), "SELECT id FROM t WHERE name = :name", key="id")
    assert await body_of(named, "csv", name="x' OR 1=1 --") == b"id\r\n"


@pytest.mark.parametrize(("args", "words"), [
    ({}, "least must be given"), ({"least": ""}, 'least must be .* not ""'),
    ({"least": "x"}, 'least must be a valid integer, not "x"'),
    ({"least": "1", "most": "1.5"}, 'most must be a valid integer, not "1.5"'),
    ({"least": "1", "after": ""}, "after must not be empty"),
    ({"least": "1", "header": "yes"}, "header must be 0 or 1"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_a_malformed_parameter_is_named_on_entering(
    args: dict[str, str], words: str, tmp_path: Path, connections: Connections
) -> None:
    """No connection is opened for it."""
    stream = between(tmp_path, least=int, most=(int, 40))
    with pytest.raises(BadParameter, match=words):
        async with stream.open(StreamRequest(args), FORMATS["csv"]):
            pass
    assert connections.opened == 0


def test_parameters_are_listed(tmp_path: Path) -> None:
    """With their types and defaults; one that is not declared is a text."""
    assert between(tmp_path, most=(int, 40)).parameters == (
        {"name": "least", "required": True, "type": "string"},
        {"name": "most", "required": False, "default": 40, "type": "integer"},
    )


@pytest.mark.parametrize(("query", "declared", "words"), [
    ("SELECT 1 AS id", {"customer": int}, "the query has no :customer"),
    ("SELECT 1 AS id WHERE :header", {}, '"header" has a meaning of its own'),
    ("SELECT 1 AS id WHERE :format", {}, '"format" has a meaning of its own'),
])  # fmt: skip
def test_a_parameter_that_cannot_be(query: str, declared: dict[str, Any], words: str) -> None:
    """It is refused when the stream is made."""
    with pytest.raises(TypeError, match=words):
        rows("sqlite+aiosqlite://", query, key="id", parameters=declared)


@pytest.mark.gen_test
async def test_parameters_of_postgresql(postgresql: PostgreSQL) -> None:
    """Of the declared type; a value that the column cannot have is the client's mistake."""
    select = "SELECT n AS id FROM generate_series(1, 50) AS n WHERE n < :most"
    stream = rows(postgresql.url, select, key="id", parameters={"most": int})
    assert await body_of(stream, "csv", most="3") == b"id\r\n1\r\n2\r\n"
    with pytest.raises(BadParameter, match="another type"):
        await body_of(stream, "csv", most="99999999999999999999")
    with pytest.raises(BadParameter, match="another type"):
        await body_of(rows(postgresql.url, select, key="id"), "csv", most="3")


@pytest.mark.gen_test
async def test_a_number_that_sqlite_cannot_hold(tmp_path: Path) -> None:
    """Is the client's mistake."""
    with pytest.raises(BadParameter, match="64 bits"):
        await body_of(between(tmp_path, least=int, most=int), "csv", least=str(2**63), most="1")


# --- going on behind a key ---

JOINABLE = ("csv", "ndjson", "text")


@pytest.mark.parametrize("form", JOINABLE)
@pytest.mark.gen_test
async def test_broken_off_anywhere_it_is_joined(form: str, small_pages: None, tmp_path: Path) -> None:
    """Whole rows of the first part and what is behind their last key: byte for byte the same."""
    create = 't (id INTEGER PRIMARY KEY, "a name, ""quoted""" TEXT)'
    stream = rows(table(tmp_path, range(0, 90, 3), create), "SELECT * FROM t", key="id")
    whole = await body_of(stream, form)
    lines = whole.splitlines(keepends=True)
    for count in range(2 if form == "csv" else 1, len(lines) + 1):
        last = lines[count - 1]
        key = str(json.loads(last)["id"]) if form != "csv" else last.split(b",")[0].decode()
        assert b"".join(lines[:count]) + await body_of(stream, form, after=key) == whole


KEYS: dict[str, tuple[str, list[str]]] = {
    "int8": ("n::int8 * 4611686018427387904", []),
    "numeric": ("(n || '.10')::numeric", ["1.10"]),
    "float8": ("n / 3.0::float8", []),
    "text": ("chr(44032 + n) || ', \"x'", []),
    "uuid": ("md5(n::text)::uuid", []),
    "date": ("date '2020-01-30' + n", ["2020-01-31"]),
    "timestamp": ("timestamp '2020-01-01' + n * interval '1.5 days'", []),
    "timestamptz": (
        "timestamptz '2020-01-01 00:00+01' + n * interval '1 hour'",
        ["2020-01-01T00:00:00+00:00"],
    ),
    "bytea": ("decode(lpad(to_hex(n), 4, '0'), 'hex')", []),
    "bool": ("n = 2", []),
    "infinite": (
        "CASE n WHEN 1 THEN '-infinity' WHEN 24 THEN 'infinity' ELSE date '2020-01-01' + n END",
        ["-infinity"],
    ),
    "inet": ("inet '10.0.0.0' + n", ["10.0.0.1"]),
    "nan": (
        "CASE n WHEN 1 THEN '-Infinity' WHEN 23 THEN 'Infinity' WHEN 24 THEN 'NaN' ELSE n::numeric END",
        ["-Infinity"],
    ),
    "far_date": ("date '0013-01-01 BC' + n * interval '1000 years'", ["0988-01-01T00:00:00"]),
    "before_christ": ("date '4001-02-28 BC' + n", ["-4000-02-29"]),
    "ends_of_time": (
        "CASE n WHEN 1 THEN timestamptz '4713-01-01 12:00:01.5Z BC' WHEN 24 THEN 'infinity'"
        " ELSE timestamptz '9999-01-01Z' + n * interval '1 month 1 s' END",
        ["-4712-01-01T12:00:01.500000+00:00"],
    ),
    "ends_of_days": ("CASE n WHEN 24 THEN time '24:00' ELSE time '00:00' + n * interval '1 hour' END", []),
    "interval": ("n * interval '1 month 2 days -3.25 s'", ["P1M2DT-3.25S"]),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.gen_test
async def test_keys_of_every_type(name: str, small_pages: None, postgresql: PostgreSQL) -> None:
    """Pages go by them, and a client goes on behind one with what it was sent."""
    expression, first = KEYS[name]
    least, most = {"int8": (-1, 1), "bool": (1, 2)}.get(name, (1, 24))
    select = f"SELECT {expression} AS k FROM generate_series({least}, {most}) AS n"
    stream = rows(postgresql.url, select, key="k")
    whole = await body_of(stream, "csv")
    keys = [row["k"] for row in csv.DictReader(io.StringIO(whole.decode(), newline=""), strict=True)]
    assert len(keys) == most - least + 1
    assert keys[: len(first)] == first
    events = events_of(await body_of(stream, "sse"))
    assert [event.id for event in events[:-1]] == keys
    for place in {0, len(keys) // 2, len(keys) - 1}:
        rest = await body_of(stream, "csv", after=keys[place])
        assert list(csv.reader(io.StringIO(rest.decode(), newline=""))) == [
            [key] for key in keys[place + 1 :]
        ]


@pytest.mark.gen_test
async def test_a_key_that_is_json(small_pages: None, postgresql: PostgreSQL) -> None:
    """Pages go by it, too."""
    select = "SELECT to_jsonb(n) AS k FROM generate_series(1, 24) AS n"
    whole = await body_of(rows(postgresql.url, select, key="k"), "csv")
    assert whole.split() == [b"k", *(b"%d" % n for n in range(1, 25))]


@pytest.mark.gen_test
async def test_keys_of_sqlite(small_pages: None, tmp_path: Path) -> None:
    """Numbers, texts and bytes, as the first row has them."""
    for number, (kind, keys) in enumerate([
        ("INTEGER", list(range(1, 30))), ("REAL", [n / 3 for n in range(30)]),
        ("TEXT", [f"k, {n:02}" for n in range(30)]), ("BLOB", [bytes((n,)) for n in range(30)]),
    ]):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        stream = rows(
            table(folder, keys, f"t (id {kind} PRIMARY KEY, name TEXT)"), "SELECT * FROM t", key="id"
        )
        read = [json.loads(line) for line in (await body_of(stream, "ndjson")).splitlines()]
        place = random.randrange(30 - 1)
        rest = await body_of(stream, "ndjson", after=str(read[place]["id"]))
        assert [json.loads(line) for line in rest.splitlines()] == read[place + 1 :]


@pytest.mark.parametrize(("after", "words"), [
    ("x", 'after must be a key of these rows, such as "0"'), ("9" * 30, "64 bits"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_a_key_that_is_none(after: str, words: str, tmp_path: Path) -> None:
    """The client is told what one looks like."""
    stream = rows(table(tmp_path, range(5)), "SELECT * FROM t", key="id")
    with pytest.raises(BadParameter, match=words):
        await body_of(stream, "csv", after=after)


@pytest.mark.gen_test
async def test_keys_that_cannot_be_given(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """Bytes that are no Base64, and what is no plain value."""
    stream = rows(table(tmp_path, [b"\0"], "t (id BLOB, name TEXT)"), "SELECT * FROM t", key="id")
    with pytest.raises(BadParameter, match="Base64"):
        await body_of(stream, "csv", after="x")
    with pytest.raises(BadParameter, match="no plain value"):
        await body_of(rows(postgresql.url, "SELECT ARRAY[1] AS id", key="id"), "csv", after="x")


@pytest.mark.gen_test
async def test_nothing_is_left(tmp_path: Path) -> None:
    """An empty rest, that of an array too; an EventSource is told not to come back."""
    stream = rows(table(tmp_path, range(5)), "SELECT * FROM t", key="id")
    for form, rest in {"csv": b"", "ndjson": b"", "text": b"", "json": b"[]\n"}.items():
        assert await body_of(stream, form, after="4") == rest
    other = tmp_path / "other"
    other.mkdir()
    for seen in ("4", "(end)"):
        with pytest.raises(SourceEnded):
            await body_of(stream, "sse", seen)
    assert await body_of(rows(table(other, []), "SELECT * FROM t", key="id"), "csv", after="4") == b""


@pytest.mark.gen_test
async def test_events_go_on_behind_the_newer_id(tmp_path: Path) -> None:
    """An EventSource that began with `?after=` repeats it each time it comes back."""
    stream = rows(table(tmp_path, range(5)), "SELECT * FROM t", key="id")
    assert [event.id for event in events_of(await body_of(stream, "sse", "2", after="0"))] == [
        "3",
        "4",
        "(end)",
    ]
    assert await body_of(stream, "csv", "2", after="3") == b"4,name 4\r\n"


@pytest.mark.parametrize(("args", "header"), [
    ({}, True), ({"header": "1"}, True), ({"header": "0"}, False),
    ({"after": "3"}, False), ({"after": "3", "header": "1"}, True),
])  # fmt: skip
@pytest.mark.gen_test
async def test_the_header_of_csv(args: dict[str, str], header: bool, tmp_path: Path) -> None:
    """None where the rest is to be joined; the media type says which."""
    stream = rows(table(tmp_path, range(5)), "SELECT * FROM t", key="id")
    async with stream.open(StreamRequest(args), FORMATS["csv"]) as body:
        assert body.facts.media_type.endswith("header=present" if header else "header=absent")
    found = await body_of(stream, "csv", **args)
    assert found.startswith(b"id,name\r\n") == header
    assert found.endswith(b"4,name 4\r\n")


# --- what a stream says of itself ---


@pytest.mark.parametrize(
    ("count", "args", "found"), [(True, {}, 45), (True, {"after": "30"}, 45), (False, {}, None)]
)
@pytest.mark.gen_test
async def test_rows_are_counted(count: bool, args: dict[str, str], found: int | None, tmp_path: Path) -> None:
    """All that the parameters leave, wherever the client goes on."""
    select = "SELECT id FROM t WHERE id >= :least -- all"
    stream = rows(table(tmp_path, range(50)), select, key="id", count=count, parameters={"least": int})
    async with stream.open(StreamRequest({"least": "5", **args}), FORMATS["csv"]) as body:
        assert body.facts.count == found


@pytest.mark.gen_test
async def test_a_count_that_fails(tmp_path: Path) -> None:
    """Before anything is sent."""
    with pytest.raises(SourceBroken):
        await body_of(rows(table(tmp_path, []), "SELECT id FROM missing", key="id", count=True), "csv")


def test_pages_of_its_own_are_not_counted() -> None:
    """Their query counts one page."""
    with pytest.raises(ValueError, match="counted"):
        rows("sqlite+aiosqlite://", "SELECT 1 AS id WHERE :after < 1 LIMIT :limit", key="id", count=True)


@pytest.mark.gen_test
async def test_a_query_with_pages_of_its_own_goes_on(small_pages: None) -> None:
    """Its `:after` is the client's."""
    query = Query(
        "sqlite+aiosqlite://",
        "WITH RECURSIVE n(id) AS"
        " (SELECT :after + 1 UNION ALL SELECT id + 1 FROM n LIMIT min(30 - :after, :limit))"
        " SELECT id FROM n WHERE :after < 30",
        key="id",
    )
    stream = stream_of(query, lambda args: {})
    assert await body_of(stream, "csv", after="27") == b"28\r\n29\r\n30\r\n"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.gen_test
async def test_entering_starts_no_query(form: str, connections: Connections) -> None:
    """So that HEAD costs nothing: not even a connection."""
    stream = rows("sqlite+aiosqlite://", "SELECT 1 AS id", key="id")
    async with stream.open(StreamRequest(), FORMATS[form]) as body:
        assert body.facts.media_type == FORMATS[form].media_type
        assert body.facts.heartbeat == FORMATS[form].heartbeat
        assert not body.facts.live
    assert connections.opened == 0
    assert (stream.title, stream.formats[0].name, len(stream.formats)) == ("Rows by id", "csv", len(FORMATS))


# --- a query of which nothing else is known ---


@pytest.mark.gen_test
async def test_an_export(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """By its first column or by the one that is named; PostgreSQL says what its parameters are."""
    address = table(tmp_path, range(3))
    by_first = await export(address, "SELECT name, id FROM t WHERE name <> :but;")
    assert await body_of(by_first, "csv", but="name 1") == b"name,id\r\nname 0,0\r\nname 2,2\r\n"
    by_id = await export(address, "SELECT name, id FROM t", key="id")
    assert await body_of(by_id, "csv", after="1") == b"name 2,2\r\n"
    select = "SELECT n FROM generate_series(1, :most) AS n WHERE n > :least"
    stream = await export(postgresql.url, select)
    assert await body_of(stream, "csv", most="4", least="2") == b"n\r\n3\r\n4\r\n"
    with pytest.raises(BadParameter, match="most must be a valid integer"):
        await body_of(stream, "csv", most="x", least="2")
    assert [listed["type"] for listed in stream.parameters] == ["integer", "integer"]


@pytest.mark.parametrize(("query", "key", "words"), [
    ("SELECT id FROM missing", "", "no such table"), ("DROP TABLE t", "", "syntax error"),
    ("SELECT id FROM t", "name", "no column name: its columns are id"),
    ("SELECT id FROM t WHERE :after", "", "an own :after needs a :limit"),
    ("SELECT id FROM t WHERE :header", "", '"header" has a meaning of its own'),
])  # fmt: skip
@pytest.mark.gen_test
async def test_an_export_that_cannot_be(query: str, key: str, words: str, tmp_path: Path) -> None:
    """One sentence that says why."""
    with pytest.raises(ValueError, match=words):
        await export(table(tmp_path, range(3)), query, key=key)


@pytest.mark.gen_test
async def test_an_export_of_a_server_that_is_down() -> None:
    """The password is not told."""
    with pytest.raises(ValueError, match="cannot be reached") as error:
        await export("postgresql+asyncpg://me:secret@127.0.0.1:1/x", "SELECT 1 AS id")
    assert "secret" not in str(error.value)
