"""What goes wrong while those who are behind are fed ends as little as it can."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.errors import Compacted
from kalam_notify.filters import index as filter_index
from kalam_notify.log import MemoryLog
from kalam_notify.model import (
    ANONYMOUS,
    Change,
    Identity,
    Owner,
    PostedChange,
    Role,
    Row,
    TableDef,
    TableId,
    UserId,
)
from kalam_notify.sql.tree import Expression
from kalam_notify.store.base import Span
from kalam_notify.subscriptions.plans import SubscriptionState

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
NOTES = TableDef(TableId("app.notes"), "user", primary_key=("id",))
ALL = "SELECT * FROM app.orders"


class FromFile(MemoryLog):
    """Whoever is behind has to read. Fails as told, at one position or at any."""

    def __init__(self) -> None:
        super().__init__()
        self.read_faults: list[Exception] = []
        self.recent_fault: Exception | None = None
        self.fails_at: int | None = None
        self.is_in_memory = False

    def recent(self, after: int, limit: int | None = None) -> Sequence[Change] | None:
        if limit is not None and self.recent_fault is not None and after == self.fails_at:
            raise self.recent_fault
        found = super().recent(after, limit)
        return found if self.is_in_memory or limit is None or not found else None

    async def read(
        self,
        after: int,
        *,
        limit: int,
        max_bytes: int,
        table: TableId | None = None,
        owner: Owner | None = None,
    ) -> Span:
        if self.read_faults and after == self.fails_at:
            raise self.read_faults.pop()
        return await super().read(after, limit=limit, max_bytes=max_bytes, table=table, owner=owner)


async def write(it: World, count: int, first: int = 1, table: TableDef = ORDERS) -> None:
    ids = range(first, first + count)
    owner = "" if table.is_shared else "alice"
    await it.post(*[it.change(table, "insert", {"id": id, "v": 1}, owner) for id in ids])
    await it.settle()


def resume(
    it: World, after: int, where: str = "", table: TableDef = ORDERS, name: str = "alice"
) -> FakeConnection:
    connection = it.connect(ANONYMOUS if table.is_shared else Identity(UserId(name), Role.USER))
    it.subscribe(connection, "s", f"SELECT * FROM {table.id} {where}", {"from": after})
    return connection


def ids(connection: FakeConnection) -> list[int]:
    return [
        row["id"]
        for message in connection.heard()
        if message["type"] == "change"
        for row in message["rows"]
    ]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def ended(it: World, connection: FakeConnection) -> int:
    """The code that the connection is closed with, which then is gone."""
    await until(lambda: connection.ended_with)
    assert connection.ended_with is not None
    it.requests.disconnect(connection)
    return connection.ended_with.code


@pytest.mark.parametrize(
    ("fault", "code"), [(Compacted(50), 1013), (ValueError("nobody expected this"), 1011)]
)
async def test_a_reading_that_fails_for_good_ends_those_who_stand_there_only(
    fault: Exception, code: int
) -> None:
    log = FromFile()
    async with world(log, [ORDERS]) as it:
        await write(it, 100)
        log.read_faults, log.fails_at = [fault], 20
        lost, other_lost, further = resume(it, 20), resume(it, 20, "WHERE v = 1"), resume(it, 60)
        assert [await ended(it, lost), await ended(it, other_lost)] == [code, code]
        await it.settle()
        assert ids(further) == list(range(61, 101))
        assert further.ended_with is None
        # The lane goes on: the next one who comes back to the same place is fed.
        again = resume(it, 20)
        await it.settle()
        assert ids(again) == list(range(21, 101))


async def test_a_fault_of_ours_ends_those_it_meets_and_does_not_come_back_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FromFile()
    log.is_in_memory = True
    async with world(log, [ORDERS]) as it:
        await write(it, 100)
        log.recent_fault, log.fails_at = RuntimeError("ours"), 20
        lost, further = resume(it, 20), resume(it, 60)
        assert await ended(it, lost) == 1011
        await it.settle()
        assert ids(further) == list(range(61, 101))
        assert further.ended_with is None
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "catching up in app.orders failed" in caplog.text


async def test_a_row_that_cannot_be_read_ends_who_has_to_see_it_not_the_lane(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bytes that have turned on a disk: the change is no JSON any more."""
    log = FromFile()
    log.is_in_memory = True
    async with world(log, [ORDERS, NOTES]) as it:
        await write(it, 50)
        await it.post(PostedChange(ORDERS.id, "", "insert", Row(b'{"id":51,"v"'), None, "[51]"))
        await it.settle()
        await write(it, 50, 52)
        await write(it, 50, table=NOTES)
        before, beyond = resume(it, 20, "WHERE v = 1"), resume(it, 80, "WHERE v = 1")
        notes = resume(it, 0, "WHERE v = 1", NOTES)
        assert await ended(it, before) == 1011
        await it.settle()
        assert ids(beyond) == list(range(81, 102))
        assert ids(notes) == list(range(1, 51))
        assert (beyond.ended_with, notes.ended_with) == (None, None)


async def test_a_filter_that_raises_on_the_way_ends_its_subscriptions_and_nobody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not be taken for one that is not TRUE: its subscribers would miss changes."""
    log = FromFile()
    compiled = filter_index.compile_predicate

    def compile_predicate(predicate: Expression) -> Any:
        test, data = compiled(predicate)

        def raising(values: dict[str, Any], data: tuple[Any, ...]) -> bool:
            if values["id"] == 50:
                raise RuntimeError("in spite of all")
            return test(values, data)

        return (raising, data) if 7 in data else (test, data)

    async with world(log, [ORDERS]) as it:
        await write(it, 100)
        monkeypatch.setattr(filter_index, "compile_predicate", compile_predicate)
        bad = [resume(it, after, "WHERE id % 7 = 3") for after in (0, 0, 30)]
        good = resume(it, 0, "WHERE id % 5 = 3")
        await it.settle()
        for connection in bad:
            assert connection.heard()[-1]["code"] == "SUBSCRIPTION_FAILED"
            assert connection.subscriptions == {}
            assert connection.ended_with is None
        assert ids(good) == list(range(3, 101, 5))
        assert good.subscriptions["s"].state is SubscriptionState.LIVE


async def test_who_drains_just_after_its_socket_was_full_is_not_forgotten() -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 100)
        client = resume(it, 0)
        offers = 0
        offer = client.offer

        def refuses_once(frames: bytes) -> bool:
            # Full when asked; nothing waits any more when the answer is acted on.
            nonlocal offers
            offers += 1
            return offers > 1 and offer(frames)

        client.offer = refuses_once  # type: ignore[method-assign]
        await it.settle()
        assert ids(client) == list(range(1, 101))


async def test_users_are_fed_their_own_rows_from_lanes_of_their_own() -> None:
    log = FromFile()
    async with world(log, [NOTES]) as it:
        for name in ("alice", "bob"):
            await it.post(*[it.change(NOTES, "insert", {"id": id}, name) for id in range(1, 4)])
        await it.settle()
        log.read_faults, log.fails_at = [ValueError("nobody expected this")], 1
        alice, bob = resume(it, 1, "", NOTES, "alice"), resume(it, 0, "", NOTES, "bob")
        assert await ended(it, alice) == 1011
        await it.settle()
        assert ids(bob) == [1, 2, 3]


async def test_a_small_cohort_joins_a_large_one_and_a_large_one_takes_a_small_ones_place() -> None:
    """Whoever stands somewhere is met by those behind: all see everything once."""
    log = FromFile()
    async with world(log, [ORDERS]) as it:
        await write(it, 3000)
        many = [resume(it, 0, f"WHERE id % 20 = {n}") for n in range(20)]
        one = resume(it, 1024, "WHERE id % 2 = 0")
        few = [resume(it, 5, f"WHERE id % 2 = {n}") for n in range(2)]
        await it.settle()
        for n, client in enumerate(many):
            assert ids(client) == [id for id in range(1, 3001) if id % 20 == n]
        assert ids(one) == list(range(1026, 3001, 2))
        for n, client in enumerate(few):
            assert ids(client) == [id for id in range(6, 3001) if id % 2 == n]
