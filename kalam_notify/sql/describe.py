"""Expressions as SQL text, for people."""

import re

from kalam_notify.sql.instants import Instant
from kalam_notify.sql.tree import COMPARISONS, PREDICATES, Call, Column, Constant, Expression, Name
from kalam_notify.sql.vocabulary import CURE_BY_WORD, KEYWORDS

_INFIX = COMPARISONS | frozenset(("+", "-", "*", "/", "%", "||", "->", "->>", "like", "ilike"))
_WORD = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_JOINED = {"and": " AND ", "or": " OR "}
_LOOSE = _INFIX | PREDICATES | {"neg"}
_MOST = 8


def describe(expression: Expression) -> str:
    """The expression as SQL, every operand that has operands of its own in parentheses."""
    if isinstance(expression, Constant):
        return literal(expression.value)
    if isinstance(expression, (Column, Name)):
        return _named(expression.name)
    return _call(expression)


def literal(value: object) -> str:
    """A constant as SQL would write it."""
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "TRUE", False: "FALSE"}[value]
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, Instant):
        return f"TIMESTAMP '{value}'"
    return str(value)


def listed(values: list[str]) -> str:
    """Values in parentheses, the first few of many."""
    if len(values) > _MOST:
        values = [*values[: _MOST - 1], f"… {len(values) - _MOST + 1} more"]
    return f"({', '.join(values)})"


def _call(call: Call) -> str:
    op, args = call.op, call.args
    if op in _JOINED:
        return _JOINED[op].join(_operand(arg) for arg in args)
    if op == "not":
        return f"NOT {_operand(args[0])}"
    if op == "in":
        return f"{_operand(args[0])} IN ({', '.join(describe(arg) for arg in args[1:])})"
    if op == "distinct":
        return f"{_operand(args[0])} IS DISTINCT FROM {_operand(args[1])}"
    if op.startswith("is "):
        return f"{_operand(args[0])} {op.upper()}"
    if op in _INFIX:
        escape = f" ESCAPE {describe(args[2])}" if len(args) > 2 else ""
        return f"{_operand(args[0])} {op.upper()} {_operand(args[1])}{escape}"
    if op == "case":
        return _case(args)
    if op == "timestamp":
        return f"CAST({describe(args[0])} AS TIMESTAMP)"
    if op == "neg":
        return f"-{_operand(args[0])}"
    return f"{op.upper()}({', '.join(describe(arg) for arg in args)})"


def _operand(expression: Expression) -> str:
    text = describe(expression)
    return f"({text})" if isinstance(expression, Call) and expression.op in _LOOSE else text


def _case(args: tuple[Expression, ...]) -> str:
    branches = " ".join(
        f"WHEN {describe(when)} THEN {describe(then)}"
        for when, then in zip(args[:-1:2], args[1::2], strict=True)
    )
    return f"CASE {branches} ELSE {describe(args[-1])} END"


def _named(name: str) -> str:
    word = name.upper()
    if _WORD.fullmatch(name) and word not in KEYWORDS and word not in CURE_BY_WORD:
        return name
    return '"' + name.replace('"', '""') + '"'
