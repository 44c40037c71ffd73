"""That files have changed, as soon as the system tells (inotify); nothing where it does not.

Who asks has to look for himself every now and then all the same: of a file on another machine (NFS), or
beyond the number of watches that a user may have, nothing is told.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

if sys.platform == "linux":
    import asyncinotify

REST_SECONDS = 0.005
"""Between two looks at what the system tells. Meanwhile it joins what it has to tell of one file: a program
that writes 10,000 lines a second wakes nobody more than 200 times."""

log = logging.getLogger("millrace.files")

Wake = Callable[[bool], None]
"""Told whether it may be about the file's name, and not only about what is in it."""


class Changes:
    """What is watched for all who ask, by one descriptor, which is open while anything is watched."""

    def __init__(self) -> None:
        self._wakes: dict[int, dict[Wake, None]] = {}  # by the number of the watch
        if sys.platform == "linux":
            self._inotify: asyncinotify.Inotify | None = None
            self._watches: dict[int, asyncinotify.Watch] = {}
        self._pause: asyncio.TimerHandle | None = None

    def watch(self, path: str, wake: Wake, *, names: bool) -> int | None:
        """Have `wake` called when the file at `path` changes, or `names` come up in the folder there.

        Gives what `unwatch` takes. None: nothing will be told.
        """
        if sys.platform != "linux":
            return None
        try:
            if self._inotify is None:
                self._inotify = asyncinotify.Inotify(sync_timeout=0)
                os.set_blocking(self._inotify.fd, False)
                self._listen()
            watch = self._inotify.add_watch(path, _NAMES if names else _CONTENT)
        except OSError as error:
            log.info("changes of a followed file are looked for, not told: %s", error.strerror)
            self._close_unused()
            return None
        self._watches[watch.wd] = watch
        self._wakes.setdefault(watch.wd, {})[wake] = None
        return watch.wd

    def unwatch(self, number: int, wake: Wake) -> None:
        """No longer."""
        wakes = self._wakes.get(number, {})
        wakes.pop(wake, None)
        if sys.platform == "linux" and not wakes and self._inotify is not None:
            self._wakes.pop(number, None)
            if watch := self._watches.pop(number, None):
                with suppress(OSError):  # the system has, with the file
                    self._inotify.rm_watch(watch)
            self._close_unused()

    if sys.platform == "linux":

        def _close_unused(self) -> None:
            if self._inotify is not None and not self._wakes:
                if self._pause is not None:
                    self._pause.cancel()
                else:
                    asyncio.get_running_loop().remove_reader(self._inotify.fd)
                self._inotify.close()
                self._inotify = self._pause = None

        def _listen(self) -> None:
            assert self._inotify is not None
            self._pause = None
            asyncio.get_running_loop().add_reader(self._inotify.fd, self._receive)

        def _receive(self) -> None:
            assert self._inotify is not None
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._inotify.fd)
            self._pause = loop.call_later(REST_SECONDS, self._listen)
            woken: dict[Wake, bool] = {}
            while (event := self._inotify.sync_get()) is not None:
                number = event.watch.wd if event.watch is not None else None
                names = not event.mask & asyncinotify.Mask.MODIFY
                # An overflow is about all of them.
                for wakes in self._wakes.values() if number is None else [self._wakes.get(number, {})]:
                    for wake in wakes:
                        woken[wake] = woken.get(wake, False) or names
            for wake, names in woken.items():
                wake(names)


if sys.platform == "linux":
    # That a name is gone is told as a change of the links (ATTRIB): the file itself is still open here.
    _CONTENT = asyncinotify.Mask.MODIFY | asyncinotify.Mask.ATTRIB | asyncinotify.Mask.MOVE_SELF
    _NAMES = asyncinotify.Mask.CREATE | asyncinotify.Mask.MOVED_TO
