"""NotificationService: the worker loop, and the chunked streaming fan-out as a shared scan.

The loop takes what the log has beyond its position, prepares it (batch.py: row JSON made once),
moves its position, and sends the prepared messages around the plans that see them (SharedScan), in
chunks of SHARED_NOTIFY_CHUNK_SIZE handles. Between two chunks the event loop turns, so that pings,
accepts and ingest stay alive however many subscribers a table has; and what has been stored
meanwhile sets out from where the walk has come to.

Flow control is being in the live list: only LIVE subscriptions are, for everybody else the log has
the change. An offer that is not taken moves the handle to CATCHING_UP with its cursor before the
first batch of the offer. How a chunk gets onto its sockets is told in chunks.py.

The shared scan

A walk over thousands of sockets takes milliseconds, and the next change should not wait for its
end. So batches that are prepared while others are under way join them where they are, and go around
from there: the subscriptions that the walk comes to next are sent both in one write, and what lies
behind it gets the new batch when it comes round again.

            the walk
               v
    |..........+---------------|      batch 1 began at the start
    |----------+...............|      batch 2 joined here: as much is before it as behind
     alone      together with 1

However many changes are posted, a subscription is visited once per round and handed all that waits
for it, and a change waits for a whole round at most. Databases share scans of a table in the same
way (circular or cooperative scans: Zukowski et al., VLDB 2007), and disks their seeks (SCAN).

Every subscription gets the batches in order. Invariant: at any slot of a live list, what is left of
an earlier pass is also left of every later one, for passes of one plan move together, and a later
one has begun with its whole round before it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from kalam_notify.delivery.batch import (
    MAX_BATCH_BYTES,
    MAX_BATCH_SECONDS,
    Batch,
    Newest,
    prepare,
)
from kalam_notify.delivery.chunks import ChunkSender, Job
from kalam_notify.delivery.payload import FrameSet
from kalam_notify.delivery.ring import Ring
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.base import EventLog
from kalam_notify.model import Change, Owner, TableId
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode, Plan, Sink, SubscriptionHandle

Send = Callable[[Sequence[Job]], None]
"""Makes the jobs of one chunk, all at once."""

# Bodies are copied for every length of a head; an idle server keeps none of them.
_MOST_JOINED = 16


class _Pass:
    """One batch's way around one plan's live list."""

    __slots__ = ("batch", "end", "frames", "left")

    def __init__(self, batch: Batch, frames: FrameSet, places: int) -> None:
        self.batch = batch
        self.frames = frames
        # Who has joined since has the batch behind it, and stands beyond this place.
        self.end = places
        # Places still to be visited.
        self.left = places


class _PlanScan:
    """A plan's live list with the passes that are under way on it, the earliest first."""

    __slots__ = ("passes", "place", "plan")

    def __init__(self, plan: Plan, one: _Pass) -> None:
        self.plan = plan
        self.place = 0
        self.passes = [one]

    def span(self, most: int) -> tuple[Sequence[_Pass], int]:
        """The passes that go over the next places together, and how many places those are."""
        place, here = self.place, [one for one in self.passes if self.place < one.end]
        if not here:
            self.place, place, here = 0, 0, self.passes.copy()
        # A pass ends where the list ended when it began, and once around where it began.
        for one in here:
            most = min(most, one.end - place, one.left)
        return here, most

    def advance(self, passes: Sequence[_Pass], places: int, over: list[tuple[Plan, Batch]]) -> None:
        """These passes go over so many places; those that end with that go into `over`."""
        self.place += places
        for one in passes:
            one.left -= places
            if not one.left:
                self.passes.remove(one)
                over.append((self.plan, one.batch))


class SharedScan:
    """Plans that have something under way, served in turn, a chunk each."""

    def __init__(self) -> None:
        self._scans: dict[Plan, _PlanScan] = {}
        self._queue: deque[_PlanScan] = deque()
        # What passes have in common where they go together; plans that see the same share it.
        self._joined: dict[tuple[FrameSet, ...], FrameSet] = {}

    def __bool__(self) -> bool:
        """Whether anything is under way."""
        return bool(self._queue)

    def join(self, batch: Batch, frames: FrameSet, plan: Plan) -> None:
        """Send a batch's frames around a plan, from where its walk has come to."""
        batch.passes += 1
        one = _Pass(batch, frames, plan.begin_scan())
        plan_scan = self._scans.get(plan)
        if plan_scan is None:
            plan_scan = self._scans[plan] = _PlanScan(plan, one)
            self._queue.append(plan_scan)
        else:
            plan_scan.passes.append(one)

    def serve(self, chunk: int, served: int, send: Send) -> int:
        """Serve up to `chunk` places, of which `served` have been already; the new count."""
        queue, jobs = self._queue, list[Job]()
        over: list[tuple[Plan, Batch]] = []
        while queue:
            plan_scan, room = queue[0], chunk - served
            passes, places = plan_scan.span(chunk)
            if places > room:
                # Cut to what is left, unless that is too little to be worth a job.
                if room < chunk // 4:
                    break
                places = room
            served += places
            plan, start = plan_scan.plan, plan_scan.place
            frames = passes[0].frames if len(passes) == 1 else self._together(passes)
            holds = any(plan in one.batch.holding for one in passes)
            jobs.append(Job(plan, start, start + places, frames, passes[0].batch.after, holds))
            plan_scan.advance(passes, places, over)
            if plan_scan.passes:
                queue.rotate(-1)
            else:
                queue.popleft()
                del self._scans[plan]
        if jobs:
            send(jobs)
        for plan, batch in over:
            # Only now may places change.
            plan.end_scan()
            batch.passes -= 1
        if not queue:
            self._joined.clear()
        return served

    def _together(self, passes: Sequence[_Pass]) -> FrameSet:
        key = tuple([one.frames for one in passes])
        frames = self._joined.get(key)
        if frames is None:
            if len(self._joined) >= _MOST_JOINED:
                self._joined.clear()
            frames = self._joined[key] = FrameSet.joined(key)
        return frames


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
        self._sender = ChunkSender(stats, ring, log.waiting)
        self._clock = clock
        # Everything up to here has been prepared for the handles that were live.
        self.position = log.last_seq
        self._newest = Newest(self.position)
        self._shared = SharedScan()
        self._user = SharedScan()
        # Batches that have not come around yet, in order.
        self.under_way: deque[_Flight] = deque()
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
        # Called once, as soon as the position has moved.
        self.waiters: dict[Hashable, Callable[[], None]] = {}
        # Called with handles that are behind without a full buffer, to be fed.
        self.on_fallen: Callable[[Iterable[SubscriptionHandle]], None] = lambda handles: None
        # Called with a filter whose evaluation raised.
        self.on_broken: Callable[[FilterNode, Exception], None] = lambda node, error: None

    @property
    def is_idle(self) -> bool:
        """Whether everything up to the position has been handed to those who were live."""
        return not self.under_way

    def is_quiet(self, table: TableId, owner: Owner, after: int) -> bool:
        """Whether no row has changed between `after` and the position; False: it may have."""
        return after <= self.position and self._newest.is_quiet(table, owner, after)

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
        self.position = max(self.position, self._log.last_seq)
        self._newest.begin_anew(self.position)
        self.on_fallen(fallen)
        self._tell_waiters()

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
        while self._take() or self.under_way:
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
        if self._log.waiting or len(self.under_way) > 1:
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
            if self.under_way:
                return False
            self._demote()
        room = MAX_BATCH_BYTES - sum(batch.size for batch, _ in self.under_way if batch.passes)
        if room <= 0 or self._manager.counts.holes > self._most_holes() or not self._look_ahead():
            return False
        began, start = self._clock(), self._done
        if began >= self._manager.promotion_due:
            self._manager.promote(began)
        batch = prepare(
            self._manager, self.position, self._ahead, start, self._clock, max_bytes=room
        )
        self._too_dear += batch.too_dear
        if not batch.taken:
            return bool(self.under_way) or self._take()
        taken = self._ahead[start : start + batch.taken]
        self._newest.note(taken)
        # From this line on, a subscription that goes live has the batch behind it.
        self.position = batch.upto
        self._join(batch)
        self.under_way.append(_Flight(batch, began))
        for node, error in self._manager.take_broken():
            self.on_broken(node, error)
        self._done += batch.taken
        # The log keeps recent changes in memory; nearly all of them are never read again.
        for change in taken:
            _forget(change)
        if self.waiters:
            self._tell_waiters()
        return True

    def _tell_waiters(self) -> None:
        waiting = [*self.waiters.values()]
        self.waiters.clear()
        for go in waiting:
            go()

    def _demote(self) -> None:
        """Set the subscriptions of filters that cost too much behind: catch-up feeds them.

        Nothing is under way, so all of them have everything up to the position.
        """
        for node in self._too_dear:
            fallen = self._manager.demote(node, self._clock())
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
        while self.under_way and not self.under_way[0].batch.passes:
            batch, began = self.under_way.popleft()
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
