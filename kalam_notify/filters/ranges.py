"""Intervals that contain a point, found in O(log n + hits).

Intervals bounded on both sides stand in a treap (a binary search tree by lower bound, balanced by
random priorities) in which every node knows the highest upper bound below it, so that a search
leaves out whole subtrees (Cormen et al., "Interval trees"). Intervals open to one side need less:
a sorted dictionary by their one bound, of which a search takes everything before or after the
point.

A bound is a pair (value, bias): bias 0 includes the value, a lower bound with +1 or an upper bound
with -1 excludes it. A point is (value, 0). All values of one structure are numbers, or all text.
"""

from collections.abc import Iterator
from random import random
from typing import Any, Generic, NamedTuple, TypeVar

from sortedcontainers import SortedDict

V = TypeVar("V")
Bound = tuple[Any, int]


class Interval(NamedTuple):
    """None is no bound."""

    low: Bound | None
    high: Bound | None

    @property
    def is_empty(self) -> bool:
        return self.low is not None and self.high is not None and self.low > self.high


class Ranges(Generic[V]):
    """Values filed under intervals, one value for each distinct interval."""

    __slots__ = ("_from", "_root", "_upto")

    def __init__(self) -> None:
        self._from: Any = None
        self._upto: Any = None
        self._root: _Node[V] | None = None

    def get(self, interval: Interval) -> V | None:
        """The value filed under exactly this interval."""
        low, high = interval
        if high is None:
            return None if self._from is None else self._from.get(low)
        if low is None:
            return None if self._upto is None else self._upto.get(high)
        node = self._find(interval)
        return None if node is None else node.value

    def _find(self, interval: Interval) -> "_Node[V] | None":
        node = self._root
        while node is not None and node.key != interval:
            node = node.left if interval < node.key else node.right
        return node

    def __setitem__(self, interval: Interval, value: V) -> None:
        low, high = interval
        if high is None:
            self._from = SortedDict() if self._from is None else self._from
            self._from[low] = value
        elif low is None:
            self._upto = SortedDict() if self._upto is None else self._upto
            self._upto[high] = value
        elif (known := self._find(interval)) is not None:
            known.value = value
        else:
            self._root = _insert(self._root, _Node(interval, value))

    def __delitem__(self, interval: Interval) -> None:
        """Forget an interval that is filed here."""
        low, high = interval
        if high is None:
            del self._from[low]
            self._from = self._from or None
        elif low is None:
            del self._upto[high]
            self._upto = self._upto or None
        else:
            self._root = _delete(self._root, interval)

    def containing(self, value: Any) -> Iterator[V]:
        """The values of all intervals that contain a point."""
        point = (value, 0)
        if self._from is not None:
            for low in self._from.irange(maximum=point):
                yield self._from[low]
        if self._upto is not None:
            for high in self._upto.irange(minimum=point):
                yield self._upto[high]
        if self._root is not None:
            yield from _stab(self._root, point)

    def __bool__(self) -> bool:
        return not (self._from is None and self._upto is None and self._root is None)


class _Node(Generic[V]):
    __slots__ = ("highest", "key", "left", "priority", "right", "value")

    def __init__(self, key: Interval, value: V) -> None:
        self.key = key
        self.value = value
        self.priority = random()
        self.left: _Node[V] | None = None
        self.right: _Node[V] | None = None
        # The highest upper bound in this subtree.
        self.highest: Any = key.high


def _stab(root: _Node[V], point: Bound) -> Iterator[V]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.highest < point:
            continue
        if node.left is not None:
            waiting.append(node.left)
        low, high = node.key
        if low is not None and low <= point:
            if high is not None and point <= high:
                yield node.value
            if node.right is not None:
                waiting.append(node.right)


def _insert(node: _Node[V] | None, new: _Node[V]) -> _Node[V]:
    if node is None:
        return new
    if new.priority < node.priority:
        new.left, new.right = _split(node, new.key)
        return _updated(new)
    if new.key < node.key:
        node.left = _insert(node.left, new)
    else:
        node.right = _insert(node.right, new)
    return _updated(node)


def _split(node: _Node[V] | None, key: Interval) -> tuple[_Node[V] | None, _Node[V] | None]:
    """The nodes below a key, and those above it."""
    if node is None:
        return None, None
    if node.key < key:
        node.right, above = _split(node.right, key)
        return _updated(node), above
    below, node.left = _split(node.left, key)
    return below, _updated(node)


def _delete(node: _Node[V] | None, key: Interval) -> _Node[V] | None:
    if node is None:
        return None
    if key == node.key:
        return _merge(node.left, node.right)
    if key < node.key:
        node.left = _delete(node.left, key)
    else:
        node.right = _delete(node.right, key)
    return _updated(node)


def _merge(below: _Node[V] | None, above: _Node[V] | None) -> _Node[V] | None:
    if below is None or above is None:
        return below or above
    if below.priority < above.priority:
        below.right = _merge(below.right, above)
        return _updated(below)
    above.left = _merge(below, above.left)
    return _updated(above)


def _updated(node: _Node[V]) -> _Node[V]:
    highest = node.key.high
    for child in (node.left, node.right):
        if child is not None and child.highest > highest:
            highest = child.highest
    node.highest = highest
    return node
