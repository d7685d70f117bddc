"""An expression as written becomes one subscriber's: names, values and types resolved.

Every part gets a kind (what its value can be, NULL aside), out of the columns' declared types, the
casts and the constants. A column of a declared type is read as that type: Decimal columns through
`numeric`, Timestamp and Date through `timestamp`, and so on; constants it meets are read the same
way, once, here. So what is compared at delivery is alike, and what is written unlike but means the
same ends in one normal form.

A comparison that its kinds rule out can never be TRUE. Where one of them was declared or cast that
is refused, with the literal to write; where a claim is the cause it is UNKNOWN, for the policy is
not the subscriber's doing.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

from kalam_notify.model import Identity, TableDef
from kalam_notify.model.readings import READINGS, decimal_of
from kalam_notify.model.types import ColumnType
from kalam_notify.sql.containment import canonical_json
from kalam_notify.sql.describe import describe
from kalam_notify.sql.normal import as_condition, normal
from kalam_notify.sql.parsing import Condition
from kalam_notify.sql.tree import (
    COMPARISONS,
    NULL,
    TESTS,
    Call,
    Column,
    Constant,
    Expression,
    Name,
    Parameter,
    constant,
    words,
)
from kalam_notify.sql.words import nearest

MAX_VALUES = 10_000
"""Values of a list parameter."""

_KIND_OF_TYPE = {
    "Boolean": "bool",
    "SmallInt": "int",
    "Int": "int",
    "BigInt": "int",
    "Float": "double",
    "Double": "double",
    "Decimal": "numeric",
    "Text": "text",
    "Uuid": "uuid",
    "Timestamp": "instant",
    "DateTime": "instant",
    "Date": "date",
    "Time": "clock",
}
_KIND_OF_CONSTANT = {"float": "double", "json": "json"}
# `decimal` is a literal with a point: it becomes a double or a decimal, as what it meets is.
_NUMBERS = frozenset(("int", "double", "decimal", "numeric"))
_FAMILY = dict.fromkeys(_NUMBERS, "number") | {"date": "instant"}
_READING_OF = {"numeric": "numeric", "instant": "timestamp", "date": "timestamp"} | {
    "clock": "time",
    "uuid": "uuid",
}
_KIND_OF_CALL = dict.fromkeys(words("|| ->> lower upper trim ltrim rtrim substr text"), "text") | {
    "length": "int",
    "integer": "int",
    "double": "double",
    "real": "double",
    "numeric": "numeric",
    "boolean": "bool",
    "timestamp": "instant",
    "date": "date",
    "time": "clock",
    "uuid": "uuid",
}
_CASTS = words("numeric integer double real boolean text timestamp date time uuid")
_CAST_NAMES = {"integer": "an integer", "double": "a double", "real": "a real", "text": "text"}
_SAYS = {
    "bool": "TRUE or FALSE",
    "number": "a number",
    "text": "text in quotes",
    "instant": "a time such as '2024-05-01T12:00:00Z'",
    "clock": "a time of day such as '12:30:00'",
    "uuid": "a UUID such as 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
}
_ANYTHING = frozenset(("any", "null"))


class Typed(msgspec.Struct, frozen=True, gc=False):
    """A bound expression, its kind, and what made that sure (None: nothing but its constants)."""

    expression: Expression
    kind: str
    sure: str | None = None

    @property
    def family(self) -> str:
        return _FAMILY.get(self.kind, self.kind)

    def but(self, expression: Expression) -> "Typed":
        """The same of another expression."""
        return Typed(expression, self.kind, self.sure)


class Binder:
    """Binds conditions for one table, identity and list of parameters."""

    def __init__(self, table: TableDef, identity: Identity, params: Sequence[Any] = ()) -> None:
        self._table = table
        self._identity = identity
        self._params = params
        self._done: dict[int, Typed] = {}
        self._columns: dict[str, Typed] = {}
        self._written: Condition
        # The call that is being bound: what is refused stands there.
        self._at: Call | None = None
        self.used_identity = False

    def bound(self, written: Condition) -> Expression:
        """The expression in normal form. Raises SqlRefused."""
        self._written = written
        self._done = {}
        for call in written.calls:
            self._at = call
            self._done[id(call)] = self._call(call)
        self._at = written.where if isinstance(written.where, Call) else None
        return as_condition(self._condition(written.where))

    def check_names(self, names: Sequence[Name], source: Any) -> None:
        """Refuse a column that a table with declared columns does not have."""
        known = self._table.columns
        for name in names:
            if known is None or name.name in known or name.name in self._table.primary_key:
                continue
            columns = list(dict.fromkeys([*self._table.primary_key, *known]))
            hint = nearest(name.name, columns) or f"there are {', '.join(columns)}"
            source.refuse(f"{self._table.id} has no column {name.name}; {hint}", name.at)

    # --- operands

    def _typed(self, node: Expression) -> Typed:
        kind = node.__class__
        if kind is Call:
            found = self._done[id(node)]
            if found.kind == "array":
                self._refuse("an array stands in = ANY(...) and after @> only", node)
            return found
        if isinstance(node, Constant):
            return Typed(node, _KIND_OF_CONSTANT.get(node.kind, node.kind))
        if isinstance(node, Name):
            return self._columns.get(node.name) or self._column(node.name)
        assert isinstance(node, Parameter), node
        return self._parameter(node)

    def _column(self, name: str) -> Typed:
        declared = None if self._table.columns is None else self._table.columns.get(name)
        found = self._columns[name] = _column(name, declared)
        return found

    def _expressions(self, nodes: Sequence[Expression]) -> tuple[Expression, ...]:
        return tuple(_settled(self._typed(node)) for node in nodes)

    def _parameter(self, node: Parameter) -> Typed:
        value = self._params[node.number - 1]
        if isinstance(value, list | dict):
            what = (
                "a list: write = ANY(${0})"
                if isinstance(value, list)
                else "an object: write @> ${0}"
            )
            self._refuse(f"parameter {node.number} is {what.format(node.number)}", node)
        return self._typed(self._scalar(value, node))

    def _scalar(self, value: Any, node: Expression) -> Constant:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                self._refuse("a parameter holds a lone surrogate: it is not valid Unicode", node)
        return constant(value)

    def _refuse(self, message: str, node: Expression | None = None) -> NoReturn:
        """Refuse the call that is being bound, or an operand of it."""
        written = self._written
        at = getattr(node, "at", 0) if self._at is None else written.place(self._at, node)
        written.source.refuse(message, at)

    # --- calls

    def _call(self, call: Call) -> Typed:
        bind = _BINDS.get(call.op)
        return self._value(call) if bind is None else bind(self, call)

    def _comparison(self, call: Call) -> Typed:
        left, right = call.args
        return Typed(normal(call.op, self._alike(call, left, right)), "bool")

    def _connective(self, call: Call) -> Typed:
        return Typed(normal(call.op, tuple(map(self._condition, call.args))), "bool")

    def _null_test(self, call: Call) -> Typed:
        return Typed(normal(call.op, (self._as_it_is(call.args[0]),)), "bool")

    def _value(self, call: Call) -> Typed:
        op, args = call.op, call.args
        kind = _KIND_OF_CALL.get(op, "any")
        if kind == "text" or op == "length":
            self._want(call, args[:1] if op == "substr" else args, "text")
        is_sure = kind != "any" and any(self._typed(arg).sure for arg in args)
        sure = f"{op.upper()} is {'text' if kind == 'text' else 'a number'}" if is_sure else None
        return Typed(normal(op, self._expressions(args)), kind, sure)

    def _condition(self, node: Expression) -> Expression:
        found = self._typed(node)
        if found.kind != "bool" and found.sure and found.kind not in _ANYTHING:
            cure = f"compare it with {_SAYS.get(found.family, 'a value')}"
            self._refuse(f"{found.sure}: it is not a condition; {cure}", node)
        if isinstance(node, Parameter) and found.kind not in ("bool", "null"):
            self._refuse(f"parameter {node.number} is not a condition", node)
        return found.expression

    def _as_it_is(self, node: Expression) -> Expression:
        """A column's own value, whatever its type would read; anything else as it is bound."""
        return Column(node.name) if isinstance(node, Name) else _settled(self._typed(node))

    def _want(self, call: Call, nodes: Sequence[Expression], family: str) -> None:
        """Refuse operands of which the operator can only make NULL."""
        for node in nodes:
            found = self._typed(node)
            if found.sure and found.kind not in _ANYTHING and found.family != family:
                cure = f"; write CAST({describe(node)} AS TEXT)" if family == "text" else ""
                what = "text" if family == "text" else "numbers"
                self._refuse(f"{found.sure}: {call.op.upper()} is for {what}{cure}", call)

    def _identity_constant(self, call: Call) -> Typed:
        self.used_identity = True
        if call.op == "current_user":
            anonymous = self._identity.is_anonymous
            found = constant(None if anonymous else str(self._identity.user_id))
        else:
            name = call.args[0]
            claims: Mapping[str, Any] = self._identity.claims
            value = claims.get(name.value) if isinstance(name, Constant) else None
            # What is absent, an array, an object or no number at all is NULL.
            is_odd = isinstance(value, float) and not math.isfinite(value)
            found = constant(None if is_odd else value)
        return self._typed(found)

    def _cast(self, call: Call) -> Typed:
        op, operand = call.op, self._typed(call.args[0])
        sure = f"the cast is {_CAST_NAMES.get(op, f'a {op}')}"
        kind = _KIND_OF_CALL[op]
        inner = operand.expression
        if len(call.args) == 1 and operand.kind == kind and op in READINGS:
            return Typed(inner, kind, sure)
        if op == "timestamp" and operand.family == "instant":
            return Typed(inner, kind, sure)
        if op == "text" and operand.kind in ("instant", "date", "clock"):
            # A column's own text; a value that was made is written anew.
            inner = self._as_it_is(call.args[0])
            if operand.kind == "date" and isinstance(inner, Call):
                text = normal(op, (inner,))
                return Typed(normal("substr", (text, constant(1), constant(10))), kind, sure)
        return Typed(normal(op, (inner, *call.args[1:])), kind, sure)

    def _json_cast(self, call: Call) -> Typed:
        node = call.args[0]
        found = self._typed(node)
        if found.kind == "any" or found.kind == "json":
            return found
        if not isinstance(found.expression, Constant) or found.kind != "text":
            self._refuse("only a literal is cast to JSON", call)
        return Typed(self._json(found.expression.value, call), "json", "the cast is JSON")

    def _json(self, text: str, node: Expression) -> Constant:
        canonical = canonical_json(text)
        if canonical is None:
            self._refuse(f'{text[:60]!r} is not JSON; write \'{{"name": "value"}}\'', node)
        return Constant("json", canonical)

    def _arithmetic(self, call: Call) -> Typed:
        self._want(call, call.args, "number")
        operands = [self._typed(node) for node in call.args]
        kinds = {operand.kind for operand in operands}
        sure = next((operand.sure for operand in operands if operand.sure), None)
        if kinds <= {"int"} or kinds <= {"decimal"}:
            kind = kinds.pop()
        elif (
            "double" in kinds
            or (kinds & _ANYTHING and "numeric" not in kinds)
            or not kinds <= (_NUMBERS | _ANYTHING)
        ):
            kind = "double" if kinds <= _NUMBERS else "any"
            operands = [_as_double(operand) for operand in operands]
        else:
            kind = "numeric" if "numeric" in kinds or sure else "decimal"
            operands = [_as_decimal(operand) for operand in operands]
        parts = tuple(operand.expression for operand in operands)
        return Typed(
            normal(call.op, parts),
            kind,
            (sure and kind != "any" and "the result is a number") or None,
        )

    def _json_path(self, call: Call) -> Typed:
        found = self._typed(call.args[0])
        if found.kind not in _ANYTHING and (found.sure or found.kind == "json"):
            self._refuse(f"{found.sure}: {call.op} is for JSON", call)
        kind = "text" if call.op == "->>" else "any"
        return Typed(normal(call.op, self._expressions(call.args)), kind)

    def _choice(self, call: Call) -> Typed:
        """COALESCE, NULLIF and CASE: of one kind where all their values are."""
        args = call.args
        if call.op == "case":
            places = {*range(1, len(args), 2), len(args) - 1}
        else:
            places = set(range(len(args)))
        if call.op == "nullif":
            pair = self._alike(call, *args)
            return Typed(
                normal("nullif", pair), self._typed(args[0]).kind, self._typed(args[0]).sure
            )
        values = [self._typed(args[place]) for place in sorted(places)]
        kinds = {value.kind for value in values} - {"null"}
        if "numeric" in kinds and kinds <= _NUMBERS | {"any"}:
            kind, values = "numeric", [_as_decimal(value) for value in values]
        elif kinds <= {"decimal", "int"} or len(kinds) == 1:
            kind = kinds.pop() if len(kinds) == 1 else "decimal"
        else:
            families = {_FAMILY.get(kind, kind) for kind in kinds}
            kind = (
                {"instant": "instant"}.get(families.pop(), "any") if len(families) == 1 else "any"
            )
            values = [_as_double(value) for value in values]
        sure = next((value.sure for value in values if value.sure), None) if kind != "any" else None
        given = iter(values)
        parts = tuple(
            next(given).expression if place in places else self._condition(node)
            for place, node in enumerate(args)
        )
        return Typed(normal(call.op, parts), kind or "null", sure)

    def _array(self, call: Call) -> Typed:
        return Typed(Call("array", self._expressions(call.args)), "array")

    def _membership(self, call: Call) -> Typed:
        subject, *members = call.args
        return self._one_of(call, subject, members)

    def _one_of(self, call: Call, subject: Expression, members: Sequence[Expression]) -> Typed:
        """IN: the members that read like the subject, and the subject as they ask for it."""
        if not members:
            return Typed(Constant("bool", False), "bool")
        pairs = [self._alike(call, subject, member) for member in members]
        this = pairs[0][0]
        if all(pair[0] is this or pair[0] == this for pair in pairs):
            return Typed(normal("in", (this, *(pair[1] for pair in pairs))), "bool")
        return Typed(normal("or", tuple(normal("=", pair) for pair in pairs)), "bool")

    def _any(self, call: Call) -> Typed:
        subject, array = call.args
        if isinstance(array, Parameter):
            return self._one_of_parameter(call, subject, array)
        found = self._done.get(id(array)) or self._typed(array)
        if found.kind == "array":
            assert isinstance(array, Call)
            return self._one_of(call, subject, array.args)
        if found.kind not in _ANYTHING:
            cure = "give an array column, ARRAY[1, 2] or a list as parameter: ANY($1)"
            self._refuse(f"{found.sure or 'this'} is no array; {cure}", call)
        value = self._typed(subject)
        return Typed(normal("any", (_as_double(value).expression, found.expression)), "bool")

    def _one_of_parameter(self, call: Call, subject: Expression, node: Parameter) -> Typed:
        values = self._params[node.number - 1]
        if not isinstance(values, list):
            self._refuse(f"parameter {node.number} is no list; ANY wants one: [1, 2]", node)
        if len(values) > MAX_VALUES:
            self._refuse(
                f"parameter {node.number} has {len(values)} values; at most {MAX_VALUES} are taken",
                node,
            )
        alike = _alike_values(self._typed(subject), values)
        if alike is not None:
            return Typed(alike, "bool")
        members = [self._scalar(value, node) for value in values]
        if any(isinstance(value, list | dict) for value in values):
            self._refuse(f"parameter {node.number}: the values of a list are scalars", node)
        return self._one_of(call, subject, members)

    def _containment(self, call: Call) -> Typed:
        left, right = call.args
        found = self._typed(left)
        if found.kind not in _ANYTHING and found.kind != "json":
            self._refuse(f"{found.sure or 'this'}: @> is for JSON", call)
        return Typed(normal("@>", (found.expression, self._contained(right))), "bool")

    def _contained(self, node: Expression) -> Expression:
        """The right side of @>: JSON text, an array, a parameter, or a value of the row."""
        value: Any = None
        if isinstance(node, Parameter):
            value = self._params[node.number - 1]
            if not isinstance(value, list | dict):
                return self._json(value, node) if isinstance(value, str) else _json_of(value)
        elif isinstance(node, Call) and node.op == "array":
            members = self._done[id(node)].expression
            assert isinstance(members, Call)
            if not all(isinstance(member, Constant) for member in members.args):
                self._refuse("after @> the values of an array are constants", node)
            value = [member.value for member in members.args if isinstance(member, Constant)]
        if value is not None:
            try:
                return self._json(json.dumps(value), node)
            except TypeError:
                self._refuse("this array cannot be written as JSON", node)
        found = self._typed(node)
        if found.kind == "text" and isinstance(found.expression, Constant):
            return self._json(found.expression.value, node)
        if found.kind not in _ANYTHING and found.kind != "json":
            self._refuse("after @> JSON is wanted: data @> '{\"a\": 1}'", node)
        return found.expression

    def _has_key(self, call: Call) -> Typed:
        found = self._typed(call.args[0])
        if found.kind not in _ANYTHING and found.kind != "json" and found.sure:
            self._refuse(f"{found.sure}: ? is for JSON", call)
        key = self._typed(call.args[1])
        if key.kind not in ("text", *_ANYTHING):
            self._refuse("? asks for a key, which is text: data ? 'name'", call)
        return Typed(normal("?", (found.expression, key.expression)), "bool")

    def _likeness(self, call: Call) -> Typed:
        self._want(call, call.args[:2], "text")
        return Typed(normal(call.op, self._expressions(call.args)), "bool")

    # --- comparison

    def _alike(
        self, call: Call, left: Expression, right: Expression
    ) -> tuple[Expression, Expression]:
        """Both sides, read so that they compare; NULL for a side that never can."""
        a, b = self._typed(left), self._typed(right)
        if a.kind == b.kind:
            return a.expression, b.expression
        if a.kind == "any" and b.kind not in _READING_OF:
            return a.expression, b.expression if b.kind != "decimal" else _settled(b)
        if a.family == b.family == "number":
            return _numbers(a, b)
        if b.kind in _READING_OF and (a.kind == "any" or a.kind == "text"):
            return self._read(call, a, left, b), b.expression
        if a.kind in _READING_OF and (b.kind == "any" or b.kind == "text"):
            return a.expression, self._read(call, b, right, a)
        if a.family != b.family and a.kind not in _ANYTHING and b.kind not in _ANYTHING:
            self._unlike(call, (left, a), (right, b))
        return _settled(a), _settled(b)

    def _read(self, call: Call, one: Typed, node: Expression, other: Typed) -> Expression:
        """`one`, text or anything, as the kind that it meets."""
        op = _READING_OF[other.kind]
        if isinstance(one.expression, Constant):
            value = READINGS[op](one.expression.value)
            if value is None and one.kind == "text":
                self._unlike(call, (node, one), (None, other))
            return constant(value) if value is not None else NULL
        if other.kind == "numeric":
            if one.kind == "text":
                self._unlike(call, (node, one), (None, other))
            return one.expression
        return normal(op, (one.expression,))

    def _unlike(
        self,
        call: Call,
        one: tuple[Expression | None, Typed],
        other: tuple[Expression | None, Typed],
    ) -> None:
        """Refuse a comparison that can never be TRUE, where that is sure and no claim's doing."""
        if call.op == "distinct" or call.op == "case":
            return
        if self._is_personal(one[0], other[1]) or self._is_personal(other[0], one[1]):
            return
        sides = [one, other] if other[1].sure else [other, one]
        (node, odd), (_, sure) = sides
        if not sure.sure:
            return
        shown = _shown(odd)
        self._refuse(
            f"{sure.sure}: compared with {shown} it is never TRUE; write {_written(odd, sure)}",
            node,
        )

    def _is_personal(self, node: Expression | None, other: Typed) -> bool:
        """Whether a side is a claim, of whatever kind, or a user's id that might have fitted."""
        if not isinstance(node, Call):
            return False
        return node.op == "claim" or (node.op == "current_user" and other.kind in _READING_OF)


_BINDS: dict[str, Callable[[Binder, Call], Typed]] = {
    **dict.fromkeys(COMPARISONS | {"distinct"}, Binder._comparison),
    **dict.fromkeys((TESTS - {"is null"}) | {"and", "or", "not"}, Binder._connective),
    **dict.fromkeys(_CASTS, Binder._cast),
    "is null": Binder._null_test,
    "current_user": Binder._identity_constant,
    "claim": Binder._identity_constant,
    "in": Binder._membership,
    "any": Binder._any,
    "array": Binder._array,
    "json": Binder._json_cast,
    "@>": Binder._containment,
    "?": Binder._has_key,
    "like": Binder._likeness,
    "ilike": Binder._likeness,
    "->": Binder._json_path,
    "->>": Binder._json_path,
    **dict.fromkeys(("+", "-", "*", "/", "%", "neg", "abs"), Binder._arithmetic),
    **dict.fromkeys(("coalesce", "nullif", "case"), Binder._choice),
}

_columns: dict[tuple[str, ColumnType | None], Typed] = {}


def _column(name: str, declared: ColumnType | None) -> Typed:
    """A column of the row, read as its type; one value for all filters that use it."""
    found = _columns.get((name, declared))
    if found is None:
        if len(_columns) >= 4096:
            _columns.clear()
        found = _columns[name, declared] = _new_column(name, declared)
    return found


def _new_column(name: str, declared: ColumnType | None) -> Typed:
    column = Column(name)
    kind = "any" if declared is None else _KIND_OF_TYPE.get(declared.kind, "any")
    if declared is None or kind == "any":
        return Typed(column, "any")
    reading = declared.reading
    return Typed(Call(reading, (column,)) if reading else column, kind, f"{name} is {declared}")


def _alike_values(subject: Typed, values: Sequence[Any]) -> Expression | None:
    """IN of many texts, or many integers, that need no reading: at once, in its normal form."""
    classes = set(map(type, values))
    if classes == {str} and subject.kind in ("any", "text"):
        kind = "text"
        if not "".join(values).isascii():
            return None  # to be looked at one by one
    elif classes == {int} and subject.kind in ("any", "int", "double"):
        kind = "int"
    else:
        return None
    members = [Constant(kind, value) for value in sorted(set(values), key=repr)]
    if len(members) == 1 or isinstance(subject.expression, Constant):
        return None
    return Call("in", (subject.expression, *members))


def _json_of(value: Any) -> Constant:
    """A parameter that is a number, a boolean or null, as JSON."""
    return NULL if value is None else Constant("json", json.dumps(value))


def _settled(found: Typed) -> Expression:
    """The expression where nothing asks for decimals: a literal with a point is a double."""
    return _as_double(found).expression


def _as_double(found: Typed) -> Typed:
    node = found.expression
    if found.kind != "decimal":
        return found
    if isinstance(node, Constant) and isinstance(node.value, Decimal):
        number = float(node.value)
        # Beyond a double's range no double is equal, and all are on one side of it.
        return found.but(constant(number) if math.isfinite(number) else node)
    return found.but(normal("double", (node,)))


def _as_decimal(found: Typed) -> Typed:
    node = found.expression
    if isinstance(node, Constant):
        value = decimal_of(node.value) if node.kind in ("int", "float", "decimal") else None
        return found.but(NULL if value is None else Constant("decimal", value))
    return found if found.kind == "numeric" else found.but(normal("numeric", (node,)))


def _numbers(a: Typed, b: Typed) -> tuple[Expression, Expression]:
    """Two numbers of unlike kinds: a constant takes the kind of the other side."""
    kinds = {a.kind, b.kind}
    if "numeric" in kinds:
        return tuple(
            _as_decimal(side).expression
            if isinstance(side.expression, Constant)
            else side.expression
            for side in (a, b)
        )  # type: ignore[return-value]
    if kinds == {"int", "decimal"}:
        return a.expression, b.expression
    return _settled(a), _settled(b)


def _shown(found: Typed) -> str:
    if isinstance(found.expression, Constant):
        return describe(found.expression)[:60]
    return f"{found.sure.replace(' is ', ', ', 1)}," if found.sure else "a value of another kind"


def _written(odd: Typed, sure: Typed) -> str:
    """The literal to write in place of the odd one."""
    node = odd.expression
    if isinstance(node, Constant):
        if sure.family == "number" and isinstance(node.value, str):
            number = decimal_of(node.value)
            if number is not None:
                return f"{node.value.strip()} without quotes"
        if sure.family == "text" and node.kind in ("int", "decimal", "float", "bool"):
            return f"'{describe(node)}' in quotes"
        if sure.family == "bool" and str(node.value).lower() in (
            "true",
            "false",
            "1",
            "0",
            "t",
            "f",
        ):
            return "TRUE" if str(node.value).lower() in ("true", "1", "t") else "FALSE"
    return _SAYS.get(sure.family, "a value of its kind")
