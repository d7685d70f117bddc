"""Supabase's database webhooks: one row each, as a trigger saw it.

Format: https://supabase.com/docs/guides/database/webhooks. Nothing in them numbers them, and a row
may come back to what it was, so they have no ids: one that makes no difference to the stored row is
taken for one that was sent twice.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kalam_notify.formats.parsed import ABSENT, MessageFault, ParsedChange, Reader, Verb, given

_LABEL = "a Supabase webhook"
_VERBS: Final[Mapping[str, Verb]] = {
    "INSERT": "insert",
    "UPDATE": "update",
    "DELETE": "delete",
    "TRUNCATE": "truncate",
}


class _Payload(msgspec.Struct, gc=False):
    type: str
    table: str
    schema: str
    record: msgspec.Raw = ABSENT
    old_record: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Payload).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The change that the trigger saw."""
    payload = _decode(message)
    verb = _VERBS.get(payload.type)
    if verb is None:
        raise MessageFault(_LABEL, f"there is no type {payload.type!r}", "type")
    parsed = ParsedChange(_LABEL, (payload.schema, payload.table), "table", verb)
    parsed.row, parsed.row_at = given(payload.record), "record"
    parsed.old, parsed.old_at = given(payload.old_record), "old_record"
    return (parsed,)


SUPABASE: Final = Reader("supabase", _LABEL, read)
