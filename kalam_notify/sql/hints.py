"""What a storage may know of a filter: the terms an index could file it by, as hints.

The index of filters and the storage want the same thing, terms of which one holds wherever the
filter is TRUE (see `access`). The index takes the best set of them and has them exact; the storage
is told of every set, since all of them hold, and may take them as loosely as it likes.
"""

from collections.abc import Iterable, Sequence

from kalam_notify.model.hints import (
    Clause,
    ColumnIn,
    ColumnPrefix,
    ColumnRange,
    Hint,
    Hints,
    Scalar,
)
from kalam_notify.sql.access import Begins, Equals, Term, TruthKey, Within, candidates
from kalam_notify.sql.tree import FALSE, Expression

MAX_CLAUSES = 16
MAX_HINTS = 16
"""More ranges and prefixes than these are not worth asking one by one of every row."""

MAX_VALUES = 10_000


def hints_of(predicate: Expression) -> Hints:
    """Hints of a predicate in normal form: where a clause does not hold, it is not TRUE."""
    if predicate == FALSE:
        return ((),)
    clauses = (_clause(terms) for terms in candidates(predicate))
    return tuple(clause for clause in clauses if clause is not None)[:MAX_CLAUSES]


def _clause(terms: Sequence[Term]) -> Clause | None:
    """The terms as hints; None where they cannot be told, or not briefly."""
    if not all(map(_is_unicode, (text for term in terms for text in _texts(term)))):
        return None
    hints = [*_memberships(terms), *_intervals(terms)]
    values = sum(len(hint.values) for hint in hints if isinstance(hint, ColumnIn))
    return tuple(hints) if len(hints) <= MAX_HINTS and values <= MAX_VALUES else None


def _memberships(terms: Iterable[Term]) -> Iterable[Hint]:
    values: dict[str, list[Scalar]] = {}
    for term in terms:
        if isinstance(term, Equals):
            values.setdefault(term.column, []).append(_plain(term.value))
    return [ColumnIn(column, tuple(found)) for column, found in values.items()]


def _intervals(terms: Iterable[Term]) -> Iterable[Hint]:
    for term in terms:
        if isinstance(term, Begins):
            yield ColumnPrefix(term.column, term.prefix)
        elif isinstance(term, Within):
            low, high = term.interval
            yield ColumnRange(term.column, low and low[0], high and high[0])


def _plain(value: object) -> Scalar:
    if isinstance(value, TruthKey):
        return value.value
    assert isinstance(value, int | float | str), value
    return value


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
