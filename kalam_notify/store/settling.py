"""What a batch comes to: duplicates dropped, seqs given, kinds and old images decided.

Pure: both logs bring the ids they have seen and the rows they hold, and get both updated. The
meaning of one change is `model.settle`; this module adds its batch.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kalam_notify.model import Change, Owner, PostedChange, TableId, settle
from kalam_notify.model.changes import Stored
from kalam_notify.store.base import Appended

RowKey = tuple[TableId, Owner, str]
"""Where a keyed table keeps one row: table, owner, key."""


class CurrentRows(Protocol):
    """The rows that stand at this point of the log."""

    def get(self, key: RowKey) -> Stored | None: ...

    def put(self, key: RowKey, stored: Stored) -> None: ...

    def drop(self, key: RowKey) -> None: ...


class Seen(NamedTuple):
    """What has been seen within the log's retention, and the seq it leaves the log with."""

    ids: dict[str, int]
    batch_keys: dict[str, int]


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
    seq = last_seq
    for posted in batch:
        if posted.id is not None:
            if posted.id in seen.ids:
                continue
            seen.ids[posted.id] = seq + 1
        seq += 1
        changes.append(_place(seq, posted, rows))
        ids.append(posted.id)
    if batch_key is not None:
        # Also where every change was known by its own id: it leaves with what is newest now.
        seen.batch_keys[batch_key] = seq
    return Settled(changes, ids, _answer(changes, len(batch)))


def _place(seq: int, posted: PostedChange, rows: CurrentRows) -> Change:
    if posted.key is None:
        return settle(seq, posted, None)
    key = (posted.table, posted.owner, posted.key)
    stored = rows.get(key)
    change = settle(seq, posted, stored)
    if change.row is not None:
        rows.put(key, Stored(seq, change.row))
    elif stored is not None:
        rows.drop(key)
    return change


def _answer(changes: Sequence[Change], posted: int) -> Appended:
    if not changes:
        return Appended(0, posted, None, None)
    return Appended(len(changes), posted - len(changes), changes[0].seq, changes[-1].seq)
