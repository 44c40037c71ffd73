"""One generator for all its clients: a shared stream, and a job, which goes on without any.

Theory of operation. A *run* is one call of the user's function: a task that puts its items into a channel of
its own, with ids of its own. So who follows a run is a cursor in a log like every other subscriber, resumes
by id and is told of gaps; and an id of another run is known for one.

The first client begins a run, and what is left of it goes when nobody needs it any more: a while after the
last client has left, when the generator is cancelled, or after its end, of which those who come back by id
are still to be told. A job is begun by name, by POST; it ends by itself, or by DELETE.

A client has no backpressure here, as in every broadcast: one that is slow is let go. But nobody is to fall
behind only because the generator is faster than our own sending. So after each OFFERED_BYTES it waits until
what there is has been offered to every kernel that takes something; and it makes no more than a bufferful
(64 KiB, or 2 ms) between two turns of the loop (`media/producing.py`).
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from media.channel import History
from media.events import Events
from media.functions import Call, Function
from media.generated import Stream, StreamRequest
from media.parameters import text
from media.records import END_ID, Format
from media.runs import CLEANUP_SECONDS, Run
from media.source import (
    BadParameter,
    Busy,
    NotFound,
    Source,
    SourceBroken,
    SourceEnded,
    SourceError,
)
from media.subscriptions import FOLLOWED, subscribed

JOB_HISTORY = History(events=10**9, size=16 * 1024 * 1024, seconds=0)
"""Of a job everything is kept, up to this size."""

MOST_RUNS = 1000
"""Of one function at a time, one for each key; those that have ended and are kept count too."""

KEY_CHARACTERS = 200
"""The longest value of a key."""

RETURN_SECONDS = 10.0
"""A run that has ended is kept at least so long: an EventSource comes back within five seconds, and is to be
told that it has everything."""

log = logging.getLogger("millrace.shared")


def shared(
    function: Function,
    *,
    history: int | History | None = None,
    linger: float = 5.0,
    key: str | None = None,
    detached: bool = False,
    keep: float = 3600.0,
    title: str = "",
) -> Stream:
    """The stream of a function that is called once for all clients (`media.functions.Call`).

    It yields records, lines and Events, of which an `id` of their own is not used: the channel gives one.

    Args:
        history: what a client may come back for: so many of the newest items, or the bounds themselves.
            None: 1000, and of a job all, up to JOB_HISTORY.
        linger: seconds that the generator goes on when the last client has left.
        key: name of a parameter: there is one generator for each of its values, and it must be given.
        detached: it is a job, begun by POST, which goes on when every client has left.
        keep: seconds that a job is kept when it has ended.
        title: one line for people; empty: the first of the function's docstring.

    Raises:
        TypeError: there is no such function.
    """
    call = Call(function)
    if history is None:
        history = JOB_HISTORY if detached else 1000
    bounds = history if isinstance(history, History) else History(events=history)
    runs = Runs(call, bounds, linger, key, detached=detached, keep_seconds=keep)
    return Stream(
        title or call.title,
        runs.open,
        formats=FOLLOWED,
        live=True,
        parameters=_parameters(call, key),
        close=runs.close,
        runs=runs,
    )


class Runs:
    """The runs of one function: one for each key, where there is one."""

    def __init__(
        self,
        call: Call,
        history: History,
        linger_seconds: float,
        key: str | None,
        *,
        detached: bool,
        keep_seconds: float,
    ) -> None:
        self._call, self._history, self._key_name = call, history, key
        self._linger_seconds = None if detached else linger_seconds
        self._keep_seconds = keep_seconds if detached else max(linger_seconds, RETURN_SECONDS)
        self.detached = detached
        """They are jobs."""
        self._runs: dict[str, Run] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._published = 0  # by runs that are forgotten

    def open(self, request: StreamRequest, form: Format | None) -> Source:
        """The source of one client."""
        assert form is not None
        return subscribed(partial(self._feed, request), request, form)

    async def start(self, request: StreamRequest, seconds: float, *, again: bool = False) -> tuple[Run, bool]:
        """Have the job run that the request names. Gives it, and whether it was begun now.

        One that has failed is begun anew.

        Args:
            seconds: how long to wait for its first item, at most.
            again: begin it anew in any case; one that runs is ended before.

        Raises:
            SourceError: it failed before its first item, and is forgotten; or it cannot be begun.
        """
        key = self._key(request)
        run = self._runs.get(key)
        fresh = run is None or again or run.channel.failure is not None
        if run is None or fresh:
            run = self._new(key, request)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await run.begin()
        except SourceError:
            self._drop(run)
            raise
        return run, fresh

    async def end(self, request: StreamRequest) -> None:
        """End the job that the request names, and forget it. Its generator has CLEANUP_SECONDS to close.

        Raises:
            NotFound: there is none.
        """
        run = self._job(self._key(request))
        self._drop(run, NotFound("The job was ended by a DELETE."))
        await run.closed(CLEANUP_SECONDS)

    def query(self, request: StreamRequest) -> Mapping[str, str]:
        """The parameter that names the run of a request; none where there is one for all."""
        return {self._key_name: self._key(request)} if self._key_name else {}

    def facts(self) -> dict[str, object]:
        """What there is to be said of them together."""
        runs = self._runs.values()
        return {
            "running": sum(run.state == "running" for run in runs),
            "subscribers": sum(run.subscribers for run in runs),
            "published": self._published + sum(run.items for run in runs),
        }

    async def close(self, seconds: float = 1.0) -> None:
        """End all of them: who waits for a first item is told so. Their generators have so long to close."""
        for run in tuple(self._runs.values()):
            if self.detached and run.state == "running":
                log.warning("%s: the job is cancelled, for the server ends", run.label)
            self._drop(run, Busy("The server is shutting down."))
        if self._closing:
            _, left = await asyncio.wait(self._closing, timeout=seconds)
            if left:
                log.warning("generators that did not close within %g s: %d", seconds, len(left))

    def _feed(self, request: StreamRequest, form: str) -> Events:
        """That of the run that a client asks for, which `Events.begin` begins if nobody has.

        Raises:
            SourceError: there is none for it.
        """
        if request.last_event_id == END_ID:
            raise SourceEnded("the client has seen the end")
        key = self._key(request)
        if self.detached:
            return self._job(key).feed(form)
        run = self._runs.get(key)
        if run is None or not run.is_for(request.last_event_id):
            run = self._new(key, request)
        return run.feed(form)

    def _key(self, request: StreamRequest) -> str:
        if self._key_name is None:
            return ""
        key = text(request.args, self._key_name)
        if len(key) > KEY_CHARACTERS:
            raise BadParameter(f"{self._key_name} must have at most {KEY_CHARACTERS} characters")
        return key

    def _job(self, key: str) -> Run:
        run = self._runs.get(key)
        if run is None:
            raise NotFound("Nobody has started this job, or it is over and forgotten: POST starts it.")
        return run

    def _new(self, key: str, request: StreamRequest) -> Run:
        """A run in place of the one that there is, which is ended; it begins when that one is closed."""
        before = self._runs.get(key)
        if before is not None:
            self._drop(before, Busy("The job was started anew: ask for it again."))
        elif len(self._runs) >= MOST_RUNS:
            self._make_room()
        run = Run(self._call, request, key, self._history, self._released, before, from_first=self.detached)
        self._runs[key] = run
        return run

    def _make_room(self) -> None:
        """Forget a run that is only kept for who comes back. The result of a job is not forgotten.

        Raises:
            Busy: there is none.
        """
        ended = None if self.detached else next((run for run in self._runs.values() if run.over), None)
        if ended is None:
            raise Busy("There are as many of these as there may be; try again later.")
        self._drop(ended)

    def _released(self, run: Run) -> None:
        """A run has no followers, or has ended: see what becomes of it."""
        if self._runs.get(run.key) is not run:
            return  # it is forgotten, and a timer would keep its items
        if not run.begun or (run.channel.failure is not None and not run.items and not self.detached):
            self._drop(run)
        elif run.over:
            run.later(self._keep_seconds, self._drop)
        elif self._linger_seconds is not None:
            run.later(self._linger_seconds, self._drop)

    def _drop(self, run: Run, why: SourceError | None = None) -> None:
        """Forget it. If it runs it is cancelled, and those who follow it are told why."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
            self._published += run.items
        closing = run.stop(why or SourceBroken("nobody follows it"))
        if closing is not None:
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _parameters(call: Call, key: str | None) -> tuple[Mapping[str, object], ...]:
    """Those of the function, and the one that names a run: it must be given, whatever its default."""
    if key is None:
        return call.parameters
    own = {parameter["name"]: parameter for parameter in call.parameters}
    named = own.pop(key, {"name": key, "type": "string"})
    return ({**named, "required": True}, *own.values())
