"""A cache of the latest results, bounded by what they weigh, not by how many they are.

Clients choose the texts, so a bound on their number would not bound memory.
"""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LatestCache(Generic[K, V]):
    """Values by key; beyond `capacity` (the sum of weights) the least recently used ones go.

    Safe to use from several threads: snapshots are filtered off the event loop.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.weight = 0
        self._lock = Lock()
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, weight: int) -> V:
        """Keep a value; returns it. One heavier than the whole capacity is not kept."""
        with self._lock:
            if weight <= self.capacity and key not in self._kept:
                self._kept[key] = (value, weight)
                self.weight += weight
                self._shrink()
        return value

    def _shrink(self) -> None:
        while self.weight > self.capacity:
            _, (_, freed) = self._kept.popitem(last=False)
            self.weight -= freed

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self.weight = 0

    def __len__(self) -> int:
        return len(self._kept)
