"""What declared tables ask of the file: shapes that hold while there is data, indexes and entries.

    indexes   one row per index: its table, its columns, and whether its entries are complete
    entries   index, owner, the columns' values as sorted bytes (see `sorting`) -> a row's key

Entries follow the log at a distance. To write them with every change would touch a page of its own
for each, and cost as much as all the rest of an append; so changes are brought into the indexes
some hundreds at once (`state.indexed` tells up to which), sorted, many of them to a page. What
reads an index therefore reads two things: the entries, and the rows that have been written since,
by seq (see pages.py). An entry may be stale, when its row has changed since or is gone: the row
it leads to is asked like any other. So:

Invariant: every current row with `seq <= state.indexed` has its entries in every complete index.

`indexing` says how that is kept. `state.indexes` counts the changes of `indexes`, so that every
process that writes knows which there are, whatever its own configuration says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from sqlite3 import Connection
from typing import Any

import msgspec

from kalam_notify.errors import StorageFault
from kalam_notify.model import Owner, TableDef, TableId
from kalam_notify.model.readings import sort_key
from kalam_notify.store.access import (
    Index,
    IndexColumn,
    Shape,
    StoredTable,
    stored_table,
    stored_tables,
)
from kalam_notify.store.sorting import NOTHING, encode


def shape_changed(table: TableId, stored: Shape, declared: Shape) -> StorageFault:
    return StorageFault(
        f"table {table}: data is stored under {stored}, but the table is declared with"
        f" {declared}; declare it as before, or delete its rows and let retention pass"
    )


_HAS_DATA = """
SELECT EXISTS (SELECT 1 FROM rows WHERE tbl = ?1) OR EXISTS (SELECT 1 FROM log WHERE tbl = ?1)
"""


def is_filled(connection: Connection, table: int) -> bool:
    """Whether the file holds changes or rows of a table, by its number."""
    (filled,) = connection.execute(_HAS_DATA, (table,)).fetchone()
    return bool(filled)


def refuse_changed_shapes(connection: Connection, tables: Iterable[TableDef]) -> None:
    """Raise StorageFault where a table that holds data is declared in another shape."""
    tables = list(tables)
    # One that is created on its first use must not cost a look at all that were before.
    stored = stored_tables(connection) if len(tables) > 8 else None
    for table in tables:
        known = stored_table(connection, table.id) if stored is None else stored.get(table.id)
        if known is not None and known.shape != Shape.of(table):
            refuse_if_filled(connection, table, known)


def refuse_if_filled(connection: Connection, table: TableDef, known: StoredTable) -> None:
    """Raise StorageFault where a table that is declared in another shape holds data."""
    if is_filled(connection, known.number):
        raise shape_changed(table.id, known.shape, Shape.of(table))


Entry = tuple[int, Owner, bytes, str]
"""Index, owner, sorted values, key."""


def wanted_indexes(table: TableDef) -> list[tuple[IndexColumn, ...]]:
    """The indexes that a table's declaration asks for.

    Keys stand in the file as they are spelled. Where a key column is compared by what it is read
    as (a UUID without regard to case), its rows are found by an index of its own.
    """
    if not table.is_keyed:
        return []
    wanted = [tuple(_column(table, name) for name in index) for index in table.indexes]
    key = tuple(_column(table, name) for name in table.primary_key)
    if any(column.reading is not None for column in key):
        wanted.append(key)
    return list(dict.fromkeys(wanted))


def _column(table: TableDef, name: str) -> IndexColumn:
    declared = None if table.columns is None else table.columns.get(name)
    return IndexColumn(name, None if declared is None else declared.reading)


class Maker:
    """Makes the entries of one table's rows, for all of its indexes."""

    def __init__(self, indexes: Sequence[Index], key: Sequence[str] = ()) -> None:
        self._indexes = [(index.number, index.columns) for index in indexes]
        names = (column.name for index in indexes for column in index.columns)
        self._names = list(dict.fromkeys((*names, *key)))
        self._decode = _decoder(self._names)

    def values(self, row: bytes) -> dict[str, Any]:
        """What a row holds in the columns of the indexes, and of the key."""
        found = self._decode(row)
        if isinstance(found, dict):
            return found
        return dict(zip(self._names, msgspec.structs.astuple(found), strict=True))

    def entries(self, owner: Owner, values: Mapping[str, Any], key: str | None) -> list[Entry]:
        """The entries of a row that has a key."""
        if key is None:
            return []
        return [
            (number, owner, value, key)
            for number, columns in self._indexes
            if (value := _sorted(columns, values)) is not None
        ]


def _decoder(columns: Sequence[str]) -> Callable[[bytes], Any]:
    """Decodes these columns of a row and passes over the others."""
    if any(char in name for name in columns for char in '"\\'):
        return msgspec.json.Decoder(dict[str, Any]).decode
    names = [f"c{n}" for n in range(len(columns))]
    fields: list[tuple[str, Any, Any]] = [(name, Any, None) for name in names]
    shape = msgspec.defstruct(
        "Indexed", fields, rename=dict(zip(names, columns, strict=True)), gc=False
    )
    return msgspec.json.Decoder(shape).decode


def _sorted(columns: Sequence[IndexColumn], values: Mapping[str, Any]) -> bytes | None:
    """A row's bytes in an index; None where it has no entry."""
    name, reading = columns[0]
    value = values.get(name)
    first = encode(value if reading is None else sort_key(reading, value))
    if first is NOTHING:
        return None
    for name, reading in columns[1:]:
        value = values.get(name)
        first += encode(value if reading is None else sort_key(reading, value))
    return first
