"""A change as posted, a change as the log tells it, and how the first becomes the second."""

from typing import Any, Literal, NamedTuple

import msgspec

from kalam_notify.model.ids import Owner, TableId
from kalam_notify.model.rows import Row

Kind = Literal["insert", "update", "delete"]
Values = dict[str, Any]


class PostedChange(msgspec.Struct, frozen=True, gc=False):
    """One change of a producer's batch, validated, before the log has given it a place.

    `row` is the new row (None for a delete); `old` what the producer says of the row before.
    For a delete of a keyed table `old` holds at least the primary key.
    """

    table: TableId
    owner: Owner
    kind: Kind
    row: Row | None
    old: Row | None
    # Canonical JSON array of the primary key's values, so that 1 and "1" differ;
    # None in a table without a primary key.
    key: str | None = None
    # The producer's id for this change; a second change with the same id is a duplicate.
    id: str | None = None


class Change(msgspec.Struct, frozen=True, gc=False):
    """One change in the order of the log.

    Invariant: with a primary key, `kind` and `old` were decided from the stored row:
    insert has no `old`, update has one, delete has one or changed nothing (`old` is None).
    Without a primary key `kind` and `old` are as the producer gave them.
    """

    seq: int
    table: TableId
    owner: Owner
    kind: Kind
    row: Row | None
    old: Row | None
    # The seq at which `old` was written; None where there is no `old` or no primary key.
    old_seq: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the change's rows, and some for itself: what retention and reads count by."""
        size = 128
        if self.row is not None:
            size += len(self.row.json)
        if self.old is not None:
            size += len(self.old.json)
        return size


# What Python takes beside the JSON of one row and of a second one, and for a user's name, measured
# with tracemalloc (64-bit CPython 3.11), the window's own lists included.
_CHANGE_BYTES, _SECOND_ROW_BYTES, _OWNER_BYTES = 310, 112, 56


def memory_of(change: Change) -> int:
    """Bytes that a change takes in memory while nobody has asked for its rows' values."""
    size = _CHANGE_BYTES
    if change.row is not None:
        size += len(change.row.json)
    if change.old is not None:
        size += len(change.old.json)
        if change.row is not None:
            size += _SECOND_ROW_BYTES
    return size + _OWNER_BYTES + len(change.owner) if change.owner else size


class Stored(NamedTuple):
    """The current row of a key and the seq that wrote it."""

    seq: int
    row: Row


def settle(seq: int, posted: PostedChange, stored: Stored | None) -> Change:
    """What a posted change means at its place in the log.

    A pure function of the change and of the row stored under its key (None: no such row), so that
    every reader of the same log reaches the same answer: an insert or update is an upsert, named
    by whether a row was there; a delete of no row keeps its seq and changes nothing.
    """
    table, owner, row = posted.table, posted.owner, posted.row
    if posted.key is None:
        return Change(seq, table, owner, posted.kind, row, posted.old)
    if posted.kind == "delete":
        if stored is None:
            return Change(seq, table, owner, "delete", None, None)
        return Change(seq, table, owner, "delete", None, stored.row, stored.seq)
    if stored is None:
        return Change(seq, table, owner, "insert", row, None)
    return Change(seq, table, owner, "update", row, stored.row, stored.seq)
