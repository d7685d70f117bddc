"""The feeder: brings every subscription that is not at the head level with it.

Snapshot pages, resumes and slow readers are one and the same thing here: a handle that is LOADING
or CATCHING_UP stands in the queue whenever it could go on, and one of a few workers takes it a
step further. Nothing is ever sent to a sink that still has bytes waiting; the sink says when it
has drained, and the handle is queued again.

    begin ----> LOADING --page, page, ...--> CATCHING_UP --feed, feed, ...--> LIVE
                 ^  waits for next_batch or batch_grace     ^ waits for its socket, or for the
                                                              fan-out to reach its cursor

A handle goes LIVE only when its cursor equals the fan-out's position in the same turn of the
event loop, so no change can slip between.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from kalam_notify.catchup.pages import EncodedPage, Pages
from kalam_notify.catchup.spans import Feed, Spans
from kalam_notify.delivery.frames import FrameSet
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.base import EventLog, reaches
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.heads import Head, batch_head
from kalam_notify.subscriptions.handle import (
    Sink,
    Snapshot,
    SubscriptionHandle,
    SubscriptionState,
)
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode

_WORKERS = 8
_log = logging.getLogger("kalam_notify.delivery")
_LOADING, _CATCHING_UP = SubscriptionState.LOADING, SubscriptionState.CATCHING_UP


class Feeder:
    """Feeds the subscriptions that are behind.

    `position` tells the fan-out's; `batch_grace` (seconds) is read at every page.
    """

    def __init__(
        self,
        log: EventLog,
        manager: ConnectionsManager,
        stats: FanoutStats,
        *,
        position: Callable[[], int],
        batch_grace: Callable[[], float],
    ) -> None:
        self._log = log
        self._manager = manager
        self._stats = stats
        self._position = position
        self._batch_grace = batch_grace
        self._pages = Pages(log)
        self._spans = Spans(log)
        self._queue: deque[SubscriptionHandle] = deque()
        self._queued = asyncio.Event()
        # Woken while a worker had them: looked at once more when it is done.
        self._again: set[SubscriptionHandle] = set()
        # Ahead of the fan-out: they read the log before it got there.
        self._parked: list[SubscriptionHandle] = []

    async def run(self) -> None:
        """Feed until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(_WORKERS):
                workers.create_task(self._work())

    # What others tell

    def begin(self, handle: SubscriptionHandle) -> None:
        """Start a new subscription as its options ask: live, resumed, or with a snapshot."""
        # A resume within what is known here is certain. Where live begins is not, in a log that
        # others write too: a change acknowledged before must not be told as new.
        handle.asked = self._pages.begun
        is_uncertain = handle.options is None and self._log.is_shared
        if is_uncertain or not self._acknowledge(handle, self._log.last_seq):
            self.wake(handle)

    def next_batch(self, handle: SubscriptionHandle, last_seq: int | None) -> None:
        """The client asks for the page after `last_seq`; late and repeated asks do no harm."""
        snapshot = handle.snapshot
        if snapshot is None or snapshot.timer is None:
            return
        if last_seq is None or last_seq >= snapshot.after:
            self._want_page(handle, snapshot)

    def drained(self, sink: Sink) -> None:
        """A sink has handed everything to its socket: whoever is behind on it can go on."""
        for handle in sink.subscriptions.values():
            if handle.state is not SubscriptionState.LIVE:
                self.wake(handle)

    def position_moved(self) -> None:
        """The fan-out has moved on: those that were ahead of it may be level now."""
        if self._parked:
            parked, self._parked = self._parked, []
            for handle in parked:
                self.wake(handle)

    def disable(self, node: FilterNode, error: Exception) -> None:
        """End the subscriptions of a filter whose evaluation raised; nobody else notices."""
        self._stats.plans_disabled += 1
        _log.error("a filter failed and is disabled: %r", node.filter.key, exc_info=error)
        for plan in list(node.plans):
            handles = list(self._manager.handles(plan.table.id))
            for handle in handles:
                if handle.plan is plan:
                    self._fail(handle, "the filter could not be evaluated")

    def wake_all(self, handles: Iterable[SubscriptionHandle]) -> None:
        """Queue several handles."""
        for handle in handles:
            self.wake(handle)

    def wake(self, handle: SubscriptionHandle) -> None:
        """Queue a handle that may be able to go on."""
        if handle.is_queued:
            self._again.add(handle)
            return
        handle.is_queued = True
        self._queue.append(handle)
        self._queued.set()

    # Beginnings

    def _acknowledge(self, handle: SubscriptionHandle, head: int) -> bool:
        """Begin what needs no rows, where the log ends at `head`; False: a snapshot is due."""
        options, table = handle.options, handle.plan.table.id
        if options is None:
            self._acknowledge_live(handle, head)
        elif options.from_seq is not None and reaches(self._log, options.from_seq, head, table):
            self._acknowledge_resumed(handle, options.from_seq)
        else:
            return False
        return True

    def _acknowledge_live(self, handle: SubscriptionHandle, head: int) -> None:
        self._send_ack(handle, messages.batch_control(0, False, head), None)
        handle.loaded(head)
        self._go_on(handle)

    def _acknowledge_resumed(self, handle: SubscriptionHandle, position: int) -> None:
        control = messages.batch_control(0, False, position)
        self._send_ack(handle, control, resumed=True)
        body = messages.batch_body((), control)
        handle.sink.send_frames(FrameSet([body], 0).for_head(self._batch_head(handle)))
        handle.loaded(position)
        self._go_on(handle)

    def _go_on(self, handle: SubscriptionHandle) -> None:
        """Live at once where there is nothing to catch up with, else by the queue."""
        if handle.cursor == self._position():
            handle.level()
        else:
            self._stats.catch_ups += 1
            if not handle.is_queued:
                self.wake(handle)

    def _send_ack(
        self, handle: SubscriptionHandle, control: dict[str, object], resumed: bool | None
    ) -> None:
        schema = handle.plan.projection.schema(handle.plan.table)
        handle.sink.send(messages.subscription_ack(handle.id, control, schema, resumed))

    def _batch_head(self, handle: SubscriptionHandle) -> Head:
        return batch_head(handle.id, handle.sink.deflates)

    # The workers

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            handle = self._queue.popleft()
            try:
                await self._serve(handle)
            except Exception as error:
                # A subscription that ended meanwhile takes nobody down with it.
                if not handle.is_closed:
                    self._failed(handle, error)
            handle.is_queued = False
            if handle in self._again:
                self._again.discard(handle)
                self.wake(handle)

    def _failed(self, handle: SubscriptionHandle, error: Exception) -> None:
        match error:
            case Compacted():
                handle.sink.end(close.BEHIND_RETENTION)
            case LogUnavailable():
                _log.error("the log could not be read: %s", error)
                handle.sink.end(close.INTERNAL_FAULT)
            case _:
                _log.error("feeding %s failed", handle.live_query_id, exc_info=error)
                self.disable(handle.plan.node, error)

    async def _serve(self, handle: SubscriptionHandle) -> None:
        if handle.state is _LOADING and handle.sink.has_room:
            await self._send_page(handle)
        while handle.state is _CATCHING_UP and handle.sink.has_room:
            if not await self._feed(handle):
                return
            await asyncio.sleep(0)

    async def _feed(self, handle: SubscriptionHandle) -> bool:
        """One step towards the head; False when there is none to take now."""
        position = self._position()
        if handle.cursor >= position:
            if handle.cursor == position:
                handle.level()
            else:
                self._parked.append(handle)
            return False
        feed = self._spans.recent(handle.plan, handle.cursor, position)
        if feed is None:
            feed = await self._spans.read(handle.plan, handle.cursor)
            if handle.state is not _CATCHING_UP:
                return False
        return self._hand_over(handle, feed)

    def _hand_over(self, handle: SubscriptionHandle, feed: Feed) -> bool:
        if feed.frames is not None:
            data = feed.frames.for_head(handle.head)
            if not handle.sink.offer(data):
                return False
            self._stats.deliveries += feed.frames.row_count
            self._stats.delivery_bytes += len(data)
        handle.cursor = feed.upto
        if handle.cursor == self._position():
            handle.level()
            return False
        return True

    async def _send_page(self, handle: SubscriptionHandle) -> None:
        snapshot, is_first = handle.snapshot, False
        if snapshot is None:
            if await self._needs_no_rows(handle):
                return
            snapshot, is_first = await self._pages.begin(handle), True
        elif snapshot.timer is not None:
            return  # the client has not asked, and its grace has not passed
        assert handle.options is not None
        page = await self._pages.read(handle, snapshot, handle.options.batch_size)
        if handle.state is not _LOADING:
            return
        snapshot.as_of = page.as_of
        self._send_batch(handle, snapshot, page, is_first)

    async def _needs_no_rows(self, handle: SubscriptionHandle) -> bool:
        """Ask the log itself how the handle begins; True when that is done (or it has ended)."""
        if handle.options is not None and handle.options.from_seq is None:
            return False
        head = await self._log.latest()
        return handle.state is not _LOADING or self._acknowledge(handle, head)

    def _send_batch(
        self, handle: SubscriptionHandle, snapshot: Snapshot, page: EncodedPage, is_first: bool
    ) -> None:
        last_seq = page.last_seq if page.has_more else page.as_of
        control = messages.batch_control(snapshot.batch_num, page.has_more, last_seq)
        if is_first:
            assert handle.options is not None
            self._send_ack(handle, control, False if handle.options.from_seq is not None else None)
        handle.sink.send_frames(page.frames(control).for_head(self._batch_head(handle)))
        if page.has_more:
            snapshot.after = page.last_seq
            snapshot.batch_num += 1
            handle.snapshot = snapshot
            loop = asyncio.get_running_loop()
            snapshot.timer = loop.call_later(self._batch_grace(), self._want_page, handle, snapshot)
        else:
            handle.loaded(page.as_of)

    def _want_page(self, handle: SubscriptionHandle, snapshot: Snapshot) -> None:
        if snapshot.timer is not None:
            snapshot.timer.cancel()
            snapshot.timer = None
        if handle.snapshot is snapshot:
            self.wake(handle)

    def _fail(self, handle: SubscriptionHandle, why: str) -> None:
        if self._manager.find(handle.live_query_id) is handle:
            sink, name = handle.sink, handle.id
            self._manager.close(handle)
            sink.send(messages.error(name, "SUBSCRIPTION_FAILED", why))
