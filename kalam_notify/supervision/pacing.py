"""When a worker that has died is replaced.

The first time at once: whatever killed it may have been a whim. One that dies young again is given
longer each time, so that a fault that kills every worker (a full disk, a bad configuration) does
not keep the machine busy with starting them.
"""

LONG_LIFE = 10.0
"""Seconds after which a life counts as a good one."""

FIRST_DELAY = 0.25
MAX_DELAY = 5.0


class Pacing:
    """The delays between the lives of one worker's slot."""

    def __init__(self) -> None:
        self._short_lives = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait after a life of so many seconds."""
        if lived >= LONG_LIFE:
            self._short_lives = 0
        self._short_lives += 1
        if self._short_lives == 1:
            return 0.0
        # Doubled no more often than it takes to get to the longest.
        doublings = min(self._short_lives - 2, 8)
        return min(FIRST_DELAY * 2.0**doublings, MAX_DELAY)
