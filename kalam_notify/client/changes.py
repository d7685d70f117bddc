"""What happens to a live query's rows, told one by one to whoever iterates.

The changes add up to the query's rows at any moment. An iterator that is not read does not grow
without bound: it forgets what waits, and begins again with all rows once it is read.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

from kalam_notify.errors import KalamNotifyError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget all rows; those that hold follow as inserts, up to `Ready`."""

    type: ClassVar[Literal["reset"]] = "reset"


@dataclass(frozen=True, slots=True)
class Ready:
    """Every row of the snapshot has been told."""

    type: ClassVar[Literal["ready"]] = "ready"


@dataclass(frozen=True, slots=True)
class Insert(Generic[T]):
    """A row came in. `transition` is "enter" for one that was there but did not match before."""

    row: T
    transition: Literal["enter"] | None = None
    type: ClassVar[Literal["insert"]] = "insert"


@dataclass(frozen=True, slots=True)
class Update(Generic[T]):
    """A row changed. `old` is the row as it was; None for one that was never told."""

    row: T
    old: T | None = None
    type: ClassVar[Literal["update"]] = "update"


@dataclass(frozen=True, slots=True)
class Delete(Generic[T]):
    """A row went. `transition` is "leave" for one that is there still but matches no more."""

    row: T
    transition: Literal["leave"] | None = None
    type: ClassVar[Literal["delete"]] = "delete"


Change: TypeAlias = Reset | Ready | Insert[T] | Update[T] | Delete[T]

MAX_WAITING: Final = 10_000


class Changes(Generic[T]):
    """An iteration over the changes of a query. `recount` tells all that has been told so far."""

    def __init__(
        self,
        recount: Callable[[], Iterable[Change[T]]],
        on_close: Callable[["Changes[T]"], None] = lambda _: None,
    ) -> None:
        self._recount = recount
        self._on_close = on_close
        self._waiting: deque[Change[T]] = deque()
        self._is_overrun = True  # nothing has been told: begin with everything
        self._fault: KalamNotifyError | None = None
        self._is_closed = False
        self._arrival = asyncio.Event()

    def push(self, change: Change[T], size: int) -> None:
        """`size`: how many rows the query holds; many more changes are dearer than its rows."""
        if not self._is_overrun:
            self._waiting.append(change)
            if len(self._waiting) > MAX_WAITING + 2 * size:
                self._waiting.clear()
                self._is_overrun = True
        self._arrival.set()

    def end(self, fault: KalamNotifyError | None = None) -> None:
        """No more changes; a fault is raised to the reader after the changes that came before."""
        if not self._is_closed:
            self._is_closed, self._fault = True, fault
            self._arrival.set()

    def close(self) -> None:
        """The reader wants no more."""
        self.end()
        self._waiting.clear()
        self._is_overrun, self._fault = False, None
        self._on_close(self)

    async def take(self) -> list[Change[T]]:
        """All that wait, at least one; none when it has ended. Raises what ended the query."""
        await self._arrived()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def __aiter__(self) -> AsyncIterator[Change[T]]:
        return self

    async def __anext__(self) -> Change[T]:
        if not await self._arrived():
            raise StopAsyncIteration
        return self._waiting.popleft()

    async def aclose(self) -> None:
        self.close()

    async def _arrived(self) -> bool:
        """Wait for a change; False when there will be none."""
        while not self._is_there():
            if self._is_closed:
                fault, self._fault = self._fault, None
                if fault is not None:
                    raise fault
                return False
            self._arrival.clear()
            await self._arrival.wait()
        return True

    def _is_there(self) -> bool:
        if self._is_overrun:
            self._is_overrun = False
            self._waiting.extend(self._recount())
        return bool(self._waiting)
