"""Whole subscriptions against a naive reference: whatever happens, every view ends up exact.

A seeded script writes, subscribes, pages late or not at all, stops reading, drains, drops,
resumes, re-uses ids and changes claims, all of it interleaved with the server's own loops. The
reference is a dict of rows and a Python predicate. Views are strict (tests/helpers/views.py): a
`_seq` that does not rise, a row told twice, an update of a row that is not held, all fail at once.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.sinks import FakeConnection
from helpers.views import View
from helpers.world import World, world

from kalam_notify.log import EventLog, MemoryLog, Retention, SqliteLog
from kalam_notify.model import Identity, PostedChange, Role, TableDef, TableId, UserId
from kalam_notify.subscriptions import routing

SHARED = TableDef(TableId("m.shared"), "shared", "public", ("id",))
OWNED = TableDef(TableId("m.owned"), "user", primary_key=("id",))
POLICED = TableDef(
    TableId("m.policed"), "shared", "public", ("id",), policy="tenant = CLAIM('tenant') OR v = 0"
)

Values = dict[str, Any]
FILTERS: list[tuple[str, Callable[[Values], bool]]] = [
    ("", lambda row: True),
    ("WHERE v = 3", lambda row: row["v"] == 3),
    ("WHERE v IN (1, 2, 5)", lambda row: row["v"] in (1, 2, 5)),
    ("WHERE v BETWEEN 2 AND 4", lambda row: row["v"] is not None and 2 <= row["v"] <= 4),
    ("WHERE v % 2 = 0", lambda row: row["v"] is not None and row["v"] % 2 == 0),
    ("WHERE v IS NULL OR name LIKE 'a%'", lambda row: row["v"] is None or row["name"][0] == "a"),
    ("WHERE NOT (v > 3)", lambda row: row["v"] is not None and row["v"] <= 3),
    ("WHERE v % 3 = 1 OR name LIKE '%t'", lambda row: row["v"] in (1, 4) or row["name"] == "bert"),
    ("WHERE v + 1 = 3 AND name LIKE '%n%'", lambda row: row["v"] == 2 and row["name"] == "anna"),
    ("WHERE v % 2 = 1", lambda row: row["v"] is not None and row["v"] % 2 == 1),
    ("WHERE v + v = 4", lambda row: row["v"] == 2),
    ("WHERE v * 2 > 5", lambda row: row["v"] is not None and row["v"] >= 3),
]


class Subscriber:
    """One client: a connection that comes and goes, one subscription, and its view."""

    def __init__(self, world: World, rng: random.Random, user: str) -> None:
        self.world, self.rng, self.user = world, rng, user
        self.tenant = rng.choice("xy")
        self.connection: FakeConnection | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another query under the same id."""
        self.view = View()
        # Whether the claims have changed and the successor's ack has not been heard yet.
        self.stale_claims = False
        self.table = self.rng.choice([SHARED, OWNED, POLICED])
        self.filter = self.rng.choice(FILTERS)
        self.sql = f"SELECT * FROM {self.table.id} {self.filter[0]}"
        self.options: Values = {"batch_size": self.rng.randint(1, 7), "on_gap": "snapshot"}

    @property
    def identity(self) -> Identity:
        return Identity(UserId(self.user), Role.USER, {"tenant": self.tenant})

    def connect(self) -> None:
        self.connection = self.world.connect(self.identity, limit=self.rng.choice([200, 5000]))
        self._subscribe()

    def _subscribe(self) -> None:
        assert self.connection is not None
        self.world.subscribe(self.connection, "s", self.sql, self.options)

    def listen(self) -> None:
        """Take what has arrived."""
        if self.connection is not None:
            for message in self.connection.heard():
                self.view.apply(message)
                if message.get("resumed") is False:
                    self.stale_claims = False

    def drop(self) -> None:
        """Lose the connection; what had arrived is kept, what had not is lost with it."""
        assert self.connection is not None
        self.listen()
        self.world.requests.disconnect(self.connection)
        self.connection = None
        if self.stale_claims:
            # What it held belongs to other claims: no resume can mend that.
            self.begin_anew()
        elif self.view.last_seq:
            self.options = {**self.options, "from": str(self.view.last_seq)}

    def act(self) -> None:
        if self.connection is None:
            self.connect()
            return
        match self.rng.randrange(12):
            case 0:
                self.drop()
            case 1:
                # Nothing of the old subscription may come after this; what came before counts.
                self.listen()
                self.begin_anew()
                self._subscribe()
                self._listen_from_the_ack_on()
            case 2 | 3:
                self.connection.is_stuck = True
            case 4 | 5:
                self.world.drain(self.connection)
            case 6 | 7:
                self.world.next_batch(self.connection, "s")
            case 8:
                self.change_claims()
            case _:
                self.listen()

    def _listen_from_the_ack_on(self) -> None:
        """A page that another subscriber was just sent comes with the ack."""
        assert self.connection is not None
        heard = self.connection.heard()
        assert [message["type"] for message in heard[:1]] in ([], ["subscription_ack"])
        for message in heard:
            self.view.apply(message)

    def change_claims(self) -> None:
        assert self.connection is not None
        self.listen()
        tenant = self.rng.choice("xy")
        if self.table is POLICED and tenant != self.tenant:
            self.stale_claims = True
        self.tenant = tenant
        self.connection.identity = self.identity
        self.world.renew(self.world.requests.identity_changed(self.connection))

    def expected(self, rows: dict[tuple[str, str, Any], Values]) -> dict[Any, Values]:
        owner = self.user if self.table is OWNED else ""
        return {
            key: row
            for (table, row_owner, key), row in rows.items()
            if table == self.table.id
            and row_owner == owner
            and self.filter[1](row)
            and (self.table is not POLICED or row["tenant"] == self.tenant or row["v"] == 0)
        }


async def write(world: World, rng: random.Random, rows: dict[tuple[str, str, Any], Values]) -> None:
    """Post one batch, and keep the reference's rows."""
    batch = []
    for _ in range(rng.randint(1, 6)):
        table = rng.choice([SHARED, OWNED, POLICED])
        owner = rng.choice(["alice", "bob"]) if table is OWNED else ""
        values: Values = {
            "id": rng.choice([*range(12), "1", "é"]),
            "v": rng.choice([None, *range(6)]),
            "name": rng.choice(["anna", "bert"]),
            "tenant": rng.choice("xy"),
        }
        key = (table.id, owner, values["id"])
        kind = rng.choice(["insert", "update", "update", "delete"])
        if rng.random() < 0.03:
            for gone in [held for held in rows if held[:2] == key[:2]]:
                del rows[gone]
            batch.append(PostedChange(table.id, owner, "truncate", None, None))
        elif rng.random() < 0.1 and key in rows:
            rows[key] = values = {**values, "name": rows[key]["name"]}
            partial = {name: value for name, value in values.items() if name != "name"}
            change = world.change(table, "update", partial, owner)
            batch.append(msgspec.structs.replace(change, unchanged=("name",)))
        elif kind == "delete":
            rows.pop(key, None)
            batch.append(world.change(table, "delete", {"id": values["id"]}, owner))
        else:
            rows[key] = values
            batch.append(world.change(table, "insert", values, owner))
    await world.post(*batch)


async def play(world: World, rng: random.Random, steps: int) -> None:
    rows: dict[tuple[str, str, Any], Values] = {}
    subscribers = [Subscriber(world, rng, rng.choice(["alice", "bob"])) for _ in range(8)]
    for _ in range(steps):
        if rng.random() < 0.5:
            await write(world, rng, rows)
        rng.choice(subscribers).act()
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
    for subscriber in subscribers:
        if subscriber.connection is None:
            subscriber.connect()
        assert subscriber.connection is not None
        world.drain(subscriber.connection)
    await world.settle()
    for subscriber in subscribers:
        subscriber.listen()
        held = {
            key: {name: value for name, value in row.items() if name != "_seq"}
            for key, row in subscriber.view.rows.items()
        }
        assert held == subscriber.expected(rows), subscriber.sql


@pytest.fixture
def slow_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share so small that filters are demoted all the time, and looked at by the clock."""
    monkeypatch.setattr(routing, "SHARE", 4e-6)
    # And are asked again at once, and so demoted again.
    monkeypatch.setattr(routing, "RETRY_SECONDS", 0.001)


@pytest.mark.parametrize("seed", range(30))
async def test_views_are_exact_while_plans_are_demoted(seed: int, slow_filters: None) -> None:
    rng = random.Random(3000 + seed)
    async with world(MemoryLog(), [SHARED, OWNED, POLICED]) as it:
        await play(it, rng, 300)


@pytest.mark.parametrize("seed", range(10))
async def test_views_are_exact_while_plans_are_demoted_on_the_file(
    seed: int, slow_filters: None, tmp_path: Path
) -> None:
    rng = random.Random(4000 + seed)
    log: EventLog = SqliteLog(tmp_path / "log.db", durability="os", window_bytes=2000)
    async with world(log, [SHARED, OWNED, POLICED]) as it:
        await play(it, rng, 200)


class Shop:
    """Clients with several subscriptions on one connection each."""

    def __init__(self, world: World, rng: random.Random, count: int) -> None:
        self.world, self.rng = world, rng
        self.clients = [Multiple(world, rng, rng.choice(["alice", "bob"])) for _ in range(count)]

    def act(self) -> None:
        self.rng.choice(self.clients).act()


class Multiple:
    """One connection with subscriptions that come, go, resume and are replaced one by one."""

    def __init__(self, world: World, rng: random.Random, user: str) -> None:
        self.world, self.rng, self.user = world, rng, user
        self.connection: FakeConnection | None = None
        self.held: dict[str, tuple[TableDef, tuple[str, Callable[[Values], bool]], View]] = {}

    def act(self) -> None:
        if self.connection is None:
            self.connect()
            return
        self.listen()
        match self.rng.randrange(8):
            case 0:
                self.world.requests.disconnect(self.connection)
                self.connection = None
            case 1 | 2:
                self.add(f"s{self.rng.randrange(6)}")
            case 3 if self.held:
                name = self.rng.choice([*self.held])
                self.world.requests.unsubscribe(self.connection, name)
                del self.held[name]
            case 4:
                self.connection.is_stuck = True
            case 5 | 6:
                self.world.drain(self.connection)
            case _ if self.held:
                self.world.next_batch_if_there(self.connection, self.rng.choice([*self.held]))

    def connect(self) -> None:
        identity = Identity(UserId(self.user), Role.USER)
        self.connection = self.world.connect(identity, limit=self.rng.choice([200, 5000]))
        for name, (table, condition, view) in self.held.items():
            options: Values = {"batch_size": 5, "on_gap": "snapshot"}
            if view.last_seq:
                options["from"] = view.last_seq
            else:
                self.held[name] = (table, condition, View())
            self.subscribe(name, table, condition[0], options)

    def add(self, name: str) -> None:
        table, condition = self.rng.choice([SHARED, OWNED]), self.rng.choice(FILTERS)
        self.held[name] = (table, condition, View())
        self.subscribe(name, table, condition[0], {"batch_size": self.rng.randint(1, 9)})

    def subscribe(self, name: str, table: TableDef, where: str, options: Values) -> None:
        assert self.connection is not None
        self.world.subscribe(self.connection, name, f"SELECT * FROM {table.id} {where}", options)

    def listen(self) -> None:
        if self.connection is not None:
            for message in self.connection.heard():
                self.held[message["subscription_id"]][2].apply(message)

    def expected(self, name: str, rows: dict[tuple[str, str, Any], Values]) -> dict[Any, Values]:
        table, condition, _ = self.held[name]
        owner = self.user if table is OWNED else ""
        return {
            key: row
            for (row_table, row_owner, key), row in rows.items()
            if row_table == table.id and row_owner == owner and condition[1](row)
        }


async def play_shop(world: World, rng: random.Random, steps: int) -> None:
    rows: dict[tuple[str, str, Any], Values] = {}
    shop = Shop(world, rng, 5)
    for _ in range(steps):
        if rng.random() < 0.4:
            await write(world, rng, rows)
        shop.act()
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
    for client in shop.clients:
        client.listen()
        if client.connection is None:
            client.connect()
        assert client.connection is not None
        world.drain(client.connection)
    await world.settle()
    for client in shop.clients:
        client.listen()
        for name, (table, condition, view) in client.held.items():
            held = {
                key: {column: value for column, value in row.items() if column != "_seq"}
                for key, row in view.rows.items()
            }
            assert held == client.expected(name, rows), (name, table.id, condition[0])


@pytest.mark.parametrize("seed", range(40))
async def test_views_are_exact_with_several_subscriptions_on_a_connection(seed: int) -> None:
    rng = random.Random(5000 + seed)
    async with world(MemoryLog(), [SHARED, OWNED, POLICED]) as it:
        await play_shop(it, rng, 400)


@pytest.mark.parametrize("seed", range(20))
async def test_views_are_exact_with_several_subscriptions_some_demoted(
    seed: int, slow_filters: None, tmp_path: Path
) -> None:
    rng = random.Random(6000 + seed)
    log: EventLog = SqliteLog(tmp_path / "log.db", durability="os", window_bytes=3000)
    async with world(log, [SHARED, OWNED, POLICED]) as it:
        await play_shop(it, rng, 250)


@pytest.mark.parametrize("seed", range(60))
async def test_views_are_exact_on_the_memory_log(seed: int) -> None:
    rng = random.Random(seed)
    async with world(MemoryLog(), [SHARED, OWNED, POLICED]) as it:
        await play(it, rng, 400)


@pytest.mark.parametrize("seed", range(15))
async def test_views_are_exact_on_the_file(seed: int, tmp_path: Path) -> None:
    rng = random.Random(1000 + seed)
    log: EventLog = SqliteLog(tmp_path / "log.db", durability="os")
    async with world(log, [SHARED, OWNED, POLICED]) as it:
        await play(it, rng, 200)


@pytest.mark.parametrize("seed", range(15))
async def test_views_are_exact_when_retention_cuts_the_history_short(seed: int) -> None:
    rng = random.Random(2000 + seed)
    log = MemoryLog(retention=Retention(max_age=None, max_bytes=4000))
    async with world(log, [SHARED, OWNED, POLICED]) as it:
        rows: dict[tuple[str, str, Any], Values] = {}
        subscriber = Subscriber(it, rng, "alice")
        for _ in range(30):
            subscriber.connect()
            await it.settle()
            subscriber.drop()
            for _ in range(rng.randrange(12)):
                await write(it, rng, rows)
            if rng.random() < 0.5:
                await log.trim()
        subscriber.connect()
        await it.settle()
        subscriber.listen()
        assert subscriber.view.rows.keys() == subscriber.expected(rows).keys()
