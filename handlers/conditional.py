"""What to answer to a GET or HEAD: RFC 9110 §8.8 (validators), §13 (conditions), §14 (ranges).

Pure: headers and facts in, a Plan out. No Tornado, no I/O, no body is touched.
It knows nothing of caching, of problem documents and of how bytes are sent.

Theory of operation:

1. One function a condition answers True, False or None (not asked, or to be ignored).
2. `precedence` is RFC 9110 §13.2.2, step by step, and says 412, 304, 206 ("as Range says") or 200.
3. Only on 206 is Range read.
   Whatever may be ignored (malformed, another unit, too many) is one answer, None: the whole body as 200.

What a client may send is unbounded, so no step costs more than one pass of a regular expression over it.
A number is never converted before its digits are counted, and nothing is kept of a 17th range.

Where the standard leaves a choice:

- An entity-tag list with anything malformed in it matches nothing.
  If-Match then fails and If-None-Match lets through: at worst a client asks again, or gets what it had.
- A 206 to an If-Range keeps Content-Type and Last-Modified, which §15.3.7 would rather leave out:
  with `nosniff` a part of a track without its type is one that a player may refuse.
- A body that cannot be cut says nothing of ranges: `Accept-Ranges: none` would only add bytes.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

from media.source import Facts

RANGES_LIMIT = 16
"""The most ranges that one request may ask for; beyond it the whole body is sent (RFC 9110 §14.2, §17.15)."""

DIGITS_LIMIT = 20
"""The most digits of a number, leading zeros aside: 64 bits need no more. A longer one is past any end."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The bytes from `start` to `stop` (half-open) of the representation; never empty."""

    start: int
    stop: int


Piece = bytes | Slice
"""What a body is put together from: bytes as they stand (the framing of a multipart), or a slice."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer, ready to be sent.

    Args:
        status: 200, 206, 304, 412 or 416.
        headers: those of ETag, Last-Modified, Accept-Ranges, Content-Type, Content-Length and Content-Range
            that belong on this status.
            412 and 416 carry nothing of the representation: their body is the caller's problem document.
        pieces: the body, in order; together exactly Content-Length bytes.
            Empty: none (HEAD, 304, 412, 416, an empty file).
            None: the whole body, which cannot be cut or is of unknown length.
    """

    status: int
    headers: Mapping[str, str]
    pieces: tuple[Piece, ...] | None


def _random_boundary() -> str:
    """128 random bits: nobody can write them into a file beforehand, so no body has to be searched."""
    return secrets.token_hex(16)


def plan(
    method: str,
    headers: Mapping[str, str],
    facts: Facts,
    sliceable: bool,
    *,
    boundary: Callable[[], str] = _random_boundary,
    now: datetime | None = None,
) -> Plan:
    """The answer to a request for a representation that exists. Never raises, whatever the headers hold.

    Args:
        method: GET or HEAD.
        headers: of the request. Names in any case (or as the standards write them, for a plain dict);
            repeated ones joined with commas; values without white space around them, as §5.5 has it.
        facts: of the representation that would be sent whole.
        sliceable: whether the body can be cut. Ranges need that and a known length.
        boundary: gives the boundary of a multipart body, up to 70 letters and digits; called at most once.
        now: the Date of the response, aware. None: this moment.
    """
    now = now or datetime.now(UTC)
    modified = _last_modified(facts, now)
    validators = _validators(facts.etag, modified)
    status = precedence(method, headers, facts.etag, modified, now)
    if status == 412:
        return Plan(412, {}, ())
    if status == 304:
        return Plan(304, validators, ())
    if not sliceable or facts.length is None:
        return _uncut(method, facts, validators)
    slices = requested(headers["Range"], facts.length) if status == 206 else None
    if slices is None:
        return _whole(method, facts.length, facts.media_type, validators)
    if not slices:
        return Plan(416, {"Content-Range": f"bytes */{facts.length}"}, ())
    if len(slices) == 1:
        return _single(slices[0], facts.length, facts.media_type, validators)
    return _multipart(slices, facts.length, facts.media_type, validators, boundary())


# Conditions, RFC 9110 §13.

Condition = bool | None
"""True, False, or None: not asked, or to be ignored."""


def precedence(
    method: str, headers: Mapping[str, str], etag: str | None, modified: datetime | None, now: datetime
) -> int:
    """412, 304, 206 (as Range says, if the body can be cut) or 200: RFC 9110 §13.2.2 for GET and HEAD."""
    # 1. If-Match
    match = if_match(headers, etag)
    if match is False:
        return 412
    # 2. If-Unmodified-Since, when there is no If-Match
    if match is None and if_unmodified_since(headers, modified, now) is False:
        return 412
    # 3. If-None-Match
    none_match = if_none_match(headers, etag)
    if none_match is False:
        return 304
    # 4. If-Modified-Since, when there is no If-None-Match
    if none_match is None and if_modified_since(headers, modified, now) is False:
        return 304
    # 5. Range with If-Range. Without Range, If-Range means nothing; Range is defined for GET alone (§14.2).
    if method == "GET" and "Range" in headers and if_range(headers, etag, modified, now) is not False:
        return 206
    # 6. Otherwise
    return 200


def if_match(headers: Mapping[str, str], etag: str | None) -> Condition:
    """Whether one of the tags is this one, by strong comparison; `*` is any (RFC 9110 §13.1.1)."""
    text = headers.get("If-Match")
    if text is None:
        return None
    return text == "*" or (etag is not None and not _weak(etag) and etag in _entity_tags(text))


def if_none_match(headers: Mapping[str, str], etag: str | None) -> Condition:
    """Whether none of the tags is this one, by weak comparison; `*` is any (RFC 9110 §13.1.2)."""
    text = headers.get("If-None-Match")
    if text is None:
        return None
    if text == "*":
        return False
    return etag is None or _opaque(etag) not in map(_opaque, _entity_tags(text))


def if_modified_since(headers: Mapping[str, str], modified: datetime | None, now: datetime) -> Condition:
    """Whether it was modified after the date; None also for a date that is none (RFC 9110 §13.1.3)."""
    date = http_date(headers.get("If-Modified-Since", ""), now)
    return None if date is None or modified is None else modified > date


def if_unmodified_since(headers: Mapping[str, str], modified: datetime | None, now: datetime) -> Condition:
    """Whether it was not modified after the date; None also for a date that is none (RFC 9110 §13.1.4)."""
    date = http_date(headers.get("If-Unmodified-Since", ""), now)
    return None if date is None or modified is None else modified <= date


def if_range(
    headers: Mapping[str, str], etag: str | None, modified: datetime | None, now: datetime
) -> Condition:
    """Whether the client holds parts of this very representation (RFC 9110 §13.1.5).

    By strong comparison of the one tag, or by the exact date; malformed is False.
    Deliberate: step 1 there would refuse a date that is no strong validator (§8.8.2.2). The client can tell
    whether it is from the Date it was given; nothing we know says if the file changed twice in that second.
    """
    text = headers.get("If-Range")
    if text is None:
        return None
    if _ENTITY_TAG.fullmatch(text):
        return text == etag and not _weak(text)
    return modified is not None and modified == http_date(text, now)


# Validators, RFC 9110 §8.8.

_ENTITY_TAG = re.compile(
    r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"'
)  # a backslash or a comma in it is only itself
_ENTITY_TAGS = re.compile(rf"[ \t,]*+(?:{_ENTITY_TAG.pattern}[ \t]*+(?:,[ \t,]*+|\Z))*")


def _entity_tags(text: str) -> list[str]:
    """The tags of a list, empty elements left out; none at all if anything in it is malformed."""
    return _ENTITY_TAG.findall(text) if _ENTITY_TAGS.fullmatch(text) else []


def _weak(etag: str) -> bool:
    return etag.startswith("W/")


def _opaque(etag: str) -> str:
    """What weak comparison compares (RFC 9110 §8.8.3.2)."""
    return etag.removeprefix("W/")


def _last_modified(facts: Facts, now: datetime) -> datetime | None:
    """The date as it is sent: whole seconds, never in the future (RFC 9110 §8.8.2.1)."""
    if facts.modified is None:
        return None
    if facts.modified.tzinfo is UTC and not facts.modified.microsecond and facts.modified <= now:
        return facts.modified
    return min(facts.modified, now).astimezone(UTC).replace(microsecond=0)


def _validators(etag: str | None, modified: datetime | None) -> dict[str, str]:
    headers = {}
    if etag is not None:
        headers["ETag"] = etag
    if modified is not None:
        headers["Last-Modified"] = _shown(modified)
    return headers


@lru_cache(512)  # of the same files again and again
def _shown(modified: datetime) -> str:
    return format_datetime(modified, usegmt=True)


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_SHORT_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_HTTP_DATES = (
    re.compile(f"{_SHORT_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),  # IMF-fixdate
    re.compile(f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),  # RFC 850
    re.compile(f"{_SHORT_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})"),  # asctime
)


def http_date(text: str, now: datetime) -> datetime | None:
    """A date in one of the three formats, in UTC; None if it is none of them (RFC 9110 §5.6.7).

    Strict, upper and lower case too, as the grammar is; only a wrong day of the week is let pass.
    A leap second counts as the one before it. `now` tells the century of a year of two digits.
    """
    found = next(filter(None, (form.fullmatch(text) for form in _HTTP_DATES)), None)
    if found is None:
        return None
    day, year, hour, minute, second = (
        int(found[name]) for name in ("day", "year", "hour", "minute", "second")
    )
    month = _MONTHS.index(found["month"]) + 1
    if len(found["year"]) == 2:
        year += now.year // 100 * 100
        # More than 50 years ahead is the past. As tuples, for 29 February has no date 50 years before.
        if (year - 50, month, day, hour, minute, second) > now.astimezone(UTC).timetuple()[:6]:
            year -= 100
    try:
        return datetime(year, month, day, hour, minute, 59 if second == 60 else second, tzinfo=UTC)
    except ValueError:
        return None


# Ranges, RFC 9110 §14. Inclusive ends exist from here to _resolved and in Content-Range, nowhere else.

_SPEC = r"(?:[0-9]++-[0-9]*+|-[0-9]++)"
# A range-set is a list: white space only around commas, empty elements allowed (§5.6.1.2), a spec required.
# A set of more than RANGES_LIMIT does not match, as if it were malformed: the answer is the same.
_RANGE = re.compile(
    rf"(?i:bytes)=(?:[ \t,]*,[ \t]*)?{_SPEC}(?:[ \t]*+,[ \t,]*+{_SPEC}){{0,{RANGES_LIMIT - 1}}}[ \t,]*+",
    re.ASCII,
)
_ENDS = re.compile("([0-9]*)-([0-9]*)")


def requested(text: str, length: int) -> tuple[Slice, ...] | None:
    """The slices that a Range asks for, in its order, those that overlap or touch joined.

    A joined slice stands where the first of its members stood.

    Returns:
        Empty: none of the ranges is satisfiable (416).
        None: send the whole. The header is malformed, of another unit than `bytes`, asks for more than
        `RANGES_LIMIT` ranges or for more bytes than there are (both counted before joining),
        or it is satisfiable and there is no byte to send (a suffix of an empty file).
    """
    specs = _specs(text)
    if specs is None:
        return None
    slices = [found for first, last in specs if (found := _resolved(first, last, length)) is not None]
    if slices and not 0 < sum(each.stop - each.start for each in slices) <= length:
        return None
    return _joined(slices)


def _specs(text: str) -> list[tuple[str, str]] | None:
    """The digits of each first and last position, without leading zeros; None if malformed or too many.

    A suffix has an empty first position, an open range an empty last one.
    """
    if not _RANGE.fullmatch(text):
        return None
    specs = [(_significant(first), _significant(last)) for first, last in _ENDS.findall(text)]
    # By length, then as text: the order of numbers of any size.
    if any(first and last and (len(first), first) > (len(last), last) for first, last in specs):
        return None
    return specs


def _significant(digits: str) -> str:
    return digits.lstrip("0") or digits[-1:]


def _resolved(first: str, last: str, length: int) -> Slice | None:
    """The range within the length, or None if it is not satisfiable (RFC 9110 §14.1.2).

    A suffix of an empty file is satisfiable: the one empty slice there is.
    """
    if not first:
        return None if last == "0" else Slice(length - _clipped(last, length), length)
    start = _clipped(first, length)
    if start == length:
        return None
    return Slice(start, min(_clipped(last, length) + 1, length) if last else length)


def _clipped(digits: str, length: int) -> int:
    return length if len(digits) > DIGITS_LIMIT else min(int(digits), length)


def _joined(slices: Iterable[Slice]) -> tuple[Slice, ...]:
    joined: list[Slice] = []
    for each in slices:
        # Those in `joined` lie apart, and `near` is all that touches `each`: their union touches no other.
        near = [other for other in joined if other.start <= each.stop and each.start <= other.stop]
        place = joined.index(near[0]) if near else len(joined)
        joined = [other for other in joined if other not in near]
        members = (each, *near)
        joined.insert(place, Slice(min(s.start for s in members), max(s.stop for s in members)))
    return tuple(joined)


# Answers that have a body.


def _uncut(method: str, facts: Facts, validators: Mapping[str, str]) -> Plan:
    headers = {**validators, "Content-Type": facts.media_type}
    if facts.length is not None:
        headers["Content-Length"] = str(facts.length)
    return Plan(200, headers, () if method == "HEAD" else None)


def _whole(method: str, length: int, media_type: str, validators: Mapping[str, str]) -> Plan:
    pieces = () if method == "HEAD" or not length else (Slice(0, length),)
    return Plan(200, _described(length, media_type, validators), pieces)


def _single(part: Slice, length: int, media_type: str, validators: Mapping[str, str]) -> Plan:
    headers = _described(part.stop - part.start, media_type, validators)
    return Plan(206, {**headers, "Content-Range": _content_range(part, length)}, (part,))


def _multipart(
    slices: tuple[Slice, ...], length: int, media_type: str, validators: Mapping[str, str], boundary: str
) -> Plan:
    """Each part with its own Content-Range, none on the whole (RFC 9110 §14.6, §15.3.7.2)."""
    pieces: list[Piece] = []
    line_end = ""  # of the part before
    for part in slices:
        fields = f"Content-Type: {media_type}\r\nContent-Range: {_content_range(part, length)}\r\n\r\n"
        pieces += f"{line_end}--{boundary}\r\n{fields}".encode("latin-1"), part
        line_end = "\r\n"
    pieces.append(f"\r\n--{boundary}--\r\n".encode("latin-1"))
    total = sum(len(piece) if isinstance(piece, bytes) else piece.stop - piece.start for piece in pieces)
    return Plan(
        206, _described(total, f"multipart/byteranges; boundary={boundary}", validators), tuple(pieces)
    )


def _described(length: int, media_type: str, validators: Mapping[str, str]) -> dict[str, str]:
    return {
        **validators,
        "Accept-Ranges": "bytes",
        "Content-Type": media_type,
        "Content-Length": str(length),
    }


def _content_range(part: Slice, length: int) -> str:
    return f"bytes {part.start}-{part.stop - 1}/{length}"
