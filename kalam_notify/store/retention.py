"""How long changes stay in the log: by age, by bytes, and by a table's own age.

Tables fall into age classes: one for each `max_age` that a table declares for itself, and one for
all the rest under the log's own. A class walks the log from its oldest entry and stops at the first
that is young enough, so one step costs what it removes and not what it leaves.
"""

from collections.abc import Iterable

import msgspec

from kalam_notify.model import TableDef, TableId

# How often a log looks whether something is due.
TRIM_SECONDS = 5.0


class Retention(msgspec.Struct, frozen=True):
    """What the log keeps. `max_age` in seconds, `max_bytes` of `Change.size`; None: no bound."""

    max_age: float | None = 24 * 3600.0
    max_bytes: int | None = 1024**3


class AgeClass(msgspec.Struct, frozen=True):
    """Tables whose changes leave the log after the same number of seconds.

    `tables` are its members or, where `inverted`, everything that is no member.
    """

    max_age: float
    tables: frozenset[TableId]
    inverted: bool = False

    def holds(self, table: TableId) -> bool:
        return (table in self.tables) is not self.inverted


def age_classes(retention: Retention, tables: Iterable[TableDef]) -> list[AgeClass]:
    """The age classes that these tables make under the log's own retention."""
    by_age: dict[float, set[TableId]] = {}
    for table in tables:
        if table.max_age is not None:
            by_age.setdefault(table.max_age, set()).add(table.id)
    classes = [AgeClass(age, frozenset(members)) for age, members in sorted(by_age.items())]
    if retention.max_age is not None:
        own = frozenset().union(*by_age.values())
        classes.append(AgeClass(retention.max_age, own, inverted=True))
    return classes
