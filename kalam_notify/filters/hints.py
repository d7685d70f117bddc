"""What a storage may know of a filter: every set of terms that an index could file it by, as hints.

The index of filters and the storage want the same thing, terms of which one holds wherever the
filter is TRUE (see `access`). The index takes the best set of them and has them exact; the storage
is told of every set, since all of them hold, and may take them as loosely as it likes.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from kalam_notify.filters.access import (
    Begins,
    Equals,
    Place,
    Term,
    TruthKey,
    Within,
    all_paths,
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
from kalam_notify.sql.tree import FALSE, Expression

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
