"""One session of one source, from its tables to its last event.

    connect -> reconcile the tables -> copy those that have to be -> stream
                    ^----------------- a table has come, gone or changed ---'

The log is the only memory: position and tables are stored with the changes, in their transaction,
and read back at every start. So a crash anywhere comes to one of two things: a table without a cut,
which is copied again (rows that are known are no changes then), or a position in the stream, which
is gone on from.

| what happened to a table | what is done |
|---|---|
| it is new | defined, copied |
| its columns or values changed | defined anew, subscribers begin afresh, copied |
| its key changed | its rows are deleted, its changes forgotten, then as if it were new |
| it is gone | its rows are deleted, then it is dropped |
| everything may have changed | every table that has a key is copied |

A table without a key has no rows here to compare a copy with. It is copied once, in one transaction
of the log, so that no crash can double it.

Where nodes share the log, one has its turn (`Source.alone`), and claims the source in the log
before it reads where it stands (`marks`): whoever had it before can store nothing from then on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from msgspec.structs import replace

from kalam_notify.errors import LogUnavailable, SourceOvertaken, StorageFault
from kalam_notify.log import EventLog, PageRequest
from kalam_notify.model import SHARED, PostedChange, Row, TableDef, TableId
from kalam_notify.model.changes import key_of
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.sources.base import (
    CUT_ONLY,
    Altered,
    Caught,
    Copy,
    Definition,
    Piece,
    Source,
    TableMoved,
    Truncated,
    decode_definition,
    encode_definition,
    size_of,
)
from kalam_notify.sources.marks import Marks
from kalam_notify.sources.outbox import OnIngested, Outbox

_log = logging.getLogger("kalam_notify.sources")

IDLE_STORE_SECONDS = 10.0
"""A position that moves without changes is stored this often."""

MOST_UNKEYED_BYTES = 64 * 1024 * 1024
"""Rows of a table without a key that are copied: it has to be done at one stroke."""

_MOST_ATTEMPTS = 5
_PAGE_ROWS = 500
_PAGE_BYTES = 1024 * 1024

OnTurn = Callable[[bool], None]
OnTables = Callable[[Mapping[TableId, Definition]], None]
"""Told of the source's tables before their first change; raises StorageFault."""


class Runner:
    """Follows a source over one session. `table_of` makes a TableDef of a definition."""

    def __init__(
        self,
        source: Source,
        log: EventLog,
        table_of: Callable[[TableId, Definition], TableDef],
        on_tables: OnTables,
        on_ingested: OnIngested,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._event_log = log
        self._table_of = table_of
        self._on_tables = on_tables
        self._on_ingested = on_ingested
        self._clock = clock
        self._known: dict[TableId, Definition] = {}

    async def run(self, on_up: Callable[[], None], on_turn: OnTurn = lambda has_turn: None) -> None:
        """Follow until the session ends with a fault, which is raised; `on_up`: it streams.

        Where other nodes may follow, too, it waits for its turn; `on_turn` tells whether it does.
        """
        name, log = self._source.name, self._event_log
        if log.cluster is None:
            # What an earlier session has left on its way into the log is there after this.
            await log.append([], mark=SourceMark(name))
            await self._run(await self._state(), None, on_up)
            return
        try:
            await self._be_level()
        except LogUnavailable:
            await self._source.guard()
            raise
        async with self._source.alone(log.cluster, lambda: on_turn(False)):
            # It may have waited for days.
            await self._be_level()
            on_turn(True)
            marks = await self._claim()
            state = await self._state()
            if state.last_mark != marks.last:
                raise SourceOvertaken(f"another node follows {name}")
            await self._run(state, marks, on_up)

    async def _be_level(self) -> None:
        """Raise LogUnavailable where this node is not the one to tell anybody anything."""
        if (reason := self._event_log.why_not_ready()) is not None:
            raise LogUnavailable(reason)
        await self._event_log.latest()

    async def _state(self) -> SourceState:
        states = await self._event_log.sources()
        return states.get(self._source.name, SourceState(None, {}))

    async def _claim(self) -> Marks:
        """Be whose marks follow on the last one there is."""
        for _ in range(_MOST_ATTEMPTS):
            marks = Marks((await self._state()).last_mark)
            claim = marks.following(SourceMark(self._source.name))
            try:
                await self._event_log.append([], mark=claim)
            except SourceOvertaken:
                # What its last reader had on its way has come before it.
                continue
            marks.stored(claim)
            return marks
        raise SourceOvertaken(f"another node follows {self._source.name}")

    async def _run(
        self, state: SourceState, marks: Marks | None, on_up: Callable[[], None]
    ) -> None:
        name, log = self._source.name, self._event_log
        self._known = {table: decode_definition(text) for table, text in state.tables.items()}
        if self._known:
            # Another worker may have followed until now, and known more tables than this one.
            self._on_tables(self._known)
        session = await self._source.connect(state.position, log.largest_batch)
        try:
            self._session = session
            self._outbox = Outbox(name, log, session.stored, self._on_ingested, marks)
            async with asyncio.TaskGroup() as tasks:
                storing = tasks.create_task(self._outbox.run(), name=f"source {name} outbox")
                try:
                    await self._follow(on_up)
                finally:
                    storing.cancel()
        finally:
            await session.close()

    async def _follow(self, on_up: Callable[[], None]) -> None:
        session = self._session
        if session.begins_anew:
            await self._begin_anew()
        await self._reconcile()
        stored_at = self._clock()
        on_up()
        async for event in session.stream():
            match event:
                case Piece():
                    await self._outbox.put(event)
                case Truncated(tables, position):
                    await self._truncate(tables, position)
                case Altered():
                    await self._outbox.flush()
                    await session.refresh()
                    await self._reconcile()
                case Caught(position):
                    if self._clock() - stored_at >= IDLE_STORE_SECONDS:
                        stored_at = self._clock()
                        await self._outbox.put(Piece((), position, 0.0))

    # Tables

    async def _begin_anew(self) -> None:
        """From here on the stream is another one: what is known of rows may be wrong."""
        defined = []
        for name, definition in self._known.items():
            if definition.primary_key:
                self._known[name] = replace(definition, cut=None)
            elif definition.cut is not None:
                self._known[name] = replace(definition, cut=CUT_ONLY)
                _log.warning(
                    "source %s: changes of %s may be missing from here: it has no primary key, so"
                    " its rows cannot be compared",
                    *(self._source.name, name),
                )
            defined.append((name, encode_definition(self._known[name])))
        await self._store([], position=self._session.position(), defined=tuple(defined))

    async def _reconcile(self) -> None:
        """Bring what is known of the tables to what there is, and copy what has to be."""
        for attempt in range(_MOST_ATTEMPTS):
            there = self._session.definitions
            for name in [name for name in self._known if name not in there]:
                await self._drop(name)
            for name, definition in there.items():
                await self._define(name, definition)
            due = [name for name, one in self._known.items() if not one.cut]
            try:
                for name in due:
                    await self._copy(name)
            except TableMoved as moved:
                _log.debug("a table changed while it was copied: %s", moved)
                if attempt == _MOST_ATTEMPTS - 1:
                    raise
                await self._session.refresh()
                continue
            finally:
                with suppress(Exception):
                    await self._session.end_copies()
            break
        self._session.know(self._known)

    async def _define(self, name: TableId, definition: Definition) -> None:
        known = self._known.get(name)
        if known is not None and known.shape == definition:
            return
        if known is not None and known.primary_key != definition.primary_key:
            if known.primary_key:
                await self._delete_all(name, known)
            await self._store([], forgotten=(name,))
        elif known is not None and not definition.primary_key:
            # There are no rows to tell otherwise, and what it tells next is told as it will be.
            definition = replace(definition, cut=known.cut)
        self._known[name] = definition
        await self._announce(name)
        await self._store([], defined=((name, encode_definition(definition)),))
        _log.info("source %s: follows %s", self._source.name, name)

    async def _announce(self, name: TableId) -> None:
        try:
            self._on_tables(self._known)
        except StorageFault:
            # The log has changes of another table of this name, from before it was followed.
            await self._store([], forgotten=(name,))
            self._on_tables(self._known)

    async def _drop(self, name: TableId) -> None:
        known = self._known[name]
        if known.primary_key:
            await self._delete_all(name, known)
        del self._known[name]
        await self._store([], dropped=(name,))
        self._on_tables(self._known)
        _log.info("source %s: table %s dropped", self._source.name, name)

    # Rows

    async def _copy(self, name: TableId) -> None:
        """Make the log's rows those of a copy, and note its cut with the last of them."""
        definition = self._known[name]
        started = self._clock()
        copy = await self._session.copy(name)
        done = replace(definition, cut=copy.cut)
        defined = ((name, encode_definition(done)),)
        if definition.primary_key:
            count = await self._copy_keyed(name, definition, copy)
            await self._store([], defined=defined)
        else:
            rows = [] if definition.cut == CUT_ONLY else await self._unkeyed(name, copy)
            count = len(rows)
            await self._store(rows, defined=defined)
        self._known[name] = done
        seconds = self._clock() - started
        _log.info("source %s: %s copied, %d rows, %.1f s", self._source.name, name, count, seconds)

    async def _copy_keyed(self, name: TableId, definition: Definition, copy: Copy) -> int:
        table = self._table_of(name, definition)
        # What the log has and the copy has not is gone.
        may_be_gone = await self._has_rows(table)
        seen: set[str | None] = set()
        count = 0
        async for batch in copy.batches():
            if may_be_gone:
                seen.update(change.key for change in batch)
            count += len(batch)
            await self._store_in_parts(batch)
        if may_be_gone:
            await self._delete(table, lambda key: key not in seen)
        return count

    async def _unkeyed(self, name: TableId, copy: Copy) -> list[PostedChange]:
        rows: list[PostedChange] = []
        size, most = 0, MOST_UNKEYED_BYTES
        if (largest := self._event_log.largest_batch) is not None:
            most = min(most, largest)
        async for batch in copy.batches():
            rows += batch
            size += sum(map(size_of, batch))
            if size > most:
                _log.warning(
                    "source %s: %s has no primary key and more than %d bytes of rows: those of"
                    " before now are not told",
                    *(self._source.name, name, most),
                )
                return []
        return rows

    async def _truncate(self, tables: tuple[TableId, ...], position: str) -> None:
        await self._outbox.flush()
        for name in tables:
            definition = self._known.get(name)
            if definition is not None and definition.primary_key:
                await self._delete_all(name, definition)
        # Only now: after a crash what is left of the rows goes first.
        await self._store([], position=position)

    async def _delete_all(self, name: TableId, definition: Definition) -> None:
        await self._delete(self._table_of(name, definition), lambda key: True)

    async def _has_rows(self, table: TableDef) -> bool:
        page = await self._event_log.page(PageRequest(table, SHARED, None, 0, None, 1, _PAGE_BYTES))
        return bool(page.rows)

    async def _delete(self, table: TableDef, is_gone: Callable[[str | None], bool]) -> None:
        """Delete the rows of these keys, page by page; nobody else writes to the table."""
        after, as_of = 0, None
        while True:
            page = await self._event_log.page(
                PageRequest(table, SHARED, None, after, as_of, _PAGE_ROWS, _PAGE_BYTES)
            )
            gone = []
            for _, row in page.rows:
                key = key_of(table.primary_key, row.values)
                if is_gone(key):
                    gone.append(_delete_of(table, row, key))
            if gone:
                await self._store_in_parts(gone)
            if not page.has_more:
                return
            after, as_of = page.rows[-1][0], page.as_of

    async def _store_in_parts(self, batch: list[PostedChange]) -> None:
        """Store what need not be stored at one stroke, in batches that the log can take."""
        part: list[PostedChange] = []
        largest, size = self._event_log.largest_batch, 0
        for change in batch:
            size += size_of(change)
            if largest is not None and part and size > largest:
                await self._store(part)
                part, size = [], size_of(change)
            part.append(change)
        if part:
            await self._store(part)

    async def _store(
        self,
        batch: list[PostedChange],
        *,
        position: str | None = None,
        defined: tuple[tuple[TableId, str], ...] = (),
        dropped: tuple[TableId, ...] = (),
        forgotten: tuple[TableId, ...] = (),
    ) -> None:
        mark = SourceMark(self._source.name, position, defined, dropped, forgotten)
        await self._outbox.store(batch, mark)


def _delete_of(table: TableDef, row: Row, key: str | None) -> PostedChange:
    return PostedChange(table.id, SHARED, "delete", None, row, key)
