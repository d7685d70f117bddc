"""Reading the SQLite log: where it stands, and spans of its changes."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

from kalam_notify.errors import Compacted
from kalam_notify.model import SHARED, Change, Kind, Owner, Row, TableId
from kalam_notify.store.base import Span
from kalam_notify.store.bulk import FIELD
from kalam_notify.store.catalog import StoredTable, stored_table, stored_tables
from kalam_notify.store.chunks import Chunking, chunk
from kalam_notify.store.prefilter import Parameter
from kalam_notify.store.trimming import Edges, edges

_ENTRIES = """
SELECT group_concat(seq || char(9) || tbl || char(9) || owner || char(9) || kind || char(9)
    || ifnull(old_seq, '') || char(9) || ifnull(row, '') || char(9) || ifnull(old, ''), char(10))
FROM (SELECT * FROM log WHERE {where} AND seq > :after ORDER BY seq LIMIT :limit)
"""
_ALL_ENTRIES = _ENTRIES.format(where="true")
_TABLE_ENTRIES = _ENTRIES.format(where="+tbl = :tbl")
_OWNER_ENTRIES = _ENTRIES.format(where="tbl = :tbl AND owner = :owner")


class Tail(NamedTuple):
    """Where a read transaction stands: the file's last seq, and its horizon for all tables."""

    last_seq: int
    horizon: int


class Glance(NamedTuple):
    """What the file says of itself: its last seq, and its edges where any has moved."""

    last_seq: int
    edges: Edges | None


class TableNames:
    """Number -> table, kept from one read to the next: a number is never given twice."""

    def __init__(self) -> None:
        self._known: dict[int, TableId] = {}

    def of(self, connection: sqlite3.Connection, number: int) -> TableId:
        if number not in self._known:
            self._known = {table.number: name for name, table in stored_tables(connection).items()}
        return self._known[number]


@contextmanager
def read_transaction(connection: sqlite3.Connection) -> Iterator[Tail]:
    """All reads inside see the file as it is at the start."""
    connection.execute("BEGIN")
    try:
        last_seq, horizon = connection.execute("SELECT last_seq, horizon FROM state").fetchone()
        yield Tail(last_seq, horizon)
    finally:
        connection.execute("COMMIT")


def glance(connection: sqlite3.Connection, known: Edges) -> Glance:
    """Where the file stands, and its edges unless they are those `known`."""
    with read_transaction(connection) as tail:
        (version,) = connection.execute("SELECT trims FROM state").fetchone()
        return Glance(tail.last_seq, edges(connection) if version != known.version else None)


def follow(
    connection: sqlite3.Connection,
    known: Edges,
    names: TableNames,
    after: int,
    limit: int,
    max_bytes: int,
) -> tuple[Glance, Span]:
    """A glance, and the next changes of all tables; raises Compacted."""
    seen = glance(connection, known)
    return seen, read(connection, names, after, limit, max_bytes, None, None)


def read(
    connection: sqlite3.Connection,
    names: TableNames,
    after: int,
    limit: int,
    max_bytes: int,
    table: TableId | None,
    owner: Owner | None,
) -> Span:
    """See EventLog.read."""
    with read_transaction(connection) as tail:
        stored = None if table is None else stored_table(connection, table)
        horizon = tail.horizon if table is None else stored.horizon if stored else 0
        if after < horizon:
            raise Compacted(horizon)
        end = max(after, tail.last_seq)
        if after == end or (table is not None and stored is None):
            return Span((), end)
        entries = _entries(connection, names, after, limit, stored, owner)
        return _stretch(entries, end, limit, max_bytes)


def _stretch(entries: Iterable[Change], end: int, limit: int, max_bytes: int) -> Span:
    changes: list[Change] = []
    size = 0
    for change in entries:
        changes.append(change)
        size += change.size
        if len(changes) >= limit or size >= max_bytes:
            return Span(changes, change.seq)
    return Span(changes, end)


def _entries(
    connection: sqlite3.Connection,
    names: TableNames,
    after: int,
    limit: int,
    stored: StoredTable | None,
    owner: Owner | None,
) -> Iterator[Change]:
    """At most `limit` entries after a position, of one table (and owner) where they are given."""
    query = _ALL_ENTRIES
    parameters: dict[str, Parameter] = {"after": after}
    if stored is not None:
        owner = SHARED if stored.shape.kind == "shared" else owner
        query = _TABLE_ENTRIES if owner is None else _OWNER_ENTRIES
        parameters |= {"tbl": stored.number, "owner": owner or SHARED}
    chunking = Chunking()
    while limit > 0:
        lines, asked = chunk(connection, query, parameters, chunking, min(chunking.rows, limit))
        found = _changes(connection, names, lines)
        yield from found
        if len(found) < asked:
            return
        parameters["after"] = found[-1].seq
        limit -= asked


def _changes(
    connection: sqlite3.Connection, names: TableNames, lines: Iterable[bytes]
) -> list[Change]:
    changes: list[Change] = []
    for line in lines:
        seq, number, owner, kind, old_seq, row, old = line.split(FIELD)
        changes.append(
            Change(
                int(seq),
                names.of(connection, int(number)),
                owner.decode(),
                cast(Kind, kind.decode()),
                Row(row) if row else None,
                Row(old) if old else None,
                int(old_seq) if old_seq else None,
            )
        )
    return changes
