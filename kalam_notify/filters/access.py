"""How a filter can be found without asking it: its entries in the index, its hints for a storage.

A predicate is cut into a set of terms, at least one of which holds wherever it is TRUE, and a
residual that has to be asked once a term was met (None: the terms say it all).

Of the operands of an AND the one expected to hold for the fewest rows is taken, by a fixed rule:
equality, IN, long prefixes, closed ranges, short prefixes, half-open ranges, booleans. Among
several equalities (and INs) the index decides by how many filters each of them leads to. An OR can
be found when each of its operands can.

A storage wants the same, terms of which one holds wherever the filter is TRUE. The index takes the
best set of them and has them exact; the storage is told of every set, since all of them hold, as
hints that it may take as loosely as it likes.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from kalam_notify.filters.lookups import (
    FALSE_KEY,
    TRUE_KEY,
    Begins,
    Bound,
    Equals,
    Interval,
    Place,
    Term,
    TruthKey,
    Within,
)
from kalam_notify.model.hints import (
    Clause,
    ColumnIn,
    ColumnPrefix,
    ColumnRange,
    Hint,
    Hints,
    Scalar,
)
from kalam_notify.model.readings import sort_key
from kalam_notify.sql.describe import listed, literal
from kalam_notify.sql.like import literal_prefix
from kalam_notify.sql.normal import conjunction
from kalam_notify.sql.tree import FALSE, Call, Column, Constant, Expression, is_reading

MAX_PREFIX = 32
"""Characters of a LIKE prefix that the index knows; the rest is asked."""


_FAMILY = dict.fromkeys(("int", "float", "decimal"), "number") | {
    kind: kind for kind in ("text", "instant", "clock")
}
_LOOKED_UP = {*_FAMILY, "bool"}
_ORDERINGS = ("<", "<=", ">", ">=")


_VALUES_COST = 5.0
"""Every cost below is that of looking up values of a column."""


class Access(NamedTuple):
    """The terms a filter is filed under (None: it has to be scanned) and what remains to be asked.

    `cost` is the rank of the choice, lower for fewer expected rows.
    """

    terms: tuple[Term, ...] | None
    residual: Expression | None
    cost: float


def access(predicate: Expression) -> Access:
    """The way to find a predicate in normal form that the fixed rule prefers."""
    return all_paths(predicate)[0]


def access_paths(predicate: Expression) -> list[Access]:
    """The preferred path, then the others that ask for values of a column as it does.

    Which of two equalities holds for fewer rows no rule can know from the filter alone: the index
    takes the one that fewer of its filters ask for (`tenant = 'a' AND id = 7` by `id`).
    """
    paths = all_paths(predicate)
    return [path for path in paths if path is paths[0] or path.cost < _VALUES_COST]


def all_paths(predicate: Expression) -> list[Access]:
    """Every way to find a predicate, the preferred one first; at least that of asking it."""
    operands: Sequence[Expression] = (predicate,)
    if isinstance(predicate, Call) and predicate.op == "and":
        operands = predicate.args
    candidates = [*_candidates(operands)]
    if not candidates:
        return [Access(None, predicate, float("inf"))]
    if len(candidates) > 1:
        candidates.sort(key=lambda each: each.cost)
    return [_access(candidate, operands) for candidate in candidates]


def _access(candidate: "_Candidate", operands: Sequence[Expression]) -> Access:
    if len(operands) == 1:
        return Access(candidate.terms, None if candidate.covers else operands[0], candidate.cost)
    covered = set(map(id, candidate.covers))
    rest = [operand for operand in operands if id(operand) not in covered]
    return Access(candidate.terms, conjunction(rest) if rest else None, candidate.cost)


def place_of(expression: Expression) -> Place | None:
    """What an index would look up in a row for an expression; None: nothing."""
    if isinstance(expression, Column):
        return expression.name
    if is_reading(expression) and isinstance(expression, Call):
        column = expression.args[0]
        return (expression.op, column.name) if isinstance(column, Column) else None
    return None


class _Candidate(NamedTuple):
    terms: tuple[Term, ...]
    covers: tuple[Expression, ...]
    cost: float


def _candidates(operands: Iterable[Expression]) -> Iterable[_Candidate]:
    bounds: dict[tuple[Place, str], list[Call]] = {}
    for operand in operands:
        if not isinstance(operand, Call):
            continue
        if operand.op == "or":
            yield from _alternatives(operand)
        place, other = place_of(operand.args[0]), operand.args[-1]
        if place is None or not isinstance(other, Constant):
            continue
        if operand.op == "=" and other.kind in _FAMILY:
            # What _values gives; most filters are just this.
            yield _Candidate((Equals(place, other.value),), (operand,), 1.0)
        elif operand.op in ("=", "in"):
            yield from _values(place, operand)
        elif operand.op == "like":
            yield from _prefix(place, operand)
        elif operand.op in _ORDERINGS and other.kind in _FAMILY:
            bounds.setdefault((place, _FAMILY[other.kind]), []).append(operand)
    for (place, family), calls in bounds.items():
        yield _range(place, family, calls)


def _alternatives(call: Call) -> Iterable[_Candidate]:
    ways = [access(operand) for operand in call.args]
    terms: list[Term] = []
    for way in ways:
        if way.terms is None:
            return
        terms.extend(way.terms)
    exact = all(way.residual is None for way in ways)
    unique = tuple(dict.fromkeys(terms))
    yield _Candidate(unique, (call,) if exact else (), sum(way.cost for way in ways))


def _values(column: Place, call: Call) -> Iterable[_Candidate]:
    members = [found for found in call.args[1:] if isinstance(found, Constant)]
    kinds = {found.kind for found in members} - {"null"}
    if not kinds <= _LOOKED_UP:
        return
    keys = [value_key(found.value) for found in members if found.value is not None]
    terms = tuple(Equals(column, key) for key in keys)
    cost = 70.0 if "bool" in kinds else 1 + (len(terms) - 1) / 10
    yield _Candidate(terms, (call,), cost)


def _prefix(column: Place, call: Call) -> Iterable[_Candidate]:
    pattern, escape = (*(arg.value for arg in call.args[1:] if isinstance(arg, Constant)), None)[:2]
    prefix, rest = literal_prefix(pattern, escape)
    if not prefix:
        return
    exact = rest == "%" and len(prefix) <= MAX_PREFIX
    cost = 5.0 if len(prefix) > 2 else 40 / len(prefix)
    yield _Candidate((Begins(column, prefix[:MAX_PREFIX]),), (call,) if exact else (), cost)


def _range(column: Place, family: str, calls: list[Call]) -> _Candidate:
    lows: list[Bound] = []
    highs: list[Bound] = []
    for call in calls:
        bound = call.args[1]
        assert isinstance(bound, Constant), bound
        if call.op in (">", ">="):
            lows.append((bound.value, 1 if call.op == ">" else 0))
        else:
            highs.append((bound.value, -1 if call.op == "<" else 0))
    interval = Interval(max(lows, default=None), min(highs, default=None))
    cost = 10.0 if lows and highs else 60.0
    return _Candidate((Within(column, family, interval),), tuple(calls), cost)


def value_key(value: object) -> object:
    """What a value is looked up by: numbers and text by themselves, booleans apart."""
    if value is True:
        return TRUE_KEY
    return FALSE_KEY if value is False else value


def explain(terms: Iterable[Term]) -> str:
    """The terms for people: `hash status IN ('a', 'b')`, `range price >= 1 AND < 5`."""
    values: dict[str, list[str]] = {}
    others: list[str] = []
    for term in terms:
        if isinstance(term, Equals):
            value = term.value.value if isinstance(term.value, TruthKey) else term.value
            values.setdefault(named(term.column), []).append(literal(value))
        elif isinstance(term, Begins):
            others.append(f"prefix {named(term.column)} {literal(term.prefix)}")
        else:
            others.append(f"range {named(term.column)} {_interval(term.interval)}")
    hashes = [
        f"hash {column} = {found[0]}" if len(found) == 1 else f"hash {column} IN {listed(found)}"
        for column, found in values.items()
    ]
    return " or ".join(sorted(hashes) + sorted(others))


def named(place: Place) -> str:
    """The column's name."""
    return place if isinstance(place, str) else place[1]


def _interval(interval: Interval) -> str:
    low, high = interval
    parts = []
    if low is not None:
        parts.append(f"{'>' if low[1] else '>='} {literal(low[0])}")
    if high is not None:
        parts.append(f"{'<' if high[1] else '<='} {literal(high[0])}")
    return " AND ".join(parts)


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
        ColumnIn(named(place), tuple(found), _reading(place)) for place, found in values.items()
    ]


def _intervals(terms: Iterable[Term]) -> Iterable[Hint]:
    for term in terms:
        if isinstance(term, Begins):
            yield ColumnPrefix(named(term.column), term.prefix)
        elif isinstance(term, Within):
            low, high = term.interval
            yield ColumnRange(
                named(term.column),
                low and _plain(low[0], term.column),
                high and _plain(high[0], term.column),
                _reading(term.column),
            )


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
