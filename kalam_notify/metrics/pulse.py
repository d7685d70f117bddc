"""The pulse of a worker: how late its event loop is, and how far its subscriptions are behind.

Neither can be told by counting, so both are felt, ten times and once a second. What costs a look
at many subscriptions is done in slices, and not at all while none of them lags.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from kalam_notify.metrics.ages import Ages
from kalam_notify.metrics.registry import SecondsHistogram
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager

BEAT_SECONDS = 0.1
"""How often the loop's lag is measured."""

BEATS_PER_LOOK = 10
"""Of so many beats one looks at the subscriptions as well."""

SLICE_SUBSCRIPTIONS = 1000
"""Looked at between two turns of the loop: some 100 microseconds."""


class Head(Protocol):
    """The end of the log."""

    @property
    def last_seq(self) -> int: ...


class Pulse:
    """Runs beside everything else. `position` tells how far the fan-out is."""

    def __init__(
        self,
        lag: SecondsHistogram,
        head: Head,
        manager: ConnectionsManager,
        position: Callable[[], int],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.ages = Ages()
        # How old the oldest change is that a subscription still waits for, at the last look.
        self.slowest_seconds = 0.0
        self._lag, self._head, self._manager, self._position = lag, head, manager, position
        self._clock, self._sleep = clock, sleep

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for _ in range(BEATS_PER_LOOK):
                await self._beat()
            await self.look()

    async def _beat(self) -> None:
        due = self._clock() + BEAT_SECONDS
        await self._sleep(BEAT_SECONDS)
        self._lag.observe(max(self._clock() - due, 0.0))

    def seconds_behind(self, position: int) -> float:
        """The age of the oldest change after a position, told now; 0 at the end of the log."""
        now = self._clock()
        self.ages.note(self._head.last_seq, now)
        return self.ages.of(position, now)

    async def look(self) -> None:
        """Take note of the log's end, and find who is farthest behind it."""
        self.ages.note(self._head.last_seq, self._clock())
        furthest = await self._furthest_behind()
        self.slowest_seconds = self.ages.of(furthest, self._clock())

    async def _furthest_behind(self) -> int:
        """The lowest position of any subscription; that of the fan-out when all are live."""
        furthest = self._position()
        if not self._manager.lagging_count:
            return furthest
        looked_at = 0
        for connection in list(self._manager.connections.values()):
            furthest = min(furthest, _lowest_position(connection, furthest))
            looked_at += len(connection.subscriptions)
            if looked_at >= SLICE_SUBSCRIPTIONS:
                looked_at = 0
                await self._sleep(0)
        return furthest


def _lowest_position(connection: Connection, default: int) -> int:
    positions = (handle.position for handle in connection.subscriptions.values())
    return min((one for one in positions if one is not None), default=default)
