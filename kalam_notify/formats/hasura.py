"""Hasura's event triggers.

Format: https://hasura.io/docs/2.0/event-triggers/payload/. The event's `id` stays the same while it
is delivered again. MANUAL sends the row as it is.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kalam_notify.formats.parsed import (
    ABSENT,
    MessageFault,
    ParsedChange,
    Reader,
    Verb,
    digest,
    given,
)

_LABEL = "a Hasura event"
_VERBS: Final[Mapping[str, Verb]] = {
    "INSERT": "insert",
    "UPDATE": "update",
    "DELETE": "delete",
    "MANUAL": "upsert",
}


class _Data(msgspec.Struct, gc=False):
    old: msgspec.Raw = ABSENT
    new: msgspec.Raw = ABSENT


class _Event(msgspec.Struct, gc=False):
    op: str
    data: _Data


class _Table(msgspec.Struct, gc=False):
    schema: str
    name: str


class _Payload(msgspec.Struct, gc=False):
    event: _Event
    table: _Table
    id: str | None = None


_decode = msgspec.json.Decoder(_Payload).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The change that the trigger saw."""
    payload = _decode(message)
    event, table = payload.event, payload.table
    verb = _VERBS.get(event.op)
    if verb is None:
        raise MessageFault(_LABEL, f"there is no op {event.op!r}", "event.op")
    parsed = ParsedChange(_LABEL, (table.schema, table.name), "table.name", verb)
    parsed.row, parsed.row_at = given(event.data.new), "event.data.new"
    parsed.old, parsed.old_at = given(event.data.old), "event.data.old"
    if payload.id:
        parsed.id = digest("hasura", payload.id)
    return (parsed,)


HASURA: Final = Reader("hasura", _LABEL, read)
