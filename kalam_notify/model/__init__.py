"""The values everybody shares: ids, tables, rows, changes, identities."""

from kalam_notify.model.changes import Change, Kind, PostedChange, Values, settle
from kalam_notify.model.identity import ANONYMOUS, Identity, Role, same_claims
from kalam_notify.model.ids import (
    SHARED,
    ConnectionId,
    LiveQueryId,
    Owner,
    TableId,
    UserId,
    parse_table_id,
    table_id,
)
from kalam_notify.model.rows import Row
from kalam_notify.model.tables import Access, TableDef

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
]
