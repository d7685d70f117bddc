"""A WHERE clause ready to be asked: a Python function, and hints for the storage.

What a storage may know of a filter: every set of terms that an index could file it by, as hints.

The index of filters and the storage want the same thing, terms of which one holds wherever the
filter is TRUE (see `access`). The index takes the best set of them and has them exact; the storage
is told of every set, since all of them hold, and may take them as loosely as it likes.

Predicates in normal form -> Python functions.

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

The WHERE clause of a query, ready to be asked.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from kalam_notify.filters.access import all_paths
from kalam_notify.filters.cost import cost_of
from kalam_notify.filters.lookups import Begins, Equals, Place, Term, TruthKey, Within
from kalam_notify.model.hints import (
    Clause,
    ColumnIn,
    ColumnPrefix,
    ColumnRange,
    Hint,
    Hints,
    Scalar,
)
from kalam_notify.model.readings import Clock, Instant, sort_key
from kalam_notify.sql.cache import LatestCache
from kalam_notify.sql.containment import Json
from kalam_notify.sql.describe import describe
from kalam_notify.sql.like import compile_like, literal_prefix
from kalam_notify.sql.normal import order
from kalam_notify.sql.operators import FUNCTIONS
from kalam_notify.sql.tree import (
    COMPARISONS,
    FALSE,
    TRUE,
    Call,
    Column,
    Constant,
    Expression,
    is_predicate,
    postorder,
)

MAX_CLAUSES = 16
MAX_HINTS = 16
"""More ranges and prefixes than these are not worth asking one by one of every row."""

MAX_VALUES = 10_000


def hints_of(predicate: Expression) -> Hints:
    """Hints of a predicate in normal form: where a clause does not hold, it is not TRUE."""
    if predicate == FALSE:
        return ((),)
    clauses = (_clause(path.terms) for path in all_paths(predicate) if path.terms is not None)
    return tuple(clause for clause in clauses if clause is not None)[:MAX_CLAUSES]


def _clause(terms: Sequence[Term]) -> Clause | None:
    """The terms as hints; None where they cannot be told, or not briefly."""
    if not all(map(_can_be_told, terms)):
        return None
    hints = [*_memberships(terms), *_intervals(terms)]
    values = sum(len(hint.values) for hint in hints if isinstance(hint, ColumnIn))
    return tuple(hints) if len(hints) <= MAX_HINTS and values <= MAX_VALUES else None


def _memberships(terms: Iterable[Term]) -> Iterable[Hint]:
    values: dict[Place, list[Scalar]] = {}
    for term in terms:
        if isinstance(term, Equals):
            values.setdefault(term.column, []).append(_plain(term.value, term.column))
    return [
        ColumnIn(_column(place), tuple(found), _reading(place)) for place, found in values.items()
    ]


def _intervals(terms: Iterable[Term]) -> Iterable[Hint]:
    for term in terms:
        if isinstance(term, Begins):
            yield ColumnPrefix(_column(term.column), term.prefix)
        elif isinstance(term, Within):
            low, high = term.interval
            yield ColumnRange(
                _column(term.column),
                low and _plain(low[0], term.column),
                high and _plain(high[0], term.column),
                _reading(term.column),
            )


def _column(place: Place) -> str:
    return place if isinstance(place, str) else place[1]


def _reading(place: Place) -> str | None:
    return None if isinstance(place, str) else place[0]


def _plain(value: object, place: Place) -> Scalar:
    if isinstance(value, TruthKey):
        return value.value
    reading = _reading(place)
    if reading is not None:
        value = sort_key(reading, value)
    elif isinstance(value, Decimal):
        value = float(value)
    assert isinstance(value, int | float | str), value
    return value


def _can_be_told(term: Term) -> bool:
    """Whether a storage could hold the values, and has numbers as exact where they are a row's."""
    values = _texts(term)
    if isinstance(term.column, str) and any(isinstance(value, Decimal) for value in values):
        return False
    return all(map(_is_unicode, values))


def _texts(term: Term) -> list[object]:
    if isinstance(term, Equals):
        return [term.value]
    if isinstance(term, Begins):
        return [term.prefix]
    return [bound[0] for bound in term.interval if bound is not None]


def _is_unicode(value: object) -> bool:
    """Whether a value can be stored at all: half of a surrogate pair cannot."""
    if not isinstance(value, str):
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
