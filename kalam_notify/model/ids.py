"""The names things go by."""

import re
import sys
from typing import NamedTuple, NewType

TableId = NewType("TableId", str)
"""`namespace.name`, interned, in its one spelling; made by `table_id` and `parse_table_id` only.

A part that is no lower-case name stands in double quotes: `public."User"`.
"""

UserId = NewType("UserId", str)
"""The `sub` of a token and the `user_id` of a change: 1-128 printable characters."""

ConnectionId = NewType("ConnectionId", int)
"""Counts up within one worker process; never reused while the process lives."""

Owner = str
"""Whose rows: a `UserId` in a USER table, `SHARED` in a SHARED one."""

SHARED: Owner = ""
"""The owner of every row of a SHARED table. A user id is never empty."""

MAX_TABLE_NAME = 63
"""Characters of a part of a table's name in double quotes."""

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_PARTS = re.compile(
    r'([A-Za-z_][A-Za-z0-9_]*|"(?:[^"]|"")+")\.([A-Za-z_][A-Za-z0-9_]*|"(?:[^"]|"")+")'
)


class LiveQueryId(NamedTuple):
    """One subscription of one connection, unique within a worker process."""

    user_id: UserId
    connection_id: ConnectionId
    subscription_id: str

    def __str__(self) -> str:
        return f"{self.user_id}-{self.connection_id}-{self.subscription_id}"


def table_id(namespace: str, name: str) -> TableId | None:
    """The table of two names as they are, nothing folded; None when one of them cannot be."""
    if not all(0 < len(part) <= MAX_TABLE_NAME or _is_plain(part) for part in (namespace, name)):
        return None
    return TableId(sys.intern(f"{_spelled(namespace)}.{_spelled(name)}"))


def _is_plain(part: str) -> bool:
    return _PLAIN.fullmatch(part) is not None


def _spelled(part: str) -> str:
    if _is_plain(part):
        return part
    doubled = part.replace('"', '""')
    return f'"{doubled}"'


def parse_table_id(text: str) -> TableId | None:
    """The table that `text` names, or None when it is not `namespace.name`.

    A part in double quotes is taken as written. Of others only ASCII letters are folded: a name is
    never changed into another by a Unicode case rule.
    """
    match = _PARTS.fullmatch(text)
    if match is None:
        return None
    parts = [
        part[1:-1].replace('""', '"') if part[0] == '"' else part.lower() for part in match.groups()
    ]
    return table_id(*parts)
