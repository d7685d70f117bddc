"""The first copy: the rows that were there when the slot was made (see `pgfeed` for the proof)."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg

from pgfeed.catalog import Table
from pgfeed.decoding import Draft, encode_change
from pgfeed.faults import SetupFault, Stopping
from pgfeed.outbox import MOST_BYTES, MOST_CHANGES
from pgfeed.poster import Poster
from pgfeed.session import Session
from pgfeed.state import State, StateDirectory, flush_to_disk, settle
from pgfeed.values import Types

_log = logging.getLogger("feeder.copy")


def start_over(session: Session, directory: StateDirectory, state: State) -> None:
    """Remove what an attempt that had not posted anything left behind."""
    directory.spool.unlink(missing_ok=True)
    if session.slot() is not None:
        # Whoever created it may be gone for the server only in a moment.
        session.value(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots "
            "WHERE slot_name = %s AND active",
            (state.slot,),
        )
        session.value("SELECT pg_drop_replication_slot(%s)", (state.slot,))


def spool_tables(
    session: Session,
    directory: StateDirectory,
    state: State,
    tables: Sequence[Table],
    stop: threading.Event,
) -> State:
    """Create the slot and write every row under its snapshot to the spool; returns `copying`."""
    scratch = directory.spool.with_suffix(".part")
    rows = 0
    with (
        _new_slot(session, state.slot) as snapshot,
        _under_snapshot(session.connection, snapshot),
        scratch.open("wb") as spool,
    ):
        for table in tables:
            for line in _lines(session.connection, table, state, first=rows + 1):
                if stop.is_set():
                    raise Stopping
                spool.write(line)
                rows += 1
        spool.flush()
        flush_to_disk(spool.fileno())
    settle(scratch, directory.spool)
    _log.info("%d rows of %d tables spooled", rows, len(tables))
    return directory.save(msgspec.structs.replace(state, phase="copying"))


@contextmanager
def _new_slot(session: Session, name: str) -> Iterator[str]:
    """The name of the snapshot that shows what the new slot will not tell.

    The snapshot lives until the replication connection is used again or closed.
    """
    with session.replication_connection() as replication:
        try:
            cursor = replication.execute(
                f"CREATE_REPLICATION_SLOT \"{name}\" LOGICAL wal2json (SNAPSHOT 'export')".encode()
            )
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFile) as error:
            raise SetupFault(f"the slot cannot be created: {error}") from error
        created = cursor.fetchone()
        assert created is not None
        _log.info("slot %s tells everything after %s", name, created[1])
        yield created[2]


@contextmanager
def _under_snapshot(connection: psycopg.Connection[Any], snapshot: str) -> Iterator[None]:
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
    yield
    connection.execute("COMMIT")


def _lines(
    connection: psycopg.Connection[Any], table: Table, state: State, first: int
) -> Iterator[bytes]:
    """Each row as a change on a line of its own, numbered through all tables."""
    types = Types(state.numeric)
    columns = list(table.columns.items())
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in table.columns)
    # COPY, not SELECT: its text is that of the output functions, as in wal2json; a cast to text
    # would cut the blanks of character(n).
    query = f"COPY (SELECT {names} FROM ONLY {table.quoted}) TO STDOUT"
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for number, row in enumerate(copy.rows(), first):
            image = {
                name: types.from_copy(kind, value)
                for (name, kind), value in zip(columns, row, strict=True)
            }
            change_id = f"{state.id_prefix}.copy.{number}"
            yield encode_change(table.name, Draft("insert", image, None), change_id) + b"\n"


def post_spool(poster: Poster, directory: StateDirectory, state: State) -> State:
    """Post the spool from where the last acknowledgement left it; returns `streaming`."""
    with directory.spool.open("rb") as spool:
        spool.seek(state.posted)
        while batch := _next_batch(spool.readlines(MOST_BYTES // 2)):
            for part in batch:
                poster.post(part)
            state = directory.save(msgspec.structs.replace(state, posted=spool.tell()))
    state = directory.save(msgspec.structs.replace(state, phase="streaming"))
    directory.spool.unlink()
    _log.info("copy done: %d accepted, %d duplicates", poster.accepted, poster.duplicates)
    return state


def _next_batch(lines: list[bytes]) -> list[list[bytes]]:
    changes = [line.rstrip(b"\n") for line in lines]
    return [changes[at : at + MOST_CHANGES] for at in range(0, len(changes), MOST_CHANGES)]
