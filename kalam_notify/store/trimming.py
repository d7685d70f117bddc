"""Retention of the SQLite log, one small transaction at a time.

Each step walks at most `STEP_ENTRIES` entries, removes what is due among them together with the
idempotency keys that came with it, and moves the horizons; current rows stay, and what is removed
leaves their texts behind.
"""

from collections.abc import Mapping, Sequence
from sqlite3 import Connection
from typing import NamedTuple

from kalam_notify.model import TableId
from kalam_notify.store.access import stored_tables
from kalam_notify.store.retention import AgeClass
from kalam_notify.store.rows import keep_rows

STEP_ENTRIES = 1000

_STEP_END = "SELECT max(seq) FROM (SELECT seq FROM log WHERE seq > ? ORDER BY seq LIMIT ?)"
_FIRST_YOUNG = "SELECT min(seq) FROM log WHERE seq > ? AND seq <= ? AND at >= ?"
_OVER_BYTES = """
SELECT min(seq) FROM (
    SELECT seq, sum(size) OVER (ORDER BY seq) AS gone
    FROM (SELECT seq, size FROM log ORDER BY seq LIMIT ?)
) WHERE gone >= ?
"""
# Keys of batches whose last entry is gone.
_DROP_BATCH_KEYS = """
DELETE FROM batch_keys WHERE seq > ? AND seq <= ?
    AND NOT EXISTS (SELECT 1 FROM log WHERE log.seq = batch_keys.seq)
"""


class Step(NamedTuple):
    """What one step did: entries removed, where the next one goes on, whether it is wanted."""

    removed: int
    upto: int
    more: bool


class Edges(NamedTuple):
    """Where the log begins, for all tables and table by table, and the bytes it holds.

    `floor` is a horizon of all tables, those included that the log has never seen; `base` is where
    this life of the log began. `version` rises whenever any of it moves. `oldest_at` is when the
    first change was stored, Unix time in seconds; 0 where the log holds none.
    """

    first_seq: int
    horizon: int
    bytes: int
    horizons: Mapping[TableId, int]
    floor: int = 0
    base: int = 0
    version: int = 0
    oldest_at: float = 0.0

    def horizon_of(self, table: TableId) -> int:
        return max(self.horizons.get(table, 0), self.floor)


def newest_at(connection: Connection) -> float:
    """When the newest entry was written, in Unix seconds; 0 where there is none."""
    found = connection.execute("SELECT at FROM log ORDER BY seq DESC LIMIT 1").fetchone()
    return 0.0 if found is None else found[0] / 1000


class Due(NamedTuple):
    """Entries that may leave: `after < seq <= upto`, of the tables of these numbers (None: of all).

    `more`: whether the next step may find more.
    """

    after: int
    upto: int
    numbers: Sequence[int] | None
    more: bool


def due_by_age(
    connection: Connection, members: AgeClass, after: int, now: float, limit: int = STEP_ENTRIES
) -> Due:
    """Entries of one age class that are due, beginning after a position, among the next `limit`."""
    cutoff = int((now - members.max_age) * 1000)
    (end,) = connection.execute(_STEP_END, (after, limit)).fetchone()
    if end is None:
        return Due(after, after, (), more=False)
    (young,) = connection.execute(_FIRST_YOUNG, (after, end, cutoff)).fetchone()
    upto = end if young is None else young - 1
    return Due(after, upto, _numbers_of(connection, members), more=young is None)


def due_by_bytes(connection: Connection, max_bytes: int, limit: int = STEP_ENTRIES) -> Due:
    """The oldest entries while the log holds more than `max_bytes`, at most `limit`."""
    (held,) = connection.execute("SELECT bytes FROM state").fetchone()
    if held <= max_bytes:
        return Due(0, 0, (), more=False)
    (upto,) = connection.execute(_OVER_BYTES, (limit, held - max_bytes)).fetchone()
    if upto is not None:
        return Due(0, upto, None, more=False)
    (end,) = connection.execute(_STEP_END, (0, limit)).fetchone()
    return Due(0, end, None, more=True)


def trim_by_age(connection: Connection, members: AgeClass, after: int, now: float) -> Step:
    """Remove entries of one age class that are due, beginning after a position."""
    return _removed(connection, due_by_age(connection, members, after, now))


def trim_by_bytes(connection: Connection, max_bytes: int) -> Step:
    """Remove the oldest entries while the log holds more than `max_bytes`."""
    return _removed(connection, due_by_bytes(connection, max_bytes))


def _removed(connection: Connection, due: Due) -> Step:
    after, upto, numbers, more = due
    return Step(remove(connection, after, upto, numbers), upto, more)


def _numbers_of(connection: Connection, members: AgeClass) -> Sequence[int] | None:
    """The numbers of the class's tables; None for every table."""
    stored = stored_tables(connection)
    chosen = [table.number for name, table in stored.items() if members.holds(name)]
    return None if len(chosen) == len(stored) else chosen


def remove(connection: Connection, after: int, upto: int, numbers: Sequence[int] | None) -> int:
    """Remove these entries, with the keys that came with them; how many there were."""
    due = "seq > ? AND seq <= ?"
    if upto <= after or numbers == ():
        return 0
    if numbers is not None:
        due += f" AND tbl IN ({','.join(map(str, numbers))})"
    tally = connection.execute(
        f"SELECT tbl, max(seq), sum(size), count(*) FROM log WHERE {due} GROUP BY tbl",
        (after, upto),
    ).fetchall()
    if not tally:
        return 0
    keep_rows(connection, due, (after, upto))
    connection.execute(f"DELETE FROM log WHERE {due}", (after, upto))
    for number, last, _, _ in tally:
        connection.execute(
            "UPDATE tables SET horizon = max(horizon, ?) WHERE id = ?", (last, number)
        )
    connection.execute(
        "UPDATE state SET bytes = bytes - ?, horizon = max(horizon, ?), trims = trims + 1",
        (sum(size for _, _, size, _ in tally), max(last for _, last, _, _ in tally)),
    )
    connection.execute(_DROP_BATCH_KEYS, (after, upto))
    return sum(count for *_, count in tally)


def edges(connection: Connection) -> Edges:
    """Where the log begins now; to be read in one transaction."""
    last_seq, horizon, held, floor, base, version = connection.execute(
        "SELECT last_seq, horizon, bytes, floor, base, trims FROM state"
    ).fetchone()
    oldest = connection.execute("SELECT seq, at FROM log ORDER BY seq LIMIT 1").fetchone()
    first, at = (last_seq + 1, 0) if oldest is None else oldest
    horizons = {name: table.horizon for name, table in stored_tables(connection).items()}
    return Edges(first, horizon, held, horizons, floor, base, version, at / 1000)
