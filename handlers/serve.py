"""serve(source): one call that answers a GET or HEAD with a source.

It has the pump enter the source, asks `conditional` for a plan (status, headers, slices), gives body and plan
to the pump and ends the response by the pump's outcome. Before the first byte a failure is a status; after it
the connection is broken, so that the client can tell that the body is not whole. Tornado's own way would be
to finish it: a handler that raises after its first flush gives a 200 with a complete chunked body.
"""

import asyncio
import logging
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import quote

import orjson

from handlers import conditional
from handlers.coding import Coder, can_be_coded
from handlers.delivery import StreamResource, refuse_too_many
from handlers.open_streams import Outcome
from handlers.outgoing import close_by_reset
from handlers.pump import Pump
from handlers.resource import FAILED, Problem, Resource, causes, problem_of
from media.records import sse_event, sse_retry
from media.source import Body, Chunks, FellBehind, Following, Passed, Source, SourceError

HEARD_SECONDS = 0.1
"""Between an event stream's last words and its breaking. Chromium drops what it has not read when it sees the
break: without the wait 5 of 30 `fetch` and 2 of 30 EventSource never learned why."""

log = logging.getLogger("millrace.serve")


async def serve(response: StreamResource, source: Source, *, attachment: str = "") -> None:
    """Answer with what `source` yields. Returns when the response has ended, whichever way.

    Of a body that many follow it returns at once: then the response `goes_on`, until `_follow` has ended it.

    Args:
        attachment: the file name to save it under (RFC 6266); empty: to be shown.

    Raises:
        SourceError: the source failed before the first byte, and nothing was sent.
        Problem: a condition or a range does not hold, or too many streams are open.
    """
    delivery, client = response.delivery, response.client
    if response.request.method != "HEAD":
        refuse_too_many(delivery, client)
    pump = response.pump = Pump(response, delivery.limits, delivery.open_streams, delivery.rate, client)
    delivery.open_streams.hold(pump, client)
    try:
        body = await pump.enter(source)
        if body is None:
            _end(response, pump, whole=False)
            return
        # By hand: an AsyncExitStack is 1.3 KB, for as long as the response is open.
        try:
            plan = _respond(response, body, attachment)
            if plan is not None and body.following is not None and not delivery.rate.bytes_per_second:
                if following := await _beginning_sent(response, pump, body, body.following):
                    _follow(response, pump, source, body, following, client)
                    return
            elif plan is not None:
                await _send(response, pump, body, plan)
        except BaseException:
            if not await source.__aexit__(*sys.exc_info()):
                raise
        else:
            await source.__aexit__(None, None, None)
    except (Exception, asyncio.CancelledError) as error:
        if not pump.begun or response.ended:
            close_by_reset(response.connection.stream, False)  # what is said now has a length
            raise
        # Left to itself Tornado would finish the body here, as if it were whole.
        await _break_off(response, pump, error)
    finally:
        if not response.goes_on:
            delivery.open_streams.let_go(pump, client)


async def _beginning_sent(
    response: StreamResource, pump: Pump, body: Body, following: Following
) -> Following | None:
    """Have what is followed begin, and send a client what it gets of its own before it follows.

    Gives how it goes on. None: the response has ended meanwhile.

    Raises:
        SourceError: there is nothing to follow.
    """
    if not await pump.begin(following):
        _end(response, pump, whole=False)
        return None
    _frame(response, body, {})
    first = following.first
    if first is None:
        return following
    chunks = following.beginning()
    while True:
        outcome = await pump.send(chunks, live=True, heartbeat=body.facts.heartbeat)
        if outcome is not Outcome.COMPLETE:
            await _conclude(response, pump, body, outcome)
            return None
        if not following.feed.lost(first.cursor):
            return replace(following, cursor=first.cursor, opening=b"", first=None)
        chunks = first.chunks()  # while the client took the last of it, others were quicker


def _follow(
    response: StreamResource, pump: Pump, source: Source, body: Body, following: Following, client: str
) -> None:
    """Have the pump send what many follow. Returns at once; the response ends when that has ended."""

    async def conclude() -> None:
        try:
            if pump.failure is None:
                await _conclude(response, pump, body, pump.outcome or Outcome.COMPLETE)
            else:
                await _break_off(response, pump, pump.failure)
        except Exception:
            log.exception("%s was not ended", response.request_id)
        finally:
            await source.__aexit__(None, None, None)
            response.delivery.open_streams.let_go(pump, client)

    response.goes_on = True
    pump.follow(following, response.delivery.fanout, body.facts.heartbeat, conclude)
    # It may be open for hours, and these are 2 KB.
    response.request.headers.clear()
    for name in ("Date", *response.set_headers):
        response.clear_header(name)


def _respond(response: StreamResource, body: Body, attachment: str) -> conditional.Plan | None:
    """Set status and headers. Gives what is to be sent; None: the response is finished already."""
    facts = body.facts
    if body.passed is not None:
        return _pass_on(response, body.passed)
    if body.following is None:  # what many follow is made once for all, and not coded for each
        if can_be_coded(facts.media_type):
            response.vary_by("Accept-Encoding")
        facts = response.sent_facts(facts, sliceable=body.slice is not None)
    nginx = response.delivery.nginx
    if nginx and body.path and facts is body.facts and not facts.coding and (uri := nginx.uri(body.path)):
        _leave_to_nginx(response, body, attachment, uri)
        return None
    plan = conditional.plan(
        response.request.method or "", response.request.headers, facts, body.slice is not None
    )
    headers = dict(plan.headers)
    if plan.status == 412:
        raise Problem(412, "The resource is not as If-Match or If-Unmodified-Since wants it.", headers)
    if plan.status == 416:
        raise Problem(416, f"The range must lie within the {body.facts.length} bytes.", headers)
    response.set_status(plan.status)
    response.clear_header("Content-Type")
    for name, value in headers.items():
        response.set_header(name, value)
    _set_caching(response, body)
    if facts.count is not None:
        response.set_header("X-Total-Count", str(facts.count))
    if facts.coding and plan.status != 304:
        response.set_header("Content-Encoding", facts.coding)
    if attachment and plan.status != 304:
        response.set_header("Content-Disposition", _disposition(attachment))
    # What is answered again has the same headers with each status; Content-Disposition belongs on some.
    if body.path and response.request.method == "GET" and not attachment:
        _remember(response, body, plan)
    if response.request.method == "HEAD" or plan.status == 304:
        _finish_without_body(response)
        return None
    if facts is not body.facts:
        response.coder = Coder(facts.coding, response.delivery.compression, live=facts.live)
    return plan


def _pass_on(response: StreamResource, passed: Passed) -> conditional.Plan | None:
    """Set what another server has said. Gives what is to be sent; None: the response is finished already."""
    response.set_status(passed.status)
    response.clear_header("Content-Type")
    for name, value in passed.headers.items():
        if name == "Vary":
            response.vary_by(value)
        else:
            response.set_header(name, value)
    if response.request.method == "HEAD" or passed.status in (204, 304):
        _finish_without_body(response)
        return None
    if "Content-Length" not in passed.headers:
        response.set_header("X-Accel-Buffering", "no")
    return conditional.Plan(passed.status, passed.headers, None)


def _finish_without_body(response: StreamResource) -> None:
    """By hand: finish() would add a length of 0 to a body of unknown length (RFC 9110 §8.6)."""
    response.flush()
    response.finish()


def _remember(response: StreamResource, body: Body, plan: conditional.Plan) -> None:
    """Leave the answer for who asks again, if without conditions it would be of the same bytes."""
    if response.delivery.rate.bytes_per_second:
        return  # it would be no stream, and not be slowed down
    if response.sent_facts(body.facts, sliceable=False) is not body.facts:
        return  # coded, or as they are for the sake of a Range or an If-Match
    of_this_answer = {"X-Request-Id", *plan.headers}
    headers = {name: value for name, value in response.set_headers.items() if name not in of_this_answer}
    response.delivery.repeats.remember(
        response.request.uri or "", response.request.headers, body.path, body.facts, headers
    )


def _leave_to_nginx(response: StreamResource, body: Body, attachment: str, uri: str) -> None:
    """Have nginx answer with the file. Its validators are its own, and so are conditions and ranges."""
    response.set_header("Content-Type", body.facts.media_type)
    response.set_header("X-Accel-Redirect", uri)
    _set_caching(response, body)
    if attachment:
        response.set_header("Content-Disposition", _disposition(attachment))
    response.finish()


def _frame(response: StreamResource, body: Body, headers: Mapping[str, str]) -> None:
    """See how the end of the body will be known."""
    if response.request.version == "HTTP/1.0" and "Content-Length" not in headers:
        response.close_delimited = True
        # A 1.0 client that asks for keep-alive would get it from Tornado, and wait for ever for the end.
        response.request.headers.pop("Connection", None)
    response.close_delimited |= response.unframed
    if response.close_delimited:
        # There an end looks like success. A reset does not, and a process that is killed leaves one, too.
        close_by_reset(response.connection.stream, True)
    # What another server has cut may end in the middle of an event, where no word of ours may stand.
    response.is_events = body.passed is None and body.facts.media_type == "text/event-stream"


async def _send(response: StreamResource, pump: Pump, body: Body, plan: conditional.Plan) -> None:
    _frame(response, body, plan.headers)
    promised = plan.headers.get("Content-Length")
    outcome = await pump.send(
        _chunks(body, plan),
        body.facts.length if promised is None else int(promised),
        live=body.facts.live,
        heartbeat=body.facts.heartbeat,
        coder=response.coder,
    )
    await _conclude(response, pump, body, outcome)


async def _conclude(response: StreamResource, pump: Pump, body: Body, outcome: Outcome) -> None:
    """Say the last words, and finish the response."""
    if outcome is Outcome.DRAINED and body.facts.live:
        await pump.last_words(body.ending() + (sse_retry() if response.is_events else b""), whole=True)
        outcome = Outcome.COMPLETE
    whole = outcome is Outcome.COMPLETE
    if whole and response.close_delimited:
        await pump.farewell()
        close_by_reset(response.connection.stream, False)
    _end(response, pump, whole=whole)


async def _break_off(response: StreamResource, pump: Pump, error: BaseException) -> None:
    """The source failed after the first byte: what it gave still arrives, but not as a whole body.

    Raises:
        asyncio.CancelledError: the task itself was cancelled, by somebody who is not the pump.
    """
    pump.outcome = pump.outcome or (Outcome.BEHIND if isinstance(error, FellBehind) else Outcome.FAILED)
    words = b""
    try:
        if isinstance(error, FellBehind):  # as the fan-out has it: no failure, and it may come back
            return
        if isinstance(error, SourceError):
            problem = problem_of(error)
            log.warning("%s broke off: %s", response.request_id, causes(error))
        elif _is_cancelled():
            raise error
        else:
            problem = Problem(500, FAILED)
            log.error("%s broke off", response.request_id, exc_info=error)
        if response.is_events:
            document = response.problem_document(problem.status_code, problem.detail)
            words = sse_event(orjson.dumps(document), event="error")
        await pump.last_words(words, whole=False)
        if words:
            await asyncio.sleep(HEARD_SECONDS)
    finally:
        _end(response, pump, whole=False)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _end(response: StreamResource, pump: Pump, *, whole: bool) -> None:
    """Finish the response; one that is not whole only after its connection is broken."""
    response.ended, response.goes_on = True, False
    response.outcome = pump.outcome or Outcome.COMPLETE
    response.body_bytes, response.first_byte_seconds = pump.sent_bytes, pump.first_byte_seconds
    stream = response.connection.stream
    if not whole or response.unframed:
        stream.close()
    response.finish()
    if response.close_delimited:
        stream.close()


def _chunks(body: Body, plan: conditional.Plan) -> Chunks:
    """The body as the plan cuts it."""
    if plan.pieces is None:
        return body.chunks()
    assert body.slice is not None
    match plan.pieces:
        case (conditional.Slice(start, stop),):
            return body.slice(start, stop)
    return _joined(plan.pieces, body.slice)


async def _joined(pieces: Sequence[conditional.Piece], slice_: Callable[[int, int], Chunks]) -> Chunks:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        async with aclosing(slice_(piece.start, piece.stop)) as chunks:
            async for chunk in chunks:
                yield chunk


def _set_caching(response: Resource, body: Body) -> None:
    """Files are kept and revalidated. Generated bodies are neither kept nor held back by nginx."""
    if body.facts.etag is None:
        response.set_header("Cache-Control", "no-store")
        response.set_header("X-Accel-Buffering", "no")
    else:
        response.set_header("Cache-Control", "no-cache")


def _disposition(name: str) -> str:
    """Both forms of a file name: in ASCII for old clients (RFC 6266), and as it is (RFC 8187)."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = "".join(
        "_" if character in '"\\%' or not character.isprintable() else character for character in plain
    )
    plain = plain.strip()
    if not plain.partition(".")[0]:  # nothing of the name is ASCII but its end
        plain = f"file{plain}"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
