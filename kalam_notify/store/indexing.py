"""Keeping the indexes of the file: entering, building, following, emptying them, step by step.

An index of a table that has rows is built while changes go on. From the transaction on that enters
it in `indexes` it follows the log as the others do; meanwhile the rows are gone through in the
order of their keys, some of them a step, and get their entries. Wherever the walk stands, the rows
that it has passed have their entries, or have changed since and get them as the log is followed.
Reads use an index when the walk has ended. Whoever writes the file may take a step: where the walk
stands is in the file. An index that is wanted no more is emptied in steps, too.

Following the log takes the changes after `state.indexed`, in order. The rows that they wrote and
that still stand get their entries; the entries of what they replaced or deleted go. A row that has
changed again beyond the step has its turn later: until then it is found by its seq.
"""

import json
from collections.abc import Iterable, Mapping
from sqlite3 import Connection

from kalam_notify.model import TableDef, TableId
from kalam_notify.model.changes import key_of
from kalam_notify.store.access import Index, IndexColumn, columns_of, indexes_of, stored_table
from kalam_notify.store.catalog import Entry, Maker, wanted_indexes
from kalam_notify.store.rows import (
    FIELD,
    LINE,
    MERGE_BYTES,
    MERGE_CHANGES,
    STANDING,
    TEXT,
    WITH_TEXT,
    Numbers,
    tuples,
    write_rows,
)

_WALK_ROWS = 256
_WALK_BYTES = 1024 * 1024

_UNFINISHED = """
SELECT id, tbl, columns, state, owner, key FROM indexes WHERE state <> 'ready' ORDER BY id LIMIT 1
"""
_NEXT_ROWS = f"""
SELECT r.owner, r.key, {TEXT} FROM rows AS r {WITH_TEXT}
    WHERE r.tbl = :tbl AND (r.owner, r.key) > (:owner, :key)
    ORDER BY r.owner, r.key LIMIT :limit
"""
_DROP_SOME = """
DELETE FROM entries WHERE idx = :idx AND (owner, value, key) IN (
    SELECT owner, value, key FROM entries WHERE idx = :idx LIMIT :limit
)
"""
# Up to which seq one step follows.
_STEP_END = """
SELECT max(seq) FROM (
    SELECT seq, sum(size) OVER (ORDER BY seq) - size AS before
    FROM (SELECT seq, size FROM log WHERE seq > ? ORDER BY seq LIMIT ?)
) WHERE before < ?
"""
# The key is that of the row which the change wrote, where that still stands.
_FOLLOWED = f"""
SELECT group_concat(l.owner || char(9) || ifnull(r.key, '') || char(9) || ifnull(l.row, '')
    || char(9) || ifnull(l.old, ''), char(10))
FROM (SELECT * FROM log WHERE seq > ? AND seq <= ? AND tbl = ? ORDER BY seq) AS l
LEFT JOIN rows_by_seq AS r ON r.tbl = l.tbl AND r.owner = l.owner AND r.seq = l.seq
    AND {STANDING}
"""


class IndexWork:
    """The work that is left, as one process sees it. Each step is a transaction of the caller's."""

    def __init__(self, declared: Mapping[TableId, TableDef], numbers: Numbers) -> None:
        self._declared = declared
        self._numbers = numbers
        self.begin()

    def begin(self) -> None:
        """Tables have been declared: look at what they ask for in the next step."""
        self._is_entered = False
        self._has_worked = False

    def step(self, connection: Connection) -> bool:
        """Do a little; False: nothing is left to do."""
        if not self._is_entered:
            self._enter(connection)
            self._is_entered = True
        if _work(connection):
            self._has_worked = True
            return True
        # An index that is being emptied is entered anew when that is done.
        again, self._is_entered, self._has_worked = self._has_worked, not self._has_worked, False
        return again

    def _enter(self, connection: Connection) -> None:
        (are_there,) = connection.execute("SELECT EXISTS (SELECT 1 FROM indexes)").fetchone()
        for table in list(self._declared.values()):
            wanted = wanted_indexes(table)
            if wanted or (are_there and stored_table(connection, table.id) is not None):
                declare_indexes(connection, self._numbers.of(connection, table.id), wanted)


def declare_indexes(
    connection: Connection, table: int, wanted: Iterable[tuple[IndexColumn, ...]]
) -> None:
    """Enter the wanted indexes of a table, mark the others as dropped; in a transaction.

    One that is being emptied has to be empty before it is entered anew.
    """
    texts = [json.dumps(columns) for columns in wanted]
    query = "SELECT columns, state FROM indexes WHERE tbl = ?"
    known = {text.decode(): state for text, state in connection.execute(query, (table,)).fetchall()}
    new = [text for text in texts if text not in known]
    gone = [text for text, state in known.items() if text not in texts and state != b"dropped"]
    if new:
        # The first of all finds every row that stands by its walk.
        connection.execute(
            "UPDATE state SET indexed = last_seq"
            " WHERE NOT EXISTS (SELECT 1 FROM indexes WHERE state <> 'dropped')"
        )
    for text in new:
        connection.execute("INSERT INTO indexes (tbl, columns) VALUES (?, ?)", (table, text))
    for text in gone:
        drop = "UPDATE indexes SET state = 'dropped' WHERE tbl = ? AND columns = ?"
        connection.execute(drop, (table, text))
    if new or gone:
        connection.execute("UPDATE state SET indexes = indexes + 1")


# -- building and emptying ----------------------------------------------------------------------


def _work(connection: Connection) -> bool:
    """Build or empty an index a little; False: nothing is left to do."""
    found = connection.execute(_UNFINISHED).fetchone()
    if found is None:
        return False
    number, table, columns, state, owner, key = found
    if state == b"dropped":
        _empty_step(connection, number)
    else:
        _walk_step(connection, Index(number, columns_of(columns)), table, owner, key)
    return True


def _empty_step(connection: Connection, number: int) -> None:
    some = {"idx": number, "limit": 4 * _WALK_ROWS}
    if connection.execute(_DROP_SOME, some).rowcount == 0:
        connection.execute("DELETE FROM indexes WHERE id = ?", (number,))


def _walk_step(connection: Connection, index: Index, table: int, owner: bytes, key: bytes) -> None:
    maker = Maker([index])
    come: list[Entry] = []
    begin = {"tbl": table, "owner": owner.decode(), "key": key.decode(), "limit": _WALK_ROWS}
    rows, size = 0, 0
    for owner, key, text in connection.execute(_NEXT_ROWS, begin):
        rows, size = rows + 1, size + len(text)
        come += maker.entries(owner.decode(), maker.values(text), key.decode())
        if size >= _WALK_BYTES:
            break
    _write_entries(connection, (), come)
    if rows < _WALK_ROWS and size < _WALK_BYTES:
        connection.execute("UPDATE indexes SET state = 'ready' WHERE id = ?", (index.number,))
        connection.execute("UPDATE state SET indexes = indexes + 1")
    else:
        connection.execute(
            "UPDATE indexes SET owner = ?, key = ? WHERE id = ?",
            (owner.decode(), key.decode(), index.number),
        )


# -- following the log --------------------------------------------------------------------------


def follow_all(connection: Connection) -> None:
    """Bring the indexes to the end of the log, in one transaction; for what waits is bounded."""
    while follow_step(connection):
        pass


def follow_step(connection: Connection) -> bool:
    """Bring the indexes some changes on, in a transaction; False: they are at the end."""
    indexed, last_seq = connection.execute("SELECT indexed, last_seq FROM state").fetchone()
    tables = [table for (table,) in connection.execute("SELECT DISTINCT tbl FROM indexes")]
    if indexed == last_seq or not tables:
        return False
    (end,) = connection.execute(_STEP_END, (indexed, MERGE_CHANGES, MERGE_BYTES)).fetchone()
    upto = last_seq if end is None else end
    gone: set[Entry] = set()
    come: set[Entry] = set()
    for table in tables:
        followed = _Followed(connection, table)
        (answer,) = connection.execute(_FOLLOWED, (indexed, upto, table)).fetchone()
        for line in answer.split(LINE) if answer else ():
            followed.add(*line.split(FIELD))
        gone |= followed.gone - followed.come
        come |= followed.come - followed.there
    _write_entries(connection, gone, come)
    connection.execute("UPDATE state SET indexed = ?", (upto,))
    return bool(upto < last_seq)


class _Followed:
    """Entries of one table in a step: of images that are gone, of rows that stand, and those that
    were there at the beginning.
    """

    def __init__(self, connection: Connection, table: int) -> None:
        find = "SELECT primary_key FROM tables WHERE id = ?"
        (columns,) = connection.execute(find, (table,)).fetchone()
        self._key = tuple(json.loads(columns))
        self._maker = Maker(indexes_of(connection, table), self._key)
        self.gone: set[Entry] = set()
        self.come: set[Entry] = set()
        self.there: set[Entry] = set()
        self._met: set[tuple[str, str | None]] = set()

    def add(self, owner_text: bytes, key_text: bytes, row: bytes, old: bytes) -> None:
        owner = owner_text.decode()
        if old:
            values = self._maker.values(old)
            key = key_of(self._key, values)
            entries = self._maker.entries(owner, values, key)
            self.gone.update(entries)
            if (owner, key) not in self._met:
                self.there.update(entries)
        elif row:
            key = key_text.decode() if key_text else key_of(self._key, self._maker.values(row))
        else:
            return  # the delete of a row that was not there
        self._met.add((owner, key))
        if key_text:
            self.come.update(self._maker.entries(owner, self._maker.values(row), key_text.decode()))


def _write_entries(connection: Connection, gone: Iterable[Entry], come: Iterable[Entry]) -> None:
    # In order, so that the entries of a page are written one after the other.
    write_rows(connection, _remove_template, 4, [part for entry in sorted(gone) for part in entry])
    write_rows(connection, _add_template, 4, [part for entry in sorted(come) for part in entry])


def _remove_template(size: int) -> str:
    one = "(idx=? AND owner=? AND value=? AND key=?)"
    return "DELETE FROM entries WHERE " + " OR ".join([one] * size)


def _add_template(size: int) -> str:
    # Some may be there already, since the walk and the log lead to the same rows.
    return f"INSERT OR IGNORE INTO entries VALUES {tuples(size, '(?,?,?,?)')}"
