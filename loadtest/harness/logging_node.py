"""One log in a process of its own, without server and sockets: what do its changes cost in CPU?

`python -m loadtest.harness.logging_node URL DIRECTORY` opens the log. It is told what to do by
lines, a word and a number, and tells one JSON line for each:

    start 0        open it, and wait until it is ready: seconds
    KIND 8000      append so many changes in posts of 100, 16 at a time: CPU microseconds of one
    latest 0       the newest seq
    reach SEQ      wait until this log has applied that seq: CPU microseconds since `lap`
    lap 0          begin to count
    received 0     bytes of another node's file that were copied

KIND is one of `events` (of a table without a key), `inserts` (new keys) or `updates` (of keys that
have been written before). CPU is that of the whole process, all its threads.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from kalam_notify.config import NatsSettings
from kalam_notify.log import EventLog, open_log
from kalam_notify.model import PostedChange, Row, TableDef, TableId
from loadtest.harness.rows import load_text, plain_shape
from loadtest.harness.waiting import until

BATCH = 100
AT_ONCE = 16
_PADDING = 92
EVENTS = TableDef(TableId("load.events"), "shared", primary_key=())
KEYED = TableDef(TableId("load.keyed"), "shared", primary_key=("id",))


class Node:
    """The log and how many rows it was given."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.made = 0
        self.keys = 0
        self._begun = 0.0
        self.answers: dict[str, Callable[[int], Awaitable[float]]] = {
            "start": self.start,
            "events": self.events,
            "inserts": self.inserts,
            "updates": self.updates,
            "latest": self.latest,
            "reach": self.reach,
            "lap": self.lap,
            "received": self.received,
        }

    async def start(self, _: int) -> float:
        begun = time.monotonic()
        await self.log.start()
        await until(self._is_ready, "the log is ready", 300)
        return time.monotonic() - begun

    async def _is_ready(self) -> bool:
        return self.log.why_not_ready() is None

    def _change(self, table: TableDef, key: int | None) -> PostedChange:
        self.made += 1
        row = Row(plain_shape(key or self.made, load_text(self.made, 0, _PADDING)).encode())
        return PostedChange(
            *(table.id, "", "insert", row, None), key=None if key is None else f"[{key}]"
        )

    async def events(self, count: int) -> float:
        return await self._append(count, lambda: self._change(EVENTS, None))

    async def inserts(self, count: int) -> float:
        def new() -> PostedChange:
            self.keys += 1
            return self._change(KEYED, self.keys)

        return await self._append(count, new)

    async def updates(self, count: int) -> float:
        return await self._append(
            count, lambda: self._change(KEYED, 1 + self.made * 7919 % self.keys)
        )

    async def _append(self, count: int, make: Callable[[], PostedChange]) -> float:
        posts = iter([[make() for _ in range(BATCH)] for _ in range(count // BATCH)])
        begun = time.process_time()

        async def post() -> None:
            for changes in posts:
                appended = await self.log.append(changes)
                assert appended.accepted == len(changes)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(post())
        return (time.process_time() - begun) * 1e6 / count

    async def latest(self, _: int) -> float:
        return float(await self.log.latest())

    async def lap(self, _: int) -> float:
        self._begun = time.process_time()
        return 0.0

    async def reach(self, seq: int) -> float:
        await self.log.wait_beyond(seq - 1)
        return (time.process_time() - self._begun) * 1e6

    async def received(self, _: int) -> float:
        return float(self.log.statistics().get("snapshot_bytes_received", 0))


async def serve(url: str, directory: str) -> None:
    # As a server's collector does.
    gc.set_threshold(50_000, 20, 1_000_000)
    settings = NatsSettings(replicas=1)
    log = open_log(url, Path(directory), nats=settings)
    log.declare((EVENTS, KEYED))
    node = Node(log)
    loop = asyncio.get_running_loop()
    try:
        while (line := (await loop.run_in_executor(None, sys.stdin.readline)).split()) and line != [
            "quit"
        ]:
            value = await node.answers[line[0]](int(line[1]))
            print(json.dumps({"event": line[0], "value": value}), flush=True)
    finally:
        await log.close()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
