"""The names things go by."""

import re
import sys
from typing import NamedTuple, NewType

TableId = NewType("TableId", str)
"""`namespace.name`, lower case, interned; made by `parse_table_id` only."""

UserId = NewType("UserId", str)
"""The `sub` of a token and the `user_id` of a change: 1-128 printable characters."""

ConnectionId = NewType("ConnectionId", int)
"""Counts up within one worker process; never reused while the process lives."""

Owner = str
"""Whose rows: a `UserId` in a USER table, `SHARED` in a SHARED one."""

SHARED: Owner = ""
"""The owner of every row of a SHARED table. A user id is never empty."""

_TABLE_ID = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")


class LiveQueryId(NamedTuple):
    """One subscription of one connection, unique within a worker process."""

    user_id: UserId
    connection_id: ConnectionId
    subscription_id: str

    def __str__(self) -> str:
        return f"{self.user_id}-{self.connection_id}-{self.subscription_id}"


def parse_table_id(text: str) -> TableId | None:
    """The table that `text` names, or None when it is not `namespace.name`.

    Only ASCII letters are folded: a name is never changed into another by a Unicode case rule.
    """
    folded = text.lower() if text.isascii() else text
    if _TABLE_ID.fullmatch(folded) is None:
        return None
    return TableId(sys.intern(folded))
