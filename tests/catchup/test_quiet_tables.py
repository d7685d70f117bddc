"""Who comes back to a table that has not changed since: live at once, whatever others did."""

from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.delivery import batch as batch_module
from kalam_notify.delivery.batch import Newest
from kalam_notify.log import MemoryLog
from kalam_notify.model import (
    SHARED,
    Change,
    Identity,
    Owner,
    Role,
    TableDef,
    TableId,
    UserId,
)
from kalam_notify.subscriptions.plans import SubscriptionState

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
QUIET = TableDef(TableId("app.quiet"), "shared", "public", ("id",))
NOTES = TableDef(TableId("app.notes"), "user", primary_key=("id",))
LIVE = SubscriptionState.LIVE


def change(seq: int, table: TableId = ORDERS.id, owner: Owner = SHARED) -> Change:
    return Change(seq, table, owner, "insert", None, None)


def test_what_has_not_changed_since_a_position_is_quiet_from_there_on() -> None:
    newest = Newest(100)
    newest.note([change(101), change(102, NOTES.id, UserId("bob")), change(103)])
    assert [newest.is_quiet(ORDERS.id, SHARED, at) for at in (100, 102, 103, 104)] == [
        False,
        False,
        True,
        True,
    ]
    assert newest.is_quiet(NOTES.id, UserId("alice"), 100)
    assert not newest.is_quiet(NOTES.id, UserId("bob"), 101)
    assert newest.is_quiet(NOTES.id, UserId("bob"), 102)
    assert newest.is_quiet(QUIET.id, SHARED, 100)


def test_of_what_was_before_nothing_is_known() -> None:
    newest = Newest(100)
    assert not newest.is_quiet(QUIET.id, SHARED, 99)
    newest.note([change(101)])
    newest.begin_anew(200)
    assert not newest.is_quiet(QUIET.id, SHARED, 150)
    assert newest.is_quiet(ORDERS.id, SHARED, 200)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_no_more_is_noted_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(batch_module, "_MOST_NOTED", 4)
    newest = Newest(100)
    users = [UserId(f"u{number}") for number in range(count)]
    newest.note([change(101 + number, NOTES.id, user) for number, user in enumerate(users)])
    last = 100 + count
    assert len(newest._seqs) <= 4
    # Never quiet where something has changed.
    for number, user in enumerate(users):
        assert not newest.is_quiet(NOTES.id, user, 100 + number)
    assert newest.is_quiet(NOTES.id, UserId("nobody"), 100) is (count <= 4)
    assert newest.is_quiet(NOTES.id, users[0], last)


def resume(it: World, who: str, table: str, after: int) -> FakeConnection:
    connection = it.connect(Identity(UserId(who), Role.USER))
    it.subscribe(connection, "s", f"SELECT * FROM {table}", {"from": after})
    return connection


def state(connection: FakeConnection) -> SubscriptionState:
    return connection.subscriptions["s"].state


def rows(connection: FakeConnection) -> list[Any]:
    return [row["id"] for m in connection.heard() if m["type"] == "change" for row in m["rows"]]


async def test_a_resume_on_a_quiet_table_is_live_in_the_same_turn() -> None:
    async with world(MemoryLog(), [ORDERS, QUIET, NOTES]) as it:
        await it.post(it.change(QUIET, "insert", {"id": 0}))
        await it.settle()
        then = it.service.position
        for number in range(10):
            await it.post(it.change(ORDERS, "insert", {"id": number}))
            await it.post(it.change(NOTES, "insert", {"id": number}, owner="bob"))
        await it.settle()
        quiet, alice = resume(it, "u", "app.quiet", then), resume(it, "alice", "app.notes", then)
        active, bob = resume(it, "u", "app.orders", then), resume(it, "bob", "app.notes", then)
        assert [state(one) for one in (quiet, alice)] == [LIVE, LIVE]
        # Those who are behind go by the log, however soon they are level.
        assert it.stats.catch_ups == 2
        await it.post(it.change(QUIET, "insert", {"id": 77}))
        await it.post(it.change(NOTES, "insert", {"id": 78}, owner="alice"))
        await it.settle()
        assert (rows(quiet), rows(alice)) == ([77], [78])
        assert (rows(active), rows(bob)) == ([*range(10)], [*range(10)])


async def test_a_change_that_the_fan_out_has_not_come_to_is_not_passed_over() -> None:
    """Stored, and known to the log, but behind the position: live from there, and told of it."""
    async with world(MemoryLog(), [ORDERS, QUIET]) as it:
        then = it.service.position
        await it.post(it.change(ORDERS, "insert", {"id": 1}))
        await it.settle()
        posting = [it.change(QUIET, "insert", {"id": number}) for number in range(3)]
        await it.log.append(posting)
        connection = resume(it, "u", "app.quiet", then)
        await it.settle()
        assert rows(connection) == [0, 1, 2]
        assert state(connection) is LIVE


async def test_a_cursor_ahead_of_the_fan_out_waits_for_it() -> None:
    async with world(MemoryLog(), [ORDERS, QUIET]) as it:
        await it.log.append([it.change(ORDERS, "insert", {"id": number}) for number in range(3)])
        ahead = it.log.last_seq
        assert ahead > it.service.position
        connection = resume(it, "u", "app.quiet", ahead)
        assert state(connection) is not LIVE
        await it.settle()
        assert state(connection) is LIVE
