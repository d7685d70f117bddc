"""Where the entries of an index stand: one shelf for each kind of term.

A shelf files an entry under a term, takes it back, and collects the entries that a row leads to.
A place that holds one entry holds it bare; one that is shared holds a dict of them.
"""

from typing import Any, Generic, Protocol, TypeVar

from kalam_notify.sql.access import FALSE_KEY, TRUE_KEY, Begins, Equals, Within
from kalam_notify.sql.ranges import Ranges

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


class ValueShelf(Generic[E]):
    """Entries by column and value."""

    __slots__ = ("_columns",)

    def __init__(self) -> None:
        self._columns: dict[str, dict[object, Any]] = {}

    def file(self, term: Equals, entry: E) -> None:
        _put(self._columns.setdefault(term.column, {}), term.value, entry)

    def take(self, term: Equals, entry: E) -> None:
        places = self._columns.get(term.column, {})
        _take(places, term.value, entry)
        if not places:
            self._columns.pop(term.column, None)

    def crowd(self, term: Equals) -> int:
        """How many entries stand under the term."""
        place = self._columns.get(term.column, {}).get(term.value)
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


class RangeShelf(Generic[E]):
    """Entries by column, family (number or text) and interval."""

    __slots__ = ("_columns",)

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, Ranges[Any]]] = {}

    def file(self, term: Within, entry: E) -> None:
        families = self._columns.setdefault(term.column, {})
        if term.family not in families:
            families[term.family] = Ranges()
        _put(families[term.family], term.interval, entry)

    def take(self, term: Within, entry: E) -> None:
        families = self._columns.get(term.column, {})
        ranges = families.get(term.family)
        if ranges is None:
            return
        _take(ranges, term.interval, entry)
        if not ranges:
            del families[term.family]
        if not families:
            del self._columns[term.column]

    def collect(self, row: dict[str, Any], hits: list[E]) -> None:
        columns = self._columns
        for column in columns if len(columns) <= len(row) else row:
            value = row.get(column)
            kind = value.__class__
            if kind is int or kind is float:
                family = "number"
            elif kind is str:
                family = "text"
            else:
                continue
            ranges = columns.get(column, {}).get(family)
            if ranges is not None:
                for place in ranges.containing(value):
                    _collect(place, hits)


class PrefixShelf(Generic[E]):
    """Entries by column, length of the prefix and prefix."""

    __slots__ = ("_columns",)

    def __init__(self) -> None:
        self._columns: dict[str, dict[int, dict[str, Any]]] = {}

    def file(self, term: Begins, entry: E) -> None:
        lengths = self._columns.setdefault(term.column, {})
        _put(lengths.setdefault(len(term.prefix), {}), term.prefix, entry)

    def take(self, term: Begins, entry: E) -> None:
        lengths = self._columns.get(term.column, {})
        places = lengths.get(len(term.prefix), {})
        _take(places, term.prefix, entry)
        if not places:
            lengths.pop(len(term.prefix), None)
        if not lengths:
            self._columns.pop(term.column, None)

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
