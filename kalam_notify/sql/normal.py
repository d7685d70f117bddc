"""One form for all expressions that mean the same by these rules, each exact in three values:

- NOT moves inwards (De Morgan) and turns comparisons around; `NOT (a < b)` is `a >= b`.
- Nested ANDs and ORs are one; their operands are sorted, doubles dropped, constants folded.
- The constant of a comparison stands right; `a > b` between columns is `b < a`; `a = b` is sorted.
- `a = 1 OR a IN (2, 3)` is `a IN (1, 2, 3)`; IN of one value is `=`; BETWEEN was read as >= AND <=.
- A value taken as a condition is `value = TRUE`; `p = TRUE` is p and `p = FALSE` is NOT p.
- A comparison with an instant reads its other side as a timestamp.
- Functions of constants are computed; in comparisons 5.0 is 5; LIKE without a wildcard is `=`.

A WHERE asks only for TRUE, so at its top UNKNOWN is as good as FALSE (`positive`).
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

from kalam_notify.sql.like import BadPattern, literal_prefix
from kalam_notify.sql.logic import not_
from kalam_notify.sql.tree import (
    COMPARISONS,
    FALSE,
    NULL,
    TRUE,
    Call,
    Column,
    Constant,
    Expression,
    constant,
    is_instant,
    is_predicate,
)
from kalam_notify.sql.values import FUNCTIONS, member

_OPPOSITE = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_TWO_VALUED = frozenset(("is null", "is true", "is false", "is unknown", "distinct"))


def normalize(expression: Expression) -> Expression:
    """The normal form of a WHERE clause: a predicate, or TRUE or FALSE."""
    try:
        return positive(condition(expression))
    finally:
        # The texts were for this expression; its nodes must not outlive it.
        order.cache_clear()


def positive(p: Expression) -> Expression:
    """What matters of a predicate where only TRUE counts: UNKNOWN becomes FALSE."""
    if p == NULL:
        return FALSE
    if isinstance(p, Call):
        if p.op == "and":
            return conjunction(positive(operand) for operand in p.args)
        if p.op == "or":
            return disjunction(positive(operand) for operand in p.args)
        if p.op == "is true":
            return positive(p.args[0])
    return p


def condition(expression: Expression) -> Expression:
    """The normal form of an expression in a place where a condition is wanted."""
    if not isinstance(expression, Call):
        return _as_condition(expression)
    op, args = expression.op, expression.args
    if op == "and":
        return conjunction(condition(operand) for operand in args)
    if op == "or":
        return disjunction(condition(operand) for operand in args)
    if op == "not":
        return negation(condition(args[0]))
    if op in COMPARISONS:
        return comparison(op, value(args[0]), value(args[1]))
    if op == "in":
        return membership(value(args[0]), [value(arg) for arg in args[1:]])
    if op in ("like", "ilike"):
        return _likeness(op, tuple(value(arg) for arg in args))
    if op == "is null":
        return _null_test(value(args[0]))
    if op in ("is true", "is false", "is unknown"):
        return _truth_test(op, condition(args[0]))
    if op == "distinct":
        return _distinction(value(args[0]), value(args[1]))
    return _as_condition(value(expression))


def value(expression: Expression) -> Expression:
    """The normal form of an expression in a place where a value is wanted."""
    if not isinstance(expression, Call):
        return expression
    if is_predicate(expression):
        return condition(expression)
    if expression.op == "case":
        return _case(expression.args)
    args = tuple(value(arg) for arg in expression.args)
    if all(isinstance(arg, Constant) for arg in args):
        return constant(FUNCTIONS[expression.op](*_values(args)))
    if expression.op == "timestamp" and is_instant(args[0]):
        return args[0]
    return Call(expression.op, args)


def _values(constants: Iterable[Expression]) -> list[object]:
    return [found.value for found in constants if isinstance(found, Constant)]


def _as_condition(expression: Expression) -> Expression:
    if is_predicate(expression):
        return expression
    return comparison("=", expression, TRUE)


def conjunction(operands: Iterable[Expression]) -> Expression:
    """AND of predicates in normal form."""
    kept = _flattened("and", operands)
    if FALSE in kept:
        return FALSE
    kept.pop(TRUE, None)
    return _connective("and", kept, TRUE)


def disjunction(operands: Iterable[Expression]) -> Expression:
    """OR of predicates in normal form."""
    kept = _flattened("or", operands)
    if TRUE in kept:
        return TRUE
    kept.pop(FALSE, None)
    return _connective("or", _with_memberships_joined(kept), FALSE)


def _flattened(op: str, operands: Iterable[Expression]) -> dict[Expression, None]:
    kept: dict[Expression, None] = {}
    for operand in operands:
        if isinstance(operand, Call) and operand.op == op:
            kept.update(dict.fromkeys(operand.args))
        else:
            kept[operand] = None
    return kept


def _connective(op: str, kept: Iterable[Expression], empty: Expression) -> Expression:
    operands = sorted(kept, key=order)
    if not operands:
        return empty
    return operands[0] if len(operands) == 1 else Call(op, tuple(operands))


def _with_memberships_joined(kept: dict[Expression, None]) -> list[Expression]:
    """`a = 1 OR a IN (2, 3)` as `a IN (1, 2, 3)`."""
    values: dict[Expression, list[Expression]] = {}
    others: list[Expression] = []
    for operand in kept:
        if isinstance(operand, Call) and _is_membership(operand):
            values.setdefault(operand.args[0], []).extend(operand.args[1:])
        else:
            others.append(operand)
    return others + [membership(this, members) for this, members in values.items()]


def _is_membership(call: Call) -> bool:
    return call.op == "in" or (call.op == "=" and isinstance(call.args[1], Constant))


def negation(p: Expression) -> Expression:
    """NOT of a predicate in normal form."""
    if isinstance(p, Constant):
        return constant(not_(p.value))
    if not isinstance(p, Call):
        return Call("not", (p,))
    if p.op == "not":
        return p.args[0]
    if p.op == "and":
        return disjunction(negation(operand) for operand in p.args)
    if p.op == "or":
        return conjunction(negation(operand) for operand in p.args)
    if p.op in _OPPOSITE:
        return comparison(_OPPOSITE[p.op], *p.args)
    return Call("not", (p,))


def comparison(op: str, left: Expression, right: Expression) -> Expression:
    """A comparison of two values in normal form."""
    left, right = _alike(left, right), _alike(right, left)
    if NULL in (left, right):
        return NULL
    if isinstance(left, Constant) and isinstance(right, Constant):
        return constant(FUNCTIONS[op](left.value, right.value))
    if isinstance(left, Constant) or (op in (">", ">=") and not isinstance(right, Constant)):
        op, left, right = _MIRRORED[op], right, left
    if not isinstance(right, Constant):
        if op in ("=", "<>") and order(right) < order(left):
            left, right = right, left
        return Call(op, (left, right))
    if right.kind == "bool" and op in ("=", "<>"):
        return _boolean_comparison(left, right.value is (op == "="))
    return Call(op, (left, _plain_number(right)))


def _boolean_comparison(left: Expression, wanted: bool) -> Expression:
    if is_predicate(left):
        return left if wanted else negation(left)
    return Call("=", (left, TRUE if wanted else FALSE))


def _alike(this: Expression, other: Expression) -> Expression:
    """The expression, read as a timestamp where the other side is one."""
    if is_instant(other) and not is_instant(this):
        return value(Call("timestamp", (this,)))
    return this


def _plain_number(number: Constant) -> Constant:
    """5.0 as 5: compared with anything, the two are the same."""
    if number.kind == "float" and number.value.is_integer():
        return constant(int(number.value))
    return number


def membership(this: Expression, members: list[Expression]) -> Expression:
    """IN: members that are no constants become comparisons."""
    if any(is_instant(part) for part in (this, *members)):
        members = [value(Call("timestamp", (part,))) for part in members]
        this = this if is_instant(this) else value(Call("timestamp", (this,)))
    constants = {_plain_number(part): None for part in members if isinstance(part, Constant)}
    others = [part for part in members if not isinstance(part, Constant)]
    if others:
        parts = [comparison("=", this, part) for part in others]
        return disjunction([*parts, _constant_membership(this, list(constants))])
    return _constant_membership(this, list(constants))


def _constant_membership(this: Expression, members: list[Constant]) -> Expression:
    if isinstance(this, Constant):
        return constant(member(this.value, *_values(members)))
    if not members:
        return FALSE
    if len(members) == 1:
        return comparison("=", this, members[0])
    return Call("in", (this, *sorted(members, key=order)))


def _likeness(op: str, args: tuple[Expression, ...]) -> Expression:
    if NULL in args:
        return NULL
    if all(isinstance(arg, Constant) for arg in args):
        return constant(FUNCTIONS[op](*_values(args)))
    pattern = args[1]
    if not isinstance(pattern, Constant):
        return Call(op, args)
    if pattern.kind != "text":
        return NULL
    escape = _values(args[2:])
    if escape and str(escape[0]) not in pattern.value:
        args, escape = args[:2], []
    try:
        prefix, rest = literal_prefix(pattern.value, str(escape[0]) if escape else None)
    except BadPattern:
        return NULL
    if op == "like" and not rest:
        return comparison("=", args[0], constant(prefix))
    return Call(op, args)


def _null_test(this: Expression) -> Expression:
    if isinstance(this, Constant):
        return constant(this.value is None)
    if isinstance(this, Call) and this.op in _TWO_VALUED:
        return FALSE
    return Call("is null", (this,))


def _truth_test(op: str, p: Expression) -> Expression:
    if isinstance(p, Constant):
        wanted = {"is true": True, "is false": False, "is unknown": None}[op]
        return constant(p.value is wanted)
    if op == "is false":
        op, p = "is true", negation(p)
    inner = p.args[0] if isinstance(p, Call) and p.op == "not" else p
    if isinstance(inner, Call) and inner.op in _TWO_VALUED:
        return FALSE if op == "is unknown" else p
    if op == "is unknown":
        # NOT p is UNKNOWN where p is.
        p = min((p, negation(p)), key=order)
    return Call(op, (p,))


def _distinction(left: Expression, right: Expression) -> Expression:
    left, right = _alike(left, right), _alike(right, left)
    if NULL in (left, right):
        return negation(_null_test(right if left == NULL else left))
    if isinstance(left, Constant) and isinstance(right, Constant):
        return constant(FUNCTIONS["distinct"](left.value, right.value))
    plain = [_plain_number(part) if isinstance(part, Constant) else part for part in (left, right)]
    plain.sort(key=lambda part: (isinstance(part, Constant), order(part)))
    return Call("distinct", tuple(plain))


def _case(args: tuple[Expression, ...]) -> Expression:
    """CASE with the branches that can never be taken left out."""
    parts: list[Expression] = []
    for when, then in zip(args[:-1:2], args[1::2], strict=True):
        test = positive(condition(when))
        if test == TRUE:
            return _branches(parts, value(then))
        if test != FALSE:
            parts += [test, value(then)]
    return _branches(parts, value(args[-1]))


def _branches(parts: list[Expression], otherwise: Expression) -> Expression:
    return Call("case", (*parts, otherwise)) if parts else otherwise


@lru_cache(maxsize=4096)
def order(expression: Expression) -> str:
    """A text that is equal for equal expressions only; operands are sorted by it.

    Long texts are digests, and all are cached until the expression is done, so that a deep one
    costs no more than its nodes.
    """
    if isinstance(expression, Constant):
        return f"{expression.kind}:{expression.value!r}"
    if isinstance(expression, Column):
        return f"column:{expression.name!r}"
    if isinstance(expression, Call):
        text = f"{expression.op}({','.join(order(arg) for arg in expression.args)})"
        return text if len(text) < 100 else expression.op + blake2b(text.encode()).hexdigest()
    return repr(expression)
