"""What the messages of a stream say, and how: format 1.

The body is MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), an array whose
first element names the kind:

    ["b", tables, batches]     batches of changes, as they were posted
    ["t", seen, steps]         entries that leave the log: [after, upto, tables or nil for all]
    ["s", seen]                nothing; whoever sees it applied has seen all that came before it
    ["e", seen, number, base, stands]  seqs go on behind `base`, and nobody may go on from before
                               it; `stands`: the publisher's rows do, and who has others copies them

A table is [name, kind, primary key], a batch [key, changes, mark], a change [table, owner, kind,
row, old, key, id, unchanged, only if new, base]. Rows are the bytes that were posted. A mark is
[source, position, defined, dropped, forgotten, follows, id]; without the last two it follows on
any. (They came later than the rest. No release of before wrote a mark into a stream, for it would
not start with sources.) `seen` is [sequence, mid, digest]: the last message that whoever published
it had applied, and what it all came to. Headers: `Kalam-Format` (the number above), `Kalam-Mid`
(who published it, and its number there), `Nats-Msg-Id` (the same).

A release that writes a newer format is preceded by one that reads it. Whatever is changed here, or
in what the store makes of a message, is a new format: nodes of two releases apply the same stream.
"""

from collections.abc import Mapping, Sequence
from sys import intern
from typing import Any, NamedTuple

import msgspec

from kalam_notify.log.nats.faults import NewerFormat
from kalam_notify.model import PostedChange, Row, TableDef, TableId
from kalam_notify.model.changes import NONE_UNCHANGED, MovedRow, PostedKind
from kalam_notify.model.sourced import SourceMark
from kalam_notify.store.storing import Posting

FORMAT = 1
FORMAT_HEADER = "Kalam-Format"
MID_HEADER = "Kalam-Mid"

_KINDS: dict[str, PostedKind] = {"i": "insert", "u": "update", "d": "delete", "t": "truncate"}

_WireTable = tuple[str, str, tuple[str, ...]]
_WireChange = tuple[
    int,
    str,
    str,
    bytes | None,
    bytes | None,
    str | None,
    str | None,
    tuple[str, ...] | None,
    bool,
    str | None,
]


class Seen(NamedTuple):
    """The last message that a node has applied, by its place and its id, and the digest then.

    Both, since a stream that has lost its end has other messages at the same places.
    """

    applied: int
    mid: str
    digest: int


NOTHING_SEEN = Seen(0, "", 0)


class _WireMark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    source: str
    position: str | None
    defined: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    forgotten: tuple[str, ...]
    follows: str | None = None
    id: str | None = None


class _Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    key: str | None
    changes: list[_WireChange]
    mark: _WireMark | None


class _Batches(msgspec.Struct, array_like=True, tag="b", frozen=True):
    tables: list[_WireTable]
    batches: list[_Batch]


class TrimStep(NamedTuple):
    """The entries with `after < seq <= upto` of these tables (None: of all) leave the log."""

    after: int
    upto: int
    tables: tuple[TableId, ...] | None


class Trim(msgspec.Struct, array_like=True, tag="t", frozen=True):
    """What retention has come to, by the clock and the settings of whoever published it."""

    seen: Seen
    steps: tuple[TrimStep, ...]


class Sync(msgspec.Struct, array_like=True, tag="s", frozen=True):
    """Nothing but its place in the stream."""

    seen: Seen


class Epoch(msgspec.Struct, array_like=True, tag="e", frozen=True):
    """A life of the log begins: seqs go on behind `base`, Unix time in microseconds.

    With `stands` the rows of its publisher stand, by an operator's decision: it comes right behind
    what `seen` tells, and who has another digest there has the wrong rows.
    """

    seen: Seen
    number: int
    base: int
    stands: bool = False


class Batches(NamedTuple):
    """Batches in their order, each with the tables that it uses, by their shape in the message."""

    postings: list[Posting]
    tables: list[list[TableDef]]


Control = Trim | Sync | Epoch
Body = Batches | Control

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Batches | Trim | Sync | Epoch).decode


def encode_batches(postings: Sequence[Posting], declared: Mapping[TableId, TableDef]) -> bytes:
    """The body of a message with these batches; `declared` tells the shapes of their tables."""
    numbers: dict[TableId, int] = {}
    batches: list[Any] = []
    for batch, key, mark, _ in postings:
        changes = [
            (
                numbers.setdefault(change.table, len(numbers)),
                change.owner,
                change.kind[0],
                None if change.row is None else change.row.json,
                None if change.old is None else change.old.json,
                change.key,
                change.id,
                change.unchanged,
                change.only_if_new,
                change.base if isinstance(change, MovedRow) else None,
            )
            for change in batch
        ]
        batches.append((key, changes, None if mark is None else _wire_mark(mark)))
    tables = [(name, declared[name].kind, declared[name].primary_key) for name in numbers]
    return _encode(("b", tables, batches))


def encode_control(control: Control) -> bytes:
    """The body of a message that is no batch of changes."""
    return _encode(control)


def decode(headers: Mapping[str, str] | None, data: bytes) -> Body | None:
    """What a message says; None: it is nobody's of ours, and everybody passes over it.

    Raises NewerFormat for one that only a later release understands.
    """
    number = (headers or {}).get(FORMAT_HEADER)
    if number is None:
        return None
    if number != str(FORMAT):
        raise NewerFormat(number)
    try:
        body = _decode(data)
        return _batches(body) if isinstance(body, _Batches) else body
    except (msgspec.DecodeError, IndexError, KeyError, ValueError):
        # Whoever has put it there under our header: it is equally unreadable everywhere.
        return None


def _batches(body: _Batches) -> Batches:
    tables = [
        TableDef(
            id=TableId(intern(name)), kind="user" if kind == "user" else "shared", primary_key=key
        )
        for name, kind, key in body.tables
    ]
    names = [table.id for table in tables]
    postings: list[Posting] = []
    used: list[list[TableDef]] = []
    for batch in body.batches:
        changes = [_change(names, change) for change in batch.changes]
        mark = None if batch.mark is None else _mark(batch.mark)
        postings.append(Posting(changes, batch.key, mark))
        numbers = {change[0] for change in batch.changes} if len(tables) > 1 else range(len(tables))
        used.append([tables[number] for number in numbers])
    return Batches(postings, used)


def _change(names: Sequence[TableId], wire: _WireChange) -> PostedChange:
    table, owner, kind, row, old, key, id, unchanged, only_if_new, base = wire
    posted_row = None if row is None else Row(row)
    posted_old = None if old is None else Row(old)
    if base is None and not unchanged and not only_if_new:
        return PostedChange(names[table], owner, _KINDS[kind], posted_row, posted_old, key, id)
    change = (
        *(names[table], owner, _KINDS[kind], posted_row, posted_old, key, id),
        unchanged or NONE_UNCHANGED,
        only_if_new,
    )
    return PostedChange(*change) if base is None else MovedRow(*change, base)


def _wire_mark(mark: SourceMark) -> tuple[Any, ...]:
    said = (mark.source, mark.position, mark.defined, mark.dropped, mark.forgotten)
    return said if mark.id is None else (*said, mark.follows, mark.id)


def _mark(wire: _WireMark) -> SourceMark:
    return SourceMark(
        wire.source,
        wire.position,
        tuple((TableId(name), text) for name, text in wire.defined),
        tuple(map(TableId, wire.dropped)),
        tuple(map(TableId, wire.forgotten)),
        wire.follows,
        wire.id,
    )
