"""Lists of one worker: their order, their pages, and what a turn of the loop pays for them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.sinks import FakeConnection

from kalam_notify.administration.finding import (
    CHECKS_PER_STEP,
    found_connections,
    found_subscriptions,
    waiting_bytes,
)
from kalam_notify.administration.listing import LARGE_FILTER, Lists, is_large
from kalam_notify.administration.questions import Listing, Place
from kalam_notify.budget import Scheduler, Steps, at_once
from kalam_notify.filters import bind
from kalam_notify.model import ConnectionId, Identity, Role, TableDef, TableId, UserId
from kalam_notify.model.tables import Catalog, SeenColumns
from kalam_notify.model.types import parse_type
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager

ORDERS = TableDef(
    TableId("app.orders"),
    "shared",
    "public",
    ("id",),
    {"id": parse_type("bigint"), "text": parse_type("text")},
)
EVENTS = TableDef(TableId("app.events"), "shared", "public")
LIMITS = Limits(64_000, 5000)
MANY = 25_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Standing:
    position = 50

    def seconds_behind(self, position: int) -> float:
        return float(50 - position)

    def bytes_behind(self, position: int) -> int:
        return (50 - position) * 10


class Counted(dict[ConnectionId, Connection]):
    """The connections of a manager, counting how many of them are looked at."""

    checks = 0
    on_look: Callable[[], None] = staticmethod(lambda: None)

    def get(self, *key: Any) -> Any:
        self.checks += 1
        self.on_look()
        return super().get(*key)


class StepByStep:
    """A budget that rests after each step, and tells what each one did."""

    def __init__(self, counted: Counted) -> None:
        self.counted = counted
        self.checks: list[int] = []

    async def do(self, steps: Steps[Any], owner: object) -> Any:
        while True:
            before = self.counted.checks
            try:
                next(steps)
            except StopIteration as over:
                return over.value
            finally:
                self.checks.append(self.counted.checks - before)


class Stage:
    """A manager with connections, and lists of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.manager = ConnectionsManager(self.clock)
        self.connections = self.manager.connections = Counted()
        self.budget = StepByStep(self.connections)
        self.lists = Lists(
            self.manager,
            Catalog([ORDERS, EVENTS]),
            Standing(),  # type: ignore[arg-type]
            self.budget,  # type: ignore[arg-type]
            worker=2,
            life="00c0de",
            newest_columns=lambda table, owner: SeenColumns(frozenset(("n", "text")), False),
            ingested=lambda table: 7,
        )

    def connect(self, user: str = "alice") -> FakeConnection:
        connection = FakeConnection(Identity(UserId(user), Role.USER))
        self.manager.connect(connection)
        return connection

    def subscribe(self, connection: FakeConnection, name: str, where: str = "") -> Any:
        sql = f"SELECT * FROM app.orders {where}"
        query = bind(parse(sql, LIMITS), ORDERS, connection.identity)
        handle = self.manager.subscribe(connection, name, query, None, sql=sql).handle
        handle.loaded(40)
        return handle


@pytest.fixture
def stage() -> Stage:
    return Stage()


def rows(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(row) for row in answer.rows]


async def test_a_connection_is_told_with_user_role_address_age_and_what_waits(
    stage: Stage,
) -> None:
    connection = stage.connect("alice")
    stage.subscribe(connection, "a").level()
    stage.subscribe(connection, "b")
    connection.waiting = 300
    stage.clock.now += 12.5
    (told,) = rows(await stage.lists.connections(Listing("connections", 10)))
    assert told == {
        "id": f"2-00c0de-{connection.connection_id}",
        "user": "alice",
        "role": "user",
        "address": "192.0.2.1",
        "age": 12.5,
        "bytes_waiting": 300,
        "subscriptions": 2,
        "lagging": 1,
    }


async def test_a_subscription_is_told_with_plan_index_state_and_how_far_behind_it_is(
    stage: Stage,
) -> None:
    connection = stage.connect()
    stage.subscribe(connection, "mine", "WHERE 5 = id AND text LIKE '%x%'")
    stage.clock.now += 3
    (told,) = rows(await stage.lists.subscriptions(Listing("subscriptions", 10)))
    assert told["sql"] == "SELECT * FROM app.orders WHERE 5 = id AND text LIKE '%x%'"
    assert (told["id"], told["connection"]) == ("mine", f"2-00c0de-{connection.connection_id}")
    assert (told["user"], told["address"], told["table"]) == ("alice", "192.0.2.1", "app.orders")
    assert told["index"] == "hash id = 5"
    assert told["residual"] == "text LIKE '%x%'"
    assert told["plan"]["filter"] == "(id = 5) AND (text LIKE '%x%')"
    assert told["plan"]["subscribers"] == 1
    assert (told["state"], told["position"]) == ("catching_up", 40)
    assert (told["seconds_behind"], told["bytes_behind"], told["age"]) == (10, 100, 3)


async def test_a_live_subscription_stands_where_the_fan_out_does(stage: Stage) -> None:
    stage.subscribe(stage.connect(), "s").level()
    (told,) = rows(await stage.lists.subscriptions(Listing("subscriptions", 10)))
    assert (told["state"], told["position"], told["seconds_behind"]) == ("live", 50, 0)


async def test_pages_of_connections_tell_each_once_though_others_come_and_go(
    stage: Stage,
) -> None:
    connections = [stage.connect() for _ in range(10)]
    asked = Listing("connections", 3)
    told: list[str] = []
    while True:
        answer = await stage.lists.connections(asked)
        told += [row["id"] for row in rows(answer)]
        if answer.last is None:
            break
        stage.connect("late")
        stage.manager.disconnect(ConnectionId(answer.last.number))
        asked = Listing("connections", 3 if len(told) < 9 else 100, after=answer.last)
    assert told[:10] == [f"2-00c0de-{one.connection_id}" for one in connections]
    assert len(told) == len(set(told)) == 13


async def test_pages_of_subscriptions_go_on_in_the_middle_of_a_connection(stage: Stage) -> None:
    for _ in range(3):
        connection = stage.connect()
        for name in ("c", "a", "b"):
            stage.subscribe(connection, name)
    told: list[tuple[str, str]] = []
    asked = Listing("subscriptions", 2)
    while True:
        answer = await stage.lists.subscriptions(asked)
        told += [(row["connection"], row["id"]) for row in rows(answer)]
        if answer.last is None:
            break
        asked = Listing("subscriptions", 2, after=answer.last)
    assert [name for _, name in told] == ["a", "b", "c"] * 3
    assert len(set(told)) == 9


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_a_page_that_ends_with_the_list_tells_of_no_next_one(
    stage: Stage, limit: int
) -> None:
    for _ in range(2):
        stage.connect()
    answer = await stage.lists.connections(Listing("connections", limit))
    assert len(answer.rows) == min(limit, 2)
    assert (answer.last is None) is (limit >= 2)


async def test_a_page_is_bounded_by_bytes_and_has_one_row_at_least(stage: Stage) -> None:
    for number in range(5):
        stage.subscribe(stage.connect(), "s", f"WHERE text = '{'x' * 1000}{number}'")
    asked = Listing("subscriptions", 100, max_bytes=4000)
    answer = await stage.lists.subscriptions(asked)
    assert 0 < len(answer.rows) < 5
    assert sum(map(len, answer.rows)) <= 4000
    assert answer.last is not None
    answer = await stage.lists.subscriptions(Listing("subscriptions", 100, max_bytes=1))
    assert len(answer.rows) == 1


async def test_lists_are_of_a_user_a_table_a_connection_or_of_what_lags(stage: Stage) -> None:
    alice, bob, idle = stage.connect("alice"), stage.connect("bob"), stage.connect("bob")
    stage.subscribe(alice, "behind")
    stage.subscribe(alice, "live").level()
    stage.subscribe(bob, "live").level()

    async def connections(**wanted: Any) -> list[str]:
        found = await stage.lists.connections(Listing("connections", 10, **wanted))
        return [row["id"].rpartition("-")[2] for row in rows(found)]

    async def names(**wanted: Any) -> list[tuple[str, str]]:
        found = await stage.lists.subscriptions(Listing("subscriptions", 10, **wanted))
        return [(row["user"], row["id"]) for row in rows(found)]

    assert await connections(user="bob") == ["2", "3"]
    assert await connections(lagging=True) == ["1"]
    assert await connections(lagging=False) == ["2", "3"]
    assert await connections(user="nobody") == []
    assert await names(lagging=True) == [("alice", "behind")]
    assert await names(lagging=False, user="alice") == [("alice", "live")]
    assert await names(table="app.orders") == [
        ("alice", "behind"),
        ("alice", "live"),
        ("bob", "live"),
    ]
    assert await names(table="app.events") == []
    assert await names(connection=bob.connection_id) == [("bob", "live")]
    assert await names(connection=idle.connection_id) == []
    after = Place(alice.connection_id, "behind")
    assert await names(connection=alice.connection_id, after=after) == [("alice", "live")]


async def test_tables_are_told_in_order_of_their_names(stage: Stage) -> None:
    stage.subscribe(stage.connect(), "s")
    events, orders = rows(await stage.lists.tables(Listing("tables", 10)))
    assert events["table"] == "app.events"
    assert (events["columns"], events["seen_columns"]) == (None, ["n", "text"])
    assert orders["columns"] == [
        {"name": "id", "type": "BigInt"},
        {"name": "text", "type": "Text"},
    ]
    assert (orders["primary_key"], orders["seen_columns"]) == (["id"], [])
    assert (orders["subscriptions"], orders["changes"], orders["declared"]) == (1, 7, True)
    answer = await stage.lists.tables(Listing("tables", 1))
    assert answer.last == Place(0, "app.events")
    (told,) = rows(await stage.lists.tables(Listing("tables", 1, after=answer.last)))
    assert told["table"] == "app.orders"


@pytest.fixture(scope="module")
def crowd() -> Stage:
    """Twenty-five thousand connections with a subscription each."""
    stage = Stage()
    for number in range(MANY):
        stage.subscribe(stage.connect(f"user-{number % 100}"), "s").level()
    return stage


SCANS = [
    Listing("connections", 1000),
    Listing("connections", 1000, after=Place(MANY - 10)),
    Listing("connections", 1000, user="user-7"),
    Listing("connections", 1000, user="nobody"),
    Listing("connections", 1000, lagging=True),
    Listing("subscriptions", 1000),
    Listing("subscriptions", 1000, user="nobody"),
    Listing("subscriptions", 1000, lagging=True),
    Listing("subscriptions", 1000, table="app.events"),
]


@pytest.mark.parametrize("asked", SCANS, ids=str)
async def test_of_25000_connections_a_step_looks_at_few_and_tells_of_one(
    crowd: Stage, asked: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a turn of the loop pays is a step: so many looks, or one row."""
    told = 0

    def count(*how: Any) -> bytes:
        nonlocal told
        told += 1
        return json.dumps(*how).encode()

    monkeypatch.setattr("kalam_notify.administration.listing.orjson.dumps", count)
    crowd.budget.checks.clear()
    if asked.subject == "connections":
        answer = await crowd.lists.connections(asked)
    else:
        answer = await crowd.lists.subscriptions(asked)
    assert told <= len(answer.rows) + 1
    assert len(crowd.budget.checks) >= len(answer.rows)
    assert max(crowd.budget.checks) <= CHECKS_PER_STEP + 1


LOOK_SECONDS, ROW_SECONDS = 0.000_01, 0.000_5
"""Ten times what a look and a row cost where there is nothing else to do."""


class Slices:
    """A budget's scheduler on a clock that looks and rows move on; the longest of its slices."""

    def __init__(self, clock: Clock, counted: Counted) -> None:
        self.longest = 0.0
        self.clock = clock
        counted.on_look = lambda: clock.sleep(LOOK_SECONDS)
        self._scheduler = Scheduler(clock)

    async def do(self, steps: Steps[Any], owner: object) -> Any:
        work = self._scheduler.put(steps, owner)
        while not work.is_over:
            began = self.clock.now
            self._scheduler.serve()
            self.longest = max(self.longest, self.clock.now - began)
        assert work.error is None
        return work.result


@pytest.mark.parametrize("asked", SCANS, ids=str)
async def test_with_25000_connections_no_slice_is_longer_than_5_ms(
    crowd: Stage, asked: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    slices = Slices(clock, crowd.connections)
    monkeypatch.setattr(crowd.lists, "_budget", slices)

    def row(*how: Any) -> bytes:
        clock.sleep(ROW_SECONDS)
        return json.dumps(*how).encode()

    monkeypatch.setattr("kalam_notify.administration.listing.orjson.dumps", row)
    await getattr(crowd.lists, asked.subject)(asked)
    crowd.connections.on_look = lambda: None
    assert 0 < slices.longest <= 0.005


async def test_all_25000_are_told_page_by_page(crowd: Stage) -> None:
    asked, seen = Listing("connections", 1000), 0
    while True:
        answer = await crowd.lists.connections(asked)
        seen += len(answer.rows)
        if answer.last is None:
            break
        asked = Listing("connections", 1000, after=answer.last)
    assert seen == MANY


def test_a_connection_that_goes_while_it_is_looked_for_is_left_out(stage: Stage) -> None:
    connections = [stage.connect() for _ in range(CHECKS_PER_STEP * 2)]
    steps = found_connections(stage.manager, Listing("connections", 1000))
    next(steps)
    for connection in connections:
        stage.manager.disconnect(connection.connection_id)
    assert len(at_once(steps)) == CHECKS_PER_STEP
    assert at_once(found_subscriptions(stage.manager, Listing("subscriptions", 10))) == []


def filters() -> Iterator[tuple[str, list[Any], bool]]:
    yield "id = 1", [], False
    yield "id = ANY($1)", [list(range(LARGE_FILTER))], True
    yield "id = ANY($1)", [list(range(LARGE_FILTER // 2))], False
    yield " OR ".join(f"id > {n} AND id < {n + 2}" for n in range(0, 2000, 3)), [], True


@pytest.mark.parametrize(
    ("where", "params", "large"), [*filters()], ids=lambda value: str(value)[:20]
)
async def test_a_large_filter_is_described_off_the_loop(
    stage: Stage, where: str, params: list[Any], large: bool
) -> None:
    connection = stage.connect()
    sql = f"SELECT * FROM app.orders WHERE {where}"
    query = bind(parse(sql, LIMITS), ORDERS, connection.identity, None, params)
    assert is_large(query.filter.predicate) is large
    stage.manager.subscribe(connection, "s", query, None, sql=sql)
    (told,) = rows(await stage.lists.subscriptions(Listing("subscriptions", 1)))
    assert told["index"]
    assert len(told["plan"]["filter"]) <= 2100


async def test_the_bytes_that_wait_for_25000_sockets_are_added_up_in_steps(crowd: Stage) -> None:
    connections = list(crowd.manager.connections.values())
    for connection in connections[::1000]:
        assert isinstance(connection, FakeConnection)
        connection.waiting = 3
    steps = waiting_bytes(crowd.manager)
    assert len([*steps]) == MANY // CHECKS_PER_STEP
    assert at_once(waiting_bytes(crowd.manager)) == 3 * MANY // 1000
