"""The sources of one worker: which it follows, what all of them tell, and who else may.

Workers are alike, and one of them follows: whoever has the lock of a source, a file in the data
directory that the system lets go of when its holder dies. The others wait for it in the kernel, and
go on from the position in the log. What tables a source has they learn from the log, too.

    lock -> session -> fault -> a pause, longer each time -> session ...

Where nodes share the log, one of the workers who have the lock, each on its own node, has its turn
within `session`; the others stand by there.

Whose word counts about the tables of a source: its session's, where one is under way in this
worker, for the log is told after the catalog; else the log's.
"""

import asyncio
import fcntl
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kalam_notify.errors import KalamNotifyError, LogFault, StorageFault
from kalam_notify.log import EventLog
from kalam_notify.logs import Complaints
from kalam_notify.model import TableDef, TableId
from kalam_notify.model.sourced import SourceState
from kalam_notify.sources.base import (
    Definition,
    Lag,
    Source,
    SourceUnavailable,
    decode_definition,
)
from kalam_notify.sources.outbox import OnIngested
from kalam_notify.sources.runner import Runner

_log = logging.getLogger("kalam_notify.sources")

LOOK_SECONDS = 0.5
"""How often a worker that does not follow looks at what tables there are."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two sessions."""


class Status(NamedTuple):
    """What metrics tell of a source that this worker follows, or is the one of its node to.

    `stands_by`: another node follows it, or may, and this one has no part in it at the moment.
    """

    name: str
    is_up: bool
    lag: Lag
    stands_by: bool


class Sources:
    """All sources of one worker.

    `declared` gives what the settings say of a table; `on_tables` is told of all tables of all
    sources whenever one has changed, and may raise StorageFault.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        log: EventLog,
        directory: Path,
        declared: Callable[[TableId], TableDef | None],
        on_tables: Callable[[list[TableDef]], None],
        on_ingested: OnIngested,
    ) -> None:
        self._event_log = log
        self._declared = declared
        self._on_tables = on_tables
        self._sources = list(sources)
        self._tables: dict[str, dict[TableId, Definition]] = {one.name: {} for one in self._sources}
        self._access = {one.name: one.access for one in self._sources}
        self._version = -1
        # The sources whose tables a session in this worker tells.
        self._in_session: set[str] = set()
        self._followers = [
            _Follower(one, log, directory / f"source-{one.name}.lock", self, on_ingested)
            for one in self._sources
        ]

    async def load(self) -> None:
        """Take the tables that the log knows of."""
        version = await self._event_log.source_version()
        self._take(version, await self._event_log.sources())

    async def _look(self) -> None:
        """Take them where they have changed.

        Not from a log that is on its way back to what it was: it may know of none for a while, and
        subscriptions to those that it knew would end.
        """
        if self._event_log.why_not_ready() is not None:
            return
        version = await self._event_log.source_version()
        if version == self._version:
            return
        states = await self._event_log.sources()
        if self._event_log.why_not_ready() is None:
            self._take(version, states)

    def _take(self, version: int, states: Mapping[str, SourceState]) -> None:
        self._version = version
        for name in self._tables.keys() - self._in_session:
            tables = states[name].tables if name in states else {}
            self._tables[name] = {table: decode_definition(text) for table, text in tables.items()}
        for one in self._followers:
            # Copied before, or by now: nobody has to wait. A source whose first tables are copied
            # at the moment may have more than are known yet.
            known = self._tables[one.name].values()
            is_copied = bool(known) and all(table.cut is not None for table in known)
            if is_copied and (one.stands_by or not one.is_leading):
                one.is_ready.set()
        self._tell()

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Follow, for as long as the tasks are not cancelled."""
        if not self._sources:
            return []
        running = [
            tasks.create_task(one.run(), name=f"source {one.name}") for one in self._followers
        ]
        return [*running, tasks.create_task(self._watch(), name="source tables")]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except LogFault as fault:
                _log.debug("the tables of sources cannot be read: %s", fault)
            except StorageFault as fault:
                _log.error("the tables of sources: %s", fault)

    # Tables

    def table_of(self, source: str, name: TableId, definition: Definition) -> TableDef:
        return definition.table(name, self._access[source], self._declared(name))

    def defined(self, source: str, tables: Mapping[TableId, Definition]) -> None:
        """What a source that is followed here has come to; raises StorageFault."""
        self._in_session.add(source)
        before = self._tables[source]
        self._tables[source] = dict(tables)
        try:
            self._tell()
        except BaseException:
            self._tables[source] = before
            raise

    def session_over(self, source: str) -> None:
        """What the log has of the source's tables counts again, as of the next look."""
        self._in_session.discard(source)
        self._version = -1

    def tables(self) -> list[TableDef]:
        """Every table of every source; of two sources' tables of one name the first's."""
        found: dict[TableId, TableDef] = {}
        for source, tables in self._tables.items():
            for name, definition in tables.items():
                found.setdefault(name, self.table_of(source, name, definition))
        return list(found.values())

    def _tell(self) -> None:
        self._on_tables(self.tables())

    def settings_changed(self) -> None:
        """What the settings say of tables has changed."""
        self._tell()

    def statuses(self) -> list[Status]:
        return [one.status() for one in self._followers if one.is_leading]

    async def ready(self, seconds: float) -> None:
        """Wait until every source has told its tables and rows, or did before; at most so long."""
        waits = [asyncio.ensure_future(one.is_ready.wait()) for one in self._followers]
        if waits:
            _, late = await asyncio.wait(waits, timeout=seconds)
            for one in late:
                one.cancel()


class _Follower:
    """One source in one worker."""

    def __init__(
        self,
        source: Source,
        log: EventLog,
        lock: Path,
        sources: Sources,
        on_ingested: OnIngested,
    ) -> None:
        self.name = source.name
        self.is_leading = self.stands_by = False
        self.is_ready = asyncio.Event()
        self._source = source
        self._event_log = log
        self._lock = lock
        self._session_over = partial(sources.session_over, source.name)
        self._complaints = Complaints(_log)
        self._is_up = self._was_down = False
        self._runner = Runner(
            source,
            log,
            lambda name, definition: sources.table_of(source.name, name, definition),
            lambda tables: sources.defined(source.name, tables),
            on_ingested,
        )

    def status(self) -> Status:
        return Status(self.name, self._is_up, self._source.lag(), self.stands_by)

    async def run(self) -> None:
        descriptor = await _locked(self._lock)
        self.is_leading = True
        try:
            await self._lead()
        finally:
            self.is_leading = False
            os.close(descriptor)

    async def _lead(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._runner.run(self._streams, self._turn)
            except* (KalamNotifyError, OSError) as faults:
                if self._is_up:
                    pause = FIRST_PAUSE
                self._down(_first(faults))
            except* Exception:
                _log.exception("source %s failed, and is tried again", self.name)
                self._is_up = False
            finally:
                self._session_over()
            # Spread, so that the workers of many machines do not come all at once.
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _turn(self, has_turn: bool) -> None:
        """Several nodes may follow: whether it is this one that does from here on."""
        if has_turn:
            _log.info("source %s: this node follows it", self.name)
        elif not self.stands_by:
            _log.info("source %s: another node follows it, this one stands by", self.name)
        self.stands_by = not has_turn
        self._is_up = self._was_down = False
        self._complaints.over()

    def _streams(self) -> None:
        if self._was_down:
            _log.info("source %s is followed again", self.name)
        self._complaints.over()
        self._is_up, self._was_down = True, False
        self.is_ready.set()

    def _down(self, fault: BaseException) -> None:
        if self._event_log.cluster is not None and isinstance(fault, LogFault):
            # What is wrong with the log is told by the log. Nodes that are well go on meanwhile.
            if not self.stands_by:
                _log.info("source %s: this node does not follow it: %s", self.name, fault)
            self._is_up, self.stands_by = False, True
            return
        self._is_up, self._was_down = False, True
        self.stands_by = False
        kind = "away" if isinstance(fault, SourceUnavailable) else str(fault)
        self._complaints.say(kind, f"source {self.name} is not followed at the moment: {fault}")


def _first(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = faults
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _locked(path: Path) -> int:
    """The descriptor of a file that is locked for this process alone, whenever that comes to be."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    loop = asyncio.get_running_loop()
    locked: asyncio.Future[None] = loop.create_future()

    def done() -> None:
        if locked.cancelled():
            os.close(descriptor)
        elif not locked.done():
            locked.set_result(None)

    def wait() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            loop.call_soon_threadsafe(done)
        except RuntimeError:
            # The loop has ended, and the process with it.
            os.close(descriptor)

    # A thread of its own that nobody waits for: the lock may come after the end of everything.
    threading.Thread(target=wait, name=f"lock {path.name}", daemon=True).start()
    await locked
    return descriptor
