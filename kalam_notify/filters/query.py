"""One subscriber's query on one table: its filter, compiled, and its projection.

A predicate becomes the source of one Python function of a row and a tuple of data. Every name and
constant of the client is in the tuple; the source is made of the predicate's shape alone (operators
and the kinds of its constants), never of text a client wrote, and predicates of one shape share one
code object. So ten thousand filters `status = '...'` cost one compilation and ten thousand tuples.

Three-valued logic costs nothing at run time: a predicate is asked "is it TRUE?" (`_true`) or "is it
FALSE?" (`_false`), two ordinary Python conditions; see `logic` for how the questions descend. Only
where a predicate is used as a value (`_value`) does UNKNOWN appear, as None.

Comparisons with a constant are written out with the check that its kind asks for; everything else
calls a function of `values`. Nothing has side effects, so any part may be computed ahead of its
use: connectives used as values and deep expressions are put into variables first (`_ahead`), which
keeps the source linear in the predicate and within what Python's own parser can nest.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

from kalam_notify.filters.access import hints_of
from kalam_notify.filters.cost import cost_of
from kalam_notify.model import Identity, Role, TableDef, UserId
from kalam_notify.model.hints import Hints
from kalam_notify.model.readings import Clock, Instant
from kalam_notify.sql.binding import Binder
from kalam_notify.sql.cache import LatestCache
from kalam_notify.sql.containment import Json
from kalam_notify.sql.describe import describe
from kalam_notify.sql.like import compile_like, literal_prefix
from kalam_notify.sql.normal import conjunction, finished, is_predicate, order, postorder
from kalam_notify.sql.operators import FUNCTIONS
from kalam_notify.sql.parsing import Condition, Policy, Select
from kalam_notify.sql.tree import (
    COMPARISONS,
    FALSE,
    TRUE,
    Call,
    Column,
    Constant,
    Expression,
)

Test = Callable[[dict[str, Any], tuple[Any, ...]], bool]
"""A compiled predicate: (values of the row, its data) -> whether it is TRUE."""

_OPPOSITE = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_PYTHON = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_FAMILY = dict.fromkeys(("int", "float", "decimal"), "number") | {
    kind: kind for kind in ("text", "bool", "instant", "clock")
}
_OF_FAMILY = {
    "number": "{0}.__class__ in NUMBERS",
    "text": "{0}.__class__ is str",
    "bool": "{0}.__class__ is bool",
    "instant": "{0}.__class__ is Instant",
    "clock": "{0}.__class__ is Clock",
}
_DEEPEST = 20
_NAMES = {op: f"f{index}" for index, op in enumerate(FUNCTIONS)}
_GLOBALS = {
    "NUMBERS": (int, float, Decimal),
    "Instant": Instant,
    "Clock": Clock,
    **{_NAMES[op]: function for op, function in FUNCTIONS.items()},
}


def compile_predicate(predicate: Expression) -> tuple[Test, tuple[Any, ...]]:
    """The function that tells whether a predicate is TRUE of a row, and the data it wants."""
    writer = _Writer()
    writer.prepare(predicate)
    result = writer.true(predicate)
    return _function(writer.source(result)), tuple(writer.data)


_functions: LatestCache[str, Test] = LatestCache(4 * 1024 * 1024)


def _function(source: str) -> Test:
    """The function that a source defines, compiled once for all predicates of its shape."""
    found = _functions.get(source)
    if found is not None:
        return found
    scope: dict[str, Any] = {}
    exec(compile(source, "<filter>", "exec"), _GLOBALS, scope)
    test: Test = scope["test"]
    return _functions.put(source, test, len(source))


class _Writer:
    def __init__(self) -> None:
        self.data: list[Any] = []
        self.lines: list[str] = []
        self.variables = 0
        self.columns: dict[str, str] = {}
        self.done: dict[int, str] = {}

    def source(self, result: str) -> str:
        names = "".join(f"k{index}, " for index in range(len(self.data)))
        unpacked = [f"{names}= data"] if names else []
        body = ["get = row.get", *unpacked, *self.lines, f"return {result}"]
        return "def test(row, data):\n" + "\n".join(f"    {line}" for line in body)

    def prepare(self, predicate: Expression) -> None:
        """Compute what is deep inside ahead, so that nothing below recurses far."""
        heights: dict[int, int] = {}
        for call in postorder(predicate):
            height = heights[id(call)] = 1 + max(
                (heights.get(id(arg), 0) for arg in call.args), default=0
            )
            if height % _DEEPEST == 0 and call.op not in ("and", "or", "not"):
                self.done[id(call)] = self.ahead(self.value(call))

    def bind(self, datum: Any) -> str:
        """The variable that holds a piece of data."""
        self.data.append(datum)
        return f"k{len(self.data) - 1}"

    def variable(self) -> str:
        self.variables += 1
        return f"x{self.variables}"

    def ahead(self, text: str) -> str:
        """Compute a text before the rest; the variable that holds it."""
        name = self.variable()
        self.lines.append(f"{name} = {text}")
        return name

    def shallow(self, text: str) -> str:
        return self.ahead(text) if _depth(text) > _DEEPEST else text

    def true(self, p: Expression) -> str:
        """A Python condition that holds where the predicate is TRUE."""
        return self.shallow(self._ask(p, wanted=True))

    def false(self, p: Expression) -> str:
        """A Python condition that holds where the predicate is FALSE."""
        return self.shallow(self._ask(p, wanted=False))

    def _ask(self, p: Expression, *, wanted: bool) -> str:
        if isinstance(p, Constant):
            return str(p.value is wanted)
        assert isinstance(p, Call), p
        done = self.done.get(id(p))
        if done is not None:
            return f"({done} is {wanted})"
        if p.op in ("and", "or"):
            word = p.op if wanted else {"and": "or", "or": "and"}[p.op]
            ask = self.true if wanted else self.false
            return f"({f' {word} '.join(ask(operand) for operand in p.args)})"
        if p.op == "not":
            return self._ask(p.args[0], wanted=not wanted)
        if p.op in COMPARISONS and isinstance(p.args[1], Constant):
            op = p.op if wanted else _OPPOSITE[p.op]
            return self._compare(op, p.args[0], p.args[1])
        if p.op == "in":
            return self._member(p, wanted=wanted)
        if p.op in ("like", "ilike") and isinstance(p.args[1], Constant):
            return self._like(p, wanted=wanted)
        if p.op in ("is null", "is true", "is unknown", "distinct"):
            return self._test(p) if wanted else f"(not {self._test(p)})"
        return f"({self.value(p)} is {wanted})"

    def _compare(self, op: str, this: Expression, other: Constant) -> str:
        left = self.value(this)
        if other.kind == "bool" and op == "=":
            return f"({left} is {other.value})"
        right = self.bind(other.value)
        if other.kind == "text" and op == "=":
            return f"({left} == {right})"
        name = self.variable()
        if op == "=" and _FAMILY[other.kind] == "number":
            return f"(({name} := {left}) == {right} and {name}.__class__ is not bool)"
        check = _OF_FAMILY[_FAMILY[other.kind]].format(f"({name} := {left})")
        return f"({check} and {name} {_PYTHON[op]} {right})"

    def _member(self, p: Call, *, wanted: bool) -> str:
        """IN: one set for each kind of value; FALSE only if all members are of one kind."""
        families: dict[str, list[Any]] = {}
        for found in p.args[1:]:
            assert isinstance(found, Constant), found
            families.setdefault(_FAMILY.get(found.kind, "null"), []).append(found.value)
        if not wanted and len(families) > 1:
            return "False"
        families.pop("null", None)
        name, word = self.variable(), "in" if wanted else "not in"
        subject = f"({name} := {self.value(p.args[0])})"
        parts = []
        for family, members in families.items():
            check = _OF_FAMILY[family].format(subject)
            parts.append(f"({check} and {name} {word} {self.bind(frozenset(members))})")
            subject = name
        return f"({' or '.join(parts)})"

    def _like(self, p: Call, *, wanted: bool) -> str:
        pattern, escape = (*(arg.value for arg in p.args[1:] if isinstance(arg, Constant)), None)[
            :2
        ]
        name = self.variable()
        check = f"({name} := {self.value(p.args[0])}).__class__ is str"
        word = "" if wanted else "not "
        prefix, rest = literal_prefix(pattern, escape)
        if p.op == "like" and rest == "%":
            return f"({check} and {word}{name}.startswith({self.bind(prefix)}))"
        matcher = self.bind(compile_like(pattern, escape, fold_case=p.op == "ilike"))
        return f"({check} and {word}{matcher}({name}))"

    def _test(self, p: Call) -> str:
        """The predicates that are never UNKNOWN."""
        if p.op == "is true":
            return self.true(p.args[0])
        if p.op == "distinct":
            return self._call(p)
        return f"({self.value(p.args[0])} is None)"

    def value(self, expression: Expression) -> str:
        """A Python expression for a value; a predicate's is True, False or None."""
        if isinstance(expression, Column):
            return self._column(expression.name)
        if isinstance(expression, Constant):
            return self._constant(expression)
        assert isinstance(expression, Call), expression
        done = self.done.get(id(expression))
        if done is None:
            done = self._computed(expression)
        return done

    def _computed(self, call: Call) -> str:
        if call.op == "case":
            result = self._case(call)
        elif call.op in ("and", "or", "not"):
            result = self.ahead(
                f"True if {self.true(call)} else False if {self.false(call)} else None"
            )
        elif is_predicate(call) and call.op in ("is null", "is true", "is unknown"):
            result = self.shallow(self._test(call))
        else:
            return self.shallow(self._call(call))
        self.done[id(call)] = result
        return result

    def _call(self, call: Call) -> str:
        return f"{_NAMES[call.op]}({', '.join(self.value(arg) for arg in call.args)})"

    def _case(self, call: Call) -> str:
        """Branches in reverse, each overwriting what those after it have chosen."""
        *branches, otherwise = call.args
        result = self.ahead(self.value(otherwise))
        for index in range(len(branches) - 2, -1, -2):
            then = self.value(branches[index + 1])
            self.lines.append(f"if {self.true(branches[index])}: {result} = {then}")
        return result

    def _column(self, name: str) -> str:
        key = self.columns.get(name)
        if key is None:
            key = self.columns[name] = self.bind(name)
        return f"get({key})"

    def _constant(self, found: Constant) -> str:
        if found.kind in ("null", "bool"):
            return str(found.value)
        if found.kind == "json":
            return self.bind(Json(found.value))
        return self.bind(found.value)


def _depth(text: str) -> int:
    """How deep the parentheses of a text are nested."""
    if len(text) < 2 * _DEEPEST:
        return 0
    depth = deepest = 0
    for character in text:
        if character == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif character == ")":
            depth -= 1
    return deepest


class Filter:
    """A predicate in normal form, with its compiled form made when it is first asked.

    Two filters that mean the same (see `normal`) are equal.
    """

    __slots__ = ("_data", "_test", "key", "predicate")

    def __init__(self, predicate: Expression) -> None:
        self.predicate = predicate
        # A digest of the normal form: as good as the form itself, and quick to compare.
        text = order(predicate).encode("utf-8", "surrogatepass")
        self.key = blake2b(text, digest_size=20).digest()
        self._test: Test | None = None
        self._data: tuple[Any, ...] = ()

    @property
    def matches_all(self) -> bool:
        """No WHERE, or one that is always TRUE."""
        return self.predicate == TRUE

    @property
    def matches_nothing(self) -> bool:
        """Never TRUE, whatever the row (a policy over a claim that the subscriber lacks)."""
        return self.predicate == FALSE

    @property
    def hints(self) -> Hints:
        """Clauses that hold of every row that matches."""
        return hints_of(self.predicate)

    @property
    def cost(self) -> int:
        """How dear one evaluation is at most, in comparisons; a LIKE counts for several."""
        return cost_of(self.predicate)

    def matches(self, values: dict[str, Any]) -> bool:
        """Whether the filter is TRUE of a row's values. May be called from any thread."""
        test = self._test
        if test is None:
            # Data first: another thread may see the test as soon as it is there.
            test, self._data = compile_predicate(self.predicate)
            self._test = test
        return test(values, self._data)

    @property
    def sql(self) -> str:
        """The condition as SQL, in its normal form, for people."""
        return describe(self.predicate)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Filter({self.sql})"


class Projection(NamedTuple):
    """The list of a SELECT, on a table; equal ones show the same rows alike."""

    # Named columns in their order; None: every column.
    columns: tuple[str, ...] | None
    # The columns of a payload: primary key columns that are not named come first. One that a row
    # does not have is null there. None: whatever a row has.
    names: tuple[str, ...] | None
    # Whether integers that a double cannot hold exactly are written as text.
    bigints_as_text: bool = False

    @classmethod
    def of(cls, columns: tuple[str, ...] | None, table: TableDef) -> "Projection":
        """What a list shows of a table's rows."""
        if columns is None:
            return cls(None, None)
        return cls(columns, (*(n for n in table.primary_key if n not in columns), *columns))

    def schema(self, table: TableDef) -> list[dict[str, Any]]:
        """`[{"name", "data_type", "index", "flags"?}]`, in the order of the payload's columns.

        `data_type` is the declared type as KalamDB's clients read it, "Json" where none is
        declared; `flags` is ["pk"] for the columns of the primary key. Under `*` these are the
        declared columns, or the primary key alone where the table declares none.
        """
        names = self.names
        if names is None:
            declared = table.columns or {}
            names = (*(name for name in table.primary_key if name not in declared), *declared)
        return [_described(table, index, name) for index, name in enumerate(names)]


def _described(table: TableDef, index: int, name: str) -> dict[str, Any]:
    declared = (table.columns or {}).get(name)
    data_type = "Json" if declared is None else declared.wire
    column: dict[str, Any] = {"name": name, "data_type": data_type, "index": index}
    if name in table.primary_key:
        column["flags"] = ["pk"]
    return column


# The parsed query, the table and the policy are kept beside the result: while they live, nothing
# else has their ids.
_Kept = tuple[Select, TableDef, Policy | None, "Query"]
_bound: LatestCache[tuple[int, int, int], _Kept] = LatestCache(512 * 1024)


class Query:
    """What a subscription delivers: the rows that pass `filter`, as `projection` shows them."""

    __slots__ = ("depends_on_identity", "filter", "projection", "table")

    def __init__(
        self, table: TableDef, filter: Filter, projection: Projection, depends_on_identity: bool
    ) -> None:
        self.table = table
        self.filter = filter
        self.projection = projection
        # Whether another subscriber's query of the same text could have another filter.
        self.depends_on_identity = depends_on_identity


def bind(
    select: Select,
    table: TableDef,
    identity: Identity,
    policy: Policy | None = None,
    params: Sequence[Any] = (),
) -> Query:
    """The query of one subscriber: names checked, policy joined by AND, identity folded in.

    `table` is the definition of `select.table`; `policy` its row policy, None where it has none;
    `params` the values of `$1`, `$2`, ... Raises SqlRefused for a column that a table with declared
    columns does not have, for a comparison that its types rule out, and for parameters that do not
    fit.
    """
    key = (id(select), id(table), id(policy))
    found = _bound.get(key)
    if found is not None and not params:
        return found[-1]
    _check_count(select, params)
    binder = Binder(table, identity, params)
    binder.check_names(select.listed, select.source)
    conditions = [part for part in (select.condition, policy) if part is not None]
    parts = tuple(_bound_condition(binder, condition) for condition in conditions)
    predicate = finished(conjunction(parts))
    query = Query(
        table, Filter(predicate), Projection.of(select.columns, table), binder.used_identity
    )
    if not binder.used_identity and not params:
        _bound.put(key, (select, table, policy, query), len(select.source.text))
    return query


def check_policy(policy: Policy, table: TableDef) -> None:
    """Raises SqlRefused for a column that the table does not declare, or types that never meet."""
    somebody = Identity(user_id=UserId("somebody"), role=Role.USER)
    _bound_condition(Binder(table, somebody), policy)


def _bound_condition(binder: Binder, condition: Condition) -> Expression:
    binder.check_names(condition.names, condition.source)
    return binder.bound(condition)


def _check_count(select: Select, params: Sequence[Any]) -> None:
    wanted, given = select.parameters, len(params)
    if wanted == given:
        return
    uses = "no parameter" if not wanted else "$1" if wanted == 1 else f"$1 to ${wanted}"
    what = "no params" if not given else "1 value" if given == 1 else f"{given} values"
    select.source.refuse(f"{what} for a query that uses {uses}; params takes one value for each", 0)


def forget_bound() -> None:
    """Drop the cached results of `bind`."""
    _bound.clear()
