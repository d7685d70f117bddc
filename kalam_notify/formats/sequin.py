"""Sequin's messages, one or many (`data`), of changes or of rows.

Format: https://sequinstream.com/docs/reference/messages and .../sinks/webhooks. `changes` are the
values that an update replaced. Ids are `idempotency_key`, or where that is not sent the position of
the commit and the place in it.
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
    laid_over,
)

_LABEL = "a Sequin message"
_VERBS: Final[Mapping[str, Verb]] = {
    "insert": "insert",
    "update": "update",
    "delete": "delete",
    # A backfill.
    "read": "upsert",
}


class _Metadata(msgspec.Struct, gc=False):
    table_schema: str
    table_name: str
    idempotency_key: str | None = None
    commit_lsn: msgspec.Raw = ABSENT
    commit_idx: msgspec.Raw = ABSENT


class _Message(msgspec.Struct, gc=False):
    """A message, or a batch of them in `data`."""

    data: list[msgspec.Raw] | None = None
    record: msgspec.Raw = ABSENT
    changes: msgspec.Raw = ABSENT
    # A row's message has none.
    action: str = "read"
    metadata: _Metadata | None = None


_decode = msgspec.json.Decoder(_Message).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The changes of a message, or of a batch of them."""
    one = _decode(message)
    if one.data is None:
        yield _told(one, "")
        return
    for place, raw in enumerate(one.data):
        yield _told(_decode(raw), f"data.{place}.")


def _told(message: _Message, place: str) -> ParsedChange:
    metadata, verb = message.metadata, _VERBS.get(message.action)
    if metadata is None:
        raise MessageFault(_LABEL, "the metadata is missing", f"{place}metadata")
    if verb is None:
        raise MessageFault(_LABEL, f"there is no action {message.action!r}", f"{place}action")
    record, changed = given(message.record), given(message.changes)
    if record is None:
        raise MessageFault(_LABEL, "the record is missing", f"{place}record")
    names, table_at = (metadata.table_schema, metadata.table_name), f"{place}metadata.table_name"
    parsed = ParsedChange(_LABEL, names, table_at, verb, row_at=f"{place}record", id=_id(metadata))
    if verb == "delete":
        parsed.old, parsed.old_at = record, parsed.row_at
    else:
        parsed.row, parsed.old_at = record, f"{place}changes"
        parsed.old = None if changed is None else laid_over(record, changed)
    return parsed


def _id(metadata: _Metadata) -> str | None:
    if metadata.idempotency_key:
        return digest("sequin", metadata.idempotency_key)
    place = (metadata.commit_lsn, metadata.commit_idx)
    if any(given(one) is None for one in place):
        return None
    return digest("sequin", metadata.table_schema, metadata.table_name, *place)


SEQUIN: Final = Reader("sequin", _LABEL, read)
