"""Natural batching: everything that waits, bounded, made into one write per plan and socket."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kalam_notify.fanout.frames import FrameSet
from kalam_notify.fanout.payload import BodyBuilder, RowEncoder
from kalam_notify.model import Change
from kalam_notify.subscriptions.handle import SubscriptionHandle
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import Plan, TablePlans

MAX_BATCH_BYTES = 64 * 1024
"""Row bytes taken into one batch: past this a larger write saves nothing (see loadtest/)."""

MAX_BATCH_SECONDS = 0.004
"""Time for routing and encoding before the loop gets a turn; a batch has at least one change."""


class Delivery(NamedTuple):
    """What one plan's live subscribers are to get: the messages, and a snapshot of who."""

    frames: FrameSet
    handles: tuple[SubscriptionHandle, ...]


class Batch(NamedTuple):
    """A prepared batch: the log from `after` (exclusive) to `upto` (inclusive)."""

    after: int
    upto: int
    # Changes taken.
    taken: int
    shared: list[Delivery]
    user: list[Delivery]


def prepare(
    manager: ConnectionsManager,
    after: int,
    changes: Sequence[Change],
    start: int,
    clock: Callable[[], float],
) -> Batch:
    """Route and encode `changes[start:]` for the plans that see them, as the bounds allow.

    Synchronous on purpose: positions, handles and plans are all of one moment.
    """
    collector = _Collector()
    size, deadline = 0, clock() + MAX_BATCH_SECONDS
    end = start
    while end < len(changes):
        change = changes[end]
        end += 1
        plans = manager.plans(change.table, change.owner)
        if plans is not None:
            collector.add(plans, change)
        size += change.size
        if size >= MAX_BATCH_BYTES or clock() > deadline:
            break
    return collector.finish(after, changes[end - 1].seq, end - start)


class _Collector:
    __slots__ = ("_builders", "_encoders")

    def __init__(self) -> None:
        self._builders: dict[Plan, BodyBuilder] = {}
        # One encoder per table, owner and projection, shared by the plans of different filters.
        self._encoders: dict[tuple[int, object], RowEncoder] = {}

    def add(self, plans: TablePlans, change: Change) -> None:
        for node, seen in plans.route(change):
            for plan in node.plans:
                if plan.live:
                    builder = self._builders.get(plan)
                    if builder is None:
                        builder = self._builders[plan] = BodyBuilder(self._encoder(plans, plan))
                    builder.add(change, seen)

    def _encoder(self, plans: TablePlans, plan: Plan) -> RowEncoder:
        key = (id(plans), plan.projection.key)
        encoder = self._encoders.get(key)
        if encoder is None:
            encoder = self._encoders[key] = RowEncoder(plan.table, plan.projection)
        return encoder

    def finish(self, after: int, upto: int, taken: int) -> Batch:
        batch = Batch(after, upto, taken, [], [])
        for plan, builder in self._builders.items():
            delivery = Delivery(FrameSet(builder.bodies(), builder.row_count), tuple(plan.live))
            (batch.shared if plan.table.is_shared else batch.user).append(delivery)
        return batch
