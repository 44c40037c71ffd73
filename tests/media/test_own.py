"""Streams of a user's own modules: found, run, checked; and whatever is wrong with them is one sentence."""

import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import media.streams  # noqa: F401, what all of them import stays imported
from media.generated import Stream
from media.own import OwnStreamsError, load
from media.subscriptions import ChannelRow

Write = Callable[..., Path]

GOOD = """
    from media.streams import channel, generated

    async def ticks(request, *, every: float = 1.0):
        "Ticks without end."
        yield {"n": 1}

    STREAMS = {"ticks": generated(ticks), "jobs": channel(title="Jobs")}
"""


@pytest.fixture(autouse=True)
def _imports_are_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test has loaded is not there for the next; the folder that it is in is its own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a module, of lines that may be indented."""

    def written(lines: str, name: str = "my_streams.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(lines).lstrip(), encoding="utf-8")
        return path

    return written


def refusal(named: object) -> str:
    """The sentence that this module is refused with."""
    with pytest.raises(OwnStreamsError) as caught:
        load(str(named))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("named", ["file", "relative", "home", "module", "in_a_package"])
def test_a_module_is_found(write: Write, tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the path of its file, or by a name that can be imported from the folder of the start."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(GOOD, "package/my_streams.py" if named == "in_a_package" else "my_streams.py")
    names = {
        "file": str(path),
        "relative": "my_streams.py",
        "home": "~/my_streams.py",
        "module": "my_streams",
        "in_a_package": "package.my_streams",
    }
    streams = load(names[named])
    assert list(streams) == ["ticks", "jobs"]
    ticks, jobs = streams.values()
    assert isinstance(ticks, Stream)
    assert isinstance(jobs, ChannelRow)
    assert ticks.title == "Ticks without end"
    assert [parameter["name"] for parameter in ticks.parameters] == ["every"]


def test_what_lies_beside_a_module_can_be_imported(write: Write) -> None:
    """Also when the server is started elsewhere; it hides nothing that others import."""
    write("ANSWER = 42\n", "elsewhere/beside_it.py")
    write("raise ImportError('this is not the json that others want')\n", "elsewhere/json.py")
    path = write("import json\nfrom beside_it import ANSWER\nSTREAMS = {}\n", "elsewhere/mine.py")
    assert load(str(path)) == {}


def test_two_files_of_one_name(write: Write) -> None:
    """Each is itself, and may be called as a module that others import."""
    first = write(GOOD, "a/asyncio.py")
    second = write("STREAMS = {}\n", "b/asyncio.py")
    assert list(load(str(first))) == ["ticks", "jobs"]
    assert load(str(second)) == {}


WRONG = {
    # the module, and what stands behind its name in the sentence
    "no_streams": ("x = 1", " has no STREAMS, a dict of names and streams"),
    "no_dict": ("STREAMS = ['ticks']", " has no STREAMS, a dict of names and streams"),
    "no_stream": (
        "async def ticks(request):\n    yield 1\nSTREAMS = {'ticks': ticks}",
        ": 'ticks' must be a stream, such as generated(function), not function",
    ),
    "import": (
        "import os\nimport no_such_module\n",
        " fails: my_streams.py, line 2, import no_such_module:"
        " ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "syntax": (
        "x = 1\nasync def ticks(request)\n    yield 1\n",
        " fails: my_streams.py, line 2, async def ticks(request): SyntaxError: expected ':'",
    ),
    "indentation": (
        "if True:\nx = 1\n",
        " fails: my_streams.py, line 2, x = 1:"
        " IndentationError: expected an indented block after 'if' statement on line 1",
    ),
    "error": ("def f():\n    return 1 / 0\nf()\n",
              " fails: my_streams.py, line 2, return 1 / 0: ZeroDivisionError: division by zero"),
    "constructor": (
        "from media.streams import generated\nSTREAMS = {\n    'ticks': generated(5),\n}\n",
        " fails: my_streams.py, line 3, 'ticks': generated(5),: TypeError: 5 is not a function:"
        " give the function itself, and do not call it",
    ),
    "many_lines": ("raise ValueError('one\\n  two\\n\\nthree')",
                   " fails: my_streams.py, line 1, raise ValueError('one\\n  two\\n\\nthree'):"
                   " ValueError: one two three"),
    "notes": ("e = ValueError('one')\ne.add_note('a note')\nraise e",
              " fails: my_streams.py, line 3, raise e: ValueError: one"),
    "nothing_said": ("raise ValueError", " fails: my_streams.py, line 1, raise ValueError: ValueError"),
    "exit": ("import sys\nsys.exit(3)", " fails: my_streams.py, line 2, sys.exit(3): SystemExit: 3"),
    "interrupt": ("raise KeyboardInterrupt",
                  " fails: my_streams.py, line 1, raise KeyboardInterrupt: KeyboardInterrupt"),
    "long": ("raise ValueError('x' * 5000)",
             " fails: my_streams.py, line 1, raise ValueError('x' * 5000): ValueError: " + "x" * 287 + "…"),
    "compiled": ("compile('1 +', '<string>', 'eval')",
                 " fails: <string>, line 1, 1 +: SyntaxError: invalid syntax"),
    "null": ("x = '\0'", " fails: "),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("by", ["file", "module"])
def test_what_is_wrong_with_a_module(write: Write, case: str, by: str) -> None:
    """The user's own line, and what the error says."""
    lines, words = WRONG[case]
    path = write(lines)
    named = str(path) if by == "file" else "my_streams"
    sentence = refusal(named)
    assert sentence.startswith(named + words)
    assert sentence == named + words or case == "null"


def test_an_error_in_what_it_imports_from_beside_it(write: Write) -> None:
    """Is named where it is."""
    path = write("import beside_it\nSTREAMS = {}\n")
    write("x = 1\ny = x / 0\n", "beside_it.py")
    assert refusal(path).endswith("beside_it.py, line 2, y = x / 0: ZeroDivisionError: division by zero")
    write("x = (1\n", "beside_it.py")
    assert refusal(path).endswith("beside_it.py, line 1, x = (1: SyntaxError: '(' was never closed")


def test_an_error_in_the_package_that_it_lies_in(write: Write) -> None:
    """It is imported first."""
    write("import no_such_module\n", "package/__init__.py")
    write(GOOD, "package/my_streams.py")
    assert refusal("package.my_streams") == (
        "package.my_streams fails: __init__.py, line 1, import no_such_module: "
        "ModuleNotFoundError: No module named 'no_such_module'"
    )
    write("1 / 0\n", "package/__init__.py")
    assert refusal("package.my_streams").endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "named", ["missing.py", "missing", "missing.part", "json.missing", "folder.py", "package"]
)
def test_what_is_not_there(write: Write, named: str) -> None:
    """A file, a module, a part of one; a folder is neither."""
    write("", "folder.py/x.py")
    write("", "package/x.py")
    assert refusal(named) == f"{named} must be a file that exists and ends in .py, or the name of a module"


GOOD_NAMES = [
    "a",
    "orders.csv",
    "a/b",
    "sensors/north-1/temp_c",
    "_x",
    "7",
    "바람",
    "höhe",
    "हिन्दी",
    "a" * 200,
]
BAD_NAMES: list[object] = ["", "/a", "a/", "a//b", "a/../b", ".a", "a/.b", "-a", "a b", "a,b", "a?b", "a\n",
                           "a%20b", "é" + "/", "a" * 201, 5, None, ("a",), b"a"]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NAMES)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_what_a_stream_may_be_called(write: Write, name: str, form: str) -> None:
    """Letters of any script, in whichever normal form; kept in one."""
    given = unicodedata.normalize(form, name)  # type: ignore[arg-type]
    path = write(f"from media.streams import channel\nSTREAMS = {{{given!r}: channel(title='A')}}\n")
    assert list(load(str(path))) == [unicodedata.normalize("NFC", name)]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_what_a_stream_may_not_be_called(write: Write, name: object) -> None:
    """Nothing that another address or a list of channels could be."""
    path = write(f"from media.streams import channel\nSTREAMS = {{{name!r}: channel(title='A')}}\n")
    assert refusal(path) == (
        f"{path}: a stream's name must be 1 to 200 letters, digits, '.', '-' and '_', "
        f"with '/' between such names, not {name!r}"
    )


def test_one_name_in_two_normal_forms(write: Write) -> None:
    """They would be one address."""
    path = write("STREAMS = dict.fromkeys(['h\\xf6he', 'ho\\u0308he'], None)\n")
    assert refusal(path).startswith(f"{path}: 'höhe' must be a stream")
    path = write(
        "from media.streams import channel\n"
        "STREAMS = dict.fromkeys(['h\\xf6he', 'ho\\u0308he'], channel(title='A'))\n"
    )
    assert refusal(path) == f"{path}: two streams have the name 'höhe', in two normal forms"
