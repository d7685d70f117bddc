"""The tables and indexes of the file, and how a filter's rows are found by them or left out in SQL.

Access paths: how the rows that hints speak of are found without reading all of a table.

A lookup is a list of parts, whose rows together are all that can pass: keys, runs of keys that
begin alike (a leading part of the primary key), or spans of an index's entries. What is needed are
clauses of one hint each: columns that equal one of some values, as many of the key's or the index's
first columns as there are, and a range or a prefix on the column after them. A clause of several
hints (`a = 1 OR b = 2`) gives a lookup where each of them does by itself.

Hints as SQL conditions on a row's JSON text, so that SQLite leaves out rows by itself.

The conditions are never stricter than the hints, in any SQLite from 3.40 on, whatever JSON a row
holds. What `json_extract` makes of a value, and how the conditions allow for it:

- An integer of 64 bits comes as it is; a larger one comes as REAL, rounded. REAL text is read with
  an error of a few units in the last key, more than Python's, by a rule that differs between
  releases. So numbers are held against intervals that are wider than asked by `_SLACK` of
  their size, except integers against integers in a list of values.
- TRUE and FALSE come as 1 and 0: rows with those numbers are let pass in their stead.
- Text comes unescaped, and compares by its UTF-8 bytes, which is by code point. Older releases end
  it before the first U+0000. A cut text is never above the whole one, and not below a lower bound
  that is cut at its own first U+0000: so that is done to lower bounds, and a text is looked for
  both as it is and cut.
- Arrays and objects come as their text; NULL and absent columns as NULL, of which nothing holds.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, product
from math import prod
from sqlite3 import Connection
from typing import Any, NamedTuple

from kalam_notify.model import TableDef, TableId
from kalam_notify.model.changes import can_be_key, key_range, key_text
from kalam_notify.model.hints import (
    Clause,
    ColumnIn,
    ColumnPrefix,
    ColumnRange,
    Hint,
    Hints,
    Scalar,
)
from kalam_notify.store import sorting
from kalam_notify.store.sorting import Span


class Shape(NamedTuple):
    """What the stored rows of a table depend on."""

    kind: str
    primary_key: tuple[str, ...]

    @classmethod
    def of(cls, table: TableDef) -> "Shape":
        return cls(table.kind, table.primary_key)

    def __str__(self) -> str:
        key = ", ".join(self.primary_key) or "none"
        return f"type {self.kind}, primary key {key}"


class StoredTable(NamedTuple):
    number: int
    shape: Shape
    horizon: int


def stored_table(connection: Connection, table: TableId) -> StoredTable | None:
    """One table, or None when it has never had data."""
    found = connection.execute(
        "SELECT id, kind, primary_key, horizon FROM tables WHERE name = ?", (table,)
    ).fetchone()
    return None if found is None else _stored(*found)


def stored_tables(connection: Connection) -> dict[TableId, StoredTable]:
    """Every table the file knows."""
    found = connection.execute("SELECT name, id, kind, primary_key, horizon FROM tables")
    return {TableId(name.decode()): _stored(*rest) for name, *rest in found.fetchall()}


def _stored(number: int, kind: bytes, primary_key: bytes, horizon: int) -> StoredTable:
    return StoredTable(number, Shape(kind.decode(), tuple(json.loads(primary_key))), horizon)


class IndexColumn(NamedTuple):
    """A column of an index, and what its values are read as (None: as they are)."""

    name: str
    reading: str | None = None


class Index(NamedTuple):
    """An index of the file. It is used for reading when it `is_ready`, and kept in any case."""

    number: int
    columns: tuple[IndexColumn, ...]
    is_ready: bool = True

    def __str__(self) -> str:
        return f"({', '.join(column.name for column in self.columns)})"


_INDEXES_OF = "SELECT id, columns, state FROM indexes WHERE tbl = ? AND state <> 'dropped'"


def indexes_of(connection: Connection, table: int) -> list[Index]:
    """The indexes of a table, those included that are not complete."""
    found = connection.execute(_INDEXES_OF, (table,)).fetchall()
    return [Index(number, columns_of(text), state == b"ready") for number, text, state in found]


def columns_of(text: bytes) -> tuple[IndexColumn, ...]:
    return tuple(IndexColumn(name, reading) for name, reading in json.loads(text))


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


_SLACK = 1e-12
_SMALLEST = 1e-300  # below it REALs are too few and far between for a relative slack
_LARGEST = sys.float_info.max
_INTEGERS = range(-(2**63), 2**63)
_LAST_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)

# Names that need no care in a path.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# More values than these cost a row more than they spare.
_MOST_VALUES = 512

Parameter = int | float | str | bytes


class Prefilter:
    """The condition that the clauses hold, those of them that can be said in SQL.

    `parameters` are to be bound with the statement, whose own must not begin with `hint`.
    """

    def __init__(self, hints: Hints) -> None:
        self.parameters: dict[str, Parameter] = {}
        self._numbers = count()
        self._clauses = [
            " OR ".join(map(self._condition, clause)) or "false"
            for clause in hints
            if _can_be_said(clause)
        ]

    def on(self, column: str) -> str:
        """` AND (...)`, or nothing, for rows whose JSON text stands in an SQL column."""
        return "".join(f" AND ({clause.replace('$text', column)})" for clause in self._clauses)

    def _condition(self, hint: Hint) -> str:
        value = f"json_extract($text, {self._bind(f'$.{hint.column}')})"
        match hint:
            case ColumnIn():
                return " OR ".join(self._memberships(value, hint.values)) or "false"
            case ColumnRange(low=low, high=high):
                return f"{value} {self._between(low, high)}"
            case ColumnPrefix(prefix=prefix):
                return f"{value} {self._between(prefix, _after_all_with(prefix))}"

    def _memberships(self, value: str, wanted: Iterable[Scalar]) -> Iterator[str]:
        wanted = list(wanted)
        exact = list(dict.fromkeys(_exact(wanted)))
        if exact:
            yield f"{value} IN ({', '.join(map(self._bind, exact))})"
        numbers = [found for found in wanted if not isinstance(found, bool | str)]
        if numbers:
            # Reals are judged by the span of all: lists of many reals are rare.
            span = self._between(min(numbers), max(numbers))
            yield f"(typeof({value}) = 'real' AND {value} {span})"

    def _between(self, low: Scalar | None, high: Scalar | None) -> str:
        if not isinstance(low, str) and not isinstance(high, str):
            bounds = _below(low), _above(high)
            return f"BETWEEN {self._bind(bounds[0])} AND {self._bind(bounds[1])}"
        # Numbers stand below every text.
        low = _until_nul(low) if isinstance(low, str) else ""
        if not isinstance(high, str):
            return f">= {self._bind(low)}"
        return f"BETWEEN {self._bind(low)} AND {self._bind(high)}"

    def _bind(self, value: Parameter) -> str:
        name = f"hint{next(self._numbers)}"
        self.parameters[name] = value
        return f":{name}"


def _can_be_said(clause: Clause) -> bool:
    values = sum(len(hint.values) for hint in clause if isinstance(hint, ColumnIn))
    return values <= _MOST_VALUES and all(map(_is_plain, clause))


def _is_plain(hint: Hint) -> bool:
    if not isinstance(hint, ColumnPrefix) and hint.reading is not None:
        return False
    return _PLAIN_NAME.fullmatch(hint.column) is not None


def _exact(wanted: Iterable[Scalar]) -> Iterator[int | str]:
    """Values that are extracted as they are, text also as old releases cut it."""
    for value in wanted:
        if isinstance(value, str):
            yield value
            yield _until_nul(value)
        elif (isinstance(value, int) or value.is_integer()) and int(value) in _INTEGERS:
            yield int(value)


def _until_nul(text: str) -> str:
    return text.partition("\0")[0]


def _below(bound: Scalar | None) -> float:
    if bound is None:
        return -math.inf
    number = _as_float(bound)
    return number - abs(number) * _SLACK - _SMALLEST


def _above(bound: Scalar | None) -> float:
    if bound is None:
        return math.inf
    number = _as_float(bound)
    return number + abs(number) * _SLACK + _SMALLEST


def _as_float(number: Scalar) -> float:
    """The nearest finite double."""
    try:
        return max(-_LARGEST, min(float(number), _LARGEST))
    except OverflowError:
        return _LARGEST if int(number) > 0 else -_LARGEST


def _after_all_with(prefix: str) -> str | None:
    """A text above all that begin with a prefix; None where there is none."""
    kept = prefix.rstrip(chr(_LAST_CHARACTER))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    if following in _SURROGATES:
        following = _SURROGATES.stop
    return kept[:-1] + chr(following)
