"""One call of a user's function for all who follow it: its items in a channel, and the task that makes them.

Who follows, and how long a run is kept when nobody does, is decided by `media/shared.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from media.channel import END, ENTRY_BYTES, LAG_BYTES, Channel, History, Ids, check_name
from media.decoding import utf8
from media.events import Events
from media.functions import Call
from media.generated import StreamRequest
from media.records import Event, Json
from media.source import BadParameter, SourceBroken, SourceError, SourceFailed
from media.values import to_json

OFFERED_BYTES = LAG_BYTES // 8
"""After so much it waits until that has been offered to all."""

CLEANUP_SECONDS = 5.0
"""How long a cancelled generator may take to close before the log says so."""

GAP = Event({"last_event_id": None, "first_id": None}, event="gap")
"""The item that says that others are missing before it. A user's function has none."""

log = logging.getLogger("millrace.shared")

_Encoded = tuple[bytes, bool, str]
"""An item as a channel takes it: data, whether it is JSON, and the name."""


class Run:
    """One call of the function, for all who follow it.

    Args:
        released: is called when the last follower has left, and when it has ended by itself.
        before: the run in whose place it is.
        from_first: a follower begins at the first item, and not at the newest.
    """

    def __init__(
        self,
        call: Call,
        request: StreamRequest,
        key: str,
        history: History,
        released: "Callable[[Run], None]",
        before: "Run | None" = None,
        *,
        from_first: bool = False,
    ) -> None:
        self.key = key
        self.channel = Channel(ids=Ids(), history=history)
        self.items = 0
        """Those that it has given."""
        self.began: datetime | None = None
        self.ended: datetime | None = None
        self.label = f"{request.path} {quote(key)}".rstrip()
        """For the log."""
        self._call, self._request, self._released = call, request, released
        # Not the run: one after the other they would all be kept, with their items.
        self._before = frozenset() if before is None else before._tasks()
        self._from_first = from_first
        self._feeds: dict[str, Events] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._first = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._unoffered = 0  # bytes

    @property
    def begun(self) -> bool:
        """Whether the function was called."""
        return self._task is not None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.channel.ended

    @property
    def state(self) -> str:
        """`running`, `ended` or `failed`."""
        if not self.over:
            return "running"
        return "ended" if self.channel.failure is None else "failed"

    @property
    def subscribers(self) -> int:
        """Who follows it."""
        return sum(feed.subscribers for feed in self._feeds.values())

    def facts(self) -> dict[str, object]:
        """What there is to be said of it."""
        return {
            "state": self.state,
            "began": self.began,
            "ended": self.ended,
            "items": self.items,
            "last_event_id": self.channel.ids.of(self.channel.newest),
        }

    def feed(self, form: str) -> Events:
        """What its followers in this format are sent. Somebody enters it at once."""
        if self._timer is not None and not self.over:
            self._timer.cancel()
        feed = self._feeds.get(form)
        if feed is None:
            left = partial(self._left, form)
            feed = Events((self.channel,), form, left, self.begin, from_first=self._from_first)
            self._feeds[form] = feed
        return feed

    def is_for(self, last_event_id: str | None) -> bool:
        """Whether it is of use to a client: one that has ended is to those who come back for its rest, and
        one that has failed to those who have all of it."""
        if not self.over:
            return True
        number = self.channel.ids.number(last_event_id or "")
        if number is None or number < 0:
            return False
        return self.channel.failure is None or number == self.channel.newest

    async def begin(self) -> None:
        """Call the function, if nobody has, and wait for its first item or its end.

        Raises:
            SourceError: it failed before its first item.
        """
        if self._task is None and not self.over:
            self.began = datetime.now(UTC)
            self._task = asyncio.create_task(self._run(), name=f"the run of {self.label}")
        await self._first.wait()
        if self.channel.failure is not None and not self.items:
            raise self.channel.failure.with_traceback(None)

    def later(self, seconds: float, drop: "Callable[[Run], None]") -> None:
        """Have it dropped after so long, unless somebody comes before it has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, drop, self)

    def stop(self, why: SourceError) -> "asyncio.Task[None] | None":
        """End it for its followers, and cancel it. Gives what still closes then, for the first that asks."""
        if self._timer is not None:
            self._timer.cancel()
        was_over = self.over
        if not was_over:
            self._end(why)
        if was_over or self._task is None:
            return None
        self._stopped = True
        self._task.cancel()
        complaint = asyncio.get_running_loop().call_later(CLEANUP_SECONDS, self._complain)
        self._task.add_done_callback(lambda task: complaint.cancel())
        return self._task

    async def closed(self, seconds: float) -> None:
        """Wait until its generator is, and those before it, but no longer than this."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=seconds)

    def _tasks(self) -> "frozenset[asyncio.Task[None]]":
        tasks = self._before if self._task is None else self._before | {self._task}
        return frozenset(task for task in tasks if not task.done())

    def _left(self, form: str) -> None:
        del self._feeds[form]
        if not self._feeds:
            self._released(self)

    def _complain(self) -> None:
        log.warning("%s is still open %g s after it was cancelled", self.label, CLEANUP_SECONDS)

    async def _run(self) -> None:
        failure = await self._failure()
        if not self._stopped:
            self._end(failure)
            self._released(self)

    async def _failure(self) -> SourceError | None:
        """Publish the items. Gives what ended them before their end, if something did."""
        try:
            if self._before:
                await asyncio.wait(self._before, timeout=CLEANUP_SECONDS)
                self._before = frozenset()
            async with aclosing(self._call.gathered(self._request, _Buffer())) as batches:
                async for batch in batches:
                    await self._publish(batch)
        except SourceError as error:
            if self.items:
                log.warning("%s failed: %s: %s", self.label, type(error).__name__, error)
            return error
        except BaseException as error:  # SystemExit too: it would end the loop from a task
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                return SourceBroken("it was cancelled")
            log.error("%s failed", self.label, exc_info=error)
            failed = SourceFailed(f"{self.label} failed")
            failed.__cause__ = error
            return failed
        return None

    async def _publish(self, batch: "list[_Encoded]") -> None:
        channel = self.channel
        if channel.ended:
            return
        for data, json, event in batch:
            channel.publish(data, json=json, event=event)
            self._unoffered += len(data) + ENTRY_BYTES
        self.items += len(batch)
        self._first.set()
        if self._unoffered >= OFFERED_BYTES:
            self._unoffered = 0
            await channel.offered()

    def _end(self, failure: SourceError | None) -> None:
        self.channel.end(failure)
        self.ended = datetime.now(UTC)
        self._first.set()


class _Buffer:
    """Items as a channel takes them, as they are made (`media.producing.Buffer`)."""

    def __init__(self) -> None:
        self._items: list[_Encoded] = []
        self._size = 0

    def add(self, item: Any) -> int:
        value, event = (item.data, item.event) if isinstance(item, Event) else (item, "")
        if event and item is not GAP:
            _check_event(event)
        if isinstance(value, Json):
            data, json = bytes(value), True
        elif isinstance(value, str):
            data, json = utf8(value), False
        elif isinstance(value, Mapping):
            # A copy: what orjson gives takes 4 KB for as long as it is kept, however short it is.
            data, json = bytes(memoryview(to_json(value))), True
        else:
            raise TypeError(
                f"the items of a shared stream are dict, str or Event, not {type(value).__name__}"
            )
        self._items.append((data, json, event))
        self._size += len(data)
        return self._size

    def take(self) -> list[list[_Encoded]]:
        taken, self._items, self._size = self._items, [], 0
        return [taken] if taken else []


def _check_event(event: str) -> None:
    try:
        check_name(event)
    except BadParameter as error:  # no client's fault
        raise ValueError(str(error)) from None
    if event in ("gap", END):
        raise ValueError(f"an event's name must not be {event}: it is said by the stream itself")
