"""CAST: what PostgreSQL makes of a value, and None where it would raise an error."""

import json
import math
import re
import struct
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from kalam_notify.model.readings import (
    MAX_DIGITS,
    Clock,
    Instant,
    decimal_of,
    instant_of,
    parse_date,
)

_INTEGER = re.compile(r"\s*[+-]?\d{1,30}\s*", re.ASCII)
_DOUBLE = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_NONZERO = re.compile(r"[1-9]")
_ROUNDING = Context(prec=8 * MAX_DIGITS, rounding=ROUND_HALF_UP)
_SPACE = " \t\n\r\v\f"
_BOOLEANS = {"on": True, "of": False, "off": False, "1": True, "0": False} | {
    word[:size]: value
    for word, value in {"true": True, "yes": True, "false": False, "no": False}.items()
    for size in range(1, len(word) + 1)
}


def as_numeric(a: Any, precision: int | None = None, scale: int = 0) -> Decimal | None:
    """An exact decimal; with a precision, rounded to its scale, half away from zero."""
    number = decimal_of(a)
    if number is None or precision is None:
        return number
    rounded = number.quantize(Decimal(1).scaleb(-scale), context=_ROUNDING)
    return rounded if not rounded or rounded.adjusted() < precision - scale else None


def as_integer(a: Any, bits: int) -> int | None:
    """An integer of so many bits. Decimals round half away from zero, doubles half to even."""
    kind = a.__class__
    if kind is int:
        number = a
    elif kind is str:
        number = int(a) if len(a) < 100 and _INTEGER.fullmatch(a) else None
    elif kind is float:
        number = round(a)
    elif kind is Decimal:
        number = int(a.to_integral_value(context=_ROUNDING))
    elif kind is bool and bits == 32:
        number = int(a)
    else:
        return None
    limit = 1 << bits - 1
    return number if number is not None and -limit <= number < limit else None


def as_double(a: Any) -> float | None:
    """A double; None beyond its range, where only zero or infinity would be near."""
    kind = a.__class__
    if kind is str:
        if len(a) > 2 * MAX_DIGITS or _DOUBLE.fullmatch(a) is None:
            return None
        digits = a.lower().partition("e")[0]
    elif kind is int or kind is float or kind is Decimal:
        digits = ""
    else:
        return None
    try:
        number = float(a)
    except OverflowError:
        return None
    if math.isinf(number) or (number == 0 and _NONZERO.search(digits)):
        return None
    return number


def as_real(a: Any) -> float | None:
    """The nearest double of 32 bits."""
    number = as_double(a)
    if number is None:
        return None
    try:
        narrow: float = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return None
    return None if number and not narrow else narrow


def as_boolean(a: Any) -> bool | None:
    """PostgreSQL's words for true and false in any case, or an integer that is zero or not."""
    if a.__class__ is str:
        return _BOOLEANS.get(a.strip(_SPACE).lower()) if len(a) < 100 else None
    if a.__class__ is int:
        return bool(a != 0)
    return a if a.__class__ is bool else None


def as_date(a: Any) -> Instant | None:
    """Midnight of a day: that which a text names, or that of an instant in UTC."""
    if a.__class__ is str:
        return parse_date(a)
    instant = instant_of(a)
    return None if instant is None else instant.midnight


def as_text(a: Any) -> str | None:
    """Numbers and booleans as PostgreSQL writes them, arrays and objects as compact JSON."""
    kind = a.__class__
    if kind is str or a is None:
        return a  # type: ignore[no-any-return]
    if kind is bool:
        return "true" if a else "false"
    if kind is int:
        return str(a)
    if kind is float:
        return _double_text(a)
    if kind is Decimal:
        return format(a if a else a.copy_abs(), "f")
    if kind is Instant or kind is Clock:
        return str(a)
    return json.dumps(a, ensure_ascii=False, separators=(",", ":"))


def _double_text(number: float) -> str:
    """The shortest digits, with an exponent below 1e-4 and from 1e15 on."""
    if number == 0:
        return "-0" if math.copysign(1, number) < 0 else "0"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    place = len(digits) + exponent - 1
    if -5 < place < 15:
        return format(Decimal(repr(number)).normalize(), "f")
    tail = "".join(map(str, digits[1:]))
    mantissa = f"{digits[0]}.{tail}" if tail else str(digits[0])
    return f"{'-' if sign else ''}{mantissa}e{'-' if place < 0 else '+'}{abs(place):02}"
