r"""A table's rows as of one snapshot, as COPY tells them.

Format of COPY's text: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2. One
line a row, columns parted by tabs, `\N` for NULL, backslashes before what would be mistaken.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg

from kalam_notify.model import PostedChange
from kalam_notify.sources.base import TableMoved
from kalam_notify.sources.postgres.catalogue import PgTable, quoted
from kalam_notify.sources.postgres.changes import Rows
from kalam_notify.sources.postgres.connecting import Connection, raised_as_unavailable, why
from kalam_notify.sources.postgres.pgoutput import Tuple
from kalam_notify.sources.postgres.positions import Cut, lsn_number, parse_cut

BATCH_ROWS = 1000
BATCH_BYTES = 1024 * 1024
# Rows between two turns of the event loop.
_SLICE_ROWS = 100

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def parse_line(line: bytes) -> Tuple:
    """The values of a line of COPY's text, its line end included."""
    fields = line[:-1].split(b"\t")
    if b"\\" not in line:
        return list(fields)
    return [
        None if field == b"\\N" else field if b"\\" not in field else _ESCAPE.sub(_unescaped, field)
        for field in fields
    ]


@asynccontextmanager
async def raised_as_moved() -> AsyncIterator[None]:
    """What says that a table is not as it was, as TableMoved; other faults as unavailable."""
    async with raised_as_unavailable():
        try:
            yield
        except (psycopg.ProgrammingError, psycopg.NotSupportedError) as fault:
            raise TableMoved(why(fault)) from fault


def _unescaped(match: re.Match[bytes]) -> bytes:
    return _ESCAPED.get(match[1], match[1])


async def take_snapshot(
    connection: Connection,
    label: str,
    applied: Sequence[int] = (),
    exported: str | None = None,
) -> Cut:
    """Begin a transaction that sees one moment of a table; the cut it makes.

    It sees every transaction in `applied`: these have been told, and a copy that did not see them
    would take them back. Right after its commit a transaction may not be visible yet.
    """
    while True:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if exported is not None:
            await connection.execute(f"SET TRANSACTION SNAPSHOT '{exported}'")
        else:
            # Before the snapshot: whatever rewrites the table is over, or has not begun. One that
            # came in between would show the snapshot an empty table.
            await connection.execute(f"LOCK TABLE {label} IN ACCESS SHARE MODE")
        row = await (await connection.execute("SELECT pg_current_snapshot()::text")).fetchone()
        assert row is not None
        # Asked after the snapshot, for every transaction that it sees commits before this.
        where = await (
            await connection.execute("SELECT pg_current_wal_insert_lsn()::text")
        ).fetchone()
        assert where is not None
        cut = parse_cut(row[0], lsn_number(where[0]))
        if exported is not None or cut.sees_all(applied):
            return cut
        await connection.execute("ROLLBACK")
        await asyncio.sleep(0.01)


class TableCopy:
    """The rows of a table, read in the transaction that `take_snapshot` has begun."""

    def __init__(self, connection: Connection, table: PgTable, cut: Cut) -> None:
        self._connection = connection
        self._table = table
        self.cut = cut.encode()
        self._rows = Rows(table, list(table.columns))

    async def batches(self) -> AsyncIterator[list[PostedChange]]:
        async with raised_as_moved(), self._connection.cursor() as cursor:
            batch: list[PostedChange] = []
            size = 0
            async with cursor.copy(self._query()) as copy:
                async for line in copy:
                    batch.append(self._rows.copied(parse_line(bytes(line))))
                    size += len(line)
                    if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                        yield batch
                        batch, size = [], 0
                    elif len(batch) % _SLICE_ROWS == 0:
                        await asyncio.sleep(0)
            if batch:
                yield batch

    def _query(self) -> str:
        facts = self._table.facts
        names = ", ".join(map(quoted, self._table.columns)) or "*"
        # Heirs of an ordinary table are tables of their own.
        only = "" if facts.kind == "p" else "ONLY "
        where = f" WHERE {self._table.row_filter}" if self._table.row_filter else ""
        return f"COPY (SELECT {names} FROM {only}{facts.label}{where}) TO STDOUT"
