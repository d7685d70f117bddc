"""When the next slice is due: the scheduler on an event loop.

One slice, then the loop turns, so that sockets, timers and the fan-out come between any two. While
a change is on its way to its subscribers (`gives_way`), slices are further apart as well: the
threads that store it need the interpreter, which a busy loop does not let go of, and each of a
change's steps through the loop would wait for a slice. After a step that took longer than a slice
should, the loop is left alone for as long as that took.

Work that comes while nothing else waits begins at once, in the turn it came in, but for one slice
a turn in all: most subscribes are done before their caller returns.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import TypeVar

from kalam_notify.budget.scheduler import QUANTUM, Owner, Scheduler, Steps, Work

T = TypeVar("T")

_LONGEST_REST = 0.05
# What an event loop's timers can tell apart.
_SHORTEST_REST = 0.001


class Budget:
    """Does work handed in, a slice a turn of the event loop it was made on, while `run` runs."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        gives_way: Callable[[], bool] = lambda: False,
        quantum: float = QUANTUM,
    ) -> None:
        """`gives_way` tells whether a change is on its way to its subscribers now."""
        self.gives_way = gives_way
        self._clock = clock
        self._quantum = quantum
        self._scheduler = Scheduler(clock, quantum)
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        # Whether a slice was done in this turn already, out of turn.
        self._has_served = False

    def enter(
        self,
        steps: Steps[T],
        owner: Owner,
        lane: Hashable = None,
        done: Callable[[Work[T]], None] | None = None,
    ) -> Work[T]:
        """Have work done; it may be over when this returns. `done` is told, unless cancelled."""
        is_alone = not self._scheduler and not self._scheduler.is_serving
        work = self._scheduler.put(steps, owner, lane, done)
        if is_alone and not self._has_served:
            self._has_served = True
            self._loop.call_soon(self._next_turn)
            self._scheduler.serve()
        if self._scheduler:
            self._wanted.set()
        return work

    async def do(self, steps: Steps[T], owner: Owner, lane: Hashable = None) -> T:
        """Have work done and wait for its result; cancelling the wait cancels the work."""
        over: asyncio.Future[T] = self._loop.create_future()

        def tell(work: Work[T]) -> None:
            if over.done():
                return
            if work.error is not None:
                over.set_exception(work.error)
            else:
                over.set_result(work.result)  # type: ignore[arg-type]

        work = self.enter(steps, owner, lane, tell)
        try:
            return await over
        finally:
            work.cancel()

    def _next_turn(self) -> None:
        self._has_served = False

    async def run(self) -> None:
        """Do what is handed in until cancelled."""
        while True:
            self._wanted.clear()
            if not self._scheduler:
                await self._wanted.wait()
            began = self._clock()
            self._scheduler.serve()
            await asyncio.sleep(self._rest(self._clock() - began))

    def _rest(self, used: float) -> float:
        """Seconds that the loop is left alone after a slice that took `used`; 0: one turn."""
        if used > 4 * self._quantum or self.gives_way():
            return min(max(used, _SHORTEST_REST), _LONGEST_REST)
        return 0.0
