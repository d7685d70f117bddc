"""Access paths: how the rows that hints speak of are found without reading all of a table.

A lookup is a list of parts, whose rows together are all that can pass: keys, runs of keys that
begin alike (a leading part of the primary key), or spans of an index's entries. What is needed are
clauses of one hint each: columns that equal one of some values, as many of the key's or the index's
first columns as there are, and a range or a prefix on the column after them. A clause of several
hints (`a = 1 OR b = 2`) gives a lookup where each of them does by itself.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from kalam_notify.model import TableDef
from kalam_notify.model.hints import Clause, ColumnIn, ColumnPrefix, ColumnRange, Hint, Hints
from kalam_notify.model.keys import can_be_key, key_range, key_text
from kalam_notify.store import sorting
from kalam_notify.store.indexes import Index
from kalam_notify.store.sorting import Span

MAX_PLACES = 10_000
"""Keys or spans that one lookup may have."""


class Keys(NamedTuple):
    """Rows by their whole keys."""

    keys: Sequence[str]

    def __str__(self) -> str:
        return "primary key"


class KeyRanges(NamedTuple):
    """Rows by the beginning of their keys: from the first text to below the second."""

    ranges: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        return "primary key, leading part"


class Entries(NamedTuple):
    """Rows by entries of an index."""

    of: Index
    spans: Sequence[Span]

    def __str__(self) -> str:
        return f"index {self.of}"


Part = Keys | KeyRanges | Entries


class Lookup(NamedTuple):
    """Parts that together hold every row that can pass."""

    parts: tuple[Part, ...]

    @property
    def is_exact(self) -> bool:
        """Whether there are no more rows than places, so that nothing else can be better."""
        return all(isinstance(part, Keys) for part in self.parts)

    @property
    def uses_entries(self) -> bool:
        return any(isinstance(part, Entries) for part in self.parts)

    def __str__(self) -> str:
        return " or ".join(dict.fromkeys(map(str, self.parts)))


def may_look_up(table: TableDef, hints: Hints) -> bool:
    """Whether hints speak of a column by which rows of the table could be found at all."""
    if not table.is_keyed:
        return False
    first = {table.primary_key[0], *(index[0] for index in table.indexes)}
    return any(not clause or _columns(clause) & first for clause in hints)


def _columns(clause: Clause) -> set[str]:
    return {hint.column for hint in clause}


def lookups(table: TableDef, indexes: Iterable[Index], hints: Hints) -> list[Lookup]:
    """The ways to find the rows that hints speak of; those with whole keys come first.

    `indexes` are the complete ones.
    """
    if () in hints:
        return [Lookup(())]
    ways = list(indexes)
    single = [clause[0] for clause in hints if len(clause) == 1]
    found = [Lookup((part,)) for part in _parts(table, ways, single)]
    for clause in hints:
        if len(clause) > 1:
            found += _union(table, ways, clause)
    return sorted(found, key=lambda lookup: not lookup.is_exact)


def _union(table: TableDef, indexes: Sequence[Index], clause: Clause) -> list[Lookup]:
    parts: list[Part] = []
    for hint in clause:
        found = _parts(table, indexes, [hint])
        if not found:
            return []
        parts.append(found[0])
    return [Lookup(tuple(parts))]


def _parts(table: TableDef, indexes: Sequence[Index], hints: Sequence[Hint]) -> list[Part]:
    keyed = _by_key(table.primary_key, hints)
    found: list[Part] = [] if keyed is None else [keyed]
    for index in indexes:
        spans = _spans(index, hints)
        if spans is not None:
            found.append(Entries(index, spans))
    return found


def _by_key(columns: Sequence[str], hints: Sequence[Hint]) -> Part | None:
    lists = []
    for column in columns:
        members = _members(hints, column, None)
        if members is None:
            break
        keys = (can_be_key(value) for value in members)
        lists.append([key for key in keys if key is not None])
    if not lists or prod(map(len, lists)) > MAX_PLACES:
        return None
    if len(lists) == len(columns):
        return Keys(list(dict.fromkeys(map(key_text, product(*lists)))))
    return KeyRanges(list(dict.fromkeys(map(key_range, product(*lists)))))


def _spans(index: Index, hints: Sequence[Hint]) -> list[Span] | None:
    """The spans of an index's entries; None where the hints say nothing of its first column."""
    begins = [b""]
    for place, column in enumerate(index.columns):
        members = _members(hints, column.name, column.reading)
        if members is None:
            spans = _last(begins, hints, column.name, column.reading)
            if spans is not None:
                return spans
            return _whole(begins) if place else None
        encoded = list(map(sorting.encode, members))
        if len(begins) * len(encoded) > MAX_PLACES:
            return _whole(begins) if place else None
        begins = [begin + value for begin in begins for value in encoded]
    return _whole(begins)


def _whole(begins: Iterable[bytes]) -> list[Span]:
    return sorting.merged([(begin, begin + sorting.ABOVE) for begin in begins])


def _last(
    begins: Iterable[bytes], hints: Iterable[Hint], column: str, reading: str | None
) -> list[Span] | None:
    """Spans by a range or a prefix on the column after those that are equal."""
    for hint in hints:
        match hint:
            case ColumnRange(name, low, high, read) if (name, read) == (column, reading):
                spans = [sorting.between(begin, low, high) for begin in begins]
            case ColumnPrefix(name, prefix) if (name, None) == (column, reading):
                spans = [sorting.beginning(begin, prefix) for begin in begins]
            case _:
                continue
        return sorting.merged(spans)
    return None


def _members(hints: Iterable[Hint], column: str, reading: str | None) -> Sequence[Any] | None:
    """The values that the column equals one of; the shortest list there is."""
    found = [
        hint.values
        for hint in hints
        if isinstance(hint, ColumnIn) and (hint.column, hint.reading) == (column, reading)
    ]
    return min(found, key=len, default=None)
