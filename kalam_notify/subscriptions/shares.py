"""What filters cost the fan-out, and which of them are too dear for it: demoted plans.

The fan-out asks the filters of a table in one turn of the event loop, so what they cost together
for one change is how late everybody's change is, and everything else. Their share is `SHARE`
seconds a change. A filter beyond it is *demoted*: out of the index that the fan-out asks, its
subscriptions behind (CATCHING_UP) for good, fed by catch-up in a lane of its own. They lose
nothing but immediacy; and what the filter costs, its payer pays.

    light    by an estimate all filters fit into the share: they are asked without a look at the
             clock. The estimate costs one multiplication a change
    metered  they may not fit: each one asked is timed. When the share is used up, filters are
             demoted until what is left takes half of it, the dearest of whoever costs most first
    demoted  from the start, where the estimate alone says that a row of 1 KB would take the share

The estimate counts a filter's operators, and those that go through texts once more for each byte of
the row. A measurement counts up to `_TRUSTED` times the estimate: what lies above is the machine's
(a core taken away for a while), not the filter's.

Nothing is lost by a demotion: the batch ends before the change that showed it, the service lets
what is under way come around, and only then are the live subscriptions set behind, with their
cursor at the position that all of them have reached.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kalam_notify.filters import Filter, FilterIndex
from kalam_notify.model import Change
from kalam_notify.sql.tree import Call, Constant, Expression
from kalam_notify.subscriptions.deltas import Delta
from kalam_notify.subscriptions.routing import both_images, one_image

if TYPE_CHECKING:
    from kalam_notify.subscriptions.plans import FilterNode

SHARE = 0.001
"""Seconds of filtering that one change may cost the fan-out in one table."""

_CALL = 0.4e-6
_BYTE = 6e-9
_TYPICAL_ROW = 1024
_TRUSTED = 10
_THROUGH_TEXT = frozenset({"ilike", "like", "lower", "ltrim", "rtrim", "substr", "trim", "upper"})


class Weight(NamedTuple):
    """Operators of a filter, and those of them that go through a text."""

    calls: int
    texts: int

    def seconds(self, size: int) -> float:
        """About what asking costs for a change with `size` bytes of rows."""
        return self.calls * _CALL + self.texts * size * _BYTE


def weigh(filter: Filter) -> Weight:
    """The weight of a filter's normal form; an expression used twice counts once."""
    calls = texts = 0
    seen: set[int] = set()
    waiting: list[Expression] = [filter.predicate]
    while waiting:
        expression = waiting.pop()
        if not isinstance(expression, Call) or id(expression) in seen:
            continue
        seen.add(id(expression))
        calls += 1
        if expression.op in _THROUGH_TEXT:
            texts += _passes(expression)
        waiting.extend(expression.args)
    return Weight(calls, texts)


def _passes(call: Call) -> int:
    """A LIKE goes through a text once; one with `_` tries a pattern at every place."""
    if call.op.endswith("like"):
        pattern = call.args[1]
        return 8 if not isinstance(pattern, Constant) or "_" in str(pattern.value) else 1
    return 1


class Routed(NamedTuple):
    """The filters that see a change, or those that must be demoted before it is routed at all."""

    routed: "Sequence[tuple[FilterNode, Delta]]"
    too_dear: "Sequence[FilterNode]"


class Shares:
    """The filters of a table (or one owner's part of it) that the fan-out asks, and the demoted."""

    __slots__ = ("_calls", "_texts", "demoted", "index")

    def __init__(self, index: "FilterIndex[FilterNode]") -> None:
        self.index = index
        self.demoted: dict[FilterNode, None] = {}
        # Sums over the filters in the index that have to be asked.
        self._calls = 0
        self._texts = 0

    def admit(self, node: "FilterNode") -> None:
        """Take in a new filter."""
        node.weight = weigh(node.filter)
        seconds = node.weight.seconds(_TYPICAL_ROW)
        node.is_heavy = seconds > SHARE / 20 and self.index.is_asked(node.filter)
        if node.is_heavy and seconds > SHARE:
            node.is_demoted = True
            self.demoted[node] = None
        else:
            self._file(node)

    def _file(self, node: "FilterNode") -> None:
        self.index.add(node.filter, node)
        if self.index.is_asked(node.filter):
            self._count(node.weight, 1)

    def drop(self, node: "FilterNode") -> None:
        """A filter that nobody uses any more."""
        if node.is_demoted:
            del self.demoted[node]
        else:
            self._take_out(node)

    def _take_out(self, node: "FilterNode") -> None:
        if self.index.is_asked(node.filter):
            self._count(node.weight, -1)
        self.index.discard(node.filter, node)

    def _count(self, weight: Weight, times: int) -> None:
        self._calls += weight.calls * times
        self._texts += weight.texts * times

    def demote(self, node: "FilterNode") -> bool:
        """Ask a filter no more; False: it is demoted, or gone, already."""
        if node.is_demoted or not node.plans:
            return False
        self._take_out(node)
        node.is_demoted = node.is_heavy = True
        self.demoted[node] = None
        return True

    def are_light(self, size: int) -> bool:
        """Whether all filters together surely fit into the share, for a change of this size."""
        return self._calls * _CALL + self._texts * size * _BYTE <= SHARE

    def route(self, change: Change, clock: Callable[[], float]) -> Routed:
        """The filters that see a change, each one asked against the clock."""
        meter = _Meter(change.size, clock)
        before = None if change.old is None else self._ask(change.old.values, meter)
        after = None if change.row is None else self._ask(change.row.values, meter)
        if meter.total > SHARE:
            return Routed((), _dearest(meter.costs))
        if before is None or after is None:
            return Routed(one_image(change, before, after), ())
        return Routed(both_images(change, before, after), ())

    def _ask(self, values: dict[str, object], meter: "_Meter") -> "list[FilterNode]":
        found, to_ask = self.index.sort_out(values)
        for place, entry in enumerate(to_ask):
            if meter.total > SHARE:
                meter.leave_out(node for rest in to_ask[place:] for node in rest.items)
                break
            if self.index.ask(entry, values):
                found.extend(entry.items)
            meter.note(entry.items)
        return found


class _Meter:
    """What asking has cost, filter by filter."""

    __slots__ = ("_clock", "_last", "costs", "size", "total")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size = size
        self.costs: defaultdict[FilterNode, float] = defaultdict(float)
        self.total = 0.0
        self._clock = clock
        self._last = clock()

    def note(self, nodes: "Iterable[FilterNode]") -> None:
        """These have been asked, together, since the last call."""
        now = self._clock()
        used, self._last = now - self._last, now
        for node in nodes:
            used = min(used, _TRUSTED * node.weight.seconds(self.size))
            self.costs[node] += used
        self.total += used

    def leave_out(self, nodes: "Iterable[FilterNode]") -> None:
        """These have not been asked for want of time."""
        for node in nodes:
            self.costs[node] += node.weight.seconds(self.size)


def _dearest(costs: "Mapping[FilterNode, float]") -> "list[FilterNode]":
    """Which filters to demote so that the rest take half a share.

    One after the other, always the dearest of the payer who costs most: many cheap filters of one
    payer are no reason to demote the one filter of another.
    """
    rising: dict[Hashable, list[FilterNode]] = {}
    sums: defaultdict[Hashable, float] = defaultdict(float)
    for node in sorted(costs, key=costs.__getitem__):
        rising.setdefault(node.payer, []).append(node)
        sums[node.payer] += costs[node]
    demoted: list[FilterNode] = []
    total = sum(costs.values())
    while total > SHARE / 2 and sums:
        payer = max(sums, key=sums.__getitem__)
        node = rising[payer].pop()
        demoted.append(node)
        total -= costs[node]
        sums[payer] -= costs[node]
        if not rising[payer]:
            del sums[payer]
    return demoted
