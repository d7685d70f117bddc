"""The indexes of ConnectionsManager: found, isolated, cleaned up, counted."""

from collections.abc import Iterable

import pytest
from helpers.sinks import FakeConnection
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kalam_notify.errors import SubscriptionRefused
from kalam_notify.filters import Query, bind
from kalam_notify.model import SHARED, Identity, LiveQueryId, Role, TableDef, TableId, UserId
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import SubscriptionHandle

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
NOTES = TableDef(TableId("app.notes"), "user", primary_key=("id",))
LIMITS = Limits(4096, 100)


def person(name: str) -> Identity:
    return Identity(UserId(name), Role.USER)


def query(where: str = "", table: TableDef = ORDERS, user: Identity | None = None) -> Query:
    select = parse(f"SELECT * FROM {table.id} {where}", LIMITS)
    return bind(select, table, user or person("alice"))


def connected(manager: ConnectionsManager, name: str = "alice") -> FakeConnection:
    connection = FakeConnection(person(name))
    manager.connect(connection)
    return connection


def subscribe(
    manager: ConnectionsManager, connection: FakeConnection, name: str, asked: Query | None = None
) -> SubscriptionHandle:
    return manager.subscribe(connection, name, asked or query(), None).handle


def test_a_shared_subscription_is_indexed_by_table_and_live_query_id() -> None:
    manager = ConnectionsManager()
    handle = subscribe(manager, connected(manager), "s")
    assert manager.shared_table_subscriptions == {ORDERS.id: {handle.live_query_id: handle}}
    assert manager.user_table_subscriptions == {}
    assert manager.has_subscribers(ORDERS.id)
    assert manager.has_subscribers(ORDERS.id, SHARED)


def test_unsubscribing_takes_it_out_of_every_index() -> None:
    manager = ConnectionsManager()
    connection = connected(manager)
    handle = subscribe(manager, connection, "s")
    assert manager.unsubscribe(connection, "s") is handle
    assert handle.is_closed
    assert manager.shared_table_subscriptions == {}
    assert not manager.has_subscribers(ORDERS.id)
    assert manager.plans(ORDERS.id, SHARED) is None
    assert manager.unsubscribe(connection, "s") is None


def test_disconnecting_takes_all_of_a_connection_and_nothing_of_others() -> None:
    manager = ConnectionsManager()
    gone, stays = connected(manager), connected(manager)
    handles = [subscribe(manager, gone, name) for name in "abc"]
    other = subscribe(manager, stays, "a")
    assert manager.disconnect(gone.connection_id) == handles
    assert manager.disconnect(gone.connection_id) == []
    assert manager.shared_table_subscriptions == {ORDERS.id: {other.live_query_id: other}}
    assert manager.statistics()["connections"] == 1


def test_user_and_shared_subscriptions_are_apart() -> None:
    manager = ConnectionsManager()
    alice, bob = connected(manager, "alice"), connected(manager, "bob")
    shared = subscribe(manager, alice, "s")
    hers = subscribe(manager, alice, "n", query(table=NOTES))
    his = subscribe(manager, bob, "n", query(table=NOTES))
    assert manager.shared_table_subscriptions == {ORDERS.id: {shared.live_query_id: shared}}
    assert manager.user_table_subscriptions == {
        (UserId("alice"), NOTES.id): {hers.live_query_id: hers},
        (UserId("bob"), NOTES.id): {his.live_query_id: his},
    }
    assert manager.has_subscribers(NOTES.id)
    assert manager.has_subscribers(NOTES.id, "bob")
    assert not manager.has_subscribers(NOTES.id, "carol")
    assert not manager.has_subscribers(NOTES.id, SHARED)
    assert hers.plan is not his.plan


def test_a_subscription_is_found_by_its_live_query_id() -> None:
    manager = ConnectionsManager()
    connection = connected(manager)
    handle = subscribe(manager, connection, "s")
    live_query_id = LiveQueryId(UserId("alice"), connection.connection_id, "s")
    assert manager.find(live_query_id) is handle
    assert manager.find(live_query_id._replace(subscription_id="t")) is None
    assert manager.find(live_query_id._replace(user_id=UserId("bob"))) is None


def test_a_table_nobody_wants_has_no_subscribers_and_no_plans() -> None:
    manager = ConnectionsManager()
    assert not manager.has_subscribers(TableId("app.empty"))
    assert manager.plans(TableId("app.empty"), SHARED) is None
    assert list(manager.handles(TableId("app.empty"))) == []


def test_a_reused_id_closes_the_old_handle_and_leaves_one() -> None:
    manager = ConnectionsManager()
    connection = connected(manager)
    old = subscribe(manager, connection, "s", query("WHERE a = 1"))
    new, replaced = manager.subscribe(connection, "s", query("WHERE a = 2"), None)
    assert replaced is old
    assert old.is_closed
    assert manager.shared_table_subscriptions == {ORDERS.id: {new.live_query_id: new}}
    assert manager.statistics()["plans"] == 1


def test_look_alikes_share_a_plan_that_goes_with_the_last() -> None:
    manager = ConnectionsManager()
    connection = connected(manager)
    first = subscribe(manager, connection, "a", query("WHERE x = 1 AND y = 2"))
    second = subscribe(manager, connection, "b", query("where y=2 and (1 = x)"))
    assert first.plan is second.plan
    manager.unsubscribe(connection, "a")
    assert manager.statistics()["plans"] == 1
    manager.unsubscribe(connection, "b")
    assert manager.statistics()["plans"] == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_limits_hold_at_the_limit_and_not_before(count: int) -> None:
    manager = ConnectionsManager()
    connection, other = connected(manager), connected(manager)

    def take(where: FakeConnection, name: str) -> SubscriptionHandle:
        return manager.subscribe(
            where, name, query(), None, max_per_connection=2, max_per_user=3
        ).handle

    for number in range(min(count, 2)):
        take(connection, str(number))
    if count == 3:
        with pytest.raises(SubscriptionRefused) as refusal:
            take(connection, "2")
        assert refusal.value.code == "SUBSCRIPTION_LIMIT_EXCEEDED"
        take(connection, "1")
        take(other, "0")
        with pytest.raises(SubscriptionRefused):
            take(other, "1")


def test_shutdown_empties_everything() -> None:
    manager = ConnectionsManager()
    connections = [connected(manager, name) for name in ("alice", "bob")]
    for connection in connections:
        subscribe(manager, connection, "s")
        subscribe(manager, connection, "n", query(table=NOTES))
    assert manager.shutdown() == connections
    assert manager.shared_table_subscriptions == {}
    assert manager.user_table_subscriptions == {}
    statistics = manager.statistics()
    assert statistics["connections"] == statistics["plans"] == 0
    assert statistics["peak_connections"] == 2
    assert statistics["peak_subscriptions"] == 4


class Manager(RuleBasedStateMachine):
    """Whatever is done in whatever order, indexes and counts tell the same story."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = ConnectionsManager()
        self.connections: list[FakeConnection] = []

    @rule(name=st.sampled_from(["alice", "bob"]))
    def connect(self, name: str) -> None:
        self.connections.append(connected(self.manager, name))

    @rule(
        which=st.integers(0, 5),
        name=st.sampled_from("abc"),
        where=st.sampled_from(["", "WHERE a = 1", "WHERE a > 2"]),
        table=st.sampled_from([ORDERS, NOTES]),
        live=st.booleans(),
    )
    def subscribe(self, which: int, name: str, where: str, table: TableDef, live: bool) -> None:
        if which < len(self.connections):
            connection = self.connections[which]
            asked = query(where, table, connection.identity)
            handle = self.manager.subscribe(connection, name, asked, None).handle
            handle.loaded(0)
            if live:
                handle.level()

    @rule(which=st.integers(0, 5), name=st.sampled_from("abc"))
    def unsubscribe(self, which: int, name: str) -> None:
        if which < len(self.connections):
            self.manager.unsubscribe(self.connections[which], name)

    @rule(which=st.integers(0, 5))
    def disconnect(self, which: int) -> None:
        if which < len(self.connections):
            self.manager.disconnect(self.connections.pop(which).connection_id)

    @invariant()
    def indexes_agree(self) -> None:
        manager = self.manager
        held = [h for c in self.connections for h in c.subscriptions.values()]
        indexed = [
            *_all(manager.shared_table_subscriptions.values()),
            *_all(manager.user_table_subscriptions.values()),
        ]
        assert sorted(map(id, held)) == sorted(map(id, indexed))
        assert manager.shared_count + manager.user_count == len(held)
        assert manager.lagging_count == sum(h.slot < 0 for h in held)
        plans = {id(h.plan): h.plan for h in held}
        assert manager.statistics()["plans"] == len(plans)
        for plan in plans.values():
            sharing = [h for h in held if h.plan is plan]
            assert plan.subscribers == len(sharing)
            assert {id(h) for h in plan.live} == {id(h) for h in sharing if h.slot >= 0}
            assert all(h is not None and plan.live[h.slot] is h for h in plan.live)
            assert plan.fds == [h.sink.direct_fd for h in plan.live if h]
            assert plan.heads == [h.head for h in plan.live if h]
            assert plan.live_count == len(plan.live)


def _all(
    indexes: Iterable[dict[LiveQueryId, SubscriptionHandle]],
) -> list[SubscriptionHandle]:
    return [handle for index in indexes for handle in index.values()]


Manager.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestManager = Manager.TestCase


def test_siblings_are_those_of_one_connection_that_the_same_change_may_concern() -> None:
    manager = ConnectionsManager()
    connection, other = FakeConnection(person("alice")), FakeConnection(person("alice"))
    for one in (connection, other):
        manager.connect(one)
    first = subscribe(manager, connection, "first")
    elsewhere = subscribe(manager, other, "first")
    assert not first.has_sibling
    second = subscribe(manager, connection, "second")
    assert first.has_sibling
    assert second.has_sibling
    assert not elsewhere.has_sibling
    assert first.plan.siblings == 2
    manager.close(second)
    assert not first.has_sibling
    assert not second.has_sibling
    assert first.plan.siblings == 0
    manager.disconnect(connection.connection_id)
    assert elsewhere.plan.siblings == 0
