"""Where the current rows of keyed tables stand in the file, and the care of it.

    rows         table, owner, key -> the seq that wrote the row
    rows_by_seq  table, owner, that seq -> key
    log          seq -> the row's text, while the log holds the change that wrote it
    kept         seq -> the row's text, once retention has removed that change
    stale        table, seq of rows that stand no more, where they have not left the others yet

A row's text is written once, with the change that brings it, and copied only where it outlives
that change. To replace a row touches its place in `rows`, which is small, and the ends of the log
and of `rows_by_seq`. The place of the row before is somewhere in the middle: to take it out at once
would write a page of its own for each change. So its seq goes into `stale`, and hundreds of them
are taken out together, in order, many to a page. A row that was written lately is taken out at
once, and so is one of a USER table: its place is near to that of the new one.

Invariant: every current row has its entry in `rows_by_seq`, and its text in `log` or `kept`. Every
other entry there has its seq in `stale`.
"""

from collections.abc import Sequence
from sqlite3 import Connection

from kalam_notify.model import SHARED

_MOST_STALE = 2048
LATELY = 4096
"""A row that was written within so many changes is taken out at once."""

WITH_TEXT = """
LEFT JOIN log AS l ON l.seq = r.seq
LEFT JOIN kept AS k ON k.seq = iif(l.seq IS NULL, r.seq, NULL)
"""
"""Joined to what has a row's seq, `r.seq`: then `TEXT` is the row's JSON."""

TEXT = "ifnull(l.row, k.row)"

STANDING = "NOT EXISTS (SELECT 1 FROM stale WHERE stale.tbl = r.tbl AND stale.seq = r.seq)"
"""Of an entry `r` of `rows_by_seq`: whether its row still stands."""

# Those of USER tables have left with their rows, and are looked for in `kept` only.
_TAKE_OUT = f"""
DELETE FROM rows_by_seq
WHERE tbl = ?1 AND owner = '{SHARED}' AND seq IN (SELECT seq FROM stale WHERE tbl = ?1)
"""
_KEEP = f"""
INSERT INTO kept SELECT r.seq, r.row FROM (SELECT * FROM log WHERE {{leaving}}) AS r
CROSS JOIN rows_by_seq AS o ON o.tbl = r.tbl AND o.owner = r.owner AND o.seq = r.seq
WHERE r.row IS NOT NULL AND {STANDING} ORDER BY r.seq
"""
# The plus: never by an index, for whoever asks has a narrower way.
_KEYED = "+tbl IN (SELECT id FROM tables WHERE primary_key <> '[]')"


def take_out_stale(connection: Connection) -> None:
    """Take out what stands no more, where enough of it has come together; in a transaction."""
    (count,) = connection.execute("SELECT count(*) FROM stale").fetchone()
    if count < _MOST_STALE:
        return
    for table in connection.execute("SELECT DISTINCT tbl FROM stale").fetchall():
        connection.execute(_TAKE_OUT, table)
    connection.execute("DELETE FROM kept WHERE seq IN (SELECT seq FROM stale)")
    connection.execute("DELETE FROM stale")


def keep_rows(connection: Connection, leaving: str, parameters: Sequence[int]) -> None:
    """Copy the texts of the rows that outlive the changes which are about to leave the log."""
    connection.execute(_KEEP.format(leaving=f"{leaving} AND {_KEYED}"), parameters)
