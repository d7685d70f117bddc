"""Natural batching: everything that waits, bounded, made into one write per socket.

What plans see of a batch is collected along shared paths (paths.py). Filters that cost more than
their share of the fan-out's time are not asked at all: where a change shows that there are such
filters, the batch ends before it and names them in `too_dear`, for the service to demote them
(subscriptions/shares.py tells how, and why that loses nothing).
"""

from collections.abc import Callable, Iterable, Sequence

from kalam_notify.delivery.paths import Delivery, Paths
from kalam_notify.model import Change, Owner, TableId
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode, Plan, TablePlans

MAX_BATCH_BYTES = 64 * 1024
"""Row bytes of one batch, and under way together: past this a larger write saves nothing."""

MAX_BATCH_SECONDS = 0.004
"""Time for routing and encoding before the loop gets a turn; a batch has at least one change."""


class Batch:
    """A prepared batch: the log from `after` (exclusive) to `upto` (inclusive)."""

    __slots__ = (
        "after",
        "holding",
        "passes",
        "shared",
        "size",
        "taken",
        "too_dear",
        "upto",
        "user",
    )

    def __init__(self, after: int, upto: int, taken: int, size: int) -> None:
        self.after = after
        self.upto = upto
        # Changes taken, and their bytes.
        self.taken = taken
        self.size = size
        self.shared: list[Delivery] = []
        self.user: list[Delivery] = []
        # Plans whose subscriptions hold it for a sibling's plan, which sees it too.
        self.holding: frozenset[Plan] = frozenset()
        # Plans that it is under way to.
        self.passes = 0
        # Filters to demote before anything else is prepared.
        self.too_dear: Sequence[FilterNode] = ()


def prepare(
    manager: ConnectionsManager,
    after: int,
    changes: Sequence[Change],
    start: int,
    clock: Callable[[], float],
    max_bytes: int = MAX_BATCH_BYTES,
) -> Batch:
    """Route and encode `changes[start:]` for the plans that see them, as the bounds allow.

    Synchronous on purpose: positions, handles and plans are all of one moment.
    """
    paths, too_dear = Paths(), list[FilterNode]()
    size, deadline = 0, clock() + MAX_BATCH_SECONDS
    end = start
    while end < len(changes):
        change = changes[end]
        if manager.has_subscribers(change.table, change.owner):
            plans = manager.table_plans(change.table, change.owner)
            if not _collect(paths, plans, change, clock, too_dear):
                break
        end += 1
        size += change.size
        if size >= max_bytes or clock() > deadline:
            break
    upto = changes[end - 1].seq if end > start else after
    batch = Batch(after, upto, end - start, size)
    batch.too_dear = too_dear
    for delivery in paths.deliveries():
        (batch.shared if delivery.plans[0].table.is_shared else batch.user).append(delivery)
    batch.holding = _holding(paths.plans())
    return batch


def _collect(
    paths: Paths,
    plans: TablePlans,
    change: Change,
    clock: Callable[[], float],
    too_dear: list[FilterNode],
) -> bool:
    """Take a change in for the plans that see it; False: not before some are demoted."""
    if plans.shares.are_light(change.size):
        routed = plans.route(change)
    else:
        found = plans.shares.route(change, clock)
        if found.too_dear:
            too_dear += found.too_dear
            return False
        routed = found.routed
    for node, seen in routed:
        for plan in node.plans:
            if plan.live_count:
                paths.take(plan, change, seen)
    return True


def _holding(plans: Iterable[Plan]) -> frozenset[Plan]:
    """Of the plans that a connection may have several of, all but the largest.

    Those wait for the largest: then nobody who has only that one is held up.
    """
    alike: dict[tuple[TableId, Owner], list[Plan]] = {}
    for plan in plans:
        if plan.siblings:
            alike.setdefault((plan.table.id, plan.owner), []).append(plan)
    holding: list[Plan] = []
    for several in alike.values():
        if len(several) > 1:
            holding += sorted(several, key=lambda plan: plan.live_count)[:-1]
    return frozenset(holding)
