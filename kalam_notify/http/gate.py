"""The gate of ingest: how many bytes of posts are in memory and not yet durable.

Back-pressure has to come before memory grows, so a post takes its place at the gate while its
body arrives, piece by piece, and gives it back when the log has stored it. Bytes are counted as
they come and not as a Content-Length promises them: a slow uploader holds what it has sent.
"""

from types import TracebackType

from kalam_notify.errors import ChangeRefused

RETRY_AFTER_SECONDS = 1


def overloaded(message: str) -> ChangeRefused:
    """The refusal of a post that may be tried again in a moment."""
    return ChangeRefused(503, "OVERLOADED", message, retry_after=RETRY_AFTER_SECONDS)


class Gate:
    """Counts bytes in flight. Never waits: it lets in or refuses.

    Invariant: `held` is the sum of all open tickets.
    """

    def __init__(self) -> None:
        self.held = 0
        self.open_posts = 0
        self.refused = 0
        self._closed = False

    def close(self) -> None:
        """Refuse every further post: the server is draining."""
        self._closed = True

    def ticket(self, capacity: int) -> "Ticket":
        """A place for one post, at a capacity of `capacity` bytes over all posts."""
        if self._closed:
            self.refused += 1
            raise overloaded("the server is shutting down")
        return Ticket(self, capacity)

    def statistics(self) -> dict[str, int]:
        return {"held_bytes": self.held, "open_posts": self.open_posts, "refused": self.refused}


class Ticket:
    """One post's place. Use as a context manager; leaving it gives the bytes back."""

    __slots__ = ("_capacity", "_gate", "_held")

    def __init__(self, gate: Gate, capacity: int) -> None:
        self._gate = gate
        self._capacity = capacity
        self._held = 0

    def __enter__(self) -> "Ticket":
        self._gate.open_posts += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gate.open_posts -= 1
        self._gate.held -= self._held
        self._held = 0

    def expect(self, size: int) -> None:
        """Raise ChangeRefused (503) when `size` more bytes would not be let in now.

        A post that finds nobody else is let in whatever its size: it could never come otherwise.
        """
        others = self._gate.held - self._held
        if others and others + self._held + size > self._capacity:
            self._gate.refused += 1
            raise overloaded("too much is waiting to be stored")

    def grow(self, size: int) -> None:
        """Take in `size` more bytes; raises ChangeRefused (503) like `expect`."""
        self.expect(size)
        self._held += size
        self._gate.held += size
