"""How long to wait before the next attempt: exponential, with full jitter.

Full jitter (a wait anywhere between nothing and the bound) spreads the clients of a restarted
server best; see https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

import random
from collections.abc import Callable


class Backoff:
    """Counts failed attempts. All times are in seconds.

    `pause` is the least wait after a close that asks for a pause; `uniform` is
    `random.uniform`, or a test's own.
    """

    def __init__(
        self,
        base: float = 0.5,
        cap: float = 30.0,
        pause: float = 1.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.cap = cap
        self.attempts = 0
        self._base = base
        self._pause = pause
        self._uniform = uniform

    @property
    def bound(self) -> float:
        """The longest wait that the next failure would be followed by."""
        return min(self.cap, self._base * 2.0 ** min(self.attempts, 32))

    def next_delay(self, *, after_a_pause: bool = False) -> float:
        """The wait before the next attempt; each call counts as one more failure."""
        bound = self.bound
        self.attempts += 1
        return (self._pause if after_a_pause else 0.0) + self._uniform(0.0, bound)

    def reset(self) -> None:
        """The connection held: the next failure is a first one again."""
        self.attempts = 0
