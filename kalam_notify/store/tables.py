"""Which tables a log has been told of, and what may not change while they hold data."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kalam_notify.errors import StorageFault
from kalam_notify.model import PostedChange, TableDef, TableId


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


def shape_changed(table: TableId, stored: Shape, declared: Shape) -> StorageFault:
    return StorageFault(
        f"table {table}: data is stored under {stored}, but the table is declared with"
        f" {declared}; declare it as before, or delete its rows and let retention pass"
    )


def refuse_unfit(batch: Sequence[PostedChange], declared: Collection[TableId]) -> None:
    """Raise ValueError for changes that should never have come this far.

    A table the log was never told of; an owner that is not printable text.
    """
    for change in batch:
        if change.table not in declared:
            raise ValueError(f"table {change.table} has not been declared to the log")
        if change.owner and not change.owner.isprintable():
            raise ValueError(f"owner {change.owner!r} is not printable")
