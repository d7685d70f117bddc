"""wal2json's messages (format-version 2), and the daemon's changes that say the same."""

from typing import Literal, NamedTuple

import msgspec

from pgfeed.catalog import Table
from pgfeed.faults import FeederFault
from pgfeed.values import Types

Kind = Literal["insert", "update", "delete"]
Image = dict[str, bytes]
"""Column -> the JSON text of its value."""

_NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode


class Column(msgspec.Struct, gc=False):
    name: str
    type: str
    value: msgspec.Raw = _NULL


class Message(msgspec.Struct, gc=False):
    """B and C frame a transaction, I U D are rows, T is a TRUNCATE, M a logical message."""

    action: Literal["B", "C", "I", "U", "D", "T", "M"]
    # Of a B: the LSN of the transaction's commit record, unique in the WAL.
    lsn: str = ""
    schema: str = ""
    table: str = ""
    columns: list[Column] = []
    identity: list[Column] = []


decode = msgspec.json.Decoder(Message).decode


class Draft(NamedTuple):
    """A change that has no id yet."""

    kind: Kind
    row: Image | None
    old: Image | None


class Decoder:
    """Turns row messages of known tables into drafts."""

    def __init__(self, types: Types) -> None:
        self._types = types

    def drafts(self, message: Message, table: Table) -> list[Draft]:
        """What an I, U or D means to the daemon; an UPDATE of the key is a delete and an insert."""
        new, old = self._image(message.columns), self._image(message.identity)
        if message.action == "I":
            return [Draft("insert", new, None)]
        if not old:
            raise FeederFault(
                f"{table.name}: the WAL does not tell which row an UPDATE or DELETE was about; "
                f"run ALTER TABLE {table.name} REPLICA IDENTITY FULL and start over with a new slot"
            )
        if message.action == "D":
            return [Draft("delete", None, old)]
        if table.full_identity:
            # A long value that an UPDATE left alone is not in the new row, but it is in the old.
            new = old | new
        if not table.key:
            return [Draft("update", new, old)]
        return _keyed_update(table, new, old)

    def _image(self, columns: list[Column]) -> Image:
        from_wal = self._types.from_wal
        return {column.name: from_wal(column.type, bytes(column.value)) for column in columns}


def _keyed_update(table: Table, new: Image, old: Image) -> list[Draft]:
    try:
        was = {name: old[name] for name in table.key}
        moved = any(new[name] != value for name, value in was.items())
    except KeyError as missing:
        raise FeederFault(f"{table.name}: an UPDATE without key column {missing}") from missing
    if moved:
        return [Draft("delete", None, was), Draft("insert", new, None)]
    return [Draft("update", new, None)]


def encode_change(table: str, draft: Draft, change_id: str) -> bytes:
    """The change as POST /v1/changes takes it; the id has no character that needs escaping."""
    parts = [b'{"table":"%b","change_type":"%b"' % (table.encode(), draft.kind.encode())]
    if draft.row is not None:
        parts.append(b'"row_data":' + _object(draft.row))
    if draft.old is not None:
        parts.append(b'"old_data":' + _object(draft.old))
    parts.append(b'"id":"%b"}' % change_id.encode())
    return b",".join(parts)


def _object(image: Image) -> bytes:
    return b"{%b}" % b",".join(_encode(name) + b":" + value for name, value in image.items())
