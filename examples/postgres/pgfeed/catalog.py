"""The chosen tables as PostgreSQL's catalog describes them, and whether they can be fed exactly."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
import yaml

from pgfeed.faults import SetupFault
from pgfeed.values import base_name

_NAME = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")

# Key values must be strings or integers in the daemon.
_UNFIT_FOR_KEYS = {"boolean", "real", "double precision", "json", "jsonb"}

_SQL_TYPES = {
    "boolean": "Boolean",
    "smallint": "SmallInt",
    "integer": "Int",
    "bigint": "BigInt",
    "oid": "BigInt",
    "real": "Float",
    "double precision": "Double",
    "json": "Json",
    "jsonb": "Json",
}

_FACTS = """
    SELECT c.oid, c.relkind, c.relpersistence, c.relreplident, c.reltoastrelid <> 0
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s
"""
_COLUMNS = """
    SELECT attname, format_type(atttypid, NULL)
      FROM pg_attribute
     WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
     ORDER BY attnum
"""
_KEY = """
    SELECT a.attname, i.indimmediate
      FROM pg_index i
     CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indrelid = %s AND i.indisprimary AND k.place <= i.indnkeyatts
     ORDER BY k.place
"""


class Table(NamedTuple):
    """A table that is fed, under the name it has on both sides."""

    name: str
    # Column -> PostgreSQL type name, in the table's order.
    columns: dict[str, str]
    # Empty: the daemon keeps no rows, changes are told as they come.
    key: tuple[str, ...]
    # REPLICA IDENTITY FULL: the WAL holds every old row.
    full_identity: bool

    @property
    def quoted(self) -> str:
        """The name for SQL; both parts are plain lower-case identifiers."""
        schema, _, name = self.name.partition(".")
        return f'"{schema}"."{name}"'


def describe(
    connection: psycopg.Connection[Any], names: Sequence[str], numeric: str
) -> list[Table]:
    """The tables of these names; raises SetupFault with one line per thing that does not fit."""
    tables, faults = [], []
    for name in dict.fromkeys(name.lower() for name in names):
        try:
            tables.append(_describe(connection, name, numeric))
        except SetupFault as fault:
            faults.append(f"{name}: {fault}")
    if faults:
        raise SetupFault("\n".join(faults))
    return tables


def _describe(connection: psycopg.Connection[Any], name: str, numeric: str) -> Table:
    if not _NAME.fullmatch(name):
        raise SetupFault("the daemon knows only schema.table of letters a-z, digits and _")
    facts = connection.execute(_FACTS, name.split(".")).fetchone()
    if facts is None:
        raise SetupFault("no such table (names with upper-case letters cannot be fed)")
    oid, kind, persistence, identity, has_toast = facts
    _require_logged_table(kind, persistence)
    columns = dict(connection.execute(_COLUMNS, (oid,)).fetchall())
    _require_fit_columns(columns)
    key_columns = connection.execute(_KEY, (oid,)).fetchall()
    key = tuple(column for column, _ in key_columns)
    if key:
        _require_fit_key(columns, key, all(immediate for _, immediate in key_columns), numeric)
        _require_identity(identity, has_toast, name)
    return Table(name, columns, key, identity == "f")


def _require_logged_table(kind: str, persistence: str) -> None:
    if kind == "p":
        raise SetupFault("the WAL names a partitioned table's partitions: choose those")
    if kind != "r":
        raise SetupFault("not an ordinary table")
    if persistence != "p":
        raise SetupFault("not in the WAL, because it is unlogged or temporary")


def _require_fit_columns(columns: dict[str, str]) -> None:
    taken = [column for column in columns if column.startswith("_")]
    if taken:
        raise SetupFault(f"column names with a leading _ belong to the daemon: {', '.join(taken)}")


def _require_fit_key(
    columns: dict[str, str], key: tuple[str, ...], immediate: bool, numeric: str
) -> None:
    unfit = _UNFIT_FOR_KEYS | ({"numeric"} if numeric == "number" else set())
    for column in key:
        if base_name(columns[column]) in unfit:
            raise SetupFault(
                f"key column {column}: {columns[column]} cannot be a key in the daemon"
            )
    if not immediate:
        # Between two statements two rows may carry the same key, which no upsert can tell apart.
        raise SetupFault("a DEFERRABLE primary key cannot be fed row by row")


def _require_identity(identity: str, has_toast: bool, name: str) -> None:
    if identity == "f" or (identity == "d" and not has_toast):
        return
    cure = f"run: ALTER TABLE {name} REPLICA IDENTITY FULL"
    if identity == "d":
        raise SetupFault(f"an UPDATE would not tell long values it leaves unchanged; {cure}")
    raise SetupFault(f"the WAL does not hold the primary key of old rows; {cure}")


def warnings(tables: Sequence[Table]) -> list[str]:
    """What the operator should know of tables that can be fed with a reservation."""
    return [
        f"{table.name}: fed as append-only; an UPDATE or DELETE would stop the feeder "
        "(without a primary key the WAL tells them only under REPLICA IDENTITY FULL)"
        for table in tables
        if not table.key and not table.full_identity
    ]


def daemon_config(tables: Sequence[Table], access: str, numeric: str) -> str:
    """The `tables:` section for the daemon's configuration, as YAML."""
    declared = {
        table.name: {
            "type": "shared",
            "access": access,
            **({"primary_key": list(table.key)} if table.key else {}),
            "columns": {name: _sql_type(kind, numeric) for name, kind in table.columns.items()},
        }
        for table in tables
    }
    return yaml.safe_dump({"tables": {"declared": declared}}, sort_keys=False)


def _sql_type(type_name: str, numeric: str) -> str:
    base = base_name(type_name)
    if base == "numeric" and numeric == "number":
        return "Double"
    return _SQL_TYPES.get(base, "Text")
