"""The replication slot: what it is, and whether what was told before can be gone on from.

| the slot | the position | |
|---|---|---|
| none | any | a new slot; everything is copied |
| has lost its WAL | any | dropped, then as above |
| of another server, or another history of it | any | the slot's own end; everything is copied |
| further on than the position | | changes are lost that were never told here: the same |
| there | none | the slot of a life before: the same |
| there | at or beyond its end | the stream goes on |
"""

import logging
from typing import NamedTuple

import psycopg

from kalam_notify.config.source_settings import SourceSettings
from kalam_notify.sources.base import SourceUnavailable
from kalam_notify.sources.postgres.connecting import Connection, why
from kalam_notify.sources.postgres.positions import Position, left_behind, lsn_number

_log = logging.getLogger("kalam_notify.sources")

_SLOT = """
SELECT plugin, database, active_pid, wal_status, coalesce(confirmed_flush_lsn::text, '0/0'),
       current_database()
  FROM pg_replication_slots WHERE slot_name = %s
"""

_IDLE = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
  FROM pg_replication_slots
 WHERE slot_name = %s AND NOT active AND plugin = 'pgoutput' AND database = current_database()
"""


class Slot(NamedTuple):
    """A row of pg_replication_slots."""

    plugin: str | None
    database: str | None
    active_pid: int | None
    wal_status: str | None
    confirmed: str
    current_database: str

    @property
    def is_lost(self) -> bool:
        return self.wal_status == "lost"

    @property
    def is_ours(self) -> bool:
        return self.plugin == "pgoutput" and self.database == self.current_database


class System(NamedTuple):
    """Which cluster this is, and which history of it."""

    identifier: str
    timeline: int


class Begin(NamedTuple):
    """Where a stream begins; `why_anew`: why everything has to be copied, None: it need not."""

    position: Position
    why_anew: str | None


async def read_slot(connection: Connection, name: str) -> Slot | None:
    row = await (await connection.execute(_SLOT, (name,))).fetchone()
    return None if row is None else Slot(*row)


async def idle_bytes(connection: Connection, name: str) -> int:
    """Bytes of WAL that the slot keeps while nobody uses it; 0 where somebody does."""
    row = await (await connection.execute(_IDLE, (name,))).fetchone()
    return 0 if row is None or row[0] is None else int(row[0])


def tell_given_up(source: str, slot: str, kept: int, settings: SourceSettings) -> None:
    """Say that a slot is dropped before the database's disk is full."""
    _log.error(
        "source %s: slot %s kept %d bytes of the database's WAL, more than max_slot_bytes (%d):"
        " it is dropped, and everything will be copied anew",
        *(source, slot, kept, settings.max_slot_bytes),
    )


async def identify(walsender: Connection) -> System:
    row = await (await walsender.execute("IDENTIFY_SYSTEM")).fetchone()
    assert row is not None
    return System(str(row[0]), int(row[1]))


async def timeline_history(walsender: Connection, timeline: int) -> str:
    """The history of a timeline; of the first there is none."""
    if timeline == 1:
        return ""
    try:
        row = await (await walsender.execute(f"TIMELINE_HISTORY {timeline}")).fetchone()
    except psycopg.DatabaseError as fault:
        _log.warning("the history of timeline %d cannot be read: %s", timeline, why(fault))
        return ""
    assert row is not None
    content = row[1]
    return content.decode() if isinstance(content, bytes) else str(content)


def begin_at(slot: Slot, reached: Position | None, system: System, history: str) -> Begin:
    """Where to go on, with a slot that is there."""
    end = lsn_number(slot.confirmed)
    anew = Position(system.identifier, system.timeline, end)
    if reached is None:
        return Begin(anew, "nothing has been told yet")
    if reached.system != system.identifier:
        return Begin(anew, "this is another PostgreSQL cluster than before")
    if left_behind(reached, system.timeline, history):
        return Begin(anew, "changes that were told are not in the history of this server")
    if reached.lsn < end:
        return Begin(anew, "the slot has gone on without us: changes are lost")
    here = Position(system.identifier, system.timeline, reached.lsn, reached.commit, reached.done)
    return Begin(here, None)


async def create_slot(walsender: Connection, name: str, *, temporary: bool) -> tuple[int, str]:
    """A new slot: from which LSN on it tells, and the snapshot of all that was before.

    The snapshot is there until the next command. Waits for the transactions that are open.
    """
    kind = " TEMPORARY" if temporary else ""
    options = "EXPORT_SNAPSHOT"
    if walsender.info.server_version >= 170000 and not temporary:
        # A standby that is told to keep slots in step keeps this one, too.
        options = "(SNAPSHOT 'export', FAILOVER true)"
    row = await (
        await walsender.execute(
            f'CREATE_REPLICATION_SLOT "{name}"{kind} LOGICAL pgoutput {options}'.encode()
        )
    ).fetchone()
    assert row is not None
    _log.info("slot %s created at %s", name, row[1])
    return lsn_number(row[1]), str(row[2])


async def drop_slot(connection: Connection, name: str) -> None:
    """Raises SourceUnavailable while somebody uses it."""
    try:
        await connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    except psycopg.errors.UndefinedObject:
        return
    except psycopg.errors.ObjectInUse as fault:
        raise SourceUnavailable(why(fault)) from fault
