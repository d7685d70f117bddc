"""What an acknowledgement tells of a query that is likely to be a slip.

Where a table declares no columns any name may be right, and a mistyped one, or text in double
quotes, is a column that no row has. So is a mistyped table where tables are created by their first
change. Neither can be refused; both can be told.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Sequence

from kalam_notify.errors import LogUnavailable
from kalam_notify.model import SHARED, Identity, Owner, TableDef, TableId
from kalam_notify.sql import Select, nearest

MAX_KEPT = 1000
SECONDS = 1.0
"""A table's newest rows are looked at no more often than this."""

ColumnsOf = Callable[[TableDef, Owner], Collection[str] | None]


class Notices:
    """Knows what the newest rows of tables look like, by asking once in a while."""

    def __init__(self, columns_of: ColumnsOf, clock: Callable[[], float] = time.monotonic) -> None:
        self._columns_of = columns_of
        self._clock = clock
        # When it was asked, and the names that were there then or before.
        self._known: dict[tuple[TableId, Owner], tuple[float, frozenset[str] | None]] = {}

    def of(
        self, select: Select, table: TableDef, identity: Identity, *, is_declared: bool
    ) -> Sequence[str]:
        """What to tell whoever subscribes to this; nearly always nothing."""
        if table.columns is not None:
            return ()
        with contextlib.suppress(LogUnavailable):  # a slip is not worth a fault
            return self._look(select, table, identity, is_declared=is_declared)
        return ()

    def _look(
        self, select: Select, table: TableDef, identity: Identity, *, is_declared: bool
    ) -> Sequence[str]:
        owner = SHARED if table.is_shared else identity.user_id
        named = set(select.named) - set(table.primary_key)
        known = self._names(table, owner, named, is_declared=is_declared)
        if known is None:
            return () if is_declared else (f"{table.id} does not exist yet: {_CREATED}",)
        return [_missing(name, table, known) for name in select.named if name in named - known]

    def _names(
        self, table: TableDef, owner: Owner, named: set[str], *, is_declared: bool
    ) -> frozenset[str] | None:
        """The names of the table's rows; None: there are none yet."""
        asked, known = self._known.get((table.id, owner), (-SECONDS, None))
        if known is not None and known >= named:
            return known
        now = self._clock()
        if now - asked >= SECONDS and (named or not is_declared):
            found = self._columns_of(table, owner)
            known = known if not found else frozenset(found) | (known or frozenset())
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            self._known[table.id, owner] = now, known
        return known


_CREATED = "its first change will create it, so look at the name if you expect rows"


def _missing(name: str, table: TableDef, known: Collection[str]) -> str:
    hint = nearest(name, known) or f"text is written in single quotes, '{name}'"
    return f'none of the newest rows of {table.id} has a column "{name}"; {hint}'
