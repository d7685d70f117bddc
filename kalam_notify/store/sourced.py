"""What the file keeps of sources: how far each has been told, and the tables it tells.

Written in the transaction that stores a source's changes, so that position and changes cannot
disagree, whatever the moment of a crash. `state.sources` counts the times that a table's
definition has changed: other processes look at it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection

from kalam_notify.model import TableId
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.store.access import stored_table
from kalam_notify.store.indexing import follow_all
from kalam_notify.store.rows import keep_rows

_SET_POSITION = """
INSERT INTO source_positions (source, position) VALUES (?, ?)
ON CONFLICT (source) DO UPDATE SET position = excluded.position
"""
_DEFINE = """
INSERT INTO source_tables (source, name, definition) VALUES (?, ?, ?)
ON CONFLICT (source, name) DO UPDATE SET definition = excluded.definition
"""


def write_mark(connection: Connection, mark: SourceMark) -> None:
    """Inside the transaction that the caller has begun, after the changes that go with it."""
    source = mark.source
    if mark.position is not None:
        connection.execute(_SET_POSITION, (source, mark.position))
    for name, definition in mark.defined:
        connection.execute(_DEFINE, (source, name, definition))
    for name in mark.dropped:
        connection.execute(
            "DELETE FROM source_tables WHERE source = ? AND name = ?", (source, name)
        )
    if mark.forgotten:
        # The indexes follow the log, and could not follow what has left it.
        follow_all(connection)
    for name in mark.forgotten:
        _forget(connection, name)
    if mark.defined or mark.dropped:
        connection.execute("UPDATE state SET sources = sources + 1")


def _forget(connection: Connection, table: TableId) -> None:
    known = stored_table(connection, table)
    if known is None:
        return
    (size,) = connection.execute(
        "SELECT coalesce(sum(size), 0) FROM log WHERE tbl = ?", (known.number,)
    ).fetchone()
    keep_rows(connection, "tbl = ?", (known.number,))
    connection.execute("DELETE FROM log WHERE tbl = ?", (known.number,))
    connection.execute(
        "UPDATE tables SET horizon = (SELECT last_seq FROM state) WHERE id = ?", (known.number,)
    )
    connection.execute(
        "UPDATE state SET bytes = bytes - ?, horizon = last_seq, trims = trims + 1", (size,)
    )


def source_version(connection: Connection) -> int:
    """Rises whenever a table of a source is defined anew or dropped."""
    (version,) = connection.execute("SELECT sources FROM state").fetchone()
    return int(version)


def read_source_names(path: Path) -> set[str]:
    """The sources of a file that is not in use here; none where it cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return {name for (name,) in connection.execute("SELECT source FROM source_positions")}
    except sqlite3.Error:
        return set()


def source_states(connection: Connection) -> dict[str, SourceState]:
    """Every source that the file knows."""
    states: dict[str, SourceState] = {}
    for source, position in connection.execute("SELECT source, position FROM source_positions"):
        states[source.decode()] = SourceState(position.decode(), {})
    for source, name, definition in connection.execute(
        "SELECT source, name, definition FROM source_tables ORDER BY rowid"
    ):
        state = states.setdefault(source.decode(), SourceState(None, {}))
        state.tables[TableId(name.decode())] = definition.decode()
    return states
