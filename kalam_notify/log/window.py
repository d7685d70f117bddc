"""The newest changes in memory: contiguous, in order, bounded by bytes.

Invariant: the window holds every change of the log with `start < seq <= last_seq`, and no other.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter

from kalam_notify.model import Change
from kalam_notify.model.changes import memory_of

_seq_of = attrgetter("seq")


class Window:
    """A run of consecutive changes that grows at its end and is trimmed at its start.

    `max_bytes` bounds the memory that the changes take (`memory_of`); None: trimmed by its owner
    only.
    """

    def __init__(self, position: int = 0, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._ends: list[int] = []
        self._gone = 0
        # The same in bytes of memory, where those are bounded.
        self._costs: list[int] = []
        self._cost_gone = 0
        self.reset(position)

    def reset(self, position: int) -> None:
        """Forget everything; what comes next follows on `position`."""
        self.start = position
        self.last_seq = position
        self._changes: list[Change] = []
        # _ends[i]: bytes that ever entered, up to and including _changes[i]; so the bytes of any
        # run are one subtraction, and the place to cut is found by bisection.
        self._gone = self.entered
        self._ends = []
        self._cost_gone = self._costs[-1] if self._costs else self._cost_gone
        self._costs = []

    def __len__(self) -> int:
        return len(self._changes)

    @property
    def entered(self) -> int:
        """Sum of `Change.size` over all changes that were ever added."""
        return self._ends[-1] if self._ends else self._gone

    @property
    def bytes(self) -> int:
        """Sum of `Change.size` over the changes held."""
        return self.entered - self._gone

    @property
    def memory(self) -> int:
        """Bytes of memory that the changes held take; 0 where they are not bounded."""
        return self._costs[-1] - self._cost_gone if self._costs else 0

    @property
    def first_seq(self) -> int:
        """The oldest change held; `last_seq + 1` when there is none."""
        return self._changes[0].seq if self._changes else self.last_seq + 1

    def extend(self, changes: Sequence[Change], sizes: Sequence[int] | None = None) -> None:
        """Add the changes that follow directly on `last_seq`; `sizes`, where they are known."""
        if not changes:
            return
        if sizes is None:
            sizes = [change.size for change in changes]
        self._ends += list(accumulate(sizes, initial=self.entered))[1:]
        self._changes.extend(changes)
        self.last_seq = changes[-1].seq
        if self._max_bytes is not None:
            before = self._cost_gone + self.memory
            self._costs += list(accumulate(map(memory_of, changes), initial=before))[1:]
            if self.memory > self._max_bytes:
                self._shrink(self._max_bytes)

    def _shrink(self, max_bytes: int) -> None:
        # An eighth more than needed goes, so that the lists are shifted now and then only.
        surplus = self.memory - (max_bytes - max_bytes // 8)
        self._drop(bisect_left(self._costs, self._cost_gone + surplus) + 1)

    def drop_upto(self, seq: int) -> Sequence[Change]:
        """Forget the changes up to and including `seq`, and give them back."""
        dropped = self._drop(bisect_right(self._changes, seq, key=_seq_of))
        self.start = max(self.start, min(seq, self.last_seq))
        return dropped

    def _drop(self, count: int) -> Sequence[Change]:
        dropped = self._changes[:count]
        if dropped:
            self.start = dropped[-1].seq
            self._gone = self._ends[len(dropped) - 1]
            del self._changes[:count], self._ends[:count]
            if self._costs:
                self._cost_gone = self._costs[len(dropped) - 1]
                del self._costs[:count]
        return dropped

    def after(self, position: int, limit: int | None = None) -> Sequence[Change] | None:
        """Every change after a position, or the first `limit` of them.

        None where the window does not reach back to it.
        """
        if position >= self.last_seq:
            return ()
        if position < self.start:
            return None
        first = bisect_right(self._changes, position, key=_seq_of)
        return self._changes[first : None if limit is None else first + limit]

    def span(self, after: int, limit: int, max_bytes: int) -> Sequence[Change]:
        """The held changes after a position: at most `limit`, about `max_bytes`, at least one."""
        first = bisect_right(self._changes, after, key=_seq_of)
        before = self._ends[first - 1] if first else self._gone
        full = bisect_left(self._ends, before + max_bytes, lo=first) + 1
        return self._changes[first : min(first + limit, full)]
