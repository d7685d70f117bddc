"""Messages of pgoutput as the server writes them, for tests that read them."""

import struct
from collections.abc import Sequence

from kalam_notify.sources.postgres.pgoutput import UNCHANGED, Value

MICROSECONDS = 700_000_000_000_000


def begin(final_lsn: int, xid: int) -> bytes:
    return b"B" + struct.pack(">QqI", final_lsn, MICROSECONDS, xid)


def commit(lsn: int, end_lsn: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, lsn, end_lsn, MICROSECONDS)


def relation(
    oid: int,
    name: str,
    columns: Sequence[tuple[str, int, int, bool]],
    *,
    namespace: str = "public",
    identity: str = "d",
    subxid: int | None = None,
) -> bytes:
    body = struct.pack(">I", oid) + namespace.encode() + b"\0" + name.encode() + b"\0"
    body += identity.encode() + struct.pack(">H", len(columns))
    for column, type_oid, modifier, is_key in columns:
        body += bytes([is_key]) + column.encode() + b"\0" + struct.pack(">Ii", type_oid, modifier)
    return b"R" + _prefix(subxid) + body


def _prefix(subxid: int | None) -> bytes:
    return b"" if subxid is None else struct.pack(">I", subxid)


def values(row: Sequence[Value]) -> bytes:
    parts = [struct.pack(">H", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, bytes):
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
        else:
            assert value is UNCHANGED
            parts.append(b"u")
    return b"".join(parts)


def insert(oid: int, row: Sequence[Value], subxid: int | None = None) -> bytes:
    return b"I" + _prefix(subxid) + struct.pack(">I", oid) + b"N" + values(row)


def update(
    oid: int,
    new: Sequence[Value],
    old: Sequence[Value] | None = None,
    kind: bytes = b"K",
    subxid: int | None = None,
) -> bytes:
    before = b"" if old is None else kind + values(old)
    return b"U" + _prefix(subxid) + struct.pack(">I", oid) + before + b"N" + values(new)


def delete(oid: int, old: Sequence[Value], kind: bytes = b"K", subxid: int | None = None) -> bytes:
    return b"D" + _prefix(subxid) + struct.pack(">I", oid) + kind + values(old)


def truncate(oids: Sequence[int], subxid: int | None = None) -> bytes:
    return b"T" + _prefix(subxid) + struct.pack(f">IB{len(oids)}I", len(oids), 0, *oids)


def stream_start(xid: int, *, first: bool = True) -> bytes:
    return b"S" + struct.pack(">IB", xid, first)


def stream_stop() -> bytes:
    return b"E"


def stream_commit(xid: int, lsn: int, end_lsn: int) -> bytes:
    return b"c" + struct.pack(">IBQQq", xid, 0, lsn, end_lsn, MICROSECONDS)


def stream_abort(xid: int, subxid: int) -> bytes:
    return b"A" + struct.pack(">II", xid, subxid)
