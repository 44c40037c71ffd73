"""POST and DELETE of /stream/NAME where NAME is a job: start it, end it (`media/shared.py`)."""

import json
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode

import orjson
from tornado.web import HTTPError, stream_request_body

from handlers.publish import PublishResource, WholeBody
from handlers.pump import HEADERS_SECONDS
from handlers.resource import Problem, problem_of, shutting_down
from handlers.stream import ALLOW_OF_CHANNEL, stream_request
from media.parameters import flag
from media.shared import Runs
from media.source import BadParameter, SourceError
from media.values import to_json

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
MEDIA_TYPES = ("", FORM, JSON)

_RIGHT_TYPES = f"{FORM} or {JSON}, not %s"


@stream_request_body
class JobResource(PublishResource):
    """POST /stream/NAME: start a job. DELETE: end it and forget it.

    Query, a form, or a JSON object: the function's parameters, the one that names the job; again=1.
    202, or 200 if it is there already, 204 (DELETE), 400, 401, 403, 404, 405, 413, 415, 503, and what the
    function says before its first item.
    """

    allow = ALLOW_OF_CHANNEL

    def admit(self, name: str) -> None:
        if self.request.method not in ("POST", "DELETE"):
            raise HTTPError(405)
        self.writers.admit_publisher(self.request)
        if self.request.method == "POST":
            if self.open_streams.draining:
                raise shutting_down()
            self.body = self.arguments = _Arguments(
                self.media_type(MEDIA_TYPES, _RIGHT_TYPES), self.max_event
            )
            self.refuse_length()

    async def post(self, name: str) -> None:
        if self.refused_at:
            self.finish()
            return
        runs = self.streams[name].runs
        assert runs is not None
        try:
            if self.request.method == "DELETE":
                await runs.end(stream_request(self, self.args))
                self.set_status(204)
            else:
                await self._start(name, runs)
        except SourceError as error:
            raise problem_of(error) from error

    delete = put = patch = post

    async def _start(self, name: str, runs: Runs) -> None:
        args = {**self.args, **self.arguments.read()}
        request = stream_request(self, args)
        run, fresh = await runs.start(request, HEADERS_SECONDS, again=flag(args, "again", False))
        query = urlencode(runs.query(request), quote_via=quote)
        url = f"/stream/{quote(name)}{'?' if query else ''}{query}"
        self.set_status(202 if fresh else 200)
        self.set_header("Content-Type", JSON)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Location", url)
        self.finish(orjson.dumps({**run.facts(), "url": url}))


class _Arguments(WholeBody):
    """A body that holds a function's arguments."""

    def __init__(self, media_type: str, most_bytes: int) -> None:
        super().__init__(most_bytes)
        self._media_type = media_type

    def read(self) -> Mapping[str, str]:
        """The arguments by name, as a query has them.

        Raises:
            BadParameter: it is not what it was said to be.
        """
        if self._media_type == JSON:
            return _members(bytes(self._data))
        if self._data and not self._media_type:
            raise Problem(415, f"The header Content-Type must be {_RIGHT_TYPES % 'absent'}.")
        try:
            pairs = parse_qsl(self._data.decode("ascii"), keep_blank_values=True, errors="strict")
        except ValueError as error:  # UnicodeDecodeError is one
            raise BadParameter("the form must be percent-encoded UTF-8") from error
        return dict(pairs)


def _members(data: bytes) -> dict[str, str]:
    """Those of a JSON object: text as it is, null left out, anything else as its JSON."""
    try:
        members = json.loads(data)  # not orjson: it rounds integers over 64 bits
    except (ValueError, RecursionError) as error:
        raise BadParameter("the body must be one object of JSON, in UTF-8") from error
    if not isinstance(members, dict):
        raise BadParameter("the body must be an object of JSON, its members the parameters")
    return {
        name: value if isinstance(value, str) else to_json(value).decode()
        for name, value in members.items()
        if value is not None
    }
