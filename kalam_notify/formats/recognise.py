"""Whose message this is: by its members, which are looked at once, for the first of a body."""

from collections.abc import Mapping, Set
from functools import partial
from typing import Final

import msgspec

from kalam_notify.formats import cloudevents
from kalam_notify.formats.debezium import DEBEZIUM, tells_no_row
from kalam_notify.formats.hasura import HASURA
from kalam_notify.formats.kafka_connect import KAFKA_CONNECT
from kalam_notify.formats.maxwell import MAXWELL
from kalam_notify.formats.ours import OURS
from kalam_notify.formats.parsed import Reader, given, is_null, members_of
from kalam_notify.formats.sequin import SEQUIN
from kalam_notify.formats.supabase import SUPABASE
from kalam_notify.formats.wal2json import WAL2JSON


def reader_of(message: msgspec.Raw | bytes) -> Reader | None:
    """The format of a message; None where it has none of these shapes."""
    if is_null(message):
        return DEBEZIUM
    try:
        members = members_of(message)
    except (msgspec.DecodeError, RecursionError):
        return None
    return _by_members(members)


def _by_members(members: Mapping[str, msgspec.Raw]) -> Reader | None:
    has = members.keys()
    for needed, reader in _SHAPES:
        if needed <= has:
            return reader
    if "payload" in has:
        return _by_payload(members)
    if has == {"data"} or "action" in has:
        return SEQUIN if "data" in has else WAL2JSON
    if _is_debezium(has):
        return DEBEZIUM
    return KAFKA_CONNECT if any(name.startswith("__") for name in has) else None


def _by_payload(members: Mapping[str, msgspec.Raw]) -> Reader | None:
    payload = given(members["payload"])
    if payload is None:
        return DEBEZIUM
    try:
        has = members_of(payload).keys()
    except (msgspec.DecodeError, RecursionError):
        return None
    return DEBEZIUM if _is_debezium(has) else KAFKA_CONNECT


def _is_debezium(has: Set[str]) -> bool:
    return any(needed <= has for needed in _DEBEZIUM) or tells_no_row(has)


_DEBEZIUM: Final = (
    {"op", "source"},
    {"op", "after"},
    {"op", "before"},
    {"before", "after", "source"},
)

CLOUDEVENTS: Final = Reader("cloudevents", "a CloudEvent", partial(cloudevents.read, reader_of))

# Members that no other format has together, the most telling first.
_SHAPES: Final = (
    ({"table", "change_type"}, OURS),
    ({"specversion", "type"}, CLOUDEVENTS),
    ({"event", "table", "trigger"}, HASURA),
    ({"event", "table", "created_at"}, HASURA),
    ({"type", "table", "schema", "record"}, SUPABASE),
    ({"type", "table", "schema", "old_record"}, SUPABASE),
    ({"record", "metadata"}, SEQUIN),
    ({"change"}, WAL2JSON),
    ({"database", "type"}, MAXWELL),
)

FORMATS: Final[Mapping[str, Reader]] = {
    reader.name: reader
    for reader in (
        *(DEBEZIUM, CLOUDEVENTS, SUPABASE, SEQUIN, MAXWELL),
        *(WAL2JSON, KAFKA_CONNECT, HASURA),
    )
}
"""By the names of `?format=`."""
