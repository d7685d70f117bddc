"""The live subscriptions of a plan, laid out for a walk over thousands of them.

What a delivery costs beside the kernel's send is not instructions but cache misses: after a few
thousand sends every object has left the cache, and each one touched has to be fetched again. So
what the fan-out needs of a subscription stands in flat lists, side by side:

    doors  door, door, ...
    heads  head, head, ...       what each one's messages start with
    live   handle, handle, ...   looked at only where the door is shut

A door is the descriptor that whole frames may be written to without asking the sink: open while
the subscription is alone on its connection and nothing waits for its socket; SHUT otherwise.

While somebody walks, nobody changes places: leaving makes a hole, joining goes to the end, beyond
where the walk stops. The holes are closed when the last walk is over.
"""

from typing import TYPE_CHECKING

from kalam_notify.protocol.heads import Head

if TYPE_CHECKING:
    from kalam_notify.subscriptions.handle import SubscriptionHandle

SHUT = -1


class Roster:
    """Joining and leaving are O(1). Invariant: `live[handle.place] is handle`."""

    __slots__ = ("_holes", "_walks", "doors", "heads", "live")

    def __init__(self) -> None:
        self.live: list[SubscriptionHandle | None] = []
        self.doors: list[int] = []
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
            self.live, self.doors, self.heads = [handle], [handle.door], [handle.head]
            return
        self.live.append(handle)
        self.doors.append(handle.door)
        self.heads.append(handle.head)

    def leave(self, handle: "SubscriptionHandle") -> None:
        """Take a handle out; the last one moves into its place, unless somebody is walking."""
        place, handle.place = handle.place, -1
        if self._walks:
            self.live[place] = None
            self.doors[place] = SHUT
            self._holes += 1
            return
        last, door, head = self.live.pop(), self.doors.pop(), self.heads.pop()
        if last is not handle and last is not None:
            self.live[place], self.doors[place], self.heads[place] = last, door, head
            last.place = place

    def move_door(self, handle: "SubscriptionHandle") -> None:
        """A live handle's door has been opened or shut."""
        self.doors[handle.place] = handle.door

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
        self.live, self.doors, self.heads, self._holes = [], [], [], 0
        for handle in handles:
            Roster.join(self, handle)
