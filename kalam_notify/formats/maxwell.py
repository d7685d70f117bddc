"""Maxwell's rows of MySQL's binlog.

Format: https://maxwells-daemon.io/dataformat/. `data` is the whole row, `old` what an update
changed. A bootstrap's rows are upserts; its begin and end, and DDL, are passed over. Ids are made
of the transaction (`xid`) and the row; a bootstrap has none.
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

_LABEL = "a Maxwell row"
_VERBS: Final[Mapping[str, Verb]] = {
    "insert": "insert",
    "update": "update",
    "delete": "delete",
    "bootstrap-insert": "upsert",
}
_PASSED_OVER = frozenset(
    (
        *("bootstrap-start", "bootstrap-complete", "heartbeat"),
        *("table-create", "table-alter", "table-drop"),
        *("database-create", "database-alter", "database-drop"),
    )
)


class _Row(msgspec.Struct, gc=False):
    database: str
    type: str
    table: str | None = None
    data: msgspec.Raw = ABSENT
    old: msgspec.Raw = ABSENT
    xid: msgspec.Raw = ABSENT
    xoffset: msgspec.Raw = ABSENT
    position: msgspec.Raw = ABSENT
    gtid: msgspec.Raw = ABSENT
    server_id: msgspec.Raw = ABSENT
    ts: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Row).decode


def read(message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The change of a row, if it is one."""
    row = _decode(message)
    if row.type in _PASSED_OVER:
        return ()
    verb, data = _VERBS.get(row.type), given(row.data)
    if verb is None:
        raise MessageFault(_LABEL, f"there is no type {row.type!r}", "type")
    if row.table is None:
        raise MessageFault(_LABEL, "it names no table", "table")
    if data is None:
        raise MessageFault(_LABEL, "the data is missing", "data")
    parsed = ParsedChange(
        _LABEL, (row.database, row.table), "table", verb, row_at="data", old_at="old"
    )
    changed = given(row.old)
    if verb == "delete":
        parsed.old, parsed.old_at = data, "data"
    else:
        parsed.row = data
        parsed.old = None if changed is None else laid_over(data, changed)
    if given(row.xid) is not None:
        place = (row.server_id, row.xid, row.xoffset, row.position, row.gtid, row.ts)
        parsed.id = digest(
            "maxwell", row.database, row.table, row.type, *place, row.data, row.old, order=row.xid
        )
    return (parsed,)


MAXWELL: Final = Reader("maxwell", _LABEL, read)
