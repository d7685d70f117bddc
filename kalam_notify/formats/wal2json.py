"""wal2json: PostgreSQL's logical decoding as JSON, format versions 1 and 2.

Format: https://github.com/eulerto/wal2json. Version 1 is one object for a transaction, version 2
one for a change (and for its begin, its commit and messages of applications, which are passed
over).

The new row of an update leaves out what was stored elsewhere and has not changed (TOAST), without a
word: such columns keep their values. Numbers come with all their digits; those that no double holds
are kept as text.

Ids are made of a position and a place. With `include-lsn` version 1 tells the commit's position,
version 2 the change's, which rows that were copied in share; so the row itself is part of it too.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec
import orjson

from kalam_notify.formats.parsed import (
    ABSENT,
    MessageFault,
    ParsedChange,
    Reader,
    Verb,
    digest,
    given,
    joined,
)

_LABEL = "a wal2json message"
_ACTIONS: Final[Mapping[str, Verb]] = {"I": "insert", "U": "update", "D": "delete", "T": "truncate"}
_KINDS: Final[Mapping[str, Verb]] = {verb: verb for verb in _ACTIONS.values()}
_PASSED_OVER = frozenset(("B", "C", "M", "message"))
_AS_JSON = frozenset(("json", "jsonb"))


class _Column(msgspec.Struct, gc=False):
    name: str
    type: str = ""
    value: msgspec.Raw = ABSENT


class _OldKeys(msgspec.Struct, gc=False):
    keynames: list[str]
    keyvalues: list[msgspec.Raw]
    keytypes: list[str] = []


class _Change(msgspec.Struct, gc=False):
    """A change of version 1."""

    kind: str
    schema: str | None = None
    table: str | None = None
    columnnames: list[str] = []
    columntypes: list[str] = []
    columnvalues: list[msgspec.Raw] = []
    oldkeys: _OldKeys | None = None


class _Message(msgspec.Struct, gc=False):
    """Either version: one has `change`, the other `action`."""

    change: list[msgspec.Raw] | None = None
    action: str | None = None
    schema: str | None = None
    table: str | None = None
    columns: list[_Column] = []
    identity: list[_Column] = []
    lsn: msgspec.Raw = ABSENT
    nextlsn: msgspec.Raw = ABSENT
    xid: msgspec.Raw = ABSENT
    timestamp: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Message).decode
_decode_change = msgspec.json.Decoder(_Change).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The changes of a transaction, or the one change of a message."""
    parsed = _decode(message)
    if parsed.change is not None:
        return _version_1(parsed, parsed.change)
    return _version_2(parsed, message)


def _version_1(parsed: _Message, changes: Sequence[msgspec.Raw]) -> Iterable[ParsedChange]:
    position = _position(parsed.nextlsn, parsed.xid, parsed.timestamp)
    for place, raw in enumerate(changes):
        change, at = _decode_change(raw), f"change.{place}"
        if change.kind in _PASSED_OVER:
            continue
        one = _change(change.schema, change.table, _KINDS.get(change.kind), f"{at}.kind", at)
        if change.columnnames:
            columns = zip(change.columnnames, change.columntypes, change.columnvalues, strict=False)
            one.row, one.row_at = _row(columns), f"{at}.columnvalues"
        if (keys := change.oldkeys) is not None:
            types = keys.keytypes or [""] * len(keys.keynames)
            one.old = _row(zip(keys.keynames, types, keys.keyvalues, strict=False))
            one.old_at = f"{at}.oldkeys.keyvalues"
        if position:
            one.id = digest("wal2json", *position, place, raw, order=position[0])
        yield one


def _version_2(parsed: _Message, message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    if parsed.action in _PASSED_OVER:
        return
    one = _change(parsed.schema, parsed.table, _ACTIONS.get(parsed.action or ""), "action", "")
    if parsed.columns:
        one.row, one.row_at = _row((c.name, c.type, c.value) for c in parsed.columns), "columns"
    if parsed.identity:
        one.old, one.old_at = _row((c.name, c.type, c.value) for c in parsed.identity), "identity"
    position = _position(parsed.lsn, parsed.xid, parsed.timestamp)
    if position:
        one.id = digest("wal2json", *position, message, order=position[0])
    yield one


def _change(
    schema: str | None, table: str | None, verb: Verb | None, at: str, place: str
) -> ParsedChange:
    if verb is None:
        raise MessageFault(_LABEL, f"there is no such {at.rpartition('.')[2]}", at)
    table_at = f"{place}.table" if place else "table"
    if table is None:
        raise MessageFault(_LABEL, "it names no table", table_at)
    names = (table,) if schema is None else (schema, table)
    return ParsedChange(_LABEL, names, table_at, verb, omits=verb == "update")


def _position(lsn: msgspec.Raw, xid: msgspec.Raw, timestamp: msgspec.Raw) -> Sequence[msgspec.Raw]:
    """What tells the change or its transaction from others; empty where nothing does."""
    known = given(lsn) is not None or given(xid) is not None
    return (lsn, xid, timestamp) if known else ()


def _row(columns: Iterable[tuple[str, str, msgspec.Raw]]) -> bytes:
    return joined((name, _value(type, bytes(raw))) for name, type, raw in columns if raw)


def _value(type: str, raw: bytes) -> bytes:
    """A value as it is meant: JSON as JSON, and no digit of a number lost."""
    if type in _AS_JSON and raw[:1] == b'"':
        try:
            return orjson.dumps(msgspec.json.decode(msgspec.json.decode(raw, type=str)))
        except (msgspec.DecodeError, TypeError, RecursionError):
            return raw
    return raw if raw[:1] not in b"-0123456789" or _is_exact(raw) else b'"%b"' % raw


def _is_exact(number: bytes) -> bool:
    """Whether a number comes out of JSON as it went in."""
    # As many digits as every double holds.
    if len(number) <= 15:
        return True
    text = number.decode()
    try:
        if text.lstrip("-").isdecimal():
            return -(2**63) <= int(text) < 2**64
        return Decimal(text) == Decimal(repr(float(text)))
    except (ValueError, InvalidOperation):
        return True


WAL2JSON: Final = Reader("wal2json", _LABEL, read)
