"""A log as its file tells it: whoever decides the order of changes, this is how they are read.

    whoever writes --commit--> report --> event loop: Follower, then PendingAppends
                           |
                           +--> Doorbell of other processes --> their Follower

Several processes may share the file. `following` says how the changes of all processes reach the
window in memory, `reader` how the rest is read from the file. A change is in the window before its
producer is answered, unless another process wrote before it.

What survives a crash is what `schema` says: every acknowledged batch, and no half of any.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterable, Sequence, Sized
from pathlib import Path

from kalam_notify.config import NatsSettings
from kalam_notify.errors import Compacted, DamagedFile, LogUnavailable, StorageFault
from kalam_notify.log.base import OnAppend, OnStep, Step
from kalam_notify.log.following import Doorbell, Follower
from kalam_notify.log.soundness import Soundness
from kalam_notify.log.writing import PendingAppends
from kalam_notify.model import Change, Owner, TableDef, TableId
from kalam_notify.model.hints import NO_HINTS, Hints
from kalam_notify.model.sourced import SourceState
from kalam_notify.model.tables import SeenColumns
from kalam_notify.store import pages, reader, schema
from kalam_notify.store.access import may_look_up
from kalam_notify.store.base import Matches, Page, PageRequest, Span
from kalam_notify.store.catalog import refuse_changed_shapes
from kalam_notify.store.files import LogFiles, MovedFiles, cure
from kalam_notify.store.filtering import LoopFilter
from kalam_notify.store.reader import ReaderPool
from kalam_notify.store.sampling import newest_columns
from kalam_notify.store.soundness import damage_text, is_damage
from kalam_notify.store.sourced import source_states, source_version

WINDOW_BYTES = 32 * 1024 * 1024
WATCH_SECONDS = 1.0

HANGING_SECONDS = 3.0


class StoredLog:
    """What an EventLog with a file is but for `append` and `trim`, which decide what is in it."""

    def __init__(self, path: Path, window_bytes: int) -> None:
        self.on_append: OnAppend | None = None
        self.on_step: OnStep | None = None
        self._path = path
        self._declared: dict[TableId, TableDef] = {}
        self._soundness = Soundness(path)
        self._files = LogFiles(path)
        self._pool = ReaderPool(path, self._soundness.met)
        self._names = reader.TableNames()
        self._doorbell = Doorbell(path.parent)
        self._follower = Follower(self._pool, self._names, self._doorbell, window_bytes)
        self._pending = PendingAppends()
        self.waiting: Sized = self._pending.posted
        # Why changes cannot be stored at the moment, and why the file is not what it should be.
        self._append_fault: str | None = None
        self._moved: str | None = None
        self._watch: asyncio.Task[None] | None = None
        self._open = False

    # -- what a subclass does --------------------------------------------------------------------

    def _prepare(self) -> None:
        """Create the file, or make sure of it; in a thread."""
        raise NotImplementedError

    async def _begin_writing(self) -> None:
        """Start what writes the file, of which there may be nothing in this process."""
        raise NotImplementedError

    async def _end_writing(self) -> None:
        """Store what has been posted, and end it."""
        raise NotImplementedError

    def _indexes_changed(self) -> None:
        """What indexes the declared tables ask for has changed."""
        raise NotImplementedError

    def _probe(self) -> None:
        """See whether the file takes changes again."""
        raise NotImplementedError

    async def _why_misled(self) -> str | None:
        """What is wrong beside the file; asked every second."""
        return None

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open or create the file and begin to follow it."""
        self._loop = asyncio.get_running_loop()
        self._row_filter = LoopFilter()
        await asyncio.to_thread(self._prepare)
        try:
            await self._refuse_damaged()
            await self._begin_writing()
            self._open = True
            self._check_shapes(self._declared.values())
            await self._follower.start()
        except (sqlite3.Error, OSError, MovedFiles, LogUnavailable) as fault:
            await self.close()
            if is_damage(fault) or is_damage(fault.__cause__):
                raise DamagedFile(damage_text(self._path, str(fault.__cause__ or fault))) from fault
            raise StorageFault(
                f"{self._path}: cannot be used as a log: {fault}; {cure(self._path, fault)}"
            ) from fault
        except BaseException:
            await self.close()
            raise
        self._indexes_changed()
        self._watch = asyncio.create_task(self._watch_files(), name="log files")

    async def _refuse_damaged(self) -> None:
        found = await self._soundness.start()
        if found is not None:
            raise DamagedFile(found)

    async def close(self) -> None:
        """Store what has been posted, then let go of threads, pipe and file."""
        await self._soundness.close()
        if not self._open:
            return
        self._open = False
        await self._end_writing()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._follower.stop()
        await self._pool.close()

    def declare(self, tables: Iterable[TableDef]) -> None:
        """See EventLog.declare. Before `start` the file is not looked at; `start` does then."""
        tables = list(tables)
        if self._open:
            self._check_shapes(tables)
        concerned = any(table.indexes or table.id in self._declared for table in tables)
        self._declared.update({table.id: table for table in tables})
        if self._open and concerned:
            self._indexes_changed()

    def _check_shapes(self, tables: Iterable[TableDef]) -> None:
        with self._pool.connection() as connection:
            refuse_changed_shapes(connection, tables)

    def newest_columns(self, table: TableDef, owner: Owner) -> SeenColumns | None:
        self._require_open()
        with self._pool.connection() as connection:
            return newest_columns(connection, table, owner)

    def _require_open(self) -> None:
        if not self._open:
            raise LogUnavailable("the log is closed")

    # -- edges -----------------------------------------------------------------------------------

    @property
    def steps(self) -> Collection[Step]:
        """See EventLog.steps."""
        return ()

    @property
    def first_seq(self) -> int:
        return self._follower.first_seq

    @property
    def base(self) -> int:
        return self._follower.base

    @property
    def last_seq(self) -> int:
        return self._follower.last_seq

    @property
    def is_shared(self) -> bool:
        return self._follower.is_shared

    def horizon(self, table: TableId | None = None) -> int:
        return self._follower.horizon(table)

    def statistics(self) -> dict[str, float]:
        return {
            **self._pending.statistics(),
            **self._follower.statistics(),
            "file_bytes": _size(self._path) + _size(schema.wal_path(self._path)),
        }

    async def wait_beyond(self, seq: int) -> None:
        await self._follower.wait_beyond(seq)

    def recent(self, after: int, limit: int | None = None) -> Sequence[Change] | None:
        return self._follower.recent(after, limit)

    # -- whether changes can be stored ------------------------------------------------------------

    async def _watch_files(self) -> None:
        """Every second: whether the files are still there, and after a fault whether it is over."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._moved = await asyncio.to_thread(self._why_moved) or await self._why_misled()
            if self._append_fault is not None:
                self._probe()

    def _why_moved(self) -> str | None:
        try:
            self._files.check()
        except MovedFiles as moved:
            return str(moved)
        return None

    def adjust(self, nats: NatsSettings) -> None:
        pass

    def why_leave(self) -> str | None:
        return None

    def why_not_ready(self) -> str | None:
        """See EventLog.why_not_ready."""
        if not self._open:
            return "the log is closed"
        return self._why_not_storing(HANGING_SECONDS)

    def _why_not_storing(self, patience: float) -> str | None:
        """Why the file takes no changes, or a batch has waited for longer than this."""
        found = self._soundness.reason or self._moved or self._append_fault
        if found is not None:
            return found
        waited = self._pending.longest_wait
        if waited > patience:
            return f"the log has not stored a change for {waited:.0f} s"
        return None

    @property
    def cluster(self) -> str | None:
        return None

    @property
    def largest_batch(self) -> int | None:
        return None

    async def sources(self) -> dict[str, SourceState]:
        async with self._reading():
            return await self._pool.run(source_states)

    async def source_version(self) -> int:
        async with self._reading():
            return await self._pool.run(source_version)

    # -- reading ---------------------------------------------------------------------------------

    async def read(
        self,
        after: int,
        *,
        limit: int,
        max_bytes: int,
        table: TableId | None = None,
        owner: Owner | None = None,
    ) -> Span:
        async with self._reading():
            return await self._pool.run(
                reader.read, self._names, after, limit, max_bytes, table, owner
            )

    async def page(self, request: PageRequest) -> Page:
        async with self._reading():
            page = None
            if may_look_up(request.table, request.hints):
                page = await self._pool.run(pages.quick_page, request, self._row_filter)
            if page is None:
                page = await self._pool.scan(pages.page, request, self._row_filter)
        self._follower.hear_of(page.as_of)
        return page

    async def newest(
        self,
        table: TableDef,
        owner: Owner,
        matches: Matches | None,
        count: int,
        hints: Hints = NO_HINTS,
    ) -> tuple[int, int]:
        async with self._reading():
            return await self._pool.scan(
                pages.newest, table, owner, matches, count, hints, self._row_filter
            )

    async def access_path(self, table: TableDef, owner: Owner, hints: Hints) -> str:
        async with self._reading():
            return await self._pool.run(pages.access_path, table, owner, hints)

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        self._require_open()
        try:
            yield
        except Compacted:
            # Another process may have moved the horizon, and who is told so looks at it next.
            await self._follower.look()
            raise


def is_the_disks(fault: LogUnavailable) -> bool:
    """Whether it would have refused any batch, not this one."""
    cause = fault.__cause__
    return isinstance(cause, sqlite3.OperationalError | MovedFiles) or is_damage(cause)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
