"""The values everybody shares: ids, tables, rows, changes, identities."""

from kalam_notify.model.changes import Change, Kind, PostedChange, PostedKind, Row, Values, settle
from kalam_notify.model.identity import ANONYMOUS, Identity, Role, UserId, same_claims
from kalam_notify.model.tables import (
    SHARED,
    Access,
    ConnectionId,
    LiveQueryId,
    Owner,
    TableDef,
    TableId,
    parse_table_id,
    table_id,
    table_parts,
)

__all__ = [
    "ANONYMOUS",
    "SHARED",
    "Access",
    "Change",
    "ConnectionId",
    "Identity",
    "Kind",
    "LiveQueryId",
    "Owner",
    "PostedChange",
    "PostedKind",
    "Role",
    "Row",
    "TableDef",
    "TableId",
    "UserId",
    "Values",
    "parse_table_id",
    "same_claims",
    "settle",
    "table_id",
    "table_parts",
]
