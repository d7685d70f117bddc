"""Where the current rows of keyed tables stand in the file, and how many are written at once.

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

Whoever writes has at hand: the numbers of the tables (`Numbers`), whether the indexes should follow
(`Indexes`), and the rows under the keys of what is to be stored (`RowsAtHand`).

Python's sqlite3 lets go of the interpreter lock at every step of a statement and has to win it back
from a busy event loop, so what counts is the number of steps, not of rows. A statement here handles
up to 500 rows at once; a run of rows is cut into pieces of a few fixed sizes, so that their
prepared forms stay in the connection's cache. Answers come back as one text, lines and fields
parted by control characters that JSON text cannot contain unescaped.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from sqlite3 import Connection
from typing import Any, NamedTuple

from kalam_notify.model import SHARED, Owner, PostedChange, Row, TableDef, TableId
from kalam_notify.model.changes import MovedRow, RowKey, Stored
from kalam_notify.store.access import Shape, stored_table
from kalam_notify.store.catalog import refuse_if_filled

# Round numbers among them, since producers like to post batches of a hundred.
_SIZES = (500, 256, 200, 128, 100, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
CACHED_STATEMENTS = 256

LINE = b"\n"
FIELD = b"\t"

Template = Callable[[int], str]
"""The statement for a number of rows."""


def pieces(count: int) -> Iterator[tuple[int, int]]:
    """(start, size) of each piece of a run of `count` rows."""
    start = 0
    for size in _SIZES:
        while count - start >= size:
            yield start, size
            start += size


@lru_cache(maxsize=CACHED_STATEMENTS)
def statement(template: Template, size: int) -> str:
    return template(size)


def write_rows(
    connection: Connection,
    template: Template,
    width: int,
    values: Sequence[Any],
    shared: Sequence[Any] = (),
) -> None:
    """Run a statement for all rows; `values` holds `width` parameters a row, end to end.

    `shared` are parameters that all rows have alike, ?1 and so on.
    """
    for start, size in pieces(len(values) // width):
        piece = values[start * width : (start + size) * width]
        connection.execute(statement(template, size), [*shared, *piece])


def look_up(
    connection: Connection, template: Template, width: int, values: Sequence[Any]
) -> Iterator[tuple[int, bytes]]:
    """Ask for all rows; gives where each piece begins, and the answer for it where there is one.

    The template's lines start with the row's place within the piece.
    """
    for start, size in pieces(len(values) // width):
        piece = values[start * width : (start + size) * width]
        (answer,) = connection.execute(statement(template, size), piece).fetchone()
        if answer:
            yield start, answer


def tuples(size: int, one: str) -> str:
    """`one` repeated, parted by commas: the body of VALUES."""
    return ",".join([one] * size)


def numbered(size: int, rest: str) -> str:
    """`(0,rest),(1,rest)…`: VALUES that remember their place."""
    return ",".join(f"({n},{rest})" for n in range(size))


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


class NumberOf(dict[TableId, int]):
    """Table -> number, each asked for once."""

    def __init__(self, connection: Connection, numbers: Numbers) -> None:
        self._connection = connection
        self._numbers = numbers

    def __missing__(self, table: TableId) -> int:
        number = self[table] = self._numbers.of(self._connection, table)
        return number


def _admit(connection: Connection, table: TableDef) -> int:
    known = stored_table(connection, table.id)
    shape = Shape.of(table)
    if known is not None and known.shape == shape:
        return known.number
    if known is not None:
        refuse_if_filled(connection, table, known)
    (number,) = connection.execute(
        "INSERT INTO tables (name, kind, primary_key) VALUES (?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET kind = excluded.kind, primary_key = excluded.primary_key RETURNING id",
        (table.id, shape.kind, json.dumps(shape.primary_key)),
    ).fetchall()[0]
    return int(number)


MERGE_CHANGES = 1024
MERGE_BYTES = 4 * 1024 * 1024
"""The indexes follow when so much has been written that they do not know."""


class Indexes:
    """What a process that writes knows of the file's indexes; asked inside its transactions."""

    def __init__(self) -> None:
        self._count = -1
        self._are_there = False
        self._waiting = 0
        self._waiting_bytes = 0
        self._indexed = 0

    @property
    def are_there(self) -> bool:
        return self._are_there

    def refresh(self, connection: Connection, count: int, indexed: int) -> None:
        """Know the indexes as they are after `count` changes of them (`state.indexes`)."""
        if count != self._count:
            query = "SELECT EXISTS (SELECT 1 FROM indexes WHERE state <> 'dropped')"
            (found,) = connection.execute(query).fetchone()
            self._are_there, self._count = bool(found), count
        if indexed != self._indexed:
            # Whoever has brought them here, what waited before waits no more.
            self._indexed, self._waiting, self._waiting_bytes = indexed, 0, 0

    def grown(self, added: int, size: int) -> None:
        """So many changes, and bytes, have been written by this process."""
        self._waiting += added
        self._waiting_bytes += size

    def tried(self) -> None:
        """A step has been taken, or has failed: the next one after as much again."""
        self._waiting = self._waiting_bytes = 0

    def forget(self) -> None:
        """What was learned in a transaction that is undone does not hold."""
        self._count = -1

    @property
    def are_behind(self) -> bool:
        """Whether so much waits that the indexes should follow."""
        return self._are_there and (
            self._waiting >= MERGE_CHANGES or self._waiting_bytes >= MERGE_BYTES
        )


class TooMuchToHold(Exception):
    """The rows under the keys of some changes are more than should be in memory at once."""


@contextmanager
def _length_limited(connection: Connection, most: int) -> Iterator[None]:
    """No text of an answer is longer; raises TooMuchToHold instead."""
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)
    try:
        yield
    except sqlite3.DataError as fault:
        if fault.sqlite_errorcode != sqlite3.SQLITE_TOOBIG:
            raise
        raise TooMuchToHold from fault
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)


class RowsAtHand(dict[RowKey, Stored]):
    """The current rows under the keys of some changes: read and written in bulk, changed here.

    Raises TooMuchToHold where they are more than `most` bytes.
    """

    # The dictionary's own: they are called once or more for each change.
    put = dict.__setitem__
    drop = dict.__delitem__

    def __init__(
        self,
        connection: Connection,
        numbers: Numbers,
        changes: Iterable[PostedChange],
        most: int,
    ) -> None:
        self._connection = connection
        self._number = NumberOf(connection, numbers)
        self._most = most
        self._held = 0
        wanted: dict[RowKey, None] = {}
        for change in changes:
            if change.key is not None:
                wanted[change.table, change.owner, change.key] = None
                if change.__class__ is MovedRow:
                    wanted[change.table, change.owner, change.base] = None
        if wanted:
            with _length_limited(connection, most):
                self._fetch(list(wanted))
        self._found = self.copy()

    def clear(self, table: TableId, owner: Owner) -> Sequence[Stored]:  # type: ignore[override]
        # Which rows there are, and how many, is known to the file alone.
        raise TooMuchToHold

    def made(self, size: int) -> None:
        self._held += size
        if self._held > self._most:
            raise TooMuchToHold

    def _fetch(self, wanted: Sequence[RowKey]) -> None:
        values = self._addresses(wanted)
        for start, answer in look_up(self._connection, _stored_template, 3, values):
            self.made(len(answer))
            for line in answer.split(LINE):
                n, seq, row = line.split(FIELD, 2)
                self[wanted[start + int(n)]] = Stored(int(seq), Row(row))

    def _addresses(self, places: Iterable[RowKey]) -> list[Any]:
        number = self._number
        return [value for table, owner, key in places for value in (number[table], owner, key)]

    def _written(self, changed: Sequence[RowKey]) -> "_Written":
        """Where these rows stand, and their seqs; table and owner once where they are all alike."""
        if changed and changed[0][:2] == changed[-1][:2]:
            table, owner, _ = changed[0]
            values = [value for key in changed for value in (key[2], self[key].seq)]
            return _Written(True, (2, values, (self._number[table], owner)))
        number = self._number
        values = [
            value
            for table, owner, key in changed
            for value in (number[table], owner, key, self[table, owner, key].seq)
        ]
        return _Written(False, (4, values, ()))

    def write(self, last_seq: int, horizon: int) -> bool:
        """Bring the file's rows, which are those of `last_seq`, to what they have become here.

        Whether something of them is stale now.
        """
        found, number, lately = self._found, self._number, last_seq - LATELY
        out: list[Any] = []
        stale: list[Any] = []
        gone = [key for key in found if key not in self]
        changed = [key for key, stored in self.items() if stored is not found.get(key)]
        # In the order of the table, so that rows on the same page are written one after the other.
        changed.sort()
        for key in chain(changed, gone):
            if (stored := found.get(key)) is not None:
                table, owner, _ = key
                is_out = owner != SHARED or stored.seq > lately
                if is_out:
                    out += (number[table], owner, stored.seq)
                if not is_out or stored.seq <= horizon:
                    stale += (number[table], stored.seq)
        written = self._written(changed)
        write_rows(self._connection, _UPSERT[written.are_together], *written.parameters)
        write_rows(self._connection, _delete_template, 3, self._addresses(sorted(gone)))
        write_rows(self._connection, _PLACE[written.are_together], *written.parameters)
        write_rows(self._connection, _take_out_template, 3, out)
        write_rows(self._connection, _stale_template, 2, stale)
        return bool(stale)


def _stored_template(size: int) -> str:
    return f"""
    WITH want (n, tbl, owner, key) AS (VALUES {numbered(size, "?,?,?")})
    SELECT group_concat(n || char(9) || r.seq || char(9) || {TEXT}, char(10))
    FROM want AS w CROSS JOIN rows AS r USING (tbl, owner, key) {WITH_TEXT}
    """


class _Written(NamedTuple):
    """Rows to be written: whether they are of one table and owner, and what `write_rows` takes."""

    are_together: bool
    parameters: tuple[int, Sequence[Any], Sequence[Any]]


def _rows_template(one: str, *, into: str, rest: str = "") -> Template:
    def rows(size: int) -> str:
        return f"INSERT INTO {into} (tbl, owner, key, seq) VALUES {tuples(size, one)}{rest}"

    return rows


_ONE = {True: "(?1,?2,?,?)", False: "(?,?,?,?)"}
# Not REPLACE, which deletes first and costs half as much again.
_REPLACING = " ON CONFLICT DO UPDATE SET seq = excluded.seq"
_UPSERT = {
    together: _rows_template(one, into="rows", rest=_REPLACING) for together, one in _ONE.items()
}
_PLACE = {together: _rows_template(one, into="rows_by_seq") for together, one in _ONE.items()}


def _take_out_template(size: int) -> str:
    one = "(tbl=? AND owner=? AND seq=?)"
    return "DELETE FROM rows_by_seq WHERE " + " OR ".join([one] * size)


def _delete_template(size: int) -> str:
    return "DELETE FROM rows WHERE " + " OR ".join(["(tbl=? AND owner=? AND key=?)"] * size)


def _stale_template(size: int) -> str:
    return f"INSERT INTO stale (tbl, seq) VALUES {tuples(size, '(?,?)')}"
