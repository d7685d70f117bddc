"""The live subscriptions of a plan, laid out for a walk over thousands of them.

What a delivery costs beside the kernel's send is not instructions but cache misses: after a few
thousand sends every object has left the cache, and each one touched has to be fetched again. So
what the fan-out needs of a subscription stands in flat lists, side by side:

    fds  direct_fd, direct_fd, ...
    heads  head, head, ...       what each one's messages start with
    live   handle, handle, ...   looked at only where the direct_fd is shut

A direct_fd is the descriptor that whole frames may be written to without asking the sink: given
while the subscription is alone on its connection and nothing waits for its socket; NO_FD otherwise.

While somebody walks, nobody changes places: leaving makes a hole, joining goes to the end, beyond
where the walk stops. The holes are closed when the last walk is over.
"""

from typing import TYPE_CHECKING

from kalam_notify.protocol.heads import Head

if TYPE_CHECKING:
    from kalam_notify.subscriptions.handle import SubscriptionHandle

NO_FD = -1


class Roster:
    """Joining and leaving are O(1). Invariant: `live[handle.place] is handle`."""

    __slots__ = ("_holes", "_walks", "fds", "heads", "live")

    def __init__(self) -> None:
        self.live: list[SubscriptionHandle | None] = []
        self.fds: list[int] = []
        self.heads: list[Head] = []
        self._holes = 0
        self._walks = 0

    @property
    def live_count(self) -> int:
        return len(self.live) - self._holes

    def join(self, handle: "SubscriptionHandle") -> None:
        """Put a handle at the end."""
        handle.place = len(self.live)
        if not self.live:
            # Made with one, lists have no spare places; most plans have one subscription.
            self.live, self.fds, self.heads = [handle], [handle.direct_fd], [handle.head]
            return
        self.live.append(handle)
        self.fds.append(handle.direct_fd)
        self.heads.append(handle.head)

    def leave(self, handle: "SubscriptionHandle") -> None:
        """Take a handle out; the last one moves into its place, unless somebody is walking."""
        place, handle.place = handle.place, -1
        if self._walks:
            self.live[place] = None
            self.fds[place] = NO_FD
            self._holes += 1
            return
        last, direct_fd, head = self.live.pop(), self.fds.pop(), self.heads.pop()
        if last is not handle and last is not None:
            self.live[place], self.fds[place], self.heads[place] = last, direct_fd, head
            last.place = place

    def move_direct_fd(self, handle: "SubscriptionHandle") -> None:
        """A live handle's direct_fd has been opened or shut."""
        self.fds[handle.place] = handle.direct_fd

    def begin_walk(self) -> int:
        """Hold all places until `end_walk`; how many there are to walk."""
        self._walks += 1
        return len(self.live)

    def end_walk(self) -> None:
        """Let places change again."""
        self._walks -= 1
        if self._holes and not self._walks:
            self._close_holes()

    def _close_holes(self) -> None:
        handles = [handle for handle in self.live if handle is not None]
        self.live, self.fds, self.heads, self._holes = [], [], [], 0
        for handle in handles:
            Roster.join(self, handle)
