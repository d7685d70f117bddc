"""What one transaction of the SQLite log does with the batches that waited for it.

Many rows in one statement, few statement texts.

Python's sqlite3 lets go of the interpreter lock at every step of a statement and has to win it back
from a busy event loop, so what counts is the number of steps, not of rows. A statement here handles
up to 500 rows at once; a run of rows is cut into pieces of a few fixed sizes, so that their
prepared forms stay in the connection's cache. Answers come back as one text, lines and fields
parted by control characters that JSON text cannot contain unescaped.

What a batch comes to: duplicates dropped, seqs given, kinds and old images decided.

Pure: both logs bring the ids they have seen and the rows they hold, and get both updated. The
meaning of one change is `model.settle`; this module adds its batch.

Everything the batches need to know is fetched first, for all of them at once (which ids have been
seen, which rows stand under their keys); then they are settled in memory, in order; then entries,
rows and the state go out in a few statements. The number of steps hardly depends on the number of
changes.

Where that would be too much to hold, a few changes at a time are stored, in the same transaction.
A truncate is then by itself: SQLite turns the rows into deletes without showing them to anybody.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from sqlite3 import Connection
from typing import Any, NamedTuple, Protocol

from kalam_notify.model import SHARED, Change, Owner, PostedChange, Row, TableId, settle
from kalam_notify.model.changes import ENTRY_BYTES, Stored, settle_gone
from kalam_notify.model.sourced import MovedRow, SourceMark
from kalam_notify.store.base import Appended
from kalam_notify.store.catalog import Indexes, Numbers
from kalam_notify.store.rows import LATELY, STANDING, TEXT, WITH_TEXT, take_out_stale

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
    connection: Connection, template: Template, width: int, values: Sequence[Any]
) -> None:
    """Run a statement for all rows; `values` holds `width` parameters a row, end to end."""
    for start, size in pieces(len(values) // width):
        piece = values[start * width : (start + size) * width]
        connection.execute(statement(template, size), piece)


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


RowKey = tuple[TableId, Owner, str]
"""Where a keyed table keeps one row: table, owner, key."""


class CurrentRows(Protocol):
    """The rows that stand at this point of the log."""

    def get(self, key: RowKey) -> Stored | None: ...

    def put(self, key: RowKey, stored: Stored) -> None: ...

    def drop(self, key: RowKey) -> None: ...

    def clear(self, table: TableId, owner: Owner) -> Sequence[Stored]:
        """Take out all rows of an owner, and give them in the order in which they were written."""

    def made(self, size: int) -> None:
        """A row of so many bytes was made of a stored one: it is in memory besides what came."""


class Seen(NamedTuple):
    """What has been seen within the log's retention, and the seq it leaves the log with."""

    ids: dict[str, int]
    batch_keys: dict[str, int]


class Settled(NamedTuple):
    """The accepted changes in order, the id of each (or None), and the answer to the producer."""

    changes: list[Change]
    ids: list[str | None]
    appended: Appended


NOTHING = Appended(accepted=0, duplicates=0, first_seq=None, last_seq=None)


def settle_batch(
    batch: Sequence[PostedChange],
    batch_key: str | None,
    last_seq: int,
    seen: Seen,
    rows: CurrentRows,
) -> Settled:
    """Give a batch its places after `last_seq`; `seen` and `rows` follow it."""
    if batch_key is not None and batch_key in seen.batch_keys:
        return Settled([], [], Appended(0, len(batch), None, None))
    changes: list[Change] = []
    ids: list[str | None] = []
    made: Sequence[Change]
    seq, gone = last_seq, 0
    for posted in batch:
        if posted.id is not None and posted.id in seen.ids:
            continue
        if posted.kind == "truncate":
            made = _truncated(seq + 1, posted, rows)
            gone += max(0, len(made) - 1)
        else:
            change = _place(seq + 1, posted, rows)
            made = () if change is None else (change,)
        if not made:
            # It leaves no id behind, for no entry would bring it.
            continue
        if posted.id is not None:
            seen.ids[posted.id] = seq + 1
        seq += len(made)
        changes += made
        ids.append(posted.id)
        if len(made) > 1:
            ids += [None] * (len(made) - 1)
    if batch_key is not None:
        # Also where every change was known by its own id: it leaves with what is newest now.
        seen.batch_keys[batch_key] = seq
    return Settled(changes, ids, _answer(changes, len(changes) - gone, len(batch)))


def _truncated(seq: int, posted: PostedChange, rows: CurrentRows) -> Sequence[Change]:
    """A truncate and the deletes behind it; nothing where it was to be new, and finds no row."""
    gone = settle_gone(seq, posted, rows.clear(posted.table, posted.owner))
    return [] if posted.only_if_new and not gone else [settle(seq, posted, None), *gone]


def _place(seq: int, posted: PostedChange, rows: CurrentRows) -> Change | None:
    """The change at its place; None where it was to be new, and makes of the row what it is."""
    if posted.key is None:
        return settle(seq, posted, None)
    key = (posted.table, posted.owner, posted.key)
    stored = rows.get(key)
    base = stored
    if posted.__class__ is MovedRow:
        base = rows.get((posted.table, posted.owner, posted.base))
    change = settle(seq, posted, stored, base)
    if posted.only_if_new and _are_alike(change.row, stored and stored.row):
        return None
    if change.row is not None:
        if change.row is not posted.row:
            rows.made(len(change.row.json))
        rows.put(key, Stored(seq, change.row))
    elif stored is not None:
        rows.drop(key)
    return change


def _are_alike(row: Row | None, stored: Row | None) -> bool:
    if row is None or stored is None:
        return row is stored
    return row.says_the_same(stored)


def _answer(changes: Sequence[Change], accepted: int, posted: int) -> Appended:
    if not changes:
        return Appended(0, posted, None, None)
    return Appended(accepted, posted - accepted, changes[0].seq, changes[-1].seq)


# A short post may touch long rows: 500 deletes can bring 250 MB of old images. Above so many bytes
# of rows, changes are stored a few at a time, in the same transaction.
_MOST_HELD = 8 * 1024 * 1024
_PORTION = 8
_ANY_LENGTH = 1_000_000_000

# Where a key that the file holds already was seen; any new one has a seq.
_IN_FILE = -1


class Posting(NamedTuple):
    """One batch on its way into the log."""

    batch: Sequence[PostedChange]
    key: str | None
    # Of a source's batch: what it says of itself.
    mark: SourceMark | None = None
    # When it was posted, Unix milliseconds; None: now.
    at: int | None = None


class Group(NamedTuple):
    """What one transaction stored, and the answer to each batch.

    The changes after `before` up to `last_seq`; where they are None they are too many bytes to be
    held, and are read from the file instead.
    """

    before: int
    last_seq: int
    changes: list[Change] | None
    sizes: list[int]
    answers: list[Appended]


class _Entries(NamedTuple):
    """Side by side: the changes of a transaction, their ids, their sizes and their times."""

    changes: list[Change]
    ids: list[str | None]
    sizes: list[int]
    ats: list[int]


def store(
    connection: Connection,
    numbers: Numbers,
    indexes: Indexes,
    postings: Sequence[Posting],
    now: float,
) -> Group:
    """Store the batches inside the transaction that the caller has begun; `now` is Unix time.

    What is stored depends on the file, the batches and their times alone, however many of them one
    transaction takes.
    """
    before, horizon, count, indexed = connection.execute(
        "SELECT last_seq, horizon, indexes, indexed FROM state"
    ).fetchone()
    indexes.refresh(connection, count, indexed)
    around = _Around(connection, numbers, int(now * 1000), horizon)
    storing = _Storing(around, _seen(connection, postings), before)
    try:
        group = storing.at_once(postings)
    except TooMuchToHold:
        # It may have come some way: what it says it has seen was not stored.
        seen = _seen(connection, postings)
        storing = _Storing(around, seen, before)
        group = storing.in_portions(postings)
    take_out_stale(connection)
    _write_batch_keys(connection, storing.seen.batch_keys)
    _write_state(connection, storing.last_seq, storing.bytes)
    indexes.grown(storing.last_seq - before, storing.bytes)
    return group


class _Around(NamedTuple):
    """What one transaction has around it."""

    connection: Connection
    numbers: Numbers
    # Unix milliseconds, of batches that bring no time of their own.
    now: int
    # How far retention has gone: what was written up to there may be kept apart from the log.
    horizon: int


class _Storing:
    """The batches of one transaction on their way into the file."""

    def __init__(self, around: _Around, seen: Seen, before: int) -> None:
        self._connection, self._numbers, self._now, self._horizon = around
        self.seen = seen
        self._before = before
        self.last_seq = before
        self.bytes = 0

    def at_once(self, postings: Sequence[Posting]) -> Group:
        """All of them together; raises TooMuchToHold, with nothing written."""
        batches = (posting.batch for posting in postings)
        changed = chain.from_iterable(batches)
        rows = RowsAtHand(self._connection, self._numbers, changed, _MOST_HELD)
        settled: list[Settled] = []
        for posting in postings:
            settled.append(settle_batch(posting.batch, posting.key, self.last_seq, self.seen, rows))
            self.last_seq = settled[-1].appended.last_seq or self.last_seq
        changes = [change for one in settled for change in one.changes]
        ids = [id for one in settled for id in one.ids]
        ats: list[int] = []
        for posting, one in zip(postings, settled, strict=True):
            ats += [self._at(posting)] * len(one.changes)
        sizes = self._write(changes, ids, ats, rows)
        answers = [one.appended for one in settled]
        return Group(self._before, self.last_seq, changes, sizes, answers)

    def _at(self, posting: Posting) -> int:
        return self._now if posting.at is None else posting.at

    def in_portions(self, postings: Sequence[Posting]) -> Group:
        """A few changes at a time, whose rows are let go of again."""
        answers = [self._in_portions(posting) for posting in postings]
        return Group(self._before, self.last_seq, None, [], answers)

    def _in_portions(self, posting: Posting) -> Appended:
        batch, key = posting.batch, posting.key
        if key is not None and key in self.seen.batch_keys:
            return Appended(0, len(batch), None, None)
        before, start, accepted = self.last_seq, 0, 0
        while start < len(batch):
            if batch[start].kind == "truncate":
                accepted += self._truncate(batch[start], self._at(posting))
                start += 1
                continue
            portion, rows = self._portion(batch, start)
            settled = settle_batch(portion, None, self.last_seq, self.seen, rows)
            self.last_seq = settled.appended.last_seq or self.last_seq
            ats = [self._at(posting)] * len(settled.changes)
            self._write(settled.changes, settled.ids, ats, rows)
            accepted += settled.appended.accepted
            start += len(portion)
        if key is not None:
            self.seen.batch_keys[key] = self.last_seq
        if not accepted:
            return Appended(0, len(batch), None, None)
        return Appended(accepted, len(batch) - accepted, before + 1, self.last_seq)

    def _portion(
        self, batch: Sequence[PostedChange], start: int
    ) -> tuple[Sequence[PostedChange], "RowsAtHand"]:
        """The next changes whose rows can be held together, at least one; and those rows."""
        size = _PORTION
        while True:
            portion = _settled_together(batch[start : start + size])
            try:
                most = _MOST_HELD if len(portion) > 1 else _ANY_LENGTH
                return portion, RowsAtHand(self._connection, self._numbers, portion, most)
            except TooMuchToHold:
                size = max(1, size // 4)

    def _truncate(self, posted: PostedChange, at: int) -> int:
        """Delete all rows of a table and owner; 0 when that was done before, by its id."""
        if posted.id is not None and posted.id in self.seen.ids:
            return 0
        number = self._numbers.of(self._connection, posted.table)
        (found,) = self._connection.execute(_ANY, (number, posted.owner)).fetchone()
        if posted.only_if_new and not found:
            return 0
        if posted.id is not None:
            self.seen.ids[posted.id] = self.last_seq + 1
        own = settle(self.last_seq + 1, posted, None)
        entry = _Entries([own], [posted.id], [own.size], [at])
        _write_log(self._connection, self._numbers, entry)
        self._connection.execute(_KEEP_ALL, (number, posted.owner))
        # The seqs follow on the newest entry's, which was just written.
        gone = self._connection.execute(_GONE, (at, ENTRY_BYTES, number, posted.owner))
        for clear in _CLEAR:
            self._connection.execute(clear, (number, posted.owner))
        self.last_seq = own.seq + gone.rowcount
        (size,) = self._connection.execute(_SIZE_FROM, (own.seq,)).fetchone()
        self.bytes += size
        return 1

    def _write(
        self, changes: list[Change], ids: list[str | None], ats: list[int], rows: "RowsAtHand"
    ) -> list[int]:
        sizes = [change.size for change in changes]
        _write_log(self._connection, self._numbers, _Entries(changes, ids, sizes, ats))
        rows.write(self._before, self._horizon)
        self.bytes += sum(sizes)
        return sizes


# Texts go from `log` to `log` by way of `kept`: what a statement reads and writes at once, SQLite
# would lay aside in a temporary file.
_KEEP_ALL = f"""
INSERT INTO kept SELECT r.seq, l.row FROM rows_by_seq AS r CROSS JOIN log AS l ON l.seq = r.seq
WHERE r.tbl = ? AND r.owner = ? AND {STANDING} ORDER BY r.seq
"""
_GONE = f"""
INSERT INTO log (at, tbl, owner, kind, size, old_seq, old)
SELECT ?, r.tbl, r.owner, 'delete', ? + length(CAST(k.row AS BLOB)), r.seq, k.row
FROM rows_by_seq AS r CROSS JOIN kept AS k ON k.seq = r.seq
WHERE r.tbl = ? AND r.owner = ? AND {STANDING} ORDER BY r.seq
"""
_ANY = "SELECT EXISTS (SELECT 1 FROM rows WHERE tbl = ? AND owner = ?)"
_CLEAR = (
    "DELETE FROM kept WHERE seq IN (SELECT seq FROM rows_by_seq WHERE tbl = ? AND owner = ?)",
    "DELETE FROM rows_by_seq WHERE tbl = ? AND owner = ?",
    "DELETE FROM rows WHERE tbl = ? AND owner = ?",
)
_SIZE_FROM = "SELECT sum(size) FROM log WHERE seq >= ?"


def _settled_together(changes: Sequence[PostedChange]) -> Sequence[PostedChange]:
    """The first of them: up to a truncate, or one by itself whose row is made of the stored one."""
    for n, change in enumerate(changes):
        if change.unchanged != () or change.kind == "truncate":
            return changes[: max(n, 1)]
    return changes


def _seen(connection: Connection, postings: Iterable[Posting]) -> Seen:
    """Which ids and batch keys of these postings the file holds."""
    ids = {one.id for posting in postings for one in posting.batch if one.id is not None}
    keys = {posting.key for posting in postings if posting.key is not None}
    return Seen(
        _found(connection, _seen_ids_template, ids), _found(connection, _seen_keys_template, keys)
    )


def _found(connection: Connection, template: Template, wanted: Iterable[str]) -> dict[str, int]:
    order = list(wanted)
    return {
        order[start + int(n)]: _IN_FILE
        for start, answer in look_up(connection, template, 1, order)
        for n in answer.split(LINE)
    }


def _seen_ids_template(size: int) -> str:
    return f"""
    WITH want (n, id) AS (VALUES {numbered(size, "?")})
    SELECT group_concat(n, char(10)) FROM want CROSS JOIN log USING (id)
    """


def _seen_keys_template(size: int) -> str:
    return f"""
    WITH want (n, key) AS (VALUES {numbered(size, "?")})
    SELECT group_concat(n, char(10)) FROM want CROSS JOIN batch_keys USING (key)
    """


def _log_template(size: int) -> str:
    # ?1 is the same for all entries: the seq before the first.
    entries = ",".join(
        f"(?1+{n + 1},?,?,?,?,?,?,?,CAST(? AS TEXT),CAST(? AS TEXT))" for n in range(size)
    )
    return (
        f"INSERT INTO log (seq, at, tbl, owner, kind, size, old_seq, id, row, old) VALUES {entries}"
    )


_LOG_WIDTH = 9


def _write_log(
    connection: Connection,
    numbers: Numbers,
    entries: _Entries,
) -> None:
    changes = entries.changes
    number = _NumberOf(connection, numbers)
    values = [
        value
        for change, id, size, at in zip(*entries, strict=True)
        for value in (
            at,
            number[change.table],
            change.owner,
            change.kind,
            size,
            change.old_seq,
            id,
            None if change.row is None else _text(change.row.json),
            None if change.old is None else _text(change.old.json),
        )
    ]
    for start, size in pieces(len(changes)):
        piece = values[start * _LOG_WIDTH : (start + size) * _LOG_WIDTH]
        piece.insert(0, changes[start].seq - 1)
        connection.execute(statement(_log_template, size), piece)


def _text(json: bytes) -> str | bytes:
    """What the statement makes a text of; a fifth of its time where it is one already."""
    return json.decode() if json.isascii() else json


def _write_batch_keys(connection: Connection, keys: dict[str, int]) -> None:
    new = [value for key in keys.items() if key[1] != _IN_FILE for value in key]
    write_rows(connection, _batch_keys_template, 2, new)


def _batch_keys_template(size: int) -> str:
    return f"INSERT INTO batch_keys (key, seq) VALUES {tuples(size, '(?,?)')}"


def _write_state(connection: Connection, last_seq: int, added: int) -> None:
    connection.execute("UPDATE state SET last_seq = ?, bytes = bytes + ?", (last_seq, added))


class _NumberOf(dict[TableId, int]):
    """Table -> number, each asked for once."""

    def __init__(self, connection: Connection, numbers: Numbers) -> None:
        self._connection = connection
        self._numbers = numbers

    def __missing__(self, table: TableId) -> int:
        number = self[table] = self._numbers.of(self._connection, table)
        return number


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
        self._number = _NumberOf(connection, numbers)
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

    def write(self, last_seq: int, horizon: int) -> None:
        """Bring the file's rows, which are those of `last_seq`, to what they have become here."""
        found, number, lately = self._found, self._number, last_seq - LATELY
        written: list[Any] = []
        out: list[Any] = []
        stale: list[Any] = []
        gone = [key for key in found if key not in self]
        changed = [key for key, stored in self.items() if stored is not found.get(key)]
        # In the order of the table, so that rows on the same page are written one after the other.
        changed.sort()
        for key in changed:
            table, owner, name = key
            written += (number[table], owner, name, self[key].seq)
        for key in chain(changed, gone):
            if (stored := found.get(key)) is not None:
                table, owner, _ = key
                is_out = owner != SHARED or stored.seq > lately
                if is_out:
                    out += (number[table], owner, stored.seq)
                if not is_out or stored.seq <= horizon:
                    stale += (number[table], stored.seq)
        write_rows(self._connection, _upsert_template, 4, written)
        write_rows(self._connection, _delete_template, 3, self._addresses(sorted(gone)))
        write_rows(self._connection, _place_template, 4, written)
        write_rows(self._connection, _take_out_template, 3, out)
        write_rows(self._connection, _stale_template, 2, stale)


def _stored_template(size: int) -> str:
    return f"""
    WITH want (n, tbl, owner, key) AS (VALUES {numbered(size, "?,?,?")})
    SELECT group_concat(n || char(9) || r.seq || char(9) || {TEXT}, char(10))
    FROM want AS w CROSS JOIN rows AS r USING (tbl, owner, key) {WITH_TEXT}
    """


def _upsert_template(size: int) -> str:
    # Not REPLACE, which deletes first and costs half as much again.
    return (
        f"INSERT INTO rows (tbl, owner, key, seq) VALUES {tuples(size, '(?,?,?,?)')}"
        " ON CONFLICT DO UPDATE SET seq = excluded.seq"
    )


def _place_template(size: int) -> str:
    return f"INSERT INTO rows_by_seq (tbl, owner, key, seq) VALUES {tuples(size, '(?,?,?,?)')}"


def _take_out_template(size: int) -> str:
    one = "(tbl=? AND owner=? AND seq=?)"
    return "DELETE FROM rows_by_seq WHERE " + " OR ".join([one] * size)


def _delete_template(size: int) -> str:
    return "DELETE FROM rows WHERE " + " OR ".join(["(tbl=? AND owner=? AND key=?)"] * size)


def _stale_template(size: int) -> str:
    return f"INSERT INTO stale (tbl, seq) VALUES {tuples(size, '(?,?)')}"
