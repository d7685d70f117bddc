"""The language by the book: a tree of the parser's, asked node by node with the truth tables.

It shares the meaning of single operators with the code under test (`values`, `logic`), and nothing
of the normal form, the compiler or the index.
"""

from typing import Any

from kalam_notify.sql.logic import and_, not_, or_, truth
from kalam_notify.sql.operators import FUNCTIONS
from kalam_notify.sql.tree import Call, Column, Constant, Expression, Name

_TESTS = {"is true": True, "is false": False, "is unknown": None}


def evaluate(expression: Expression, row: dict[str, Any]) -> Any:
    """The value of an expression: True, False or None for a predicate."""
    if isinstance(expression, Constant):
        return expression.value
    if isinstance(expression, (Column, Name)):
        return row.get(expression.name)
    return _call(expression, row)


def _call(call: Call, row: dict[str, Any]) -> Any:
    op = call.op
    if op == "case":
        return _case(call, row)
    values = [evaluate(arg, row) for arg in call.args]
    if op == "and":
        return and_(truth(value) for value in values)
    if op == "or":
        return or_(truth(value) for value in values)
    if op == "not":
        return not_(truth(values[0]))
    if op == "is null":
        return values[0] is None
    if op in _TESTS:
        return truth(values[0]) is _TESTS[op]
    return FUNCTIONS[op](*values)


def _case(call: Call, row: dict[str, Any]) -> Any:
    *branches, otherwise = call.args
    for when, then in zip(branches[::2], branches[1::2], strict=True):
        if truth(evaluate(when, row)) is True:
            return evaluate(then, row)
    return evaluate(otherwise, row)
