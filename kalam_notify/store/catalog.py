"""The tables of the file: their numbers, and the shapes their data is stored under."""

import json
from collections.abc import Iterable, Mapping
from sqlite3 import Connection
from typing import NamedTuple

from kalam_notify.model import TableDef, TableId
from kalam_notify.store.tables import Shape, shape_changed

_HAS_DATA = """
SELECT EXISTS (SELECT 1 FROM rows WHERE tbl = ?1) OR EXISTS (SELECT 1 FROM log WHERE tbl = ?1)
"""


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


def refuse_changed_shapes(connection: Connection, tables: Iterable[TableDef]) -> None:
    """Raise StorageFault where a table that holds data is declared in another shape."""
    tables = list(tables)
    # One that is created on its first use must not cost a look at all that were before.
    stored = stored_tables(connection) if len(tables) > 8 else None
    for table in tables:
        known = stored_table(connection, table.id) if stored is None else stored.get(table.id)
        if known is not None and known.shape != Shape.of(table):
            _refuse_if_filled(connection, table, known)


def _refuse_if_filled(connection: Connection, table: TableDef, known: StoredTable) -> None:
    (filled,) = connection.execute(_HAS_DATA, (known.number,)).fetchone()
    if filled:
        raise shape_changed(table.id, known.shape, Shape.of(table))


class Numbers:
    """Table -> number, for the writer. Gives out new numbers inside a transaction.

    A number is trusted beyond its transaction only once that has been committed; numbers are never
    changed or taken back.
    """

    def __init__(self, declared: Mapping[TableId, TableDef]) -> None:
        self._declared = declared
        self._sure: dict[TableId, tuple[TableDef, int]] = {}
        self._new: dict[TableId, tuple[TableDef, int]] = {}

    def of(self, connection: Connection, table: TableId) -> int:
        """The number of a declared table; raises StorageFault when its shape has changed."""
        definition = self._declared[table]
        found = self._sure.get(table) or self._new.get(table)
        if found is None or found[0] is not definition:
            found = self._new[table] = (definition, _admit(connection, definition))
        return found[1]

    def committed(self) -> None:
        self._sure |= self._new
        self._new.clear()

    def rolled_back(self) -> None:
        self._new.clear()


def _admit(connection: Connection, table: TableDef) -> int:
    known = stored_table(connection, table.id)
    shape = Shape.of(table)
    if known is not None and known.shape == shape:
        return known.number
    if known is not None:
        _refuse_if_filled(connection, table, known)
    (number,) = connection.execute(
        "INSERT INTO tables (name, kind, primary_key) VALUES (?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET kind = excluded.kind, primary_key = excluded.primary_key RETURNING id",
        (table.id, shape.kind, json.dumps(shape.primary_key)),
    ).fetchall()[0]
    return int(number)
