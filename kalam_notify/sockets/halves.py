"""Memory for what has come in part: one bound for all connections of a worker together.

A message takes memory from its first byte on, long before it is known whether it is worth any. What
each connection holds is bounded by the size of a message (a small one before it has authenticated),
and all of it together by this. Where the bound is passed, whoever holds most must go, those who
have not authenticated first: a client whose messages come whole holds nothing.
"""

from typing import Protocol

HALF_RECEIVED_BYTES = 64 * 1024 * 1024
"""For all connections of a worker."""

UNAUTHENTICATED_BYTES = 32 * 1024
"""For a connection before it has authenticated: a token and a query fit in."""


class Holder(Protocol):
    """A connection that may have received something in part."""

    @property
    def is_admitted(self) -> bool:
        """Whether it has authenticated, or need not."""

    def make_room(self) -> None:
        """Forget what has come in part, and close."""


class HalfReceived:
    """Who holds how many bytes of messages that have not come whole."""

    def __init__(self, bound: int = HALF_RECEIVED_BYTES) -> None:
        self._bound = bound
        self._sizes: dict[Holder, int] = {}
        self.total = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def note(self, holder: Holder, size: int) -> list[Holder]:
        """`holder` holds `size` bytes by now; answers who must go, their bytes forgotten."""
        before = self._sizes.pop(holder, 0)
        if size:
            self._sizes[holder] = size
        self.total += size - before
        gone = []
        while self.total > self._bound:
            most = max(self._sizes, key=self._weight)
            self.total -= self._sizes.pop(most)
            gone.append(most)
        return gone

    def _weight(self, holder: Holder) -> tuple[bool, int]:
        return not holder.is_admitted, self._sizes[holder]
