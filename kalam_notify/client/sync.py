"""`connect_sync`: the same as `connect`, for programs without an event loop.

    with connect_sync("http://127.0.0.1:2900", token=token) as db:
        orders = db.live("SELECT * FROM app.orders WHERE status = $1", ["open"])
        print(len(orders.rows), "open orders")

The connection lives in a thread of its own; everything here may be used from any thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, overload

from kalam_notify.client.changes import Change as RowChange
from kalam_notify.client.changes import Changes
from kalam_notify.client.connection import PUBLISH_SECONDS, Connection, Row, connect
from kalam_notify.client.faults import Closed
from kalam_notify.client.keywords import refuse_typos, takes_what
from kalam_notify.client.live import Listener, Live
from kalam_notify.client.loop_thread import LoopThread
from kalam_notify.client.posting import Change, Published
from kalam_notify.client.query import Status
from kalam_notify.errors import KalamNotifyError

T = TypeVar("T")

LIVE_SECONDS: Final = 30.0


class SyncLive(Generic[T]):
    """A live view, as `Live` is; its rows are those of the moment in which they are looked at."""

    def __init__(self, thread: LoopThread, live: Live[T]) -> None:
        self._thread = thread
        self._live = live

    @property
    def sql(self) -> str:
        return self._live.sql

    @property
    def rows(self) -> list[T]:
        """The rows in order of their primary key, or of `sort_key`; a list that stays as it is."""
        return self._thread.call(lambda: self._live.rows)

    @property
    def status(self) -> Status:
        """loading, live, reconnecting, error or closed."""
        return self._thread.call(lambda: self._live.status)

    @property
    def error(self) -> KalamNotifyError | None:
        """What ended it, when its status is `error`."""
        return self._thread.call(lambda: self._live.error)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the server finds odd about the query."""
        return self._live.notices

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, once the server has told them."""
        return self._live.columns

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The names of the primary key's columns; none where the table has no such key."""
        return self._live.primary_key

    @property
    def position(self) -> int | None:
        """The seq up to which everything has come, for `from_position` of a later process."""
        return self._thread.call(lambda: self._live.position)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[T]:
        return iter(self.rows)

    def ready(self, timeout: float | None = None) -> Self:
        """Wait until all rows have come; raises as `Live.ready` does."""
        self._thread.run(self._live.ready(timeout))
        return self

    def until(self, holds: Callable[[list[T]], object], timeout: float | None = None) -> Self:
        """Wait until `holds(rows)` is true. It is called in the connection's thread."""
        self._thread.run(self._live.until(holds, timeout))
        return self

    def subscribe(self, listener: Listener[T]) -> Callable[[], None]:
        """Call `listener(rows)` after every change, in the connection's thread: be quick there.

        Returns the way to stop.
        """
        stop = self._thread.call(lambda: self._live.subscribe(listener))
        return lambda: self._thread.call(stop)

    def changes(self, timeout: float | None = None) -> Iterator[RowChange[T]]:
        """Every change, row by row; the first are the rows that are there.

        `timeout` is how long to wait for the next one, in seconds: then TimeoutError is raised,
        and iterating once more goes on.
        """
        return _SyncChanges(self._thread, self._thread.call(self._live.changes), timeout)

    def close(self) -> None:
        """Let go of the query; the last view to do so ends it at the server."""
        self._thread.call(self._live.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return self._thread.call(lambda: repr(self._live))

    def _repr_html_(self) -> str:
        """For Jupyter: the rows as a table."""
        return self._thread.call(self._live._repr_html_)


class _SyncChanges(Generic[T]):
    """Takes the changes over in lots: a way between threads for each would be dear."""

    def __init__(self, thread: LoopThread, changes: Changes[T], timeout: float | None) -> None:
        self._thread = thread
        self._changes = changes
        self._timeout = timeout
        self._taken: deque[RowChange[T]] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RowChange[T]:
        if not self._taken:
            self._taken.extend(self._thread.run(self._take()))
        if not self._taken:
            raise StopIteration
        return self._taken.popleft()

    def close(self) -> None:
        self._taken.clear()
        self._thread.call(self._changes.close)

    async def _take(self) -> list[RowChange[T]]:
        async with asyncio.timeout(self._timeout):
            return await self._changes.take()


class SyncConnection:
    """A connection that is kept up by a thread of its own until it is closed."""

    def __init__(self, thread: LoopThread, connection: Connection) -> None:
        self._thread = thread
        self._connection = connection

    @overload
    def live(
        self,
        sql: str,
        params: Sequence[Any] = (),
        *,
        row_type: None = None,
        sort_key: Callable[[Row], Any] | None = None,
        batch_size: int | None = None,
        last_rows: int | None = None,
        live_only: bool = False,
        from_position: int | None = None,
        timeout: float | None = LIVE_SECONDS,
    ) -> SyncLive[Row]: ...

    @overload
    def live(
        self,
        sql: str,
        params: Sequence[Any] = (),
        *,
        row_type: type[T],
        sort_key: Callable[[T], Any] | None = None,
        batch_size: int | None = None,
        last_rows: int | None = None,
        live_only: bool = False,
        from_position: int | None = None,
        timeout: float | None = LIVE_SECONDS,
    ) -> SyncLive[T]: ...

    @refuse_typos
    def live(
        self,
        sql: str,
        params: Sequence[Any] = (),
        *,
        row_type: type[Any] | None = None,
        sort_key: Callable[[Any], Any] | None = None,
        batch_size: int | None = None,
        last_rows: int | None = None,
        live_only: bool = False,
        from_position: int | None = None,
        timeout: float | None = LIVE_SECONDS,
    ) -> SyncLive[Any]:
        """A live view of a query, once its rows have come; see `Connection.live`.

        Raises what ended the query, and TimeoutError where its rows have not come in `timeout`
        seconds (None: wait for ever).
        """

        async def ask() -> Live[Any]:
            live: Live[Any] = self._connection.live(
                sql,
                params,
                row_type=row_type,
                sort_key=sort_key,
                batch_size=batch_size,
                last_rows=last_rows,
                live_only=live_only,
                from_position=from_position,
            )
            try:
                return await live.ready(timeout)
            except BaseException:
                live.close()
                raise

        return SyncLive(self._thread, self._thread.run(ask()))

    @refuse_typos
    def publish(
        self,
        *changes: Change | Iterable[Change],
        idempotency_key: str | None = None,
        timeout: float = PUBLISH_SECONDS,
    ) -> Published:
        """Post changes as one batch, repeated until it is answered; see `Connection.publish`."""
        return self._thread.run(
            self._connection.publish(*changes, idempotency_key=idempotency_key, timeout=timeout)
        )

    def close(self) -> None:
        """Close the connection and every view, and end the thread."""
        try:
            self._thread.run(self._connection.close())
        except Closed:
            return
        self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return self._thread.call(lambda: repr(self._connection))


@takes_what(connect)
def connect_sync(*args: Any, **options: Any) -> SyncConnection:
    """Connect to a server, from a program without an event loop. Options are those of `connect`.

    Waits for the server. Raises BadAddress, ConnectTimeout, AuthenticationFailed, ConnectionLost.
    `token`, `on_trouble` and `on_notice` are called in the connection's own thread.
    """
    thread = LoopThread()

    async def open_connection() -> Connection:
        return await connect(*args, **options)

    try:
        return SyncConnection(thread, thread.run(open_connection()))
    except BaseException:
        thread.stop()
        raise
