"""--reload: the server begins anew when a module of streams changes, or one that it imports from beside it.

For development. To the system it is the same process, with a new program in it (execv): its number, its
flags and its terminal stay, its sockets are closed. It is not Tornado's autoreload, which does so in the
middle of a callback, while clients are being sent something, and ends for good with a module that fails.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from media.own import files_beside, files_of

LOOK_SECONDS = 0.3
"""How often the files are looked at: 2 µs each. A change counts when it is as it was at the look before."""

DRAIN_SECONDS = 1.0
"""How long clients may take to be sent what they are being sent: the developer waits."""

log = logging.getLogger("millrace")

_Stamps = Mapping[Path, int]


class Changes:
    """The changes of these modules since this object was made, which is before they are loaded."""

    def __init__(self, modules: Sequence[str]) -> None:
        # By the second and its size Python tells whether a file is as it was compiled.
        sys.dont_write_bytecode = True
        self._modules = modules
        self._since_ns = time.time_ns()
        self.seen = False
        """Whether there is one."""

    async def come(self) -> None:
        """Wait for a change of what has been imported."""
        known = await asyncio.to_thread(self._stamps, files_of)
        while not self.seen:
            await asyncio.sleep(LOOK_SECONDS)
            known = await asyncio.to_thread(self._look, files_of, known)

    def wait(self, asked: Callable[[], bool]) -> None:
        """Wait for a change of what could have been imported, or until `asked` is so."""
        known = self._stamps(files_beside)
        while not self.seen and not asked():
            time.sleep(LOOK_SECONDS)
            known = self._look(files_beside, known)

    def _look(self, files: Callable[[str], set[Path]], known: _Stamps) -> _Stamps:
        """What there is now; `seen` if it is the same as before, and another than when it was loaded."""
        stamps = self._stamps(files)
        # One that is later than now is from another machine's clock, and would be so for ever.
        now = time.time_ns()
        self.seen = stamps == known and any(self._since_ns < stamp <= now for stamp in stamps.values())
        return stamps

    def _stamps(self, files: Callable[[str], set[Path]]) -> _Stamps:
        return {path: _changed_ns(path) for named in self._modules for path in files(named)}


def _changed_ns(path: Path) -> int:
    """When it was written to, or moved here; 0: it is not there."""
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return 0


def start_anew() -> NoReturn:
    """Have this process run the same command again."""
    log.info("a module has changed: starting anew")
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
