"""Reading connections and the few threads that use them, off the event loop.

A query that nobody waits for any more is ended: one that has not begun gives up its place, and the
statement of one that runs is interrupted.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Concatenate, ParamSpec, TypeVar

from kalam_notify.errors import LogUnavailable
from kalam_notify.store.schema import open_reader

_THREADS = 4
# Fewer than would keep every core busy for long: they compete with the event loop.
_SCAN_THREADS = 3
# SQLite's operations between two looks at whether anybody waits still: tens of milliseconds.
_CHECK_EVERY = 1_000_000

P = ParamSpec("P")
T = TypeVar("T")


class _Call:
    """A query that can be ended from another thread while it runs, and not a moment longer."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_over = False

    @contextmanager
    def on(self, connection: sqlite3.Connection) -> Iterator[None]:
        """The query runs on this connection; raises sqlite3.Error when it was ended before."""
        with self._lock:
            if self._is_over:
                raise sqlite3.OperationalError("interrupted")
            self._connection = connection
            connection.set_progress_handler(self._check, _CHECK_EVERY)
        try:
            yield
        finally:
            with self._lock:
                self._connection = None
                connection.set_progress_handler(None, 0)

    def _check(self) -> bool:
        """Called by SQLite now and then: True ends the statement."""
        return self._is_over

    def interrupt(self) -> None:
        """End the query, now or when it begins."""
        with self._lock:
            self._is_over = True
            if self._connection is not None:
                self._connection.interrupt()


class ReaderPool:
    """Runs queries against one file. A connection is used by one query at a time and kept.

    Queries that may walk a whole table have threads of their own, so that short ones never wait
    for them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kalam-log-reader")
        self._scan_threads = ThreadPoolExecutor(
            _SCAN_THREADS, thread_name_prefix="kalam-log-scanner"
        )
        self._idle: list[sqlite3.Connection] = []

    async def run(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """What a short query answers; raises LogUnavailable when the file cannot be read."""
        return await self._run(self._threads, lambda connection: query(connection, *args, **kwargs))

    async def scan(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The same for a query that may take long."""
        return await self._run(
            self._scan_threads, lambda connection: query(connection, *args, **kwargs)
        )

    async def _run(
        self, threads: ThreadPoolExecutor, query: Callable[[sqlite3.Connection], T]
    ) -> T:
        call = _Call()

        def work() -> T:
            with self.connection() as connection, call.on(connection):
                return query(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except asyncio.CancelledError:
            call.interrupt()
            raise

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for the calling thread; raises LogUnavailable for what goes wrong on it."""
        connection: sqlite3.Connection | None = None
        try:
            connection = self._take()
            yield connection
        except sqlite3.Error as fault:
            # Not used again: what state it is in is anybody's guess.
            if connection is not None:
                connection.close()
                connection = None
            raise LogUnavailable(f"the log could not be read: {fault}") from fault
        finally:
            if connection is not None:
                self._idle.append(connection)

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return open_reader(self._path)

    async def close(self) -> None:
        """Wait for the queries under way, then close everything."""
        for threads in (self._threads, self._scan_threads):
            await asyncio.to_thread(threads.shutdown)
        for connection in self._idle:
            connection.close()
        self._idle.clear()
