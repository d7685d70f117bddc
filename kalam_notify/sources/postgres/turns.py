"""Which node of a cluster follows: whoever has an advisory lock in the database.

    connect -> try the lock -> had: a word every two seconds, until it is let go of
                   ^   | another has it: a pause
                   '---'

PostgreSQL lets go of a lock whose connection ends: at once where the process dies, and when it has
said nothing for `idle_session_timeout` where it is frozen, or behind a network that is down. The
slot of a node that is frozen stays in use until its walsender has waited for `wal_sender_timeout`.

The lock saves nodes from being in each other's way. It is no proof that nobody else stores: of that
the log makes sure (`sources.marks`). Its name holds that of the cluster, so that another cluster
that is set up for the same slot by mistake does not stand by for ever, but says that it is in use.

It is tried again and again rather than waited for: a statement that waits holds a snapshot, and
keeps the database from vacuuming.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import psycopg

from kalam_notify.sources.postgres.connecting import Connection, connect, raised_as_unavailable

PAUSE_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 5.0

_HOLDER: Final[Mapping[str, str]] = {"idle_session_timeout": "10s"}

SENDER: Final[Mapping[str, str]] = {"wal_sender_timeout": "20s"}
"""Of a node's walsender. Not less: one that decodes a long transaction hears nothing meanwhile."""

_TRY = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"


class Turn:
    """The lock of one slot."""

    def __init__(self, url: str, name: str, slot: str) -> None:
        self._url = url
        self._name = name
        self._slot = slot

    @asynccontextmanager
    async def taken(self, cluster: str, on_wait: Callable[[], None]) -> AsyncIterator[None]:
        """See base.Source.alone."""
        async with raised_as_unavailable():
            connection = await connect(self._url, self._name, settings=_HOLDER)
        try:
            lock = f"kalam-notify {cluster} {self._slot}"
            while not await self._tries(connection, lock):
                on_wait()
                await asyncio.sleep(PAUSE_SECONDS)
            async with asyncio.TaskGroup() as tasks:
                keeper = tasks.create_task(_keep(connection), name=f"source {self._name} turn")
                try:
                    yield
                finally:
                    keeper.cancel()
        finally:
            with suppress(psycopg.Error, OSError):
                await connection.close()

    async def _tries(self, connection: Connection, lock: str) -> bool:
        async with raised_as_unavailable(), asyncio.timeout(ANSWER_SECONDS):
            row = await (await connection.execute(_TRY, (lock,))).fetchone()
        return bool(row and row[0])


async def _keep(connection: Connection) -> None:
    """Be heard of; raises SourceUnavailable when the lock is lost."""
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        async with raised_as_unavailable(), asyncio.timeout(ANSWER_SECONDS):
            await connection.execute("SELECT 1")
