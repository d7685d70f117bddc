"""The rows a query answers now, in order of their primary key, replaced at one stroke.

When the server begins anew, what is shown stays until the new snapshot is complete. Without a
primary key there is no telling which row an update or a delete means: such rows are the list of
what was inserted and what rows became.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from kalam_notify.client.events import Row

T = TypeVar("T")

# Python takes True for 1: as keys of rows they are two.
_BOOLEANS: Final = {True: ("true",), False: ("false",)}


def key_value(value: Any) -> Any:
    """One value of a key as it may stand in a dict: booleans are no numbers."""
    return _BOOLEANS[value] if value is True or value is False else value


def _rank(value: Any) -> tuple[int, Any]:
    """Values in order: false, true, then numbers, then texts."""
    if isinstance(value, bool):
        return 0, value
    return (2, value) if isinstance(value, str) else (1, value)


class Entry(Generic[T]):
    """A row under its key; a changed row is another entry."""

    __slots__ = ("key", "order", "row")

    def __init__(self, key: Any, order: tuple[Any, ...], row: T) -> None:
        self.key = key
        self.order = order
        self.row = row


_order = attrgetter("order")


class Rows(Generic[T]):
    """Rows by primary key. `shown` is what a reader sees, `size` what has come so far."""

    def __init__(self) -> None:
        self.is_ready = False
        self._key: tuple[str, ...] = ()
        self._shown: dict[Any, Entry[T]] = {}
        # What will be shown once it is complete; the same dict where nothing is kept on show.
        self._coming = self._shown
        self._number = 0
        self._sorted: list[Entry[T]] = []
        # Entries that came since it was sorted.
        self._fresh: list[Entry[T]] = []
        self._listed: list[T] = []
        self._is_stale = False

    @property
    def size(self) -> int:
        return len(self._coming)

    def begin(self, *, replaces: bool, key: Sequence[str]) -> None:
        """The subscription stands. `replaces`: what was known before is void."""
        self._key = tuple(key)
        if replaces:
            self.is_ready = False
            self._coming = {} if self._shown else self._shown

    def put(self, wire: Row, row: T) -> None:
        """`row` is what readers get of `wire`."""
        entry = self._entry(wire, row)
        self._coming[entry.key] = entry
        if self._coming is self._shown:
            self._show(entry)

    def drop(self, wire: Row) -> None:
        if not self._key:
            return
        self._coming.pop(self._key_of(wire), None)
        self._is_stale = self._is_stale or self._coming is self._shown

    def ready(self) -> None:
        """The snapshot is complete."""
        self.is_ready = True
        if self._coming is not self._shown:
            self._shown = self._coming
            self._sorted, self._fresh = [], list(self._shown.values())
            self._is_stale = True

    def shown(self) -> list[T]:
        """The rows in order of their key; the same list as long as nothing changes."""
        if self._is_stale:
            self._sort()
        return self._listed

    def held(self) -> Iterator[T]:
        """What the messages so far add up to, complete or not."""
        return (entry.row for entry in list(self._coming.values()))

    def find(self, wire: Row) -> T | None:
        """The row that is held under the key of `wire`."""
        entry = self._coming.get(self._key_of(wire)) if self._key else None
        return None if entry is None else entry.row

    def _show(self, entry: Entry[T]) -> None:
        self._is_stale = True
        self._fresh.append(entry)
        if len(self._fresh) > 2 * len(self._shown) + 1000:
            # Nobody looks at the rows: keep no more of them than there are.
            self._sorted, self._fresh = [], list(self._shown.values())

    def _sort(self) -> None:
        shown = self._shown
        # What was sorted is nearly all of it, and sorting what is sorted costs one comparison each.
        candidates = self._sorted + self._fresh
        self._sorted = [entry for entry in candidates if shown.get(entry.key) is entry]
        self._sorted.sort(key=_order)
        self._listed = [entry.row for entry in self._sorted]
        self._fresh = []
        self._is_stale = False

    def _entry(self, wire: Row, row: T) -> Entry[T]:
        if not self._key:
            self._number += 1
            return Entry(self._number, (self._number,), row)
        order = tuple(_rank(wire[column]) for column in self._key)
        return Entry(self._key_of(wire), order, row)

    def _key_of(self, wire: Row) -> Any:
        if len(self._key) == 1:
            return key_value(wire[self._key[0]])
        return tuple(key_value(wire[column]) for column in self._key)
