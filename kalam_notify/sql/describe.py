"""Expressions as SQL text, for people."""

import re

from kalam_notify.model.readings import Clock, Instant
from kalam_notify.sql.normal import postorder
from kalam_notify.sql.tree import (
    COMPARISONS,
    PREDICATES,
    Call,
    Column,
    Constant,
    Expression,
    Name,
    Parameter,
    words,
)
from kalam_notify.sql.words import CURE_BY_WORD, KEYWORDS

_INFIX = COMPARISONS | words("+ - * / % || -> ->> @> ? like ilike")
_WORD = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_LOOSE = _INFIX | PREDICATES | {"neg"}
_CASTS = words("numeric boolean text timestamp date time uuid real")
_MOST = 8


def describe(expression: Expression) -> str:
    """The expression as SQL, every operand that has operands of its own in parentheses."""
    texts: dict[int, str] = {}
    for call in postorder(expression):
        texts[id(call)] = _call(call, [_text(arg, texts) for arg in call.args])
    return _text(expression, texts)


def _text(expression: Expression, texts: dict[int, str]) -> str:
    if isinstance(expression, Constant):
        return literal(expression.value, expression.kind)
    if isinstance(expression, (Column, Name)):
        return _named(expression.name)
    if isinstance(expression, Parameter):
        return f"${expression.number}"
    return texts[id(expression)]


def literal(value: object, kind: str = "") -> str:
    """A constant as SQL would write it."""
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "TRUE", False: "FALSE"}[value]
    if isinstance(value, str):
        quoted = "'" + value.replace("'", "''") + "'"
        return f"{quoted}::json" if kind == "json" else quoted
    if isinstance(value, Instant):
        return f"TIMESTAMP '{value}'"
    if isinstance(value, Clock):
        return f"TIME '{value}'"
    return str(value)


def listed(values: list[str]) -> str:
    """Values in parentheses, the first few of many."""
    if len(values) > _MOST:
        values = [*values[: _MOST - 1], f"… {len(values) - _MOST + 1} more"]
    return f"({', '.join(values)})"


def _call(call: Call, texts: list[str]) -> str:
    op, args = call.op, call.args
    inner = [
        f"({text})" if isinstance(arg, Call) and arg.op in _LOOSE else text
        for arg, text in zip(args, texts, strict=True)
    ]
    if op in ("and", "or"):
        return f" {op.upper()} ".join(inner)
    if op == "not" or op == "neg":
        return f"NOT {inner[0]}" if op == "not" else f"-{inner[0]}"
    if op == "in":
        return f"{inner[0]} IN ({', '.join(texts[1:])})"
    if op == "any":
        return f"{inner[0]} = ANY({texts[1]})"
    if op == "distinct":
        return f"{inner[0]} IS DISTINCT FROM {inner[1]}"
    if op.startswith("is "):
        return f"{inner[0]} {op.upper()}"
    if op in _INFIX:
        escape = f" ESCAPE {texts[2]}" if len(args) > 2 else ""
        return f"{inner[0]} {op.upper()} {inner[1]}{escape}"
    if op == "case":
        return _case(texts)
    return _function(call, texts)


def _function(call: Call, texts: list[str]) -> str:
    op = call.op
    if op == "integer":
        bits = call.args[1].value if isinstance(call.args[1], Constant) else 0
        return f"CAST({texts[0]} AS { {16: 'SMALLINT', 32: 'INTEGER'}.get(bits, 'BIGINT') })"
    if op == "double":
        return f"CAST({texts[0]} AS DOUBLE PRECISION)"
    if op in _CASTS:
        size = f"({', '.join(texts[1:])})" if texts[1:] else ""
        return f"CAST({texts[0]} AS {op.upper()}{size})"
    return f"{op.upper()}({', '.join(texts)})"


def _case(texts: list[str]) -> str:
    branches = " ".join(
        f"WHEN {when} THEN {then}" for when, then in zip(texts[:-1:2], texts[1::2], strict=True)
    )
    return f"CASE {branches} ELSE {texts[-1]} END"


def _named(name: str) -> str:
    word = name.upper()
    if _WORD.fullmatch(name) and word not in KEYWORDS and word not in CURE_BY_WORD:
        return name
    return '"' + name.replace('"', '""') + '"'
