"""What the operators and functions make of values. Every function here is total: no value that
JSON can hold makes it raise, and what has no answer is None (NULL, UNKNOWN).

Values are None, bool, int, float, Decimal, str, Instant, Clock, and JSON arrays and objects (list,
dict). Two values compare when both are numbers, both text, both booleans, both instants or both
times of day. Arrays and objects compare with nothing.
"""

import json
import math
import operator
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Any

from kalam_notify.model.readings import (
    MAX_DIGITS,
    Clock,
    Instant,
    bounded,
    clock_of,
    instant_of,
    uuid_of,
)
from kalam_notify.sql.casts import (
    as_boolean,
    as_date,
    as_double,
    as_integer,
    as_numeric,
    as_real,
    as_text,
)
from kalam_notify.sql.containment import contains, has_key
from kalam_notify.sql.like import BadPattern, cached_like
from kalam_notify.sql.logic import Truth

MAX_TEXT = 1_048_576
"""Characters of a text that `||` makes; a longer one is NULL."""

MAX_TRIMMED = 256
"""Different characters that TRIM can take off; with more the result is NULL."""

MAX_INTEGER = 10**4000
"""A sum or product of integers as large as this is NULL: its digits could not be written."""

_FAMILY: dict[type, str] = {
    int: "number",
    float: "number",
    Decimal: "number",
    str: "text",
    bool: "bool",
    Instant: "instant",
    Clock: "clock",
}
_NUMBERS = (int, float, Decimal)


def comparable(a: Any, b: Any) -> bool:
    """Whether the two values are of one comparable kind."""
    family = _FAMILY.get(a.__class__)
    return family is not None and family == _FAMILY.get(b.__class__)


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """A decimal and a double, both as decimals: 0.1 is a tenth in either."""
    if a.__class__ is Decimal and b.__class__ is float:
        return a, Decimal(repr(b))
    if a.__class__ is float and b.__class__ is Decimal:
        return Decimal(repr(a)), b
    return a, b


def _comparison(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Truth]:
    def compared(a: Any, b: Any) -> Truth:
        if a.__class__ is b.__class__:
            return compare(a, b) if a.__class__ in _FAMILY else None
        return compare(*_alike(a, b)) if comparable(a, b) else None

    return compared


equal = _comparison(operator.eq)
unequal = _comparison(operator.ne)
less = _comparison(operator.lt)
less_or_equal = _comparison(operator.le)
greater = _comparison(operator.gt)
greater_or_equal = _comparison(operator.ge)


def distinct(a: Any, b: Any) -> bool:
    """IS DISTINCT FROM: never UNKNOWN; values of unlike types, arrays and objects are distinct."""
    if a is None or b is None:
        return a is not b
    return not equal(a, b)


def member(a: Any, *values: Any) -> Truth:
    """IN: UNKNOWN unless one is equal or all of them are comparable and unequal."""
    result: Truth = False
    for value in values:
        same = equal(a, value)
        if same:
            return True
        if same is None:
            result = None
    return result


def any_of(a: Any, values: Any) -> Truth:
    """`a = ANY(array)`: as IN; UNKNOWN of what is no array."""
    if values.__class__ is not list or (a is None and values):
        return None
    if (a.__class__ is str and a in values) or not values:
        return bool(values)
    return member(a, *values)


def like(a: Any, pattern: Any, escape: str | None = None) -> Truth:
    return _like(a, pattern, escape, fold_case=False)


def ilike(a: Any, pattern: Any, escape: str | None = None) -> Truth:
    return _like(a, pattern, escape, fold_case=True)


def _like(a: Any, pattern: Any, escape: str | None, *, fold_case: bool) -> Truth:
    if not isinstance(a, str) or not isinstance(pattern, str):
        return None
    try:
        return cached_like(pattern, escape, fold_case=fold_case)(a)
    except BadPattern:
        return None


def _is_number(value: Any) -> bool:
    return value.__class__ in _NUMBERS


def _finite(value: Any) -> int | float | Decimal | None:
    if value.__class__ is float:
        return value if math.isfinite(value) else None
    if value.__class__ is int:
        return value if -MAX_INTEGER < value < MAX_INTEGER else None
    return None if value is None else bounded(value)


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operation on two numbers; NULL for anything else and where it overflows.

    Of unlike numbers a double makes the other a double, else a decimal makes the other a decimal.
    """

    def compute(a: Any, b: Any) -> int | float | Decimal | None:
        try:
            # Most are, and filters are asked by the thousand.
            if a.__class__ is int and b.__class__ is int:
                result: int = operation(a, b)
                return result if -MAX_INTEGER < result < MAX_INTEGER else None
            if not (_is_number(a) and _is_number(b)):
                return None
            if a.__class__ is Decimal and b.__class__ is float:
                a = float(a)
            elif a.__class__ is float and b.__class__ is Decimal:
                b = float(b)
            elif a.__class__ is Decimal or b.__class__ is Decimal:
                with localcontext(_EXACT):
                    return _finite(operation(a, b))
            return _finite(operation(a, b))
        except (ArithmeticError, ValueError):
            return None

    return compute


# More digits than a product of two bounded decimals has.
_EXACT = Context(prec=8 * MAX_DIGITS, rounding=ROUND_HALF_UP, Emax=MAX_EMAX, Emin=MIN_EMIN)
_QUOTIENT_DIGITS = 20


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        size = abs(a) // abs(b)
        return size if (a < 0) == (b < 0) else -size
    if a.__class__ is float or b.__class__ is float:
        return a / b
    return _decimal_quotient(Decimal(a), Decimal(b))


def _decimal_quotient(a: Decimal, b: Decimal) -> Decimal:
    """With 20 digits after the point, or as many as the operands have, half away from zero."""
    with localcontext(_EXACT):
        digits = max(_QUOTIENT_DIGITS, -int(a.as_tuple().exponent), -int(b.as_tuple().exponent))
        # Cut first with digits to spare, so that rounding happens once.
        exact = a / b
        return exact.quantize(Decimal(1).scaleb(-digits))


def _remainder(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        if a >= 0 < b:
            return a % b
        size = abs(a) % abs(b)
        return -size if a < 0 else size
    if b == 0:
        return None
    return math.fmod(a, b) if a.__class__ is float or b.__class__ is float else a % b


add = _arithmetic(lambda a, b: a + b)
subtract = _arithmetic(lambda a, b: a - b)
multiply = _arithmetic(lambda a, b: a * b)
divide = _arithmetic(_quotient)
modulo = _arithmetic(_remainder)


def negate(a: Any) -> Any:
    if a.__class__ is Decimal:
        return a.copy_negate()  # the operator would round
    return -a if _is_number(a) else None


def absolute(a: Any) -> Any:
    if a.__class__ is Decimal:
        return a.copy_abs()
    return abs(a) if _is_number(a) else None


def concatenate(a: Any, b: Any) -> str | None:
    if not (isinstance(a, str) and isinstance(b, str)) or len(a) + len(b) > MAX_TEXT:
        return None
    return a + b


def lower(a: Any) -> str | None:
    return a.lower() if isinstance(a, str) else None


def upper(a: Any) -> str | None:
    return a.upper() if isinstance(a, str) else None


def length(a: Any) -> int | None:
    return len(a) if isinstance(a, str) else None


def _trimmer(strip: Callable[[str, str], str]) -> Callable[..., str | None]:
    def trim(a: Any, characters: Any = " ") -> str | None:
        if not isinstance(a, str) or not isinstance(characters, str):
            return None
        # Each character of the text is looked for among these: the product must stay small.
        return strip(a, characters) if len(characters) <= MAX_TRIMMED else None

    return trim


trim_both = _trimmer(str.strip)
trim_left = _trimmer(str.lstrip)
trim_right = _trimmer(str.rstrip)


def substring(a: Any, start: Any, count: Any = ...) -> str | None:
    """The characters at positions start .. start + count - 1, the first being 1.

    Positions before 1 exist and are empty, as in PostgreSQL; a negative count is NULL.
    """
    if not isinstance(a, str) or start.__class__ is not int:
        return None
    first = max(start - 1, 0)
    if count is ...:
        return a[first:]
    if count.__class__ is not int or count < 0:
        return None
    return a[first : max(start - 1 + count, 0)]


def coalesce(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    return None


def nullif(a: Any, b: Any) -> Any:
    return None if equal(a, b) else a


def member_of(a: Any, key: Any) -> Any:
    """`->`: the value under a name of an object or at a place (from 0) of an array."""
    if isinstance(a, dict) and isinstance(key, str):
        return a.get(key)
    if isinstance(a, list) and key.__class__ is int and -len(a) <= key < len(a):
        return a[key]
    return None


def text_of(a: Any, key: Any) -> str | None:
    """`->>`: like `->`, as text: a string as it is, anything else as compact JSON."""
    value = member_of(a, key)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "=": equal,
    "<>": unequal,
    "<": less,
    "<=": less_or_equal,
    ">": greater,
    ">=": greater_or_equal,
    "distinct": distinct,
    "in": member,
    "like": like,
    "ilike": ilike,
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": modulo,
    "neg": negate,
    "abs": absolute,
    "||": concatenate,
    "lower": lower,
    "upper": upper,
    "length": length,
    "trim": trim_both,
    "ltrim": trim_left,
    "rtrim": trim_right,
    "substr": substring,
    "coalesce": coalesce,
    "nullif": nullif,
    "any": any_of,
    "@>": contains,
    "?": has_key,
    "numeric": as_numeric,
    "integer": as_integer,
    "double": as_double,
    "real": as_real,
    "boolean": as_boolean,
    "text": as_text,
    "timestamp": instant_of,
    "date": as_date,
    "time": clock_of,
    "uuid": uuid_of,
    "->": member_of,
    "->>": text_of,
}
"""Operator -> its meaning, for all that are neither connectives nor tests nor CASE."""
