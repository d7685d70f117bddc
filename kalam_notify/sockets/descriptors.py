"""What happens when descriptors run out: newcomers are turned away, and everything else goes on.

A process that has used its last descriptor can neither accept nor open the log's files. The kernel
gives out the lowest number that is free, so a connection whose number is near the limit tells that
there are few left: it is answered 503 and closed, and the rest is for the server's own use.
"""

import logging
import resource
from collections.abc import Callable

RESERVE = 32
"""Descriptors that connections do not get; of a small limit, an eighth."""

LINE_SECONDS = 60.0
"""How often the log is told while it goes on."""

_log = logging.getLogger("kalam_notify.sockets")


class Descriptors:
    """The descriptors of this process. `limit` is how many it may have open."""

    def __init__(self, clock: Callable[[], float], limit: int | None = None) -> None:
        if limit is None:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._clock = clock
        self.limit = limit
        # No connection may have this one or a higher one.
        self._first_reserved = (
            float("inf") if limit == resource.RLIM_INFINITY else limit - min(RESERVE, limit // 8)
        )
        self._turned_away = 0
        self._next_line_at = 0.0

    def admits(self, descriptor: int) -> bool:
        """Whether a connection may keep its descriptor."""
        if descriptor < self._first_reserved:
            return True
        self.turned_away()
        return False

    def turned_away(self) -> None:
        """A connection could not be had."""
        self._turned_away += 1
        now = self._clock()
        if now >= self._next_line_at:
            self._next_line_at = now + LINE_SECONDS
            _log.error(
                "descriptors have run out (the limit of open files is %d): connections turned "
                "away: %d; raise it with ulimit -n or LimitNOFILE",
                self.limit,
                self._turned_away,
            )
            self._turned_away = 0
