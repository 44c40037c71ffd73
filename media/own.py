"""The streams of a user's own modules: each has a dict `STREAMS` of names and rows (`media/streams.py`)."""

import importlib.util
import re
import sys
import traceback
import unicodedata
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from media.generated import Stream
from media.subscriptions import ChannelRow

Row = Stream | ChannelRow

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
"""What a stream may be called, but for marks, which count as the letter before them."""

_NAME_LENGTH = 200
_SAID_LENGTH = 300


class OwnStreamsError(Exception):
    """A module of streams cannot be used. The text is one sentence that names it."""


def load(named: str) -> dict[str, Row]:
    """The streams of one module, by their names in normal form (NFC). Blocking: it runs the module.

    Args:
        named: a file that ends in `.py`, or the name of a module that can be imported. What lies beside the
            file can be imported by it.

    Raises:
        OwnStreamsError: there is no such module, it fails, or something in it is no stream.
    """
    module = _module(named)
    rows = getattr(module, "STREAMS", None)
    if not isinstance(rows, Mapping):
        raise OwnStreamsError(f"{named} has no STREAMS, a dict of names and streams")
    streams: dict[str, Row] = {}
    for given, row in rows.items():
        name = unicodedata.normalize("NFC", given) if isinstance(given, str) else ""
        if not _is_name(name):
            raise OwnStreamsError(
                f"{named}: a stream's name must be 1 to {_NAME_LENGTH} letters, digits, '.', '-' and '_', "
                f"with '/' between such names, not {given!r}"
            )
        if name in streams:
            raise OwnStreamsError(f"{named}: two streams have the name {name!r}, in two normal forms")
        if not isinstance(row, Stream | ChannelRow):
            raise OwnStreamsError(
                f"{named}: {name!r} must be a stream, such as generated(function), not {type(row).__name__}"
            )
        streams[name] = row
    return streams


def files_of(named: str) -> set[Path]:
    """The file of a module of streams, and those that were imported from beside it."""
    folder = _folder_of(named)
    files = {
        Path(file) for module in tuple(sys.modules.values()) if (file := getattr(module, "__file__", None))
    }
    files = {file for file in files if folder in file.parents and _is_theirs(str(file))}
    return files | {Path(named).expanduser().absolute()} if named.endswith(".py") else files


def files_beside(named: str) -> set[Path]:
    """Those that could have been imported, too: where an import has failed, they are nowhere else."""
    folder = _folder_of(named)
    return files_of(named) | {*folder.glob("*.py")} | {*folder.glob("*/*.py")}


def _folder_of(named: str) -> Path:
    return Path(named).expanduser().absolute().parent if named.endswith(".py") else Path.cwd()


def _is_name(name: str) -> bool:
    # The vowels of some scripts are marks, and a mark is no letter for `re`.
    letters = "".join(each for each in name if not unicodedata.category(each).startswith("M"))
    return len(name) <= _NAME_LENGTH and NAME.fullmatch(letters) is not None


def _module(named: str) -> ModuleType:
    spec = _spec_of_file(named) if named.endswith(".py") else _spec_of_module(named)
    if spec is None or spec.loader is None:
        raise OwnStreamsError(f"{named} must be a file that exists and ends in .py, or the name of a module")
    if spec.name in sys.modules and not named.endswith(".py"):
        return sys.modules[spec.name]
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # SystemExit too
        del sys.modules[spec.name]
        where = _where(error, Path(spec.origin or named).parent)
        raise OwnStreamsError(f"{named} fails: {where}") from error
    return module


def _spec_of_file(named: str) -> ModuleSpec | None:
    path = Path(named).expanduser().absolute()
    if not path.is_file():
        return None
    _look_in(path.parent)
    # A name of its own: a file may be called as a module that others import.
    return importlib.util.spec_from_file_location(f"{path.stem} of streams", path)


def _spec_of_module(named: str) -> ModuleSpec | None:
    folder = Path.cwd()
    _look_in(folder)
    try:
        return importlib.util.find_spec(named)
    except ModuleNotFoundError as error:
        if error.name is not None and named.startswith(error.name):
            return None
        raise OwnStreamsError(f"{named} fails: {_where(error, folder)}") from error
    except ValueError:  # no name at all, or that of something that was not imported
        return None
    except BaseException as error:  # of the package that it lies in
        raise OwnStreamsError(f"{named} fails: {_where(error, folder)}") from error


def _look_in(folder: Path) -> None:
    """Behind all others: nothing in it hides a module of another's."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _where(error: BaseException, folder: Path) -> str:
    """In one line: the line that failed, the last in the user's own folder, and what the error says."""
    said = traceback.format_exception_only(error)
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        return _at(error.filename, error.lineno, line) + _in_one_line(said[-1])
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if folder in Path(frame.filename).parents and _is_theirs(frame.filename)]
    where = _at(own[-1].filename, own[-1].lineno, own[-1].line) if own else ""
    return where + _in_one_line(said[0])


def _at(filename: str, number: int | None, line: str | None) -> str:
    return f"{Path(filename).name}, line {number}{f', {line}' if line else ''}: "


def _in_one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SAID_LENGTH else text[: _SAID_LENGTH - 1] + "…"


def _is_theirs(filename: str) -> bool:
    """Whether it is a user's, and not of Millrace or a package, which may lie in a folder of his."""
    return "site-packages" not in Path(filename).parts and Path(__file__).parent != Path(filename).parent
