"""What a batch comes to: duplicates dropped, seqs given, kinds and old images decided.

Pure: both logs bring the ids they have seen and the rows they hold, and get both updated. The
meaning of one change is `model.settle`; this module adds its batch.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kalam_notify.model import Change, Owner, PostedChange, Row, TableId, settle
from kalam_notify.model.changes import Stored, settle_gone
from kalam_notify.model.sourced import MovedRow
from kalam_notify.store.base import Appended

RowKey = tuple[TableId, Owner, str]
"""Where a keyed table keeps one row: table, owner, key."""


class CurrentRows(Protocol):
    """The rows that stand at this point of the log."""

    def get(self, key: RowKey) -> Stored | None: ...

    def put(self, key: RowKey, stored: Stored) -> None: ...

    def drop(self, key: RowKey) -> None: ...

    def clear(self, table: TableId, owner: Owner) -> Sequence[Stored]:
        """Take out all rows of an owner, and give them in the order in which they were written."""

    def made(self, size: int) -> None:
        """A row of so many bytes was made of a stored one: it is in memory besides what came."""


class Seen(NamedTuple):
    """What has been seen within the log's retention, and the seq it leaves the log with."""

    ids: dict[str, int]
    batch_keys: dict[str, int]


IN_FILE = -1
"""Where a key that the file holds already was seen; any new one has a seq."""


class Settled(NamedTuple):
    """The accepted changes in order, the id of each (or None), and the answer to the producer."""

    changes: list[Change]
    ids: list[str | None]
    appended: Appended


NOTHING = Appended(accepted=0, duplicates=0, first_seq=None, last_seq=None)


def settle_batch(
    batch: Sequence[PostedChange],
    batch_key: str | None,
    last_seq: int,
    seen: Seen,
    rows: CurrentRows,
) -> Settled:
    """Give a batch its places after `last_seq`; `seen` and `rows` follow it."""
    if batch_key is not None and batch_key in seen.batch_keys:
        return Settled([], [], Appended(0, len(batch), None, None))
    changes: list[Change] = []
    ids: list[str | None] = []
    made: Sequence[Change]
    seq, gone = last_seq, 0
    for posted in batch:
        if posted.id is not None and posted.id in seen.ids:
            continue
        if posted.kind == "truncate":
            made = _truncated(seq + 1, posted, rows)
            gone += max(0, len(made) - 1)
        else:
            change = _place(seq + 1, posted, rows)
            made = () if change is None else (change,)
        if not made:
            # It leaves no id behind, for no entry would bring it.
            continue
        if posted.id is not None:
            seen.ids[posted.id] = seq + 1
        seq += len(made)
        changes += made
        ids.append(posted.id)
        if len(made) > 1:
            ids += [None] * (len(made) - 1)
    if batch_key is not None:
        # Also where every change was known by its own id: it leaves with what is newest now.
        seen.batch_keys[batch_key] = seq
    return Settled(changes, ids, _answer(changes, len(changes) - gone, len(batch)))


def _truncated(seq: int, posted: PostedChange, rows: CurrentRows) -> Sequence[Change]:
    """A truncate and the deletes behind it; nothing where it was to be new, and finds no row."""
    gone = settle_gone(seq, posted, rows.clear(posted.table, posted.owner))
    return [] if posted.only_if_new and not gone else [settle(seq, posted, None), *gone]


def _place(seq: int, posted: PostedChange, rows: CurrentRows) -> Change | None:
    """The change at its place; None where it was to be new, and makes of the row what it is."""
    if posted.key is None:
        return settle(seq, posted, None)
    key = (posted.table, posted.owner, posted.key)
    stored = rows.get(key)
    base = stored
    if posted.__class__ is MovedRow:
        base = rows.get((posted.table, posted.owner, posted.base))
    change = settle(seq, posted, stored, base)
    if posted.only_if_new and _are_alike(change.row, stored and stored.row):
        return None
    if change.row is not None:
        if change.row is not posted.row:
            rows.made(len(change.row.json))
        rows.put(key, Stored(seq, change.row))
    elif stored is not None:
        rows.drop(key)
    return change


def _are_alike(row: Row | None, stored: Row | None) -> bool:
    if row is None or stored is None:
        return row is stored
    return row.says_the_same(stored)


def _answer(changes: Sequence[Change], accepted: int, posted: int) -> Appended:
    if not changes:
        return Appended(0, posted, None, None)
    return Appended(accepted, posted - accepted, changes[0].seq, changes[-1].seq)
