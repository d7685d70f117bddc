"""PostgreSQL as a source: from its settings to a session. See base.Source."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import psycopg

from kalam_notify.config.source_settings import SourceSettings
from kalam_notify.model.tables import Access
from kalam_notify.sources.base import Lag, Missing, SourceRefused, SourceUnavailable
from kalam_notify.sources.postgres import slots
from kalam_notify.sources.postgres.connecting import (
    CONNECT_SECONDS,
    NO_SETTINGS,
    Connection,
    connect,
    raised_as_unavailable,
    why,
)
from kalam_notify.sources.postgres.positions import Position, decode_position
from kalam_notify.sources.postgres.prerequisites import (
    Names,
    Survey,
    outlive_writers,
    set_up,
    survey,
)
from kalam_notify.sources.postgres.session import Connections, PgSession
from kalam_notify.sources.postgres.turns import SENDER, Turn

_log = logging.getLogger("kalam_notify.sources")

_PATIENCE = 3.0
"""Seconds after which it is told what the creation of a slot waits for."""


class PostgresSource:
    """One database. Files of long transactions are put into `directory`."""

    def __init__(self, name: str, settings: SourceSettings, directory: Path | None = None) -> None:
        self.name = name
        self.access = cast(Access, settings.access)
        self._settings = settings
        self._directory = directory
        slot = settings.slot or f"kalam_{name}"
        if settings.is_temporary:
            # Two servers that keep nothing must not meet.
            slot = f"{slot}_{os.getpid()}"
        self._names = Names(slot, settings.publication or f"kalam_{name}")
        self._turn = Turn(settings.postgres, name, settings.slot or f"kalam_{name}")
        # PostgreSQL's settings of the connection that streams.
        self._sender: Mapping[str, str] = NO_SETTINGS
        self._session: PgSession | None = None
        # What was complained of, once.
        self._told: set[str] = set()

    def lag(self) -> Lag:
        return Lag(0, 0.0) if self._session is None else self._session.lag()

    async def examine(self) -> list[Missing]:
        """Everything that is missing; changes nothing. Raises SourceUnavailable."""
        async with raised_as_unavailable(), asyncio.timeout(CONNECT_SECONDS):
            control = await self._connect_or_refuse()
            try:
                found = await survey(control, self._settings, self._names)
                return [*found.missing, *await self._of_replication(found)]
            finally:
                await control.close()

    async def _connect_or_refuse(self) -> Connection:
        """Raises SourceRefused where the database answers, and answers no."""
        try:
            return await connect(self._settings.postgres, self.name)
        except psycopg.OperationalError as fault:
            missing = _of_a_refusal(fault)
            if missing is None:
                raise
            raise SourceRefused(self.name, [missing]) from fault

    async def _of_replication(self, found: Survey) -> list[Missing]:
        """Whether a replication connection is let in, where nothing else keeps it out."""
        if any("replicate" in one.what or "wal_level" in one.what for one in found.missing):
            return []
        try:
            walsender = await connect(self._settings.postgres, self.name, replication=True)
        except psycopg.OperationalError as fault:
            return [_of_a_refusal(fault) or Missing(why(fault), "see the message")]
        await walsender.close()
        return []

    @asynccontextmanager
    async def alone(self, cluster: str, on_wait: Callable[[], None]) -> AsyncIterator[None]:
        """See base.Source."""
        self._sender = SENDER
        async with self._turn.taken(cluster, on_wait):
            yield

    async def guard(self) -> None:
        """See base.Source. A slot that is in use is looked after by whoever uses it."""
        async with raised_as_unavailable():
            control = await connect(self._settings.postgres, self.name)
            try:
                kept = await slots.idle_bytes(control, self._names.slot)
                if kept > self._settings.max_slot_bytes:
                    slots.tell_given_up(self.name, self._names.slot, kept, self._settings)
                    await slots.drop_slot(control, self._names.slot)
            finally:
                await control.close()

    async def connect(self, position: str | None, largest: int | None = None) -> PgSession:
        """See base.Source."""
        async with raised_as_unavailable():
            control = await self._connect_or_refuse()
            opened = [control]
            try:
                found = await self._prepared(control)
                url = self._settings.postgres
                opened.append(
                    await connect(url, self.name, replication=True, settings=self._sender)
                )
                opened.append(await connect(url, self.name))
                connections = Connections(*opened)
                self._session = await self._begin(connections, position, found, largest)
            except BaseException:
                for one in opened:
                    await one.close()
                raise
        return self._session

    async def _prepared(self, control: Connection) -> Survey:
        """Everything is there, set up where that was missing; else SourceRefused."""
        found = await survey(control, self._settings, self._names)
        refused = [] if found.missing else await set_up(control, found)
        if found.missing or refused:
            raise SourceRefused(self.name, [*found.missing, *refused])
        await outlive_writers(control, found)
        return await survey(control, self._settings, self._names) if found.steps else found

    async def _begin(
        self,
        connections: Connections,
        position: str | None,
        found: Survey,
        largest: int | None,
    ) -> PgSession:
        reached = None if position is None else decode_position(position)
        begin, exported = await self._slot(connections, reached)
        is_news = reached is not None and not self._settings.is_temporary
        if begin.why_anew is not None and is_news:
            _log.warning("source %s: %s; all its tables are copied anew", self.name, begin.why_anew)
        return PgSession(
            self.name,
            self._settings,
            self._names,
            connections,
            begin,
            found,
            exported,
            self._directory,
            self._told,
            largest,
        )

    async def _slot(
        self, connections: Connections, reached: Position | None
    ) -> tuple[slots.Begin, str | None]:
        control, walsender, name = connections.control, connections.walsender, self._names.slot
        system = await slots.identify(walsender)
        slot = await slots.read_slot(control, name)
        if slot is not None and slot.is_lost and slot.is_ours:
            _log.warning("slot %s has lost its WAL: it is dropped", name)
            await slots.drop_slot(control, name)
            slot = None
        if slot is None:
            lsn, exported = await self._create_slot(walsender)
            new = Position(system.identifier, system.timeline, lsn)
            return slots.Begin(new, f"slot {name} was gone"), exported
        if not slot.is_ours:
            cure = (
                f"SELECT pg_drop_replication_slot('{name}'); or name another slot in the settings"
            )
            what = f"slot {name} is another's ({slot.plugin}, database {slot.database})"
            raise SourceRefused(self.name, [Missing(what, cure)])
        if slot.active_pid is not None:
            raise SourceUnavailable(f"slot {name} is in use by process {slot.active_pid}")
        history = await slots.timeline_history(walsender, system.timeline)
        return slots.begin_at(slot, reached, system, history), None

    async def _create_slot(self, walsender: Connection) -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        waits = loop.call_later(
            _PATIENCE,
            _log.warning,
            "source %s: the slot is there when all transactions that are open now have ended",
            self.name,
        )
        try:
            return await slots.create_slot(
                walsender, self._names.slot, temporary=self._settings.is_temporary
            )
        finally:
            waits.cancel()


_CURES = {
    "no pg_hba.conf entry": "add to pg_hba.conf: host DATABASE ROLE ADDRESS scram-sha-256; then "
    "SELECT pg_reload_conf();",
    "password authentication failed": "give the role's password in the URL",
    "no password supplied": "give the role's password in the URL",
    "peer authentication failed": "name the role that this process runs as, or change pg_hba.conf",
    "does not exist": "name a role and a database that are there: CREATE ROLE ... LOGIN "
    "REPLICATION; CREATE DATABASE ...;",
    "is not permitted to log in": "ALTER ROLE ... LOGIN;",
    "permission denied for database": "GRANT CONNECT ON DATABASE ... TO ...;",
    "must be superuser or replication role": "ALTER ROLE ... REPLICATION;",
    "permission denied to start WAL sender": "ALTER ROLE ... REPLICATION;",
    "requested WAL senders exceeds": "ALTER SYSTEM SET max_wal_senders = 10;  -- then restart",
    "server does not support SSL": "take sslmode=require out of the URL, or turn ssl on",
}


def _of_a_refusal(fault: psycopg.OperationalError) -> Missing | None:
    """What a database lacks that answers, and answers no; None: it does not answer."""
    text = why(fault)
    for sign, cure in _CURES.items():
        if sign in text:
            return Missing(text, cure)
    return None
