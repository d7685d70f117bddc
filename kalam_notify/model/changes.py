"""Changes and their rows: what is posted, what is stored, and what a batch of changes comes to.

A row is one image: its JSON text, and its values where somebody has asked for them.

A key names a row of a keyed table. It is the JSON array of the primary key's values, without white
space, as short as it can be: `[7]`, `["acme",7]`. So 1 and "1" are two keys, and so are true and
"true"; and the keys that begin with the same values are neighbours.

A change as posted becomes a change as the log tells it when the batch is settled: duplicates are
dropped, seqs given, kinds and old images decided. That is pure: every log brings the ids it has
seen and the rows it holds, and gets both updated.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import orjson

from kalam_notify.model.tables import Owner, TableId

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_texts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Row:
    """A row as compact JSON, decoded when somebody asks for its values, then kept.

    Invariant: `json` is one JSON object without white space between tokens and without a name
    given twice, so that whoever sends it can splice into it at either end.
    """

    __slots__ = ("_values", "json")

    def __init__(self, json: bytes, values: dict[str, Any] | None = None) -> None:
        self.json = json
        self._values = values

    @property
    def values(self) -> dict[str, Any]:
        """Column name -> JSON value. Shared by all readers: never change it."""
        values = self._values
        if values is None:
            values = self._values = _decode(self.json)
        return values

    @property
    def known_values(self) -> dict[str, Any] | None:
        """The values where they have been decoded; None: whoever wants few of them may do so."""
        return self._values

    def with_columns_of(self, other: "Row", columns: Iterable[str] | None) -> "Row":
        """A row of this one's columns and, behind them, those of `columns` that the other one has.

        None: all that the other one has.

        Their JSON is taken over as it stands; a column that both have is this row's.
        """
        theirs, mine = _decode_texts(other.json), _decode_texts(self.json)
        added = b",".join(
            b"%b:%b" % (orjson.dumps(name), bytes(theirs[name]))
            for name in (theirs if columns is None else columns)
            if name in theirs and name not in mine
        )
        if not added:
            return self
        begin = self.json[:-1]
        return Row(b"%b%b%b}" % (begin, b"," if mine else b"", added))

    def says_the_same(self, other: "Row") -> bool:
        """Whether it has the other's columns with the same texts, in any order."""
        return self.json == other.json or _decode_texts(self.json) == _decode_texts(other.json)

    def forget(self) -> None:
        """Let go of the decoded values, which take several times the text's memory.

        For rows that are kept but rarely looked at again; asking for `values` decodes anew.
        """
        self._values = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self.json == other.json

    def __hash__(self) -> int:
        return hash(self.json)

    def __repr__(self) -> str:
        return f"Row({self.json!r})"


KEY_TYPES = frozenset((int, str, bool))


def key_of(columns: Sequence[str], values: dict[str, object]) -> str | None:
    """A row's key; None where a value is missing, or neither a string, an integer nor a boolean."""
    if len(columns) == 1:
        value = values.get(columns[0])
        if type(value) is int:
            return f"[{value}]"
        return key_text((value,)) if type(value) in KEY_TYPES else None
    key = [values.get(column) for column in columns]
    return key_text(key) if KEY_TYPES.issuperset(map(type, key)) else None


def key_text(values: Iterable[object]) -> str:
    """The key of these values."""
    return orjson.dumps(tuple(values)).decode()


def key_range(values: Iterable[object]) -> tuple[str, str]:
    """The keys that begin with these values and have more: from the first text, below the second.

    The one is the text up to and with the comma, the other the same with the comma's successor.
    """
    begin = key_text(values)[:-1]
    return f"{begin},", f"{begin}-"


def can_be_key(value: object) -> object | None:
    """The value as it stands in keys that equal it: 1.0 in a condition finds the key 1.

    None where no key can equal it.
    """
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int and not -(2**63) <= value < 2**64:
        return None
    return value if type(value) in KEY_TYPES else None


Kind = Literal["insert", "update", "delete"]
PostedKind = Literal["insert", "update", "delete", "truncate"]
Values = dict[str, Any]


NONE_UNCHANGED: tuple[str, ...] = ()


class PostedChange(msgspec.Struct, frozen=True, gc=False):
    """One change of a producer's batch, validated, before the log has given it a place.

    `row` is the new row (None for a delete); `old` what the producer says of the row before.
    For a delete of a keyed table `old` holds at least the primary key. A truncate has neither, and
    no key: it deletes every current row of its table and owner.
    """

    table: TableId
    owner: Owner
    kind: PostedKind
    row: Row | None
    old: Row | None
    # Canonical JSON array of the primary key's values, so that 1 and "1" differ;
    # None in a table without a primary key.
    key: str | None = None
    # The producer's id for this change; a second change with the same id is a duplicate.
    id: str | None = None
    # Columns that `row` leaves out because they have not changed: they keep their stored values.
    # None: every column that it leaves out.
    unchanged: tuple[str, ...] | None = NONE_UNCHANGED
    # Whether it is a duplicate where the stored row is what it would make of it: for a producer
    # that gives its changes no ids. Without a primary key this says nothing.
    only_if_new: bool = False

    @property
    def size(self) -> int:
        """Bytes of its rows."""
        size = 0
        if self.row is not None:
            size += len(self.row.json)
        if self.old is not None:
            size += len(self.old.json)
        return size


class MovedRow(PostedChange, frozen=True, gc=False):
    """A row under a new key: what it leaves unchanged are values of the row under the old one."""

    # The key under which that row is stored.
    base: str = ""


class Appended(msgspec.Struct, frozen=True):
    """What became of a batch. The seqs are those of the newly accepted changes, else None."""

    accepted: int
    duplicates: int
    first_seq: int | None
    last_seq: int | None


ENTRY_BYTES = 128
"""What `Change.size` counts for a change itself."""


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
        size = ENTRY_BYTES
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


def settle(
    seq: int, posted: PostedChange, stored: Stored | None, base: Stored | None = None
) -> Change:
    """What a posted change means at its place in the log.

    A pure function of the change and of the row stored under its key (None: no such row), so that
    every reader of the same log reaches the same answer: an insert or update is an upsert, named
    by whether a row was there; a delete of no row keeps its seq and changes nothing. Columns said
    to be unchanged are taken from the row `base` (the stored one, or the one that has moved here
    from another key), without a primary key from the posted old one.
    A truncate itself is such a delete of no row; `settle_gone` makes the changes that follow it.
    """
    table, owner, row = posted.table, posted.owner, posted.row
    # The empty tuple is one object.
    if posted.unchanged is not NONE_UNCHANGED and row is not None:
        base = base or stored
        before = posted.old if posted.key is None else base and base.row
        row = row if before is None else row.with_columns_of(before, posted.unchanged)
    if posted.key is None:
        if posted.kind == "truncate":
            return Change(seq, table, owner, "delete", None, None)
        return Change(seq, table, owner, posted.kind, row, posted.old)
    if posted.kind == "delete":
        if stored is None:
            return Change(seq, table, owner, "delete", None, None)
        return Change(seq, table, owner, "delete", None, stored.row, stored.seq)
    if stored is None:
        return Change(seq, table, owner, "insert", row, None)
    return Change(seq, table, owner, "update", row, stored.row, stored.seq)


def settle_gone(seq: int, truncate: PostedChange, gone: Sequence[Stored]) -> list[Change]:
    """The deletes that a truncate at `seq` is followed by: one of each row that it found."""
    table, owner = truncate.table, truncate.owner
    return [
        Change(place, table, owner, "delete", None, stored.row, stored.seq)
        for place, stored in enumerate(gone, seq + 1)
    ]


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


def refuse_unfit(batch: Sequence[PostedChange], declared: Collection[TableId]) -> None:
    """Raise ValueError for changes that should never have come this far.

    A table the log was never told of; an owner that is not printable text.
    """
    for change in batch:
        if change.table not in declared:
            raise ValueError(f"table {change.table} has not been declared to the log")
        if change.owner and not change.owner.isprintable():
            raise ValueError(f"owner {change.owner!r} is not printable")
