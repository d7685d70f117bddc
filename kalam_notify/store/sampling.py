"""Which columns the newest rows of a table have: enough to tell whoever misspells one."""

from sqlite3 import Connection

from kalam_notify.model import Owner, TableDef
from kalam_notify.store.access import stored_table
from kalam_notify.store.rows import STANDING, TEXT, WITH_TEXT

_CURRENT = f"""
SELECT {TEXT} AS row FROM rows_by_seq AS r {WITH_TEXT}
WHERE r.tbl = ?1 AND r.owner = ?2 AND {STANDING} ORDER BY r.seq DESC
"""
_EVENTS = """
SELECT row FROM log WHERE tbl = ?1 AND owner = ?2 AND row IS NOT NULL ORDER BY seq DESC
"""
ROWS = 20
"""Newest rows that are looked at."""

# Large rows are passed over: this is asked on the event loop.
_SAMPLE = """
SELECT DISTINCT each.key FROM (
    {rows} LIMIT {count}
) AS newest, json_each(newest.row) AS each
WHERE length(newest.row) < 65536
"""


def newest_columns(connection: Connection, table: TableDef, owner: Owner) -> frozenset[str] | None:
    """Names that one of the newest rows has, NULL or not; None: the table has never had data."""
    stored = stored_table(connection, table.id)
    if stored is None:
        return None
    sql = _SAMPLE.format(rows=_CURRENT if table.is_keyed else _EVENTS, count=ROWS)
    found = connection.execute(sql, (stored.number, owner))
    return frozenset(_text(name) for (name,) in found)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
