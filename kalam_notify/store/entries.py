"""How the log's entries are written."""

from collections.abc import Sequence
from itertools import chain
from sqlite3 import Connection
from typing import Any, NamedTuple

from kalam_notify.model import Change, Row
from kalam_notify.store.catalog import NumberOf, Numbers
from kalam_notify.store.statements import Template, pieces, statement


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
