"""Kafka Connect's JsonConverter: a row as the payload, with its schema or without.

Format: https://kafka.apache.org/documentation/#connect (JsonConverter, `schemas.enable`). The table
is the schema's name (as JDBC sources have it), or stands in the row, as Debezium's
ExtractNewRecordState writes it with `add.fields`: `__table`, `__schema`, `__db`, `__op`,
`__deleted`, `__lsn` and the like. Such members are not part of the row.

A row without `__op` and `__deleted` is an upsert; without a position it has no id.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kalam_notify.formats.connect_schema import Schema, converted, schema_of
from kalam_notify.formats.debezium import available, tells_no_row
from kalam_notify.formats.debezium import read as read_debezium
from kalam_notify.formats.parsed import (
    ABSENT,
    Members,
    MessageFault,
    ParsedChange,
    Reader,
    Verb,
    digest,
    given,
    is_null,
    joined,
    members_of,
)

_LABEL = "a Kafka Connect record"
_VERBS: Final[Mapping[str, Verb]] = {
    "c": "insert",
    "r": "upsert",
    "u": "update",
    "d": "delete",
    "t": "truncate",
}
_POSITIONS: Final = (
    *("lsn", "txId", "gtid", "file", "pos", "row"),
    *("commit_lsn", "change_lsn", "event_serial_no", "scn", "commit_scn", "rs_id", "ssn"),
)
_POSITION = frozenset(f"__{part}{name}" for part in ("", "source_") for name in _POSITIONS)


class _Record(msgspec.Struct, gc=False):
    schema: msgspec.Raw = ABSENT
    payload: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Record).decode
_text = msgspec.json.Decoder(str | bool | None).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The row of a record; a tombstone tells none."""
    if is_null(message):
        return ()
    record, schema, place, row = _decode(message), None, "", message
    if record.payload is not ABSENT:
        payload = given(record.payload)
        if payload is None:
            return ()
        if given(record.schema) is not None:
            schema = schema_of(bytes(record.schema))
        row, place = payload, "payload."
    members = members_of(row)
    if tells_no_row(members.keys()) or {"op", "source"} <= members.keys():
        # What Debezium sends besides rows is not taken out of its envelope.
        return read_debezium(message)
    return (_told(members, schema, place),)


def _told(members: Members, schema: Schema | None, place: str) -> ParsedChange:
    told_of = {name: members.pop(name) for name in [*members] if name.startswith("__")}
    names, table_at = _names(told_of, schema, place)
    parsed = ParsedChange(_LABEL, names, table_at, _verb(told_of, place), old_at=place.rstrip("."))
    parsed.row_at = parsed.old_at
    position = [
        raw for name, raw in told_of.items() if name in _POSITION and given(raw) is not None
    ]
    row = joined(members.items())
    if position:
        parsed.id = digest("kafka-connect", names, parsed.verb, *position, row, order=position[0])
    if parsed.verb == "truncate":
        return parsed
    parsed.unchanged, kept = available(msgspec.Raw(row))
    changed = converted(kept, {} if schema is None else schema.columns)
    if parsed.verb == "delete":
        parsed.old = changed
    else:
        parsed.row = changed
    return parsed


def _verb(told_of: Members, place: str) -> Verb:
    op = _said(told_of, "__op")
    if op is None or op == "":
        return "delete" if _said(told_of, "__deleted") in ("true", True) else "upsert"
    verb = _VERBS.get(str(op))
    if verb is None:
        raise MessageFault(_LABEL, f"there is no __op {op!r}", f"{place}__op")
    return verb


def _names(told_of: Members, schema: Schema | None, place: str) -> tuple[tuple[str, ...], str]:
    """The table's names, and where they stand."""
    levels = ("db", "schema", "table")
    for part in ("__", "__source_"):
        names = tuple(str(said) for level in levels if (said := _said(told_of, f"{part}{level}")))
        if names and _said(told_of, f"{part}table"):
            return names, f"{place}{part}table"
    if schema is not None and schema.name:
        # Debezium's is `topic.schema.table.Value`.
        return tuple(schema.name.removesuffix(".Value").split(".")), "schema.name"
    raise MessageFault(
        _LABEL,
        "it names no table: send the schema with it, or let ExtractNewRecordState add"
        " the fields table and schema",
        f"{place}__table",
    )


def _said(told_of: Members, name: str) -> str | bool | None:
    raw = told_of.get(name)
    try:
        return None if raw is None else _text(raw)
    except msgspec.ValidationError:
        return None


KAFKA_CONNECT: Final = Reader("kafka-connect", _LABEL, read)
