"""Plans: the work is per distinct query, not per subscriber.

Subscriptions with the same table, owner, filter and projection share one `Plan`. Plans with the
same filter hang on one `FilterNode`, so that the filter is judged once per change; the nodes of a
table (of one owner's part of a USER table) are found through a `FilterIndex`. All of it is
interned: made by the first subscription, dropped with the last.
"""

from collections.abc import Hashable, Iterator, Sequence

from kalam_notify.filters import Filter, FilterIndex, Projection, Query
from kalam_notify.model import Change, Owner, TableDef
from kalam_notify.protocol.heads import Head
from kalam_notify.subscriptions.deltas import Delta, delta
from kalam_notify.subscriptions.handle import NO_FD, SubscriptionHandle
from kalam_notify.subscriptions.routing import both_images, one_image
from kalam_notify.subscriptions.shares import Shares, Weight


class Counts:
    """Over all plans: live subscriptions, slots of live lists that are holes, plans demoted."""

    __slots__ = ("demoted", "holes", "live")

    def __init__(self) -> None:
        self.live = 0
        self.holes = 0
        self.demoted = 0


class LiveList:
    """The live subscriptions of a plan, laid out for a scan over thousands of them.

    What a delivery costs beside the kernel's send is not instructions but cache misses: after a few
    thousand sends every object has left the cache, and each one touched has to be fetched again. So
    what the fan-out needs of a subscription stands in flat lists, side by side:

        fds    fd, fd, ...           where whole frames may be written without asking, or NO_FD
        heads  head, head, ...       what each one's messages start with
        live   handle, handle, ...   looked at only where there is no fd

    While somebody scans, nobody changes slots: leaving makes a hole, joining goes to the end,
    beyond where the scan stops. The holes are closed when the last scan is over.

    Joining and leaving are O(1). Invariant: `live[handle.slot] is handle`.
    """

    __slots__ = ("_counts", "_holes", "_scans", "fds", "heads", "live")

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.live: list[SubscriptionHandle | None] = []
        self.fds: list[int] = []
        self.heads: list[Head] = []
        self._holes = 0
        self._scans = 0

    @property
    def live_count(self) -> int:
        return len(self.live) - self._holes

    def join(self, handle: SubscriptionHandle) -> None:
        """Put a handle at the end."""
        self._append(handle)
        self._counts.live += 1

    def _append(self, handle: SubscriptionHandle) -> None:
        handle.slot = len(self.live)
        if not self.live:
            # Made with one, lists have no spare slots; most plans have one subscription.
            self.live, self.fds, self.heads = [handle], [handle.sink.direct_fd], [handle.head]
            return
        self.live.append(handle)
        self.fds.append(handle.sink.direct_fd)
        self.heads.append(handle.head)

    def leave(self, handle: SubscriptionHandle) -> None:
        """Take a handle out; the last one moves into its slot, unless somebody is scanning."""
        slot, handle.slot = handle.slot, -1
        self._counts.live -= 1
        if self._scans:
            self.live[slot] = None
            self.fds[slot] = NO_FD
            self._holes += 1
            self._counts.holes += 1
            return
        last, fd, head = self.live.pop(), self.fds.pop(), self.heads.pop()
        if last is not handle and last is not None:
            self.live[slot], self.fds[slot], self.heads[slot] = last, fd, head
            last.slot = slot

    def begin_scan(self) -> int:
        """Hold all slots until `end_scan`; how many there are to scan."""
        self._scans += 1
        return len(self.live)

    def end_scan(self) -> None:
        """Let slots change again."""
        self._scans -= 1
        if self._holes and not self._scans:
            self._close_holes()

    def _close_holes(self) -> None:
        handles = [handle for handle in self.live if handle is not None]
        self._counts.holes -= self._holes
        self.live, self.fds, self.heads, self._holes = [], [], [], 0
        for handle in handles:
            self._append(handle)


class Plan(LiveList):
    """What a change has to go through for the subscriptions that share it, and which are live."""

    __slots__ = ("node", "owner", "projection", "siblings", "subscribers", "table")

    def __init__(
        self,
        table: TableDef,
        owner: Owner,
        node: "FilterNode",
        projection: Projection,
        counts: Counts,
    ) -> None:
        super().__init__(counts)
        self.table = table
        self.owner = owner
        self.node = node
        self.projection = projection
        # Subscriptions that hold this plan, in whatever state; and how many of these have a
        # sibling: another subscription of their connection that the same changes may concern.
        self.subscribers = 0
        self.siblings = 0

    @property
    def filter(self) -> Filter:
        return self.node.filter

    def delta(self, change: Change) -> Delta | None:
        """How one change of this plan's table and owner is seen through its filter."""
        matches = self.filter.matches
        old_matches = change.old is not None and matches(change.old.values)
        new_matches = change.row is not None and matches(change.row.values)
        return delta(change, old_matches, new_matches)


class FilterNode:
    """One distinct filter and the plans (one per distinct projection) that use it."""

    __slots__ = ("filter", "is_demoted", "is_heavy", "payer", "plans", "weight")

    def __init__(self, filter: Filter, payer: Hashable) -> None:
        self.filter = filter
        # Nearly always one; a list is a fifth of a dict's size.
        self.plans: list[Plan] = []
        # Who answers for what it costs: whoever asked for it first.
        self.payer = payer
        self.weight = Weight(0, 0)
        # Whether it costs so much that its payer has it fed apart from the others' when behind.
        self.is_heavy = False
        # Whether it costs more than its share, and is not asked by the fan-out (shares.py).
        self.is_demoted = False

    def plan_for(self, projection: Projection) -> Plan | None:
        for plan in self.plans:
            if plan.projection.key == projection.key:
                return plan
        return None


class TablePlans:
    """The plans of one SHARED table, or of one owner's rows of a USER table."""

    __slots__ = ("_counts", "_nodes", "index", "owner", "shares", "table")

    def __init__(self, table: TableDef, owner: Owner, counts: Counts) -> None:
        self._counts = counts
        self.table = table
        self.owner = owner
        self.index: FilterIndex[FilterNode] = FilterIndex()
        self.shares = Shares(self.index)
        self._nodes: dict[object, FilterNode] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Plan]:
        for node in self._nodes.values():
            yield from node.plans

    def acquire(self, query: Query, payer: Hashable = None) -> Plan:
        """The plan of a query, made where nobody has asked the same; counts one subscriber."""
        node = self._nodes.get(query.filter.key)
        if node is None:
            node = self._nodes[query.filter.key] = FilterNode(query.filter, payer)
            self.shares.admit(node)
        plan = node.plan_for(query.projection)
        if plan is None:
            plan = Plan(self.table, self.owner, node, query.projection, self._counts)
            node.plans.append(plan)
            self._counts.demoted += node.is_demoted
        plan.subscribers += 1
        return plan

    def release(self, plan: Plan) -> None:
        """One subscriber fewer; the last one takes the plan, and its filter, along."""
        plan.subscribers -= 1
        if plan.subscribers:
            return
        node = plan.node
        node.plans.remove(plan)
        self._counts.demoted -= node.is_demoted
        if not node.plans:
            self.shares.drop(node)
            del self._nodes[node.filter.key]

    def demote(self, node: FilterNode) -> bool:
        """Ask a filter no more in the fan-out; whoever is live by it is to be set behind."""
        is_new = self.shares.demote(node)
        if is_new:
            self._counts.demoted += len(node.plans)
        return is_new

    def find(self, query: Query) -> Plan | None:
        """The plan that a query would share, if somebody has asked the same."""
        node = self._nodes.get(query.filter.key)
        return None if node is None else node.plan_for(query.projection)

    def route(self, change: Change) -> Sequence[tuple[FilterNode, Delta]]:
        """The filters that see this change, and as what; each filter once."""
        before = None if change.old is None else self.index.matching(change.old.values)
        after = None if change.row is None else self.index.matching(change.row.values)
        if before is None or after is None:
            return one_image(change, before, after)
        return both_images(change, before, after)
