"""Which row of the catalogue a file takes, and so which id. Pure: nothing here knows a database or a disk.

A track that has gone stays in its row, unseen, so that its id is never given to another and is there again
when the file comes back (a disk that was not mounted).
`assign` decides for a whole scan at once, in this order:

1. A file that was not opened, or whose content is that of its path's row, keeps that row.
2. A file at a known path with other content takes the row that had this content, if that row lost its place:
   two files that swapped names, a chain of renamings, one file moved over another.
3. Otherwise it keeps the row of its path: changed tags, an overwritten file.
4. A file at a new path takes the row that had its content and lost its place: it was moved, or came back.
5. What is left is a new track. A row that nobody took has gone.

Where several rows had the content, the same path is preferred, then the same file name,
then a track that was there until now, then the lower id. Each row is taken once: two copies are two tracks.
What this cannot see: a file moved *and* changed between two scans is a new track, and so is a file that comes
back changed. A file replaced while the old one moved to a new name looks like a copy of the old one with the
original changed, so the id stays with the path. Empty files are known by their path only.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found inside a file. `content_id` is the same for the same bytes, and empty for an empty file.

    Texts are printable and hold no surrogates.
    """

    content_id: str
    media_type: str
    title: str
    artist: str | None = None
    album: str | None = None
    disc_number: int | None = None
    track_number: int | None = None
    duration_seconds: float | None = None
    has_cover: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is there. `reading` is None if it was not opened: unchanged, or for now unreadable."""

    length: int
    mtime_ns: int
    reading: Reading | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands; `present` is False if its track has gone. `path` and `length` as in `Track`."""

    id: int
    present: bool
    path: str
    length: int
    mtime_ns: int
    content_id: str


def assign(rows: Iterable[Row], found: Mapping[str, Found]) -> tuple[dict[int, str], list[str]]:
    """Which row goes on as which path, by id; and the paths that are new tracks, sorted.

    A path that has no row and was not opened is in neither.
    """
    by_path = {row.path: row for row in rows if row.present}
    free = {row.id: row for row in rows}
    taken: dict[int, str] = {}
    content: dict[str, str] = {}  # of the files that still look for a row, in the order of their paths

    def take(row: Row, path: str) -> None:
        del free[row.id]
        taken[row.id] = path

    for path in sorted(found):
        reading, row = found[path].reading, by_path.get(path)
        if row is not None and (reading is None or reading.content_id == row.content_id):
            take(row, path)
        elif reading is not None:
            content[path] = reading.content_id
    displaced = {path: content[path] for path in content if path in by_path}
    for path, row in _match(displaced, free.values()):
        take(row, path)
        del content[path]
    for path in displaced.keys() & content.keys():
        if by_path[path].id in free:
            take(by_path[path], path)
            del content[path]
    for path, row in _match(content, free.values()):
        take(row, path)
        del content[path]
    return taken, list(content)


def _match(content: Mapping[str, str], free: Iterable[Row]) -> list[tuple[str, Row]]:
    """Pairs of a path and a row with its content; each path and each row at most once, the likeliest first.

    Three passes over all, so that ten thousand copies of one file do not take ten thousand squared steps.
    """
    likeness: tuple[Callable[[str], str], ...] = (str, lambda path: path.rpartition("/")[2], lambda path: "")
    rows = sorted((row for row in free if row.content_id), key=lambda row: (not row.present, row.id))
    paths = [path for path in content if content[path]]
    pairs: list[tuple[str, Row]] = []
    for alike in likeness:
        waiting: defaultdict[tuple[str, str], deque[Row]] = defaultdict(deque)
        for row in rows:
            waiting[row.content_id, alike(row.path)].append(row)
        made = [(path, queue.popleft()) for path in paths if (queue := waiting[content[path], alike(path)])]
        pairs += made
        used_paths, used_rows = {path for path, _ in made}, {row.id for _, row in made}
        paths = [path for path in paths if path not in used_paths]
        rows = [row for row in rows if row.id not in used_rows]
    return pairs
