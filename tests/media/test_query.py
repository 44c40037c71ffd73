"""Queries read page by page, against real SQLite files and a real PostgreSQL."""

import os
from contextlib import aclosing
from pathlib import Path

import pytest

from media import query as query_module
from media.connection import Page
from media.query import Described, Query
from media.rows import records
from media.source import SourceBroken
from tests.media.tables import changed, ids, table, url
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.usefixtures("connections")


# --- pages ---


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 25])
@pytest.mark.gen_test
async def test_every_row_comes_once(count: int, small_pages: None, tmp_path: Path) -> None:
    """With gaps in the keys and negative ones, in the order of the keys, however many pages it takes."""
    keys = [number * number - 30 for number in range(count)]
    query = Query(table(tmp_path, reversed(keys)), "SELECT id, name FROM t", key="id")
    assert await ids(query) == keys


QUERIES = {
    "plain": "SELECT id, name FROM t",
    "ended": "SELECT id, name FROM t; \n",
    "comment_at_the_end": "SELECT id, name FROM t -- all of them",
    "own_order": "SELECT id, name FROM t ORDER BY name DESC",
    "own_paging": "SELECT id, name FROM t WHERE id > :after ORDER BY id LIMIT :limit",
    "joined": "SELECT t.id, other.name FROM t JOIN t AS other ON other.id = t.id",
}


@pytest.mark.parametrize("case", QUERIES)
@pytest.mark.gen_test
async def test_a_query_is_paged(case: str, small_pages: None, tmp_path: Path) -> None:
    """However it is written."""
    query = Query(table(tmp_path, range(1, 26)), QUERIES[case], key="id")
    assert await ids(query) == list(range(1, 26))


@pytest.mark.gen_test
async def test_keys_may_be_texts_and_strangely_named(small_pages: None, tmp_path: Path) -> None:
    """Any column that SQLite can order."""
    database = table(tmp_path, [f"k{n:02}" for n in range(25)], 't ("the :""key""" TEXT, name TEXT)')
    query = Query(database, "SELECT * FROM t", key='the :"key"')
    assert await ids(query) == [f"k{n:02}" for n in range(25)]


@pytest.mark.gen_test
async def test_rows_change_while_they_are_read(small_pages: None, tmp_path: Path) -> None:
    """What stays comes once; no cursor is held, so another may write all the time."""
    query = Query(table(tmp_path, range(0, 60, 2)), "SELECT id, name FROM t", key="id")
    seen = []
    async with aclosing(records(query, {})) as found:
        async for record in found:
            seen.append(record["id"])
            if record["id"] == 18:  # the first page's last row
                changed(tmp_path, "DELETE FROM t WHERE id IN (4, 18, 20, 40)")
                changed(tmp_path, "INSERT INTO t VALUES (1, 'behind'), (19, 'next'), (99, 'last')")
    assert seen == [*range(0, 20, 2), 19, *(n for n in range(22, 60, 2) if n != 40), 99]


# --- bugs of the program ---


@pytest.mark.gen_test
async def test_a_key_that_is_null(tmp_path: Path) -> None:
    """No page could begin behind it: rows would be lost without a word."""
    database = table(tmp_path, [None], "t (id INTEGER, name TEXT)")
    with pytest.raises(SourceBroken, match="NULL"):
        await ids(Query(database, "SELECT * FROM t", key="id"))


@pytest.mark.parametrize("twice", [0, 5, 8, 9, 10, 18, 19, 20, 28, 29])
@pytest.mark.gen_test
async def test_a_key_that_is_there_twice(twice: int, small_pages: None, tmp_path: Path) -> None:
    """Wherever: between two pages the second would be left out without a word."""
    database = table(tmp_path, [*range(30), twice], "t (id INTEGER, name TEXT)")
    with pytest.raises(SourceBroken, match="two rows have the same 'id'"):
        await ids(Query(database, "SELECT * FROM t", key="id"))


# --- failures outside ---


@pytest.mark.parametrize(("query", "key"), [
    ("SELECT id FROM missing", "id"), ("SELEC 1", "id"), ("SELECT id FROM t WHERE id = :unbound", "id"),
    ("SELECT id FROM t", "not_a_column"), ("SELECT 1 AS id; SELECT 2 AS id", "id"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_a_refused_query_is_broken(query: str, key: str, tmp_path: Path) -> None:
    """Before the first chunk; entering it costs nothing and tells nothing."""
    with pytest.raises(SourceBroken) as error:
        await ids(Query(table(tmp_path, [1]), query, key=key))
    assert error.value.__cause__ is not None
    assert str(tmp_path) not in str(error.value)


@pytest.mark.gen_test
async def test_a_missing_database_is_broken_and_not_made(tmp_path: Path) -> None:
    """SQLite would make an empty one."""
    with pytest.raises(SourceBroken):
        await ids(Query(url(tmp_path), "SELECT 1 AS id", key="id"))
    assert not os.listdir(tmp_path)  # noqa: PTH208


@pytest.mark.gen_test
async def test_another_file_is_no_database(tmp_path: Path) -> None:
    """It is left as it is."""
    (tmp_path / "a ?#%.db").write_bytes(b"no database" * 1000)
    with pytest.raises(SourceBroken):
        await ids(Query(url(tmp_path), "SELECT id FROM t", key="id"))


@pytest.mark.gen_test
async def test_text_that_is_no_utf8_is_broken(tmp_path: Path) -> None:
    """Others may write into a database what SQLite never looks at."""
    database = table(tmp_path, [1])
    changed(tmp_path, "UPDATE t SET name = CAST(x'ff' AS TEXT)")
    with pytest.raises(SourceBroken):
        await ids(Query(database, "SELECT * FROM t", key="id"))


@pytest.mark.gen_test
async def test_a_table_that_goes_away_breaks_the_body(small_pages: None, tmp_path: Path) -> None:
    """What was read until then has come."""
    query = Query(table(tmp_path, range(30)), "SELECT id FROM t", key="id")
    seen = []
    with pytest.raises(SourceBroken):  # noqa: PT012, what came before counts
        async for record in records(query, {}):
            seen.append(record["id"])
            if len(seen) == 10:
                changed(tmp_path, "DROP TABLE t")
    assert seen == list(range(10))


@pytest.mark.parametrize("statement", [
    "DELETE FROM t WHERE :after = 0 AND :limit RETURNING id",
    "INSERT INTO t SELECT 5, 'x' WHERE :after = 0 AND :limit RETURNING id",
    "UPDATE t SET name = 'x' WHERE :after = 0 AND :limit RETURNING id",
])  # fmt: skip
@pytest.mark.gen_test
async def test_a_query_cannot_write(statement: str, tmp_path: Path) -> None:
    """The file is opened read-only."""
    with pytest.raises(SourceBroken):
        await ids(Query(table(tmp_path, [1, 2]), statement, key="id"))
    assert await ids(Query(url(tmp_path), "SELECT id FROM t WHERE name LIKE 'name %'", key="id")) == [1, 2]


@pytest.mark.gen_test
async def test_a_database_by_its_own_uri(tmp_path: Path) -> None:
    """Who writes one says himself how it is opened."""
    table(tmp_path, [1, 2])
    (tmp_path / "a ?#%.db").rename(tmp_path / "b.db")
    query = Query(f"sqlite+aiosqlite:///file:{tmp_path}/b.db?mode=ro&uri=true", "SELECT id FROM t", key="id")
    assert await ids(query) == [1, 2]


@pytest.mark.gen_test
async def test_pages_fit_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is small, and none is larger for long than it should be, however large its rows are."""
    monkeypatch.setattr(query_module, "PAGE_BYTES", 10_000)
    counts = []

    def rendered(page: Page) -> bytes:
        counts.append(len(page.rows))
        return bytes(1000 * len(page.rows) - 1) if page.rows else b""

    query = Query(table(tmp_path, range(400)), "SELECT * FROM t", key="id")
    async with aclosing(query.pages({}, rendered)) as pages:
        assert [page async for page in pages]
    assert counts == [100, *([10] * 30)]


# --- PostgreSQL ---


@pytest.mark.parametrize("count", [0, 1, 10, 25])
@pytest.mark.gen_test
async def test_pages_of_postgresql(count: int, small_pages: None, postgresql: PostgreSQL) -> None:
    """However many pages; its own order and a comment at the end change nothing."""
    select = f'SELECT n AS "Nº:x" FROM generate_series(1, {count}) AS n ORDER BY n DESC -- all'
    assert await ids(Query(postgresql.url, select, key="Nº:x")) == list(range(1, count + 1))


@pytest.mark.parametrize(("select", "key"), [
    ("SELECT id FROM missing", "id"), ("SELEC 1", "id"), ("SELECT 1 AS id", "not_a_column"),
    ("SELECT 1 AS id; SELECT 2 AS id", "id"),
    ("SELECT 1 / (n - 20) AS id FROM generate_series(1, 25) n", "id"),
    ("SELECT 1 AS id WHERE :unbound = 1", "id"),
])  # fmt: skip
@pytest.mark.gen_test
async def test_what_postgresql_refuses_is_broken(select: str, key: str, postgresql: PostgreSQL) -> None:
    """Whatever the reason."""
    with pytest.raises(SourceBroken):
        await ids(Query(postgresql.url, select, key=key))


COLONS = {
    "SELECT 'a :b' AS id -- :c": "a :b",
    "SELECT 'it''s :b' AS id /* :c\n :d */": "it's :b",
    "SELECT k AS id FROM (SELECT 1 AS \":k\", '12:30 :x' AS k) AS s": "12:30 :x",
    r"SELECT 'a \:b' AS id": "a :b",
    "SELECT '{\"a\":1}' AS id": '{"a":1}',
}
OF_POSTGRESQL = {
    "SELECT '1'::int AS id": 1,
    "SELECT (ARRAY[1,2,3])[1 :2] AS id": [1, 2],
    r"SELECT E'it\'s :b' AS id": "it's :b",
    "SELECT $$a :b$$ || $x$ :c $$ $x$ AS id": "a :b :c $$ ",
}


@pytest.mark.parametrize("select", [*COLONS, *OF_POSTGRESQL])
@pytest.mark.gen_test
async def test_colons_that_begin_no_parameter(select: str, postgresql: PostgreSQL) -> None:
    """Within texts, names and comments, and where a number is behind them."""
    for address in (postgresql.url, "sqlite+aiosqlite://") if select in COLONS else (postgresql.url,):
        assert await ids(Query(address, select, key="id")) == [(COLONS | OF_POSTGRESQL)[select]]


@pytest.mark.gen_test
async def test_a_parameter_that_is_cast(postgresql: PostgreSQL) -> None:
    """As PostgreSQL writes it."""
    query = Query(postgresql.url, "SELECT :a::int + (:b)::int AS id, ':c::int' AS c -- :d::int", key="id")
    assert query.parameters == ("a", "b")
    assert [page async for page in query.pages({"a": 1, "b": 2}, lambda page: page.rows)] == [
        [(3, ":c::int")]
    ]
    described = await query.described()
    assert described.types == {"a": int, "b": int}


# --- described ---


@pytest.mark.gen_test
async def test_described_by_sqlite(tmp_path: Path) -> None:
    """Its columns; what the parameters are SQLite does not know."""
    address = table(tmp_path, [1])
    query = Query(address, "SELECT name, id FROM t WHERE id > :least -- x", key="")
    assert await query.described() == Described(("name", "id"), {})
    own = Query(address, "SELECT id FROM t WHERE id > :after + :more LIMIT :limit", key="id")
    assert (own.parameters, await own.described()) == (("more",), Described(("id",), {}))


@pytest.mark.gen_test
async def test_described_by_postgresql(postgresql: PostgreSQL) -> None:
    """Its columns and the types of its parameters; what the query would do is not done."""
    select = (
        "SELECT n, pg_sleep(60) FROM generate_series(1, :most) AS n WHERE now() > :since"
        " AND n::numeric <> :not AND md5(n::text)::uuid <> :uuid AND md5(n::text) <> :name"
        " AND box(point(0, 0), point(n, n)) @> :at"
    )
    types = {"most": "int", "since": "datetime", "not": "Decimal", "uuid": "UUID", "name": "str", "at": "str"}
    described = await Query(postgresql.url, select, key="").described()
    assert described.columns == ("n", "pg_sleep")
    assert {name: kind.__name__ for name, kind in described.types.items()} == types


@pytest.mark.gen_test
async def test_what_cannot_be_described(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """A query that the database refuses."""
    for address in (table(tmp_path, [1]), postgresql.url):
        with pytest.raises(SourceBroken):
            await Query(address, "SELECT * FROM missing", key="id").described()
