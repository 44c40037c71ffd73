"""The catalogue: what a scan makes of its rows, search, pages, and the database of a library."""

import asyncio
import os
import sqlite3
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from media.catalogue import Catalogue, Counts, default_database
from media.database import CatalogueError
from media.identity import Found
from tests.media.between_scans import CASES, file, unopened


def url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'tracks.sqlite3'}"


async def ids(catalogue: Catalogue) -> dict[str, int]:
    return {track.path: track.id for track in (await catalogue.tracks(limit=1000))[0]}


@asynccontextmanager
async def holding(folder: Path, **contents: str) -> AsyncIterator[Catalogue]:
    """A catalogue with one track for each name and content, with ids 1, 2, … in the order of the names."""
    async with Catalogue(url(folder)) as catalogue:
        await catalogue.update({name: file(content) for name, content in contents.items()})
        yield catalogue


# --- ids ---


@pytest.mark.gen_test
@pytest.mark.parametrize(("before", "now", "then", "counts"), CASES.values(), ids=CASES)
async def test_id_follows_the_track(tmp_path, before, now, then, counts):
    """A track keeps its id through changed tags, moves, swaps and chains; another one never gets it."""
    async with holding(tmp_path, **before) as catalogue:
        found = {
            path: unopened(file(before[path])) if content is None else file(content)
            for path, content in now.items()
        }
        assert await catalogue.update(found) == counts
        assert await ids(catalogue) == then


@pytest.mark.gen_test
async def test_returned_file_has_its_id_again(tmp_path):
    """A disk that was not mounted for one scan changes nothing in the end."""
    before = {"a": "A", "b": "B", "c/d": "D"}
    async with holding(tmp_path, **before) as catalogue:
        known = await ids(catalogue)
        assert await catalogue.update({}) == Counts(0, 0, 0, 3)
        assert await ids(catalogue) == {}
        assert await catalogue.count() == 0
        assert await catalogue.track(1) is None
        back = {name: file(content) for name, content in before.items()}
        assert await catalogue.update(back) == Counts(3, 0, 0, 0)
        assert await ids(catalogue) == known
        assert await catalogue.count() == 3


@pytest.mark.gen_test
async def test_id_of_a_gone_track_is_not_given_to_another(tmp_path):
    """Another file under the name of a track that has gone is a new track, also after a restart."""
    async with holding(tmp_path, a="A", b="B") as catalogue:
        await catalogue.update({"a": unopened(file("A"))})
    async with Catalogue(url(tmp_path)) as catalogue:
        await catalogue.update({"a": unopened(file("A")), "b": file("X")})
        assert await ids(catalogue) == {"a": 1, "b": 3}


@pytest.mark.gen_test
async def test_returned_copies_prefer_their_own_paths(tmp_path):
    """Of two gone copies each comes back as what it was; one there until now is preferred to a gone one."""
    async with holding(tmp_path, a="A", b="A", c="A") as catalogue:
        await catalogue.update({"c": unopened(file("A"))})
        await catalogue.update({"b": file("A"), "z": file("A")})
        assert await ids(catalogue) == {"b": 2, "z": 3}


@pytest.mark.gen_test
async def test_unreadable_new_file_is_not_catalogued(tmp_path):
    """A file that was not opened is left as it is known, or left out."""
    async with holding(tmp_path, a="A") as catalogue:
        assert await catalogue.update({"a": Found(99, 99), "b": Found(1, 1)}) == Counts(0, 0, 0, 0)
        assert (await catalogue.known()).files == {"a": (1, 65)}


@pytest.mark.gen_test
async def test_known_is_what_was_found(tmp_path):
    """A scan compares with length and mtime of what is there, and with every content there ever was."""
    async with holding(tmp_path, a="A", b="BB", c="") as catalogue:
        await catalogue.update({"a": unopened(file("A")), "c": unopened(file(""))})
        known = await catalogue.known()
        assert known.files == {"a": (1, 65), "c": (0, 0)}
        assert known.content_ids == {"A", "BB"}


@pytest.mark.gen_test
async def test_add_leaves_a_path_that_is_there_alone(tmp_path):
    """Two processes that scan at once add a track once."""
    async with holding(tmp_path, a="A") as catalogue:
        assert await catalogue.add({"a": file("X"), "b": file("B")}) == 1
        assert await ids(catalogue) == {"a": 1, "b": 2}
        assert (await catalogue.track(1)).title == "A"


# --- one track ---


@pytest.mark.gen_test
async def test_track_has_all_its_facts(tmp_path):
    """What was read is what is given, names of any script and length included."""
    path = "/".join(["가을", "é" * 120, "\U0001f3b5 '\"%_.wav"])
    found = file(
        "A",
        title="밤 편지",
        artist="A\u0301",
        album="B",
        disc_number=2,
        track_number=7,
        duration_seconds=1.25,
        has_cover=True,
    )
    async with Catalogue(url(tmp_path)) as catalogue:
        await catalogue.update({path: replace(found, length=5 * 10**9)})
        track = await catalogue.track(1)
        assert (track.id, track.path, track.length) == (1, path, 5 * 10**9)
        assert (track.title, track.artist, track.album, track.track_number) == ("밤 편지", "A\u0301", "B", 7)
        assert (track.duration_seconds, track.media_type, track.has_cover) == (1.25, "audio/wav", True)


@pytest.mark.gen_test
@pytest.mark.parametrize("number", [-1, 0, 2, 2**31, 10**30])
async def test_unknown_id_is_none(tmp_path, number):
    """An id that was never given, however large, is no error."""
    async with holding(tmp_path, a="A") as catalogue:
        assert await catalogue.track(number) is None
        assert await catalogue.tracks(after=number) == ([], None)


# --- search and pages ---


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("", True),
        ("  \t", True),
        ("CAFÉ", True),
        (unicodedata.normalize("NFD", "café"), True),
        ("strasse", True),
        ("STRAẞE", True),
        ("밤", True),
        (unicodedata.normalize("NFD", "편지"), True),
        ("１００％", True),
        ("100%", True),
        ("100_", False),
        ("a_b", True),
        ("aXb", False),
        (r"c\d", True),
        ("c/d", False),
        ("편지 café a_b", True),
        ("café nowhere", False),
        ("밤\0편지", True),
        ("'; DROP TABLE tracks --", False),
        ("\ud800", False),
        (" ".join(f"word{number}" for number in range(5000)), False),
    ],
)
async def test_search(tmp_path, query, matches):
    """Every word occurs in title, artist or album: any case, any normal form, no wildcards."""
    found = file("A", title="밤 편지 100%", artist="Café Straße", album=r"a_b c\d")
    async with Catalogue(url(tmp_path)) as catalogue:
        await catalogue.update({"a": found})
        assert len((await catalogue.tracks(query))[0]) == matches


ORDER = {
    "01": {"artist": "abba", "album": "Arrival", "track_number": 2, "title": "z"},
    "02": {"artist": "ABBA", "album": "arrival", "track_number": 10, "title": "b"},
    "03": {"artist": "ABBA", "album": "arrival", "disc_number": 2, "track_number": 1, "title": "a"},
    "04": {"artist": "Abba", "album": "Waterloo 2"},
    "05": {"artist": "Abba", "album": "Waterloo 10"},
    "06": {"artist": "Abba", "title": "without an album"},
    "07": {"artist": "다", "album": "x"},
    "08": {"title": "nobody's 9"},
    "09": {"title": "nobody's 10"},
    "10": {"title": "same", "content_id": "s"},
    "11": {"title": "same", "content_id": "s"},
}


@pytest.mark.gen_test
@pytest.mark.parametrize("limit", [1, 2, 3, 10, 11, 100])
async def test_pages_join_to_the_whole_in_order(tmp_path, limit):
    """Artist, album, disc, number, title, path; what has no artist or album comes last; 2 before 10."""
    async with Catalogue(url(tmp_path)) as catalogue:
        await catalogue.update({name: file(name, **tags) for name, tags in reversed(ORDER.items())})
        names, after = [], None
        while True:
            page, after = await catalogue.tracks(after=after, limit=limit)
            assert len(page) <= limit
            names += [track.path for track in page]
            if after is None:
                break
        assert names == list(ORDER)


@pytest.mark.gen_test
async def test_page_after_a_track_that_has_gone(tmp_path):
    """The next page goes on where the last one ended, also if its last track has gone meanwhile."""
    async with holding(tmp_path, a="A", b="B", c="C") as catalogue:
        page, after = await catalogue.tracks(limit=2)
        assert [track.path for track in page] == ["a", "b"]
        await catalogue.update({"a": unopened(file("A")), "c": unopened(file("C"))})
        assert [track.path for track in (await catalogue.tracks(after=after))[0]] == ["c"]


@pytest.mark.gen_test
async def test_long_texts_are_indexed(tmp_path):
    """A title of any length has a bounded sort key."""
    async with Catalogue(url(tmp_path)) as catalogue:
        long = "가1" * 5000
        await catalogue.update({"a": file("A", title=long, artist=long, album=long)})
        with closing(sqlite3.connect(tmp_path / "tracks.sqlite3")) as raw:
            assert raw.execute("SELECT max(length(sort_key)) FROM tracks").fetchone()[0] <= 640


# --- two at once ---


@pytest.mark.gen_test
async def test_two_processes_open_and_write_at_once(tmp_path):
    """Each of several that open an empty database and update it at once succeeds; no track is doubled."""
    found = {f"{number:03d}": file(f"content {number}") for number in range(50)}

    async def one() -> int:
        async with Catalogue(url(tmp_path)) as catalogue:
            await catalogue.add(dict(list(found.items())[:10]))
            await catalogue.update(found)
            return len(await ids(catalogue))

    assert await asyncio.gather(*(one() for _ in range(4))) == [50] * 4


@pytest.mark.slow
@pytest.mark.gen_test
async def test_cancelled_update_is_whole_or_not_at_all(tmp_path):
    """Wherever an update is cancelled, nothing is half done and the database is not left locked."""
    async with Catalogue(url(tmp_path)) as catalogue:
        for turns in range(30):
            found = {f"{turns} {number}": file(f"{turns} {number}") for number in range(20)}
            work = asyncio.create_task(catalogue.update(found))
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.sleep(turns / 4000)
            if work.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await work
            assert (await ids(catalogue)).keys() in (set(), found.keys())
            await catalogue.update({})


# --- its database ---


def foreign(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as raw:
        for statement in statements:
            raw.execute(statement)
        raw.commit()


@pytest.mark.gen_test
async def test_newer_schema_is_refused(tmp_path):
    """A database of a later Millrace is not touched by an earlier one."""
    async with holding(tmp_path, a="A"):
        pass
    foreign(tmp_path / "tracks.sqlite3", "UPDATE millrace_schema SET version = 2")
    with pytest.raises(CatalogueError, match="has the schema 2 of another Millrace, this one knows 1"):
        async with Catalogue(url(tmp_path)):
            pass


@pytest.mark.gen_test
async def test_failure_after_the_start(tmp_path):
    """A database that breaks while the server runs is an outside failure."""
    async with holding(tmp_path, a="A") as catalogue:
        foreign(tmp_path / "tracks.sqlite3", "DROP TABLE tracks")
        with pytest.raises(CatalogueError, match=r"tracks.sqlite3 failed: no such table"):
            await catalogue.tracks()


# --- the default ---


def test_default_database_is_one_for_each_library(tmp_path, monkeypatch):
    """In XDG_DATA_HOME, or ~/.local/share where that is unset or relative; by the folder's name and place."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data #1"))
    first, again = (
        default_database(tmp_path / "My Music!"),
        default_database(tmp_path / "x" / ".." / "My Music!"),
    )
    other = default_database(tmp_path / "other" / "My Music!")
    assert first == again != other
    assert "/millrace/my-music-" in first
    assert first.startswith("sqlite+aiosqlite:////")
    assert "/millrace/library-" in default_database(Path("/"))
    assert "/millrace/음악-" in default_database(Path("/음악")).replace("%EC%9D%8C%EC%95%85", "음악")
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", unset)
        assert f"{tmp_path}/.local/share/millrace/" in default_database(tmp_path)


@pytest.mark.gen_test
async def test_default_database_opens(tmp_path, monkeypatch):
    """Its folder is made, also where its name means something in an address."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data ?#%41"))
    root = Path(os.fsdecode(b"/m\xff/" + "가".encode() * 60))
    url = await asyncio.to_thread(default_database, root)
    async with Catalogue(url) as catalogue:
        assert await catalogue.tracks() == ([], None)
    assert [path.name for path in tmp_path.iterdir()] == ["data ?#%41"]


def test_data_folder_that_cannot_be_made(tmp_path, monkeypatch):
    """A file stands in its place."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(CatalogueError, match="cannot be made"):
        default_database(tmp_path)


def test_no_home_folder(monkeypatch):
    """Without a home the operator is asked for an address."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(CatalogueError, match="no home folder"):
        default_database(Path("/"))
