"""Expressions as values: what a WHERE clause is between its text and its compiled form.

    Constant  a literal, or a claim after binding
    Name      a column as the client wrote it, with its place; gone after binding
    Column    a column of the row
    Call      an operator or function over further expressions

Expressions are immutable, compare by value and hash; types are part of a constant's value, so 1,
1.0, TRUE and '1' are four constants.

Operators of a `Call` (arguments in parentheses):
    predicates  and(..) or(..) not(p) = <> < <= > >= (a, b)  distinct(a, b)  in(a, constants..)
                like(a, pattern[, escape])  ilike(..)  is null(a)  is true(p) is false(p)
                is unknown(p)
    values      + - * / % (a, b)  neg(a)  ||(a, b)  -> ->> (a, key)  timestamp(a)
                lower upper length abs (a)  trim ltrim rtrim (a[, characters])
                substr(a, start[, length])  coalesce(..)  nullif(a, b)
                case(condition, value, .., otherwise)  claim(name)  current_user()
"""

from typing import Any

import msgspec

from kalam_notify.sql.instants import Instant

Scalar = bool | int | float | str | Instant | None


class Constant(msgspec.Struct, frozen=True, gc=False):
    """`kind` is null, bool, int, float, text or instant."""

    kind: str
    value: Any


class Name(msgspec.Struct, frozen=True, gc=False):
    """A column as written; `offset` is its place in the text."""

    name: str
    qualifier: tuple[str, ...]
    offset: int


class Column(msgspec.Struct, frozen=True, gc=False):
    name: str


class Call(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    op: str
    args: "tuple[Expression, ...]"


Expression = Constant | Name | Column | Call

NULL = Constant("null", None)
TRUE = Constant("bool", True)
FALSE = Constant("bool", False)

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    Instant: "instant",
}

COMPARISONS = frozenset(("=", "<>", "<", "<=", ">", ">="))

PREDICATES = COMPARISONS | frozenset(
    (
        "and",
        "or",
        "not",
        "distinct",
        "in",
        "like",
        "ilike",
        "is null",
        "is true",
        "is false",
        "is unknown",
    )
)
"""Operators whose value is TRUE, FALSE or UNKNOWN."""


def constant(value: object) -> Constant:
    """The constant for a Python value; anything that is not a scalar is NULL."""
    kind = _KINDS.get(type(value))
    return NULL if kind is None else Constant(kind, value)


def is_predicate(expression: Expression) -> bool:
    """Whether the expression's value is always TRUE, FALSE or UNKNOWN."""
    if isinstance(expression, Call):
        return expression.op in PREDICATES
    return isinstance(expression, Constant) and expression.kind in ("bool", "null")


def is_instant(expression: Expression) -> bool:
    """Whether the expression can only be an instant (or NULL)."""
    if isinstance(expression, Call):
        return expression.op == "timestamp"
    return isinstance(expression, Constant) and expression.kind == "instant"
