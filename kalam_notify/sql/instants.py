"""Points in time out of ISO 8601 text."""

import re
from datetime import date
from typing import NamedTuple

_ISO = re.compile(
    r"""\s*
    (?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)
    (?:[Tt\ ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9})\d*)?)?
       \s*(?P<zone>[Zz]|[+-]\d\d(?::?\d\d)?)?
    )?\s*""",
    re.VERBOSE | re.ASCII,
)
_SECOND = 1_000_000_000


class Instant(NamedTuple):
    """Nanoseconds since the first day of the year 1, UTC."""

    nanoseconds: int

    def __str__(self) -> str:
        seconds, fraction = divmod(self.nanoseconds, _SECOND)
        days, second = divmod(seconds, 86_400)
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        digits = f".{fraction:09}".rstrip("0").rstrip(".")
        # A zone can carry an instant one day out of the calendar.
        day = date.fromordinal(min(max(days, 1), date.max.toordinal())).isoformat()
        return f"{day}T{clock}{digits}Z"


def parse_instant(text: str) -> Instant | None:
    """The instant that ISO 8601 text names, or None when it names none.

    A text without a zone is UTC, a date alone its midnight; digits beyond the nanosecond are cut.
    """
    if len(text) > 100:
        return None
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    try:
        days = date(int(match["year"]), int(match["month"]), int(match["day"])).toordinal()
    except ValueError:
        return None
    clock = _clock(match)
    zone = _zone(match["zone"])
    if clock is None or zone is None:
        return None
    return Instant(days * 86_400 * _SECOND + clock - zone)


def _clock(match: re.Match[str]) -> int | None:
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    if hour > 23 or minute > 59 or second > 59:
        return None
    fraction = int((match["fraction"] or "").ljust(9, "0"))
    return ((hour * 60 + minute) * 60 + second) * _SECOND + fraction


def _zone(text: str | None) -> int | None:
    """The offset of a zone in nanoseconds, east positive."""
    if text is None or text in "Zz":
        return 0
    hours, minutes = int(text[1:3]), int(text[3:].lstrip(":") or 0)
    if hours > 23 or minutes > 59:
        return None
    seconds = (hours * 60 + minutes) * 60
    return (seconds if text[0] == "+" else -seconds) * _SECOND
