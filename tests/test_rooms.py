"""The rooms of the house: imports run run → server → handlers → media, and only that way."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
ROOMS = ["run", "server", "handlers", "media"]
OUTSIDE = ["tests", "benchmarks", "examples"]
FILES = [HOUSE / "run.py", *(path for room in ROOMS[1:] for path in sorted((HOUSE / room).rglob("*.py")))]


def imports(source: str) -> Iterator[str]:
    """The first part of every module that is imported, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=module, level=0) if module:
                yield module.partition(".")[0]
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module")):
                yield "an import by name"


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def forbidden(room: str) -> set[str]:
    """What a file of this room may not import."""
    names = {*ROOMS[: ROOMS.index(room)], *OUTSIDE, "an import by name"}
    return names | {"tornado"} if room == "media" else names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_run_one_way(path: Path) -> None:
    """No room knows those before it, and media knows no Tornado."""
    assert not forbidden(room_of(path)) & set(imports(path.read_text(encoding="utf-8")))


def test_every_room_is_looked_at() -> None:
    """A room that is renamed must not slip through."""
    assert {room_of(path) for path in FILES} == set(ROOMS)
    folders = {path.parent.name for path in HOUSE.glob("*/__init__.py")} - {"tests"}
    assert folders <= {*ROOMS, *OUTSIDE}


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: str(path.relative_to(HOUSE)))
def test_docs_know_the_file(path: Path) -> None:
    """docs/architecture.md has it in its room's row, the README's map in what it is opened for."""
    if path.stem == "__init__":
        return
    rows = (HOUSE / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    [room] = [row for row in rows if row.startswith(f"| `{room_of(path)}/` |")]
    assert f"`{path.stem}`" in room
    _, _, told = (HOUSE / "README.md").read_text(encoding="utf-8").partition("## I want to change …")
    assert f"`{path.relative_to(HOUSE)}`" in told


def test_docs_know_no_other_file() -> None:
    """What was renamed or deleted is not looked for."""
    pages = HOUSE / "README.md", HOUSE / "docs" / "architecture.md"
    told = "".join(page.read_text(encoding="utf-8") for page in pages)
    for name in re.findall(r"`((?:server|handlers|media|tests)/[a-z_/]+\.py)`", told):
        assert (HOUSE / name).is_file(), name


@pytest.mark.parametrize(("source", "found"), [
    ("import tornado.web", {"tornado"}), ("from tornado import web", {"tornado"}),
    ("def f():\n    import server.app as app", {"server"}), ("from . import x", set()),
    ("import importlib\nimportlib.import_module('tornado')", {"importlib", "an import by name"}),
    ("if TYPE_CHECKING:\n    from handlers.pump import Pump", {"handlers"}),
])  # fmt: skip
def test_imports_are_found_wherever_they_stand(source: str, found: set[str]) -> None:
    """At the top, inside a function, under a condition."""
    assert set(imports(source)) == found
