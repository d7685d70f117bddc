"""NotificationService: the worker loop, and the chunked streaming fan-out.

The loop takes what the log has beyond its position, prepares it (fanout/batch.py: row JSON made
once, a snapshot of the handles), moves its position, and streams the prepared messages out in
chunks of SHARED_NOTIFY_CHUNK_SIZE handles. Between two chunks the event loop gets a turn, so that
pings, accepts and ingest stay alive however many subscribers a table has.

Flow control is being on the roster: only LIVE subscriptions are, for everybody else the log has
the change. An offer that is not taken moves the handle to CATCHING_UP with its cursor before the
batch. How a chunk gets onto its sockets is told in chunks.py.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from kalam_notify.errors import Compacted
from kalam_notify.eventlog.base import EventLog
from kalam_notify.fanout.batch import MAX_BATCH_BYTES, Delivery, prepare
from kalam_notify.fanout.chunks import ChunkSender
from kalam_notify.fanout.stats import FanoutStats
from kalam_notify.fanout.uring import Ring
from kalam_notify.model import Change
from kalam_notify.subscriptions.handle import Sink, SubscriptionHandle
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode

SHARED_NOTIFY_CHUNK_SIZE = 256
"""Handles served between two turns of the event loop."""

_logger = logging.getLogger("kalam_notify.fanout")
_MAX_READ = 1000


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
        # Called when the position has moved and the batch has been streamed.
        self.on_moved: Callable[[], None] = lambda: None
        # Called with handles that are behind without a full buffer, to be fed.
        self.on_fallen: Callable[[Iterable[SubscriptionHandle]], None] = lambda handles: None
        # Called with a filter whose evaluation raised.
        self.on_broken: Callable[[FilterNode, Exception], None] = lambda node, error: None

    async def run(self) -> None:
        """The worker loop; ends only by cancellation."""
        while True:
            await self._log.wait_beyond(self.position)
            try:
                changes = await self._waiting()
            except Compacted:
                self._fall_back()
            else:
                await self.notify(changes)

    def _fall_back(self) -> None:
        """Retention has overtaken the fan-out itself: every live handle is behind now.

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
            stretch = await self._log.read(
                self.position, limit=_MAX_READ, max_bytes=MAX_BATCH_BYTES
            )
            changes = stretch.changes
        return changes

    async def notify(self, changes: Sequence[Change]) -> None:
        """Deliver consecutive changes, the first being the first after the position."""
        started, done = self._clock(), 0
        while done < len(changes):
            batch = prepare(self._manager, self.position, changes, done, self._clock)
            # From this line on, a subscription that goes live has the batch behind it.
            self.position = batch.upto
            for node, error in self._manager.take_broken():
                self.on_broken(node, error)
            await self.notify_shared_table_streaming(batch.shared, batch.after)
            await self.notify_user_table_streaming(batch.user, batch.after)
            # The log keeps recent changes in memory; nearly all of them are never read again.
            for change in changes[done : done + batch.taken]:
                _forget(change)
            done += batch.taken
            self.on_moved()
        if self._stats.observe_fanout is not None:
            self._stats.observe_fanout(self._clock() - started, self.position)

    async def notify_shared_table_streaming(
        self, deliveries: Sequence[Delivery], after: int
    ) -> None:
        """Stream prepared messages to the subscribers of SHARED tables, chunk by chunk.

        `after` is the position before the batch, where a handle that is too full falls back to.
        """
        await self._stream(deliveries, after)

    async def notify_user_table_streaming(self, deliveries: Sequence[Delivery], after: int) -> None:
        """The same for USER tables, whose plans have come out of their own index."""
        await self._stream(deliveries, after)

    async def _stream(self, deliveries: Sequence[Delivery], after: int) -> None:
        # Connections with several subscriptions are written to once, at the end.
        held: dict[Sink, None] = {}
        served = 0
        for frames, walks in deliveries:
            for plan, count in walks:
                for start in range(0, count, SHARED_NOTIFY_CHUNK_SIZE):
                    end = min(start + SHARED_NOTIFY_CHUNK_SIZE, count)
                    if served + end - start > SHARED_NOTIFY_CHUNK_SIZE:
                        await asyncio.sleep(0)
                        served = 0
                    served += end - start
                    self._sender.send(plan, start, end, frames, after, held)
                plan.end_walk()
        if held:
            await self._flush(list(held), served)

    async def _flush(self, sinks: Sequence[Sink], served: int) -> None:
        for sink in sinks:
            if served >= SHARED_NOTIFY_CHUNK_SIZE:
                await asyncio.sleep(0)
                served = 0
            served += 1
            sink.flush()


def _forget(change: Change) -> None:
    if change.row is not None:
        change.row.forget()
    if change.old is not None:
        change.old.forget()
