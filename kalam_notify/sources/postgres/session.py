"""A connection to PostgreSQL as a source: its tables, copies of them, and the slot's stream.

Three connections, for none of them can do two things at once:

    walsender    creates the slot and its snapshot, then streams
    control      the catalogue, the slot's lag, once a second
    copier       copies, in a transaction that sees one moment
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import psycopg
from msgspec.structs import replace

from kalam_notify.config.source_settings import SourceSettings
from kalam_notify.model import TableId
from kalam_notify.sources.base import (
    Caught,
    Definition,
    Event,
    Lag,
    Missing,
    SourceLost,
    SourceUnavailable,
)
from kalam_notify.sources.postgres import slots
from kalam_notify.sources.postgres.catalogue import PgTable, catalogue_version
from kalam_notify.sources.postgres.connecting import Connection, raised_as_unavailable
from kalam_notify.sources.postgres.copying import TableCopy, raised_as_moved, take_snapshot
from kalam_notify.sources.postgres.positions import (
    Cut,
    Position,
    decode_cut,
    decode_position,
    lsn_number,
)
from kalam_notify.sources.postgres.prerequisites import Names, Survey, set_up, survey, writers
from kalam_notify.sources.postgres.replication import Replication
from kalam_notify.sources.postgres.transactions import Rest, Transactions

_log = logging.getLogger("kalam_notify.sources")

LOOK_SECONDS: Final = 1.0
"""How often the catalogue is looked at: PostgreSQL tells nobody of an ALTER TABLE."""

RETRY_SECONDS: Final = 5.0
"""After so long it is tried again to set up what was locked."""

_LOOK = """
SELECT pg_current_wal_lsn()::text, restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s
"""
_END_SENDER = """
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
 WHERE slot_name = %s AND active_pid IS NOT NULL
"""


class Connections:
    """The three, which end together."""

    def __init__(self, control: Connection, walsender: Connection, copier: Connection) -> None:
        self.control = control
        self.walsender = walsender
        self.copier = copier

    async def close(self) -> None:
        for one in (self.walsender, self.copier, self.control):
            with suppress(psycopg.Error, OSError):
                await one.close()


class PgSession:
    """See base.Session. `exported`: the snapshot of a slot that has just been created."""

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        names: Names,
        connections: Connections,
        begin: slots.Begin,
        found: Survey,
        exported: str | None,
        directory: Path | None,
        complained: set[str],
        largest: int | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._names = names
        self._connections = connections
        self._exported = exported
        self._directory = directory
        self.begins_anew = begin.why_anew is not None
        self._begin = begin.position
        self._transactions = Transactions(begin.position, self._open_file, largest)
        self._replication = Replication(connections.walsender)
        self._tables: dict[TableId, PgTable] = {}
        self._cut: Cut | None = None
        # What was complained of already.
        self._complained = complained
        self._version = ""
        # Of a table that has just been published, the transactions that wrote to it before: what
        # they wrote is not told, and a copy does not see it until they have ended.
        self._writers: dict[int, set[str]] = {table.facts.oid: set() for table in found.tables}
        self._is_altered = False
        self._is_first_look = True
        self._look_again_at: float | None = None
        self._monitor: asyncio.Task[None] | None = None
        self._wal_end = self._stored = begin.position.lsn
        self._behind_since: float | None = None
        self._take_survey(found)

    def _open_file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._directory, prefix="kalam-transaction-")

    # Tables

    @property
    def definitions(self) -> Mapping[TableId, Definition]:
        return {name: table.definition for name, table in self._tables.items()}

    async def refresh(self) -> None:
        async with raised_as_unavailable():
            control = self._connections.control
            found = await survey(control, self._settings, self._names)
            refused = await set_up(control, found)
            if found.steps:
                found = await survey(control, self._settings, self._names)
            self._complain([*found.missing, *refused])
            for table in found.tables:
                # Whoever published it, this server or somebody by hand.
                if table.facts.oid not in self._writers:
                    self._writers[table.facts.oid] = await writers(control, [table.facts.oid])
            self._take_survey(found)
            # What was locked will not be for ever: look again, whatever happens meanwhile.
            self._look_again_at = time.monotonic() + RETRY_SECONDS if refused else None

    def _take_survey(self, found: Survey) -> None:
        self._version = found.version
        self._tables = {
            table.id: table for table in found.tables if not self._writers.get(table.facts.oid)
        }
        for one in found.unfit:
            self._say(f"{one.label} is not followed: {one.why}")
        for table in found.tables:
            if not table.key and table.facts.identity == "f":
                self._say(
                    f"{table.facts.label} has no primary key: its changes are told, but no rows"
                    " are kept, so there are no snapshots of it"
                )

    def _complain(self, missing: list[Missing]) -> None:
        for one in missing:
            self._say(f"{one.what}; cure: {one.cure}")

    def _say(self, text: str) -> None:
        if text not in self._complained:
            self._complained.add(text)
            _log.warning("source %s: %s", self._name, text)

    def know(self, definitions: Mapping[TableId, Definition]) -> None:
        cuts = {
            name: decode_cut(definition.cut)
            for name, definition in definitions.items()
            if definition.cut is not None
        }
        tables = [table for name, table in self._tables.items() if name in definitions]
        self._transactions.know(tables, cuts)

    # Copies

    async def copy(self, table: TableId) -> TableCopy:
        found = self._tables[table]
        copier = self._connections.copier
        if self._exported is None or self._cut is None:
            await self.end_copies()
            async with raised_as_moved():
                applied = list(self._transactions.recent_xids)
                self._cut = await take_snapshot(copier, found.facts.label, applied, self._exported)
        return TableCopy(copier, found, self._cut)

    async def end_copies(self) -> None:
        if self._cut is not None:
            self._cut = self._exported = None
        async with raised_as_unavailable():
            await self._connections.copier.rollback()

    # The stream

    def position(self) -> str:
        return self._begin.encode()

    async def stream(self) -> AsyncIterator[Event]:
        transactions, replication = self._transactions, self._replication
        # It ends with the walsender's next command.
        self._exported = None
        async with raised_as_unavailable():
            await replication.start(self._names.slot, self._begin.lsn, self._names.publication)
        self._monitor = asyncio.create_task(self._watch(), name=f"source {self._name} monitor")
        while True:
            try:
                received = await replication.read()
            except (psycopg.Error, OSError, SourceUnavailable) as fault:
                raise _as_unavailable(fault) from fault
            for data in received.messages:
                for event in transactions.feed(data):
                    if isinstance(event, Rest):
                        await asyncio.sleep(0)
                    else:
                        yield event
            if received.is_all and not transactions.is_inside:
                yield Caught(self._caught().encode())
            if self._is_altered:
                self._is_altered = False
                for event in transactions.altered():
                    yield event
            await asyncio.sleep(0)

    def _caught(self) -> Position:
        """Up to where everything has been told, now that nothing waits."""
        reached = self._transactions.position
        if self._replication.sent > reached.lsn and not reached.done:
            reached = self._transactions.position = replace(reached, lsn=self._replication.sent)
        return reached

    def stored(self, position: str) -> None:
        self._stored = decode_position(position).lsn
        self._replication.stored(self._stored)

    # Once a second

    def lag(self) -> Lag:
        behind = max(self._wal_end - self._stored, 0)
        since = self._behind_since
        return Lag(behind, 0.0 if since is None else max(time.monotonic() - since, 0.0))

    async def _watch(self) -> None:
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                self._replication.tell(wants_reply=True)
                await self._look()
        except (psycopg.Error, OSError, SourceUnavailable) as fault:
            self._replication.interrupt(_as_unavailable(fault))

    async def _look(self) -> None:
        control = self._connections.control
        row = await (await control.execute(_LOOK, (self._names.slot,))).fetchone()
        if row is None:
            raise SourceLost(f"slot {self._names.slot} is gone")
        end, kept = map(lsn_number, row)
        has_moved = end != self._wal_end
        self._measure(end)
        if end - kept > self._settings.max_slot_bytes:
            await self._give_up_slot(end - kept)
        await self._look_at_writers()
        if self._look_again_at is not None and time.monotonic() >= self._look_again_at:
            self._look_again_at, self._is_altered = None, True
        if not has_moved and not self._is_first_look:
            # What changes the catalogue is written to the WAL.
            return
        self._is_first_look = False
        version = await catalogue_version(control, self._names.publication)
        if version != self._version:
            self._version = version
            self._is_altered = True

    async def _look_at_writers(self) -> None:
        """Take tables in whose last writers from before have ended."""
        for oid, waits_for in self._writers.items():
            if waits_for:
                waits_for &= await writers(self._connections.control, [oid])
                self._is_altered = self._is_altered or not waits_for

    def _measure(self, end: int) -> None:
        if self._stored >= self._wal_end:
            # What was there at the last look has been stored: the lag is younger than that.
            self._behind_since = time.monotonic() if end > self._stored else None
        self._wal_end = end

    async def _give_up_slot(self, kept: int) -> None:
        slot = self._names.slot
        slots.tell_given_up(self._name, slot, kept, self._settings)
        await self._drop(slot)
        raise SourceLost(f"slot {slot} was dropped before it filled the database's disk")

    async def _drop(self, slot: str) -> None:
        control = self._connections.control
        while True:
            await control.execute(_END_SENDER, (slot,))
            try:
                return await slots.drop_slot(control, slot)
            except SourceUnavailable:
                # It takes the walsender a moment to end.
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        if self._monitor is not None:
            self._monitor.cancel()
            await asyncio.gather(self._monitor, return_exceptions=True)
        self._transactions.close()
        await self._connections.close()


def _as_unavailable(fault: Exception) -> SourceUnavailable:
    if isinstance(fault, SourceUnavailable):
        return fault
    return SourceUnavailable(" ".join(str(fault).split()) or type(fault).__name__)
