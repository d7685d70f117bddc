"""`@>` and `?`, as jsonb has them, with work in proportion to both sides.

Of an array on the right each element has to be contained in some element on the left. Scalars are
found by a set; only arrays and objects inside arrays have to be tried one by one, and the number of
such trials is bounded: what takes more than MAX_TRIALS is UNKNOWN, at every delivery alike.
"""

from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

from kalam_notify.sql.logic import Truth

MAX_TRIALS = 20_000
MAX_DEPTH = 100


class _TooMuch(Exception):
    """More trials than are made."""


def canonical_json(text: str) -> str | None:
    """JSON text in one spelling, or None when it is none or nested too deeply."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return None
    if _depth(value) > MAX_DEPTH:
        return None
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [part for part in level if part.__class__ in (dict, list)]:
        depth += 1
        level = [
            inner for part in level for inner in (part.values() if part.__class__ is dict else part)
        ]
    return depth


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    return orjson.loads(text.encode())


class Json(str):
    """Canonical JSON text, told from a text of the row."""

    __slots__ = ()


def contains(a: Any, b: Any) -> Truth:
    """Whether JSON value `a` contains `b` (a `Json`, or another value of the row)."""
    if b.__class__ is Json:
        b = _parsed(b)
    elif b is None:
        return None
    if a is None:
        return None
    if a.__class__ is list and b.__class__ not in (list, dict):
        b = [b]  # an array may contain a scalar, at its top only
    try:
        return _Trial().contains(a, b)
    except (_TooMuch, RecursionError):
        return None


class _Trial:
    def __init__(self) -> None:
        self._left = MAX_TRIALS

    def contains(self, a: Any, b: Any) -> bool:
        self._left -= 1
        if self._left < 0:
            raise _TooMuch
        if b.__class__ is dict:
            return a.__class__ is dict and all(
                name in a and self.contains(a[name], value) for name, value in b.items()
            )
        if b.__class__ is list:
            return a.__class__ is list and self._elements(a, b)
        return a.__class__ not in (list, dict) and _key(a) == _key(b)

    def _elements(self, a: list[Any], b: list[Any]) -> bool:
        scalars = {_key(part) for part in b if part.__class__ not in (list, dict)}
        if scalars and not scalars <= {
            _key(part) for part in a if part.__class__ not in (list, dict)
        }:
            return False
        nested = [part for part in b if part.__class__ in (list, dict)]
        candidates = [part for part in a if part.__class__ in (list, dict)] if nested else []
        return all(any(self.contains(part, wanted) for part in candidates) for wanted in nested)


def _key(value: Any) -> Any:
    """Equal for equal scalars: numbers by value, nothing else with them."""
    if value.__class__ is bool or value is None:
        return (value,)
    return Decimal(repr(value)) if value.__class__ is float else value


def has_key(a: Any, key: Any) -> Truth:
    """`?`: an object's key, or a text among an array's elements, or the text itself."""
    if a is None or key.__class__ is not str:
        return None
    if a.__class__ is dict or a.__class__ is list:
        return key in a
    return a.__class__ is str and a == key
