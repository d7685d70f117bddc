"""What a storage may know of a filter: the terms the index files it by, as hints.

The index and the storage want the same thing, terms of which one holds wherever the filter is TRUE
(see `access`); the index has them exact, the storage may take them as loosely as it likes.
"""

import re
from collections.abc import Iterable
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
from kalam_notify.model.hints import ColumnIn, ColumnPrefix, ColumnRange, Hint, Scalar
from kalam_notify.model.readings import sort_key
from kalam_notify.sql.tree import FALSE, Expression

MAX_HINTS = 16
"""More ranges and prefixes than these are not worth asking one by one of every row."""

MAX_VALUES = 512

# Names that need no care in any storage's language.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def hints_of(predicate: Expression) -> tuple[Hint, ...] | None:
    """Hints of a predicate in normal form: none holds, it is not TRUE. None: nothing is known."""
    if predicate == FALSE:
        return ()
    for path in all_paths(predicate):
        terms = path.terms
        if terms is None or not all(_is_plain(term) and _can_be_told(term) for term in terms):
            continue
        hints = [*_memberships(terms), *_intervals(terms)]
        values = sum(len(hint.values) for hint in hints if isinstance(hint, ColumnIn))
        if len(hints) <= MAX_HINTS and values <= MAX_VALUES:
            return tuple(hints)
    return None


def facts_of(predicate: Expression) -> tuple[Hint, ...]:
    """What holds of every row of which a predicate in normal form is TRUE, the best first."""
    facts: list[Hint] = []
    for path in all_paths(predicate):
        terms = path.terms or ()
        found = [*_memberships(terms), *_intervals(terms)]
        if len(found) == 1 and all(map(_is_storable, terms)):
            facts.extend(found)
    return tuple(facts)


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


def _is_plain(term: Term) -> bool:
    """Whether the values are the row's own, and numbers among them of JSON's kinds."""
    return isinstance(term.column, str) and not any(isinstance(v, Decimal) for v in _texts(term))


def _is_storable(term: Term) -> bool:
    return all(map(_is_unicode, _texts(term)))


def _can_be_told(term: Term) -> bool:
    return _PLAIN_NAME.fullmatch(_column(term.column)) is not None and _is_storable(term)


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
