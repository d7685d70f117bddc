"""A node's log in a process of its own, told what to do by JSON lines, answering in JSON lines.

    python remote_node.py URLS STREAM DIRECTORY

Each line is `{"id": n, "do": ..., ...}`; the answer repeats `id`. They may come in any order:

    append   rows, key   ->  accepted, duplicates, first_seq   or fault, the exception's name
    ready                ->  why: the reason why it is not, or null
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from kalam_notify.config import NatsSettings
from kalam_notify.errors import LogFault
from kalam_notify.log import Retention
from kalam_notify.log.nats.link import Link, NatsPlace
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.model import PostedChange, Row, TableDef, TableId

TABLE = TableDef(TableId("app.orders"), "shared", "public", ("id",))
# So short that a test sees the end of it.
SETTINGS = NatsSettings(append_timeout=4.0, stale_after=3.0)


def put(row: dict[str, Any]) -> PostedChange:
    return PostedChange(
        *(TABLE.id, "", "insert", Row(json.dumps(row).encode()), None), key=f"[{row['id']}]"
    )


async def answer(log: NatsLog, asked: dict[str, Any]) -> dict[str, Any]:
    if asked["do"] == "ready":
        return {"why": log.why_not_ready()}
    try:
        stored = await log.append([put(row) for row in asked["rows"]], asked["key"])
    except LogFault as fault:
        return {"fault": type(fault).__name__}
    names = ("accepted", "duplicates", "first_seq")
    return {name: getattr(stored, name) for name in names}


async def serve(urls: str, stream: str, directory: str) -> None:
    link = Link(NatsPlace(tuple(urls.split(",")), stream), replicas=3)
    log = NatsLog(
        Path(directory) / "node.db",
        link,
        retention=Retention(max_age=None, max_bytes=None),
        settings=SETTINGS,
    )
    log.declare([TABLE])
    await log.start()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def one(asked: dict[str, Any]) -> None:
        found = {"id": asked["id"], **await answer(log, asked)}
        print(json.dumps(found), flush=True)

    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            while line := await reader.readline():
                group.create_task(one(json.loads(line)))
    await log.close()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
