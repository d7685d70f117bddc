"""Who may use a scarce thing: a few slots, handed round between owners.

For what is not a step of the loop but keeps something for long, such as a thread that reads the
file. No owner has all the slots, however much it asks for, so the next one to come finds one or
waits for the first that is given back; those who wait take turns by owner.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kalam_notify.budget.scheduler import Owner


class Slots:
    """`count` slots, of which one owner holds at most all but one."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._most = max(count - 1, 1)
        self._held: Counter[Owner] = Counter()
        self._waiting: dict[Owner, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def hold(self, owner: Owner) -> AsyncIterator[None]:
        """A slot, from when there is one for this owner."""
        if self._free and self._held[owner] < self._most:
            self._take(owner)
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self._give_back(owner)

    def _take(self, owner: Owner) -> None:
        self._free -= 1
        self._held[owner] += 1

    async def _wait(self, owner: Owner) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._give_back(owner)
            else:
                self._forget(owner, given)
            raise

    def _forget(self, owner: Owner, given: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(owner)
        if queue is not None and given in queue:
            queue.remove(given)
            if not queue:
                del self._waiting[owner]

    def _give_back(self, owner: Owner) -> None:
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        for waiting in [*self._waiting]:
            if not self._free:
                return
            if self._held[waiting] < self._most:
                self._hand_over(waiting)

    def _hand_over(self, owner: Owner) -> None:
        """To whoever of this owner has waited longest; the owner then stands behind the others."""
        queue = self._waiting.pop(owner)
        while queue:
            given = queue.popleft()
            if not given.done():
                self._take(owner)
                given.set_result(None)
                break
        if queue:
            self._waiting[owner] = queue
