"""Debezium's change events: `before`, `after`, `op` and where they come from.

Format: https://debezium.io/documentation/reference/stable/connectors/postgresql.html (and the pages
of the other relational connectors), with Kafka Connect's schema around it or without.

    c, r, u   the row as it is now
    d         the row that is gone; the tombstone after it (null) says nothing more
    t         all rows of the table
    m         a message of the application's own in the log: passed over

Heartbeats, transaction markers and schema changes come to the same address, and are passed over
too. A change of a key comes as `d` and `c`.

Ids: no connector numbers its events, and PostgreSQL's position is that of a page of rows where they
are copied in. So an id is made of the position, the operation and the row.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

import msgspec

from kalam_notify.formats.connect_schema import Schema, converted, schema_of
from kalam_notify.formats.parsed import (
    ABSENT,
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

_VERBS: Final[Mapping[str, Verb]] = {
    "c": "insert",
    "r": "upsert",
    "u": "update",
    "d": "delete",
    "t": "truncate",
}


class Source(msgspec.Struct, gc=False):
    """Where an event comes from. Positions are whatever the connector has for them."""

    connector: str = ""
    name: str = ""
    db: str | None = None
    schema: str | None = None
    table: str | None = None
    # Of PostgreSQL; MySQL and MariaDB; SQL Server; Oracle and Db2; Vitess; of all of them.
    lsn: msgspec.Raw = ABSENT
    tx_id: msgspec.Raw = msgspec.field(default=ABSENT, name="txId")
    gtid: msgspec.Raw = ABSENT
    file: msgspec.Raw = ABSENT
    pos: msgspec.Raw = ABSENT
    row: msgspec.Raw = ABSENT
    commit_lsn: msgspec.Raw = ABSENT
    change_lsn: msgspec.Raw = ABSENT
    event_serial_no: msgspec.Raw = ABSENT
    scn: msgspec.Raw = ABSENT
    commit_scn: msgspec.Raw = ABSENT
    rs_id: msgspec.Raw = ABSENT
    ssn: msgspec.Raw = ABSENT
    vgtid: msgspec.Raw = ABSENT
    ts_ms: msgspec.Raw = ABSENT

    @property
    def position(self) -> Sequence[msgspec.Raw]:
        """What tells this event's place from any other's; nothing but ABSENT where nothing does."""
        return (
            *(self.lsn, self.tx_id, self.gtid, self.file, self.pos, self.row),
            *(self.commit_lsn, self.change_lsn, self.event_serial_no),
            *(self.scn, self.commit_scn, self.rs_id, self.ssn, self.vgtid, self.ts_ms),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Database, schema and table, as far as the connector has them."""
        return tuple([name for name in (self.db, self.schema, self.table) if name])


class Envelope(msgspec.Struct, gc=False):
    """An event; in one with a schema it is the payload."""

    schema: msgspec.Raw = ABSENT
    payload: msgspec.Raw = ABSENT
    op: str | None = None
    before: msgspec.Raw = ABSENT
    after: msgspec.Raw = ABSENT
    source: Source | None = None
    transaction: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(Envelope).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The change that an event tells, if it tells one."""
    if is_null(message):
        return ()
    envelope, schema, place = _decode(message), None, ""
    if envelope.payload is not ABSENT:
        payload = given(envelope.payload)
        if payload is None:
            return ()
        if given(envelope.schema) is not None:
            schema = schema_of(bytes(envelope.schema))
        message, envelope, place = payload, _decode(payload), "payload."
    if envelope.op is None and tells_no_row(members_of(message).keys()):
        return ()
    return changes_of(envelope, schema, place)


def tells_no_row(has: Set[str]) -> bool:
    """Whether these are the members of a heartbeat, a transaction's marker or a changed schema."""
    return has == {"ts_ms"} or any(needed <= has for needed in _WITHOUT_ROWS)


_WITHOUT_ROWS: Final = (
    {"status", "id", "event_count"},
    {"ddl", "databaseName"},
    {"tableChanges", "source"},
)


def changes_of(envelope: Envelope, schema: Schema | None, place: str) -> Iterable[ParsedChange]:
    """The change of an event that has been unwrapped; `place` is where it stands in the message."""
    source = envelope.source or Source()
    label = f"a Debezium envelope of source {source.connector or 'unknown'}"
    if envelope.op == "m":
        return ()
    if envelope.op is None:
        raise MessageFault(label, "the op is missing", f"{place}op")
    verb = _VERBS.get(envelope.op)
    if verb is None:
        raise MessageFault(label, f"there is no op {envelope.op!r}", f"{place}op")
    if source.table is None:
        raise MessageFault(label, "the source names no table", f"{place}source.table")
    return (
        _told(envelope, source, schema, verb, ParsedChange(label, source.names, "", verb), place),
    )


def _told(
    envelope: Envelope,
    source: Source,
    schema: Schema | None,
    verb: Verb,
    parsed: ParsedChange,
    place: str,
) -> ParsedChange:
    parsed.table_at = f"{place}source.table"
    before, after = given(envelope.before), given(envelope.after)
    parsed.old_at, parsed.row_at = f"{place}before", f"{place}after"
    position = source.position
    order = next((one for one in position if one is not ABSENT), None)
    if order is not None:
        parsed.id = digest(
            "debezium",
            *(source.name, source.connector, parsed.names, envelope.op),
            *position,
            *(envelope.before, envelope.after, envelope.transaction),
            order=order,
        )
    if verb == "truncate":
        return parsed
    columns = {} if schema is None else schema.rows.get("after") or schema.rows.get("before") or {}
    if before is not None:
        parsed.old = converted(before, columns)
    if after is not None and verb != "delete":
        parsed.unchanged, kept = available(after)
        parsed.row = converted(kept, columns)
    return parsed


# What stands for a value that the database did not log, for it had not changed: in the column's own
# type. https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-toasted-values
# and io.debezium.connector.postgresql.UnchangedToastedPlaceholder.
PLACEHOLDER: Final = "__debezium_unavailable_value"
_BASE64 = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="
# UUID.nameUUIDFromBytes: an MD5 of the placeholder, marked as version 3.
_UUID = "b68a35a7-17ad-35b3-af2a-ae46edb4545a"
_CODES = list(PLACEHOLDER.encode())
_IN_ITS_TYPE: Final[Sequence[object]] = (
    PLACEHOLDER,
    _BASE64,
    [PLACEHOLDER],
    [_BASE64],
    [_UUID],
    _CODES,
    {PLACEHOLDER: PLACEHOLDER},
    f'{{"{PLACEHOLDER}":"{PLACEHOLDER}"}}',
)
_HINTS = (b"__debezium_unavailable", b"X19kZWJleml1bV91bmF2YWls", _UUID.encode(), b"95")


def available(row: msgspec.Raw) -> tuple[Sequence[str], msgspec.Raw | bytes]:
    """The columns that are not told, and the row without them."""
    text = bytes(row)
    if not any(hint in text for hint in _HINTS):
        return (), row
    members = members_of(row)
    unchanged = [name for name, raw in members.items() if _is_unavailable(bytes(raw))]
    if not unchanged:
        return (), row
    for name in unchanged:
        del members[name]
    return unchanged, joined(members.items())


def _is_unavailable(raw: bytes) -> bool:
    return any(hint in raw for hint in _HINTS) and msgspec.json.decode(raw) in _IN_ITS_TYPE


DEBEZIUM: Final = Reader("debezium", "a Debezium envelope", read)
