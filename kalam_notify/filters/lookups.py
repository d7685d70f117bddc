"""Where the entries of a filter index stand: by value, by interval, by prefix.

Intervals that contain a point, found in O(log n + hits).

Intervals bounded on both sides stand in a treap (a binary search tree by lower bound, balanced by
random priorities) in which every node knows the highest upper bound below it, so that a search
leaves out whole subtrees (Cormen et al., "Interval trees"). Intervals open to one side need less:
a sorted dictionary by their one bound, of which a search takes everything before or after the
point.

A bound is a pair (value, bias): bias 0 includes the value, a lower bound with +1 or an upper bound
with -1 excludes it. A point is (value, 0). All values of one structure are numbers, or all text.

Each takes an entry under a term, gives it back, and collects the entries that a row leads to. A
place that holds one entry holds it bare; one that is shared holds a dict of them. Columns that are
read as their type stand apart: what a row has for them is read once for each index that asks.
"""

from collections.abc import Iterator
from random import random
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sortedcontainers import SortedDict

from kalam_notify.model.readings import READINGS

V = TypeVar("V")
Bound = tuple[Any, int]


class Interval(NamedTuple):
    """None is no bound."""

    low: Bound | None
    high: Bound | None

    @property
    def is_empty(self) -> bool:
        return self.low is not None and self.high is not None and self.low > self.high


class Ranges(Generic[V]):
    """Values filed under intervals, one value for each distinct interval."""

    __slots__ = ("_from", "_root", "_upto")

    def __init__(self) -> None:
        self._from: Any = None
        self._upto: Any = None
        self._root: _Node[V] | None = None

    def get(self, interval: Interval) -> V | None:
        """The value filed under exactly this interval."""
        low, high = interval
        if high is None:
            return None if self._from is None else self._from.get(low)
        if low is None:
            return None if self._upto is None else self._upto.get(high)
        node = self._find(interval)
        return None if node is None else node.value

    def _find(self, interval: Interval) -> "_Node[V] | None":
        node = self._root
        while node is not None and node.key != interval:
            node = node.left if interval < node.key else node.right
        return node

    def __setitem__(self, interval: Interval, value: V) -> None:
        low, high = interval
        if high is None:
            self._from = SortedDict() if self._from is None else self._from
            self._from[low] = value
        elif low is None:
            self._upto = SortedDict() if self._upto is None else self._upto
            self._upto[high] = value
        elif (known := self._find(interval)) is not None:
            known.value = value
        else:
            self._root = _insert(self._root, _Node(interval, value))

    def __delitem__(self, interval: Interval) -> None:
        """Forget an interval that is filed here."""
        low, high = interval
        if high is None:
            del self._from[low]
            self._from = self._from or None
        elif low is None:
            del self._upto[high]
            self._upto = self._upto or None
        else:
            self._root = _delete(self._root, interval)

    def containing(self, value: Any) -> Iterator[V]:
        """The values of all intervals that contain a point."""
        point = (value, 0)
        if self._from is not None:
            for low in self._from.irange(maximum=point):
                yield self._from[low]
        if self._upto is not None:
            for high in self._upto.irange(minimum=point):
                yield self._upto[high]
        if self._root is not None:
            yield from _stab(self._root, point)

    def __bool__(self) -> bool:
        return not (self._from is None and self._upto is None and self._root is None)


class _Node(Generic[V]):
    __slots__ = ("highest", "key", "left", "priority", "right", "value")

    def __init__(self, key: Interval, value: V) -> None:
        self.key = key
        self.value = value
        self.priority = random()
        self.left: _Node[V] | None = None
        self.right: _Node[V] | None = None
        # The highest upper bound in this subtree.
        self.highest: Any = key.high


def _stab(root: _Node[V], point: Bound) -> Iterator[V]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.highest < point:
            continue
        if node.left is not None:
            waiting.append(node.left)
        low, high = node.key
        if low is not None and low <= point:
            if high is not None and point <= high:
                yield node.value
            if node.right is not None:
                waiting.append(node.right)


def _insert(node: _Node[V] | None, new: _Node[V]) -> _Node[V]:
    if node is None:
        return new
    if new.priority < node.priority:
        new.left, new.right = _split(node, new.key)
        return _updated(new)
    if new.key < node.key:
        node.left = _insert(node.left, new)
    else:
        node.right = _insert(node.right, new)
    return _updated(node)


def _split(node: _Node[V] | None, key: Interval) -> tuple[_Node[V] | None, _Node[V] | None]:
    """The nodes below a key, and those above it."""
    if node is None:
        return None, None
    if node.key < key:
        node.right, above = _split(node.right, key)
        return _updated(node), above
    below, node.left = _split(node.left, key)
    return below, _updated(node)


def _delete(node: _Node[V] | None, key: Interval) -> _Node[V] | None:
    if node is None:
        return None
    if key == node.key:
        return _merge(node.left, node.right)
    if key < node.key:
        node.left = _delete(node.left, key)
    else:
        node.right = _delete(node.right, key)
    return _updated(node)


def _merge(below: _Node[V] | None, above: _Node[V] | None) -> _Node[V] | None:
    if below is None or above is None:
        return below or above
    if below.priority < above.priority:
        below.right = _merge(below.right, above)
        return _updated(below)
    above.left = _merge(below, above.left)
    return _updated(above)


def _updated(node: _Node[V]) -> _Node[V]:
    highest = node.key.high
    for child in (node.left, node.right):
        if child is not None and child.highest > highest:
            highest = child.highest
    node.highest = highest
    return node


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


Place = str | tuple[str, str]
"""A column by its name, or the reading of a column (`readings`) and its name."""


class Equals(NamedTuple):
    """The column has this value; booleans as their keys (`value_key`)."""

    column: Place
    value: object


class Within(NamedTuple):
    """The column lies in the interval; `family` is number, text, instant or clock."""

    column: Place
    family: str
    interval: Interval


class Begins(NamedTuple):
    """The column's text begins so."""

    column: Place
    prefix: str


Term = Equals | Within | Begins


class TruthKey(NamedTuple):
    """The key of a boolean, which must not be met by the number 1 or 0."""

    value: bool


TRUE_KEY, FALSE_KEY = TruthKey(True), TruthKey(False)


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
