"""Subscriptions of one table that stand at one position, to be fed together."""

from collections.abc import Callable, Iterator

from kalam_notify.catchup.answers import Answers
from kalam_notify.filters import FilterIndex
from kalam_notify.store.base import Span
from kalam_notify.subscriptions.handle import SubscriptionHandle
from kalam_notify.subscriptions.plans import FilterNode, Plan


class Cohort:
    """Those who are behind at `cursor`, by plan.

    Invariant: `handle.undertaking is cohort` exactly for its members, and all of them are
    CATCHING_UP with everything up to `cursor` handed over. A member's own cursor is not kept up:
    it is set when the member leaves.
    """

    __slots__ = (
        "_nodes",
        "_on_deserted",
        "answers",
        "cursor",
        "index",
        "is_reading",
        "members",
        "size",
        "span",
    )

    def __init__(self, cursor: int, on_deserted: Callable[[], None] = lambda: None) -> None:
        self.cursor = cursor
        # Told when the last member has ended: nothing is to be done here any more.
        self._on_deserted = on_deserted
        self.members: dict[Plan, dict[SubscriptionHandle, None]] = {}
        # Subscriptions.
        self.size = 0
        # The filters of the members, and which of their plans are here.
        self.index: FilterIndex[FilterNode] = FilterIndex()
        self._nodes: dict[FilterNode, None] = {}
        # What those that no look-up finds have answered; None where another filter has come.
        self.answers: Answers | None = None
        # What was read from the file after `cursor`, and whether that is under way.
        self.span: Span | None = None
        self.is_reading = False

    def __iter__(self) -> Iterator[SubscriptionHandle]:
        """The members as they are now; they may leave meanwhile."""
        for handles in [*self.members.values()]:
            yield from [*handles]

    @property
    def nodes(self) -> "dict[FilterNode, None]":
        """The distinct filters of its members (and of some who have left)."""
        return self._nodes

    def add(self, handle: SubscriptionHandle) -> None:
        """Take in a subscription that stands at the cursor."""
        plan = handle.plan
        handles = self.members.get(plan)
        if handles is None:
            handles = self.members[plan] = {}
            if plan.node not in self._nodes:
                self._nodes[plan.node] = None
                self.index.add(plan.filter, plan.node)
                self.answers = None
        handles[handle] = None
        self.size += 1
        handle.undertaking = self

    def leave(self, handle: SubscriptionHandle) -> None:
        """A member has ended."""
        self.remove(handle)
        if not self.size:
            self._on_deserted()

    def remove(self, handle: SubscriptionHandle) -> None:
        """A member goes: it is full, level, in the wrong lane, or has ended."""
        plan = handle.plan
        handles = self.members.get(plan)
        if handles is None or handle not in handles:
            return
        del handles[handle]
        self.size -= 1
        handle.undertaking = None
        handle.cursor = self.cursor
        if not handles:
            del self.members[plan]
            if not any(plan in self.members for plan in plan.node.plans):
                del self._nodes[plan.node]
                self.index.discard(plan.filter, plan.node)
