"""Cohorts: subscriptions of one table that stand at one position, and asking their filters.

What filters answered about rows that were alike in all that they look at.

Filters that no look-up finds have to be asked of every row, and thousands of them behind by
thousands of changes are millions of questions. But a filter looks at a few columns, and rows repeat
themselves in them: `tenant % 8 = 3` needs no second answer for the same tenant. So the filters that
look at the same columns are asked once for each combination of values.

Subscriptions of one table that stand at one position, to be fed together.

Asking the filters of a cohort about a change, in steps.

The same answers as those of the fan-out (`TablePlans.route`): filters that terms lead to are looked
up, the others are asked one by one, with a rest wherever a slice may end, and once for all rows
that are alike in what they look at (Answers). A filter of many terms on a large row would take
longer than any slice; demoted ones are therefore asked term by term: of an OR the first term that
is TRUE decides, of an AND the first that is not.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kalam_notify.budget import Steps
from kalam_notify.filters import Delta, Filter, FilterIndex, deltas
from kalam_notify.filters.index import Entry as IndexEntry
from kalam_notify.model import Change
from kalam_notify.sql.tree import Call, Column, Expression
from kalam_notify.store.base import Span
from kalam_notify.subscriptions.plans import FilterNode, Plan, SubscriptionHandle

Entry = IndexEntry[FilterNode]
OnBroken = Callable[[FilterNode, Exception], None]
"""Told of a filter whose evaluation raised."""

_MOST_KEPT = 4096
# Rows hardly repeat each other in long texts.
_LONG_TEXT = 128
# Fewer filters are asked as fast as remembered.
_FEW = 4


class Group:
    """Filters that look at the same columns, and what they have answered."""

    __slots__ = ("_answers", "_columns", "entries")

    def __init__(self, columns: Sequence[str]) -> None:
        self.entries: list[Entry] = []
        self._columns = columns
        # Values of the columns -> the entries that were TRUE of them.
        self._answers: dict[tuple[object, ...], Sequence[Entry]] = {}

    def known(self, values: dict[str, Any]) -> Sequence[Entry] | None:
        """Which entries are TRUE of a row; None: they have to be asked."""
        if len(self.entries) < _FEW:
            return None
        key = self._key(values)
        return None if key is None else self._answers.get(key)

    def keep(self, values: dict[str, Any], true: Sequence[Entry]) -> None:
        """Remember what was answered about a row."""
        key = None if len(self.entries) < _FEW else self._key(values)
        if key is not None:
            if len(self._answers) >= _MOST_KEPT:
                self._answers.clear()
            self._answers[key] = true

    def _key(self, values: dict[str, Any]) -> tuple[object, ...] | None:
        """The values that are looked at, told apart by type; None where it is not worth it."""
        key: list[object] = []
        for column in self._columns:
            value: Any = values.get(column)
            kind: type = type(value)
            if kind is str:
                if len(value) > _LONG_TEXT:
                    return None
                key.append(value)
            elif value is None or kind is int:
                key.append(value)
            elif kind is bool or kind is float:
                # Python holds 1, 1.0 and True equal, and 0.0 and -0.0.
                key.append((kind, repr(value)))
            else:
                return None
        return tuple(key)


class Answers:
    """The filters of a cohort that are asked of every row, by the columns they look at."""

    __slots__ = ("groups",)

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Steps[Answers]":
        """Nothing answered yet by these entries."""
        groups: dict[tuple[str, ...], Group] = {}
        for entry in entries:
            node = next(iter(entry.items), None)
            if node is not None:
                columns = columns_of(node.filter.predicate)
                groups.setdefault(columns, Group(columns)).entries.append(entry)
            yield
        return cls([*groups.values()])


def columns_of(predicate: Expression) -> tuple[str, ...]:
    """The columns that a predicate looks at, sorted."""
    columns: set[str] = set()
    seen: set[int] = set()
    waiting: list[Expression] = [predicate]
    while waiting:
        expression = waiting.pop()
        if isinstance(expression, Column):
            columns.add(expression.name)
        elif isinstance(expression, Call) and id(expression) not in seen:
            seen.add(id(expression))
            waiting.extend(expression.args)
    return tuple(sorted(columns))


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

    def __init__(
        self,
        cursor: int,
        on_deserted: Callable[[], None] = lambda: None,
        on_broken: OnBroken | None = None,
    ) -> None:
        self.cursor = cursor
        # Told when the last member has ended: nothing is to be done here any more.
        self._on_deserted = on_deserted
        self.members: dict[Plan, dict[SubscriptionHandle, None]] = {}
        # Subscriptions.
        self.size = 0
        # The filters of the members, and which of their plans are here.
        self.index: FilterIndex[FilterNode] = FilterIndex(on_broken)
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


# Asked without a rest: some tens of microseconds of ordinary filters on ordinary rows.
_RUN = 16
_SMALL_ROW = 16 * 1024

Test = Callable[[dict[str, Any]], bool]


class Asking:
    """Asks; `on_broken` is told of a filter whose evaluation raised, which then does not match."""

    def __init__(self, on_broken: OnBroken) -> None:
        self.on_broken = on_broken
        self._parts: dict[FilterNode, _Parts] = {}

    def route(self, cohort: Cohort, change: Change) -> Steps[Sequence[tuple[FilterNode, Delta]]]:
        """The filters of a cohort that see a change, and as what."""
        before = after = None
        if change.old is not None:
            before = yield from self._matching(cohort, change.old.values, change.size)
        if change.row is not None:
            after = yield from self._matching(cohort, change.row.values, change.size)
        return deltas(change, before, after)

    def _matching(
        self, cohort: Cohort, values: dict[str, Any], size: int
    ) -> Steps[list[FilterNode]]:
        index = cohort.index
        run = _RUN if size <= _SMALL_ROW else 1
        answers = cohort.answers
        if answers is None:
            answers = cohort.answers = yield from Answers.of(index.scanned)
        found, to_ask = index.sort_out(values, with_scanned=False)
        for entry in (yield from self._ask(index, to_ask, values, run)):
            found.extend(entry.items)
        for group in answers.groups:
            known = group.known(values)
            if known is None:
                known = yield from self._ask(index, group.entries, values, run)
                group.keep(values, known)
            for entry in known:
                found.extend(entry.items)
        return found

    def _ask(
        self,
        index: FilterIndex[FilterNode],
        entries: Sequence[Entry],
        values: dict[str, Any],
        run: int,
    ) -> Steps[list[Entry]]:
        """Those of the entries that are TRUE."""
        found = []
        for place, entry in enumerate(entries, start=1):
            node = next(iter(entry.items), None)
            if node is not None and node.is_demoted:
                is_true = yield from self._ask_in_parts(node, values)
            else:
                is_true = index.ask(entry, values)
                if place % run == 0:
                    yield
            if is_true:
                found.append(entry)
        return found

    def _ask_in_parts(self, node: FilterNode, values: dict[str, Any]) -> Steps[bool]:
        parts = self._parts.get(node)
        if parts is None:
            parts = self._parts[node] = _Parts(node.filter.predicate)
        try:
            return (yield from parts.ask(values))
        except Exception as error:
            self.on_broken(node, error)
            return False

    def forget(self) -> None:
        """Let go of what was compiled for filters that nobody uses any more."""
        if self._parts:
            self._parts = {node: parts for node, parts in self._parts.items() if node.plans}


class _Parts:
    """A predicate cut at its ANDs and ORs, so that it can be asked with rests between.

    TRUE(p AND q) = TRUE(p) and TRUE(q), TRUE(p OR q) = TRUE(p) or TRUE(q): no third value is
    needed to tell whether the whole is TRUE.
    """

    __slots__ = ("_decides", "_parts", "_test")

    def __init__(self, predicate: Expression) -> None:
        self._parts: list[_Parts] = []
        self._test: Test | None = None
        # The answer of a part that is the answer of the whole.
        self._decides = False
        if isinstance(predicate, Call) and predicate.op in ("and", "or"):
            self._decides = predicate.op == "or"
            self._parts = [_Parts(part) for part in predicate.args]
        else:
            self._test = Filter(predicate).matches

    def ask(self, values: dict[str, Any]) -> Steps[bool]:
        """Whether it is TRUE of a row's values."""
        if self._test is not None:
            yield
            return self._test(values)
        for part in self._parts:
            if (yield from part.ask(values)) is self._decides:
                return self._decides
        return not self._decides
