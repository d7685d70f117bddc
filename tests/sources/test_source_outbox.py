"""The outbox by itself: order, batches, back-pressure, a log that refuses for a while."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from kalam_notify.errors import LogUnavailable, OutcomeUnknown, SourceOvertaken
from kalam_notify.log import Appended, MemoryLog
from kalam_notify.model import PostedChange, Row, TableDef, TableId
from kalam_notify.model.sourced import SourceMark
from kalam_notify.sources import outbox as module
from kalam_notify.sources.base import Piece, size_of
from kalam_notify.sources.marks import Marks
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


class SharedLog(MemoryLog):
    """A log that others tell of the source, too; it takes marks as nodes of a cluster do."""

    last = ""
    fault: Exception | None = None
    largest: int | None = None

    @property
    def largest_batch(self) -> int | None:
        return self.largest

    async def append(
        self,
        batch: Sequence[PostedChange],
        batch_key: str | None = None,
        mark: SourceMark | None = None,
    ) -> Appended:
        assert mark is not None
        if self.fault is not None:
            raise self.fault
        if mark.follows != self.last:
            raise SourceOvertaken("somebody else was first")
        self.last = mark.id or ""
        return await super().append(batch, batch_key, mark)


@asynccontextmanager
async def shared() -> AsyncIterator[tuple[SharedLog, Outbox, list[str]]]:
    log, stored = SharedLog(), list[str]()
    log.declare([TABLE])
    await log.start()
    yield log, Outbox("shop", log, stored.append, lambda table, count: None, Marks("")), stored
    await log.close()


async def test_each_batch_follows_on_the_one_before_it() -> None:
    async with shared() as (log, outbox, stored):
        for n in range(1, 4):
            await outbox.store(piece(n).changes, SourceMark("shop", str(n)))
        assert (stored, log.last_seq) == (["1", "2", "3"], 3)


async def test_whoever_was_overtaken_stores_no_more_and_confirms_nothing() -> None:
    async with shared() as (log, outbox, stored):
        await outbox.store(piece(1).changes, SourceMark("shop", "1"))
        log.last = "of somebody else"
        await outbox.put(piece(2))
        with pytest.raises(SourceOvertaken):
            await outbox.run()
        assert (stored, log.last_seq) == (["1"], 1)


@pytest.mark.parametrize("fault", [LogUnavailable("away"), OutcomeUnknown("perhaps")])
async def test_where_others_may_go_on_nothing_is_tried_twice(fault: Exception) -> None:
    """What became of it is in the log, where whoever goes on begins."""
    async with shared() as (log, outbox, stored):
        log.fault = fault
        with pytest.raises(LogUnavailable):
            await outbox.store(piece(1).changes, SourceMark("shop", "1"))
        assert (stored, log.last_seq) == ([], 0)


async def test_pieces_that_are_too_large_together_are_stored_one_after_the_other() -> None:
    async with shared() as (log, outbox, stored):
        log.largest = 3 * size_of(piece(1).changes[0])
        for n in range(1, 8):
            await outbox.put(piece(n))
        task = asyncio.create_task(outbox.run())
        await outbox.flush()
        task.cancel()
        assert (stored, log.last_seq) == (["3", "6", "7"], 7)
