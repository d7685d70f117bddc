"""One timer for everybody: a hashed timing wheel (Varghese and Lauck, SOSP 1987, scheme 6).

Thousands of connections have a heartbeat, an auth timeout and a token that expires. Each is in
one bucket of the wheel, the one of its next deadline; a visit tells the next deadline. Activity in
between costs nothing: a connection that was heard from is visited, answers "later", and moves on.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol


class Timed(Protocol):
    """Something with deadlines."""

    # The tick of the bucket it is in; None: in no bucket. The wheel's own mark.
    wheel_tick: int | None

    def on_deadline(self, now: float) -> float | None:
        """Do what is due at `now` (monotonic seconds); the next deadline, None for no more."""


class Wheel:
    """Visits things at, or up to one tick after, their deadlines. `tick` is in seconds."""

    def __init__(self, clock: Callable[[], float], tick: float) -> None:
        self._clock = clock
        self._tick = tick
        self._buckets: dict[int, set[Timed]] = {}
        self._next_tick = math.floor(clock() / tick)

    def set(self, item: Timed, deadline: float) -> None:
        """Visit `item` at `deadline`, instead of whenever it would have been."""
        self.discard(item)
        tick = max(math.ceil(deadline / self._tick), self._next_tick)
        item.wheel_tick = tick
        self._buckets.setdefault(tick, set()).add(item)

    def discard(self, item: Timed) -> None:
        """Visit `item` no more."""
        if item.wheel_tick is not None:
            bucket = self._buckets.get(item.wheel_tick)
            if bucket is not None:
                bucket.discard(item)
            item.wheel_tick = None

    def turn(self) -> None:
        """Visit everything whose deadline has passed."""
        now = self._clock()
        current = math.floor(now / self._tick)
        while self._next_tick <= current:
            bucket = self._buckets.pop(self._next_tick, None)
            # Moved on first: what a visit sets for right now goes into the next bucket.
            self._next_tick += 1
            for item in bucket or ():
                if item.wheel_tick is not None:
                    item.wheel_tick = None
                    deadline = item.on_deadline(now)
                    if deadline is not None:
                        self.set(item, deadline)

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(self._tick)
            self.turn()
