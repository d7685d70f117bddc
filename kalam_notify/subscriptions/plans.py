"""Plans: the work is per distinct query, not per subscriber.

Subscriptions with the same table, owner, filter and projection share one `Plan`. Plans with the
same filter hang on one `FilterNode`, so that the filter is judged once per change; the nodes of a
table (of one owner's part of a USER table) are found through a `FilterIndex`. All of it is
interned: made by the first subscription, dropped with the last.
"""

from collections.abc import Iterator, Sequence

from kalam_notify.filters import Filter, FilterIndex, Projection, Query
from kalam_notify.model import Change, Owner, TableDef
from kalam_notify.subscriptions.deltas import Delta, delta
from kalam_notify.subscriptions.handle import SubscriptionHandle
from kalam_notify.subscriptions.roster import Roster


class Counts:
    """How many subscriptions are live, and how many places of rosters are holes, over all plans."""

    __slots__ = ("holes", "live")

    def __init__(self) -> None:
        self.live = 0
        self.holes = 0


class Plan(Roster):
    """What a change has to go through for the subscriptions that share it, and which are live."""

    __slots__ = ("_counts", "node", "owner", "projection", "subscribers", "table")

    def __init__(
        self,
        table: TableDef,
        owner: Owner,
        node: "FilterNode",
        projection: Projection,
        counts: Counts,
    ) -> None:
        super().__init__()
        self._counts = counts
        self.table = table
        self.owner = owner
        self.node = node
        self.projection = projection
        # Subscriptions that hold this plan, in whatever state.
        self.subscribers = 0

    @property
    def filter(self) -> Filter:
        return self.node.filter

    def join(self, handle: SubscriptionHandle) -> None:
        super().join(handle)
        self._counts.live += 1

    def leave(self, handle: SubscriptionHandle) -> None:
        before = self._holes
        super().leave(handle)
        self._counts.live -= 1
        self._counts.holes += self._holes - before

    def _close_holes(self) -> None:
        self._counts.holes -= self._holes
        super()._close_holes()

    def delta(self, change: Change) -> Delta | None:
        """How one change of this plan's table and owner is seen through its filter."""
        matches = self.filter.matches
        old_matches = change.old is not None and matches(change.old.values)
        new_matches = change.row is not None and matches(change.row.values)
        return delta(change, old_matches, new_matches)


class FilterNode:
    """One distinct filter and the plans (one per distinct projection) that use it."""

    __slots__ = ("filter", "plans")

    def __init__(self, filter: Filter) -> None:
        self.filter = filter
        # Nearly always one; a list is a fifth of a dict's size.
        self.plans: list[Plan] = []

    def plan_for(self, projection: Projection) -> Plan | None:
        for plan in self.plans:
            if plan.projection.key == projection.key:
                return plan
        return None


class TablePlans:
    """The plans of one SHARED table, or of one owner's rows of a USER table."""

    __slots__ = ("_counts", "_nodes", "index", "owner", "table")

    def __init__(self, table: TableDef, owner: Owner, counts: Counts) -> None:
        self._counts = counts
        self.table = table
        self.owner = owner
        self.index: FilterIndex[FilterNode] = FilterIndex()
        self._nodes: dict[object, FilterNode] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Plan]:
        for node in self._nodes.values():
            yield from node.plans

    def acquire(self, query: Query) -> Plan:
        """The plan of a query, made where nobody has asked the same; counts one subscriber."""
        node = self._nodes.get(query.filter.key)
        if node is None:
            node = self._nodes[query.filter.key] = FilterNode(query.filter)
            self.index.add(node.filter, node)
        plan = node.plan_for(query.projection)
        if plan is None:
            plan = Plan(self.table, self.owner, node, query.projection, self._counts)
            node.plans.append(plan)
        plan.subscribers += 1
        return plan

    def release(self, plan: Plan) -> None:
        """One subscriber fewer; the last one takes the plan, and its filter, along."""
        plan.subscribers -= 1
        if plan.subscribers:
            return
        node = plan.node
        node.plans.remove(plan)
        if not node.plans:
            self.index.discard(node.filter, node)
            del self._nodes[node.filter.key]

    def find(self, query: Query) -> Plan | None:
        """The plan that a query would share, if somebody has asked the same."""
        node = self._nodes.get(query.filter.key)
        return None if node is None else node.plan_for(query.projection)

    def route(self, change: Change) -> Sequence[tuple[FilterNode, Delta]]:
        """The filters that see this change, and as what; each filter once."""
        if change.old is None:
            if change.row is None:
                return ()
            seen = delta(change, False, True)
            assert seen is not None
            return [(node, seen) for node in self.index.matching(change.row.values)]
        before = self.index.matching(change.old.values)
        if change.row is None:
            return [(node, Delta.DELETE) for node in before] if change.kind == "delete" else ()
        return _both_images(change, before, self.index.matching(change.row.values))


def _both_images(
    change: Change, before: list[FilterNode], after: list[FilterNode]
) -> Sequence[tuple[FilterNode, Delta]]:
    routed = []
    left = {id(node): node for node in before}
    for node in after:
        was_in = left.pop(id(node), None) is not None
        seen = delta(change, was_in, True)
        if seen is not None:
            routed.append((node, seen))
    for node in left.values():
        seen = delta(change, True, False)
        if seen is not None:
            routed.append((node, seen))
    return routed
