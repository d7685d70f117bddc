"""The one thread of a process that writes the file, and who waits for it.

What is written is the subclass's: it says what its orders are and does a little of them at a time.
Between its steps the indexes follow the log and are built, one bounded step a turn.

Where several processes share the file, they take turns by a lock beside SQLite's (`WriteLock`).
SQLite's own wait for its write lock is a poll with ever longer sleeps, up to a tenth of a second:
a process that commits without pause has the lock again before a sleeper looks, and the sleeper's
posts wait for hundreds of milliseconds. `flock` waits in the kernel and is woken by the release.
SQLite's lock is still what protects the file; this one only says who asks for it next, so a system
that cannot give it loses nothing but pace. Like SQLite's, it is let go when its holder dies.

The lock is on the directory, which is always there and is nobody else's to lock.

Who has posted a batch, or wants a trim, waits by a number on the event loop (`PendingAppends`).
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from kalam_notify.log.base import OnAppend
from kalam_notify.logs import Complaints
from kalam_notify.model import TableDef, TableId
from kalam_notify.model.changes import Appended
from kalam_notify.store.files import HighWaterMark, LogFiles, MovedFiles
from kalam_notify.store.indexing import IndexWork, follow_step
from kalam_notify.store.reader import last_seq
from kalam_notify.store.rows import Indexes, Numbers
from kalam_notify.store.soundness import is_damage

_logger = logging.getLogger(__name__)


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
        # By number, the oldest first.
        self.posted: dict[int, _Posted] = {}
        self._trims: dict[int, asyncio.Future[int]] = {}
        self._appends = self._append_faults = self._changes = 0
        self._last_append_seconds = 0.0

    def for_batch(self, size: int) -> tuple[int, asyncio.Future[Appended]]:
        """A number for a batch of `size` bytes; the future raises LogUnavailable if refused."""
        number = next(self._numbers)
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.posted[number] = _Posted(future, size, time.monotonic())
        self.waiting_bytes += size
        return number, future

    @property
    def longest_wait(self) -> float:
        """Seconds that the oldest batch has waited by now."""
        oldest = next(iter(self.posted.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def for_trim(self) -> tuple[int, asyncio.Future[int]]:
        """A number for a trim; the future gives the entries removed."""
        number = next(self._numbers)
        future = self._trims[number] = asyncio.get_running_loop().create_future()
        return number, future

    def answer(self, number: int, appended: Appended, on_append: OnAppend | None) -> None:
        """A batch has been stored: tell who waits for it."""
        posted = self._taken(number)
        seconds = time.monotonic() - posted.since
        self._appends += 1
        self._changes += appended.accepted
        self._last_append_seconds = seconds
        if not posted.future.done():
            posted.future.set_result(appended)
        if on_append is not None:
            on_append(seconds, appended)

    def refuse(self, number: int, fault: Exception) -> None:
        """A batch was not stored, or nobody knows: raise `fault` where it is waited for."""
        posted = self._taken(number)
        self._append_faults += 1
        if not posted.future.done():
            posted.future.set_exception(fault)

    def _taken(self, number: int) -> _Posted:
        posted = self.posted.pop(number)
        self.waiting_bytes -= posted.size
        return posted

    def finish_trim(self, number: int, removed: int) -> None:
        """Answer who waits for this trim."""
        future = self._trims.pop(number)
        if not future.done():
            future.set_result(removed)

    def statistics(self) -> dict[str, float]:
        return {
            "waiting_batches": len(self.posted),
            "waiting_bytes": self.waiting_bytes,
            "appends": self._appends,
            "append_faults": self._append_faults,
            "changes": self._changes,
            "last_append_seconds": self._last_append_seconds,
        }


class IndexOrder(NamedTuple):
    """Bring the indexes of the file to what the declared tables ask for."""


class Probe(NamedTuple):
    """See whether the file takes changes again, where it did not."""


class Recovered(NamedTuple):
    """The file takes changes again."""


class _Stop(NamedTuple):
    pass


class WritingThread:
    """What is common to all who write. `report` is called in the thread, None as its last word, and
    `on_fault` for what goes wrong in any transaction.

    `numbers` are those of the tables that changes are stored under; `mark` is None where the file
    is derived, and may be an older copy.
    """

    name = "kalam-log-writer"

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        files: LogFiles,
        write_lock: WriteLock,
        mark: HighWaterMark | None,
        declared: Mapping[TableId, TableDef],
        numbers: Numbers,
        report: Callable[[Any], None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._connect = connect
        self._files = files
        self._complaints = Complaints(_logger)
        self._write_lock = write_lock
        self._high_water = mark
        self._report = report
        self._on_fault = on_fault
        self._numbers = numbers
        self._indexes = Indexes()
        self._connection: sqlite3.Connection | None = None
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._index_work = IndexWork(declared, self._numbers)
        self._indexes_due = self._indexes_failed = False
        self._is_probed = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._connection = self._open()
        self._opened(self._connection)
        self._thread.start()

    def put(self, order: Any) -> None:
        self._inbox.put(order)

    def stop(self) -> None:
        """Finish what has been put before, then end; the last report is None."""
        self._inbox.put(_Stop())

    def join(self) -> None:
        self._thread.join()

    # What a subclass does

    def _opened(self, connection: sqlite3.Connection) -> None:
        """The file has been opened, in the thread that starts this one."""

    def _take(self, order: Any) -> None:
        """Keep an order that has come."""
        raise NotImplementedError

    def _has_work(self) -> bool:
        """Whether there is something to do at once."""
        raise NotImplementedError

    def _must_finish(self) -> bool:
        """Whether there is something to do even where the thread is to end."""
        raise NotImplementedError

    def _work(self) -> None:
        """Do a little of it."""
        raise NotImplementedError

    def _end(self) -> None:
        """The thread ends: answer whoever still waits."""

    # The thread

    def _run(self) -> None:
        while not self._stopping or self._must_finish():
            self._collect()
            self._work()
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
        self._end()
        self._forget_connection()
        self._write_lock.close()
        if self._high_water is not None:
            self._high_water.close()
        self._report(None)

    def _collect(self) -> None:
        """Take all that has arrived; wait for something when there is nothing to do."""
        idle = not self._has_work() and not self._indexes_due and not self._is_probed
        while idle or not self._inbox.empty():
            idle = False
            match self._inbox.get():
                case IndexOrder():
                    self._index_work.begin()
                    self._indexes_due = True
                case Probe():
                    self._is_probed = True
                case _Stop():
                    self._stopping = True
                case order:
                    self._take(order)

    def _try_indexes_again(self) -> None:
        """An index that could not be built is tried anew: what was wrong may be right by now."""
        self._indexes_due |= self._indexes_failed
        self._indexes_failed = False

    def _probe(self) -> None:
        try:
            with self._transaction() as connection:
                connection.execute("UPDATE state SET one = one")
        except Exception as fault:
            _logger.debug("changes can still not be stored: %s", fault)
            return
        self._complaints.over()
        self._report(Recovered())

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
        entries = None
        if self._connection is not None:
            entries = self._files.check_if_changed()
        connection = self._begun()
        try:
            if self._high_water is not None:
                self._high_water.check(lambda: last_seq(connection), entries)
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
