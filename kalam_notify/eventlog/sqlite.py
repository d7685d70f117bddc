"""The embedded log: one SQLite file, one writing thread, a few reading ones.

    append --> Writer (thread) --commit--> report --> event loop: _advance --> window, waiters
                                  |                                  ^
                                  +--> Doorbell of other processes --+-- _pull: read the file

Committed changes of this process reach the window without being read again. Several processes may
share the file: seqs are given inside the write transaction, and a process that is rung, or finds
that its own commit does not follow on its window, reads what is missing from the file. Only
`_advance` moves the window, so `last_seq` rises contiguously whichever way changes arrive.

What survives a crash is what `schema` says: every acknowledged batch, and no half of any.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from kalam_notify.errors import Compacted, LogUnavailable, StorageFault
from kalam_notify.eventlog import reader, schema
from kalam_notify.eventlog.base import Appended, Matches, OnAppend, Page, PageRequest, Stretch
from kalam_notify.eventlog.catalog import refuse_changed_shapes
from kalam_notify.eventlog.doorbell import Doorbell
from kalam_notify.eventlog.judging import LoopJudge
from kalam_notify.eventlog.looks import SharedLook
from kalam_notify.eventlog.pool import ReaderPool
from kalam_notify.eventlog.retention import TRIM_SECONDS, Retention, age_classes
from kalam_notify.eventlog.settling import NOTHING
from kalam_notify.eventlog.storing import Posting
from kalam_notify.eventlog.tables import refuse_unfit
from kalam_notify.eventlog.trimming import Edges, edges
from kalam_notify.eventlog.turns import Turns
from kalam_notify.eventlog.waiters import Waiters
from kalam_notify.eventlog.window import Window
from kalam_notify.eventlog.writer import Outcome, Report, Trimmed, TrimOrder, Waiting, Writer
from kalam_notify.model import Change, Owner, PostedChange, TableDef, TableId
from kalam_notify.model.hints import Hint

WINDOW_BYTES = 32 * 1024 * 1024
_PULL_CHANGES = 4096
_PULL_BYTES = 4 * 1024 * 1024


class _Ticket(NamedTuple):
    """Who waits for a batch, how much it weighs, and since when (monotonic seconds)."""

    future: asyncio.Future[Appended]
    size: int
    since: float


class SqliteLog:
    """An EventLog in one SQLite file.

    `clock` gives Unix time in seconds; ages in retention are told by it. `trim_seconds` is how
    often retention is looked after (and the file looked at, should a doorbell have been lost).
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: schema.Durability = "commit",
        retention: Retention | None = None,
        window_bytes: int = WINDOW_BYTES,
        trim_seconds: float = TRIM_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_append: OnAppend | None = None
        self._path = path
        self._retention = retention or Retention()
        self._trim_seconds = trim_seconds
        self._declared: dict[TableId, TableDef] = {}
        self._window = Window(max_bytes=window_bytes)
        self._waiters = Waiters()
        self._writer = Writer(
            lambda: schema.open_writer(path, durability),
            Turns(path.parent),
            self._declared,
            clock,
            self._report,
        )
        self._pool = ReaderPool(path)
        self._names = reader.TableNames()
        self._doorbell = Doorbell(path.parent)
        self._edges = Edges(1, 0, 0, {})
        # What the window had taken in when `_edges` was read: the log has grown by the rest.
        self._entered = 0
        self._open = False
        self._numbers = count()
        self._tickets: dict[int, _Ticket] = {}
        self._trims: dict[int, asyncio.Future[int]] = {}
        self._waiting_bytes = 0
        self._appends = self._append_faults = self._changes = 0
        self._last_append_seconds = 0.0
        self._pull_wanted = asyncio.Event()
        # Whether another process has ever been there: what is known here may be behind from then.
        self._shared = False
        self._looks = SharedLook(self._look)
        self._tasks: list[asyncio.Task[None]] = []

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open or create the file and begin to follow it."""
        self._loop = asyncio.get_running_loop()
        self._writer_ended = self._loop.create_future()
        self._judge = LoopJudge()
        await asyncio.to_thread(schema.prepare, self._path)
        try:
            await asyncio.to_thread(self._writer.start)
            self._open = True
            await self._find_place()
        except (sqlite3.Error, LogUnavailable) as fault:
            await self.close()
            raise StorageFault(f"{self._path}: cannot be read as a log: {fault}") from fault
        except BaseException:
            await self.close()
            raise
        self._tasks = [
            asyncio.create_task(self._pull(), name="log pull"),
            asyncio.create_task(self._look_after(), name="log retention"),
        ]

    async def _find_place(self) -> None:
        self._check_shapes(self._declared.values())
        # Hung before the file is read, so that no commit falls in between.
        self._doorbell.hang(self._rung)
        # Who was here before learns that it is not alone any more, before anything is written here.
        if await asyncio.to_thread(self._doorbell.ring_others):
            self._shared = True
        self._edges, last_seq = await self._pool.run(_standing)
        self._window.reset(last_seq)

    async def close(self) -> None:
        """Store what has been posted, then let go of threads, pipe and file."""
        if not self._open:
            return
        self._open = False
        self._writer.stop()
        await self._writer_ended
        self._writer.join()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._doorbell.take_down()
        await self._pool.close()

    def declare(self, tables: Iterable[TableDef]) -> None:
        """See EventLog.declare. Before `start` the file is not looked at; `start` does then."""
        tables = list(tables)
        if self._open:
            self._check_shapes(tables)
        self._declared.update({table.id: table for table in tables})

    def _check_shapes(self, tables: Iterable[TableDef]) -> None:
        with self._pool.connection() as connection:
            refuse_changed_shapes(connection, tables)

    def _require_open(self) -> None:
        if not self._open:
            raise LogUnavailable("the log is closed")

    # -- edges -----------------------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        return min(self._edges.first_seq, self.last_seq + 1)

    @property
    def last_seq(self) -> int:
        return self._window.last_seq

    @property
    def is_shared(self) -> bool:
        return self._shared

    async def latest(self) -> int:
        self._require_open()
        return await self._looks() if self._shared else self.last_seq

    async def _look(self) -> int:
        seen = await self._pool.run(reader.glance, self._edges)
        self._learn(seen.edges)
        if seen.last_seq > self.last_seq:
            self._pull_wanted.set()
        return max(seen.last_seq, self.last_seq)

    def _learn(self, found: Edges | None) -> None:
        # What was read earlier may be told later.
        if found is not None and found.horizon >= self._edges.horizon:
            self._edges = found
            self._entered = self._window.entered

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    def horizon(self, table: TableId | None = None) -> int:
        if table is None:
            return self._edges.horizon
        return self._edges.horizons.get(table, 0)

    def statistics(self) -> dict[str, float]:
        return {
            "waiting_batches": len(self._tickets),
            "waiting_bytes": self._waiting_bytes,
            "window_changes": len(self._window),
            "window_bytes": self._window.bytes,
            "log_bytes": self._edges.bytes + self._window.entered - self._entered,
            "file_bytes": sum(_size(self._path, suffix) for suffix in ("", "-wal")),
            "appends": self._appends,
            "append_faults": self._append_faults,
            "changes": self._changes,
            "last_append_seconds": self._last_append_seconds,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
        }

    async def wait_beyond(self, seq: int) -> None:
        while self.last_seq <= seq:
            await self._waiters.wait()

    # -- writing ---------------------------------------------------------------------------------

    async def append(self, batch: Sequence[PostedChange], batch_key: str | None = None) -> Appended:
        """See EventLog.append. Cancelling the wait does not take the batch back."""
        refuse_unfit(batch, self._declared)
        self._require_open()
        if not batch and batch_key is None:
            return NOTHING
        size = sum(_weight(change) for change in batch)
        number = next(self._numbers)
        ticket = _Ticket(self._loop.create_future(), size, time.monotonic())
        self._tickets[number] = ticket
        self._waiting_bytes += size
        self._writer.put(Waiting(Posting(batch, batch_key), size, number))
        return await ticket.future

    def retain(self, retention: Retention) -> None:
        self._retention = retention

    async def trim(self) -> int:
        self._require_open()
        number = next(self._numbers)
        done: asyncio.Future[int] = self._loop.create_future()
        self._trims[number] = done
        classes = age_classes(self._retention, self._declared.values())
        self._writer.put(TrimOrder(classes, self._retention.max_bytes, number))
        return await done

    def _report(self, report: Report) -> None:
        """In the writing thread: what has happened goes to the loop, and the others are rung."""
        self._loop.call_soon_threadsafe(self._take_report, report)
        if _concerns_others(report):
            self._doorbell.ring_others()

    def _take_report(self, report: Report) -> None:
        match report:
            case Outcome():
                self._finish_appends(report)
            case Trimmed():
                self._finish_trim(report)
            case None:
                self._writer_ended.set_result(None)

    def _finish_appends(self, outcome: Outcome) -> None:
        group = outcome.group
        if group is not None:
            self._advance(group.before, group.changes, group.sizes)
        now = time.monotonic()
        for place, number in enumerate(outcome.tickets):
            ticket = self._tickets.pop(number)
            self._waiting_bytes -= ticket.size
            if group is not None:
                self._acknowledge(ticket, group.answers[place], now - ticket.since)
            else:
                self._append_faults += 1
                if not ticket.future.done() and outcome.fault is not None:
                    ticket.future.set_exception(outcome.fault)

    def _acknowledge(self, ticket: _Ticket, appended: Appended, seconds: float) -> None:
        self._appends += 1
        self._changes += appended.accepted
        self._last_append_seconds = seconds
        if not ticket.future.done():
            ticket.future.set_result(appended)
        if self.on_append is not None:
            self.on_append(seconds, appended.accepted)

    def _finish_trim(self, trimmed: Trimmed) -> None:
        self._learn(trimmed.edges)
        done = self._trims.pop(trimmed.ticket)
        if not done.done():
            done.set_result(trimmed.removed)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self._trim_seconds)
            self._pull_wanted.set()
            await self.trim()

    # -- following -------------------------------------------------------------------------------

    def _advance(
        self, before: int, changes: Sequence[Change], sizes: Sequence[int] | None = None
    ) -> None:
        """Take in changes, complete after `before`; nothing else moves the window forward."""
        last_seq = self._window.last_seq
        if before > last_seq:
            # Another process wrote in between.
            self._pull_wanted.set()
            return
        if changes and changes[0].seq <= last_seq:
            changes, sizes = [change for change in changes if change.seq > last_seq], None
        if changes:
            self._window.extend(changes, sizes)
            self._waiters.wake()

    def _rung(self) -> None:
        self._shared = True
        self._pull_wanted.set()

    async def _pull(self) -> None:
        """Read what other processes have written, whenever there is reason to look."""
        while True:
            await self._pull_wanted.wait()
            self._pull_wanted.clear()
            # A file that cannot be read now is looked at again the next time.
            with contextlib.suppress(LogUnavailable):
                await self._pull_all()

    async def _pull_all(self) -> None:
        while True:
            after = self.last_seq
            try:
                async with self._reading():
                    seen, stretch = await self._pool.run(
                        reader.follow, self._edges, self._names, after, _PULL_CHANGES, _PULL_BYTES
                    )
            except Compacted as edge:
                if self.last_seq < edge.horizon:
                    self._window.reset(edge.horizon)
                    self._waiters.wake()
                continue
            self._advance(after, stretch.changes)
            self._learn(seen.edges)
            if not stretch.changes:
                return

    def recent(self, after: int) -> Sequence[Change] | None:
        return self._window.after(after)

    # -- reading ---------------------------------------------------------------------------------

    async def read(
        self,
        after: int,
        *,
        limit: int,
        max_bytes: int,
        table: TableId | None = None,
        owner: Owner | None = None,
    ) -> Stretch:
        async with self._reading():
            return await self._pool.run(
                reader.read, self._names, after, limit, max_bytes, table, owner
            )

    async def page(self, request: PageRequest) -> Page:
        async with self._reading():
            page = await self._pool.scan(reader.page, request, self._judge)
        if page.as_of > self.last_seq:
            self._pull_wanted.set()
        return page

    async def newest(
        self,
        table: TableDef,
        owner: Owner,
        matches: Matches | None,
        count: int,
        hints: tuple[Hint, ...] | None = None,
    ) -> tuple[int, int]:
        async with self._reading():
            return await self._pool.scan(
                reader.newest, table, owner, matches, count, hints, self._judge
            )

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        self._require_open()
        try:
            yield
        except Compacted:
            # Another process may have moved the horizon, and who is told so looks at it next.
            await self._look()
            raise


def _standing(connection: sqlite3.Connection) -> tuple[Edges, int]:
    with reader.read_transaction(connection) as tail:
        return edges(connection), tail.last_seq


def _concerns_others(report: Report) -> bool:
    match report:
        case Outcome(group=group):
            return group is not None and bool(group.changes)
        case Trimmed(removed=removed):
            return removed > 0
        case None:
            return False


def _weight(change: PostedChange) -> int:
    size = 0
    if change.row is not None:
        size += len(change.row.json)
    if change.old is not None:
        size += len(change.old.json)
    return size


def _size(path: Path, suffix: str) -> int:
    try:
        return path.with_name(path.name + suffix).stat().st_size
    except OSError:
        return 0
