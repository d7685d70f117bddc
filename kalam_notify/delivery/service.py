"""NotificationService: the worker loop, and the chunked streaming fan-out.

The loop takes what the log has beyond its position, prepares it (fanout/batch.py: row JSON made
once), moves its position, and sends the prepared messages around the plans that see them
(fanout/scan.py), in chunks of SHARED_NOTIFY_CHUNK_SIZE handles. Between two chunks the event
loop turns, so that pings, accepts and ingest stay alive however many subscribers a table has; and
what has been stored meanwhile sets out from where the walk has come to.

Flow control is being in the live list: only LIVE subscriptions are, for everybody else the log has
the change. An offer that is not taken moves the handle to CATCHING_UP with its cursor before the
first batch of the offer. How a chunk gets onto its sockets is told in chunks.py.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kalam_notify.delivery.batch import MAX_BATCH_BYTES, MAX_BATCH_SECONDS, Batch, prepare
from kalam_notify.delivery.chunks import ChunkSender, Job
from kalam_notify.delivery.ring import Ring
from kalam_notify.delivery.scan import SharedScan
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.base import EventLog
from kalam_notify.model import Change
from kalam_notify.subscriptions.handle import Sink, SubscriptionHandle
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode

SHARED_NOTIFY_CHUNK_SIZE = 256
"""Handles served between two turns of the event loop."""

# A quarter while more changes come than one at a time: a post waits for a turn to be read, and its
# commit for another one to be heard of.
_BUSY_CHUNK_SIZE = SHARED_NOTIFY_CHUNK_SIZE // 4

_logger = logging.getLogger("kalam_notify.delivery")
_MAX_READ = 1000
# Seconds between two tries to read a log that cannot be read.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# Slots that subscriptions have left in live lists while scans held them: beyond these, and a
# quarter of all live ones, the scans come to their end before anything else joins.
_FEW_HOLES = 1024


class _Flight(NamedTuple):
    """A batch under way, and when it was taken."""

    batch: Batch
    began: float


class NotificationService:
    """Follows the log and hands every change to the live subscriptions that see it."""

    def __init__(
        self,
        log: EventLog,
        manager: ConnectionsManager,
        stats: FanoutStats,
        *,
        clock: Callable[[], float],
        ring: Ring | None = None,
    ) -> None:
        """`ring` writes to many sockets at once; None: they are written to one by one."""
        self._log = log
        self._manager = manager
        self._stats = stats
        self._sender = ChunkSender(stats, ring, lambda: log.waiting_bytes > 0)
        self._clock = clock
        # Everything up to here has been prepared for the handles that were live.
        self.position = log.last_seq
        self._shared = SharedScan()
        self._user = SharedScan()
        # Batches that have not come around yet, in order.
        self._under_way: deque[_Flight] = deque()
        # Read from the log, prepared up to `_done`.
        self._ahead: Sequence[Change] = ()
        self._done = 0
        # Connections with several subscriptions are written to once, at the end of a batch.
        self._held: dict[Sink, None] = {}
        # Filters that are to be demoted as soon as nothing is under way.
        self._too_dear: list[FilterNode] = []
        # Places served since the event loop's last turn, and when the next is due at the latest.
        self._served = 0
        self._turn_due = 0.0
        # Why the log cannot be read at the moment; None: it can. Everybody live stays where he is.
        self.fault: str | None = None
        # Called when the position has moved.
        self.on_moved: Callable[[], None] = lambda: None
        # Called with handles that are behind without a full buffer, to be fed.
        self.on_fallen: Callable[[Iterable[SubscriptionHandle]], None] = lambda handles: None
        # Called with a filter whose evaluation raised.
        self.on_broken: Callable[[FilterNode, Exception], None] = lambda node, error: None

    @property
    def is_idle(self) -> bool:
        """Whether everything up to the position has been handed to those who were live."""
        return not self._under_way

    async def run(self) -> None:
        """The worker loop; ends only by cancellation."""
        while True:
            if self._log.last_seq <= self.position:
                await self._log.wait_beyond(self.position)
                self._begin_turn()
            changes = await self._readable()
            if changes is None:
                self._fall_back()
            else:
                await self.notify(changes)

    async def _readable(self) -> Sequence[Change] | None:
        """What waits, however long the log cannot be read; None: retention has passed it."""
        pause = _FIRST_PAUSE
        while True:
            try:
                changes = await self._waiting()
            except Compacted:
                return None
            except LogUnavailable as fault:
                if self.fault is None:
                    _logger.error("the fan-out waits until the log can be read: %s", fault)
                self.fault = str(fault)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if self.fault is not None:
                self.fault = None
                _logger.info("the log can be read again, the fan-out goes on")
            return changes

    def _fall_back(self) -> None:
        """Retention has overtaken the fan-out itself: every live handle is behind now.

        Nothing is under way, so all of them have everything up to the position.
        The feeder reads on for those whose own table still reaches back, and ends the others.
        """
        _logger.error("retention has passed the fan-out at seq %d; it is too short", self.position)
        fallen = [
            handle
            for plans in self._manager.all_plans()
            for plan in plans
            for handle in list(plan.live)
            if handle is not None
        ]
        for handle in fallen:
            handle.overfull(self.position)
        self.position = self._log.last_seq
        self.on_fallen(fallen)
        self.on_moved()

    async def _waiting(self) -> Sequence[Change]:
        """What the log has beyond the position: out of memory, or read back when that is full."""
        changes = self._log.recent(self.position)
        if changes is None:
            span = await self._log.read(self.position, limit=_MAX_READ, max_bytes=MAX_BATCH_BYTES)
            changes = span.changes
        return changes

    async def notify(self, changes: Sequence[Change]) -> None:
        """Deliver consecutive changes, the first being the first after the position.

        What the log takes in meanwhile goes along. Returns when nothing is under way any more.
        """
        self._ahead, self._done = changes, 0
        while self._take() or self._under_way:
            await self.notify_shared_table_streaming()
            await self.notify_user_table_streaming()
            await self._finish()
            if self._clock() > self._turn_due:
                await self._turn()

    async def notify_shared_table_streaming(self) -> None:
        """Serve one chunk of what is under way to the subscribers of SHARED tables."""
        await self._stream(self._shared)

    async def notify_user_table_streaming(self) -> None:
        """The same for USER tables, whose plans have come out of their own index."""
        await self._stream(self._user)

    async def _stream(self, scan: SharedScan) -> None:
        has_served = False
        # Twice where the other kind of table has left no room: neither keeps the other waiting.
        while scan and not has_served:
            before = self._served
            self._served = scan.serve(self._chunk_size(), before, self._send)
            has_served = self._served > before
            if scan or self._served >= SHARED_NOTIFY_CHUNK_SIZE:
                await self._turn()

    def _chunk_size(self) -> int:
        if self._log.waiting_bytes > 0 or len(self._under_way) > 1:
            return _BUSY_CHUNK_SIZE
        return SHARED_NOTIFY_CHUNK_SIZE

    def _send(self, jobs: Sequence[Job]) -> None:
        self._sender.send(jobs, self._held)

    async def _turn(self) -> None:
        """Let the event loop turn: a post is read in its first round, and stored in its second."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._served = 0
        self._turn_due = self._clock() + MAX_BATCH_SECONDS

    def _take(self) -> bool:
        """Prepare what waits, as far as the bounds of what is under way allow; False: nothing."""
        if self._too_dear:
            if self._under_way:
                return False
            self._demote()
        room = MAX_BATCH_BYTES - sum(batch.size for batch, _ in self._under_way if batch.passes)
        if room <= 0 or self._manager.counts.holes > self._most_holes() or not self._look_ahead():
            return False
        began, start = self._clock(), self._done
        batch = prepare(
            self._manager, self.position, self._ahead, start, self._clock, max_bytes=room
        )
        self._too_dear += batch.too_dear
        if not batch.taken:
            return bool(self._under_way) or self._take()
        # From this line on, a subscription that goes live has the batch behind it.
        self.position = batch.upto
        self._join(batch)
        self._under_way.append(_Flight(batch, began))
        for node, error in self._manager.take_broken():
            self.on_broken(node, error)
        self._done += batch.taken
        # The log keeps recent changes in memory; nearly all of them are never read again.
        for change in self._ahead[start : self._done]:
            _forget(change)
        self.on_moved()
        return True

    def _demote(self) -> None:
        """Set the subscriptions of filters that cost too much behind: catch-up feeds them.

        Nothing is under way, so all of them have everything up to the position.
        """
        for node in self._too_dear:
            fallen = self._manager.demote(node)
            for handle in fallen:
                handle.overfull(self.position)
            self.on_fallen(fallen)
        self._too_dear.clear()

    def _look_ahead(self) -> bool:
        """Whether there are changes to prepare, fetched out of memory if need be.

        Not out of the file: reading it takes longer than the walk.
        """
        if self._done == len(self._ahead):
            found = self._log.recent(self.position) if self._log.last_seq > self.position else None
            self._ahead, self._done = found or (), 0
        return bool(self._ahead)

    def _join(self, batch: Batch) -> None:
        for scan, deliveries in ((self._shared, batch.shared), (self._user, batch.user)):
            joining = [(frames, plan) for frames, plans in deliveries for plan in plans]
            if batch.holding:
                # First those that wait for others.
                joining.sort(key=lambda one: one[1] not in batch.holding)
            for frames, plan in joining:
                scan.join(batch, frames, plan)
            # Who has them all keeps no frames any more.
            deliveries.clear()

    def _most_holes(self) -> int:
        return max(_FEW_HOLES, self._manager.counts.live // 4)

    async def _finish(self) -> None:
        """Flush and count the batches that have come around, in the order of the log."""
        while self._under_way and not self._under_way[0].batch.passes:
            batch, began = self._under_way.popleft()
            held, self._held = list(self._held), {}
            for start in range(0, len(held), SHARED_NOTIFY_CHUNK_SIZE):
                self._sender.flush(held[start : start + SHARED_NOTIFY_CHUNK_SIZE])
                await self._turn()
            if self._stats.observe_fanout is not None:
                self._stats.observe_fanout(self._clock() - began, batch.upto)


def _forget(change: Change) -> None:
    if change.row is not None:
        change.row.forget()
    if change.old is not None:
        change.old.forget()
