"""Where the entries of a filter index stand: by value, by interval, by prefix.

Each takes an entry under a term, gives it back, and collects the entries that a row leads to. A
place that holds one entry holds it bare; one that is shared holds a dict of them. Columns that are
read as their type stand apart: what a row has for them is read once for each index that asks.
"""

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from kalam_notify.filters.access import FALSE_KEY, TRUE_KEY, Begins, Equals, Place, Within
from kalam_notify.filters.ranges import Ranges
from kalam_notify.model.readings import READINGS

E = TypeVar("E")


class _Places(Protocol):
    def get(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, place: Any, /) -> None: ...
    def __delitem__(self, key: Any, /) -> None: ...


def _put(places: _Places, key: Any, entry: object) -> None:
    place = places.get(key)
    if place is None:
        places[key] = entry
    elif place.__class__ is dict:
        place[entry] = None
    elif place is not entry:
        places[key] = {place: None, entry: None}


def _take(places: _Places, key: Any, entry: object) -> None:
    place = places.get(key)
    if place.__class__ is dict:
        place.pop(entry, None)
        if not place:
            del places[key]
    elif place is entry:
        del places[key]


def _collect(place: Any, hits: list[E]) -> None:
    if place.__class__ is dict:
        hits.extend(place)
    elif place is not None:
        hits.append(place)


class _ByPlace:
    """What is kept for each column, and for each reading of one."""

    __slots__ = ("_columns", "_readings")

    def __init__(self) -> None:
        self._columns: dict[Any, dict[Any, Any]] = {}
        self._readings: dict[Any, dict[Any, Any]] | None = None

    def _at(self, place: Place) -> dict[Any, Any]:
        """What is kept for a place, made where it is the first."""
        if isinstance(place, str):
            return self._columns.setdefault(place, {})
        if self._readings is None:
            self._readings = {}
        return self._readings.setdefault(place, {})

    def _find(self, place: Place) -> dict[Any, Any]:
        kept = self._columns if isinstance(place, str) else self._readings or {}
        return kept.get(place, {})

    def _tidy(self, place: Place) -> None:
        """Forget a place of which nothing is kept."""
        kept = self._columns if isinstance(place, str) else self._readings or {}
        if not kept.get(place, True):
            del kept[place]

    def _read(self, row: dict[str, Any]) -> Iterator[tuple[Any, dict[Any, Any]]]:
        """The values that are read out of a row, and what is kept for them."""
        for (reading, column), kept in (self._readings or {}).items():
            value = READINGS[reading](row.get(column))
            if value is not None:
                yield value, kept


class HashIndex(_ByPlace, Generic[E]):
    """Entries by column and value."""

    __slots__ = ()

    def file(self, term: Equals, entry: E) -> None:
        _put(self._at(term.column), term.value, entry)

    def take(self, term: Equals, entry: E) -> None:
        _take(self._find(term.column), term.value, entry)
        self._tidy(term.column)

    def count(self, term: Equals) -> int:
        """How many entries stand under the term."""
        place = self._find(term.column).get(term.value)
        return len(place) if place.__class__ is dict else int(place is not None)

    def collect(self, row: dict[str, Any], hits: list[E]) -> None:
        columns = self._columns
        # Whichever is shorter: the columns filters ask for, or those the row has.
        for column in columns if len(columns) <= len(row) else row:
            value = row.get(column)
            kind = value.__class__
            if kind is bool:
                value = TRUE_KEY if value else FALSE_KEY
            elif kind is not str and kind is not int and kind is not float:
                continue
            places = columns.get(column)
            if places is None:
                continue
            place = places.get(value)
            if place is None:
                continue
            if place.__class__ is dict:
                hits.extend(place)
            else:
                hits.append(place)
        if self._readings:
            for value, places in self._read(row):
                _collect(places.get(value), hits)


_FAMILY_OF: dict[type, str] = {int: "number", float: "number", str: "text"}


class RangeIndex(_ByPlace, Generic[E]):
    """Entries by column, family (numbers, text, ...) and interval."""

    __slots__ = ()

    def file(self, term: Within, entry: E) -> None:
        families = self._at(term.column)
        if term.family not in families:
            families[term.family] = Ranges()
        _put(families[term.family], term.interval, entry)

    def take(self, term: Within, entry: E) -> None:
        families = self._find(term.column)
        ranges = families.get(term.family)
        if ranges is None:
            return
        _take(ranges, term.interval, entry)
        if not ranges:
            del families[term.family]
        self._tidy(term.column)

    def collect(self, row: dict[str, Any], hits: list[E]) -> None:
        columns = self._columns
        for column in columns if len(columns) <= len(row) else row:
            value = row.get(column)
            family = _FAMILY_OF.get(value.__class__)
            if family is None:
                continue
            ranges = columns.get(column, {}).get(family)
            if ranges is not None:
                for place in ranges.containing(value):
                    _collect(place, hits)
        if self._readings:
            for value, families in self._read(row):
                # A reading's values are of one family, and so is what is compared with them.
                for ranges in families.values():
                    for place in ranges.containing(value):
                        _collect(place, hits)


class PrefixIndex(_ByPlace, Generic[E]):
    """Entries by column, length of the prefix and prefix."""

    __slots__ = ()

    def file(self, term: Begins, entry: E) -> None:
        lengths = self._at(term.column)
        _put(lengths.setdefault(len(term.prefix), {}), term.prefix, entry)

    def take(self, term: Begins, entry: E) -> None:
        lengths = self._find(term.column)
        places = lengths.get(len(term.prefix), {})
        _take(places, term.prefix, entry)
        if not places:
            lengths.pop(len(term.prefix), None)
        self._tidy(term.column)

    def collect(self, row: dict[str, Any], hits: list[E]) -> None:
        columns = self._columns
        for column in columns if len(columns) <= len(row) else row:
            value = row.get(column)
            if value.__class__ is not str:
                continue
            for length, places in columns.get(column, {}).items():
                place = places.get(value[:length])
                if place is not None:
                    _collect(place, hits)
