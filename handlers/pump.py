"""The only writer of a streamed response, but for what many follow (`handlers/fanout.py`).

Theory of operation. One task sends: the handler's own. It asks the source for a chunk, waits until the chunk
before it is with the kernel, and hands the new one over. So at most two are held for a client, and nothing is
asked of a source that its client has not taken. Everything else meets that task as a callback of the loop:

* a *tick* of a timer sends the headers of a source that is slow to begin, sends the heartbeat when nothing
  else was sent for long;
* the connection closing, and the server draining, cancel the task where it waits, be it for the source to be
  entered or for its next chunk. A source that sleeps for a minute is closed at once; the cancellation ends
  here and is no error;
* what goes wrong in a callback (a generator gave text for bytes) ends the sending in the same way, and is
  raised where the task waits.

Only the loop cancels, in a turn of its own: there the task waits somewhere, and takes the cancellation there.
One that came from within the task would be kept for its next wait, which may not be ours.

Supervising the whole sending costs some 20 µs a chunk; a task for each costs three times the bare chunk. What
it gets is gathered and written by a BodyWriter (`handlers/body_writer.py`).

A body that many follow (`media.source.Feed`) has no chunks here. The pump sends its opening with the headers,
hands the stream to the fan-out, and is asked again when it ends: how, and what is said then, is as above.

The source is never interrupted for anything else: asyncio.timeout round anext() would kill a generator.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

from tornado.iostream import StreamClosedError

from handlers.body_writer import BodyWriter
from handlers.coding import Coder, in_pieces
from handlers.encrypted import FAREWELL, EncryptedSocket
from handlers.fanout import Fanout, Subscriber
from handlers.limits import Limits, RateLimit
from handlers.open_streams import OpenStreams, Outcome, ended_by_closing
from handlers.outgoing import RegionBroken
from handlers.resource import Resource
from media.files import loaded
from media.source import Body, Chunk, Chunks, FileRegion, Following, Source, SourceBroken, SourceError

HEADERS_SECONDS = 1.0
"""How long the headers wait for the first chunk, so that a failing start can still be a status."""

TURN_BYTES = 1024 * 1024
"""The loop gets a turn after so many bytes or `OpenStreams.turn_seconds`: awaiting a write that is done does
not yield. Beside 8 downloads by sendfile a small request then waited 16 ms at p99, against 366 ms."""

CLEANUP_SECONDS = 5.0
"""How long a cancelled source may take to close before it is cancelled again and reported."""

log = logging.getLogger("millrace.pump")

_Result = TypeVar("_Result")


class Pump:
    """The sending of one response's body.

    Args:
        response: has none of its headers sent.
        client: whom its bytes are granted to by `rate`.
    """

    def __init__(
        self, response: Resource, limits: Limits, open_streams: OpenStreams, rate: RateLimit, client: str
    ) -> None:
        self.outcome: Outcome | None = None
        """How the response ended, as soon as that is known; None until then, and when all went well."""
        self._response = response
        self._connection = response.connection
        self._limits = limits
        self._open_streams = open_streams
        self._rate = rate
        self._client = client
        self._live = False
        self._heartbeat = b""
        self._length: int | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._cancellations = 0
        self.failure: Exception | None = None
        """What went wrong outside of the task that sends."""
        self._conclude: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._leave: Callable[[], int] = int
        self._writer = BodyWriter(response, self.fail)
        self._timers: dict[str, asyncio.Handle] = {}
        self._began = self._loop.time()

    @property
    def sent_bytes(self) -> int:
        """The bytes of the body that the connection has taken, as far as a file's region tells."""
        return self._writer.given_bytes - getattr(self._connection.stream, "unsent_bytes", 0)

    @property
    def first_byte_seconds(self) -> float | None:
        """From the request to the first byte of the body, or the headers of a feed. None: there was none."""
        return self._writer.first_byte_seconds

    @property
    def begun(self) -> bool:
        """Whether an error can no longer be a status: headers are out, or a chunk is about to be."""
        return self._writer.begun

    async def enter(self, source: Source) -> Body | None:
        """Enter `source`. None: it is not entered, the response has ended, and `outcome` says how.

        Raises:
            Exception: what the source raised.
        """
        entered: list[Body] = []

        async def enter() -> None:
            entered.append(await source.__aenter__())

        try:
            await self._supervised(enter)
        finally:
            if entered and self._ended():  # the source swallowed its cancellation
                await source.__aexit__(None, None, None)
        return None if self._ended() else entered[0]

    async def send(
        self,
        chunks: Chunks,
        length: int | None = None,
        *,
        live: bool = False,
        heartbeat: bytes = b"",
        coder: Coder | None = None,
    ) -> Outcome:
        """Send the chunks and close them. The response has its status and headers set.

        Returns when every byte is with the kernel, or with the outcome that tells why not.

        Args:
            length: what the chunks add up to, in bytes; None: nobody knows.
            live: the body is endless: draining ends it.
            heartbeat: may stand between two chunks; empty: nothing may.
            coder: what everything goes through that is sent, heartbeats too; None: it is sent as it is.

        Raises:
            SourceBroken: the chunks do not add up to `length`.
            Exception: what the source raised. The connection is left open: `begun` says what can be done.
        """
        self._live, self._heartbeat, self._length, self._writer.coder = live, heartbeat, length, coder
        self._began = self._writer.last_write = self._loop.time()
        if live and self._open_streams.draining and not self._connection.stream.closed():
            self.outcome = Outcome.DRAINED
        await self._supervised(lambda: self._forward(chunks))
        return self.outcome or Outcome.COMPLETE

    async def begin(self, following: Following) -> bool:
        """Wait as long as headers do for what is followed to begin. False: the response has ended meanwhile.

        Raises:
            SourceError: there is nothing to follow.
        """
        if not self._open_streams.draining:
            await self._supervised(lambda: following.begun(HEADERS_SECONDS))
        return not self._ended()

    def follow(
        self,
        following: Following,
        fanout: Fanout,
        heartbeat: bytes,
        conclude: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Send a body that others follow too, from now on. It is live: draining ends it.

        No task waits meanwhile: what a handler holds while it does is 4 KB for each subscriber.

        Args:
            conclude: is run as a task when the sending has ended; `outcome` and `failure` tell how.
        """
        self._live, self._conclude = True, conclude
        stream = self._connection.stream
        chunked = self._response.request.version != "HTTP/1.0" and not self._response.unframed
        subscriber = Subscriber(stream, following, chunked=chunked, heartbeat=heartbeat, sending=self)
        self._leave = partial(fanout.leave, following.feed, subscriber)
        if self._open_streams.draining and not stream.closed():
            self.end(Outcome.DRAINED)
            return
        self._writer.write(following.opening)
        if stream.closed():
            self.connection_closed()
        if self._ended():
            return
        self._writer.note_first_byte()  # a feed may be silent for long: the headers answer
        subscriber.writing = stream.writing()
        fanout.join(following.feed, subscriber, self._limits.heartbeat_seconds)

    async def last_words(self, words: bytes, *, whole: bool) -> None:
        """Send what is gathered, and `words` behind it, waiting no longer than a closing source may.

        Args:
            whole: the body ends with them as it should. A coded one that does not has no end.
        """
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self._writer.written()
                self._writer.gather(words)
                await self._writer.written(whole)
        except TimeoutError:
            log.info("a client did not take the last words of its stream")

    async def farewell(self) -> None:
        """Over TLS, say that the body is whole: one that ends with its connection could be a broken one."""
        stream = self._connection.stream
        if isinstance(stream.socket, EncryptedSocket):
            with suppress(StreamClosedError, TimeoutError):  # who has left, or stalls, does without
                async with asyncio.timeout(self._limits.stall_seconds or None):
                    await stream.write(FAREWELL)

    def drain(self) -> None:
        """The server shuts down: end now if the body is endless, at the chunk that is on its way."""
        if self._live:
            self.end(Outcome.DRAINED)

    def connection_closed(self) -> None:
        """The connection is closed, and not by `serve`: its client has left or was let go, or a file could
        not be sent."""
        error = self._connection.stream.error
        if isinstance(error, RegionBroken):
            broken = SourceBroken(error.strerror)
            broken.__cause__ = error.__cause__
            self.fail(broken)
        else:
            self.end(ended_by_closing(self._connection.stream))

    def end(self, outcome: Outcome) -> None:
        """End the sending from outside. The first outcome stands; not sending any more, nothing happens."""
        if self._ended():
            return
        if self._conclude is not None:
            self.outcome = outcome
            self._writer.given_bytes += self._leave()
            self._task = self._loop.create_task(self._conclude(), name="the end of what was followed")
        elif self._task is not None:
            self.outcome = outcome
            self._timers["cancel"] = self._loop.call_soon(self._cancel)

    def _ended(self) -> bool:
        return self.outcome is not None

    def fail(self, error: Exception) -> None:
        """End the sending by what went wrong."""
        if not self._ended():
            self.failure = error
            self.end(Outcome.FAILED)

    def _cancel(self) -> None:
        assert self._task is not None  # timers do not outlive it
        if self._cancellations:
            log.warning("a stream is still open %g s after it was cancelled", CLEANUP_SECONDS)
        self._cancellations += 1
        self._task.cancel()
        self._timers["cancel"] = self._loop.call_later(CLEANUP_SECONDS, self._cancel)

    async def _supervised(self, work: Callable[[], Awaitable[_Result]]) -> _Result | None:
        """What `work` gives. None: the response was ended from outside, before it or meanwhile.

        Raises:
            Exception: what `work` raised, or what failed in a callback meanwhile.
        """
        if not self._ended() and self._connection.stream.closed():
            self.outcome = ended_by_closing(self._connection.stream)
        if self._ended():
            return None
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelled_before, self._cancellations = task.cancelling(), 0
        result = None
        try:
            result = await work()
        except asyncio.CancelledError:
            # Ours ends here. One of somebody else's, or of the source's own making, does not.
            if not self._ended() or task.cancelling() > cancelled_before + self._cancellations:
                raise
        except (GeneratorExit, SystemExit) as error:
            # For a handler's task they mean nothing, and Tornado would end no response.
            if not self._ended():
                raise RuntimeError(f"a source raised {type(error).__name__}") from error
        except Exception as error:
            if not self._ended():
                raise
            if not isinstance(error, SourceError):  # such as a file that shrank, seen at both ends at once
                log.exception("a stream failed while it was being closed")
        finally:
            self._task = None
            for timer in self._timers.values():
                timer.cancel()
            self._writer.hold()
            for _ in range(self._cancellations):
                task.uncancel()
        if self.failure is not None:
            raise self.failure
        return None if self._ended() else result

    async def _forward(self, chunks: Chunks) -> None:
        if self._writer.coder is not None:
            chunks = in_pieces(chunks)
        elif not getattr(self._connection.stream, "takes_regions", False):
            chunks = loaded(chunks)
        if self._rate.bytes_per_second:
            # A heartbeat, or a drained stream's end, may stand behind a chunk and not in the middle of one.
            chunks = self._rate.paced(self._client, chunks, whole=self._live or bool(self._heartbeat))
        self._timers["tick"] = self._loop.call_soon(self._tick)
        async with aclosing(chunks):
            await self._gather_all(chunks)
        if not self._ended():
            await self._writer.written(whole=True)

    async def _gather_all(self, chunks: Chunks) -> None:
        writer, total = self._writer, 0
        turn_at, turn_bytes = self._loop.time() + self._open_streams.turn_seconds, 0
        async for chunk in chunks:
            if isinstance(chunk, memoryview) and chunk.itemsize != 1:
                chunk = chunk.cast("B")  # its len() counts items, and everything below counts bytes
            if self._ended():  # meanwhile, or the source swallowed its cancellation
                self._keep(chunk)
                return
            total += len(chunk)
            if self._length is not None and total > self._length:
                raise SourceBroken(f"more than the {self._length} bytes that were promised")
            if writer.busy:
                try:
                    await writer.idle()
                except asyncio.CancelledError:
                    self._keep(chunk)
                    raise
            writer.gather(chunk)
            turn_bytes += len(chunk)
            if turn_bytes >= TURN_BYTES or self._loop.time() >= turn_at:
                await asyncio.sleep(0)
                turn_at, turn_bytes = self._loop.time() + self._open_streams.turn_seconds, 0
        if self._length is not None and total < self._length:
            raise SourceBroken(f"{total} bytes where {self._length} were promised")

    def _keep(self, chunk: Chunk) -> None:
        """A body that draining ends is whole as far as it goes: what its last words build on goes before."""
        if self.outcome is Outcome.DRAINED and not isinstance(chunk, FileRegion):
            self._writer.keep(chunk)

    def _tick(self) -> None:
        try:
            self._look_around()
        except Exception as error:  # the loop would log it, and the stream go on without heartbeat
            self.fail(error)

    def _look_around(self) -> None:
        """What the time that has passed asks for; comes again when the next thing may be due."""
        now = self._loop.time()
        waits = []
        if not self._writer.headers_sent:
            if now >= self._began + HEADERS_SECONDS:
                self._writer.flush()
            else:
                waits.append(self._began + HEADERS_SECONDS - now)
        if self._heartbeat and self._limits.heartbeat_seconds:
            if not self._writer.quiet:
                self._writer.last_write = now
            elif now >= self._writer.last_write + self._limits.heartbeat_seconds:
                self._rate.grant(self._client, len(self._heartbeat), now)  # it does not wait
                self._writer.write(self._heartbeat)
            waits.append(self._writer.last_write + self._limits.heartbeat_seconds - now)
        if waits and not self._ended():
            self._timers["tick"] = self._loop.call_later(max(0.001, min(waits)), self._tick)
