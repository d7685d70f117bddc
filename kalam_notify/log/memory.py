"""The log that keeps nothing: everything in this process's memory, gone with it.

It holds every promise of the EventLog but durability, and is the twin that the SQLite log is tested
against. Each table and owner has a run of its own changes, beside the run of all; retention trims
the former by the age of their table, and the latter up to the newest entry that went, since no read
of all tables is complete before that.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Collection, Iterable, Sequence, Sized
from itertools import islice

from kalam_notify.config import NatsSettings
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.base import OnAppend, OnStep, Step
from kalam_notify.log.following import Waiters, Window
from kalam_notify.model import SHARED, Change, Owner, PostedChange, Row, TableDef, TableId
from kalam_notify.model.changes import Appended, RowKey, Seen, Stored, refuse_unfit, settle_batch
from kalam_notify.model.hints import NO_HINTS, Hints
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.model.tables import SeenColumns
from kalam_notify.store.access import Shape
from kalam_notify.store.base import Matches, Page, PageRequest, Span
from kalam_notify.store.catalog import shape_changed
from kalam_notify.store.files import LogTime
from kalam_notify.store.filtering import Candidate, LoopFilter
from kalam_notify.store.pages import fill_page, keep_matching
from kalam_notify.store.retention import TRIM_SECONDS, Retention, age_classes
from kalam_notify.store.sampling import LARGE_ROW

Scope = tuple[TableId, Owner]

_CHUNK_ROWS = 512


class MemoryRows:
    """Current rows by table and owner, each scope in the order in which they were written."""

    def __init__(self) -> None:
        self._scopes: dict[Scope, dict[str, Stored]] = {}

    def get(self, key: RowKey) -> Stored | None:
        return self._scopes.get(key[:2], {}).get(key[2])

    def put(self, key: RowKey, stored: Stored) -> None:
        scope = self._scopes.setdefault(key[:2], {})
        # Taken out first, so that the new version stands at the end.
        scope.pop(key[2], None)
        scope[key[2]] = stored

    def drop(self, key: RowKey) -> None:
        scope = self._scopes[key[:2]]
        del scope[key[2]]
        if not scope:
            del self._scopes[key[:2]]

    def clear(self, table: TableId, owner: Owner) -> Sequence[Stored]:
        return list(self._scopes.pop((table, owner), {}).values())

    def made(self, size: int) -> None:
        """Everything is in memory here."""

    def of(self, scope: Scope) -> Iterable[Stored]:
        """The scope's rows in rising order of seq."""
        return self._scopes.get(scope, {}).values()

    def has_any(self, table: TableId) -> bool:
        return any(scope[0] == table for scope in self._scopes)


class MemoryLog:
    """An EventLog without a file. `clock` gives Unix time in seconds; seqs begin after `begin`."""

    def __init__(
        self,
        *,
        retention: Retention | None = None,
        trim_seconds: float = TRIM_SECONDS,
        clock: Callable[[], float] = time.time,
        ticking: Callable[[], float] = time.monotonic,
        begin: int = 0,
    ) -> None:
        self.on_append: OnAppend | None = None
        self.on_step: OnStep | None = None
        self._retention = retention or Retention()
        self._trim_seconds = trim_seconds
        self._clock = LogTime(clock, ticking)
        self._declared: dict[TableId, TableDef] = {}
        self.base = begin
        self._all = Window(begin)
        self._runs: dict[Scope, Window] = {}
        self._rows = MemoryRows()
        self._at: dict[int, float] = {}
        self._seen = Seen({}, {})
        # The same by the seq of the entry with which each leaves the log.
        self._ids: dict[int, str] = {}
        self._batch_keys: dict[int, list[str]] = {}
        self._horizons: dict[TableId, int] = {}
        self._bytes = 0
        self._sources: dict[str, SourceState] = {}
        self._source_version = 0
        self._appends = 0
        self._waiters = Waiters()
        # Every append is done at once.
        self.waiting: Sized = ()
        self._open = False
        self._task: asyncio.Task[None] | None = None

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._open = True
        self._row_filter = LoopFilter()
        self._task = asyncio.create_task(self._look_after(), name="log retention")

    async def close(self) -> None:
        self._open = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def declare(self, tables: Iterable[TableDef]) -> None:
        tables = list(tables)
        for table in tables:
            known = self._declared.get(table.id, table)
            if Shape.of(known) != Shape.of(table) and self._holds(table.id):
                raise shape_changed(table.id, Shape.of(known), Shape.of(table))
        self._declared.update({table.id: table for table in tables})

    def _holds(self, table: TableId) -> bool:
        return self._rows.has_any(table) or any(scope[0] == table for scope in self._runs)

    def newest_columns(self, table: TableDef, owner: Owner) -> SeenColumns | None:
        if not self._holds(table.id):
            return None
        newest = sorted(self._rows.of((table.id, owner)), key=lambda stored: stored.seq)[-20:]
        rows = [stored.row for stored in newest]
        recent = self.recent(self.last_seq - 20) or ()
        rows += [change.row for change in recent if change.row and change.table == table.id]
        small = [row for row in rows if len(row.json) < LARGE_ROW]
        names = frozenset(name for row in small for name in row.values)
        return SeenColumns(names, len(small) == len(rows))

    def _require_open(self) -> None:
        if not self._open:
            raise LogUnavailable("the log is closed")

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self._trim_seconds)
            await self.trim()

    # -- edges -----------------------------------------------------------------------------------

    @property
    def steps(self) -> Collection[Step]:
        return ()

    @property
    def first_seq(self) -> int:
        return next(iter(self._at), self.last_seq + 1)

    @property
    def last_seq(self) -> int:
        return self._all.last_seq

    @property
    def is_shared(self) -> bool:
        return False

    @property
    def cluster(self) -> str | None:
        return None

    @property
    def largest_batch(self) -> int | None:
        return None

    async def latest(self, at_least: int = 0) -> int:
        return self.last_seq

    def horizon(self, table: TableId | None = None) -> int:
        if table is None:
            return max(self._horizons.values(), default=0)
        return self._horizons.get(table, 0)

    def adjust(self, nats: NatsSettings) -> None:
        pass

    def why_leave(self) -> str | None:
        return None

    def why_not_ready(self) -> str | None:
        return None if self._open else "the log is closed"

    def statistics(self) -> dict[str, float]:
        return {
            "waiting_batches": 0,
            "waiting_bytes": 0,
            "window_changes": len(self._all),
            "window_bytes": self._all.bytes,
            "log_bytes": self._bytes,
            "oldest_at": next(iter(self._at.values()), 0.0),
            "file_bytes": 0,
            "appends": self._appends,
            "append_faults": 0,
            "changes": self._all.last_seq - self.base,
            "last_append_seconds": 0.0,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
        }

    async def wait_beyond(self, seq: int) -> None:
        while self.last_seq <= seq:
            await self._waiters.wait()

    # -- writing ---------------------------------------------------------------------------------

    async def append(
        self,
        batch: Sequence[PostedChange],
        batch_key: str | None = None,
        mark: SourceMark | None = None,
    ) -> Appended:
        """See EventLog.append."""
        refuse_unfit(batch, self._declared)
        self._require_open()
        since = time.monotonic()
        is_new = batch_key not in self._seen.batch_keys
        settled = settle_batch(batch, batch_key, self.last_seq, self._seen, self._rows)
        now = self._clock()
        for change, id in zip(settled.changes, settled.ids, strict=True):
            self._enter(change, id, now)
        self._all.extend(settled.changes)
        if mark is not None:
            self._take_mark(mark)
        if batch_key is not None and is_new:
            self._batch_keys.setdefault(self.last_seq, []).append(batch_key)
        if settled.changes:
            self._waiters.wake()
        self._appends += 1
        if self.on_append is not None:
            self.on_append(time.monotonic() - since, settled.appended)
        return settled.appended

    def _take_mark(self, mark: SourceMark) -> None:
        before = self._sources.get(mark.source, SourceState(None, {}))
        tables = {**before.tables, **dict(mark.defined)}
        for name in mark.dropped:
            tables.pop(name, None)
        position = before.position if mark.position is None else mark.position
        self._sources[mark.source] = SourceState(position, tables)
        self._source_version += bool(mark.defined or mark.dropped)
        for table in mark.forgotten:
            for scope in [scope for scope in self._runs if scope[0] == table]:
                self._remove_upto(scope, self.last_seq)
            self._horizons[table] = self.last_seq
            self._all.drop_upto(self.last_seq)

    async def sources(self) -> dict[str, SourceState]:
        return dict(self._sources)

    async def source_version(self) -> int:
        return self._source_version

    def _enter(self, change: Change, id: str | None, now: float) -> None:
        scope = (change.table, change.owner)
        run = self._runs.get(scope)
        if run is None:
            run = self._runs[scope] = Window()
        run.extend([change])
        self._at[change.seq] = now
        self._bytes += change.size
        if id is not None:
            self._ids[change.seq] = id

    def retain(self, retention: Retention) -> None:
        self._retention = retention

    async def trim(self) -> int:
        self._require_open()
        now = self._clock()
        removed = 0
        for members in age_classes(self._retention, self._declared.values()):
            for scope in [scope for scope in self._runs if members.holds(scope[0])]:
                removed += self._trim_older(scope, now - members.max_age)
        if self._retention.max_bytes is not None:
            removed += self._trim_bytes(self._retention.max_bytes)
        self._all.drop_upto(self.horizon())
        self._drop_lone_keys()
        return removed

    def _drop_lone_keys(self) -> None:
        """Keys of batches that stored nothing have no entry to leave with; all before it has."""
        first = self.first_seq
        for seq in [seq for seq in self._batch_keys if seq < first]:
            self._forget_keys(seq)

    def _trim_older(self, scope: Scope, cutoff: float) -> int:
        """Remove entries from the start of a run as long as they are older than a time."""
        run = self._runs[scope]
        upto = 0
        for change in run.after(run.start) or ():
            if self._at[change.seq] >= cutoff:
                break
            upto = change.seq
        return self._remove_upto(scope, upto)

    def _remove_upto(self, scope: Scope, upto: int) -> int:
        run = self._runs[scope]
        dropped = run.drop_upto(upto)
        for change in dropped:
            del self._at[change.seq]
            self._bytes -= change.size
            self._forget_keys(change.seq)
        if dropped:
            self._horizons[scope[0]] = max(self.horizon(scope[0]), dropped[-1].seq)
        if not len(run):
            del self._runs[scope]
        return len(dropped)

    def _trim_bytes(self, max_bytes: int) -> int:
        """Remove the oldest entries of all tables while the log holds more than `max_bytes`."""
        removed = 0
        oldest = [(run.first_seq, scope) for scope, run in self._runs.items()]
        heapq.heapify(oldest)
        while self._bytes > max_bytes and oldest:
            seq, scope = heapq.heappop(oldest)
            removed += self._remove_upto(scope, seq)
            if scope in self._runs:
                heapq.heappush(oldest, (self._runs[scope].first_seq, scope))
        return removed

    def _forget_keys(self, seq: int) -> None:
        if (id := self._ids.pop(seq, None)) is not None:
            del self._seen.ids[id]
        for key in self._batch_keys.pop(seq, ()):
            del self._seen.batch_keys[key]

    # -- reading ---------------------------------------------------------------------------------

    def recent(self, after: int, limit: int | None = None) -> Sequence[Change] | None:
        return self._all.after(after, limit)

    async def read(
        self,
        after: int,
        *,
        limit: int,
        max_bytes: int,
        table: TableId | None = None,
        owner: Owner | None = None,
    ) -> Span:
        self._require_open()
        if after < self.horizon(table):
            raise Compacted(self.horizon(table))
        changes: Sequence[Change]
        if table is None:
            changes = self._all.span(after, limit, max_bytes)
        else:
            runs = self._runs_of(table, owner)
            heads = [run.span(after, limit, max_bytes) for run in runs]
            changes = _bounded(heapq.merge(*heads, key=lambda c: c.seq), limit, max_bytes)
        cut = len(changes) >= limit or sum(change.size for change in changes) >= max_bytes
        return Span(changes, changes[-1].seq if cut else max(after, self.last_seq))

    def _runs_of(self, table: TableId, owner: Owner | None) -> list[Window]:
        if owner is None and not self._is_shared(table):
            return [run for scope, run in self._runs.items() if scope[0] == table]
        run = self._runs.get((table, owner or SHARED))
        return [] if run is None else [run]

    def _is_shared(self, table: TableId) -> bool:
        definition = self._declared.get(table)
        return definition is not None and definition.is_shared

    async def page(self, request: PageRequest) -> Page:
        """See EventLog.page."""
        self._require_open()
        table = request.table
        as_of = self.last_seq if request.as_of is None else request.as_of
        horizon = self.horizon(table.id)
        if as_of < horizon or (
            not table.is_keyed and request.as_of is not None and request.after < horizon
        ):
            raise Compacted(horizon)
        rows = self._rows_as_of((table.id, request.owner), table, request.after, as_of)
        return await asyncio.to_thread(
            lambda: fill_page(
                request, as_of, keep_matching(_chunks(rows), request.matches, self._row_filter)
            )
        )

    async def newest(
        self,
        table: TableDef,
        owner: Owner,
        matches: Matches | None,
        count: int,
        hints: Hints = NO_HINTS,
    ) -> tuple[int, int]:
        """See EventLog.newest."""
        self._require_open()
        as_of = self.last_seq
        if count <= 0:
            return as_of, as_of
        beginning = 0 if table.is_keyed else self.horizon(table.id)
        rows = self._rows_as_of((table.id, owner), table, 0, as_of)[::-1]

        def seek() -> int:
            found = next(
                islice(keep_matching(_chunks(rows), matches, self._row_filter), count - 1, None),
                None,
            )
            return beginning if found is None else found[0] - 1

        return as_of, await asyncio.to_thread(seek)

    async def access_path(self, table: TableDef, owner: Owner, hints: Hints) -> str:
        return "scan"

    def _rows_as_of(self, scope: Scope, table: TableDef, after: int, as_of: int) -> list[Candidate]:
        """Rows with `after < seq <= as_of` as they stood then; a copy that a thread may keep."""
        run = self._runs.get(scope) or Window()
        if not table.is_keyed:
            held = run.after(max(after, run.start)) or ()
            return [(c.seq, c.row) for c in held if c.row is not None and c.seq <= as_of]
        rows = [(seq, row) for seq, row in self._rows.of(scope) if after < seq <= as_of]
        rows += _images(run.after(max(as_of, run.start)) or (), after, as_of)
        return sorted(rows, key=lambda found: found[0])


def _images(later: Iterable[Change], after: int, as_of: int) -> Iterable[tuple[int, Row]]:
    for change in later:
        if (
            change.old is not None
            and change.old_seq is not None
            and after < change.old_seq <= as_of
        ):
            yield change.old_seq, change.old


def _chunks(rows: Sequence[Candidate]) -> Iterable[Sequence[Candidate]]:
    return (rows[start : start + _CHUNK_ROWS] for start in range(0, len(rows), _CHUNK_ROWS))


def _bounded(changes: Iterable[Change], limit: int, max_bytes: int) -> list[Change]:
    taken: list[Change] = []
    size = 0
    for change in changes:
        taken.append(change)
        size += change.size
        if len(taken) >= limit or size >= max_bytes:
            break
    return taken
