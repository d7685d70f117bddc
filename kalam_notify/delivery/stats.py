"""What the fan-out counts: plain integers, read when somebody scrapes the metrics.

Nothing here is touched per delivery: chunks add their sums.
"""

from collections.abc import Callable


class FanoutStats:
    """Sums since the start of this worker process."""

    __slots__ = ("catch_ups", "deliveries", "delivery_bytes", "observe_fanout", "plans_disabled")

    def __init__(self) -> None:
        # Row-changes handed to a socket, and the bytes they took, framing included.
        self.deliveries = 0
        self.delivery_bytes = 0
        # Times a subscription was behind and had to be fed from the log.
        self.catch_ups = 0
        # Plans whose evaluation raised in spite of all.
        self.plans_disabled = 0
        # Called once per batch: seconds from taking it to its last offer, and its upto.
        self.observe_fanout: Callable[[float, int], None] | None = None
