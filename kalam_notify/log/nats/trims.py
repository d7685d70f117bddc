"""What retention would have leave the log, by one node's clock and settings, for all to remove."""

from collections.abc import Collection
from sqlite3 import Connection

from kalam_notify.log.nats.message import TrimStep
from kalam_notify.model import TableDef
from kalam_notify.store.access import stored_tables
from kalam_notify.store.retention import AgeClass, Retention, age_classes
from kalam_notify.store.trimming import Due, Edges, due_by_age, due_by_bytes, edges

STEP_ENTRIES = 10_000
MOST_STEPS = 8


class Trims:
    """Finds what is due, some steps at a time; used by one thread at a time."""

    def __init__(self) -> None:
        # How far each age class has walked: entries below have been named, or are of others.
        self._walked: dict[AgeClass, int] = {}

    def begin_anew(self) -> None:
        """What was named may not have been published, or the file is another one."""
        self._walked.clear()

    def due(
        self,
        connection: Connection,
        retention: Retention,
        declared: Collection[TableDef],
        now: float,
    ) -> tuple[list[TrimStep], Edges]:
        """Some steps, by ages, else by bytes; and where the log begins. `now` is Unix time."""
        names = {table.number: name for name, table in stored_tables(connection).items()}
        steps: list[TrimStep] = []

        def name(due: Due) -> None:
            if due.upto > due.after and due.numbers != ():
                tables = None if due.numbers is None else tuple(names[n] for n in due.numbers)
                steps.append(TrimStep(due.after, due.upto, tables))

        for members in age_classes(retention, declared):
            more = True
            while more and len(steps) < MOST_STEPS:
                after = self._walked.get(members, 0)
                due = due_by_age(connection, members, after, now, STEP_ENTRIES)
                self._walked[members] = due.upto
                name(due)
                more = due.more
        if not steps and retention.max_bytes is not None:
            name(due_by_bytes(connection, retention.max_bytes, STEP_ENTRIES))
        return steps, edges(connection)
