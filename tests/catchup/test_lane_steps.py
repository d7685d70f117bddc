"""A lane step by step: whoever comes, goes or fills up between any two steps, nobody is lost."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.budget import Steps, Work
from kalam_notify.catchup import lanes
from kalam_notify.log import MemoryLog
from kalam_notify.model import Identity, Role, TableDef, TableId, UserId
from kalam_notify.subscriptions.plans import SubscriptionState

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALL = "SELECT * FROM app.orders"

MOVES = "crrrllpkd" + 20 * "s"
"""Connect, resume, leave, post, fill up, drain, step."""


class ByHand:
    """A budget whose works are stepped by the test; the first step is done at once or not."""

    def __init__(self) -> None:
        self.works: list[Work[Any]] = []
        self.at_once = 0

    def enter(
        self,
        steps: Steps[Any],
        owner: Hashable,
        lane: Hashable = None,
        done: Callable[[Work[Any]], None] | None = None,
    ) -> Work[Any]:
        work = Work(steps, done)
        self.works.append(work)
        for _ in range(self.at_once):
            if work.is_over or not work._step():
                break
        return work

    def step(self, choose: random.Random) -> bool:
        """One step of any work; False: there is none."""
        self.works = [work for work in self.works if not work.is_over]
        if self.works:
            choose.choice(self.works)._step()
        return bool(self.works)


class Stepped:
    """A world in which nothing happens by itself."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.budget = ByHand()
        it.feeder.budget = self.budget  # type: ignore[assignment]
        self.connections: list[FakeConnection] = []
        self._names = 0
        self._next = 0

    def connect(self) -> FakeConnection:
        self._names += 1
        connection = self.it.connect(Identity(UserId(f"u{self._names}"), Role.USER), 2000)
        self.connections.append(connection)
        return connection

    def resume(self, connection: FakeConnection, after: int, group: int | None = None) -> str:
        self._names += 1
        name, where = f"s{self._names}", "" if group is None else f"WHERE g = {group}"
        self.it.subscribe(connection, name, f"{ALL} {where}", {"from": after})
        return name

    def leave(self, connection: FakeConnection) -> None:
        self.connections.remove(connection)
        self.it.manager.disconnect(connection.connection_id)

    async def post(self, count: int) -> None:
        first, self._next = self._next, self._next + count
        rows = ({"id": number, "g": number % 3} for number in range(first, first + count))
        await self.it.post(*[self.it.change(ORDERS, "insert", row) for row in rows])
        while self.it.service.position < self.it.log.last_seq or self.it.service.under_way:
            await asyncio.sleep(0)

    async def finish(self, choose: random.Random) -> None:
        """Take everything, do everything."""
        for _ in range(20_000):
            for connection in self.connections:
                self.it.drain(connection)
            if not self.budget.step(choose):
                break
        await asyncio.sleep(0)


@pytest.fixture
async def stepped() -> AsyncIterator[Stepped]:
    async with world(MemoryLog(), [ORDERS]) as it:
        yield Stepped(it)


async def test_who_is_moved_while_all_others_leave_is_fed(stepped: Stepped) -> None:
    """The larger cohort takes the place of the smaller, whose members move one by one."""
    it, works = stepped.it, stepped.budget
    await stepped.post(20)
    goer, stayer = stepped.connect(), stepped.connect()
    stepped.resume(goer, 5)
    stepped.resume(stayer, 5)
    for _ in range(4):
        stepped.resume(goer, 2)
    (lane,) = it.feeder._lanes.values()
    (mine,) = stayer.subscriptions.values()
    first = mine.undertaking
    for _ in range(1000):
        (moved, *_) = goer.subscriptions.values()
        if moved.undertaking is not first and mine.undertaking is first and len(lane._standing) < 2:
            break
        works.step(random.Random(1))
    else:
        raise AssertionError("the cohorts did not meet")
    stepped.leave(goer)
    await stepped.finish(random.Random(1))
    assert mine.state is SubscriptionState.LIVE
    assert _ids(stayer) == [*range(5, 20)]


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_between_steps_everybody_gets_all(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(lanes, "_ROUND", 8)
    monkeypatch.setattr(lanes, "_SPAN_CHANGES", 8)
    choose, it = random.Random(seed), stepped.it
    stepped.budget.at_once = seed % 3
    await stepped.post(40)
    begun: dict[tuple[FakeConnection, str], tuple[int, int | None]] = {}
    for _ in range(600):
        match choose.choice(MOVES):
            case "c" if len(stepped.connections) < 3:
                stepped.connect()
            case "r" if stepped.connections:
                connection = choose.choice(stepped.connections)
                after = choose.choice([2, 5, 8, it.log.last_seq])
                room = 100 - len(connection.subscriptions)
                for group in choose.choices([None, 0, 1, 2], k=min(choose.choice([1, 2, 8]), room)):
                    name = stepped.resume(connection, after, group)
                    begun[connection, name] = after, group
            case "l" if stepped.connections:
                stepped.leave(choose.choice(stepped.connections))
            case "p":
                await stepped.post(choose.randrange(1, 12))
            case "k" if stepped.connections:
                choose.choice(stepped.connections).is_stuck = True
            case "d" if stepped.connections:
                it.drain(choose.choice(stepped.connections))
            case "s":
                stepped.budget.step(choose)
            case _:
                pass
    await stepped.post(1)
    await stepped.finish(choose)
    assert not it.feeder._lanes
    for connection in stepped.connections:
        heard = connection.heard()
        for name, handle in connection.subscriptions.items():
            assert handle.state is SubscriptionState.LIVE
            after, group = begun[connection, name]
            wanted = [n for n in range(after, stepped._next) if group in (None, n % 3)]
            assert _ids_of(heard, name) == wanted


def _ids_of(heard: list[dict[str, Any]], name: str) -> list[int]:
    return [
        row["id"]
        for message in heard
        if message["type"] == "change" and message["subscription_id"] == name
        for row in message["rows"]
    ]


def _ids(connection: FakeConnection) -> list[int]:
    (name,) = connection.subscriptions
    return _ids_of(connection.heard(), name)
