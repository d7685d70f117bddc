"""Which columns the newest rows of a table have: enough to tell whoever misspells one.

This is asked on the event loop. So large rows are passed over, where their size is known without a
look at them; of those that have outlived their changes, whose size is not, two are looked at. What
was passed over may have what the others have not, so it is told.
"""

from sqlite3 import Connection

from kalam_notify.model import Owner, TableDef
from kalam_notify.model.tables import SeenColumns
from kalam_notify.store.access import stored_table
from kalam_notify.store.rows import STANDING

ROWS = 20
"""Newest rows that are looked at."""

LARGE_ROW = 8 * 1024
"""Bytes of a change whose row is not looked at."""

_CURRENT = f"""
SELECT r.seq AS seq FROM rows_by_seq AS r
WHERE r.tbl = ?1 AND r.owner = ?2 AND {STANDING} ORDER BY r.seq DESC
"""
_EVENTS = """
SELECT seq FROM (
    SELECT seq, kind FROM log WHERE tbl = ?1 AND owner = ?2 ORDER BY seq DESC LIMIT 100
) WHERE kind <> 'delete' ORDER BY seq DESC
"""
_OF_CHANGES = f"""
SELECT DISTINCT each.key FROM ({{newest}} LIMIT {ROWS}) AS newest
CROSS JOIN log AS l ON l.seq = newest.seq AND l.size < {LARGE_ROW}
CROSS JOIN json_each(l.row) AS each
"""
_COUNT = f"""
SELECT count(*), count(l.seq) FROM ({{newest}} LIMIT {ROWS}) AS newest
LEFT JOIN log AS l ON l.seq = newest.seq AND l.size < {LARGE_ROW}
"""
_OF_KEPT = f"""
SELECT DISTINCT each.key FROM ({_CURRENT} LIMIT 2) AS newest
CROSS JOIN kept AS k ON k.seq = newest.seq AND length(k.row) < {LARGE_ROW}
CROSS JOIN json_each(k.row) AS each
"""


def newest_columns(connection: Connection, table: TableDef, owner: Owner) -> SeenColumns | None:
    """Names that one of the newest rows has, NULL or not; None: the table has never had data."""
    stored = stored_table(connection, table.id)
    if stored is None:
        return None
    sought, newest = (stored.number, owner), _CURRENT if table.is_keyed else _EVENTS
    count, looked_at = connection.execute(_COUNT.format(newest=newest), sought).fetchone()
    found = connection.execute(_OF_CHANGES.format(newest=newest), sought).fetchall()
    if not found and table.is_keyed:
        found = connection.execute(_OF_KEPT, sought).fetchall()
    return SeenColumns(frozenset(_text(name) for (name,) in found), count == looked_at)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
