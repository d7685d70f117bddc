"""Equal first pages are read together, and show whoever asks what was acknowledged before."""

import asyncio
from typing import Any, ClassVar

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.errors import LogUnavailable
from kalam_notify.filters import Filter
from kalam_notify.log import MemoryLog, Page, PageRequest
from kalam_notify.model import ANONYMOUS, TableDef, TableId

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALL = "SELECT * FROM app.orders"


class CountingLog(MemoryLog):
    """Counts the pages that are read, and can be told to hold back their beginnings."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.running = 0
        self.most_at_once = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.has_begun = asyncio.Event()

    async def page(self, request: PageRequest) -> Page:
        self.begun += 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            page = await super().page(request)
            self.has_begun.set()
            await self.may_end.wait()
            return page
        finally:
            self.running -= 1

    def hold(self) -> None:
        self.may_end.clear()
        self.has_begun.clear()


def ids_in_batches(messages: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for m in messages if m["type"] == "initial_data_batch" for row in m["rows"]]


async def write(it: World, id: int) -> None:
    await it.post(it.change(ORDERS, "insert", {"id": id}))


def ask(it: World, sql: str = ALL) -> FakeConnection:
    connection = it.connect(ANONYMOUS)
    it.subscribe(connection, "s", sql, {})
    return connection


async def test_a_thousand_equal_subscribers_under_constant_writes_cost_two_reads() -> None:
    log = CountingLog()
    async with world(log, [ORDERS]) as it:
        await write(it, 0)
        log.hold()
        first = ask(it)
        await log.has_begun.wait()
        others = []
        for number in range(1, 1000):
            await write(it, number)
            others.append(ask(it))
        assert log.begun == 1
        log.may_end.set()
        await it.settle()
        assert log.begun == 2
        assert ids_in_batches(first.heard()) == [0]
        for number, connection in enumerate(others, start=1):
            assert set(range(number + 1)) <= set(ids_in_batches(connection.heard()))


async def test_one_read_at_a_time_for_each_query_however_many_come() -> None:
    log = CountingLog()
    async with world(log, [ORDERS]) as it:
        for number in range(200):
            await write(it, number)
            ask(it)
            await asyncio.sleep(0)
        await it.settle()
        assert log.most_at_once == 1


async def test_different_queries_do_not_wait_for_each_other() -> None:
    log = CountingLog()
    async with world(log, [ORDERS]) as it:
        await write(it, 1)
        log.hold()
        ask(it)
        await log.has_begun.wait()
        log.has_begun.clear()
        ask(it, "SELECT id FROM app.orders WHERE id = 1")
        await log.has_begun.wait()
        assert log.most_at_once == 2
        log.may_end.set()
        await it.settle()


async def test_a_page_is_good_for_as_long_as_the_log_has_not_moved() -> None:
    log = CountingLog()
    async with world(log, [ORDERS]) as it:
        await write(it, 1)
        for _ in range(3):
            ask(it)
            await it.settle()
        assert log.begun == 1
        await write(it, 2)
        later = ask(it)
        await it.settle()
        assert log.begun == 2
        assert ids_in_batches(later.heard()) == [1, 2]


class Failing(CountingLog):
    """Fails as often as it is told to."""

    faults: ClassVar[list[Exception]] = []

    async def page(self, request: PageRequest) -> Page:
        page = await super().page(request)
        if self.faults:
            raise self.faults.pop()
        return page


async def test_a_read_that_failed_ends_that_connection_and_the_next_one_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Failing()
    monkeypatch.setattr(log, "faults", [ValueError("nobody expected this")])
    async with world(log, [ORDERS]) as it:
        await write(it, 1)
        failed = ask(it)
        async with asyncio.timeout(10):
            while failed.ended_with is None:
                await asyncio.sleep(0)
        assert failed.ended_with.code == 1011
        it.requests.disconnect(failed)
        served = ask(it)
        await it.settle()
        assert ids_in_batches(served.heard()) == [1]


async def test_a_log_that_cannot_be_read_for_a_while_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Failing()
    monkeypatch.setattr(log, "faults", [LogUnavailable("EMFILE"), LogUnavailable("EIO")])
    async with world(log, [ORDERS]) as it:
        await write(it, 1)
        waited = ask(it)
        async with asyncio.timeout(10):
            while it.feeder.faults.reason is None:
                await asyncio.sleep(0)
        await it.settle()
        assert it.feeder.faults.reason is None
        assert ids_in_batches(waited.heard()) == [1]
        assert waited.ended_with is None


async def test_a_filter_that_raises_in_a_snapshot_ends_its_subscribers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 1)
        bad, other = ask(it, f"{ALL} WHERE v + 1 = 2"), ask(it)

        def fail(self: Filter, values: dict[str, Any]) -> bool:
            raise RuntimeError("in spite of all")

        monkeypatch.setattr(Filter, "matches", fail)
        await it.settle()
        assert [m["code"] for m in bad.heard()] == ["SUBSCRIPTION_FAILED"]
        assert bad.ended_with is None
        assert ids_in_batches(other.heard()) == [1]
        served = ask(it)
        await it.settle()
        assert ids_in_batches(served.heard()) == [1]
