"""Who waits for the writing thread, and a tally of what it did for them."""

import asyncio
import time
from itertools import count
from typing import NamedTuple

from kalam_notify.log.base import OnAppend
from kalam_notify.log.writer import Outcome, Trimmed
from kalam_notify.store.base import Appended


class _Posted(NamedTuple):
    """Who waits for a batch, how much it weighs, and since when (monotonic seconds)."""

    future: asyncio.Future[Appended]
    size: int
    since: float


class PendingAppends:
    """A number for each batch and each trim under way; by it the outcome finds who waits.

    A number whose holder has gone away (cancelled) counts until its outcome comes: what was posted
    is not taken back.
    """

    def __init__(self) -> None:
        # Sum of the sizes of all batches that wait.
        self.waiting_bytes = 0
        self._numbers = count()
        self._posted: dict[int, _Posted] = {}
        self._trims: dict[int, asyncio.Future[int]] = {}
        self._appends = self._append_faults = self._changes = 0
        self._last_append_seconds = 0.0

    def for_batch(self, size: int) -> tuple[int, asyncio.Future[Appended]]:
        """A number for a batch of `size` bytes; the future raises LogUnavailable if refused."""
        number = next(self._numbers)
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._posted[number] = _Posted(future, size, time.monotonic())
        self.waiting_bytes += size
        return number, future

    @property
    def longest_wait(self) -> float:
        """Seconds that the oldest batch has waited by now."""
        oldest = next(iter(self._posted.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def for_trim(self) -> tuple[int, asyncio.Future[int]]:
        """A number for a trim; the future gives the entries removed."""
        number = next(self._numbers)
        future = self._trims[number] = asyncio.get_running_loop().create_future()
        return number, future

    def finish_batches(self, outcome: Outcome, on_append: OnAppend | None) -> None:
        """Answer everybody whose batch was in this transaction, in order."""
        group = outcome.group
        now = time.monotonic()
        for place, number in enumerate(outcome.numbers):
            posted = self._posted.pop(number)
            self.waiting_bytes -= posted.size
            if group is not None:
                self._acknowledge(posted, group.answers[place], now - posted.since, on_append)
            else:
                self._append_faults += 1
                if not posted.future.done() and outcome.fault is not None:
                    posted.future.set_exception(outcome.fault)

    def _acknowledge(
        self, posted: _Posted, appended: Appended, seconds: float, on_append: OnAppend | None
    ) -> None:
        self._appends += 1
        self._changes += appended.accepted
        self._last_append_seconds = seconds
        if not posted.future.done():
            posted.future.set_result(appended)
        if on_append is not None:
            on_append(seconds, appended)

    def finish_trim(self, trimmed: Trimmed) -> None:
        """Answer who waits for this trim."""
        future = self._trims.pop(trimmed.number)
        if not future.done():
            future.set_result(trimmed.removed)

    def statistics(self) -> dict[str, float]:
        return {
            "waiting_batches": len(self._posted),
            "waiting_bytes": self.waiting_bytes,
            "appends": self._appends,
            "append_faults": self._append_faults,
            "changes": self._changes,
            "last_append_seconds": self._last_append_seconds,
        }
