"""How old a position on the log is: when the log first stood beyond it.

The log itself knows when each change was stored, but asking it would be a read of the file for
every subscription. So the log's end is noted once in a while, and a position is as old as the first
note beyond it. Notes are thinned as they age: what happened an hour ago need not be told to the
second. Memory is bounded, and an age is told too short rather than too long.
"""

from bisect import bisect_right

MOST_NOTES = 2048


class Ages:
    """Notes of the log's end, oldest first. No clock of its own."""

    def __init__(self, most: int = MOST_NOTES) -> None:
        self._most = most
        self._seqs: list[int] = []
        self._times: list[float] = []

    def __len__(self) -> int:
        return len(self._seqs)

    def note(self, last_seq: int, now: float) -> None:
        """The log ends at `last_seq` now."""
        if self._seqs and last_seq <= self._seqs[-1]:
            return
        self._seqs.append(last_seq)
        self._times.append(now)
        if len(self._seqs) > self._most:
            self._thin()

    def of(self, position: int, now: float) -> float:
        """Seconds since there was first a change after `position`; 0 at the end of the log."""
        place = bisect_right(self._seqs, position)
        return now - self._times[place] if place < len(self._times) else 0.0

    def _thin(self) -> None:
        """Every second note of the older half goes."""
        half = len(self._seqs) // 2
        del self._seqs[:half:2]
        del self._times[:half:2]
