"""How a subscription begins: every line of the table in the feeder's docstring, and its edges."""

import asyncio
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.errors import LogUnavailable
from kalam_notify.log import MemoryLog, Retention
from kalam_notify.model import ANONYMOUS, PostedChange, Row, TableDef, TableId
from kalam_notify.subscriptions.plans import SubscriptionState

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
EVENTS = TableDef(TableId("app.events"), "shared", "public")
ALL = "SELECT * FROM app.orders"


class Shared(MemoryLog):
    """A log that others write, too: where it ends has to be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.faults: list[Exception] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        # What others have written that has not arrived here.
        self.ahead = 0

    @property
    def is_shared(self) -> bool:
        return True

    async def latest(self, at_least: int = 0) -> int:
        self.asked.append(at_least)
        if self.faults:
            raise self.faults.pop()
        await self.may_answer.wait()
        return self.last_seq + self.ahead


async def write(it: World, count: int, first: int = 1) -> None:
    ids = range(first, first + count)
    await it.post(*[it.change(ORDERS, "insert", {"id": id}) for id in ids])
    async with asyncio.timeout(10):
        while it.service.position < it.log.last_seq:
            await asyncio.sleep(0)


async def forget_history(it: World) -> None:
    """Retention takes all changes that there are; the rows stay."""
    it.log.retain(Retention(max_age=None, max_bytes=0))
    await it.log.trim()
    it.log.retain(Retention(max_age=None, max_bytes=None))


def begin(
    it: World, options: dict[str, Any] | None, sql: str = ALL, *, stuck: bool = False
) -> FakeConnection:
    connection = it.connect(ANONYMOUS)
    connection.is_stuck = stuck
    it.subscribe(connection, "s", sql, options)
    return connection


def state(connection: FakeConnection) -> SubscriptionState:
    return connection.subscriptions["s"].state


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


def rows(messages: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for message in messages for row in message.get("rows", ())]


async def test_live_only_is_acknowledged_at_the_end_of_the_log_and_has_no_rows() -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 3)
        client = begin(it, None)
        # In the turn of the subscribe: nothing had to be read.
        ack, batch = client.heard()
        assert (ack["type"], batch["type"]) == ("subscription_ack", "initial_data_batch")
        assert "resumed" not in ack
        assert batch["rows"] == []
        assert batch["batch_control"] == ack["batch_control"]
        assert batch["batch_control"]["status"] == "ready"
        assert batch["batch_control"]["last_seq_id"] == 3
        assert state(client) is SubscriptionState.LIVE
        await write(it, 1, 4)
        await it.settle()
        assert rows(client.heard()) == [4]


@pytest.mark.parametrize("after", [2, 3, 5])
async def test_a_position_that_the_log_reaches_is_resumed_with_what_follows(after: int) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 2)
        await forget_history(it)
        await write(it, 3, 3)
        client = begin(it, {"from": after})
        await it.settle()
        ack, batch, *changes = client.heard()
        assert ack["resumed"] is True
        assert batch["rows"] == []
        assert ack["batch_control"]["last_seq_id"] == after
        assert rows(changes) == list(range(after + 1, 6))
        assert kinds(changes) == ["change"] * bool(changes)


@pytest.mark.parametrize("after", [1, 6])
async def test_a_position_one_outside_of_what_the_log_holds_is_refused(after: int) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 2)
        await forget_history(it)
        await write(it, 3, 3)
        client = begin(it, {"from": after})
        (refusal,) = client.heard()
        assert (refusal["type"], refusal["code"]) == ("error", "RESUME_EXPIRED")
        assert client.subscriptions == {}
        assert client.ended_with is None
        assert not it.manager.has_subscribers(ORDERS.id)


@pytest.mark.parametrize("after", [1, 6])
async def test_a_gap_may_be_bridged_by_a_snapshot_that_says_so(after: int) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 2)
        await forget_history(it)
        await write(it, 3, 3)
        client = begin(it, {"from": after, "on_gap": "snapshot", "last_rows": 1})
        await it.settle()
        ack, batch = client.heard()
        assert ack["resumed"] is False
        # All rows: `from` wins over `last_rows`, and who has a view of old rows needs all of them.
        assert rows([batch]) == [1, 2, 3, 4, 5]
        assert batch["batch_control"]["last_seq_id"] == 5


async def test_a_table_without_a_key_has_no_rows_to_begin_with_unless_they_are_asked_for() -> None:
    async with world(MemoryLog(), [EVENTS]) as it:
        await it.post(
            *[
                PostedChange(EVENTS.id, "", "insert", Row(b'{"id":%d}' % id), None)
                for id in (1, 2, 3)
            ]
        )
        none = begin(it, {}, "SELECT * FROM app.events")
        some = begin(it, {"last_rows": 2}, "SELECT * FROM app.events")
        zero = begin(it, {"last_rows": 0}, "SELECT * FROM app.events")
        await it.settle()
        for client, expected in ((none, []), (some, [2, 3]), (zero, [])):
            messages = client.heard()
            assert rows(messages) == expected
            assert messages[0]["batch_control"]["last_seq_id"] == 3
            assert "resumed" not in messages[0]


# Where others write the same log


async def test_a_shared_log_is_asked_where_it_ends_before_live_only_is_acknowledged() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        await write(it, 3)
        log.may_answer.clear()
        client = begin(it, None)
        await turns()
        assert client.written == b""
        log.ahead = 2
        log.may_answer.set()
        await turns()
        ack, _ = client.heard()
        assert ack["batch_control"]["last_seq_id"] == 5
        # What others have acknowledged by now must not come as news: it waits for the fan-out.
        assert state(client) is SubscriptionState.CATCHING_UP
        log.ahead = 0
        await write(it, 3, 4)
        await it.settle()
        assert rows(client.heard()) == [6]


async def test_a_resume_within_what_is_known_asks_nobody() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        await write(it, 3)
        client = begin(it, {"from": 3})
        assert client.heard()[0]["resumed"] is True
        assert log.asked == []


async def test_a_position_beyond_what_is_known_here_may_be_one_that_another_process_gave() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        await write(it, 3)
        log.ahead = 2
        client = begin(it, {"from": 5})
        await turns()
        # Told, so that a log which has not come as far waits for it.
        assert log.asked == [5]
        assert client.heard()[0]["resumed"] is True
        await write(it, 3, 4)
        log.ahead = 0
        await it.settle()
        assert rows(client.heard()) == [6]


async def test_a_position_beyond_the_end_of_a_shared_log_is_refused_once_that_is_known() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        await write(it, 3)
        log.ahead = 2
        client = begin(it, {"from": 6})
        await turns()
        assert [message["code"] for message in client.heard()] == ["RESUME_EXPIRED"]
        assert client.subscriptions == {}


async def test_who_leaves_while_the_log_is_asked_is_told_nothing() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        log.may_answer.clear()
        client = begin(it, None)
        await turns()
        it.requests.unsubscribe(client, "s")
        log.may_answer.set()
        await turns()
        assert client.written == b""
        assert it.feeder._tasks == set()


async def test_a_log_that_cannot_say_where_it_ends_is_asked_until_it_can() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        log.faults = [LogUnavailable("the stream is away"), LogUnavailable("the stream is away")]
        client = begin(it, None)
        await turns()
        assert it.feeder.faults.reason == "the stream is away"
        async with asyncio.timeout(10):
            while not client.written:
                await asyncio.sleep(0.001)
        assert len(log.asked) == 3
        assert it.feeder.faults.reason is None
        assert kinds(client.heard()) == ["subscription_ack", "initial_data_batch"]


async def test_what_fails_when_the_log_has_answered_ends_that_connection() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        log.may_answer.clear()
        broken, sound = begin(it, None), begin(it, None)

        def fail(frames: bytes) -> None:
            raise RuntimeError("broken")

        broken.send_frames = fail  # type: ignore[method-assign]
        await turns()
        log.may_answer.set()
        await turns()
        assert broken.ended_with is not None
        assert broken.ended_with.code == 1011
        assert sound.ended_with is None
        assert kinds(sound.heard()) == ["subscription_ack", "initial_data_batch"]
        it.requests.disconnect(broken)


async def test_a_fault_that_nobody_expected_of_the_log_ends_the_connection_not_the_answer() -> None:
    log = Shared()
    async with world(log, [ORDERS]) as it:
        log.faults = [ValueError("nobody expected this")]
        client = begin(it, None)
        await turns()
        assert client.ended_with is not None
        assert client.ended_with.code == 1011
        assert client.written == b""
        it.requests.disconnect(client)
