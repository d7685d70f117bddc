"""The worker loop and the chunks, with a real log and sinks that can be full."""

import asyncio
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.eventlog import MemoryLog
from kalam_notify.fanout.notification import SHARED_NOTIFY_CHUNK_SIZE
from kalam_notify.model import Identity, Role, TableDef, TableId, UserId
from kalam_notify.sql import Filter
from kalam_notify.subscriptions.handle import SubscriptionState

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
NOTES = TableDef(TableId("app.notes"), "user", primary_key=("id",))
ALICE = Identity(UserId("alice"), Role.USER)


def rows_of(messages: list[dict[str, Any]]) -> list[Any]:
    return [row["id"] for m in messages if m["type"] == "change" for row in m["rows"]]


async def test_a_change_nobody_wants_is_not_even_encoded() -> None:
    async with world(MemoryLog(), [ORDERS, NOTES]) as it:
        connection = it.connect(ALICE)
        it.subscribe(connection, "n", "SELECT * FROM app.notes", None)
        await it.post(it.change(ORDERS, "insert", {"id": 1}))
        await it.post(it.change(NOTES, "insert", {"id": 1}, owner="bob"))
        await it.settle()
        assert it.stats.deliveries == 0
        assert rows_of(connection.heard()) == []


async def test_all_of_more_than_one_chunk_are_served() -> None:
    count = SHARED_NOTIFY_CHUNK_SIZE * 2 + 3
    async with world(MemoryLog(), [ORDERS]) as it:
        connections = [it.connect(ALICE) for _ in range(count)]
        for number, connection in enumerate(connections):
            it.subscribe(connection, f"s{number % 5}", "SELECT * FROM app.orders", None)
        await it.post(it.change(ORDERS, "insert", {"id": 7}))
        await it.settle()
        assert [rows_of(connection.heard()) for connection in connections] == [[7]] * count
        assert it.stats.deliveries == count


async def test_the_event_loop_has_turns_between_chunks() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    log = MemoryLog()
    await log.start()
    it = World(log, [ORDERS])
    log.declare([ORDERS])
    for _ in range(SHARED_NOTIFY_CHUNK_SIZE * 4):
        it.subscribe(it.connect(ALICE), "s", "SELECT * FROM app.orders", None)
    await it.post(it.change(ORDERS, "insert", {"id": 1}))
    changes = log.recent(0)
    assert changes is not None
    counting = asyncio.create_task(count_turns())
    await asyncio.sleep(0)
    before = turns
    await it.service.notify(changes)
    counting.cancel()
    await log.close()
    assert it.stats.deliveries == SHARED_NOTIFY_CHUNK_SIZE * 4
    assert turns - before == 3


async def test_a_full_sink_is_left_behind_and_fed_when_it_drains() -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        full, free = it.connect(ALICE, limit=100), it.connect(ALICE)
        for connection in (full, free):
            it.subscribe(connection, "s", "SELECT * FROM app.orders", None)
        full.is_stuck = True
        await it.post(it.change(ORDERS, "insert", {"id": 0}))
        # One message is always taken whole; it is the next one that finds the buffer full.
        await it.settle()
        for number in range(1, 50):
            await it.post(it.change(ORDERS, "insert", {"id": number}))
        async with asyncio.timeout(10):
            while full.subscriptions["s"].state is SubscriptionState.LIVE:
                await asyncio.sleep(0)
        handle = full.subscriptions["s"]
        assert handle.state is SubscriptionState.CATCHING_UP
        assert free.subscriptions["s"].state is SubscriptionState.LIVE
        assert full.waiting <= 200
        it.drain(full)
        await it.settle()
        assert rows_of(full.heard()) == rows_of(free.heard()) == list(range(50))


async def test_a_filter_that_raises_ends_its_subscribers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        bad, good = it.connect(ALICE), it.connect(ALICE)
        it.subscribe(bad, "b", "SELECT * FROM app.orders WHERE LENGTH(name) > v", None)
        it.subscribe(good, "g", "SELECT * FROM app.orders", None)
        _break(it, bad, monkeypatch)
        await it.post(it.change(ORDERS, "insert", {"id": 1, "name": "x", "v": 0}))
        await it.settle()
        errors = [m for m in bad.heard() if m["type"] == "error"]
        assert [(e["subscription_id"], e["code"]) for e in errors] == [("b", "SUBSCRIPTION_FAILED")]
        assert rows_of(good.heard()) == [1]
        assert it.stats.plans_disabled == 1
        assert bad.subscriptions == {}


def _break(it: World, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the index's evaluation of one subscription's filter raise."""
    broken = connection.subscriptions["b"].plan.node

    def matching(values: dict[str, Any]) -> list[object]:
        index.on_broken(broken, RuntimeError("in spite of all"))
        return [node for node in real(values) if node is not broken]

    plans = it.manager.plans(ORDERS.id, "")
    assert plans is not None
    index = plans.index
    real = index.matching
    monkeypatch.setattr(type(index), "matching", lambda self, values: matching(values))
    assert isinstance(broken.filter, Filter)


async def test_live_only_changes_begin_behind_the_ack() -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await it.post(it.change(ORDERS, "insert", {"id": 1}))
        # The fan-out has not seen the change yet; the ack stands behind it all the same.
        connection = it.connect(ALICE)
        it.subscribe(connection, "s", "SELECT * FROM app.orders", None)
        await it.post(it.change(ORDERS, "insert", {"id": 2}))
        await it.settle()
        ack, change = connection.heard()
        assert ack["batch_control"]["last_seq_id"] == 1
        assert rows_of([change]) == [2]
