"""One form for all expressions that mean the same by these rules, each exact in three values:

- NOT moves inwards (De Morgan) and turns comparisons around; `NOT (a < b)` is `a >= b`.
- Nested ANDs and ORs are one; their operands are sorted, doubles dropped, constants folded.
- The constant of a comparison stands right; `a > b` between columns is `b < a`; `a = b` is sorted.
- `a = 1 OR a IN (2, 3)` is `a IN (1, 2, 3)`; IN of one value is `=`; BETWEEN was read as >= AND <=.
- A value taken as a condition is `value = TRUE`; `p = TRUE` is p and `p = FALSE` is NOT p.
- Functions of constants are computed; in comparisons 5.0 is 5; LIKE without a wildcard is `=`.

A WHERE asks only for TRUE, so at its top UNKNOWN is as good as FALSE (`positive`).

Nothing here recurses with the depth of an expression: calls are taken from the inside to the
outside (`postorder`), and what they have become is kept by their ids.
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from kalam_notify.sql.like import BadPattern, literal_prefix
from kalam_notify.sql.logic import not_
from kalam_notify.sql.operators import FUNCTIONS, member
from kalam_notify.sql.tree import (
    COMPARISONS,
    FALSE,
    NULL,
    PREDICATES,
    TESTS,
    TRUE,
    Call,
    Column,
    Constant,
    Expression,
    constant,
)

_OPPOSITE = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_TWO_VALUED = frozenset(("is null", "is true", "is false", "is unknown", "distinct"))


def is_predicate(expression: Expression) -> bool:
    """Whether the expression's value is always TRUE, FALSE or UNKNOWN."""
    if isinstance(expression, Call):
        return expression.op in PREDICATES
    return isinstance(expression, Constant) and expression.kind in ("bool", "null")


def postorder(root: Expression) -> Iterator[Call]:
    """The calls of a tree, each once, those inside before those around them; without recursion."""
    waiting: list[Any] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node.__class__ is tuple:
            yield node[0]
        elif node.__class__ is Call and id(node) not in seen:
            seen.add(id(node))
            waiting.append((node,))
            waiting.extend(node.args)


def normalize(expression: Expression) -> Expression:
    """The normal form of a WHERE clause: a predicate, or TRUE or FALSE."""
    done: dict[int, Expression] = {}
    for call in postorder(expression):
        args = tuple(done[id(arg)] if arg.__class__ is Call else arg for arg in call.args)
        done[id(call)] = normal(call.op, args)
    return finished(as_condition(done.get(id(expression), expression)))


def finished(condition: Expression) -> Expression:
    """What a WHERE clause in normal form comes down to: a predicate, or TRUE or FALSE."""
    result = positive(condition)
    # The texts were for this expression; its nodes must not outlive it.
    _orders.clear()
    return result


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


def normal(op: str, args: tuple[Expression, ...]) -> Expression:
    """The normal form of a call of which the arguments are in normal form."""
    form = _FORMS.get(op)
    return _value(op, args) if form is None else form(op, args)


def _value(op: str, args: tuple[Expression, ...]) -> Expression:
    kinds = {arg.kind if isinstance(arg, Constant) else "" for arg in args}
    if op in ("@>", "?") and "null" in kinds:
        return NULL
    if not kinds & {"", "json"}:
        return constant(FUNCTIONS[op](*_values(args)))
    return Call(op, args)


def _values(constants: Iterable[Expression]) -> list[object]:
    return [found.value for found in constants if isinstance(found, Constant)]


def as_condition(expression: Expression) -> Expression:
    if is_predicate(expression):
        return expression
    return comparison("=", expression, TRUE)


def conjunction(operands: Iterable[Expression]) -> Expression:
    """AND of predicates in normal form."""
    kept = _flattened("and", operands)
    if _FALSE in kept:
        return FALSE
    kept.pop(_TRUE, None)
    return _connective("and", kept, TRUE)


def disjunction(operands: Iterable[Expression]) -> Expression:
    """OR of predicates in normal form."""
    kept = _flattened("or", operands)
    if _TRUE in kept:
        return TRUE
    kept.pop(_FALSE, None)
    return _connective("or", _with_memberships_joined(kept), FALSE)


def _flattened(op: str, operands: Iterable[Expression]) -> dict[str, Expression]:
    """The operands by their order, each once, those of calls of the same kind in their stead."""
    kept: dict[str, Expression] = {}
    for operand in operands:
        if isinstance(operand, Call) and operand.op == op:
            kept.update((order(inner), inner) for inner in operand.args)
        else:
            kept[order(operand)] = operand
    return kept


def _connective(op: str, kept: dict[str, Expression], empty: Expression) -> Expression:
    operands = [kept[key] for key in sorted(kept)]
    if not operands:
        return empty
    return operands[0] if len(operands) == 1 else Call(op, tuple(operands))


def _with_memberships_joined(kept: dict[str, Expression]) -> dict[str, Expression]:
    """`a = 1 OR a IN (2, 3)` as `a IN (1, 2, 3)`."""
    calls = [call for call in kept.values() if isinstance(call, Call) and _is_membership(call)]
    if len(calls) < 2:
        return kept
    values: dict[str, tuple[Expression, list[Expression]]] = {}
    for call in calls:
        del kept[order(call)]
        values.setdefault(order(call.args[0]), (call.args[0], []))[1].extend(call.args[1:])
    joined = [membership(this, members) for this, members in values.values()]
    return kept | {order(found): found for found in joined}


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


def _plain_number(number: Constant) -> Constant:
    """5.0 as 5, and decimals without zeros at their end: compared with anything, they are one."""
    value = number.value
    if number.kind == "decimal":
        if value == value.to_integral_value():
            return Constant("int", int(value))
        sign, digits, exponent = value.as_tuple()
        text = "".join(map(str, digits)).rstrip("0")
        shorter = exponent + len(digits) - len(text)
        return Constant("decimal", Decimal((sign, tuple(map(int, text)), shorter)))
    if number.kind == "float" and value.is_integer():
        return Constant("int", int(value))
    return number


def membership(this: Expression, members: Iterable[Expression]) -> Expression:
    """IN: members that are no constants become comparisons."""
    members = list(members)
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
        test = positive(as_condition(when))
        if test == TRUE:
            return _branches(parts, then)
        if test != FALSE:
            parts += [test, then]
    return _branches(parts, args[-1])


def _branches(parts: list[Expression], otherwise: Expression) -> Expression:
    return Call("case", (*parts, otherwise)) if parts else otherwise


_Form = Callable[[str, tuple[Expression, ...]], Expression]
_FORMS: dict[str, _Form] = {
    "and": lambda _, args: conjunction(map(as_condition, args)),
    "or": lambda _, args: disjunction(map(as_condition, args)),
    "not": lambda _, args: negation(as_condition(args[0])),
    "in": lambda _, args: membership(args[0], args[1:]),
    "is null": lambda _, args: _null_test(args[0]),
    "distinct": lambda _, args: _distinction(args[0], args[1]),
    "case": lambda _, args: _case(args),
    **{op: (lambda op, args: comparison(op, args[0], args[1])) for op in COMPARISONS},
    **dict.fromkeys(("like", "ilike"), lambda op, args: _likeness(op, args)),
    **{op: (lambda op, args: _truth_test(op, as_condition(args[0]))) for op in TESTS - {"is null"}},
}

_MAX_ORDERS = 10_000
_orders: dict[int, tuple[Expression, str]] = {}


def order(expression: Expression) -> str:
    """A text that is equal for equal expressions only; operands are sorted by it.

    Long texts are digests, and all are kept until the expression is done, so that a deep one costs
    no more than its nodes.
    """
    if expression.__class__ is not Call:
        return _leaf_order(expression)
    known = _orders.get(id(expression))
    if known is not None and known[0] is expression:
        return known[1]
    if not any(arg.__class__ is Call for arg in expression.args):
        text = _call_order(expression)
        _orders[id(expression)] = expression, text
        return text
    if len(_orders) > _MAX_ORDERS:
        _orders.clear()
    waiting: list[Any] = [expression]
    while waiting:
        call = waiting[-1]
        unknown = [arg for arg in call.args if arg.__class__ is Call and id(arg) not in _orders]
        if unknown:
            waiting.extend(unknown)
            continue
        waiting.pop()
        _orders[id(call)] = call, _call_order(call)
    return _orders[id(expression)][1]


def _call_order(call: Call) -> str:
    parts = [
        _orders[id(arg)][1] if arg.__class__ is Call else _leaf_order(arg) for arg in call.args
    ]
    text = f"{call.op}({','.join(parts)})"
    if len(text) < 100:
        return text
    return call.op + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def _leaf_order(leaf: Expression) -> str:
    if leaf.__class__ is Constant:
        return f"{leaf.kind}:{leaf.value!r}"
    return f"column:{leaf.name!r}" if isinstance(leaf, Column) else repr(leaf)


_TRUE, _FALSE = order(TRUE), order(FALSE)
