"""The fields of a row, as drivers give them → as records are written.

Records know numbers, texts, dates, bytes and their kin (`media.records`). PostgreSQL has more: what has no
counterpart in Python comes as the text that PostgreSQL itself writes, and nothing is lost or refused.

- `json` and `jsonb` are JSON inside JSON, with every digit.
- Times and dates that Python cannot hold (`infinity`, the year 20000, 44 BC, 24:00) are texts.
- An interval is an ISO 8601 duration: how long a month is, it does not say.
- An array is a list, a row of its own a record.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID

import orjson

from media.values import field_text

AS_TEXT = (
    *("bit", "varbit", "inet", "cidr", "pg_lsn", "tid"),
    *("point", "line", "lseg", "box", "path", "polygon", "circle"),
)
"""Types of PostgreSQL that come as it writes them."""

_KNOWN = (str, int, float, type(None), Decimal, date, time, timedelta, bytes, UUID, orjson.Fragment)
"""What records can write, and JSON."""

_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), int),
    **dict.fromkeys(("float4", "float8"), float),
    **dict.fromkeys(("timestamp", "timestamptz"), datetime),
    "numeric": Decimal,
    "bool": bool,
    "date": date,
    "time": time,
    "uuid": UUID,
}

_ENDS_OF_DAYS = {"infinity": 2**31 - 1, "-infinity": -(2**31)}
_ENDS_OF_TIME = {"infinity": 2**63 - 1, "-infinity": -(2**63)}
_DAYS_OF_400_YEARS = 146_097
_DAY_MICROSECONDS = 86_400_000_000
_FAR_DAY = re.compile(r"([+-][0-9]{4,6})-([0-9]{2}-[0-9]{2})(?:T(.+))?")
_INTERVAL = re.compile(r"P(?:(-?[0-9]+)M)?(?:(-?[0-9]+)D)?T(-?[0-9]+(?:\.[0-9]{1,6})?)S")
_DAY = timedelta(days=1)
_EPOCH = datetime(2000, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_EPOCH_DAY = _EPOCH.date()


def written(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """The rows with what records cannot write as text, lists and records."""
    odd = {kind for kind in set(map(type, chain.from_iterable(rows))) if not issubclass(kind, _KNOWN)}
    if not odd:
        return rows
    return [[_told(value) if type(value) in odd else value for value in row] for row in rows]


def types_of(parameters: Mapping[str, Any]) -> dict[str, type]:
    """What asyncpg says of a statement's parameters, as types of Python; a text is what it does not know."""
    return {name: _TYPES.get(found.name, str) for name, found in parameters.items()}


def can_be_far(text: str, kind: type) -> bool:
    """Whether a text can be what is written here of a date or time that Python has no value for."""
    if not issubclass(kind, date | time):
        return False
    return text in _ENDS_OF_DAYS or text.startswith("24:") or _FAR_DAY.fullmatch(text) is not None


def prepare(connection: Any, record: object) -> None:
    """Have asyncpg give values as above. For SQLAlchemy's event `connect`; sends nothing."""
    connection.run_async(_prepare)


async def _prepare(driver: Any) -> None:
    def codec(name: str, encode: Any, decode: Any, form: str) -> Any:
        return driver.set_type_codec(name, schema="pg_catalog", encoder=encode, decoder=decode, format=form)

    for name in AS_TEXT:
        await codec(name, str, str, "text")
    for name in ("json", "jsonb"):
        await codec(name, _json_told, _json, "text")
    await codec("float4", str, float, "text")  # else 0.1 is 0.10000000149011612
    await codec("date", _date_told, _date, "tuple")
    await codec("timestamp", _moment_told(_EPOCH), _moment(_EPOCH), "tuple")
    await codec("timestamptz", _moment_told(_EPOCH_UTC), _moment(_EPOCH_UTC), "tuple")
    await codec("time", _time_told, _time, "tuple")
    await codec("timetz", _time_with_zone_told, _time_with_zone, "tuple")
    await codec("interval", _interval_told, _interval, "tuple")


class _Far(str):
    """What Python has no type for, as text, with PostgreSQL's own numbers: a page may begin behind it."""

    told: tuple[int, ...]


def _far(text: str, told: tuple[int, ...]) -> _Far:
    far = _Far(text)
    far.told = told
    return far


def _json(text: str) -> orjson.Fragment:
    # One line: within a string no line break stands as it is (RFC 8259 §7).
    return orjson.Fragment(text.replace("\n", " ").replace("\r", " "))


def _json_told(value: Any) -> str:
    return orjson.dumps(value).decode() if isinstance(value, orjson.Fragment) else str(value)


def _date(told: tuple[int]) -> date | _Far:
    try:
        return _EPOCH_DAY + timedelta(days=told[0])
    except OverflowError:
        return _far(_end(_ENDS_OF_DAYS, told[0]) or _far_day(told[0]), told)


def _date_told(value: Any) -> tuple[int, ...]:
    if isinstance(value, _Far):
        return value.told
    if value in _ENDS_OF_DAYS:
        return (_ENDS_OF_DAYS[value],)
    if isinstance(value, str) and (far := _FAR_DAY.fullmatch(value)):
        return (_far_days(far),)
    day = date.fromisoformat(value) if isinstance(value, str) else value
    return ((day - _EPOCH_DAY).days,)


def _moment(epoch: datetime) -> Callable[[tuple[int]], datetime | _Far]:
    def decode(told: tuple[int]) -> datetime | _Far:
        since = timedelta(microseconds=told[0])
        try:
            return epoch + since
        except OverflowError:
            days, rest = divmod(since, _DAY)
            clock = (epoch + rest).timetz().isoformat()
            return _far(_end(_ENDS_OF_TIME, told[0]) or f"{_far_day(days)}T{clock}", told)

    return decode


def _moment_told(epoch: datetime) -> Callable[[Any], tuple[int, ...]]:
    def encode(value: Any) -> tuple[int, ...]:
        if isinstance(value, _Far):
            return value.told
        if value in _ENDS_OF_TIME:
            return (_ENDS_OF_TIME[value],)
        if isinstance(value, str) and (far := _FAR_DAY.fullmatch(value)):
            return (_far_days(far) * _DAY_MICROSECONDS + _time_told(far[3] or "00:00")[0],)
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if epoch.tzinfo is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        elif epoch.tzinfo is None and moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        return ((moment - epoch) // timedelta(microseconds=1),)

    return encode


def _end(ends: Mapping[str, int], number: int) -> str:
    return next((name for name, end in ends.items() if end == number), "")


def _far_day(days: int) -> str:
    """A day as ISO 8601 has it beyond the years of Python: with a sign, and a year 0 before the year 1."""
    cycles, rest = divmod(_EPOCH_DAY.toordinal() - 1 + days, _DAYS_OF_400_YEARS)
    day = date.fromordinal(rest + 1)
    return f"{day.year + 400 * cycles:+05d}-{day:%m-%d}"


def _far_days(far: re.Match[str]) -> int:
    cycles, year = divmod(int(far[1]) - 1, 400)
    day = date.fromisoformat(f"{year + 1:04}-{far[2]}")
    return (day - _EPOCH_DAY).days + cycles * _DAYS_OF_400_YEARS


def _time(told: tuple[int]) -> time | _Far:
    at = (_EPOCH + timedelta(microseconds=told[0])).time()
    return at if told[0] < _DAY_MICROSECONDS else _far("24" + at.isoformat()[2:], told)


def _time_with_zone(told: tuple[int, int]) -> _Far:
    # Always as text: orjson refuses a time with a zone.
    since, west = told
    zone = datetime(2000, 1, 1, tzinfo=timezone(-timedelta(seconds=west))).isoformat()[19:]
    return _far(f"{_time((since,))!s}{zone}", told)


def _time_told(value: Any) -> tuple[int, ...]:
    if isinstance(value, _Far):
        return value.told
    at, days = _time_of(value)
    since = timedelta(days, hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond)
    return (since // timedelta(microseconds=1),)


def _time_of(value: Any) -> tuple[time, int]:
    """A time, and whether it is that of the next day: 24:00."""
    if not isinstance(value, str):
        return value, 0
    next_day = value.startswith("24:")
    return time.fromisoformat("00" + value[2:] if next_day else value), int(next_day)


def _time_with_zone_told(value: Any) -> tuple[int, ...]:
    if isinstance(value, _Far):
        return value.told
    at, _ = _time_of(value)
    offset = at.utcoffset() or timedelta()
    return (*_time_told(at), -offset // timedelta(seconds=1))


def _interval(told: tuple[int, ...]) -> _Far:
    months, days, microseconds = told
    seconds = f"{Decimal(microseconds).scaleb(-6):f}".rstrip("0").rstrip(".") if microseconds else "0"
    text = f"P{f'{months}M' if months else ''}{f'{days}D' if days else ''}T{seconds}S"
    return _far(text, told)


def _interval_told(value: Any) -> tuple[int, ...]:
    if isinstance(value, _Far):
        return value.told
    if isinstance(value, str) and (found := _INTERVAL.fullmatch(value)):
        return int(found[1] or 0), int(found[2] or 0), int(Decimal(found[3]).scaleb(6))
    return 0, value.days, value.seconds * 1_000_000 + value.microseconds


def _told(value: Any) -> object:
    """A value of a type that records do not know."""
    if isinstance(value, list | tuple | set | frozenset):
        return [_told(one) for one in value]
    if isinstance(value, _KNOWN):
        return value
    if hasattr(value, "items"):  # a row inside a row
        return {str(name): _told(one) for name, one in value.items()}
    if hasattr(value, "lower_inc"):
        return _range(value)
    return bytes(value) if isinstance(value, memoryview) else str(value)


def _range(value: Any) -> str:
    if value.isempty:
        return "empty"
    lower, upper = ("" if end is None else field_text(_told(end)) for end in (value.lower, value.upper))
    return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"
