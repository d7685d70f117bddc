"""What the operators and functions make of values. Every function here is total: no value that
JSON can hold makes it raise, and what has no answer is None (NULL, UNKNOWN).

Values are None, bool, int, float, str, Instant, and JSON arrays and objects (list, dict). Two
values compare when both are numbers, both text, both booleans or both instants. Arrays and objects
compare with nothing.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from kalam_notify.sql.instants import Instant, parse_instant
from kalam_notify.sql.like import BadPattern, cached_like
from kalam_notify.sql.logic import Truth

MAX_TEXT = 1_048_576
"""Characters of a text that `||` makes; a longer one is NULL."""

MAX_TRIMMED = 256
"""Different characters that TRIM can take off; with more the result is NULL."""

_FAMILY: dict[type, str] = {int: "number", float: "number", str: "text", bool: "bool"} | {
    Instant: "instant"
}
_NUMBERS = (int, float)


def comparable(a: Any, b: Any) -> bool:
    """Whether the two values are of one comparable kind."""
    family = _FAMILY.get(a.__class__)
    return family is not None and family == _FAMILY.get(b.__class__)


def equal(a: Any, b: Any) -> Truth:
    return a == b if comparable(a, b) else None


def unequal(a: Any, b: Any) -> Truth:
    return a != b if comparable(a, b) else None


def less(a: Any, b: Any) -> Truth:
    return a < b if comparable(a, b) else None


def less_or_equal(a: Any, b: Any) -> Truth:
    return a <= b if comparable(a, b) else None


def greater(a: Any, b: Any) -> Truth:
    return a > b if comparable(a, b) else None


def greater_or_equal(a: Any, b: Any) -> Truth:
    return a >= b if comparable(a, b) else None


def distinct(a: Any, b: Any) -> bool:
    """IS DISTINCT FROM: never UNKNOWN; values of unlike types, arrays and objects are distinct."""
    if a is None or b is None:
        return a is not b
    return not (comparable(a, b) and a == b)


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


def _finite(value: Any) -> int | float | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    number: int | float | None = value
    return number


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], int | float | None]:
    """An operation on two numbers; NULL for anything else and where a double overflows."""

    def compute(a: Any, b: Any) -> int | float | None:
        if not (_is_number(a) and _is_number(b)):
            return None
        try:
            return _finite(operation(a, b))
        except (OverflowError, ZeroDivisionError):
            return None

    return compute


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        size = abs(a) // abs(b)
        return size if (a < 0) == (b < 0) else -size
    return a / b


def _remainder(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        size = abs(a) % abs(b)
        return -size if a < 0 else size
    if b == 0:
        return None
    return math.fmod(a, b)


add = _arithmetic(lambda a, b: a + b)
subtract = _arithmetic(lambda a, b: a - b)
multiply = _arithmetic(lambda a, b: a * b)
divide = _arithmetic(_quotient)
modulo = _arithmetic(_remainder)


def negate(a: Any) -> int | float | None:
    return -a if _is_number(a) else None


def absolute(a: Any) -> int | float | None:
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


def timestamp(a: Any) -> Instant | None:
    """An instant out of ISO 8601 text; numbers and other text are NULL."""
    if isinstance(a, str):
        return parse_instant(a)
    return a if a.__class__ is Instant else None


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
    "timestamp": timestamp,
    "->": member_of,
    "->>": text_of,
}
"""Operator -> its meaning, for all that are neither connectives nor tests nor CASE."""
