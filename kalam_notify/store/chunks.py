"""Chunks of rows: as many in one step of SQLite as make a text of a good size.

A chunk comes as one text from one step (see `bulk`), so a scan of a big table does its work in
SQLite without the interpreter lock. How many rows fit is not known beforehand: a chunk begins with
a few and learns from what came. Where rows are suddenly large, SQLite stops at `_MOST_BYTES`, and
fewer are asked for.
"""

import sqlite3
from collections.abc import Mapping

from kalam_notify.store.bulk import LINE
from kalam_notify.store.prefilter import Parameter

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
