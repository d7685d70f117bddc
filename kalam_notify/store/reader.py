"""Reading the SQLite log: connections, threads, spans of changes, chunks of rows.

Reading the SQLite log: where it stands, and spans of its changes.

Reading connections and the few threads that use them, off the event loop.

A query that nobody waits for any more is ended: one that has not begun gives up its place, and the
statement of one that runs is interrupted.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.model import SHARED, Change, Kind, Owner, Row, TableId
from kalam_notify.store.access import Parameter, StoredTable, stored_table, stored_tables
from kalam_notify.store.base import Span
from kalam_notify.store.rows import FIELD, LINE
from kalam_notify.store.schema import open_reader
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
    """Where a read transaction stands: the file's last seq, and its horizon for all tables.

    Positions below `floor` are of an earlier life of the log, whatever table they are of.
    """

    last_seq: int
    horizon: int
    floor: int


class Glance(NamedTuple):
    """What the file says of itself: its last seq, and its edges where any has moved."""

    last_seq: int
    edges: Edges | None


_FIRST_ROWS = 8


_MAX_ROWS = 512


CHUNK_BYTES = 256 * 1024


_MOST_BYTES = 2 * 1024 * 1024


_ANY_LENGTH = 1_000_000_000


class Chunking:
    """How many rows to ask for next, so that a chunk stays near `CHUNK_BYTES`."""

    def __init__(self) -> None:
        self.rows = _FIRST_ROWS

    def learn(self, rows: int, size: int) -> None:
        fitting = CHUNK_BYTES * rows // max(size, 1)
        self.rows = max(1, min(fitting, 4 * self.rows, _MAX_ROWS))


def chunk(
    connection: sqlite3.Connection,
    query: str,
    parameters: Mapping[str, Parameter],
    chunking: Chunking,
    asked: int,
) -> tuple[list[bytes], int]:
    """The lines of the next `asked` rows, or fewer where those are too large; how many it became.

    `query` takes them as `:limit`. Fewer lines than that: there are no more.
    """
    while True:
        answer = _bounded(connection, query, {**parameters, "limit": asked}, asked)
        if answer is not None:
            break
        asked = max(1, asked // 8)
    if not answer:
        return [], asked
    lines = answer.split(LINE)
    chunking.learn(len(lines), len(answer))
    return lines, asked


def _bounded(
    connection: sqlite3.Connection, query: str, parameters: Mapping[str, Parameter], asked: int
) -> bytes | None:
    """The answer, empty where there is nothing; None when it would be too long."""
    longest = _MOST_BYTES if asked > 1 else _ANY_LENGTH
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
    try:
        (answer,) = connection.execute(query, parameters).fetchone()
    except sqlite3.DataError as fault:
        if asked == 1 or fault.sqlite_errorcode != sqlite3.SQLITE_TOOBIG:
            raise
        return None
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
    return answer or b""


class TableNames:
    """Number -> table, kept from one read to the next: a number is never given twice."""

    def __init__(self) -> None:
        self._known: dict[int, TableId] = {}

    def of(self, connection: sqlite3.Connection, number: int) -> TableId:
        if number not in self._known:
            self._known = {table.number: name for name, table in stored_tables(connection).items()}
        return self._known[number]


# Of the first life the base is the floor, and 0 stands for it.
_TAIL = "SELECT last_seq, horizon, CASE WHEN floor > base THEN floor ELSE 0 END FROM state"


@contextmanager
def read_transaction(connection: sqlite3.Connection) -> Iterator[Tail]:
    """All reads inside see the file as it is at the start."""
    connection.execute("BEGIN")
    try:
        yield Tail(*connection.execute(_TAIL).fetchone())
    finally:
        connection.execute("COMMIT")


def last_seq(connection: sqlite3.Connection) -> int:
    """The newest seq there is, as the transaction that is open sees it."""
    (seq,) = connection.execute("SELECT last_seq FROM state").fetchone()
    return int(seq)


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
        horizon = tail.horizon
        if table is not None:
            horizon = max(tail.floor, stored.horizon if stored else 0)
        if after < horizon:
            raise Compacted(horizon)
        end = max(after, tail.last_seq)
        if after == end or (table is not None and stored is None):
            return Span((), end)
        entries = _entries(connection, names, after, limit, stored, owner)
        return _span(entries, end, limit, max_bytes)


def _span(entries: Iterable[Change], end: int, limit: int, max_bytes: int) -> Span:
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


_THREADS = 4
# Fewer than would keep every core busy for long: they compete with the event loop.
_SCAN_THREADS = 3
# SQLite's operations between two looks at whether anybody waits still: tens of milliseconds.
_CHECK_EVERY = 1_000_000

P = ParamSpec("P")
T = TypeVar("T")


class _Call:
    """A query that can be ended from another thread while it runs, and not a moment longer."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_over = False

    @contextmanager
    def on(self, connection: sqlite3.Connection) -> Iterator[None]:
        """The query runs on this connection; raises sqlite3.Error when it was ended before."""
        with self._lock:
            if self._is_over:
                raise sqlite3.OperationalError("interrupted")
            self._connection = connection
            connection.set_progress_handler(self._check, _CHECK_EVERY)
        try:
            yield
        finally:
            with self._lock:
                self._connection = None
                connection.set_progress_handler(None, 0)

    def _check(self) -> bool:
        """Called by SQLite now and then: True ends the statement."""
        return self._is_over

    def interrupt(self) -> None:
        """End the query, now or when it begins."""
        with self._lock:
            self._is_over = True
            if self._connection is not None:
                self._connection.interrupt()


class ReaderPool:
    """Runs queries against one file. A connection is used by one query at a time and kept.

    Queries that may walk a whole table have threads of their own, so that short ones never wait
    for them. `on_fault` is told in whichever thread met the fault.
    """

    def __init__(
        self, path: Path, on_fault: Callable[[sqlite3.Error], None] = lambda fault: None
    ) -> None:
        self._path = path
        self._on_fault = on_fault
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kalam-log-reader")
        self._scan_threads = ThreadPoolExecutor(
            _SCAN_THREADS, thread_name_prefix="kalam-log-scanner"
        )
        self._idle: list[sqlite3.Connection] = []
        # Connections of an earlier one are of a file that was replaced.
        self._generation = 0

    async def run(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """What a short query answers; raises LogUnavailable when the file cannot be read."""
        return await self._run(self._threads, lambda connection: query(connection, *args, **kwargs))

    async def scan(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The same for a query that may take long."""
        return await self._run(
            self._scan_threads, lambda connection: query(connection, *args, **kwargs)
        )

    async def _run(
        self, threads: ThreadPoolExecutor, query: Callable[[sqlite3.Connection], T]
    ) -> T:
        call = _Call()

        def work() -> T:
            with self.connection() as connection, call.on(connection):
                return query(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except asyncio.CancelledError:
            call.interrupt()
            raise

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for the calling thread; raises LogUnavailable for what goes wrong on it."""
        connection: sqlite3.Connection | None = None
        generation = self._generation
        try:
            connection = self._take()
            yield connection
        except sqlite3.Error as fault:
            # Not used again: what state it is in is anybody's guess.
            if connection is not None:
                connection.close()
                connection = None
            self._on_fault(fault)
            raise LogUnavailable(f"the log could not be read: {fault}") from fault
        finally:
            if connection is not None and generation == self._generation:
                self._idle.append(connection)
            elif connection is not None:
                connection.close()

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return open_reader(self._path)

    async def close(self) -> None:
        """Wait for the queries under way, then close everything."""
        for threads in (self._threads, self._scan_threads):
            await asyncio.to_thread(threads.shutdown)
        self.forget()

    def forget(self) -> None:
        """Let go of the connections, and with them of what they hold of the file; those in use are
        closed when their query has ended.
        """
        self._generation += 1
        for connection in self._idle:
            connection.close()
        self._idle.clear()
