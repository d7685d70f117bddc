"""The worker loop and the chunks, with a real log and sinks that can be full."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.delivery import service as service_module
from kalam_notify.delivery.batch import MAX_BATCH_BYTES, MAX_BATCH_SECONDS
from kalam_notify.delivery.service import SHARED_NOTIFY_CHUNK_SIZE, NotificationService
from kalam_notify.errors import LogUnavailable
from kalam_notify.filters import Filter
from kalam_notify.log import MemoryLog
from kalam_notify.model import Change, Identity, Role, TableDef, TableId, UserId
from kalam_notify.store.base import Span
from kalam_notify.subscriptions.plans import SubscriptionState

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
    crowd = SHARED_NOTIFY_CHUNK_SIZE * 2 + 3
    async with world(MemoryLog(), [ORDERS]) as it:
        connections = [it.connect(ALICE) for _ in range(crowd)]
        for number, connection in enumerate(connections):
            it.subscribe(connection, f"s{number % 5}", "SELECT * FROM app.orders", None)
        await it.post(it.change(ORDERS, "insert", {"id": 7}))
        await it.settle()
        assert [rows_of(connection.heard()) for connection in connections] == [[7]] * crowd
        assert it.stats.deliveries == crowd


@asynccontextmanager
async def standing_world(subscribers: int) -> AsyncIterator[World]:
    """A world whose fan-out moves only when it is told to."""
    log = MemoryLog()
    await log.start()
    log.declare([ORDERS])
    it = World(log, [ORDERS])
    for _ in range(subscribers):
        it.subscribe(it.connect(ALICE), "s", "SELECT * FROM app.orders", None)
    yield it
    await log.close()


async def turns_of(notifying: Coroutine[Any, Any, None]) -> int:
    """How often the loop turns until it is over."""
    task, turns = asyncio.create_task(notifying), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    return turns


def waiting(it: World) -> Sequence[Change]:
    changes = it.log.recent(it.service.position)
    assert changes is not None
    return changes


async def test_the_event_loop_has_turns_between_chunks() -> None:
    async with standing_world(SHARED_NOTIFY_CHUNK_SIZE * 4) as it:
        await it.post(it.change(ORDERS, "insert", {"id": 1}))
        assert await turns_of(it.service.notify(waiting(it))) >= 2 * 3
        assert it.stats.deliveries == SHARED_NOTIFY_CHUNK_SIZE * 4


async def test_the_event_loop_has_turns_between_batches_of_few_subscribers() -> None:
    async with standing_world(1) as it:
        rows = [{"id": number, "text": "x" * 1000} for number in range(2000)]
        await it.post(*(it.change(ORDERS, "insert", row) for row in rows))
        batches = 2000 * 1000 // MAX_BATCH_BYTES
        # What takes a batch's time, by this clock: routing and encoding a change.
        ticks = count()
        it.service = NotificationService(
            it.log, it.manager, it.stats, clock=lambda: next(ticks) * MAX_BATCH_SECONDS / 10
        )
        it.service.position = 0
        assert await turns_of(it.service.notify(waiting(it))) > batches
        assert it.stats.deliveries == 2000


async def test_what_is_stored_during_a_walk_sets_out_from_where_it_is() -> None:
    async with standing_world(SHARED_NOTIFY_CHUNK_SIZE * 4) as it:
        writes: list[int] = []
        connections = list(it.manager.connections.values())
        await it.post(it.change(ORDERS, "insert", {"id": 1}))
        walk = asyncio.create_task(it.service.notify(waiting(it)))
        while not it.stats.deliveries:
            await asyncio.sleep(0)
        # The first chunk has been served, and the walk lets the loop turn.
        await it.post(it.change(ORDERS, "insert", {"id": 2}))
        await walk
        assert it.service.position == it.log.last_seq == 2
        for connection in connections:
            assert isinstance(connection, FakeConnection)
            writes.append(connection.writes - 1)  # the acknowledgement
            assert rows_of(connection.heard()) == [1, 2]
        behind = writes.count(2)
        assert behind % SHARED_NOTIFY_CHUNK_SIZE == 0
        assert 0 < behind < len(writes)
        assert writes == [2] * behind + [1] * (len(writes) - behind)


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
        ack, batch, change = connection.heard()
        assert batch["batch_control"] == ack["batch_control"]
        assert ack["batch_control"]["last_seq_id"] == 1
        assert rows_of([change]) == [2]


async def test_shared_tables_that_are_never_quiet_keep_no_user_table_waiting() -> None:
    prices = TableDef(TableId("app.prices"), "shared", "public", ("id",))
    async with world(MemoryLog(), [ORDERS, NOTES, prices]) as it:
        # Whichever shared table is served, what it leaves of the chunk is too little for the notes.
        noted = [it.connect(ALICE) for _ in range(100)]
        for table, crowd in ((ORDERS, 200), (prices, 40)):
            for _ in range(crowd):
                it.subscribe(it.connect(ALICE), "s", f"SELECT * FROM {table.id}", None)
        for connection in noted:
            it.subscribe(connection, "n", "SELECT * FROM app.notes", None)
        await it.settle()
        # No turn because of the time it took.
        it.service._clock = lambda: 0.0
        await it.post(
            it.change(ORDERS, "insert", {"id": 1}),
            it.change(NOTES, "insert", {"id": 7}, owner="alice"),
        )
        for number in range(100):
            await asyncio.sleep(0)
            await it.post(it.change(prices, "insert", {"id": number}))
        assert [rows_of(connection.heard()) for connection in noted] == [[7]] * 100


class FailingLog(MemoryLog):
    """A log whose reads fail for a while, as with too many open files or a failing disk."""

    failures = 0

    def recent(self, after: int) -> Sequence[Change] | None:
        return None if self.failures else super().recent(after)

    async def read(self, after: int, **bounds: Any) -> Span:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("too many open files")
        return await super().read(after, **bounds)


async def test_a_log_that_cannot_be_read_for_a_while_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "_FIRST_PAUSE", 0.0)
    log = FailingLog()
    async with world(log, [ORDERS]) as it:
        connection = it.connect(ALICE)
        it.subscribe(connection, "s", "SELECT * FROM app.orders", None)
        log.failures = 3
        await it.post(it.change(ORDERS, "insert", {"id": 7}))
        await it.settle()
        assert log.failures == 0
        assert it.service.fault is None
        assert rows_of(connection.heard()) == [7]
        assert connection.ended_with is None
