"""Requests about subscriptions: what becomes of each, and what a new identity or table changes."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from helpers.sinks import FakeConnection

from kalam_notify.budget import at_once
from kalam_notify.config import WebSocketSettings
from kalam_notify.errors import SubscriptionRefused
from kalam_notify.model import ANONYMOUS, Identity, Role, TableDef, TableId, UserId
from kalam_notify.model.tables import Catalog
from kalam_notify.model.types import parse_type
from kalam_notify.protocol.messages import UNREACHABLE, NextBatch, SubscriptionRequest
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import SubscriptionHandle
from kalam_notify.subscriptions.requests import SubscriptionRequests

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
STAFF = TableDef(TableId("app.staff"), "shared", "private", ("id",))
NOTES = TableDef(TableId("app.notes"), "user", primary_key=("id",))
TENANTS = TableDef(
    TableId("app.tenants"), "shared", "public", ("id",), policy="tenant = CLAIM('tenant')"
)


def user(name: str = "alice", role: Role = Role.USER, **claims: Any) -> Identity:
    return Identity(UserId(name), role, claims)


class Starter:
    """Begins nothing, and remembers what it was given."""

    def __init__(self) -> None:
        self.begun: list[SubscriptionHandle] = []
        self.asked: list[int | None] = []

    def begin(self, handle: SubscriptionHandle) -> None:
        self.begun.append(handle)

    def next_batch(self, handle: SubscriptionHandle, last_seq: int | None) -> bool:
        self.asked.append(last_seq)
        return True


class Desk:
    """Requests on a catalog, without anything that would serve them."""

    def __init__(
        self, tables: Sequence[TableDef] = (ORDERS, STAFF, NOTES, TENANTS), *, per_user: int = 0
    ) -> None:
        self.catalog = Catalog(tables)
        self.manager = ConnectionsManager()
        self.starter = Starter()
        self.requests = SubscriptionRequests(self.catalog, self.manager, self.starter)
        self.limit(per_user=per_user)

    def limit(self, *, per_user: int = 0, **settings: Any) -> None:
        self.requests.configure(WebSocketSettings(**settings), per_user)

    def connect(self, identity: Identity = ANONYMOUS) -> FakeConnection:
        connection = FakeConnection(identity)
        self.manager.connect(connection)
        return connection

    def subscribe(
        self,
        connection: FakeConnection,
        sql: str = "SELECT * FROM app.orders",
        name: str = "s",
        options: dict[str, Any] | None = None,
        params: object = None,
    ) -> SubscriptionHandle:
        request = SubscriptionRequest(name, sql, options, params)
        at_once(self.requests.subscribe(connection, request))
        return connection.subscriptions[name]

    def refused(self, connection: FakeConnection, sql: str, **rest: Any) -> str:
        with pytest.raises(SubscriptionRefused) as refusal:
            self.subscribe(connection, sql, **rest)
        assert connection.subscriptions == {}
        assert self.starter.begun == []
        return refusal.value.code


@pytest.fixture
def desk() -> Desk:
    return Desk()


# Subscribe


def test_a_subscription_is_indexed_and_handed_on(desk: Desk) -> None:
    handle = desk.subscribe(desk.connect(), options={})
    assert desk.starter.begun == [handle]
    assert desk.manager.find(handle.live_query_id) is handle


@pytest.mark.parametrize(
    ("table", "role", "code"),
    [
        ("app.nothing", Role.DBA, "NOT_FOUND"),
        ("app.staff", Role.USER, "UNAUTHORIZED"),
        ("app.notes", Role.ANONYMOUS, "UNAUTHORIZED"),
    ],
)
def test_a_table_that_is_not_there_or_not_for_you_is_refused_by_name(
    desk: Desk, table: str, role: Role, code: str
) -> None:
    identity = ANONYMOUS if role is Role.ANONYMOUS else user(role=role)
    assert desk.refused(desk.connect(identity), f"SELECT * FROM {table}") == code


@pytest.mark.parametrize("role", [Role.SERVICE, Role.DBA])
def test_a_private_table_is_for_services_and_above(desk: Desk, role: Role) -> None:
    assert desk.subscribe(desk.connect(user(role=role)), "SELECT * FROM app.staff")


@pytest.mark.parametrize("params", ["1", {"1": 1}, 1, True])
def test_parameters_are_a_list(desk: Desk, params: object) -> None:
    sql = "SELECT * FROM app.orders WHERE id = $1"
    assert desk.refused(desk.connect(), sql, params=params) == "INVALID_SQL"


@pytest.mark.parametrize("params", [[], [1, 2]])
def test_parameters_are_as_many_as_the_query_uses(desk: Desk, params: list[int]) -> None:
    sql = "SELECT * FROM app.orders WHERE id = $1"
    assert desk.refused(desk.connect(), sql, params=params) == "INVALID_SQL"
    assert desk.subscribe(desk.connect(), sql, params=[1]).params == (1,)


@pytest.mark.parametrize("short", [-1, 0, 1])
def test_a_query_may_be_as_long_as_the_settings_say(desk: Desk, short: int) -> None:
    sql = "SELECT * FROM app.orders WHERE id = 1"
    desk.limit(max_sql_bytes=len(sql) - short)
    if short > 0:
        assert desk.refused(desk.connect(), sql) == "INVALID_SQL"
    else:
        assert desk.subscribe(desk.connect(), sql)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_user_holds_so_many_subscriptions_over_all_connections(count: int) -> None:
    desk = Desk(per_user=2)
    alice = user()
    for _ in range(min(count, 2)):
        desk.subscribe(desk.connect(alice))
    if count > 2:
        with pytest.raises(SubscriptionRefused, match="a user holds at most 2"):
            desk.subscribe(desk.connect(alice))
        # Nobody else's count, and nobody's who has no name.
        desk.subscribe(desk.connect(user("bob")))
        for _ in range(3):
            desk.subscribe(desk.connect())
    assert desk.manager.shared_count == (2 + 1 + 3 if count > 2 else count)


def test_what_an_old_subscription_holds_back_goes_out_before_the_new_one_begins(desk: Desk) -> None:
    connection = desk.connect()
    desk.subscribe(connection)
    order: list[str] = []
    connection.flush = lambda: order.append("flush")  # type: ignore[method-assign]
    desk.starter.begin = lambda handle: order.append("begin")  # type: ignore[method-assign]
    desk.subscribe(connection)
    assert order == ["flush", "begin"]


# Next batch and unsubscribe


def test_a_page_of_no_subscription_is_refused(desk: Desk) -> None:
    connection = desk.connect()
    desk.subscribe(connection)
    with pytest.raises(SubscriptionRefused) as refusal:
        desk.requests.next_batch(connection, NextBatch("other"))
    assert refusal.value.code == "BATCH_FETCH_FAILED"
    assert desk.starter.asked == []


@pytest.mark.parametrize(
    ("given", "asked"), [(None, None), (0, 0), ("12", 12), (2**53 - 1, 2**53 - 1)]
)
def test_a_page_is_asked_for_by_number_or_text(
    desk: Desk, given: int | str | None, asked: int | None
) -> None:
    connection = desk.connect()
    desk.subscribe(connection)
    assert desk.requests.next_batch(connection, NextBatch("s", given)) is True
    assert desk.starter.asked == [asked]


@pytest.mark.parametrize("given", [-1, 2**53, "", "-1", "1.0", "٣", "9" * 17])
def test_what_is_no_position_asks_for_no_page(desk: Desk, given: int | str) -> None:
    connection = desk.connect()
    desk.subscribe(connection)
    with pytest.raises(SubscriptionRefused):
        desk.requests.next_batch(connection, NextBatch("s", given))
    assert desk.starter.asked == []


def test_unsubscribing_from_nothing_is_no_fault(desk: Desk) -> None:
    connection = desk.connect()
    handle = desk.subscribe(connection)
    desk.requests.unsubscribe(connection, "other")
    assert connection.subscriptions == {"s": handle}
    desk.requests.unsubscribe(connection, "s")
    desk.requests.unsubscribe(connection, "s")
    assert connection.subscriptions == {}
    assert handle.is_closed


# Explain


def test_an_explanation_tells_how_a_query_would_be_served_and_who_shares_it(desk: Desk) -> None:
    sql = "SELECT * FROM app.orders WHERE status = 'open' AND note LIKE '%a%'"
    _, before = at_once(desk.requests.explain(sql, ANONYMOUS))
    assert (before["plans"], before["subscribers_of_this_plan"]) == (0, 0)
    for number in range(3):
        desk.subscribe(desk.connect(), sql).loaded(0)
        desk.subscribe(desk.connect(), f"SELECT * FROM app.orders WHERE id = {number}")
    live = desk.starter.begun[0]
    live.level()
    query, told = at_once(desk.requests.explain(f"explain {sql}", ANONYMOUS))
    assert query.filter.key == live.plan.filter.key
    assert told == {
        "table": "app.orders",
        "index": "hash status = 'open'",
        "residual": "note LIKE '%a%'",
        "plans": 4,
        "subscribers_of_this_plan": 3,
        "live_subscribers_of_this_plan": 1,
        "demoted": False,
    }
    # Asking makes no subscription.
    assert len(desk.starter.begun) == 6


def test_an_explanation_is_refused_where_a_subscription_would_be(desk: Desk) -> None:
    for sql, code in (
        ("SELECT * FROM app.staff", "UNAUTHORIZED"),
        ("EXPLAIN SELECT * FROM app.nothing", "NOT_FOUND"),
        ("SELECT * FROM app.orders WHERE", "INVALID_SQL"),
    ):
        with pytest.raises(SubscriptionRefused) as refusal:
            at_once(desk.requests.explain(sql, user()))
        assert refusal.value.code == code


def test_an_explanation_of_a_user_table_is_about_ones_own_rows(desk: Desk) -> None:
    sql = "SELECT * FROM app.notes"
    desk.subscribe(desk.connect(user("alice")), sql)
    for name, subscribers in (("alice", 1), ("bob", 0)):
        _, told = at_once(desk.requests.explain(sql, user(name)))
        assert told["subscribers_of_this_plan"] == subscribers


# A token with other claims or another role


def renewed(desk: Desk, connection: FakeConnection, identity: Identity) -> list[dict[str, Any]]:
    """What the client hears when it has shown another token."""
    desk.starter.begun.clear()
    connection.identity = identity
    at_once(desk.requests.identity_changed(connection))
    return connection.heard()


def test_who_may_see_what_it_saw_goes_on_undisturbed(desk: Desk) -> None:
    connection = desk.connect(user(tenant="a"))
    names = ("app.orders", "app.notes", "app.tenants")
    handles = [desk.subscribe(connection, f"SELECT * FROM {name}", name) for name in names]
    assert renewed(desk, connection, user(tenant="a", extra=1)) == []
    assert [*connection.subscriptions.values()] == handles
    assert desk.starter.begun == []


@pytest.mark.parametrize(
    "options",
    [None, {}, {"from": 3}, {"on_gap": "error", "last_rows": 2}],
)
def test_who_may_see_other_rows_ends_unless_it_takes_a_snapshot_for_a_gap(
    desk: Desk, options: dict[str, Any] | None
) -> None:
    connection = desk.connect(user(tenant="a"))
    kept = desk.subscribe(connection, name="kept")
    desk.subscribe(connection, "SELECT * FROM app.tenants", "gone", options)
    (refusal,) = renewed(desk, connection, user(tenant="b"))
    assert (refusal["subscription_id"], refusal["code"]) == ("gone", "RESUME_EXPIRED")
    assert [*connection.subscriptions.values()] == [kept]
    assert connection.ended_with is None


def test_who_takes_a_snapshot_for_a_gap_is_begun_anew_under_its_name(desk: Desk) -> None:
    connection = desk.connect(user(tenant="a"))
    options = {"on_gap": "snapshot", "last_rows": 2, "batch_size": 7, "bigints": "string"}
    sql = "SELECT * FROM app.tenants WHERE id > $1"
    old = desk.subscribe(connection, sql, options=options, params=[5])
    assert renewed(desk, connection, user(tenant="b")) == []
    (new,) = desk.starter.begun
    assert old.is_closed
    assert connection.subscriptions == {"s": new}
    assert (new.sql, new.params) == (sql, (5,))
    assert new.plan.filter.matches({"id": 6, "tenant": "b"})
    assert not new.plan.filter.matches({"id": 6, "tenant": "a"})
    assert not new.plan.filter.matches({"id": 5, "tenant": "b"})
    assert new.plan.projection.bigints_as_text
    # All rows, told as a gap: of its last two rows both may be another's now.
    assert new.options is not None
    assert (new.options.from_seq, new.options.last_rows) == (UNREACHABLE, None)
    assert new.options.batch_size == 7
    # And once more, from where it has come to.
    assert renewed(desk, connection, user(tenant="c")) == []
    assert desk.starter.begun == [connection.subscriptions["s"]]


def test_who_has_lost_its_table_is_told_so_and_keeps_the_others(desk: Desk) -> None:
    connection = desk.connect(user(role=Role.SERVICE))
    desk.subscribe(connection, "SELECT * FROM app.staff", "staff", {"on_gap": "snapshot"})
    kept = desk.subscribe(connection, name="orders")
    (refusal,) = renewed(desk, connection, user())
    assert (refusal["subscription_id"], refusal["code"]) == ("staff", "UNAUTHORIZED")
    assert connection.subscriptions == {"orders": kept}


def test_what_is_replaced_while_it_is_checked_is_left_alone(desk: Desk) -> None:
    """Checking takes turns of the loop: the client may have gone on, or away, meanwhile."""
    connection = desk.connect(user(tenant="a"))
    desk.subscribe(connection, "SELECT * FROM app.tenants", options={"on_gap": "snapshot"})
    connection.identity = user(tenant="b")
    steps = desk.requests.identity_changed(connection)
    next(steps)
    newer = desk.subscribe(connection, name="s")
    desk.starter.begun.clear()
    at_once(steps)
    assert connection.subscriptions == {"s": newer}
    assert (desk.starter.begun, connection.heard()) == ([], [])


def test_who_hangs_up_while_it_is_checked_is_told_nothing(desk: Desk) -> None:
    connection = desk.connect(user(role=Role.SERVICE))
    desk.subscribe(connection, "SELECT * FROM app.staff")
    connection.identity = user()
    steps = desk.requests.identity_changed(connection)
    next(steps)
    desk.requests.disconnect(connection)
    at_once(steps)
    assert connection.written == b""
    assert desk.manager.shared_count == 0


# Tables that are not what they were


def test_only_subscriptions_of_tables_that_changed_are_checked(desk: Desk) -> None:
    first, second = desk.connect(user()), desk.connect(user("bob"))
    ends = desk.subscribe(first, name="ends")
    stays = desk.subscribe(first, "SELECT * FROM app.notes", "stays")
    anew = desk.subscribe(second, options={"on_gap": "snapshot"})
    typed = msgspec.structs.replace(ORDERS, columns={"id": parse_type("bigint")})
    desk.catalog.replace([typed, STAFF, NOTES, TENANTS])
    desk.starter.begun.clear()
    at_once(desk.requests.tables_changed({ORDERS.id}))
    assert [message["code"] for message in first.heard()] == ["RESUME_EXPIRED"]
    assert first.subscriptions == {"stays": stays}
    assert ends.is_closed
    assert anew.is_closed
    assert desk.starter.begun == [second.subscriptions["s"]]
    assert second.subscriptions["s"].plan.table == typed


KEY_AND_TYPES = msgspec.structs.replace(
    ORDERS, primary_key=("k",), columns={"k": parse_type("bigint"), "v": parse_type("text")}
)


def test_with_others_on_the_table_everybody_sees_its_new_definition(desk: Desk) -> None:
    """Those who are checked one after another, whoever comes meanwhile, and whoever comes later."""
    sql = "SELECT k FROM app.orders"
    early = [desk.connect(user(f"u{n}")) for n in range(3)]
    before = [desk.subscribe(one, sql, options={"on_gap": "snapshot"}) for one in early]
    desk.catalog.replace([KEY_AND_TYPES])
    steps = desk.requests.tables_changed({ORDERS.id})
    while before[0].plan is early[0].subscriptions["s"].plan:
        next(steps)
    amid = desk.subscribe(desk.connect(user("amid")), sql)
    assert early[2].subscriptions["s"] is before[2]
    at_once(steps)
    later = desk.subscribe(desk.connect(user("later")), sql)
    plans = {handle.plan for handle in (amid, later, *(one.subscriptions["s"] for one in early))}
    (plan,) = plans
    assert plan.table == KEY_AND_TYPES
    assert plan.projection.schema(plan.table) == [
        {"name": "k", "data_type": "BigInt", "index": 0, "flags": ["pk"]}
    ]
    assert {handle.plan.table for handle in before} == {ORDERS}


@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize(
    "changed",
    [
        {"indexes": (("status",),)},
        {"max_age": 60.0},
        {"access": "restricted"},
        {"policy": "status = status OR status IS NULL OR TRUE"},
    ],
)
def test_a_definition_that_shows_the_same_rows_ends_nobody_then_or_at_a_refresh(
    desk: Desk, changed: dict[str, Any], others: int
) -> None:
    crowd = [desk.connect(user(role=Role.SERVICE, iat=1)) for _ in range(1 + others)]
    handles = [desk.subscribe(connection) for connection in crowd]
    definition = msgspec.structs.replace(ORDERS, **changed)
    desk.catalog.replace([definition])
    at_once(desk.requests.tables_changed({ORDERS.id}))
    for refresh in range(2, 4):
        for connection in crowd:
            connection.identity = user(role=Role.SERVICE, iat=refresh)
            at_once(desk.requests.identity_changed(connection))
    assert [connection.subscriptions["s"] for connection in crowd] == handles
    assert not any(connection.heard() for connection in crowd)
    # Its next snapshot uses the new indexes.
    assert {handle.plan.table.indexes for handle in handles} == {definition.indexes}


@pytest.mark.parametrize("rests", [1, 2])
@pytest.mark.parametrize(
    ("definition", "outcome"),
    [
        (msgspec.structs.replace(ORDERS, policy="tenant = CLAIM('tenant')"), "bound anew"),
        (KEY_AND_TYPES, "INVALID_SQL"),
        (msgspec.structs.replace(ORDERS, access="dba"), "UNAUTHORIZED"),
        (None, "NOT_FOUND"),
        (msgspec.structs.replace(ORDERS, indexes=(("x",),)), "bound anew"),
    ],
)
def test_a_table_that_changes_while_a_long_query_is_bound_is_seen_as_it_is(
    desk: Desk, definition: TableDef | None, outcome: str, rests: int
) -> None:
    """Nobody checks it afterwards: the others have been by then."""
    where = " OR ".join(f"x = {number}" for number in range(100))
    connection = desk.connect(user(tenant="t1"))
    request = SubscriptionRequest("s", f"SELECT * FROM app.orders WHERE {where}", None, None)
    steps = desk.requests.subscribe(connection, request)
    for _ in range(rests):
        next(steps)
    desk.catalog.replace([] if definition is None else [definition])
    at_once(desk.requests.tables_changed({ORDERS.id}))
    if outcome == "bound anew":
        at_once(steps)
        plan = connection.subscriptions["s"].plan
        assert plan.table == definition
        assert plan.filter.matches({"x": 1}) is (definition.policy is None)
        assert plan.filter.matches({"x": 1, "tenant": "t1"})
    else:
        with pytest.raises(SubscriptionRefused) as refusal:
            at_once(steps)
        assert refusal.value.code == outcome
        assert connection.subscriptions == {}


def test_a_query_that_a_new_definition_rules_out_ends_with_the_reason(desk: Desk) -> None:
    connection = desk.connect()
    sql = "SELECT * FROM app.orders WHERE status = 'open'"
    desk.subscribe(connection, sql, options={"on_gap": "snapshot"})
    desk.catalog.replace([msgspec.structs.replace(ORDERS, columns={"id": parse_type("bigint")})])
    at_once(desk.requests.tables_changed({ORDERS.id}))
    (refusal,) = connection.heard()
    assert refusal["code"] == "INVALID_SQL"
    assert "status" in refusal["message"]
    assert connection.subscriptions == {}


def test_a_table_that_is_gone_ends_its_subscriptions(desk: Desk) -> None:
    connection = desk.connect()
    desk.subscribe(connection)
    desk.catalog.replace([])
    at_once(desk.requests.tables_changed({ORDERS.id}))
    assert [message["code"] for message in connection.heard()] == ["NOT_FOUND"]
    assert not desk.manager.has_subscribers(ORDERS.id)


# Filters that cost too much, as the manager keeps them


def test_whom_a_demotion_sets_behind_are_the_live_ones_and_time_brings_them_back(
    desk: Desk,
) -> None:
    sql = "SELECT * FROM app.orders WHERE id % 2 = 1"
    live, loading = desk.subscribe(desk.connect(), sql), desk.subscribe(desk.connect(), sql)
    live.loaded(0)
    live.level()
    node = live.plan.node
    assert desk.manager.demote(node, 100.0) == [live]
    # Shown twice in one batch, it is demoted once.
    assert desk.manager.demote(node, 100.0) == []
    assert (desk.manager.counts.demoted, desk.manager.promotion_due) == (1, 160.0)
    desk.manager.promote(159.9)
    assert (node.is_demoted, desk.manager.promotion_due) == (True, 160.0)
    desk.manager.promote(160.0)
    assert (node.is_demoted, desk.manager.counts.demoted) == (False, 0)
    assert desk.manager.promotion_due == float("inf")
    assert loading.plan is live.plan


def test_a_filter_that_nobody_uses_any_more_is_not_demoted(desk: Desk) -> None:
    connection = desk.connect()
    node = desk.subscribe(connection, "SELECT * FROM app.orders WHERE id % 2 = 1").plan.node
    desk.requests.disconnect(connection)
    assert desk.manager.demote(node, 0.0) == []
    assert desk.manager.counts.demoted == 0
