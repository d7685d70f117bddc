"""Following the file: its newest changes in memory, whichever way they arrive.

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
import logging
import sqlite3
from collections.abc import Sequence

from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.doorbell import Doorbell
from kalam_notify.log.waiters import Waiters
from kalam_notify.log.window import Window
from kalam_notify.model import Change, TableId
from kalam_notify.singleflight import FreshCall
from kalam_notify.store import reader
from kalam_notify.store.pool import ReaderPool
from kalam_notify.store.trimming import Edges, edges

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
        self.is_shared = False
        self._looks = FreshCall(self.look)
        self._pull_wanted = asyncio.Event()
        self._pulling: asyncio.Task[None] | None = None

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Hang the doorbell and begin at the end of the file; raises LogUnavailable."""
        # Hung before the file is read, so that no commit falls in between.
        self._doorbell.hang(self._rung)
        # Who was here before learns that it is not alone any more, before anything is written here.
        if await asyncio.to_thread(self._doorbell.ring_others):
            self.is_shared = True
        self._edges, last_seq = await self._pool.run(_standing)
        self._window.reset(last_seq)
        self._pulling = asyncio.create_task(self._pull(), name="log pull")

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
            self.want_pull()
            return
        if changes and changes[0].seq <= last_seq:
            changes, sizes = [change for change in changes if change.seq > last_seq], None
        if changes:
            self._window.extend(changes, sizes)
            self._waiters.wake()

    def _skip_to(self, horizon: int) -> None:
        """Go on behind a horizon, unless what lies before it has arrived in the meantime."""
        if self.last_seq < horizon:
            self._window.reset(horizon)
            self._waiters.wake()

    def want_pull(self) -> None:
        """Have the file looked at soon; all who want it before it begins share one pull."""
        self._pull_wanted.set()

    def _rung(self) -> None:
        self.is_shared = True
        self.want_pull()

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
