"""Groups changes into posts the daemon will take."""

from pgfeed.poster import Poster

# Well inside the daemon's defaults (10,000 changes, 8 MiB).
MOST_CHANGES = 5_000
MOST_BYTES = 4 * 1024 * 1024


class Outbox:
    """Transactions in, posts out, in order.

    A batch is atomic, so a transaction that fits into one post is never torn apart: subscribers
    see all of it or nothing. A larger one is posted in pieces. Small ones share a post.
    """

    def __init__(self, poster: Poster, most_changes: int = MOST_CHANGES) -> None:
        self._poster = poster
        self._most_changes = most_changes
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self._open: list[bytes] = []
        self._open_bytes = 0

    def add(self, change: bytes) -> None:
        """One more change of the transaction in hand."""
        if not self._fits(len(self._open) + 1, self._open_bytes + len(change)):
            self.flush()
        self._open.append(change)
        self._open_bytes += len(change) + 1

    def end_transaction(self) -> None:
        count = len(self._whole) + len(self._open)
        if not self._fits(count, self._whole_bytes + self._open_bytes):
            self._post_whole()
        self._whole += self._open
        self._whole_bytes += self._open_bytes
        self._open, self._open_bytes = [], 0

    def flush(self) -> None:
        """Post everything added so far and return when it is acknowledged."""
        self.end_transaction()
        self._post_whole()

    def _fits(self, count: int, size: int) -> bool:
        return count <= self._most_changes and size <= MOST_BYTES

    def _post_whole(self) -> None:
        whole, self._whole, self._whole_bytes = self._whole, [], 0
        self._poster.post(whole)
