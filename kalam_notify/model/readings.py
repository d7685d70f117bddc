"""What a typed column's JSON value stands for: a decimal, a point in time, a time of day, a UUID.

A reading is a function of any JSON value; what is no such thing reads as None. Two values that mean
the same read as equal ones, however they are spelled: '1.50' and 1.5, '2024-05-01T02:00+02' and
'2024-05-01'. Filters compare what is read, and whoever keeps an index of rows may do the same.
"""

import re
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

MAX_DIGITS: Final = 1000
"""Digits before and digits after the point of a decimal; one with more is read as nothing."""

_MOST = 10**MAX_DIGITS
# A decimal beyond a double's range stands at its end.
_LARGEST = Decimal(sys.float_info.max)
_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND

_CLOCK = r"""(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9})\d*)?)?
       [ ]?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?"""
_TIME = re.compile(rf"\s*{_CLOCK}\s*", re.VERBOSE | re.ASCII)
_INSTANT = re.compile(
    rf"\s*(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d)(?:[Tt ]{_CLOCK})?\s*".replace(
        "[Tt ]", r"(?:[Tt]|[ ]+)"
    ),
    re.VERBOSE | re.ASCII,
)
_OTHER_ISO = re.compile(r"[0-9W-]{8,10}(?:[T ][0-9:.,Z+-]{2,30})?")
_DECIMAL = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?\s*", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LOOSE_UUID = re.compile(r"\{[0-9a-f]{4}(?:-?[0-9a-f]{4}){7}\}|[0-9a-f]{4}(?:-?[0-9a-f]{4}){7}")


class Instant(NamedTuple):
    """Nanoseconds since the first day of the year 1, UTC."""

    nanoseconds: int

    def __str__(self) -> str:
        days, rest = divmod(self.nanoseconds, _DAY)
        # A zone can carry an instant one day out of the calendar.
        day = date.fromordinal(min(max(days, 1), date.max.toordinal())).isoformat()
        return f"{day}T{Clock(rest)}Z"

    @property
    def midnight(self) -> "Instant":
        """The beginning of its day in UTC."""
        return Instant(self.nanoseconds // _DAY * _DAY)


class Clock(NamedTuple):
    """Nanoseconds since midnight."""

    nanoseconds: int

    def __str__(self) -> str:
        seconds, fraction = divmod(self.nanoseconds, _SECOND)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return clock + f".{fraction:09}".rstrip("0").rstrip(".")


def parse_instant(text: str) -> Instant | None:
    """The instant that ISO 8601 text, or PostgreSQL's spelling, names; None when it names none.

    A text without a zone is UTC, a date alone its midnight; digits beyond the nanosecond are cut.
    """
    day, match = _day(text)
    if match is None:
        return _other_iso(text)
    if day is None:
        return None
    if match["hour"] is None:
        return day
    clock = _clock(match)
    return None if clock is None else Instant(day.nanoseconds + clock)


def _other_iso(text: str) -> Instant | None:
    """What else ISO 8601 allows: 20240501, 2024-W18-3, 2024-05-01T12."""
    try:
        when = datetime.fromisoformat(text) if _OTHER_ISO.fullmatch(text) else None
    except ValueError:
        return None
    if when is None:
        return None
    offset = when.utcoffset() or timedelta()
    since = when.replace(tzinfo=None) - datetime.min - offset + timedelta(days=1)
    return Instant((since // timedelta(microseconds=1)) * 1000)


def parse_date(text: str) -> Instant | None:
    """Midnight of the day that a date or timestamp names, as it is written: no zone moves it."""
    day, match = _day(text)
    if match is None:
        other = _other_iso(text)
        return None if other is None else other.midnight
    if match["hour"] is not None and _clock(match) is None:
        return None
    return day


def _day(text: str) -> tuple[Instant | None, re.Match[str] | None]:
    match = _INSTANT.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        return None, None
    try:
        days = date(int(match["year"]), int(match["month"]), int(match["day"])).toordinal()
    except ValueError:
        return None, match
    return Instant(days * _DAY), match


def parse_clock(text: str) -> Clock | None:
    """The time of day that `HH:MM[:SS[.fraction]]` names; with a zone, the same in UTC."""
    match = _TIME.fullmatch(text) if len(text) <= 100 else None
    nanoseconds = None if match is None else _clock(match)
    return None if nanoseconds is None else Clock(nanoseconds)


def _clock(match: re.Match[str]) -> int | None:
    """Nanoseconds since midnight in UTC; 24:00 and a sixtieth second belong to what follows."""
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    nanoseconds = ((hour * 60 + minute) * 60 + second) * _SECOND
    nanoseconds += int((match["fraction"] or "").ljust(9, "0"))
    zone = _zone(match["zone"])
    if zone is None or minute > 59 or second > 60 or hour > 24 or nanoseconds > _DAY:
        return None
    return nanoseconds - zone


def _zone(text: str | None) -> int | None:
    """The offset of a zone in nanoseconds, east positive."""
    if text is None or text in "Zz":
        return 0
    digits = text[1:].replace(":", "").ljust(6, "0")
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    offset = ((hours * 60 + minutes) * 60 + seconds) * _SECOND
    return offset if text[0] == "+" else -offset


def instant_of(value: Any) -> Instant | None:
    """A point in time out of text; numbers and other text are None."""
    if value.__class__ is str:
        return parse_instant(value)
    return value if value.__class__ is Instant else None


def clock_of(value: Any) -> Clock | None:
    """A time of day out of text."""
    if value.__class__ is str:
        return parse_clock(value)
    return value if value.__class__ is Clock else None


def decimal_of(value: Any) -> Decimal | None:
    """A number as an exact decimal: text in decimal digits, integers, doubles as JSON writes them.

    A double is read as the shortest decimal that stands for it: 0.1 is a tenth.
    """
    kind = value.__class__
    if kind is str:
        match = _DECIMAL.fullmatch(value) if len(value) <= 2 * MAX_DIGITS + 20 else None
        if match is None:
            return None
        number = Decimal(value)
        return number if len(value) < 100 and match[1] is None else bounded(number)
    if kind is int:
        return Decimal(value) if -_MOST < value < _MOST else None
    if kind is float:
        return Decimal(repr(value))
    return value if kind is Decimal else None


def bounded(number: Decimal) -> Decimal | None:
    """The decimal, or None when it takes more digits than are read."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -MAX_DIGITS or exponent >= MAX_DIGITS:
        return None
    return None if number and number.adjusted() >= MAX_DIGITS else number


def uuid_of(value: Any) -> str | None:
    """A UUID in its one form, lower case with hyphens: PostgreSQL's spellings are understood."""
    if value.__class__ is not str or not 32 <= len(value) <= 41:
        return None
    text: str = value.lower()
    if _UUID.fullmatch(text) is not None:
        return text
    if not text.isascii() or _LOOSE_UUID.fullmatch(text) is None:
        return None
    digits = text.strip("{}").replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


READINGS: dict[str, Callable[[Any], Any]] = {
    "numeric": decimal_of,
    "timestamp": instant_of,
    "time": clock_of,
    "uuid": uuid_of,
}
"""Reading -> how a value is read."""


def sort_key(reading: str, value: Any) -> int | float | str | None:
    """A key of 64 bits, or text, that orders a reading's values; equal values have equal keys.

    Instants and times of day in microseconds, decimals as the nearest double. `value` may be a
    JSON value or what was read already; None where it reads as nothing.
    """
    read = READINGS[reading](value)
    if isinstance(read, Instant | Clock):
        return read.nanoseconds // 1000
    if isinstance(read, Decimal):
        return float(max(-_LARGEST, min(read, _LARGEST)))
    return read  # type: ignore[no-any-return]
