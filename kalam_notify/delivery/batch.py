"""A batch: what plans see of a run of changes, made into messages once for all that see the same.

What plans see of a run of changes, made into messages once for all that see the same.

Plans differ in which changes they see, not in what a change looks like: ten thousand filters that
see the same changes, in the same way and through the same projection, get the same bytes. So a run
of changes is collected along paths: a plan walks from `(change, delta)` to `(change, delta)`, plans
that walk the same way stand on the same path, and messages are made once per path.

The fan-out collects a batch this way, catching up a span of the log.

Natural batching: everything that waits, bounded, made into one write per socket.

When which table changed last is noted on the way: who comes back to a table that has not changed
since need not look through the log for it.

What plans see of a batch is collected along shared paths. Filters that cost more than
their share of the fan-out's time are not asked at all: where a change shows that there are such
filters, the batch ends before it and names them in `too_dear`, for the service to demote them
(subscriptions/routing.py tells how, and why that loses nothing).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from kalam_notify.delivery.payload import BodyBuilder, FrameSet, RowEncoder
from kalam_notify.filters import Delta
from kalam_notify.model import Change, Owner, TableId
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode, Plan, TablePlans


class Delivery(NamedTuple):
    """Messages, and the plans whose subscriptions are to get them."""

    frames: FrameSet
    plans: Sequence[Plan]


class _Path:
    """What some plans have seen so far."""

    __slots__ = ("_before", "_change", "_delta", "_encoder", "_next")

    def __init__(
        self,
        encoder: RowEncoder,
        before: "_Path | None" = None,
        change: Change | None = None,
        seen: Delta | None = None,
    ) -> None:
        self._encoder = encoder
        self._before, self._change, self._delta = before, change, seen
        self._next: dict[int, _Path] = {}

    def on(self, change: Change, seen: Delta) -> "_Path":
        """The path of those on this one that see `change` as `seen` next."""
        key = change.seq * len(Delta) + seen.number
        path = self._next.get(key)
        if path is None:
            path = self._next[key] = _Path(self._encoder, self, change, seen)
        return path

    def frames(self) -> FrameSet:
        """The messages of the whole path."""
        steps, path = [], self
        while path._change is not None and path._delta is not None and path._before is not None:
            steps.append((path._change, path._delta))
            path = path._before
        builder = BodyBuilder(self._encoder)
        for change, seen in reversed(steps):
            builder.add(change, seen)
        return FrameSet(builder.bodies(), builder.row_count, builder.seqs)


class Paths:
    """Where each plan stands; all changes that are taken in come in the order of the log."""

    __slots__ = ("_paths", "_roots")

    def __init__(self) -> None:
        self._paths: dict[Plan, _Path] = {}
        # Where the plans of one table, owner and projection start; and of one key, for a table may
        # be under way from one definition to another.
        self._roots: dict[tuple[object, object, object, object], _Path] = {}

    def take(self, plan: Plan, change: Change, seen: Delta) -> None:
        """A plan sees a change."""
        path = self._paths.get(plan)
        if path is None:
            path = self._root(plan)
        self._paths[plan] = path.on(change, seen)

    def _root(self, plan: Plan) -> _Path:
        table = plan.table
        key = (table.id, plan.owner, plan.projection, table.primary_key)
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = _Path(RowEncoder(table, plan.projection))
        return root

    def plans(self) -> Iterable[Plan]:
        """Those that have seen anything."""
        return self._paths

    def deliveries(self) -> Iterator[Delivery]:
        """What is to be sent to whom; the messages of a path are made when it is come to."""
        plans: dict[_Path, list[Plan]] = {}
        for plan, path in self._paths.items():
            plans.setdefault(path, []).append(plan)
        for path, alike in plans.items():
            yield Delivery(path.frames(), alike)


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


_MOST_NOTED = 10_000


class Newest:
    """When the rows of each table (of each owner) changed last, as far back as is known.

    Bounded: where there are too many to be noted, what is known begins anew.
    """

    __slots__ = ("_seqs", "_since")

    def __init__(self, position: int) -> None:
        # What has not changed since then is not in `_seqs`.
        self._since = position
        self._seqs: dict[tuple[TableId, Owner], int] = {}

    def note(self, changes: Iterable[Change]) -> None:
        """Take in the changes that are next in the log."""
        seqs = self._seqs
        for change in changes:
            seqs[change.table, change.owner] = change.seq
        if len(seqs) > _MOST_NOTED:
            self.begin_anew(max(seqs.values()))

    def begin_anew(self, position: int) -> None:
        """Know nothing of what was before a position."""
        self._since = position
        self._seqs.clear()

    def is_quiet(self, table: TableId, owner: Owner, after: int) -> bool:
        """Whether nothing has changed since a position; False where that is not known."""
        return after >= self._since and self._seqs.get((table, owner), 0) <= after


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
    if change.size <= plans.shares.light_bytes:
        routed = plans.index.route(change)
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
