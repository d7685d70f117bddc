"""What the filters of a table may cost the fan-out, and which of them it does not ask.

The fan-out asks the filters of a table in one turn of the event loop, so what they cost together
for one change is how late everybody's change is, and everything else. Their share is `SHARE`
seconds a change. A filter beyond it is *demoted*: out of the index that the fan-out asks, its
subscriptions behind (CATCHING_UP) for good, fed by catch-up in a lane of its own. They lose
nothing but immediacy; and what the filter costs, its payer pays.

    light    by an estimate all filters fit into the share: they are asked without a look at the
             clock. That is so for changes of up to `light_bytes`; and of a table with more
             filters for a change whose rows lead to few of them by the index
    metered  they may not fit: each one asked is timed. When the share is used up, filters are
             demoted until what is left takes half of it, the dearest of whoever costs most first
    demoted  from the start, where the estimate alone says that a row of 1 KB would take the share

One row of unusual size is no reason to be demoted for good: what was demoted by the clock is asked
again after `RETRY_SECONDS`, and after twice as long each time that it is demoted anew.

The estimate counts a filter's operators, and those that go through texts once more for each byte of
the row. A measurement counts up to `_TRUSTED` times the estimate: what lies above is the machine's
(a core taken away for a while), not the filter's.

Nothing is lost by a demotion: the batch ends before the change that showed it, the service lets
what is under way come around, and only then are the live subscriptions set behind, with their
cursor at the position that all of them have reached.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from kalam_notify.filters import Delta, Filter, FilterIndex, deltas
from kalam_notify.model import Change
from kalam_notify.sql.tree import Call, Constant, Expression

SHARE = 0.001
"""Seconds of filtering that one change may cost the fan-out in one table."""

_CALL = 0.4e-6
_BYTE = 6e-9
_TYPICAL_ROW = 1024
_TRUSTED = 10
RETRY_SECONDS = 60.0
_LONGEST_RETRY = 3600.0
NEVER = float("inf")
_THROUGH_TEXT = frozenset({"ilike", "like", "lower", "ltrim", "rtrim", "substr", "trim", "upper"})


class Weight(NamedTuple):
    """Operators of a filter, and those of them that go through a text."""

    calls: int
    texts: int

    def seconds(self, size: int) -> float:
        """About what asking costs for a change with `size` bytes of rows."""
        return self.calls * _CALL + self.texts * size * _BYTE

    def plus(self, other: "Weight", times: int) -> "Weight":
        """The weight of both, the other so many times."""
        return Weight(self.calls + other.calls * times, self.texts + other.texts * times)


_LEAST = Weight(1, 0)


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


class Asked(Hashable, Protocol):
    """A filter that is asked by its weight: the FilterNode of the plans."""

    weight: Weight
    is_heavy: bool
    is_demoted: bool
    # How often the clock has shown it too dear.
    demotions: int

    @property
    def filter(self) -> Filter: ...

    @property
    def payer(self) -> Hashable: ...

    @property
    def is_used(self) -> bool:
        """Whether a plan has it."""


A = TypeVar("A", bound=Asked)


class Routed(NamedTuple, Generic[A]):
    """The filters that see a change, or those that must be demoted before it is routed at all."""

    routed: Sequence[tuple[A, Delta]]
    too_dear: Sequence[A]


class Shares(Generic[A]):
    """The filters of a table (or one owner's part of it) that the fan-out asks, and the demoted."""

    __slots__ = ("_all", "_asked", "_heavy", "_most", "demoted", "index", "light_bytes")

    def __init__(self, index: FilterIndex[A]) -> None:
        self.index = index
        # When each of them is to be asked again.
        self.demoted: dict[A, float] = {}
        # Of the filters in the index that have to be asked: how many there are, what they weigh
        # together, and the heavy ones among them; and the most that any of the others weighs, or
        # has weighed since there was none to be asked.
        self._asked = 0
        self._all = self._heavy = Weight(0, 0)
        self._most = _LEAST
        # For changes of up to this size all of these together surely fit into the share.
        self.light_bytes = NEVER

    def admit(self, node: A) -> None:
        """Take in a new filter."""
        node.weight = weigh(node.filter)
        seconds = node.weight.seconds(_TYPICAL_ROW)
        node.is_heavy = seconds > SHARE / 20 and self.index.is_asked(node.filter)
        if node.is_heavy and seconds > SHARE:
            node.is_demoted = True
            self.demoted[node] = NEVER
        else:
            self._file(node)

    def _file(self, node: A) -> None:
        self.index.add(node.filter, node)
        if self.index.is_asked(node.filter):
            self._count(node, 1)

    def drop(self, node: A) -> None:
        """A filter that nobody uses any more."""
        if node.is_demoted:
            del self.demoted[node]
        else:
            self._take_out(node)

    def _take_out(self, node: A) -> None:
        if self.index.is_asked(node.filter):
            self._count(node, -1)
        self.index.discard(node.filter, node)

    def _count(self, node: A, times: int) -> None:
        weight = node.weight
        self._asked += times
        self._all = self._all.plus(weight, times)
        if node.is_heavy:
            self._heavy = self._heavy.plus(weight, times)
        elif not self._asked:
            self._most = _LEAST
        elif times > 0:
            self._most = Weight(*map(max, self._most, weight))
        left = SHARE - self._all.calls * _CALL
        if self._all.texts:
            self.light_bytes = left / (self._all.texts * _BYTE)
        else:
            self.light_bytes = NEVER if left >= 0 else -NEVER

    def demote(self, node: A, now: float) -> bool:
        """Ask a filter no more for a while; False: it is demoted, or gone, already."""
        if node.is_demoted or not node.is_used:
            return False
        self._take_out(node)
        node.is_demoted = node.is_heavy = True
        self.demoted[node] = now + min(RETRY_SECONDS * 2**node.demotions, _LONGEST_RETRY)
        node.demotions = min(node.demotions + 1, 16)
        return True

    def promote(self, now: float) -> list[A]:
        """Ask those again whose time has come. Their subscriptions go on from where they are."""
        promoted = [node for node, due in self.demoted.items() if due <= now]
        for node in promoted:
            del self.demoted[node]
            node.is_demoted = False
            self._file(node)
        return promoted

    def route(self, change: Change, clock: Callable[[], float]) -> Routed[A]:
        """The filters that see a change, each one asked against the clock unless few are asked."""
        few = self._route_few(change)
        if few is not None:
            return Routed(few, ())
        meter: _Meter[A] = _Meter(change.size, clock)
        before = None if change.old is None else self._ask(change.old.values, meter)
        after = None if change.row is None else self._ask(change.row.values, meter)
        if meter.total > SHARE:
            return Routed((), _dearest(meter.costs))
        return Routed(deltas(change, before, after), ())

    def _route_few(self, change: Change) -> Sequence[tuple[A, Delta]] | None:
        """The filters that see a change whose rows lead to few of them; None: they may be many."""
        left = SHARE - self._heavy.seconds(change.size)
        if left <= 0:
            return None
        # Of each image, half.
        most = int(left / (2 * self._most.seconds(change.size)))
        before = after = None
        if change.old is not None:
            before = self.index.matching_few(change.old.values, most)
            if before is None:
                return None
        if change.row is not None:
            after = self.index.matching_few(change.row.values, most)
            if after is None:
                return None
        return deltas(change, before, after)

    def _ask(self, values: dict[str, object], meter: "_Meter[A]") -> list[A]:
        found, to_ask = self.index.sort_out(values)
        for place, entry in enumerate(to_ask):
            if meter.total > SHARE:
                meter.leave_out(node for rest in to_ask[place:] for node in rest.items)
                break
            if self.index.ask(entry, values):
                found.extend(entry.items)
            meter.asked(entry.items)
        meter.look()
        return found


class _Meter(Generic[A]):
    """What asking has cost, filter by filter.

    To look at the clock after each would cost as much as a cheap filter does. So some are asked in
    a row, as many as by their weights take a fiftieth of the share, and what they took is divided
    among them by weight.
    """

    __slots__ = ("_clock", "_expected", "_last", "_unmetered", "costs", "size", "total")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size = size
        self.costs: defaultdict[A, float] = defaultdict(float)
        self.total = 0.0
        self._clock = clock
        self._last = clock()
        # Asked since the last look, and what they should cost together.
        self._unmetered: list[A] = []
        self._expected = 0.0

    def asked(self, nodes: Iterable[A]) -> None:
        """These have been asked, together."""
        for node in nodes:
            self._unmetered.append(node)
            calls, texts = node.weight
            self._expected += calls * _CALL + texts * self.size * _BYTE
        if self._expected >= SHARE / 50:
            self.look()

    def look(self) -> None:
        """Look at the clock, for all that have been asked since the last time."""
        now = self._clock()
        used, self._last = min(now - self._last, _TRUSTED * self._expected), now
        self.total += used
        each = used / self._expected if self._expected else 0.0
        for node in self._unmetered:
            self.costs[node] += each * node.weight.seconds(self.size)
        self._unmetered.clear()
        self._expected = 0.0

    def leave_out(self, nodes: Iterable[A]) -> None:
        """These have not been asked for want of time."""
        for node in nodes:
            self.costs[node] += node.weight.seconds(self.size)


def _dearest(costs: Mapping[A, float]) -> list[A]:
    """Which filters to demote so that the rest take half a share.

    One after the other, always the dearest of the payer who costs most: many cheap filters of one
    payer are no reason to demote the one filter of another.
    """
    rising: dict[Hashable, list[A]] = {}
    sums: defaultdict[Hashable, float] = defaultdict(float)
    for node in sorted(costs, key=costs.__getitem__):
        rising.setdefault(node.payer, []).append(node)
        sums[node.payer] += costs[node]
    demoted: list[A] = []
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
