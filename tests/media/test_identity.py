"""Identity: which row, and so which id, a file takes; the rules alone, without a database."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.identity import Found, Row, assign
from tests.media.between_scans import CASES, file, unopened


def scanned(rows: list[Row], found: dict[str, Found]) -> list[Row]:
    """The rows after a scan, as a catalogue keeps them: what has gone stays, what is new has the next id."""
    taken, new = assign(rows, found)
    highest = max((row.id for row in rows), default=0)
    places = taken | dict(enumerate(new, highest + 1))
    after = {row.id: replace(row, present=row.id in taken) for row in rows}
    for id_, path in places.items():
        if reading := found[path].reading:
            after[id_] = Row(id_, True, path, found[path].length, found[path].mtime_ns, reading.content_id)
    return list(after.values())


def files(contents: dict[str, str]) -> dict[str, Found]:
    return {path: file(content) for path, content in contents.items()}


def ids(rows: list[Row]) -> dict[str, int]:
    return {row.path: row.id for row in rows if row.present}


@pytest.mark.parametrize(("before", "now", "then"), [case[:3] for case in CASES.values()], ids=CASES)
def test_id_follows_the_track(before, now, then):
    """A track keeps its id through changed tags, moves, swaps and chains; another one never gets it."""
    found = {
        path: unopened(file(before[path])) if content is None else file(content)
        for path, content in now.items()
    }
    assert ids(scanned(scanned([], files(before)), found)) == then


def test_returned_file_has_its_id_again():
    """A disk that was not mounted for one scan changes nothing in the end."""
    before = files({"a": "A", "b": "B", "c/d": "D"})
    rows = scanned([], before)
    gone = scanned(rows, {})
    assert ids(gone) == {}
    assert scanned(gone, before) == rows


def test_id_of_a_gone_track_is_not_given_to_another():
    """Another file under the name of a track that has gone is a new track."""
    rows = scanned(scanned([], files({"a": "A", "b": "B"})), files({"a": "A"}))
    assert ids(scanned(rows, files({"a": "A", "b": "X"}))) == {"a": 1, "b": 3}


def test_returned_copies_prefer_their_own_paths():
    """Of two gone copies each comes back as what it was; one there until now is preferred to a gone one."""
    rows = scanned(scanned([], files({"a": "A", "b": "A", "c": "A"})), files({"c": "A"}))
    assert ids(scanned(rows, files({"b": "A", "z": "A"}))) == {"b": 2, "z": 3}


def test_row_that_moved_back_and_forth_is_found_by_its_file_name():
    """The same path comes before the same file name, and that before a track that was there until now."""
    rows = [Row(1, False, "x/a", 1, 1, "A"), Row(2, True, "y/b", 1, 1, "A"), Row(3, False, "z/a", 1, 1, "A")]
    assert assign(rows, files({"z/a": "A"})) == ({3: "z/a"}, [])
    assert assign(rows, files({"new/a": "A"})) == ({1: "new/a"}, [])
    assert assign(rows, files({"new/c": "A"})) == ({2: "new/c"}, [])
    assert assign(rows[::-2], files({"new/c": "A"})) == ({1: "new/c"}, [])


def test_unopened_file_without_a_row_is_left_out():
    """A new file that cannot be read is neither a track nor the end of one."""
    rows = scanned([], files({"a": "A"}))
    assert assign(rows, {"a": Found(99, 99), "b": Found(1, 1)}) == ({1: "a"}, [])


def test_new_paths_are_sorted():
    """New tracks get their ids in the order of their paths, whatever order the disk lists them in."""
    assert assign([], files({"c": "C", "a": "A", "b": "A"})) == ({}, ["a", "b", "c"])


class Folder:
    """What a person may do to a folder between two scans."""

    def __init__(self, files):
        self.files = dict(files)
        self.fresh = 0

    def do(self, deed, one, other):
        if deed == "create":
            self.fresh += 1
            self.files[one] = f"new {self.fresh}"
        elif one in self.files:
            if deed == "delete":
                del self.files[one]
            elif deed == "move":
                self.files[other] = self.files.pop(one)
            elif deed == "copy":
                self.files[other] = self.files[one]
            elif other in self.files:
                self.files[one], self.files[other] = self.files[other], self.files[one]


NAMES = st.sampled_from(["a", "b", "c", "d/a", "d/b"])
DEEDS = st.tuples(st.sampled_from(["create", "delete", "move", "copy", "swap"]), NAMES, NAMES)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(rounds=st.lists(st.lists(DEEDS, max_size=6), min_size=1, max_size=4))
def test_any_history_keeps_ids_with_contents(rounds):
    """Whatever is done: every file is a track, once; an unmoved or uniquely moved content keeps its id."""
    disk = Folder({"a": "A", "b": "B", "d/a": "C"})
    gone: set[int] = set()
    rows = scanned([], files(disk.files))
    for deeds in rounds:
        before, contents, seen = ids(rows), dict(disk.files), [row.content_id for row in rows]
        for deed in deeds:
            disk.do(*deed)
        rows = scanned(rows, files(disk.files))
        after, now = ids(rows), [*disk.files.values()]
        paths = {id_: path for path, id_ in after.items()}
        assert after.keys() == disk.files.keys()
        assert len(set(after.values())) == len(after)
        for path, content in contents.items():
            if disk.files.get(path) == content:
                assert after[path] == before[path]
            elif seen.count(content) == 1 == now.count(content) and path not in disk.files:
                assert disk.files[paths[before[path]]] == content
        assert gone.isdisjoint(after[path] for path in after if disk.files[path] not in contents.values())
        gone = (gone | set(before.values())) - set(after.values())
