"""The feeder: brings every subscription that is not at the head level with it.

Snapshots, resumes and slow readers are one and the same thing here: a handle that is LOADING or
CATCHING_UP is taken further whenever it can go on. Nothing is ever sent to a sink that still has
bytes waiting; the sink says when it has drained.

    begin ----> LOADING --page, page, ...--> CATCHING_UP --span, span, ...--> LIVE
                 ^  snapshots.py: waits for       ^ lanes.py: waits for its socket, or for the
                    next_batch or batch_grace       fan-out to reach its cursor

Everything that takes time is work of the budget, in the name of who asked for it, and ends with the
subscription it is for (`handle.undertaking`). A handle goes LIVE only when its cursor equals the
fan-out's position in the same turn of the event loop, so no change can slip between.

What goes wrong ends as little as it can: a log that cannot be read is waited for, what retention
has taken and what a sink raises end that connection, what a filter raises ends that filter's
subscriptions.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterable, MutableMapping
from typing import Any

from kalam_notify.budget import Budget
from kalam_notify.catchup.cohorts import Asking, Cohort
from kalam_notify.catchup.lanes import Lane, LaneKey
from kalam_notify.catchup.snapshots import (
    EXPIRED,
    Beginning,
    Errand,
    ReadFaults,
    Snapshots,
    acknowledge,
    beginning_of,
)
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.errors import LogUnavailable
from kalam_notify.log.base import EventLog
from kalam_notify.protocol import close, messages
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode, Sink, SubscriptionHandle, SubscriptionState

_log = logging.getLogger("kalam_notify.catchup")
_LOADING, _CATCHING_UP = SubscriptionState.LOADING, SubscriptionState.CATCHING_UP


class Feeder:
    """Feeds the subscriptions that are behind. Works while `run` runs.

    `position` tells the fan-out's, which calls the `waiters` once, when it has moved;
    `batch_grace` (seconds) is read at every page.
    """

    def __init__(
        self,
        log: EventLog,
        manager: ConnectionsManager,
        stats: FanoutStats,
        budget: Budget,
        *,
        position: Callable[[], int],
        waiters: MutableMapping[Hashable, Callable[[], None]],
        batch_grace: Callable[[], float],
    ) -> None:
        self.log = log
        self.stats = stats
        self.budget = budget
        self.position = position
        self._waiters = waiters
        self.faults = ReadFaults()
        self.asking = Asking(self.disable)
        self._manager = manager
        self._snapshots = Snapshots(self, batch_grace)
        self._lanes: dict[LaneKey, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Own what is under way until cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            tasks = [*self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that waits; it ends with the feeder at the latest."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("catching up failed", exc_info=task.exception())

    # What others tell

    def begin(self, handle: SubscriptionHandle) -> None:
        """Start a new subscription as its options ask: live, resumed, or with a snapshot."""
        handle.asked = self._snapshots.pages.begun
        self._begin(handle, None)

    def next_batch(self, handle: SubscriptionHandle, last_seq: int | None) -> bool:
        """The client asks for the page after `last_seq`; late and repeated asks do no harm.

        False: no page was to be asked for.
        """
        return self._snapshots.want_page(handle, last_seq)

    def drained(self, sink: Sink) -> None:
        """A sink has handed everything to its socket: whoever is behind on it can go on."""
        for handle in [*sink.subscriptions.values()]:
            if handle.state is not SubscriptionState.LIVE:
                self.wake(handle)

    def is_at_head(self, handle: SubscriptionHandle) -> bool:
        """Whether a subscription that is behind for good has been told all that there is."""
        undertaking = handle.undertaking
        return isinstance(undertaking, Cohort) and undertaking.cursor == self.position()

    def disable(self, node: FilterNode, error: Exception) -> None:
        """End the subscriptions of a filter whose evaluation raised; nobody else notices."""
        self.stats.plans_disabled += 1
        _log.error("a filter failed and is disabled: %r", node.filter.key, exc_info=error)
        for plan in [*node.plans]:
            for handle in [*self._manager.handles(plan.table.id)]:
                if handle.plan is plan:
                    why = "the filter could not be evaluated"
                    self._close(handle, messages.error(handle.id, "SUBSCRIPTION_FAILED", why))

    def wake_all(self, handles: Iterable[SubscriptionHandle]) -> None:
        """Take several handles further."""
        for handle in handles:
            self.wake(handle)

    def wake(self, handle: SubscriptionHandle) -> None:
        """Take a handle further that may be able to go on."""
        if handle.undertaking is not None or not handle.sink.has_room:
            return
        if handle.state is _CATCHING_UP:
            self._feed(handle)
        elif handle.state is _LOADING:
            self._snapshots.go_on(handle)

    # Beginnings

    def _begin(self, handle: SubscriptionHandle, head: int | None) -> None:
        match beginning_of(handle, self.log, head):
            case Beginning.LIVE:
                acknowledge(handle, self.log.last_seq if head is None else head)
                self.loaded(handle)
            case Beginning.RESUME:
                assert handle.options is not None
                assert handle.options.from_seq is not None
                acknowledge(handle, handle.options.from_seq)
                self.loaded(handle)
            case Beginning.SNAPSHOT:
                self.wake(handle)
            case Beginning.EXPIRED:
                self._close(handle, messages.error(handle.id, "RESUME_EXPIRED", EXPIRED))
            case Beginning.ASK:
                errand = Errand(handle)
                errand.task = self.spawn(self._ask_for_head(errand, handle))

    async def _ask_for_head(self, errand: Errand, handle: SubscriptionHandle) -> None:
        """Ask the log itself where it ends, until it tells."""
        head = None
        while head is None:
            try:
                head = await self.log.latest(_told(handle))
            except LogUnavailable as fault:
                await asyncio.sleep(self.faults.met(fault))
        self.faults.over()
        errand.leave(handle)
        try:
            self._begin(handle, head)
        except Exception:
            _log.exception("beginning %s failed", handle.live_query_id)
            handle.sink.end(close.INTERNAL_FAULT)

    def loaded(self, handle: SubscriptionHandle) -> None:
        """All rows have been sent, or there were none: the log tells the rest."""
        if handle.state is not _CATCHING_UP or handle.undertaking is not None:
            return  # it has ended, or was woken while its last page was written
        if handle.cursor == self.position() and not handle.plan.node.is_demoted:
            handle.level()
            return
        self.stats.catch_ups += 1
        self.wake(handle)

    # Lanes

    def _feed(self, handle: SubscriptionHandle) -> None:
        key = LaneKey.of(handle)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(self, key)
        lane.join(handle)

    def lane_waits(self, lane: Lane) -> None:
        """Call `go` when the position has moved."""
        self._waiters[lane] = lane.go

    def lane_is_empty(self, lane: Lane) -> None:
        """Nobody is behind in it any more."""
        self._waiters.pop(lane, None)
        if self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]
        self.asking.forget()

    def _close(self, handle: SubscriptionHandle, error: bytes) -> None:
        if self._manager.find(handle.live_query_id) is handle:
            sink = handle.sink
            self._manager.close(handle)
            sink.send(error)


def _told(handle: SubscriptionHandle) -> int:
    """The position that the client says it was told."""
    options = handle.options
    return 0 if options is None else options.from_seq or 0
