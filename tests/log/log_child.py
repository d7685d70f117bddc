"""A process of its own that writes to a log: run by the tests that kill it or write beside it.

    python log_child.py write DIRECTORY NAME BATCHES [IDS]   appends until BATCHES are through
    python log_child.py fill DIRECTORY                       meets a full disk, and recovers

Prints one line of JSON for each thing that happened.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from log_kit import ORDERS, TABLES, event, page_of, put

from kalam_notify.errors import LogUnavailable
from kalam_notify.log import SqliteLog

BATCH = 20


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def opened(directory: str) -> SqliteLog:
    log = SqliteLog(Path(directory) / "kalam.db", trim_seconds=3600)
    log.declare(TABLES)
    await log.start()
    return log


async def write(directory: str, name: str, batches: str, ids: str = "") -> None:
    """Three producers; every batch holds keyed rows and one event that names it."""
    log = await opened(directory)

    async def producer(place: int) -> None:
        for n in range(int(batches)):
            batch = [put(f"{place}-{(n + j) % 50}", v=n) for j in range(BATCH - 1)]
            own = f"{ids}-{place}-{n}" if ids else None
            batch.append(event(by=f"{name}{place}", n=n, id=own))
            answer = await log.append(batch)
            say(by=f"{name}{place}", n=n, last_seq=answer.last_seq, duplicates=answer.duplicates)

    await asyncio.gather(*map(producer, range(3)))
    await log.close()


async def fill(directory: str) -> None:
    log = await opened(directory)
    await log.append([put(1, v="before")])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    stored = 1
    try:
        while True:
            answer = await log.append([event(pad="x" * 10_000), put(2, v=stored)])
            stored += answer.accepted
    except LogUnavailable as fault:
        say(fault=str(fault))
    say(stored=stored, last_seq=log.last_seq, held=await held(log))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    stored += (await log.append([event(pad="x" * 10_000), put(3, v="after")])).accepted
    say(stored=stored, last_seq=log.last_seq, held=await held(log))
    say(rows=[row.values["v"] for _, row in (await page_of(log, ORDERS)).rows])
    await log.close()


async def held(log: SqliteLog) -> int:
    span = await log.read(0, limit=1_000_000, max_bytes=1_000_000_000)
    return len(span.changes)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    asyncio.run(fill(*arguments) if verb == "fill" else write(*arguments))
