"""What a storage may know of a filter: the terms the index files it by, as hints.

The index and the storage want the same thing, terms of which one holds wherever the filter is TRUE
(see `access`); the index has them exact, the storage may take them as loosely as it likes.
"""

import re
from collections.abc import Iterable

from kalam_notify.model.hints import ColumnIn, ColumnPrefix, ColumnRange, Hint, Scalar
from kalam_notify.sql.access import Begins, Equals, Term, TruthKey, Within, access
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
    terms = access(predicate).terms
    if terms is None or not all(_can_be_told(term) for term in terms):
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


def _can_be_told(term: Term) -> bool:
    return _PLAIN_NAME.fullmatch(term.column) is not None and all(map(_is_unicode, _texts(term)))


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
