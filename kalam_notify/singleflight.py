"""Equal calls made once: whoever asks for what is being fetched waits for the same answer.

`Singleflight` joins a call that is under way. `FreshCall` joins only a call that has not begun yet:
for questions whose answer must not be older than the question.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Singleflight(Generic[T]):
    """Coroutines in flight, one per key: who asks for the same meanwhile waits for the same."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Future[T]] = {}

    async def fetch(self, key: Hashable, start: Callable[[], Awaitable[T]]) -> T:
        """The result of `start()`, awaited once for all who ask with the same key."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(start())
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(flight)


class FreshCall(Generic[T]):
    """Calls `look` once for all who have come since the last call of it began.

    A look that is under way may have passed what the newcomer has to see, so it joins the next
    one, which begins when that ends: however many ask, there is one look at a time.
    """

    def __init__(self, look: Callable[[], Awaitable[T]]) -> None:
        self._look = look
        self._under_way: asyncio.Future[T] | None = None
        self._next: asyncio.Future[T] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for a look."""
        return self._under_way is None and self._next is None

    async def __call__(self) -> T:
        """What a look tells that began after this call; raises what it raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._begin(self._under_way))
        return await asyncio.shield(self._next)

    async def _begin(self, before: asyncio.Future[T] | None) -> T:
        if before is not None:
            await asyncio.wait({before})
        self._under_way, self._next = self._next, None
        try:
            return await self._look()
        finally:
            # Who comes from here on need not wait; and what was told is not kept.
            self._under_way = None
