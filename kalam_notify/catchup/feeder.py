"""The feeder: brings every subscription that is not at the head level with it.

Snapshots, resumes and slow readers are one and the same thing here: a handle that is LOADING or
CATCHING_UP is taken further whenever it can go on. Nothing is ever sent to a sink that still has
bytes waiting; the sink says when it has drained.

    begin ----> LOADING --page, page, ...--> CATCHING_UP --span, span, ...--> LIVE
                 ^  waits for next_batch or       ^ lanes.py: waits for its socket, or for the
                    batch_grace                     fan-out to reach its cursor

How a subscription begins: what is acknowledged, and with which position.

    asked with                      known                       begun
    ------------------------------  --------------------------  ------------------------------------
    null                            where the log ends          ack, empty batch; live from there
    from S                          the log reaches back to S   ack, empty batch; the log after S
    from S, on_gap error            it does not                 RESUME_EXPIRED, and it is over
    from S, on_gap snapshot         it does not                 a snapshot, `resumed: false`
    anything else                                               a snapshot

What needs no rows is done at once, in the turn of the subscribe. Where other processes write the
same log, its end has to be asked for, and so has a position beyond what is known here; a resume
within what is known is certain.

A page is asked for when the client wants one and nothing waits for its socket; pages.py reads it,
and what came of it is sent from here.

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
from enum import Enum
from typing import Any

from kalam_notify.budget import Budget, Steps
from kalam_notify.catchup.cohorts import Asking, Cohort
from kalam_notify.catchup.lanes import Lane, LaneKey
from kalam_notify.catchup.pages import (
    EncodedPage,
    FilterFailed,
    PageKey,
    Pages,
    ReadFaults,
    Reading,
)
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.base import EventLog, reaches
from kalam_notify.model import Owner, TableId
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.messages import batch_head, framed
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import (
    FilterNode,
    Sink,
    Snapshot,
    SubscriptionHandle,
    SubscriptionState,
)

_log = logging.getLogger("kalam_notify.catchup")
_LOADING, _CATCHING_UP = SubscriptionState.LOADING, SubscriptionState.CATCHING_UP
_LIVE = SubscriptionState.LIVE


EXPIRED = "the log does not reach back to that position; subscribe again without `from`"


class Beginning(Enum):
    """What is to be done for a new subscription."""

    LIVE = "acknowledge it as live only"
    RESUME = "acknowledge its position"
    SNAPSHOT = "send it a snapshot"
    EXPIRED = "end it"
    ASK = "ask the log where it ends, first"


def beginning_of(handle: SubscriptionHandle, log: EventLog, head: int | None) -> Beginning:
    """How a handle begins; `head` is where the log ends, None: as far as is known here."""
    options = handle.options
    is_certain = head is not None or not log.is_shared
    if options is None:
        return Beginning.LIVE if is_certain else Beginning.ASK
    if options.from_seq is None:
        return Beginning.SNAPSHOT
    table = handle.plan.table.id
    if reaches(log, options.from_seq, log.last_seq if head is None else head, table):
        return Beginning.RESUME
    if options.from_seq > log.horizon(table) and not is_certain:
        return Beginning.ASK
    return Beginning.SNAPSHOT if options.on_gap == "snapshot" else Beginning.EXPIRED


def acknowledge(handle: SubscriptionHandle, position: int) -> None:
    """Acknowledge what needs no rows: the ack and an empty, ready batch, both at a position."""
    control = messages.batch_control(0, False, position)
    resumed = None if handle.options is None else True
    batch = framed(messages.empty_batch(handle.id, control), handle.sink.deflates, position)
    frames = acknowledgement(handle, control, resumed) + batch
    # First: the write may tell that the socket has drained, and who is still LOADING would begin.
    handle.loaded(position)
    handle.sink.send_frames(frames)


def acknowledgement(
    handle: SubscriptionHandle, control: dict[str, object], resumed: bool | None
) -> bytes:
    """The ack, framed."""
    schema = handle.plan.projection.schema(handle.plan.table)
    ack = messages.subscription_ack(handle.id, control, schema, resumed, handle.notices)
    return framed(ack, handle.sink.deflates)


# Smaller ones are sent on top of what waits for the socket rather than read again.
_LARGE_PAGE = 64 * 1024


class Errand:
    """What has to be found out for one handle before its first page."""

    def __init__(
        self,
        handle: SubscriptionHandle,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        find_out: Callable[["Errand"], Coroutine[Any, Any, None]],
    ) -> None:
        handle.undertaking = self
        self.task = spawn(self._run(handle, find_out))

    async def _run(
        self,
        handle: SubscriptionHandle,
        find_out: Callable[["Errand"], Coroutine[Any, Any, None]],
    ) -> None:
        """What goes wrong ends the connection: nobody else would tell it anything any more."""
        try:
            await find_out(self)
        except Exception:
            _log.exception("beginning %s failed", handle.live_query_id)
            handle.sink.end(close.INTERNAL_FAULT)

    def leave(self, handle: SubscriptionHandle) -> None:
        """The handle has ended, or it is found out."""
        handle.undertaking = None
        if self.task is not asyncio.current_task():
            self.task.cancel()


class Snapshots:
    """Brings LOADING subscriptions through their pages."""

    def __init__(self, around: "Feeder", batch_grace: Callable[[], float]) -> None:
        """`batch_grace` (seconds) is read at every page."""
        self._around = around
        self._batch_grace = batch_grace
        self.pages = Pages(around.log, around.budget, around.spawn, self._deliver)

    def go_on(self, handle: SubscriptionHandle) -> None:
        """Ask for the next page of a handle that has room, unless its client has not wanted it."""
        snapshot, options = handle.snapshot, handle.options
        assert options is not None
        if snapshot is None:
            self._begin(handle)
        elif snapshot.timer is None:
            self._ask(handle, snapshot)

    def want_page(self, handle: SubscriptionHandle, last_seq: int | None) -> bool:
        """The client asks for the page after `last_seq`; False: it need not have."""
        snapshot = handle.snapshot
        if snapshot is None or snapshot.timer is None:
            return False
        if last_seq is not None and last_seq < snapshot.after:
            return False
        self._wanted(handle, snapshot)
        return True

    def _begin(self, handle: SubscriptionHandle) -> None:
        options, plan = handle.options, handle.plan
        assert options is not None
        wanted = None if options.from_seq is not None else options.last_rows
        if wanted is None and plan.table.is_keyed:
            self._ask(handle, Snapshot(as_of=None, after=0))
        else:
            spawn = self._around.spawn
            Errand(handle, spawn, lambda errand: self._seek(errand, handle, wanted or 0))

    async def _seek(self, errand: Errand, handle: SubscriptionHandle, wanted: int) -> None:
        """Find out where the newest rows begin; none are sent of a table that keeps none."""
        around = self._around
        try:
            if wanted:
                as_of, after = await self.pages.seek(handle.plan, handle.payer, wanted)
            else:
                as_of = after = await around.log.latest()
        except Exception as fault:
            errand.leave(handle)
            self._failed(handle, fault)
        else:
            around.faults.over()
            errand.leave(handle)
            self._ask(handle, Snapshot(as_of=as_of, after=after))

    def _ask(self, handle: SubscriptionHandle, snapshot: Snapshot) -> None:
        assert handle.options is not None
        limit, as_of = handle.options.batch_size, snapshot.as_of
        key = PageKey(handle.plan, limit, snapshot.after, as_of)
        if as_of is not None and snapshot.after >= as_of:
            self._send(handle, EncodedPage(as_of, snapshot.after, (), has_more=False))
        elif as_of is None and (page := self.pages.known(handle, key)) is not None:
            self._send(handle, page)
        else:
            self.pages.ask(handle, key)

    # What came of it

    def _deliver(self, reading: Reading, outcome: EncodedPage | Exception) -> None:
        if reading.handles:
            payer = next(iter(reading.handles)).payer
            self._around.budget.enter(self._hand_out(reading, outcome), payer, reading.key)

    def _hand_out(self, reading: Reading, outcome: EncodedPage | Exception) -> Steps[None]:
        while reading.handles:
            handle = next(iter(reading.handles))
            reading.leave(handle)
            if isinstance(outcome, EncodedPage):
                self._around.faults.over()
                self._hand_over(handle, outcome)
            else:
                self._failed(handle, outcome)
            yield

    def _hand_over(self, handle: SubscriptionHandle, page: EncodedPage) -> None:
        if page.size > _LARGE_PAGE and not handle.sink.has_room:
            return  # other pages were faster; asked for again when they have drained
        try:
            self._send(handle, page)
        except Exception:
            _log.exception("a page of %s could not be sent", handle.live_query_id)
            handle.sink.end(close.INTERNAL_FAULT)

    def _send(self, handle: SubscriptionHandle, page: EncodedPage) -> None:
        snapshot = handle.snapshot or Snapshot(page.as_of, 0)
        last_seq = page.last_seq if page.has_more else page.as_of
        control = messages.batch_control(snapshot.batch_num, page.has_more, last_seq)
        frames = page.frames(control).for_head(batch_head(handle.id, handle.sink.deflates))
        if handle.snapshot is None:
            assert handle.options is not None
            resumed = None if handle.options.from_seq is None else False
            frames = acknowledgement(handle, control, resumed) + frames
        handle.snapshot = snapshot
        snapshot.as_of = page.as_of
        if page.has_more:
            snapshot.after = page.last_seq
            snapshot.batch_num += 1
            loop = asyncio.get_running_loop()
            snapshot.timer = loop.call_later(self._batch_grace(), self._wanted, handle, snapshot)
            handle.sink.send_frames(frames)
        else:
            # First: the write may tell that the socket has drained, and who is still LOADING asks.
            handle.loaded(page.as_of)
            handle.sink.send_frames(frames)
            self._around.loaded(handle)

    def _wanted(self, handle: SubscriptionHandle, snapshot: Snapshot) -> None:
        """The client has asked for the next page, or has had the time to."""
        if snapshot.timer is not None:
            snapshot.timer.cancel()
            snapshot.timer = None
        if handle.snapshot is snapshot and handle.undertaking is None and handle.sink.has_room:
            self._ask(handle, snapshot)

    def _failed(self, handle: SubscriptionHandle, fault: Exception) -> None:
        match fault:
            case FilterFailed(__cause__=Exception() as error):
                self._around.disable(handle.plan.node, error)
            case Compacted() if handle.snapshot is not None:
                handle.sink.end(close.BEHIND_RETENTION)
            case Compacted():
                self._again(handle, 0.0)
            case LogUnavailable():
                self._again(handle, self._around.faults.met(fault))
            case _:
                _log.error("the snapshot of %s failed", handle.live_query_id, exc_info=fault)
                handle.sink.end(close.INTERNAL_FAULT)

    def _again(self, handle: SubscriptionHandle, seconds: float) -> None:
        spawn = self._around.spawn
        Errand(handle, spawn, lambda errand: self._wait(errand, handle, seconds))

    async def _wait(self, errand: Errand, handle: SubscriptionHandle, seconds: float) -> None:
        await asyncio.sleep(seconds)
        errand.leave(handle)
        if handle.sink.has_room:
            self.go_on(handle)


class Feeder:
    """Feeds the subscriptions that are behind. Works while `run` runs.

    `position` tells the fan-out's, which calls the `waiters` once, when it has moved, and
    `is_quiet` whether a table is known not to have changed between a cursor and there.
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
        is_quiet: Callable[[TableId, Owner, int], bool],
        waiters: MutableMapping[Hashable, Callable[[], None]],
        batch_grace: Callable[[], float],
    ) -> None:
        self.log = log
        self.stats = stats
        self.budget = budget
        self.position = position
        self.is_quiet = is_quiet
        self._waiters = waiters
        self.faults = ReadFaults()
        self.asking = Asking(self.disable)
        self._manager = manager
        self._snapshots = Snapshots(self, batch_grace)
        self._lanes: dict[LaneKey, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Counts what decides who is first.
        self._drains = 0

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
        """A sink has handed everything to its socket: whoever is behind on it can go on.

        Another one first each time, for the first may fill the socket again.
        """
        behind = [one for one in sink.subscriptions.values() if one.state is not _LIVE]
        if len(behind) > 1:
            self._drains += 1
            first = self._drains % len(behind)
            behind = behind[first:] + behind[:first]
        for handle in behind:
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
                Errand(handle, self.spawn, lambda errand: self._ask_for_head(errand, handle))

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
        self._begin(handle, head)

    def loaded(self, handle: SubscriptionHandle) -> None:
        """All rows have been sent, or there were none: the log tells the rest."""
        if handle.state is not _CATCHING_UP or handle.undertaking is not None:
            return  # it has ended, or was woken while its last page was written
        plan = handle.plan
        if not plan.node.is_demoted and (
            handle.cursor == self.position()
            or self.is_quiet(plan.table.id, plan.owner, handle.cursor)
        ):
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
