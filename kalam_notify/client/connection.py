"""`connect`: one socket, many live views, and posts of changes.

    async with connect("http://127.0.0.1:2900", token=token) as db:
        orders = await db.live("SELECT * FROM app.orders WHERE status = $1", ["open"])
        async for rows in orders:
            print(len(rows), "open orders")

Equal queries of one connection are asked once and shared.
"""

import asyncio
import logging
import ssl as tls
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, overload

from kalam_notify.client.address import without_password
from kalam_notify.client.backoff import Backoff
from kalam_notify.client.client import Client
from kalam_notify.client.faults import Closed, ConnectTimeout
from kalam_notify.client.following import Following
from kalam_notify.client.json_text import encode, plain
from kalam_notify.client.keywords import refuse_typos
from kalam_notify.client.live import Live
from kalam_notify.client.posting import Change, Published, Publisher, batch
from kalam_notify.client.query import Query
from kalam_notify.client.row_types import reader
from kalam_notify.client.token_source import Token

logger = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]

CONNECT_SECONDS: Final = 10.0
PUBLISH_SECONDS: Final = 30.0


class Connection:
    """A connection that is kept up until it is closed. Made by `connect`, used in one event loop.

    Enter it as a context manager, or await it, to wait for the server; or use it at once: the
    first query opens the socket.
    """

    def __init__(
        self,
        url: str,
        client: Client,
        publisher: Publisher,
        connect_timeout: float | None,
        on_notice: Callable[[str, str], None] | None = None,
    ) -> None:
        self._url = url
        self._on_notice = on_notice or _log_notice
        self._client = client
        self._publisher = publisher
        self._connect_timeout = connect_timeout
        self._queries: dict[tuple[object, ...], Query[Any]] = {}
        self._keys: dict[str, tuple[object, ...]] = {}
        # What is to be told the server, in order; the one task that does so.
        self._jobs: asyncio.Queue[tuple[Callable[[], Awaitable[None]], asyncio.Future[None]]]
        self._jobs = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

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
    ) -> Live[Row]: ...

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
    ) -> Live[T]: ...

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
    ) -> Live[Any]:
        """A live view of a query, asked for at once; it goes on until it is closed.

        `params` are the values of `$1`, `$2`, ... in `sql`. `row_type` (a msgspec.Struct, a
        dataclass or a TypedDict) is what rows become, else dicts. Rows stand in order of their
        primary key, or of `sort_key(row)`. `batch_size` is the rows in a page of the snapshot;
        `last_rows`, `live_only` begin with the newest rows or with none, `from_position` at the
        `position` of an earlier view.

        Raises TypeError and ValueError for arguments that cannot be sent, Closed, and what ended
        the connection for good. What the server has against the query is its `error`.
        """
        if self._is_closed:
            raise Closed("the connection was closed")
        values = _values(params)
        asked = {"batch_size": batch_size, "last_rows": last_rows, "from": from_position}
        options = {name: value for name, value in asked.items() if value is not None}
        key = (sql, encode(values), encode(options), live_only, row_type)
        query = self._queries.get(key)
        if query is None:
            following = Following(
                self._client.new_id(), sql, None if live_only and not options else options, values
            )
            query = Query(self, following, dict if row_type is None else reader(row_type))
            self._ask(key, query)
        return Live(self, query, sort_key)

    @refuse_typos
    async def publish(
        self,
        *changes: Change | Iterable[Change],
        idempotency_key: str | None = None,
        timeout: float = PUBLISH_SECONDS,  # noqa: ASYNC109
    ) -> Published:
        """Post changes, as arguments or as one list: one batch, all of it stored or nothing.

        Answers once they are durable. A change is `{"table", "change_type", "row_data", ...}` as
        docs/ingest.md has it. Until there is an answer, and for `timeout` seconds, the post is
        repeated under the same key, which the server stores once. For retries of your own, beyond
        that or by another process, give the changes an `id`, or the batch an `idempotency_key`.

        Raises ChangeRefused, AuthenticationFailed, Unreachable when time is up (the changes may
        have been stored or not: post them again with the same `id` or key), TypeError and
        ValueError for what has no JSON.
        """
        if self._is_closed:
            raise Closed("the connection was closed")
        return await self._publisher.publish(batch(changes), key=idempotency_key, seconds=timeout)

    async def opened(self) -> Self:
        """Wait for the server, `connect_timeout` seconds at most, and try again meanwhile.

        Raises ConnectTimeout, AuthenticationFailed, ConnectionLost.
        """
        self._start()
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._client.opened()
        except TimeoutError:
            await self.close()
            why = self._client.last_trouble or "no answer"
            where = without_password(self._url)
            raise ConnectTimeout(
                f"no connection to {where} within {self._connect_timeout:g} s: {why}"
            ) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close the connection and every view."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        while not self._jobs.empty():
            self._jobs.get_nowait()[1].cancel()
        await self._client.close()
        self._publisher.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.opened().__await__()

    async def __aenter__(self) -> Self:
        return await self.opened()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<connection to {without_password(self._url)}, {len(self._queries)} queries>"

    # -- what its views and queries tell --

    def release(self, query: Query[Any]) -> "asyncio.Future[None]":
        """One view less shows `query`; with the last one it ends."""
        if not query.handles and query.id in self._keys and not self._is_closed:
            query.finish()
            return self._later(lambda: self._client.forget(query))
        applied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        applied.set_result(None)
        return applied

    def ended(self, query: Query[Any]) -> None:
        """Whoever asks the same again asks anew."""
        key = self._keys.pop(query.id, None)
        if key is not None:
            del self._queries[key]

    def noticed(self, query: Query[Any]) -> None:
        for notice in query.notices:
            self._on_notice(query.following.sql, notice)

    # -- within --

    def _ask(self, key: tuple[object, ...], query: Query[Any]) -> None:
        self._start()
        self._client.add(query)
        self._queries[key] = query
        self._keys[query.id] = key
        self._later(lambda: self._client.resume(query))

    def _later(self, job: Callable[[], Awaitable[None]]) -> "asyncio.Future[None]":
        done = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((job, done))
        return done

    def _start(self) -> None:
        if self._is_closed:
            raise Closed("the connection was closed")
        if self._task is None:
            _require_loop()
            self._client.start()
            self._task = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while True:
            job, applied = await self._jobs.get()
            try:
                await job()
            finally:
                if not applied.done():
                    applied.set_result(None)


@refuse_typos
def connect(
    url: str,
    *,
    token: Token | None = None,
    api_key: str | None = None,
    connect_timeout: float | None = CONNECT_SECONDS,
    authenticate: Literal["header", "message"] = "header",
    backoff: Backoff | None = None,
    on_trouble: Callable[[str, float], None] | None = None,
    on_notice: Callable[[str, str], None] | None = None,
    headers: Mapping[str, str] | None = None,
    ssl: tls.SSLContext | None = None,
) -> Connection:
    """Connect to a server, `http(s)://host:port` or `ws(s)://host:port`.

    `token` is a JWT, or a function (also a coroutine function) that is asked for one at every
    connect and every post. `api_key` is for `publish` alone. `connect_timeout` is how many seconds
    the first connection may take, attempts included; None: for ever. Later ones are tried for ever,
    `on_trouble(why, seconds until the next attempt)` hears of each loss. `on_notice(sql, text)`
    hears what the server finds odd about a query (else it is logged as a warning). `authenticate`
    says whether the token goes along as a header or, where a proxy takes that away, as a message.
    `headers` go with every handshake, `ssl` is for `https`.

    Raises BadAddress, TypeError and ValueError; entering or awaiting the connection raises
    ConnectTimeout, AuthenticationFailed, ConnectionLost.
    """
    if connect_timeout is not None and not connect_timeout > 0:
        raise ValueError(f"connect_timeout={connect_timeout}: give seconds above 0, or None")
    options: dict[str, Any] = {"open_timeout": connect_timeout}
    if headers is not None:
        options["additional_headers"] = dict(headers)
    if ssl is not None:
        options["ssl"] = ssl
    client = Client(
        url,
        token=token,
        authenticate=authenticate,
        backoff=backoff,
        on_trouble=on_trouble,
        **options,
    )
    publisher = Publisher(url, token, api_key, ssl=ssl)
    return Connection(url, client, publisher, connect_timeout, on_notice)


def _require_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "connect() wants a running event loop: connect_sync() does not"
        ) from None


def _log_notice(sql: str, notice: str) -> None:
    logger.warning("%s: %s", sql, notice)


def _values(params: Sequence[Any]) -> list[Any]:
    if isinstance(params, str | bytes) or not isinstance(params, Sequence):
        raise TypeError(f"params={params!r}: give a list, the values of $1, $2, ...")
    values: list[Any] = plain(list(params))
    return values
