"""Expressions as values: what a WHERE clause is between its text and its compiled form.

    Constant   a literal, or a claim or parameter after binding
    Parameter  $1, $2, ...; gone after binding
    Name       a column as the client wrote it, with its place; gone after binding
    Column     a column of the row
    Call       an operator or function over further expressions

Expressions are immutable, compare by value and hash; types are part of a constant's value, so 1,
1.0, TRUE and '1' are four constants. One expression may stand in several places of a tree (BETWEEN
and CASE repeat their subject), so whoever walks one remembers what was done (`normal.postorder`).

Operators of a `Call` (arguments in parentheses):
    predicates  and(..) or(..) not(p) = <> < <= > >= (a, b)  distinct(a, b)  in(a, constants..)
                any(a, array)  like(a, pattern[, escape])  ilike(..)  @>(a, json)  ?(a, key)
                is null(a)  is true(p) is false(p) is unknown(p)
    values      + - * / % (a, b)  neg(a)  ||(a, b)  -> ->> (a, key)  array(..)
                numeric(a[, precision, scale]) integer(a, bits) double(a) real(a) boolean(a)
                text(a) timestamp(a) date(a) time(a) uuid(a) json(a)
                lower upper length abs (a)  trim ltrim rtrim (a[, characters])
                substr(a, start[, length])  coalesce(..)  nullif(a, b)
                case(condition, value, .., otherwise)  claim(name)  current_user()
"""

from decimal import Decimal
from typing import Any

import msgspec

from kalam_notify.model.readings import Clock, Instant

Scalar = bool | int | float | str | Decimal | Instant | Clock | None


class Constant(msgspec.Struct, frozen=True, gc=False):
    """`kind` is null, bool, int, float, decimal, text, instant, clock or json (canonical text)."""

    kind: str
    value: Any


class Parameter(msgspec.Struct, frozen=True, gc=False):
    """`$number`, from 1; `at` is its token."""

    number: int
    at: int


class Name(msgspec.Struct, frozen=True, gc=False):
    """A column as written; `at` is its token."""

    name: str
    qualifier: tuple[str, ...]
    at: int


class Column(msgspec.Struct, frozen=True, gc=False):
    name: str


class Call(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    op: str
    args: "tuple[Expression, ...]"


Expression = Constant | Parameter | Name | Column | Call

NULL = Constant("null", None)
TRUE = Constant("bool", True)
FALSE = Constant("bool", False)

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    Decimal: "decimal",
    str: "text",
    Instant: "instant",
    Clock: "clock",
}


def words(text: str) -> frozenset[str]:
    """The words of a text, for sets of operators."""
    return frozenset(text.split())


COMPARISONS = frozenset(("=", "<>", "<", "<=", ">", ">="))
TESTS = frozenset(("is null", "is true", "is false", "is unknown"))
PREDICATES = COMPARISONS | TESTS | words("and or not distinct in any like ilike @> ?")
"""Operators whose value is TRUE, FALSE or UNKNOWN."""

READING = frozenset(("numeric", "timestamp", "time", "uuid"))
"""Operators that read a column's value as its type does (`readings`), when they stand alone."""


def constant(value: object) -> Constant:
    """The constant for a Python value; anything that is not a scalar is NULL."""
    kind = _KINDS.get(type(value))
    return NULL if kind is None else Constant(kind, value)


def is_reading(expression: Expression) -> bool:
    """Whether it is a column read as its type, which an index can look up as it can a column."""
    return (
        isinstance(expression, Call)
        and expression.op in READING
        and len(expression.args) == 1
        and isinstance(expression.args[0], Column)
    )
