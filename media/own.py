"""The streams of a user's own modules: each has a dict `STREAMS` of names and rows (`media/streams.py`)."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from media.generated import Stream
from media.subscriptions import ChannelRow

Row = Stream | ChannelRow

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
"""What a stream may be called: letters, digits, `.`, `-`, `_`, and `/` between such names."""

_NAME_LENGTH = 200


class OwnStreamsError(Exception):
    """A module of streams cannot be used. The text is one sentence that names it."""


def load(named: str) -> dict[str, Row]:
    """The streams of one module. Blocking: it runs the module.

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
    for name, row in rows.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > _NAME_LENGTH:
            raise OwnStreamsError(
                f"{named}: a stream's name must have letters, digits, '.', '-', '_' and '/' between them,"
                f" not {name!r}"
            )
        if not isinstance(row, Stream | ChannelRow):
            raise OwnStreamsError(
                f"{named}: {name!r} must be a stream, such as generated(function), not {type(row).__name__}"
            )
    return dict(rows)


def _module(named: str) -> ModuleType:
    spec = _spec_of_file(named) if named.endswith(".py") else _spec_of_module(named)
    if spec is None or spec.loader is None:
        raise OwnStreamsError(f"{named} must be a file that exists and ends in .py, or the name of a module")
    if spec.name in sys.modules and not named.endswith(".py"):
        return sys.modules[spec.name]
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise OwnStreamsError(f"{named} fails: {_where(error, Path(spec.origin or named))}") from error
    return module


def _spec_of_file(named: str) -> ModuleSpec | None:
    path = Path(named).expanduser().absolute()
    if not path.is_file():
        return None
    _look_in(path.parent)
    # A name of its own: a file may be called as a module that others import.
    return importlib.util.spec_from_file_location(f"{path.stem} of streams", path)


def _spec_of_module(named: str) -> ModuleSpec | None:
    _look_in(Path.cwd())
    try:
        return importlib.util.find_spec(named)
    except (ImportError, ValueError):  # of what it lies in
        return None


def _look_in(folder: Path) -> None:
    """Behind all others: nothing in it hides a module of another's."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _where(error: BaseException, path: Path) -> str:
    """The line that failed, the last in the user's own folder, and what the error says."""
    said = "".join(traceback.format_exception_only(error)).strip().rpartition("\n")[2]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}: {said}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent == path.parent]
    if not own:
        return said
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}, {own[-1].line}: {said}"
