"""A live view: rows that are, at every moment, what the server would answer.

orders = db.live("SELECT * FROM app.orders WHERE status = $1", ["open"])
await orders.ready()
async for rows in orders:
    render(rows)
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from kalam_notify.client.changes import Changes
from kalam_notify.client.faults import Closed
from kalam_notify.client.html import table
from kalam_notify.client.query import Query, Status
from kalam_notify.errors import KalamNotifyError

T = TypeVar("T")

Listener = Callable[[list[T]], None]
"""Called with the rows, after they or the status have changed."""


class Owner(Protocol):
    """What a view wants of its connection."""

    def release(self, query: Query[Any]) -> Any:
        """One view less shows `query`; awaitable: the server has been told."""


class Live(Generic[T]):
    """A live query as its reader holds it. Made by `live` of a connection; goes on until `close`.

    Await it, or enter it as a context manager, to wait for its rows; iterate over it for its rows
    whenever they have changed.
    """

    def __init__(
        self, owner: Owner, query: Query[T], sort_key: Callable[[T], Any] | None = None
    ) -> None:
        self._owner = owner
        self._query = query
        self._sort_key = sort_key
        self._sorted: tuple[list[T], list[T]] = ([], [])
        self._listeners: list[Listener[T]] = []
        self._changes: set[Changes[T]] = set()
        self._heard = asyncio.Event()
        self._number = 0
        self._is_told = True
        self._final: tuple[list[T], Status] | None = None
        query.handles.add(self)

    @property
    def sql(self) -> str:
        return self._query.following.sql

    @property
    def rows(self) -> list[T]:
        """The rows in order of their primary key, or of `sort_key`.

        The same list until something changes, and in it the same object for each row that did not:
        read it, copy it, but do not change it.
        """
        if self._final is not None:
            return self._final[0]
        rows = self._query.rows.shown()
        if self._sort_key is None:
            return rows
        if rows is not self._sorted[0]:
            self._sorted = rows, sorted(rows, key=self._sort_key)
        return self._sorted[1]

    @property
    def status(self) -> Status:
        """loading, live, reconnecting, error or closed."""
        return self._query.status if self._final is None else self._final[1]

    @property
    def error(self) -> KalamNotifyError | None:
        """What ended it, when its status is `error`."""
        return self._query.fault

    @property
    def notices(self) -> tuple[str, ...]:
        """What the server finds odd about the query."""
        return self._query.notices

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, once the server has told them."""
        return self._query.columns

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The names of the primary key's columns; none where the table has no such key."""
        return self._query.primary_key

    @property
    def position(self) -> int | None:
        """The seq up to which everything has come, for `from_position` of a later process."""
        return self._query.following.cursor.position

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[T]:
        return iter(self.rows)

    async def ready(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109
        """Wait until all rows have come; `timeout` is in seconds.

        Raises what ended the query (SubscriptionRefused, AuthenticationFailed, ConnectionLost,
        RowMismatch), Closed, or TimeoutError.
        """
        return await self.until(lambda _: self.status is Status.LIVE, timeout)

    async def until(
        self,
        holds: Callable[[list[T]], object],
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Self:
        """Wait until `holds(rows)` is true; raises as `ready` does."""
        async with asyncio.timeout(timeout):
            while not holds(self.rows):
                if self.status is Status.ERROR and self.error is not None:
                    raise self.error
                if self.status is Status.CLOSED:
                    raise Closed("the live query was closed")
                self._heard.clear()
                await self._heard.wait()
        return self

    def subscribe(self, listener: Listener[T]) -> Callable[[], None]:
        """Call `listener(rows)` after every change, once per turn of the event loop however many
        messages came; first for what is there. Returns the way to stop.
        """
        self._listeners.append(listener)
        if self.status is not Status.LOADING or self.rows:
            self.hear()

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def changes(self) -> Changes[T]:
        """Every change, row by row, to be iterated over; the first are the rows that are there."""
        query = self._query

        def forget(changes: Changes[T]) -> None:
            query.changes.discard(changes)
            self._changes.discard(changes)

        changes = Changes(query.recount, forget)
        if self.status in (Status.ERROR, Status.CLOSED):
            changes.end(self.error)
        else:
            query.changes.add(changes)
            self._changes.add(changes)
        return changes

    async def __aiter__(self) -> AsyncIterator[list[T]]:
        """The rows once they have all come, then after every change; raises what ends the query."""
        seen: tuple[list[T], Status] | None = None
        while True:
            if self.status in (Status.LIVE, Status.RECONNECTING):
                now = self.rows, self.status
                if seen is None or now[0] is not seen[0]:
                    seen = now
                    yield now[0]
                    continue
            if self.status is Status.CLOSED:
                return
            if self.error is not None:
                raise self.error
            self._heard.clear()
            await self._heard.wait()

    def close(self) -> Any:
        """Let go of the query at once; the last view to do so ends it at the server.

        May be awaited until the server has been told.
        """
        if self._final is None:
            status = Status.ERROR if self.error is not None else Status.CLOSED
            self._final = list(self.rows), status
            self._query.handles.discard(self)
            for changes in list(self._changes):
                changes.end()
                self._query.changes.discard(changes)
            self._listeners.clear()
            self._heard.set()
        return self._owner.release(self._query)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.ready().__await__()

    async def __aenter__(self) -> Self:
        return await self.ready()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def hear(self) -> None:
        """Something may have changed: tell it in the next turn of the loop."""
        if self._is_told:
            self._is_told = False
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        """The listeners hear first, then who waits."""
        self._is_told = True
        self._heard.set()
        loop = asyncio.get_running_loop()
        for listener in list(self._listeners):
            try:
                listener(self.rows)
            except Exception as fault:
                # The listener's own: the others are told all the same.
                context = {"message": f"a listener of {self!r} failed", "exception": fault}
                loop.call_exception_handler(context)

    def __repr__(self) -> str:
        return f"<live {self.sql!r}: {self.status}, {len(self)} rows>"

    def _repr_html_(self) -> str:
        """For Jupyter: the rows as a table."""
        caption = f"{self.sql} · {self.status} · {len(self):,} rows"
        return table(self.columns, self.rows, caption)
