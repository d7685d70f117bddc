"""A change in our own shape, where it comes inside of another: see docs/ingest.md."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kalam_notify.formats.parsed import ABSENT, MessageFault, ParsedChange, Reader, Verb, given

_LABEL = "a change"
_VERBS: Final[Mapping[str, Verb]] = {
    "insert": "insert",
    "update": "update",
    "upsert": "upsert",
    "delete": "delete",
    "truncate": "truncate",
}


class _Change(msgspec.Struct, gc=False):
    table: str
    change_type: str
    row_data: msgspec.Raw = ABSENT
    old_data: msgspec.Raw = ABSENT
    user_id: str | None = None
    id: str | None = None
    unchanged: list[str] | None = None


_decode = msgspec.json.Decoder(_Change).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The change."""
    change = _decode(message)
    verb = _VERBS.get(change.change_type.lower())
    if verb is None:
        raise MessageFault(_LABEL, f"there is no change_type {change.change_type!r}", "change_type")
    parsed = ParsedChange(_LABEL, (change.table,), "table", verb, is_ours=True)
    parsed.row, parsed.row_at = given(change.row_data), "row_data"
    parsed.old, parsed.old_at = given(change.old_data), "old_data"
    parsed.id, parsed.user_id = change.id, change.user_id
    parsed.unchanged = change.unchanged or ()
    return (parsed,)


OURS: Final = Reader("kalam", _LABEL, read)
