"""Posts changes to `/v1/changes` and knows what it has posted."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence

from loadtest.harness.faults import DeliveryFault, LoadTestFault
from loadtest.harness.http import HttpConnection
from loadtest.harness.rows import RowMaker


class Producer:
    """Rows posted over one or several connections, each of which waits for its answers.

    They go to one table, or to several in turn.
    """

    def __init__(
        self, base: str, token: str, tables: Sequence[str], rows: RowMaker, connections: int = 1
    ) -> None:
        self.connections = connections
        self._connections = [HttpConnection(base) for _ in range(connections)]
        self._token = token
        self._heads = [
            f'{{"table":"{table}","change_type":"insert","row_data":' for table in tables
        ]
        self.rows = rows
        self.last_seq = 0

    async def post(self, count: int, connection: int = 0) -> None:
        """Post the next `count` rows in one batch and wait until they are accepted."""
        batch = [self._change() for _ in range(count)]
        body = batch[0] if count == 1 else f"[{','.join(batch)}]"
        status, answer = await self._connections[connection].request(
            "POST", "/v1/changes", self._token, body.encode()
        )
        if status != 200:
            raise LoadTestFault(f"a post was answered {status}: {answer[:300].decode()}")
        told = json.loads(answer)
        if told["accepted"] != count:
            raise DeliveryFault(f"{count} changes posted, the answer was {answer.decode()}")
        self.last_seq = max(self.last_seq, told["last_seq"])

    def _change(self) -> str:
        head = self._heads[self.rows.made % len(self._heads)]
        return f"{head}{self.rows.row()}}}"

    async def post_many(self, batches: int, size: int) -> None:
        """Post so many batches as fast as they are accepted, over all connections."""
        remaining = iter(range(batches))
        await self._all(lambda: next(remaining, None) is not None, size)

    async def post_for(self, seconds: float, size: int) -> None:
        """Post batches as fast as they are accepted until the time is over."""
        until = time.monotonic() + seconds
        await self._all(lambda: time.monotonic() < until, size)

    async def _all(self, more: Callable[[], bool], size: int) -> None:
        async def keep_posting(connection: int) -> None:
            while more():
                await self.post(size, connection)

        async with asyncio.TaskGroup() as group:
            for connection in range(self.connections):
                group.create_task(keep_posting(connection))

    async def post_at(self, rate: float, seconds: float) -> float:
        """Single posts at a fixed rate, whether or not the one before has been answered.

        Returns the greatest lateness of a post in seconds: how far the producer itself fell
        behind because all its connections were waiting.
        """
        begun, late = time.monotonic(), 0.0
        free: asyncio.Queue[int] = asyncio.Queue()
        for connection in range(self.connections):
            free.put_nowait(connection)

        async def one(connection: int) -> None:
            await self.post(1, connection)
            free.put_nowait(connection)

        async with asyncio.TaskGroup() as group:
            for n in range(max(1, round(rate * seconds))):
                due = begun + n / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                connection = await free.get()
                late = max(late, time.monotonic() - due)
                group.create_task(one(connection))
        return late

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
