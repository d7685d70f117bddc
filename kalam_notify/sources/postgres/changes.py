"""Rows of PostgreSQL as changes: values to JSON, keys, what an update leaves open. No I/O.

    insert                 the row
    update                 the row; long values that it left unchanged are taken from the stored one
    update of the key      the new row and a delete of the old one, neighbours
    delete                 by the key; of a table without one, with the old row

Without a key nothing is stored, so the old row of an update or delete is what the WAL tells: under
REPLICA IDENTITY FULL all of it.
"""

from collections.abc import Sequence

import orjson

from kalam_notify.config.tables import is_column_name
from kalam_notify.model import SHARED, PostedChange, Row
from kalam_notify.model.changes import MovedRow
from kalam_notify.sources.postgres.catalogue import PgTable
from kalam_notify.sources.postgres.pgoutput import (
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    Tuple,
    Update,
)
from kalam_notify.sources.postgres.values import Converter


class Rows:
    """Makes changes of one table's tuples, whose values come in the order of `names`."""

    def __init__(self, table: PgTable, names: Sequence[str]) -> None:
        self._table = table
        # Place in the tuple, name, what stands before the value in the JSON, converter.
        self._columns: list[tuple[int, str, bytes, Converter]] = [
            (place, name, orjson.dumps(name) + b":", table.columns[name].convert)
            for place, name in enumerate(names)
            if name in table.columns
        ]
        places = {name: place for place, name in enumerate(names)}
        self._key = [(places[name], table.columns[name].convert) for name in table.key]

    def row(self, values: Tuple) -> tuple[Row, tuple[str, ...]]:
        """The row as JSON without the columns that the WAL left out, and the names of those."""
        parts, unchanged = [], ()
        for place, name, label, convert in self._columns:
            value = values[place]
            if value.__class__ is bytes:
                parts.append(label + convert(value))
            elif value is None:
                parts.append(label + b"null")
            else:
                unchanged += (name,)  # type: ignore[assignment]
        return Row(b"{%b}" % b",".join(parts)), unchanged

    def key(self, values: Tuple) -> str:
        """The key that names the row, as model.keys writes it."""
        texts = [convert(values[place]).decode() for place, convert in self._key]  # type: ignore[arg-type]
        return f"[{','.join(texts)}]"

    def key_row(self, values: Tuple) -> Row:
        """The row with no more than its key."""
        parts = [
            b"%b:%b" % (orjson.dumps(name), convert(values[place]))  # type: ignore[arg-type]
            for name, (place, convert) in zip(self._table.key, self._key, strict=True)
        ]
        return Row(b"{%b}" % b",".join(parts))

    def inserted(self, values: Tuple) -> PostedChange:
        row, _ = self.row(values)
        key = self.key(values) if self._key else None
        return PostedChange(self._table.id, SHARED, "insert", row, None, key)

    def copied(self, values: Tuple) -> PostedChange:
        """Of a copy: no change where the row is known as it is."""
        row, _ = self.row(values)
        if not self._key:
            return PostedChange(self._table.id, SHARED, "insert", row, None)
        return PostedChange(
            self._table.id, SHARED, "insert", row, None, self.key(values), only_if_new=True
        )

    def updated(self, new: Tuple, old: Tuple | None, old_is_key: bool) -> list[PostedChange]:
        if old is not None:
            new = self._filled(new, old, old_is_key)
        row, unchanged = self.row(new)
        table = self._table.id
        if not self._key:
            before = None if old is None or old_is_key else self.row(old)[0]
            return [PostedChange(table, SHARED, "update", row, before)]
        key = self.key(new)
        old_key = key if old is None else self.key(old)
        if old_key == key:
            if not unchanged:
                return [PostedChange(table, SHARED, "update", row, None, key)]
            return [PostedChange(table, SHARED, "update", row, None, key, None, unchanged)]
        assert old is not None
        gone = PostedChange(table, SHARED, "delete", None, self.key_row(old), old_key)
        if not unchanged:
            return [gone, PostedChange(table, SHARED, "insert", row, None, key)]
        # First the new row, while the old one is still there to be taken from.
        return [
            MovedRow(table, SHARED, "insert", row, None, key, None, unchanged, base=old_key),
            gone,
        ]

    def _filled(self, new: Tuple, old: Tuple, old_is_key: bool) -> Tuple:
        """Unchanged values as the old row has them, where it is told."""
        if UNCHANGED not in new:
            return new
        given = {place for place, _ in self._key} if old_is_key else set(range(len(old)))
        return [
            old[place] if value is UNCHANGED and place in given else value
            for place, value in enumerate(new)
        ]

    def deleted(self, old: Tuple) -> PostedChange:
        if not self._key:
            return PostedChange(self._table.id, SHARED, "delete", None, self.row(old)[0])
        return PostedChange(
            self._table.id, SHARED, "delete", None, self.key_row(old), self.key(old)
        )

    def changes(self, message: Insert | Update | Delete) -> list[PostedChange]:
        match message:
            case Insert(_, new):
                return [self.inserted(new)]
            case Update(_, old, old_is_key, new):
                return self.updated(new, old, old_is_key)
            case Delete(_, old, _):
                return [self.deleted(old)]


def fits(table: PgTable, relation: Relation) -> bool:
    """Whether the WAL speaks of the table as the catalogue did when it was last read."""
    facts = table.facts
    if (facts.schema, facts.name) != (relation.namespace, relation.name):
        return False
    spoken = {column.name: (column.type_oid, column.modifier) for column in relation.columns}
    known = {c.name: (c.type_oid, c.modifier) for c in facts.all_columns if c.name in table.columns}
    return known.items() <= spoken.items() and all(
        name in known or not is_column_name(name) for name in spoken
    )
