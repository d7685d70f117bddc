"""Reading connections and the few threads that use them, off the event loop."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from kalam_notify.errors import LogUnavailable
from kalam_notify.eventlog.schema import open_reader

_THREADS = 4

P = ParamSpec("P")
T = TypeVar("T")


class ReaderPool:
    """Runs queries against one file. A connection is used by one query at a time and kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kalam-log-reader")
        self._idle: list[sqlite3.Connection] = []

    async def run(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """What the query answers; raises LogUnavailable when the file cannot be read."""

        def work() -> T:
            with self.connection() as connection:
                return query(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

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
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._idle:
            connection.close()
        self._idle.clear()
