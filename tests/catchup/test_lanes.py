"""Feeding those who are behind: together, fairly, until level, and no longer than wanted."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.budget import at_once
from kalam_notify.catchup.cohorts import Cohort
from kalam_notify.catchup.lanes import Lane, LaneKey
from kalam_notify.errors import LogUnavailable
from kalam_notify.filters import Query, bind
from kalam_notify.log import MemoryLog, Page, PageRequest
from kalam_notify.model import Change, Identity, Owner, Role, TableDef, TableId, UserId
from kalam_notify.sql import Limits, parse
from kalam_notify.store.base import Span
from kalam_notify.subscriptions import routing
from kalam_notify.subscriptions.plans import Counts, SubscriptionState, TablePlans

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALL = "SELECT * FROM app.orders"


def user(name: str) -> Identity:
    return Identity(UserId(name), Role.USER)


class FileLike(MemoryLog):
    """Holds nothing at hand: whoever is behind has to read. Counts, fails and delays as told."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.faults: list[Exception] = []
        self.holds_recent = False

    def recent(self, after: int, limit: int | None = None) -> Sequence[Change] | None:
        found = super().recent(after, limit)
        # The fan-out itself is never far behind.
        return found if self.holds_recent or limit is None or not found else None

    async def read(
        self,
        after: int,
        *,
        limit: int,
        max_bytes: int,
        table: TableId | None = None,
        owner: Owner | None = None,
    ) -> Span:
        self.reads += 1
        if self.faults:
            raise self.faults.pop()
        await asyncio.sleep(0)
        return await super().read(after, limit=limit, max_bytes=max_bytes, table=table, owner=owner)

    async def page(self, request: PageRequest) -> Page:
        return await super().page(request)


async def write(it: World, count: int, first: int = 0) -> None:
    rows = ({"id": id, "tenant": id % 50, "pad": "x" * 100} for id in range(first, first + count))
    await it.post(*[it.change(ORDERS, "insert", row) for row in rows])


def resume(it: World, name: str, where: str, after: int = 0, **options: Any) -> FakeConnection:
    connection = it.connect(user(name))
    it.subscribe(connection, "s", f"{ALL} {where}", {"from": after, **options})
    return connection


def ids(connection: FakeConnection) -> list[int]:
    return [
        row["id"]
        for message in connection.heard()
        if message["type"] == "change"
        for row in message["rows"]
    ]


async def test_all_who_stand_at_one_position_are_fed_by_one_reading() -> None:
    log = FileLike()
    async with world(log, [ORDERS]) as it:
        await write(it, 3000)
        await it.settle()
        returned = [resume(it, f"u{n}", f"WHERE tenant = {n}") for n in range(50)]
        await it.settle()
        assert log.reads <= 2 * (3000 // 1000 + 1)
        for number, connection in enumerate(returned):
            assert ids(connection) == list(range(number, 3000, 50))


async def test_who_comes_later_meets_those_who_came_before() -> None:
    log = FileLike()
    async with world(log, [ORDERS]) as it:
        await write(it, 5000)
        await it.settle()
        returned = []
        for number in range(40):
            returned.append(resume(it, f"u{number}", f"WHERE tenant = {number}", number * 7))
            await asyncio.sleep(0)
        await it.settle()
        for number, connection in enumerate(returned):
            first = number * 7
            assert ids(connection) == [id for id in range(first, 5000) if id % 50 == number]
        assert log.reads < 40 * 3


async def test_one_whose_socket_is_full_leaves_the_others_and_comes_back() -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 4000)
        await it.settle()
        full, free = resume(it, "full", ""), resume(it, "free", "")
        full.is_stuck = True
        async with asyncio.timeout(20):
            while free.subscriptions["s"].state is not SubscriptionState.LIVE:
                await asyncio.sleep(0)
        assert full.subscriptions["s"].state is SubscriptionState.CATCHING_UP
        assert full.subscriptions["s"].undertaking is None
        for _ in range(4000):
            it.drain(full)
            if full.subscriptions["s"].state is SubscriptionState.LIVE:
                break
            await asyncio.sleep(0)
        await it.settle()
        assert ids(full) == ids(free) == list(range(4000))


@pytest.mark.parametrize("fault", [LogUnavailable("EMFILE"), LogUnavailable("EIO")])
async def test_a_log_that_cannot_be_read_is_waited_for_and_told_of(fault: Exception) -> None:
    log = FileLike()
    async with world(log, [ORDERS]) as it:
        await write(it, 100)
        await it.settle()
        log.faults = [fault, fault]
        returned = resume(it, "alice", "")
        async with asyncio.timeout(10):
            while it.feeder.faults.reason is None:
                await asyncio.sleep(0)
        await it.settle()
        assert it.feeder.faults.reason is None
        assert returned.ended_with is None
        assert ids(returned) == list(range(100))


async def test_an_unexpected_fault_of_a_sink_ends_that_connection_only() -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 100)
        await it.settle()
        good, bad = resume(it, "good", "WHERE tenant = 1"), it.connect(user("bad"))
        it.subscribe(bad, "s", f"{ALL} WHERE tenant = 1", {"from": 0})

        def offer(frames: bytes) -> bool:
            raise RuntimeError("broken")

        bad.offer = offer  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            while bad.ended_with is None:
                await asyncio.sleep(0)
        assert bad.ended_with.code == 1011
        it.requests.disconnect(bad)
        await it.settle()
        assert ids(good) == [1, 51]
        assert it.stats.plans_disabled == 0


@pytest.mark.parametrize("options", [{"from": 0}, {}, {"last_rows": 10}])
async def test_nothing_is_done_for_a_client_that_has_gone(options: dict[str, Any]) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 20_000)
        await it.settle()
        gone = [it.connect(user("greedy")) for _ in range(20)]
        for number, connection in enumerate(gone):
            where = f"WHERE pad LIKE '%{number}%' AND id + {number} < 0"
            it.subscribe(connection, "s", f"{ALL} {where}", options)
        for _ in range(20):
            await asyncio.sleep(0)
        for connection in gone:
            it.requests.disconnect(connection)
        # A thread may still have a chunk in hand; nothing follows on it.
        async with asyncio.timeout(10):
            while it.feeder._tasks:
                await asyncio.sleep(0)
        assert it.budget._scheduler.waiting == 0
        evaluations = it.manager.filter_evaluations
        await asyncio.sleep(0.01)
        assert it.manager.filter_evaluations == evaluations


async def test_what_was_decoded_for_those_behind_is_forgotten() -> None:
    log = MemoryLog()
    async with world(log, [ORDERS]) as it:
        await write(it, 1000)
        await it.settle()
        resume(it, "alice", "WHERE tenant = -1")
        await it.settle()
        held = log.recent(0) or ()
        assert [c for c in held if c.row is not None and c.row._values is not None] == []


@pytest.mark.parametrize(("ends_at", "upto"), [(280, None), (285, 285), (296, 296), (300, 296)])
def test_memory_that_ends_before_the_position_tells_nothing_of_what_lies_between(
    ends_at: int, upto: int | None
) -> None:
    """The fan-out reads from the file what memory could not hold, and is ahead of it then."""
    log = SimpleNamespace(last_seq=ends_at, recent=lambda after, limit: ())
    around = SimpleNamespace(log=log, position=lambda: 296, is_quiet=lambda *_: False)
    lane = Lane(around, LaneKey(ORDERS.id, "", None))  # type: ignore[arg-type]
    span = lane._recent(Cohort(280))
    assert (None if span is None else span.upto) == upto


class TestDemoted:
    """Plans that cost more than their share of the fan-out's time."""

    @pytest.fixture(autouse=True)
    def small_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(routing, "SHARE", 2e-5)

    async def test_a_dear_filter_is_fed_behind_the_others_and_told_of(self) -> None:
        async with world(MemoryLog(), [ORDERS]) as it:
            dear, cheap = it.connect(user("dear")), it.connect(user("cheap"))
            where = "WHERE " + " OR ".join(f"pad LIKE '%{n}%'" for n in range(40)) + " OR id >= 0"
            it.subscribe(dear, "s", f"{ALL} {where}", {})
            it.subscribe(cheap, "s", ALL, {})
            await it.settle()
            await write(it, 300)
            await it.settle()
            assert it.manager.counts.demoted == 1
            handle = dear.subscriptions["s"]
            assert handle.state is SubscriptionState.CATCHING_UP
            assert it.feeder.is_at_head(handle)
            assert ids(dear) == ids(cheap) == list(range(300))
            assert at_once(it.requests.explain(f"{ALL} {where}", user("x")))[1]["demoted"] is True
            assert at_once(it.requests.explain(ALL, user("x")))[1]["demoted"] is False
            it.requests.disconnect(dear)
            assert it.manager.counts.demoted == 0

    async def test_a_filter_that_one_huge_row_made_dear_is_asked_again_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with world(MemoryLog(), [ORDERS]) as it:
            client = it.connect(user("modest"))
            it.subscribe(client, "s", f"{ALL} WHERE pad LIKE '%a_b%' OR id >= 0", {})
            await it.settle()
            handle = client.subscriptions["s"]
            await it.post(it.change(ORDERS, "insert", {"id": 0, "pad": "a" * 400_000}))
            await it.settle()
            assert it.manager.counts.demoted == 1
            assert it.manager.promotion_due > 0
            await write(it, 3, 1)
            await it.settle()
            assert handle.state is SubscriptionState.CATCHING_UP
            # As if the time had passed.
            monkeypatch.setattr(it.service, "_clock", lambda: it.manager.promotion_due + 1)
            await write(it, 3, 4)
            await it.settle()
            monkeypatch.undo()
            assert it.manager.counts.demoted == 0
            assert handle.state is SubscriptionState.LIVE
            await write(it, 3, 7)
            await it.settle()
            assert ids(client) == list(range(10))
            assert at_once(it.requests.explain(ALL, user("x")))[1]["demoted"] is False

    async def test_each_demotion_waits_twice_as_long(self) -> None:
        plans = TablePlans("", Counts())
        node = plans.acquire(query("pad LIKE '%x%'")).node
        shares = plans.shares
        waits = []
        for _ in range(8):
            assert shares.demote(node, 100.0)
            assert not shares.demote(node, 100.0)
            due = shares.demoted[node]
            waits.append(due - 100.0)
            assert shares.promote(due - 0.001) == []
            assert shares.promote(due) == [node]
        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]

    async def test_many_filters_that_add_up_are_demoted_until_the_rest_fit(self) -> None:
        async with world(MemoryLog(), [ORDERS]) as it:
            clients = []
            for number in range(200):
                client = it.connect(user(f"u{number}"))
                it.subscribe(client, "s", f"{ALL} WHERE id + {number} >= {number}", {})
                clients.append(client)
            await it.settle()
            assert it.manager.counts.demoted == 0
            for start in range(0, 400, 10):
                await write(it, 10, start)
                await it.settle()
            assert 0 < it.manager.counts.demoted < 200
            for client in clients:
                assert ids(client) == list(range(400))

    async def test_whose_filters_cost_most_gives_way_first(self) -> None:
        """A thousand cheap filters of one user do not push out the one of another."""
        plans = [Cost("many", 1.0) for _ in range(30)] + [Cost("one", 3.0)]
        costs = {plan: plan.cost * 1e-6 for plan in plans}
        demoted = routing._dearest(costs)  # type: ignore[arg-type]
        assert {plan.payer for plan in demoted} == {"many"}  # type: ignore[attr-defined]
        assert sum(costs.values()) - sum(costs[plan] for plan in demoted) <= routing.SHARE / 2  # type: ignore[index]


def query(condition: str) -> Query:
    return bind(parse(f"{ALL} WHERE {condition}", Limits()), ORDERS, user("x"))


class Cost:
    """A filter as the choice of whom to demote sees it."""

    def __init__(self, payer: str, cost: float) -> None:
        self.payer = payer
        self.cost = cost
