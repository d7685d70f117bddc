"""Following the log: the window in memory, who waits for it to grow, and the other processes.

Everybody who waits for the log to grow.

The newest changes in memory: contiguous, in order, bounded by bytes.

Invariant: the window holds every change of the log with `start < seq <= last_seq`, and no other.

How the processes that share a log's file tell each other of a commit.

Each process keeps a named pipe beside the file and watches it from its event loop; after a commit
the writer drops a byte into everybody else's. A byte says "look at the file", nothing more, so a
full pipe needs no second byte and a lost one costs no change: whoever is rung next, or looks for
another reason, reads all that is new. Named pipes, because the path of a socket is limited to some
hundred bytes and a data directory's is not.

A process that was killed leaves its pipe behind. Nobody reads there any more, which the next writer
notices when it opens the pipe, and removes it. Names are never used twice.

Following the file: its newest changes in memory, whichever way they arrive.

    commit of our own ----------> advance --> window --> recent, wait_beyond
    bell, gap, look --> pull ------^

What this process commits it has in hand, and takes into the window without reading it again. Others
that share the file write in between. Seqs are given inside the write transaction, so a commit of
our own that begins beyond the window's end shows that something is missing before it; it is then
left out, and the pull reads it from the file together with what is missing.

Whatever shows that the file has more (a ring, a gap, a reader that has seen a later seq, or the
clock, should a ring have been lost) wants a pull and does no more than that: one task pulls,
however many reasons there are, and once more for those that come while it reads.

Whether anybody else writes is known from the bells. As long as nobody does, what is known here is
the newest there is; from then on whoever has to know asks the file, and all who ask at the same
time share a look.

Only a trim moves where the log begins. It is told here after a trim of our own, and read from the
file where a look or a pull finds that a horizon has risen.

Invariant: `advance` alone adds to the window, and only what follows directly on its end; a commit
    of our own that does not is left for the pull. So `last_seq` rises contiguously.
Invariant: `_skip_to` alone goes over a gap: of changes that retention removed before they were
    read here. The window then begins anew behind them, and `last_seq` still does not fall.
Invariant: no horizon, as it is known here, ever falls.
"""

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import attrgetter
from pathlib import Path

from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.model import Change, TableId
from kalam_notify.model.changes import memory_of
from kalam_notify.singleflight import FreshCall
from kalam_notify.store import reader
from kalam_notify.store.files import EntriesState, entries_state
from kalam_notify.store.reader import ReaderPool
from kalam_notify.store.trimming import Edges, edges


class Waiters:
    """Wakes all who wait at the time, and nobody who comes later."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Return at the next `wake`."""
        future = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        try:
            await future
        finally:
            self._futures.discard(future)

    def wake(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)


_seq_of = attrgetter("seq")


class Window:
    """A run of consecutive changes that grows at its end and is trimmed at its start.

    `max_bytes` bounds the memory that the changes take (`memory_of`); None: trimmed by its owner
    only.
    """

    def __init__(self, position: int = 0, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._ends: list[int] = []
        self._gone = 0
        # The same in bytes of memory, where those are bounded.
        self._costs: list[int] = []
        self._cost_gone = 0
        self.reset(position)

    def reset(self, position: int) -> None:
        """Forget everything; what comes next follows on `position`."""
        self.start = position
        self.last_seq = position
        self._changes: list[Change] = []
        # _ends[i]: bytes that ever entered, up to and including _changes[i]; so the bytes of any
        # run are one subtraction, and the place to cut is found by bisection.
        self._gone = self.entered
        self._ends = []
        self._cost_gone = self._costs[-1] if self._costs else self._cost_gone
        self._costs = []

    def __len__(self) -> int:
        return len(self._changes)

    @property
    def entered(self) -> int:
        """Sum of `Change.size` over all changes that were ever added."""
        return self._ends[-1] if self._ends else self._gone

    @property
    def bytes(self) -> int:
        """Sum of `Change.size` over the changes held."""
        return self.entered - self._gone

    @property
    def memory(self) -> int:
        """Bytes of memory that the changes held take; 0 where they are not bounded."""
        return self._costs[-1] - self._cost_gone if self._costs else 0

    @property
    def first_seq(self) -> int:
        """The oldest change held; `last_seq + 1` when there is none."""
        return self._changes[0].seq if self._changes else self.last_seq + 1

    def extend(self, changes: Sequence[Change], sizes: Sequence[int] | None = None) -> None:
        """Add the changes that follow directly on `last_seq`; `sizes`, where they are known."""
        if not changes:
            return
        if sizes is None:
            sizes = [change.size for change in changes]
        self._ends += list(accumulate(sizes, initial=self.entered))[1:]
        self._changes.extend(changes)
        self.last_seq = changes[-1].seq
        if self._max_bytes is not None:
            before = self._cost_gone + self.memory
            self._costs += list(accumulate(map(memory_of, changes), initial=before))[1:]
            if self.memory > self._max_bytes:
                self._shrink(self._max_bytes)

    def _shrink(self, max_bytes: int) -> None:
        # An eighth more than needed goes, so that the lists are shifted now and then only.
        surplus = self.memory - (max_bytes - max_bytes // 8)
        self._drop(bisect_left(self._costs, self._cost_gone + surplus) + 1)

    def drop_upto(self, seq: int) -> Sequence[Change]:
        """Forget the changes up to and including `seq`, and give them back."""
        dropped = self._drop(bisect_right(self._changes, seq, key=_seq_of))
        self.start = max(self.start, min(seq, self.last_seq))
        return dropped

    def _drop(self, count: int) -> Sequence[Change]:
        dropped = self._changes[:count]
        if dropped:
            self.start = dropped[-1].seq
            self._gone = self._ends[len(dropped) - 1]
            del self._changes[:count], self._ends[:count]
            if self._costs:
                self._cost_gone = self._costs[len(dropped) - 1]
                del self._costs[:count]
        return dropped

    def after(self, position: int, limit: int | None = None) -> Sequence[Change] | None:
        """Every change after a position, or the first `limit` of them.

        None where the window does not reach back to it.
        """
        if position >= self.last_seq:
            return ()
        if position < self.start:
            return None
        first = bisect_right(self._changes, position, key=_seq_of)
        return self._changes[first : None if limit is None else first + limit]

    def span(self, after: int, limit: int, max_bytes: int) -> Sequence[Change]:
        """The held changes after a position: at most `limit`, about `max_bytes`, at least one."""
        first = bisect_right(self._changes, after, key=_seq_of)
        before = self._ends[first - 1] if first else self._gone
        full = bisect_left(self._ends, before + max_bytes, lo=first) + 1
        return self._changes[first : min(first + limit, full)]


_PREFIX = "doorbell-"


class Doorbell:
    """The pipe of this process, and the way to everybody else's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._pipe: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # The state of the directory, and everybody else's that were found under it.
        self._others: tuple[EntriesState | None, Sequence[Path]] = (None, ())

    def hang(self, on_ring: Callable[[], None]) -> None:
        """Make the pipe; `on_ring` is called on the running event loop."""
        # Under its name only once it is open, else a ringer would take it for a dead process's.
        made = self._path.with_name(f".{self._path.name}")
        os.mkfifo(made, mode=0o600)
        # Opened for writing as well, so that it never reads as ended.
        self._pipe = os.open(made, os.O_RDWR | os.O_NONBLOCK)
        made.rename(self._path)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe, self._answer, self._pipe, on_ring)

    def take_down(self) -> None:
        if self._pipe is None or self._loop is None:
            return
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = None
        self._path.unlink(missing_ok=True)

    @staticmethod
    def _answer(pipe: int, on_ring: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(pipe, 65536)
        on_ring()

    def ring_others(self) -> int:
        """Ring every other process; how many there are. Not for the event loop."""
        entries = entries_state(str(self._directory))
        found_at, others = self._others
        if entries is None or entries != found_at:
            others = [path for path in _bells(self._directory) if path != self._path]
            self._others = entries, others
        return sum(map(_ring, others))


def ring_all(directory: Path) -> int:
    """Ring everybody who follows a log in this directory; how many there are.

    For whoever sees that a writer has died: it may have committed, and not rung any more.
    """
    return sum(_ring(path) for path in _bells(directory))


def _bells(directory: Path) -> list[Path]:
    try:
        # Not by Path.iterdir, which makes a Path of everything in between, at every commit.
        names = os.listdir(directory)  # noqa: PTH208
        return [directory / name for name in names if name.startswith(_PREFIX)]
    except OSError:
        # The commit stands whether or not anybody hears of it.
        return []


def _ring(path: Path) -> bool:
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as fault:
        if fault.errno == errno.ENXIO:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return False
    try:
        # Full, or closed this very moment: nothing is owed to either.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(pipe, b"!")
    finally:
        os.close(pipe)
    return True


_logger = logging.getLogger(__name__)

_PULL_CHANGES = 4096
_PULL_BYTES = 4 * 1024 * 1024


class Follower:
    """What one process knows of a file that others may write too. Lives on the event loop.

    `window_bytes` bounds the changes held in memory. The pool stays the caller's to close.
    """

    def __init__(
        self, pool: ReaderPool, names: reader.TableNames, doorbell: Doorbell, window_bytes: int
    ) -> None:
        self._pool = pool
        self._names = names
        self._doorbell = doorbell
        self._window = Window(max_bytes=window_bytes)
        self._waiters = Waiters()
        self._edges = Edges(1, 0, 0, {})
        # What the window had taken in when `_edges` was read: the log has grown by the rest.
        self._entered = 0
        # Whether another process has ever been there: what is known here may be behind from then.
        self._others_write = False
        # The newest seq that somebody has seen in the file.
        self._heard = 0
        self._looks = FreshCall(self.look)
        self._pull_wanted = asyncio.Event()
        # Told of every ring, too.
        self.on_ring: Callable[[], None] = lambda: None
        self._pulling: asyncio.Task[None] | None = None

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Hang the doorbell and begin at the end of the file; raises LogUnavailable."""
        # Hung before the file is read, so that no commit falls in between.
        self._doorbell.hang(self._rung)
        # Who was here before learns that it is not alone any more, before anything is written here.
        if await asyncio.to_thread(self._doorbell.ring_others):
            self._others_write = True
        self._edges, last_seq = await self._pool.run(_standing)
        self._window.reset(last_seq)
        self._pulling = asyncio.create_task(self._pull(), name="log pull")

    async def begin_anew(self) -> None:
        """The file has been replaced: begin at the end of the one that is there."""
        self._edges, last_seq = await self._pool.run(_standing)
        self._heard = 0
        self._window.reset(last_seq)
        self._entered = self._window.entered
        self._waiters.wake()

    async def stop(self) -> None:
        """Stop pulling, then take the doorbell down; harmless where `start` failed or never ran."""
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)
        self._doorbell.take_down()

    # -- what is known ---------------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        return min(self._edges.first_seq, self.last_seq + 1)

    @property
    def base(self) -> int:
        return self._edges.base

    @property
    def last_seq(self) -> int:
        return self._window.last_seq

    def horizon(self, table: TableId | None) -> int:
        """See EventLog.horizon."""
        if table is None:
            return self._edges.horizon
        return self._edges.horizon_of(table)

    def recent(self, after: int, limit: int | None = None) -> Sequence[Change] | None:
        """See EventLog.recent."""
        return self._window.after(after, limit)

    async def wait_beyond(self, seq: int) -> None:
        """Return as soon as `last_seq` is greater than `seq`."""
        while self.last_seq <= seq:
            await self._waiters.wait()

    def statistics(self) -> dict[str, float]:
        return {
            "window_changes": len(self._window),
            "window_bytes": self._window.memory,
            "log_bytes": self._edges.bytes + self._window.entered - self._entered,
            "oldest_at": self._edges.oldest_at,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
        }

    # -- what the file tells ---------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Whether the file may go on behind what is known here.

        Others write to it, or a commit of our own that is too large to be held is being read back.
        """
        return self._others_write or self._heard > self.last_seq

    async def latest(self) -> int:
        """See EventLog.latest; raises LogUnavailable when the file cannot be read."""
        return await self._looks() if self.is_shared else self.last_seq

    async def look(self) -> int:
        """The newest seq of the file, whose edges are known here after."""
        seen = await self._pool.run(reader.glance, self._edges)
        self.learn(seen.edges)
        self.hear_of(seen.last_seq)
        return max(seen.last_seq, self.last_seq)

    def learn(self, found: Edges | None) -> None:
        """Take in edges read from the file, unless later ones are known; None: unmoved."""
        # What was read earlier may be told later.
        if found is not None and found.version >= self._edges.version:
            self._edges = found
            self._entered = self._window.entered

    def hear_of(self, seq: int) -> None:
        """Somebody has seen a seq in the file: pull, unless it has arrived here."""
        if seq > self.last_seq:
            self._heard = max(self._heard, seq)
            self.want_pull()

    # -- moving on -------------------------------------------------------------------------------

    def advance(
        self, before: int, changes: Sequence[Change], sizes: Sequence[int] | None = None
    ) -> None:
        """Take in changes, complete after `before`; `sizes`, where they are known.

        Those that have arrived already are passed over. Where the window does not reach up to
        `before`, another process wrote in between, and all of them are left for the pull.
        """
        last_seq = self._window.last_seq
        if before > last_seq:
            self.hear_of(changes[-1].seq if changes else before)
            return
        if changes and changes[0].seq <= last_seq:
            changes, sizes = [change for change in changes if change.seq > last_seq], None
        if changes:
            self._window.extend(changes, sizes)
            self._waiters.wake()

    def skip_to(self, last_seq: int, floor: int) -> None:
        """The log ends at `last_seq`: where that is its floor, nothing lies in between."""
        if last_seq == floor:
            self._skip_to(floor)

    def _skip_to(self, horizon: int) -> None:
        """Go on behind a horizon, unless what lies before it has arrived in the meantime."""
        if self.last_seq < horizon:
            self._window.reset(horizon)
            self._waiters.wake()

    def want_pull(self) -> None:
        """Have the file looked at soon; all who want it before it begins share one pull."""
        self._pull_wanted.set()

    def _rung(self) -> None:
        self._others_write = True
        self.want_pull()
        self.on_ring()

    async def _pull(self) -> None:
        """Read what other processes have written, whenever there is reason to look."""
        while True:
            await self._pull_wanted.wait()
            self._pull_wanted.clear()
            try:
                await self._pull_all()
            except LogUnavailable as fault:
                # Looked at again the next time.
                _logger.debug("what others have written cannot be read: %s", fault)
            except Exception:
                _logger.exception("what others have written could not be taken in")

    async def _pull_all(self) -> None:
        while True:
            after = self.last_seq
            try:
                seen, span = await self._pool.run(
                    reader.follow, self._edges, self._names, after, _PULL_CHANGES, _PULL_BYTES
                )
            except Compacted as edge:
                await self.look()
                self._skip_to(edge.horizon)
                continue
            self.advance(after, span.changes)
            self.learn(seen.edges)
            if not span.changes:
                return


def _standing(connection: sqlite3.Connection) -> tuple[Edges, int]:
    with reader.read_transaction(connection) as tail:
        return edges(connection), tail.last_seq
