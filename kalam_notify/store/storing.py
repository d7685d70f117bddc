"""What one transaction of the SQLite log does with the batches that waited for it.

Everything the batches need to know is fetched first, for all of them at once (which ids have been
seen, which rows stand under their keys); then they are settled in memory, in order; then entries,
rows and the state go out in a few statements. The number of steps hardly depends on the number of
changes.

Where that would be too much to hold, a few changes at a time are stored, in the same transaction.
A truncate is then by itself: SQLite turns the rows into deletes without showing them to anybody.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from sqlite3 import Connection
from typing import Any, NamedTuple

from kalam_notify.model import Change, PostedChange, Row, settle
from kalam_notify.model.changes import ENTRY_BYTES, IN_FILE, Appended, Seen, Settled, settle_batch
from kalam_notify.model.sourced import SourceMark
from kalam_notify.store.rows import (
    LINE,
    STANDING,
    Indexes,
    NumberOf,
    Numbers,
    RowsAtHand,
    Template,
    TooMuchToHold,
    look_up,
    numbered,
    pieces,
    statement,
    take_out_stale,
    tuples,
    write_rows,
)

# A short post may touch long rows: 500 deletes can bring 250 MB of old images. Above so many bytes
# of rows, changes are stored a few at a time, in the same transaction.
_MOST_HELD = 8 * 1024 * 1024
_PORTION = 8
_ANY_LENGTH = 1_000_000_000


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


class Entries(NamedTuple):
    """Side by side: the changes of a transaction, their ids, their sizes and their times."""

    changes: list[Change]
    ids: list[str | None]
    sizes: list[int]
    ats: list[int]


_ALWAYS = ("at", "tbl", "owner", "kind", "size", "row")


def _log_template(columns: Sequence[str]) -> Template:
    """Of entries with these columns; the others are null.

    To bind a null costs as much as to bind a value, and to keep it out of an index is not free.
    """

    def entries(size: int) -> str:
        # ?1 is the same for all entries: the seq before the first.
        values = ",".join(["?"] * len(columns))
        rows = ",".join(f"(?1+{n + 1},{values})" for n in range(size))
        return f"INSERT INTO log (seq,{','.join(columns)}) VALUES {rows}"

    return entries


# Whether some entry has an image of before, and whether some has an id.
_LOG_TEMPLATES = {
    (has_old, has_id): (len(columns), _log_template(columns))
    for has_old in (False, True)
    for has_id in (False, True)
    for columns in [(*_ALWAYS, *(("old_seq", "old") if has_old else ()), *(("id",) * has_id))]
}


def write_entries(
    connection: Connection,
    numbers: Numbers,
    entries: Entries,
) -> None:
    changes, ids, sizes, ats = entries
    number = NumberOf(connection, numbers)
    columns: list[list[Any]] = [
        ats,
        [number[change.table] for change in changes],
        [change.owner for change in changes],
        [change.kind for change in changes],
        sizes,
        [_text(change.row) for change in changes],
    ]
    has_old = any(not (change.old is None is change.old_seq) for change in changes)
    if has_old:
        columns.append([change.old_seq for change in changes])
        columns.append([_text(change.old) for change in changes])
    has_id = ids.count(None) < len(ids)
    if has_id:
        columns.append(ids)
    values = list(chain.from_iterable(zip(*columns, strict=True)))
    width, template = _LOG_TEMPLATES[has_old, has_id]
    for start, size in pieces(len(changes)):
        piece = values[start * width : (start + size) * width]
        piece.insert(0, changes[start].seq - 1)
        connection.execute(statement(template, size), piece)


def _text(row: Row | None) -> str | None:
    return None if row is None else row.json.decode()


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
    if storing.left_stale:
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
        self.left_stale = False

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
        entry = Entries([own], [posted.id], [own.size], [at])
        write_entries(self._connection, self._numbers, entry)
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
        write_entries(self._connection, self._numbers, Entries(changes, ids, sizes, ats))
        self.left_stale |= rows.write(self._before, self._horizon)
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
        order[start + int(n)]: IN_FILE
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


def _write_batch_keys(connection: Connection, keys: dict[str, int]) -> None:
    new = [value for key in keys.items() if key[1] != IN_FILE for value in key]
    write_rows(connection, _batch_keys_template, 2, new)


def _batch_keys_template(size: int) -> str:
    return f"INSERT INTO batch_keys (key, seq) VALUES {tuples(size, '(?,?)')}"


def _write_state(connection: Connection, last_seq: int, added: int) -> None:
    connection.execute("UPDATE state SET last_seq = ?, bytes = bytes + ?", (last_seq, added))
