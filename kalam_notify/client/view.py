"""The rows a query answers now, kept by applying what its subscription tells.

With a primary key a view holds one row per key. Without one there is no telling which row an
update or a delete means, and the view is the list of what was inserted and what rows became.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from kalam_notify.client.events import Acknowledged, Changed, Event, Loaded, Row
from kalam_notify.client.rows import key_value


class View:
    """Rows by primary key, in the order in which they came into the view.

    `primary_key` overrides what the server's schema says of the key. Rows are as the server sent
    them, with their `_seq`.
    """

    def __init__(self, primary_key: Sequence[str] | None = None) -> None:
        self.primary_key = tuple(primary_key or ())
        self._is_told = primary_key is not None
        self._rows: dict[Any, Row] = {}
        self._listed = 0
        self.ready = False

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))

    def __contains__(self, key: object) -> bool:
        return _found(key) in self._rows

    def __getitem__(self, key: Any) -> Row:
        """The row under a key: its value, or a tuple of values for a key of several columns."""
        return self._rows[_found(key)]

    def get(self, key: Any) -> Row | None:
        return self._rows.get(_found(key))

    def rows(self) -> list[Row]:
        """All rows, in the order in which they came into the view."""
        return list(self._rows.values())

    def apply(self, event: Event) -> None:
        """Bring the view up to an event. Events are applied in order, each once."""
        match event:
            case Acknowledged():
                self._begin(event)
            case Loaded():
                self._put(event.rows)
                self.ready = self.ready or event.ready
            case Changed(kind="delete"):
                self._drop(event.old_values)
            case Changed():
                self._put(event.rows)

    def _begin(self, event: Acknowledged) -> None:
        if not self._is_told:
            self.primary_key = event.primary_key
        if event.replaces:
            self._rows.clear()
            self.ready = event.complete

    def _put(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows[self._key(row)] = row

    def _drop(self, rows: Sequence[Row]) -> None:
        if self.primary_key:
            for row in rows:
                self._rows.pop(self._key(row), None)

    def _key(self, row: Row) -> Any:
        columns = self.primary_key
        if len(columns) == 1:
            return key_value(row[columns[0]])
        if columns:
            return tuple(key_value(row[column]) for column in columns)
        self._listed += 1
        return self._listed


def _found(key: Any) -> Any:
    """A key as a reader gives it, as it stands among the rows."""
    return tuple(map(key_value, key)) if isinstance(key, tuple) else key_value(key)


class NoView(View):
    """Stays empty: for readers of events who keep no rows."""

    def apply(self, event: Event) -> None:
        if isinstance(event, Acknowledged):
            self.ready = event.complete or (self.ready and not event.replaces)
        elif isinstance(event, Loaded):
            self.ready = self.ready or event.ready
