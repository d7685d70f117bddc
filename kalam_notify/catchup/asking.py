"""Asking the filters of a cohort about a change, in steps.

The same answers as those of the fan-out (`TablePlans.route`): filters that terms lead to are looked
up, the others are asked one by one, with a rest wherever a slice may end, and once for all rows
that are alike in what they look at (answers.py). A filter of many terms on a large row would take
longer than any slice; demoted ones are therefore asked term by term: of an OR the first term that
is TRUE decides, of an AND the first that is not.
"""

from collections.abc import Callable, Sequence
from typing import Any

from kalam_notify.budget import Steps
from kalam_notify.catchup.answers import Answers, Entry
from kalam_notify.catchup.cohorts import Cohort
from kalam_notify.filters import Filter, FilterIndex
from kalam_notify.model import Change
from kalam_notify.sql.tree import Call, Expression
from kalam_notify.subscriptions.deltas import Delta
from kalam_notify.subscriptions.plans import FilterNode
from kalam_notify.subscriptions.routing import both_images, one_image

# Asked without a rest: some tens of microseconds of ordinary filters on ordinary rows.
_RUN = 16
_SMALL_ROW = 16 * 1024

OnBroken = Callable[[FilterNode, Exception], None]
Test = Callable[[dict[str, Any]], bool]


class Asking:
    """Asks; `on_broken` is told of a filter whose evaluation raised, which then does not match."""

    def __init__(self, on_broken: OnBroken) -> None:
        self._on_broken = on_broken
        self._parts: dict[FilterNode, _Parts] = {}

    def route(self, cohort: Cohort, change: Change) -> Steps[Sequence[tuple[FilterNode, Delta]]]:
        """The filters of a cohort that see a change, and as what."""
        before = after = None
        if change.old is not None:
            before = yield from self._matching(cohort, change.old.values, change.size)
        if change.row is not None:
            after = yield from self._matching(cohort, change.row.values, change.size)
        if before is None or after is None:
            return one_image(change, before, after)
        return both_images(change, before, after)

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
            self._on_broken(node, error)
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
