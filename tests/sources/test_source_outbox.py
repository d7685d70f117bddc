"""The outbox by itself: order, batches, back-pressure, a log that refuses for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kalam_notify.errors import LogUnavailable
from kalam_notify.log import MemoryLog
from kalam_notify.model import PostedChange, Row, TableDef, TableId
from kalam_notify.sources import outbox as module
from kalam_notify.sources.base import Piece
from kalam_notify.sources.outbox import MOST_CHANGES, Outbox

TABLE = TableDef(TableId("public.t"), "shared", primary_key=("id",))


def piece(first: int, count: int = 1) -> Piece:
    changes = [
        PostedChange(TABLE.id, "", "insert", Row(b'{"id":%d}' % n), None, f"[{n}]")
        for n in range(first, first + count)
    ]
    return Piece(changes, str(first + count - 1), 0.0)


class Stage:
    def __init__(self) -> None:
        self.log = MemoryLog()
        self.log.declare([TABLE])
        self.stored: list[str] = []
        self.counts: list[int] = []
        self.outbox = Outbox(
            "shop", self.log, self.stored.append, lambda table, count: self.counts.append(count)
        )


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.log.start()
    yield stage
    await stage.log.close()


async def test_what_waits_together_is_stored_together_with_the_last_position() -> None:
    async with staged() as stage:
        for n in range(1, 6):
            await stage.outbox.put(piece(n))
        task = asyncio.create_task(stage.outbox.run())
        await stage.outbox.flush()
        task.cancel()
        assert (stage.stored, stage.counts) == (["5"], [5])
        assert (await stage.log.sources())["shop"].position == "5"


async def test_a_batch_ends_with_a_whole_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_CHANGES", 10)
    async with staged() as stage:
        for n in range(0, 30, 6):
            await stage.outbox.put(piece(n, 6))
        await stage.outbox.put(piece(100, 25))
        task = asyncio.create_task(stage.outbox.run())
        await stage.outbox.flush()
        task.cancel()
        assert stage.counts == [6, 6, 6, 6, 6, 25]


async def test_who_puts_too_much_waits() -> None:
    async with staged() as stage:
        await stage.outbox.put(piece(0, MOST_CHANGES))
        waiting = asyncio.create_task(stage.outbox.put(piece(10**6)))
        await asyncio.sleep(0)
        assert not waiting.done()
        task = asyncio.create_task(stage.outbox.run())
        await waiting
        await stage.outbox.flush()
        task.cancel()
        assert sum(stage.counts) == MOST_CHANGES + 1


async def test_a_log_that_refuses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    async with staged() as stage:
        append, refusals = stage.log.append, iter(range(3))

        async def refusing(*arguments: object, **named: object) -> object:
            if next(refusals, None) is not None:
                raise LogUnavailable("full")
            return await append(*arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(stage.log, "append", refusing)
        await stage.outbox.put(piece(1))
        task = asyncio.create_task(stage.outbox.run())
        await stage.outbox.flush()
        task.cancel()
        assert (stage.stored, stage.log.last_seq) == (["1"], 1)
