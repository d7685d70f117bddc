"""Words that the tests of the logs share: tables, changes, a clock, a fresh log of either kind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from kalam_notify.log import (
    EventLog,
    Matches,
    MemoryLog,
    Page,
    PageRequest,
    Retention,
    SqliteLog,
)
from kalam_notify.model import SHARED, Change, Kind, Owner, PostedChange, Row, TableDef, TableId

LogKind = Literal["memory", "sqlite"]
LOG_KINDS: tuple[LogKind, ...] = ("memory", "sqlite")

ORDERS = TableDef(TableId("app.orders"), "shared", primary_key=("id",))
NOTES = TableDef(TableId("app.notes"), "user", primary_key=("id",))
EVENTS = TableDef(TableId("app.events"), "shared")
VISITS = TableDef(TableId("app.visits"), "user")
TABLES = (ORDERS, NOTES, EVENTS, VISITS)

PLENTY = 1_000_000_000
FOREVER = Retention(max_age=None, max_bytes=None)


class Clock:
    """Unix time that stands still until it is told otherwise."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self._ticked = 0.0

    def __call__(self) -> float:
        return self.now

    def ticking(self) -> float:
        """Seconds that have passed, whatever the clock was set to meanwhile."""
        return self._ticked

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._ticked += seconds

    def put_back(self, seconds: float) -> None:
        self.now -= seconds


def new_log(
    kind: LogKind, directory: Path, clock: Clock, retention: Retention = FOREVER
) -> MemoryLog | SqliteLog:
    """A log that is not started; its own trimming is out of the way."""
    if kind == "memory":
        return MemoryLog(retention=retention, clock=clock, ticking=clock.ticking, trim_seconds=3600)
    return SqliteLog(
        directory / "kalam.db",
        durability="os",
        retention=retention,
        clock=clock,
        ticking=clock.ticking,
        trim_seconds=3600,
    )


def row(**values: Any) -> Row:
    return Row(json.dumps(values, separators=(",", ":")).encode())


def put(
    key: int | str,
    *,
    table: TableDef = ORDERS,
    owner: Owner = SHARED,
    id: str | None = None,
    kind: Kind = "insert",
    **values: Any,
) -> PostedChange:
    """A row under a key of a keyed table."""
    new = row(id=key, **values)
    return PostedChange(table.id, owner, kind, new, None, key=json.dumps([key]), id=id)


def gone(
    key: int | str, *, table: TableDef = ORDERS, owner: Owner = SHARED, id: str | None = None
) -> PostedChange:
    """A delete from a keyed table."""
    return PostedChange(table.id, owner, "delete", None, row(id=key), key=json.dumps([key]), id=id)


def event(
    *,
    table: TableDef = EVENTS,
    owner: Owner = SHARED,
    kind: Kind = "insert",
    old: Row | None = None,
    id: str | None = None,
    **values: Any,
) -> PostedChange:
    """A change of a table without a key."""
    new = None if kind == "delete" else row(**values)
    return PostedChange(table.id, owner, kind, new, old, id=id)


async def everything(log: EventLog, after: int = 0) -> list[Change]:
    """All changes after a position, read in small spans."""
    changes: list[Change] = []
    while True:
        span = await log.read(after, limit=7, max_bytes=PLENTY)
        if not span.changes:
            return changes
        changes += span.changes
        after = span.upto


async def page_of(
    log: EventLog,
    table: TableDef = ORDERS,
    *,
    owner: Owner = SHARED,
    matches: Matches | None = None,
    after: int = 0,
    as_of: int | None = None,
    limit: int = 1000,
    max_bytes: int = PLENTY,
) -> Page:
    return await log.page(PageRequest(table, owner, matches, after, as_of, limit, max_bytes))


def values(page: Page) -> list[dict[str, Any]]:
    return [row.values for _, row in page.rows]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def seqs(found: Page | Sequence[Change]) -> list[int]:
    if isinstance(found, Page):
        return [seq for seq, _ in found.rows]
    return [change.seq for change in found]
