"""The embedded log: one SQLite file whose order is that of its appends.

    append --> Writer (thread) --commit--> report --> event loop

`stored` says how it is read. Several processes may append to the file.

Batches queue up while a commit waits for the disk; all that have come by then go into the next
transaction together (up to a bound), so the cost of an fsync is shared by everyone who waited for
it. A transaction that fails for its own sake (a batch that cannot be stored) is taken apart and
its batches are tried one by one; one that fails for the disk's sake fails for all.

Retention takes its turns between groups, one bounded step a turn, so appends never wait for more
than a step of it.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kalam_notify.errors import LogUnavailable
from kalam_notify.log.stored import WINDOW_BYTES, StoredLog, is_the_disks
from kalam_notify.log.writing import IndexOrder, Probe, Recovered, WriteLock, WritingThread
from kalam_notify.model import PostedChange, TableDef, TableId
from kalam_notify.model.changes import NOTHING, Appended, refuse_unfit
from kalam_notify.model.sourced import SourceMark
from kalam_notify.store import schema
from kalam_notify.store.files import (
    HighWaterMark,
    LogFiles,
    LogTime,
    MovedFiles,
    found_high_water,
    says_more,
)
from kalam_notify.store.indexing import follow_all
from kalam_notify.store.retention import TRIM_SECONDS, AgeClass, Retention, age_classes
from kalam_notify.store.rows import Numbers
from kalam_notify.store.soundness import is_damage
from kalam_notify.store.sourced import write_mark
from kalam_notify.store.storing import Group, Posting, store
from kalam_notify.store.trimming import Edges, Step, edges, newest_at, trim_by_age, trim_by_bytes

GROUP_CHANGES = 4096
GROUP_BYTES = 8 * 1024 * 1024


class Waiting(NamedTuple):
    """A batch in the queue; `size` in bytes of row JSON, `number` is for whoever posted it."""

    posting: Posting
    size: int
    number: int


class TrimOrder(NamedTuple):
    """Apply retention until nothing is due."""

    classes: Sequence[AgeClass]
    max_bytes: int | None
    number: int


class Outcome(NamedTuple):
    """What became of the batches of one transaction: stored as a group, or refused with a fault."""

    numbers: Sequence[int]
    group: Group | None
    fault: LogUnavailable | None


class Trimmed(NamedTuple):
    """A finished order. `edges` is None when the log could not be read or written."""

    number: int
    removed: int
    edges: Edges | None


Report = Outcome | Trimmed | Recovered | None
"""What the thread tells: a transaction, a finished trim, or None as its last word."""


class Writer(WritingThread):
    """The writing thread of a log whose order is that of its appends.

    `report` is called in it, for each transaction in order.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        files: LogFiles,
        write_lock: WriteLock,
        mark: HighWaterMark,
        declared: Mapping[TableId, TableDef],
        clock: LogTime,
        report: Callable[[Report], None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        numbers = Numbers(declared)
        super().__init__(connect, files, write_lock, mark, declared, numbers, report, on_fault)
        self._mark = mark
        self._clock = clock
        self._waiting: deque[Waiting] = deque()
        self._trims: deque[_Trim] = deque()
        # How far each age class has walked: entries below are of other classes, for good.
        self._walked: dict[AgeClass, int] = {}

    def _opened(self, connection: sqlite3.Connection) -> None:
        self._clock.not_before(newest_at(connection))

    def _take(self, order: Waiting | TrimOrder) -> None:
        match order:
            case Waiting():
                self._waiting.append(order)
            case TrimOrder():
                self._trims.append(_Trim(order))
                self._try_indexes_again()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._trims)

    def _must_finish(self) -> bool:
        return bool(self._waiting)

    def _work(self) -> None:
        if self._waiting:
            with self._write_lock.turn():
                # What has come while others wrote goes along.
                self._collect()
                outcomes = list(self._store_group(self._next_group()))
            for outcome in outcomes:
                self._report(outcome)
        # After every group, not only when none waits: producers that never pause must not keep
        # the log from being trimmed.
        if self._trims and not self._stopping:
            with self._write_lock.turn():
                self._trim_step(self._trims[0])

    def _end(self) -> None:
        for trim in self._trims:
            self._report(Trimmed(trim.order.number, trim.removed, None))

    def _next_group(self) -> list[Waiting]:
        group = [self._waiting.popleft()]
        changes, size = len(group[0].posting.batch), group[0].size
        while self._waiting:
            changes += len(self._waiting[0].posting.batch)
            size += self._waiting[0].size
            if changes > GROUP_CHANGES or size > GROUP_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    def _store_group(self, waiting: Sequence[Waiting]) -> Iterator[Outcome]:
        try:
            group = self._store(waiting)
        except (sqlite3.OperationalError, MovedFiles) as fault:
            yield self._refused(waiting, fault)
        except Exception as fault:
            if is_damage(fault):
                yield self._refused(waiting, fault)
                return
            # Not the disk: one of the batches cannot be stored. The others must not pay for it.
            if len(waiting) == 1:
                yield self._refused(waiting, fault)
                return
            for one in waiting:
                yield from self._store_group([one])
        else:
            if self._complaints.standing:
                self._complaints.over()
            if group.last_seq > group.before:
                self._mark.set(group.last_seq)
            yield Outcome([one.number for one in waiting], group, None)

    def _store(self, waiting: Sequence[Waiting]) -> Group:
        postings = [one.posting for one in waiting]
        with self._transaction() as connection:
            group = store(connection, self._numbers, self._indexes, postings, self._clock())
            for posting in postings:
                if posting.mark is not None:
                    write_mark(connection, posting.mark)
            return group

    def _refused(self, waiting: Sequence[Waiting], cause: Exception) -> Outcome:
        self._complaints.say(
            type(cause).__name__, f"changes could not be stored: {type(cause).__name__}: {cause}"
        )
        fault = LogUnavailable(f"the log could not store the changes: {cause}")
        fault.__cause__ = cause
        return Outcome([one.number for one in waiting], None, fault)

    def _trim_step(self, trim: "_Trim") -> None:
        try:
            with self._transaction() as connection:
                # What retention takes away, they could not follow any more.
                follow_all(connection)
                finished = trim.step(connection, self._walked, self._clock())
                found = edges(connection) if finished else None
        except Exception as fault:
            kind = type(fault).__name__
            self._complaints.say(f"trim {kind}", f"retention could not be applied: {kind}: {fault}")
            finished, found = True, None
        if finished:
            self._trims.popleft()
            self._report(Trimmed(trim.order.number, trim.removed, found))


class _Trim:
    """An order under way: age classes one after the other, then bytes."""

    def __init__(self, order: TrimOrder) -> None:
        self.order = order
        self.removed = 0
        self._classes = deque(order.classes)

    def step(self, connection: sqlite3.Connection, walked: dict[AgeClass, int], now: float) -> bool:
        """One step; True when nothing more is due."""
        if self._classes:
            members = self._classes[0]
            step = trim_by_age(connection, members, walked.get(members, 0), now)
            walked[members] = step.upto
            if not step.more:
                self._classes.popleft()
            more = step.more or bool(self._classes) or self.order.max_bytes is not None
        else:
            step = self._bytes_step(connection)
            more = step.more
        self.removed += step.removed
        return not more

    def _bytes_step(self, connection: sqlite3.Connection) -> Step:
        if self.order.max_bytes is None:
            return Step(0, 0, more=False)
        return trim_by_bytes(connection, self.order.max_bytes)


class SqliteLog(StoredLog):
    """An EventLog in one SQLite file.

    `clock` gives Unix time in seconds; ages in retention are told by it. `trim_seconds` is how
    often retention is looked after (and the file looked at, should a doorbell have been lost). A
    log that is new begins after `begin`.
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
        ticking: Callable[[], float] = time.monotonic,
        begin: int = 0,
    ) -> None:
        super().__init__(path, window_bytes)
        self._begin = begin
        self._durability = durability
        self._retention = retention or Retention()
        self._trim_seconds = trim_seconds
        self._writer = Writer(
            lambda: schema.open_writer(path, durability),
            self._files,
            WriteLock(path.parent),
            HighWaterMark(path),
            self._declared,
            LogTime(clock, ticking),
            self._report,
            self._soundness.met,
        )
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await super().start()
        self._upkeep = asyncio.create_task(self._look_after(), name="log retention")

    def _prepare(self) -> None:
        schema.prepare(self._path, self._begin)

    async def _begin_writing(self) -> None:
        self._writer_ended = self._loop.create_future()
        await asyncio.to_thread(self._writer.start)

    async def _end_writing(self) -> None:
        self._writer.stop()
        await self._writer_ended
        self._writer.join()
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)

    def _indexes_changed(self) -> None:
        self._writer.put(IndexOrder())

    def _probe(self) -> None:
        self._writer.put(Probe())

    async def latest(self, at_least: int = 0) -> int:
        self._require_open()
        return await self._follower.latest()

    async def append(
        self,
        batch: Sequence[PostedChange],
        batch_key: str | None = None,
        mark: SourceMark | None = None,
    ) -> Appended:
        """See EventLog.append. Cancelling the wait does not take the batch back."""
        refuse_unfit(batch, self._declared)
        self._require_open()
        if self._soundness.reason is not None:
            raise LogUnavailable(self._soundness.reason)
        if not batch and batch_key is None and mark is None:
            return NOTHING
        size = sum(change.size for change in batch)
        number, stored = self._pending.for_batch(size)
        self._writer.put(Waiting(Posting(batch, batch_key, mark), size, number))
        appended = await stored
        if mark is not None and mark.forgotten:
            # The table's horizon has moved: readers below it are to learn so from now on.
            await self._follower.look()
        return appended

    def retain(self, retention: Retention) -> None:
        self._retention = retention

    async def trim(self) -> int:
        self._require_open()
        number, done = self._pending.for_trim()
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
            case Outcome(group=group):
                if group is not None:
                    self._append_fault = None
                    if group.changes is None:
                        self._follower.hear_of(group.last_seq)
                    else:
                        self._follower.advance(group.before, group.changes, group.sizes)
                elif report.fault is not None and is_the_disks(report.fault):
                    self._append_fault = str(report.fault)
                for place, number in enumerate(report.numbers):
                    if group is not None:
                        self._pending.answer(number, group.answers[place], self.on_append)
                    elif report.fault is not None:
                        self._pending.refuse(number, report.fault)
            case Recovered():
                self._append_fault = None
            case Trimmed(edges=edges):
                self._follower.learn(edges)
                self._pending.finish_trim(report.number, report.removed)
            case None:
                self._writer_ended.set_result(None)

    async def _why_misled(self) -> str | None:
        """What is wrong with the mark: it tells no seq that the log has not given."""
        try:
            mark = await asyncio.to_thread(found_high_water, self._path)
            # Asked after the mark, for others may append meanwhile.
            if mark <= self.last_seq or mark <= await self._follower.look():
                return None
        except (OSError, ValueError, LogUnavailable):
            return None
        return says_more(self._path)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self._trim_seconds)
            self._follower.want_pull()
            await self.trim()


def _concerns_others(report: Report) -> bool:
    match report:
        case Outcome(group=group):
            return group is not None and group.last_seq > group.before
        case Trimmed(removed=removed):
            return removed > 0
        case _:
            return False
