"""Declared tables: from `tables.declared` to the TableDefs everybody shares."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, NamedTuple, cast

import msgspec

from kalam_notify.config import readers as r
from kalam_notify.config.readers import BadValue
from kalam_notify.config.tree import Given, show
from kalam_notify.model import Access, TableDef, TableId, parse_table_id
from kalam_notify.model.types import ColumnType, UnknownType, parse_type

TABLE_NAME_CURE = "give namespace.name, letters, digits and _ only, not beginning with a digit"
_ANY_TYPE = parse_type("Json")
COLUMN_CURE = "a column's name is 1 to 255 bytes without control characters, not beginning with _"


def parse_table_name(name: str) -> TableId:
    table = parse_table_id(name)
    if table is None:
        raise BadValue(TABLE_NAME_CURE)
    return table


def _read_column(value: object) -> str:
    if not isinstance(value, str) or not is_column_name(value):
        raise BadValue(COLUMN_CURE)
    return value


def is_column_name(name: str) -> bool:
    """Whether a producer may use this name for a column."""
    if not name or name.startswith("_") or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= 255


def _read_key(value: object) -> tuple[str, ...]:
    # A name may hold a comma, so text is one name here and never a list.
    names = value if isinstance(value, list) else [value]
    key = r.read_all(r.Reader(_read_column), names)
    if len(set(key)) != len(key):
        raise BadValue("a column is named twice: keep one")
    return key


def _read_indexes(value: object) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list):
        raise BadValue("give a list of columns, or of lists of columns, such as [status, [a, b]]")
    return tuple(dict.fromkeys(_read_key(index) for index in value))


def _read_columns(value: object) -> Mapping[str, ColumnType]:
    if not isinstance(value, Mapping) or not value:
        raise BadValue("give a mapping of column names to types, or leave it out for any column")
    columns: dict[str, ColumnType] = {}
    refusals: list[BadValue] = []
    for name, given in value.items():
        try:
            # Of any type, should its own be none: what names it elsewhere is no fault.
            columns[_read_column(name)] = _ANY_TYPE
            columns[name] = _read_type(name, given.value if isinstance(given, Given) else given)
        except BadValue as refusal:
            refusals.append(refusal)
    r.raise_all(refusals, columns)
    return columns


def _read_type(name: str, data_type: object) -> ColumnType:
    if not isinstance(data_type, str):
        raise BadValue(f"give the type of column {name!r} as text, such as BigInt or Text")
    try:
        return parse_type(data_type)
    except UnknownType as unknown:
        raise BadValue(f"column {name!r}: {unknown}") from None


class TableRetention(msgspec.Struct, frozen=True):
    max_age: Annotated[float | None, r.nullable(r.duration())] = None


class TableDeclaration(msgspec.Struct, frozen=True):
    """A table as the YAML file declares it."""

    type: Annotated[str, r.choice("shared", "user")]
    access: Annotated[str, r.choice("public", "restricted", "private", "dba")] = "private"
    primary_key: Annotated[tuple[str, ...] | None, r.nullable(r.Reader(_read_key))] = None
    columns: Annotated[Mapping[str, ColumnType] | None, r.nullable(r.Reader(_read_columns))] = None
    indexes: Annotated[tuple[tuple[str, ...], ...] | None, r.nullable(r.Reader(_read_indexes))] = (
        None
    )
    policy: Annotated[str | None, r.nullable(r.text)] = None
    retention: TableRetention = TableRetention()


def table_of(table_id: TableId, declaration: TableDeclaration) -> TableDef:
    return TableDef(
        id=table_id,
        kind=cast(Literal["shared", "user"], declaration.type),
        access=cast(Access, declaration.access),
        primary_key=declaration.primary_key or (),
        columns=declaration.columns,
        indexes=declaration.indexes or (),
        policy=declaration.policy,
        max_age=declaration.retention.max_age,
    )


class Contradiction(NamedTuple):
    """A key of a declaration that does not go with the others."""

    key: str
    value: str
    cure: str


def contradictions(table: TableDef) -> Iterator[Contradiction]:
    for column in table.primary_key:
        if table.columns is not None and column not in table.columns:
            cure = f"the primary key is not among the columns: {', '.join(table.columns)}"
            yield Contradiction("primary_key", repr(column), cure)
    if table.indexes and not table.is_keyed:
        cure = "no rows are kept without a primary key, so there is nothing to index: declare one"
        yield Contradiction("indexes", show(", ".join(map(str, table.indexes))), cure)
    for column in dict.fromkeys(column for index in table.indexes for column in index):
        if table.columns is not None and column not in {*table.columns, *table.primary_key}:
            cure = f"there is no such column: {', '.join(table.columns)}"
            yield Contradiction("indexes", repr(column), cure)
    if table.policy is not None and not table.is_shared:
        cure = "policies are for shared tables: the rows of a user table are its user's own"
        yield Contradiction("policy", show(table.policy), cure)
