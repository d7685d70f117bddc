"""The time of the log: Unix time that never goes back.

Entries leave the log by their age. Told by a clock that has been put back, none would be due until
it has made up for that, and those written since would stand before older ones. So the log's time
follows the clock forwards, and goes on at its own pace while the clock is behind; a log that is
opened goes on from its newest entry at least.
"""

import time
from collections.abc import Callable


class LogTime:
    """Seconds since 1970 by `clock`, held up by `ticking`, which only rises."""

    def __init__(
        self, clock: Callable[[], float], ticking: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._ticking = ticking
        self._now = 0.0
        self._seen = ticking()

    def not_before(self, seconds: float) -> None:
        """Something has been written at that time."""
        self._now = max(self._now, seconds)

    def __call__(self) -> float:
        seen = self._ticking()
        self._now = max(self._clock(), self._now + max(0.0, seen - self._seen))
        self._seen = seen
        return self._now
