"""The one thread that writes the file: group commit, then a step of retention.

Batches queue up while a commit waits for the disk; all that have come by then go into the next
transaction together (up to a bound), so the cost of an fsync is shared by everyone who waited for
it. A transaction that fails for its own sake (a batch that cannot be stored) is taken apart and
its batches are tried one by one; one that fails for the disk's sake fails for all.

Retention takes its turns between groups, one bounded step a turn, so appends never wait for more
than a step of it.

Where several processes share the file, they take turns by a lock beside SQLite's (`WriteLock`).
SQLite's own wait for its write lock is a poll with ever longer sleeps, up to a tenth of a second:
a process that commits without pause has the lock again before a sleeper looks, and the sleeper's
posts wait for hundreds of milliseconds. `flock` waits in the kernel and is woken by the release.
SQLite's lock is still what protects the file; this one only says who asks for it next, so a system
that cannot give it loses nothing but pace. Like SQLite's, it is let go when its holder dies.

The lock is on the directory, which is always there and is nobody else's to lock.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from kalam_notify.errors import LogUnavailable
from kalam_notify.log.base import OnAppend
from kalam_notify.logs import Complaints
from kalam_notify.model import TableDef, TableId
from kalam_notify.store.base import Appended
from kalam_notify.store.catalog import Indexes, Numbers
from kalam_notify.store.files import HighWaterMark, LogFiles, LogTime, MovedFiles
from kalam_notify.store.indexing import IndexWork, follow_all, follow_step
from kalam_notify.store.reader import last_seq
from kalam_notify.store.retention import AgeClass
from kalam_notify.store.soundness import is_damage
from kalam_notify.store.sourced import write_mark
from kalam_notify.store.storing import Group, Posting, store
from kalam_notify.store.trimming import Edges, Step, edges, newest_at, trim_by_age, trim_by_bytes


class WriteLock:
    """The turns at writing in one directory, as one thread takes them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and pass it on at the end."""
        with suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if self._descriptor is not None:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Posted(NamedTuple):
    """Who waits for a batch, how much it weighs, and since when (monotonic seconds)."""

    future: asyncio.Future[Appended]
    size: int
    since: float


class PendingAppends:
    """A number for each batch and each trim under way; by it the outcome finds who waits.

    A number whose holder has gone away (cancelled) counts until its outcome comes: what was posted
    is not taken back.
    """

    def __init__(self) -> None:
        # Sum of the sizes of all batches that wait.
        self.waiting_bytes = 0
        self._numbers = count()
        self._posted: dict[int, _Posted] = {}
        self._trims: dict[int, asyncio.Future[int]] = {}
        self._appends = self._append_faults = self._changes = 0
        self._last_append_seconds = 0.0

    def for_batch(self, size: int) -> tuple[int, asyncio.Future[Appended]]:
        """A number for a batch of `size` bytes; the future raises LogUnavailable if refused."""
        number = next(self._numbers)
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._posted[number] = _Posted(future, size, time.monotonic())
        self.waiting_bytes += size
        return number, future

    @property
    def longest_wait(self) -> float:
        """Seconds that the oldest batch has waited by now."""
        oldest = next(iter(self._posted.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def for_trim(self) -> tuple[int, asyncio.Future[int]]:
        """A number for a trim; the future gives the entries removed."""
        number = next(self._numbers)
        future = self._trims[number] = asyncio.get_running_loop().create_future()
        return number, future

    def finish_batches(self, outcome: "Outcome", on_append: OnAppend | None) -> None:
        """Answer everybody whose batch was in this transaction, in order."""
        group = outcome.group
        now = time.monotonic()
        for place, number in enumerate(outcome.numbers):
            posted = self._posted.pop(number)
            self.waiting_bytes -= posted.size
            if group is not None:
                self._acknowledge(posted, group.answers[place], now - posted.since, on_append)
            else:
                self._append_faults += 1
                if not posted.future.done() and outcome.fault is not None:
                    posted.future.set_exception(outcome.fault)

    def _acknowledge(
        self, posted: _Posted, appended: Appended, seconds: float, on_append: OnAppend | None
    ) -> None:
        self._appends += 1
        self._changes += appended.accepted
        self._last_append_seconds = seconds
        if not posted.future.done():
            posted.future.set_result(appended)
        if on_append is not None:
            on_append(seconds, appended)

    def finish_trim(self, trimmed: "Trimmed") -> None:
        """Answer who waits for this trim."""
        future = self._trims.pop(trimmed.number)
        if not future.done():
            future.set_result(trimmed.removed)

    def statistics(self) -> dict[str, float]:
        return {
            "waiting_batches": len(self._posted),
            "waiting_bytes": self.waiting_bytes,
            "appends": self._appends,
            "append_faults": self._append_faults,
            "changes": self._changes,
            "last_append_seconds": self._last_append_seconds,
        }


_logger = logging.getLogger(__name__)

GROUP_CHANGES = 4096
GROUP_BYTES = 8 * 1024 * 1024


class Waiting(NamedTuple):
    """A batch in the queue; `size` in bytes of row JSON, `number` is for whoever posted it."""

    posting: Posting
    size: int
    number: int


class IndexOrder(NamedTuple):
    """Bring the indexes of the file to what the declared tables ask for."""


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


class Probe(NamedTuple):
    """See whether the file takes changes again, where it did not."""


class Recovered(NamedTuple):
    """The file takes changes again."""


class _Stop(NamedTuple):
    pass


Report = Outcome | Trimmed | Recovered | None
"""What the thread tells: a transaction, a finished trim, or None as its last word."""


class Writer:
    """The writing thread. `report` is called in it, for each transaction in order, and `on_fault`
    for what goes wrong in any.
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
        self._connect = connect
        self._files = files
        self._complaints = Complaints(_logger)
        self._write_lock = write_lock
        self._high_water = mark
        self._clock = clock
        self._report = report
        self._on_fault = on_fault
        self._numbers = Numbers(declared)
        self._indexes = Indexes()
        self._connection: sqlite3.Connection | None = None
        self._inbox: SimpleQueue[Waiting | TrimOrder | IndexOrder | Probe | _Stop] = SimpleQueue()
        self._waiting: deque[Waiting] = deque()
        self._trims: deque[_Trim] = deque()
        self._index_work = IndexWork(declared, self._numbers)
        self._indexes_due = self._indexes_failed = False
        # How far each age class has walked: entries below are of other classes, for good.
        self._walked: dict[AgeClass, int] = {}
        self._is_probed = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kalam-log-writer", daemon=True)

    def start(self) -> None:
        self._connection = self._open()
        self._clock.not_before(newest_at(self._connection))
        self._thread.start()

    def put(self, order: Waiting | TrimOrder | IndexOrder | Probe) -> None:
        self._inbox.put(order)

    def stop(self) -> None:
        """Finish what has been put before, then end; the last report is None."""
        self._inbox.put(_Stop())

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping or self._waiting:
            self._collect()
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
            if self._is_probed and not self._stopping:
                self._is_probed = False
                with self._write_lock.turn():
                    self._probe()
            if self._indexes.are_behind and not self._stopping:
                with self._write_lock.turn():
                    self._follow_step()
            if self._indexes_due and not self._stopping:
                with self._write_lock.turn():
                    self._index_step()
        for trim in self._trims:
            self._report(Trimmed(trim.order.number, trim.removed, None))
        self._forget_connection()
        self._write_lock.close()
        self._high_water.close()
        self._report(None)

    def _collect(self) -> None:
        """Take all that has arrived; wait for something when there is nothing to do."""
        idle = (
            not self._waiting and not self._trims and not self._indexes_due and not self._is_probed
        )
        while idle or not self._inbox.empty():
            idle = False
            match self._inbox.get():
                case Waiting() as waiting:
                    self._waiting.append(waiting)
                case TrimOrder() as order:
                    self._trims.append(_Trim(order))
                    self._indexes_due |= self._indexes_failed
                    self._indexes_failed = False
                case IndexOrder():
                    self._index_work.begin()
                    self._indexes_due = True
                case Probe():
                    self._is_probed = True
                case _Stop():
                    self._stopping = True

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
                self._high_water.set(group.last_seq)
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

    def _probe(self) -> None:
        try:
            with self._transaction() as connection:
                connection.execute("UPDATE state SET one = one")
        except Exception as fault:
            _logger.debug("changes can still not be stored: %s", fault)
            return
        self._complaints.over()
        self._report(Recovered())

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

    def _follow_step(self) -> None:
        """Bring the indexes nearer to the end of the log."""
        try:
            with self._transaction() as connection:
                follow_step(connection)
        except Exception:
            # What they do not know of is found without them, if slower, and tried again.
            _logger.exception("the indexes could not be brought on")
        self._indexes.tried()

    def _index_step(self) -> None:
        try:
            with self._transaction() as connection:
                self._indexes_due = self._index_work.step(connection)
        except Exception:
            _logger.exception("an index could not be built; it is tried again")
            self._index_work.begin()
            # By the next trim: what was wrong may be right by then.
            self._indexes_due, self._indexes_failed = False, True

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end, undone by any exception."""
        if self._connection is not None:
            self._files.check()
        connection = self._begun()
        try:
            self._high_water.check(lambda: last_seq(connection))
            yield connection
            connection.execute("COMMIT")
            self._numbers.committed()
        except BaseException as fault:
            self._on_fault(fault)
            self._numbers.rolled_back()
            self._indexes.forget()
            self._undo(connection)
            raise

    def _begun(self) -> sqlite3.Connection:
        """The connection, in a transaction that has just begun."""
        while True:
            is_fresh = self._connection is None
            connection = self._connection = self._connection or self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as fault:
                # Damage may be what a disk that erred has left in a connection's own memory.
                if is_damage(fault) and not is_fresh:
                    self._forget_connection()
                    continue
                self._on_fault(fault)
                raise
            return connection

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            self._files.opened()
        except MovedFiles:
            connection.close()
            raise
        return connection

    def _undo(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # What state it is in is anybody's guess; the next transaction opens the file afresh.
            self._forget_connection()

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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
