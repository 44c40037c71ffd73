"""What many follow is sent to all of them.

Theory of operation. A subscriber is a cursor into its feed, and nothing is queued for it. When the feed has
something new, whoever stands at the same cursor is sent the same bytes: they are made once, framed once, and
given to each socket by one call, without a task that wakes up. What the kernel does not take of them is the
stream's to write, and until it has, that subscriber is passed over; then it goes on from its own cursor, with
whatever has come meanwhile in one run. So at most one run waits for a subscriber, and it is shared.

The first news goes out when the loop next turns. What comes within a tick after it goes out together, at its
end: 444,000 deliveries a CPU-second of 100 bytes, against 93,000 one by one. Between slices of the
subscribers the loop turns: one event to 5,000 would hold it for 50 ms.

Backpressure would be wrong here: the publisher and the others never wait for a subscriber. One whose place in
the feed is no longer kept is let go, and resumes by its id; one that takes nothing is the watch's, as
everywhere.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from handlers.open_streams import Outcome
from media.source import RUN_BYTES, Cursor, Feed, FellBehind, Following

TICK_SECONDS = 0.005

SLICE = 200
"""So many subscribers between two turns of the loop: about 2 ms."""

LOOK_SECONDS = 0.001
"""Between two looks whether all is offered."""

MOST_REST_SECONDS = 0.05
"""The longest time between two rounds, however long one takes."""

_RUNS = 16  # from different cursors that are kept at a time


class Sending(Protocol):
    """What is asked here of the pump that has a subscriber."""

    def end(self, outcome: Outcome) -> None: ...

    def fail(self, error: Exception) -> None: ...


class Subscriber:
    """One response that follows a feed.

    Args:
        stream: has the headers, and nothing else writes to it.
        chunked: the response is framed so (RFC 9112 §7.1).
        sending: is told how the response ends: the feed has, the subscriber fell behind, or something failed.
    """

    __slots__ = (
        "chunked",
        "cursor",
        "direct",
        "heartbeat",
        "own",
        "plain",
        "sending",
        "sent_bytes",
        "stream",
        "writing",
    )

    def __init__(
        self,
        stream: Any,
        following: Following,
        *,
        chunked: bool,
        heartbeat: bytes,
        sending: Sending,
    ) -> None:
        self.stream, self.chunked, self.sending = stream, chunked, sending
        self.cursor, self.own = following.cursor, following.own
        beat = framed(heartbeat) if chunked else heartbeat
        self.heartbeat = (beat, len(heartbeat)) if heartbeat else None
        self.direct = hasattr(stream, "send_now")  # a stream of TLS has it not: there everything is written
        self.plain = chunked and self.own is None
        """It is sent what most are."""
        self.writing = False
        """The kernel has not taken all of what was last sent."""
        self.sent_bytes = 0
        """Of the body."""


def framed(run: bytes) -> bytes:
    """As one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(run), run)


class Fanout:
    """The subscribers of a process.

    Args:
        tick_seconds: what comes within it is sent together; 0: it is not waited for.
    """

    def __init__(self, tick_seconds: float = TICK_SECONDS) -> None:
        self._tick_seconds = tick_seconds
        self._audiences: dict[Feed, _Audience] = {}

    def join(self, feed: Feed, subscriber: Subscriber, heartbeat_seconds: float) -> None:
        """Have `subscriber` sent what the feed has behind its cursor, until it leaves.

        Args:
            heartbeat_seconds: the feed's silence before its subscribers are sent their heartbeat; 0: never.
        """
        audience = self._audiences.get(feed)
        if audience is None:
            audience = self._audiences[feed] = _Audience(feed, self._tick_seconds, heartbeat_seconds)
        audience.join(subscriber)

    def leave(self, feed: Feed, subscriber: Subscriber) -> int:
        """It is sent nothing more, if it had joined. Gives the bytes of the body that it was sent."""
        audience = self._audiences.get(feed)
        if audience is not None and not audience.leave(subscriber):
            del self._audiences[feed]
        return subscriber.sent_bytes


class _Run(NamedTuple):
    """What is sent from one cursor to another.

    Args:
        frame: its bytes, framed if the response is.
        length: how many of them are the body's.
        more: there was more when it was made than one run takes.
    """

    start: Cursor
    frame: bytes
    length: int
    stop: Cursor
    more: bool


class _Audience:
    """All who follow one feed."""

    def __init__(self, feed: Feed, tick_seconds: float, heartbeat_seconds: float) -> None:
        self._feed = feed
        self._tick_seconds = tick_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._loop = asyncio.get_running_loop()
        self._subscribers: dict[Subscriber, None] = {}
        self._runs: dict[tuple[Cursor, bool], _Run] = {}
        self._begun = self._ended = 0  # rounds
        self._due = 0  # subscribers that are sent another run when the loop next turns
        self._round: asyncio.Handle | None = None
        """The next round, or the next slice of this one."""
        self._sent_at = self._loop.time()
        self._round_at = self._next_at = self._sent_at
        self._beat = self._beat_later()
        feed.attach(self._changed, self._offered)

    def join(self, subscriber: Subscriber) -> None:
        """It is sent what it has missed at once, and then what comes."""
        self._subscribers[subscriber] = None
        if subscriber.writing:
            # The headers, and what goes with them: they are small, and the kernel was full all the same.
            self._written_by(subscriber, subscriber.stream.write(b""))
        else:
            self._catch_up(subscriber)

    def leave(self, subscriber: Subscriber) -> bool:
        """It is sent nothing more. Gives whether somebody is left."""
        self._subscribers.pop(subscriber, None)
        if not self._subscribers:
            self._feed.detach(self._changed)
            for handle in (self._round, self._beat):
                if handle is not None:
                    handle.cancel()
        return bool(self._subscribers)

    async def _offered(self) -> None:
        """Wait until what there is now has been offered to every kernel that takes something."""
        # So many rounds there must have been.
        rounds = self._ended if self._round is None else self._begun + 1
        # An event that each run has to set would cost more than these looks.
        while not self._has_offered(rounds):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)

    def _has_offered(self, rounds: int) -> bool:
        """Whether so many have ended, or no other is needed, and nobody is due."""
        if not self._subscribers:
            return True
        return (self._round is None or self._ended >= rounds) and not self._due

    def _changed(self) -> None:
        if self._round is None:
            wait = self._next_at - self._loop.time()
            if wait > 0:
                self._round = self._loop.call_later(wait, self._begin_round)
            else:
                self._round = self._loop.call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self._sent_at = self._round_at = self._loop.time()
        self._runs.clear()
        self._begun += 1
        self._send_slice(tuple(self._subscribers), 0, self._feed.newest)

    def _send_slice(self, subscribers: Sequence[Subscriber], start: int, newest: object) -> None:
        # First: what goes wrong with one must not be the end of the round.
        if start + SLICE < len(subscribers):
            self._round = self._loop.call_soon(self._send_slice, subscribers, start + SLICE, newest)
        else:
            self._round = None
            self._ended += 1
            self._rest()
            if newest != self._feed.newest:
                self._changed()
        ended, there, last = self._feed.ended, self._subscribers, None
        for subscriber in subscribers[start : start + SLICE]:
            cursor = subscriber.cursor
            if subscriber.writing:
                if self._feed.lost(cursor):
                    subscriber.sending.end(Outcome.BEHIND)
            elif last is not None and cursor is last.start and subscriber.plain:
                # What `_catch_up` comes to for most, without its calls: a µs and a half of nine a delivery.
                if subscriber in there and not subscriber.stream.closed():
                    subscriber.cursor = last.stop
                    self._send(subscriber, last.frame, last.length)
            elif cursor != newest or ended:
                self._catch_up(subscriber)
                last = self._runs.get((cursor, True))
                if last is not None and (last.more or ended or not last.length):
                    last = None

    def _rest(self) -> None:
        """See when the next round may begin: a tick after this one, or as long again as it took.

        To 1,000 subscribers a round takes 8 ms. One after the other they would leave little of the loop to
        who publishes, and carry one event each. So more go together: 386,000 deliveries a CPU-second became
        827,000.
        """
        now = self._loop.time()
        self._next_at = self._round_at + self._tick_seconds
        if self._tick_seconds > 0 and self._next_at < now:
            self._next_at = now + min(now - self._round_at, MOST_REST_SECONDS)

    def _catch_up(self, subscriber: Subscriber) -> None:
        """Send it the next run, and after that, as the loop turns, those that are left."""
        if subscriber not in self._subscribers or subscriber.writing or subscriber.stream.closed():
            return
        try:
            self._send_next(subscriber)
        except FellBehind:
            subscriber.sending.end(Outcome.BEHIND)
        except Exception as error:  # it is this one's alone: the others of the round are still to be sent to
            subscriber.sending.fail(error)

    def _send_next(self, subscriber: Subscriber) -> None:
        if subscriber.cursor == self._feed.newest:
            if self._feed.failure is not None:
                subscriber.sending.fail(self._feed.failure)
            elif self._feed.ended:
                subscriber.sending.end(Outcome.COMPLETE)
            return
        run = self._run(subscriber.cursor, chunked=subscriber.plain)
        subscriber.cursor = run.stop
        frame, length = run.frame, run.length
        if subscriber.own is not None:
            own = subscriber.own(frame)
            length = len(own)
            frame = framed(own) if subscriber.chunked else own
        if length:  # a chunk of none would be the end of the body
            self._send(subscriber, frame, length)
        # What came since the run was made is the next round's: here it would go out one by one.
        if not subscriber.writing and (run.more or self._feed.ended):
            self._due += 1
            self._loop.call_soon(self._catch_up_on, subscriber)

    def _catch_up_on(self, subscriber: Subscriber) -> None:
        self._due -= 1
        self._catch_up(subscriber)

    def _run(self, cursor: Cursor, *, chunked: bool) -> "_Run":
        """What is sent from a cursor on: made once for all who stand there."""
        run = self._runs.get((cursor, chunked))
        if run is None:
            data, stop = self._feed.after(cursor, RUN_BYTES)
            more = stop != self._feed.newest
            run = _Run(cursor, framed(data) if chunked else data, len(data), stop, more)
            if len(self._runs) == _RUNS:
                self._runs.clear()
            self._runs[cursor, chunked] = run
        return run

    def _send(self, subscriber: Subscriber, frame: bytes, length: int) -> None:
        """`length` of the bytes are the body's."""
        stream = subscriber.stream
        subscriber.sent_bytes += length
        sent = stream.send_now(frame) if subscriber.direct else 0
        if sent < len(frame) and not stream.closed():
            subscriber.writing = True
            self._written_by(subscriber, stream.write(memoryview(frame)[sent:]))

    def _written_by(self, subscriber: Subscriber, written: "asyncio.Future[None]") -> None:
        def go_on(written: "asyncio.Future[None]") -> None:
            if not written.cancelled() and written.exception() is None:
                subscriber.writing = False
                self._catch_up(subscriber)

        written.add_done_callback(go_on)

    def _beat_later(self) -> asyncio.Handle | None:
        if not self._heartbeat_seconds:
            return None
        return self._loop.call_at(self._sent_at + self._heartbeat_seconds, self._beat_now)

    def _beat_now(self) -> None:
        if self._loop.time() >= self._sent_at + self._heartbeat_seconds:
            self._sent_at = self._loop.time()
            self._beat_slice(tuple(self._subscribers), 0)
        else:
            self._beat = self._beat_later()

    def _beat_slice(self, subscribers: Sequence[Subscriber], start: int) -> None:
        if start + SLICE < len(subscribers):
            self._beat = self._loop.call_soon(self._beat_slice, subscribers, start + SLICE)
        else:
            self._beat = self._beat_later()
        for subscriber in subscribers[start : start + SLICE]:
            if subscriber.writing or subscriber.stream.closed() or subscriber not in self._subscribers:
                continue
            if subscriber.heartbeat:
                self._send(subscriber, *subscriber.heartbeat)
