"""How subscriptions begin, and the snapshot pages of those that are LOADING.

A log that cannot be read for a while: everybody who reads it waits, longer each time.

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

Snapshots: the pages of subscriptions that are LOADING.

    where it begins --page--> (next_batch, or batch_grace) --page--> ... --ready--> CATCHING_UP

A page is asked for when the client wants one and nothing waits for its socket; pages.py reads it,
and what came of it is sent from here. Whatever is under way for a handle is its `undertaking`, and
ends when the handle does.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Protocol

from kalam_notify.budget import Budget, Steps
from kalam_notify.catchup.pages import EncodedPage, FilterFailed, PageKey, Pages, Reading
from kalam_notify.delivery.payload import FrameSet
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.base import EventLog, reaches
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.messages import batch_head, framed
from kalam_notify.subscriptions.plans import (
    FilterNode,
    Snapshot,
    SubscriptionHandle,
    SubscriptionState,
)

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 5.0
_log = logging.getLogger("kalam_notify.catchup")


class ReadFaults:
    """What has gone wrong since a read last succeeded."""

    def __init__(self) -> None:
        self._wait = 0.0
        # Why the log cannot be read at the moment; None: it can, for all that is known.
        self.reason: str | None = None

    def met(self, fault: LogUnavailable) -> float:
        """A read has failed; the seconds to wait before the next attempt."""
        if self.reason is None:
            _log.error("%s; catching up waits for it", fault)
        self.reason = str(fault)
        self._wait = min(max(2 * self._wait, _FIRST_WAIT), _LONGEST_WAIT)
        return self._wait

    def over(self) -> None:
        """A read has succeeded."""
        if self.reason is not None:
            _log.warning("the log can be read again")
            self.reason, self._wait = None, 0.0


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
    body = messages.batch_body((), control)
    batch = FrameSet([body], 0, [position]).for_head(batch_head(handle.id, handle.sink.deflates))
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
_LOADING = SubscriptionState.LOADING


class Surroundings(Protocol):
    """What snapshots need of the feeder."""

    log: EventLog
    budget: Budget
    faults: ReadFaults

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...

    def loaded(self, handle: SubscriptionHandle) -> None:
        """All rows have been sent: the log tells the rest."""

    def disable(self, node: FilterNode, error: Exception) -> None: ...


class Errand:
    """What has to be found out for one handle before its first page."""

    def __init__(self, handle: SubscriptionHandle) -> None:
        handle.undertaking = self
        self.task: asyncio.Task[None] | None = None

    def leave(self, handle: SubscriptionHandle) -> None:
        """The handle has ended, or it is found out."""
        handle.undertaking = None
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()


class Snapshots:
    """Brings LOADING subscriptions through their pages."""

    def __init__(self, around: Surroundings, batch_grace: Callable[[], float]) -> None:
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
            errand = Errand(handle)
            errand.task = self._around.spawn(self._seek(errand, handle, wanted or 0))

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
        errand = Errand(handle)
        errand.task = self._around.spawn(self._wait(errand, handle, seconds))

    async def _wait(self, errand: Errand, handle: SubscriptionHandle, seconds: float) -> None:
        await asyncio.sleep(seconds)
        errand.leave(handle)
        if handle.sink.has_room:
            self.go_on(handle)
