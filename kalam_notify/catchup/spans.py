"""What subscriptions that are behind by the same span share.

A span of the log after a position never changes, so it can be kept: two subscriptions behind
by the same span read it once, and two of the same plan encode it once. That is what makes five
thousand clients that come back at once affordable.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from kalam_notify.delivery.frames import FrameSet
from kalam_notify.delivery.payload import BodyBuilder, RowEncoder
from kalam_notify.log.base import EventLog
from kalam_notify.singleflight import Singleflight
from kalam_notify.store.base import Span
from kalam_notify.subscriptions.plans import Plan

SPAN_BYTES = 256 * 1024
"""Encoded bytes handed to one subscription before others get a turn."""

_SPAN_CHANGES = 5_000
_READ_LIMIT = 1_000
_KEPT = 64

V = TypeVar("V")


class Feed(NamedTuple):
    """What to send for a span (None: nothing of it is seen) and where that brings the cursor."""

    frames: FrameSet | None
    upto: int


class _Kept(Generic[V]):
    """The most recently used values of a pure function."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Hashable, value: V) -> None:
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)


class Spans:
    """Spans of the log as the frames that a plan's subscribers are to get."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._feeds: _Kept[Feed] = _Kept(_KEPT)
        self._reads: _Kept[Span] = _Kept(_KEPT // 4)
        self._flights: Singleflight[Span] = Singleflight()

    def recent(self, plan: Plan, after: int, position: int) -> Feed | None:
        """The next feed out of memory, never beyond `position`; None: the log must be read."""
        key = (plan, after, position)
        feed = self._feeds.get(key)
        if feed is None:
            changes = self._log.recent(after)
            if changes is None:
                return None
            feed = _feed(plan, Span(changes, position))
            self._feeds.put(key, feed)
        return feed

    async def read(self, plan: Plan, after: int) -> Feed:
        """The next feed read back from the log; raises Compacted."""
        where = (plan.table.id, plan.owner, after)
        span = self._reads.get(where)
        if span is None:
            span = await self._flights.fetch(where, lambda: self._read(plan, after))
            self._reads.put(where, span)
        key = (plan, after, span.upto)
        feed = self._feeds.get(key)
        if feed is None:
            feed = _feed(plan, span)
            self._feeds.put(key, feed)
        return feed

    async def _read(self, plan: Plan, after: int) -> Span:
        return await self._log.read(
            after,
            limit=_READ_LIMIT,
            max_bytes=SPAN_BYTES,
            table=plan.table.id,
            owner=plan.owner,
        )


def _feed(plan: Plan, span: Span) -> Feed:
    """Filter, project and encode a span, or as much of it as one feed may hold."""
    table, owner, upto = plan.table.id, plan.owner, span.upto
    builder = BodyBuilder(RowEncoder(plan.table, plan.projection))
    size = 0
    for count, change in enumerate(span.changes):
        if change.seq > span.upto:
            break
        if change.table == table and change.owner == owner:
            seen = plan.delta(change)
            if seen is not None:
                size += builder.add(change, seen)
        if size >= SPAN_BYTES or count >= _SPAN_CHANGES:
            upto = change.seq
            break
    if builder.row_count == 0:
        return Feed(None, upto)
    return Feed(FrameSet(builder.bodies(), builder.row_count), upto)
