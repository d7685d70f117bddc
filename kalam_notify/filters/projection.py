"""Which columns of a row a subscriber is sent, and how the acknowledgement describes them."""

from collections.abc import Hashable
from typing import Any

from kalam_notify.model import TableDef


class Projection:
    """The list of a SELECT: named columns in their order, or every column (`columns` is None)."""

    __slots__ = ("bigints_as_text", "columns")

    def __init__(self, columns: tuple[str, ...] | None, *, bigints_as_text: bool = False) -> None:
        self.columns = columns
        # Whether integers that a double cannot hold exactly are written as text.
        self.bigints_as_text = bigints_as_text

    @property
    def key(self) -> Hashable:
        return (self.columns, True) if self.bigints_as_text else self.columns

    def with_bigints_as_text(self) -> "Projection":
        return Projection(self.columns, bigints_as_text=True)

    def names(self, primary_key: tuple[str, ...]) -> tuple[str, ...] | None:
        """The columns of a payload: primary key columns that are not named come first."""
        if self.columns is None:
            return None
        return (*(name for name in primary_key if name not in self.columns), *self.columns)

    def apply(self, values: dict[str, Any], primary_key: tuple[str, ...]) -> dict[str, Any]:
        """The projected row: a named column that is absent is None; under `*` the row itself."""
        names = self.names(primary_key)
        if names is None:
            return values
        return {name: values.get(name) for name in names}

    def schema(self, table: TableDef) -> list[dict[str, Any]]:
        """`[{"name", "data_type", "index", "flags"?}]`, in the order of the payload's columns.

        `data_type` is the declared type as KalamDB's clients read it, "Json" where none is
        declared; `flags` is ["pk"] for the columns of the primary key. Under `*` these are the
        declared columns, or the primary key alone where the table declares none.
        """
        names = self.names(table.primary_key)
        if names is None:
            declared = table.columns or {}
            names = (*(name for name in table.primary_key if name not in declared), *declared)
        return [_described(table, index, name) for index, name in enumerate(names)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Projection) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Projection({self.columns})"


def _described(table: TableDef, index: int, name: str) -> dict[str, Any]:
    declared = (table.columns or {}).get(name)
    data_type = "Json" if declared is None else declared.wire
    column: dict[str, Any] = {"name": name, "data_type": data_type, "index": index}
    if name in table.primary_key:
        column["flags"] = ["pk"]
    return column
