"""Is the file sound: SQLite's own check of it, in slices.

A slice is one table with its indexes (https://sqlite.org/pragma.html#pragma_quick_check): every
page is read, the shape of the trees, the cells and the types of the columns are looked at; then
whether the rows' texts are JSON still. What nobody can tell is a byte that has turned into another
within a value. A slice holds a read transaction for as long as it runs, and the write-ahead log
cannot begin anew meanwhile: that is why the whole is not one.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

_TELL = 3
"""Of a file with a thousand faults the first few say enough."""

_POLITE = 10
"""The nice value of a thread that checks: it competes with a server."""

_DAMAGE = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))

WHOLE: None = None

# Where the rows' texts are.
_TEXTS = (("log", "row"), ("log", "old"), ("kept", "row"))


def is_damage(fault: BaseException | None) -> bool:
    """Whether SQLite says that what it has read is no sound database."""
    # The low byte is the primary code: https://sqlite.org/rescode.html.
    code = getattr(fault, "sqlite_errorcode", None) or 0
    return isinstance(fault, sqlite3.DatabaseError) and code & 0xFF in _DAMAGE


def damage_text(path: Path, what: str) -> str:
    """How a damaged file is told: its path, what is wrong, and what to do."""
    return (
        f"{path} is damaged ({what}): see what `kalam-notify doctor {path.parent}` tells, and"
        " restore a copy"
    )


def slices(connection: sqlite3.Connection) -> list[str]:
    """The tables there are; what has to be read for the smallest question comes first."""
    names = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rootpage"
    return ["sqlite_schema", *(bytes(name).decode() for (name,) in connection.execute(names))]


def check(connection: sqlite3.Connection, table: str | None = WHOLE) -> str | None:
    """What is wrong with this table and its indexes, or with the whole file; None: nothing.

    Damage is told, whatever way SQLite finds it; raises sqlite3.Error where the file cannot be read
    and for a check that was interrupted.
    """
    which = "" if table is None else '("{}")'.format(table.replace('"', '""'))
    try:
        found = connection.execute(f"PRAGMA quick_check{which}").fetchmany(_TELL)
    except sqlite3.DatabaseError as fault:
        if not is_damage(fault):
            raise
        return str(fault)
    faults = _one_line([bytes(text).decode(errors="replace") for (text,) in found])
    return faults or next(no_json(connection, table), None)


def check_politely(connection: sqlite3.Connection, table: str) -> str | None:
    """`check` in a thread that does nothing else: from here on it yields to everybody."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _POLITE)
    return check(connection, table)


def no_json(connection: sqlite3.Connection, table: str | None = WHOLE) -> Iterator[str]:
    """The rows' texts that are no JSON, a few of them. SQLite looks, and the server's own reader
    confirms: where the two differ in what is JSON, nothing is wrong.
    """
    for name, column in _TEXTS:
        if table not in (WHOLE, name):
            continue
        query = (
            f"SELECT seq, CAST({column} AS BLOB) FROM {name}"
            f" WHERE {column} IS NOT NULL AND NOT json_valid({column}) LIMIT {_TELL}"
        )
        for seq, text in connection.execute(query):
            if not _is_json(text):
                yield f"the {column} of seq {seq} in {name} is no JSON"


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _one_line(found: Sequence[str]) -> str | None:
    if not found or found[0] == "ok":
        return None
    return "; ".join(" ".join(text.split()) for text in found)
