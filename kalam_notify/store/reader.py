"""Reading the SQLite log: spans of changes, and rows as of a position.

Rows as of S need no transaction held open from page to page. A row that has stood unchanged since S
is a current row with `seq <= S`; one that was replaced or deleted since is the old image of the
first entry after S that did so, and that entry says which seq wrote the image (`old_seq <= S`). The
two never overlap, so a page is their merge by seq. Only when retention has passed S can an image be
missing: then the answer is Compacted.

A chunk of rows comes as one text from one step (see `bulk`), so a scan of a big table does its work
in SQLite without the interpreter lock. Where a filter came with hints, the rows they exclude never
leave SQLite (see `prefilter`): a selective filter costs a few steps, however big the table is.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

from kalam_notify.errors import Compacted
from kalam_notify.model import SHARED, Change, Kind, Owner, Row, TableDef, TableId
from kalam_notify.model.hints import Hints
from kalam_notify.store.base import Matches, Page, PageRequest, Span
from kalam_notify.store.bulk import FIELD, LINE
from kalam_notify.store.catalog import StoredTable, stored_table, stored_tables
from kalam_notify.store.filtering import Candidate, RowFilter
from kalam_notify.store.prefilter import Parameter, Prefilter
from kalam_notify.store.selection import fill_page, keep_matching
from kalam_notify.store.trimming import Edges, edges

_FIRST_CHUNK_ROWS = 32
_MAX_CHUNK_ROWS = 512
_CHUNK_BYTES = 256 * 1024

_ENTRIES = """
SELECT group_concat(seq || char(9) || tbl || char(9) || owner || char(9) || kind || char(9)
    || ifnull(old_seq, '') || char(9) || ifnull(row, '') || char(9) || ifnull(old, ''), char(10))
FROM (SELECT * FROM log WHERE {where} AND seq > :after ORDER BY seq LIMIT :limit)
"""
_ALL_ENTRIES = _ENTRIES.format(where="true")
_TABLE_ENTRIES = _ENTRIES.format(where="+tbl = :tbl")
_OWNER_ENTRIES = _ENTRIES.format(where="tbl = :tbl AND owner = :owner")

_ROWS = """
SELECT group_concat(seq || char(9) || row, char(10)) FROM (
    SELECT seq, row FROM {source} WHERE tbl = :tbl AND owner = :owner AND row IS NOT NULL
        AND seq > :after AND seq <= :upto{row_hints}
    {images}
    ORDER BY 1 {order} LIMIT :limit
)
"""
_IMAGES = """
    UNION ALL
    SELECT old_seq, old FROM log WHERE tbl = :tbl AND owner = :owner
        AND seq > :as_of AND old_seq > :after AND old_seq <= :upto{old_hints}
"""


def _rows_query(
    source: str, prefilter: Prefilter, *, with_images: bool = False, backwards: bool = False
) -> str:
    images = _IMAGES.format(old_hints=prefilter.on("old")) if with_images else ""
    order = "DESC" if backwards else ""
    return _ROWS.format(source=source, row_hints=prefilter.on("row"), images=images, order=order)


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


class _Chunking:
    """How many rows to ask for next, so that a chunk stays near `_CHUNK_BYTES`."""

    def __init__(self) -> None:
        self.rows = _FIRST_CHUNK_ROWS

    def learn(self, rows: int, size: int) -> None:
        fitting = _CHUNK_BYTES * rows // max(size, 1)
        self.rows = max(1, min(fitting, 2 * self.rows, _MAX_CHUNK_ROWS))


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
        # Horizons only rise, so their sum tells whether one has.
        (risen,) = connection.execute("SELECT ifnull(sum(horizon), 0) FROM tables").fetchone()
        moved = risen != sum(known.horizons.values())
        return Glance(tail.last_seq, edges(connection) if moved else None)


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
    chunking = _Chunking()
    while limit > 0:
        parameters["limit"] = asked = min(chunking.rows, limit)
        found = _changes(connection, names, _chunk(connection, query, parameters, chunking))
        yield from found
        if len(found) < asked:
            return
        parameters["after"] = found[-1].seq
        limit -= asked


def _chunk(
    connection: sqlite3.Connection,
    query: str,
    parameters: dict[str, Parameter],
    chunking: _Chunking,
) -> list[bytes]:
    (answer,) = connection.execute(query, parameters).fetchone()
    if not answer:
        return []
    lines: list[bytes] = answer.split(LINE)
    chunking.learn(len(lines), len(answer))
    return lines


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


def page(connection: sqlite3.Connection, request: PageRequest, row_filter: RowFilter) -> Page:
    """See EventLog.page."""
    with read_transaction(connection) as tail:
        as_of = tail.last_seq if request.as_of is None else request.as_of
        stored = stored_table(connection, request.table.id)
        if stored is None:
            return Page(as_of, (), has_more=False)
        _refuse_compacted(request, as_of, stored.horizon)
        prefilter = Prefilter(request.hints)
        is_past = request.table.is_keyed and as_of < tail.last_seq
        query = _rows_query(_source(request.table), prefilter, with_images=is_past)
        parameters: dict[str, Parameter] = {
            **prefilter.parameters,
            "tbl": stored.number,
            "owner": request.owner,
            "after": request.after,
            "upto": as_of,
            "as_of": as_of,
        }
        wanted = request.limit + 1 if request.matches is None else None
        rows = _forwards(connection, query, parameters, wanted)
        return fill_page(request, as_of, keep_matching(rows, request.matches, row_filter))


def _source(table: TableDef) -> str:
    return "rows" if table.is_keyed else "log"


def _refuse_compacted(request: PageRequest, as_of: int, horizon: int) -> None:
    if as_of < horizon:
        raise Compacted(horizon)
    if not request.table.is_keyed and request.as_of is not None and request.after < horizon:
        raise Compacted(horizon)


def _forwards(
    connection: sqlite3.Connection,
    query: str,
    parameters: dict[str, Parameter],
    wanted: int | None,
) -> Iterator[list[Candidate]]:
    """Chunks of rows in rising order of seq; at most `wanted`, where it is given."""
    chunking = _Chunking()
    while wanted is None or wanted > 0:
        parameters["limit"] = asked = min(chunking.rows, wanted or _MAX_CHUNK_ROWS)
        found = _candidates(_chunk(connection, query, parameters, chunking))
        yield found
        if len(found) < asked:
            return
        parameters["after"] = found[-1][0]
        wanted = None if wanted is None else wanted - asked


def _backwards(
    connection: sqlite3.Connection, query: str, parameters: dict[str, Parameter]
) -> Iterator[list[Candidate]]:
    """Chunks of rows in falling order of seq."""
    chunking = _Chunking()
    while True:
        parameters["limit"] = asked = chunking.rows
        found = _candidates(_chunk(connection, query, parameters, chunking))
        yield found
        if len(found) < asked:
            return
        parameters["upto"] = found[-1][0] - 1


def _candidates(lines: Iterable[bytes]) -> list[Candidate]:
    return [(int(seq), Row(row)) for seq, _, row in (line.partition(FIELD) for line in lines)]


def newest(
    connection: sqlite3.Connection,
    table: TableDef,
    owner: Owner,
    matches: Matches | None,
    count: int,
    hints: Hints,
    row_filter: RowFilter,
) -> tuple[int, int]:
    """See EventLog.newest."""
    with read_transaction(connection) as tail:
        stored = stored_table(connection, table.id)
        if count <= 0 or stored is None:
            return tail.last_seq, tail.last_seq if count <= 0 else 0
        prefilter = Prefilter(hints)
        query = _rows_query(_source(table), prefilter, backwards=True)
        parameters: dict[str, Parameter] = {
            **prefilter.parameters,
            "tbl": stored.number,
            "owner": owner,
            "after": 0,
            "upto": tail.last_seq,
        }
        for seq, _ in keep_matching(_backwards(connection, query, parameters), matches, row_filter):
            count -= 1
            if not count:
                return tail.last_seq, seq - 1
        return tail.last_seq, 0 if table.is_keyed else stored.horizon
