"""One worker's connections, subscriptions and tables as rows of JSON, in steps of the budget.

There may be tens of thousands, of which a page wants some hundred. What belongs on the page is
found first, by looks that cost a microsecond each, with a rest after every so many; then each is
told, with a rest after each. Order is that of connection numbers, which rise, so that a page goes
on after the one before whatever has come or gone meanwhile.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import orjson

from kalam_notify.administration.questions import Answer, ConnectionName, Listing, Place
from kalam_notify.budget import Budget, Steps
from kalam_notify.errors import LogUnavailable
from kalam_notify.filters import Explanation, FilterIndex
from kalam_notify.model import SHARED, ConnectionId, Owner, TableDef, TableId
from kalam_notify.model.tables import Catalog
from kalam_notify.sql.tree import Call, Expression
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode, Plan, SubscriptionHandle, SubscriptionState

LOOKS = 128
"""Connections and subscriptions that are looked at between two rests."""

LARGE_FILTER = 1000
"""Operands from which on a filter takes milliseconds to be described: a thread's business."""

LONGEST_TEXT = 2000
"""Characters of a filter in normal form that are told."""

OWNER = ("administration",)
"""Who the budget counts all of it for: no user has this name."""

T = TypeVar("T")


class Standing(Protocol):
    """What a worker knows of positions on the log."""

    @property
    def position(self) -> int:
        """How far the fan-out is."""

    def seconds_behind(self, position: int) -> float:
        """The age of the oldest change after a position; 0 at the end of the log."""

    def bytes_behind(self, position: int) -> int:
        """About how many bytes of changes there are after a position."""


class Described(NamedTuple):
    """A plan in words: its filter in normal form, and how the index finds it."""

    sql: str
    explanation: Explanation


def described(plan: Plan, index: FilterIndex[FilterNode]) -> Described:
    text = plan.filter.sql
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + " …"
    return Described(text, index.explain(plan.filter))


def is_large(expression: Expression) -> bool:
    """Whether the expression has LARGE_FILTER operands or more."""
    waiting, operands = [expression], 0
    while waiting:
        node = waiting.pop()
        if isinstance(node, Call):
            operands += len(node.args)
            if operands >= LARGE_FILTER:
                return True
            waiting.extend(node.args)
    return False


class Lists:
    """Lists of one worker: number `worker` (from 1) in its present `life`."""

    def __init__(
        self,
        manager: ConnectionsManager,
        catalog: Catalog,
        standing: Standing,
        budget: Budget,
        *,
        worker: int,
        life: str,
        newest_columns: Callable[[TableDef, Owner], Collection[str] | None],
        ingested: Callable[[TableId], int],
    ) -> None:
        self._manager = manager
        self._catalog = catalog
        self._standing = standing
        self._budget = budget
        self._worker = worker
        self._life = life
        self._newest_columns = newest_columns
        self._ingested = ingested

    def name_of(self, connection_id: ConnectionId) -> str:
        """A connection's id as operators know it."""
        return str(ConnectionName(self._worker, self._life, connection_id))

    async def connections(self, asked: Listing) -> Answer:
        found = await self._do(found_connections(self._manager, asked))
        return await self._do(self._written(found, asked, _place_of, self._connection))

    async def subscriptions(self, asked: Listing) -> Answer:
        handles = await self._do(found_subscriptions(self._manager, asked))
        told: dict[Plan, Described] = {}
        for plan in {handle.plan for handle in handles}:
            index = self._index_of(plan)
            if is_large(plan.filter.predicate) and index is not None:
                told[plan] = await asyncio.to_thread(described, plan, index)

        def tell(handle: SubscriptionHandle) -> dict[str, Any]:
            return self._subscription(handle, told.get(handle.plan))

        return await self._do(self._written(handles, asked, _place_on, tell))

    async def tables(self, asked: Listing) -> Answer:
        tables = await self._do(found_tables(self._catalog, asked))

        def place(table: TableDef) -> Place:
            return Place(0, table.id)

        return await self._do(self._written(tables, asked, place, self._table))

    async def _do(self, steps: Steps[T]) -> T:
        return await self._budget.do(steps, OWNER)

    def _written(
        self,
        found: Sequence[T],
        asked: Listing,
        place: Callable[[T], Place],
        tell: Callable[[T], dict[str, Any]],
    ) -> Steps[Answer]:
        """As many as the limits allow; `found` holds one more than that where there is one."""
        rows: list[bytes] = []
        size = 0
        for number, one in enumerate(found):
            row = orjson.dumps(tell(one))
            size += len(row)
            if number == asked.limit or (rows and size > asked.max_bytes):
                return Answer(self._life, rows, place(found[number - 1]))
            rows.append(row)
            yield
        return Answer(self._life, rows)

    def _connection(self, connection: Connection) -> dict[str, Any]:
        identity = connection.identity
        handles = connection.subscriptions.values()
        return {
            "id": self.name_of(connection.connection_id),
            "user": identity.user_id or None,
            "role": identity.role.label,
            "address": connection.address,
            "age": _age(self._manager.clock() - connection.opened_at),
            "bytes_waiting": connection.waiting,
            "subscriptions": len(handles),
            "lagging": sum(handle.state is not SubscriptionState.LIVE for handle in handles),
        }

    def _subscription(self, handle: SubscriptionHandle, told: Described | None) -> dict[str, Any]:
        plan, connection = handle.plan, handle.live_query_id.connection_id
        position = self._position(handle)
        sink = self._manager.connections.get(connection)
        index = self._index_of(plan)
        told = told or described(plan, FilterIndex() if index is None else index)
        standing = self._standing
        return {
            "id": handle.id,
            "connection": self.name_of(connection),
            "user": handle.live_query_id.user_id or None,
            "address": None if sink is None else sink.address,
            "table": plan.table.id,
            "sql": handle.sql,
            "plan": {
                "filter": told.sql,
                "columns": plan.projection.columns,
                "subscribers": plan.subscribers,
                "live_subscribers": plan.live_count,
                "demoted": plan.node.is_demoted,
            },
            "index": told.explanation.index,
            "residual": told.explanation.residual,
            "state": handle.state.value,
            "position": position,
            "seconds_behind": 0 if position is None else _age(standing.seconds_behind(position)),
            "bytes_behind": 0 if position is None else standing.bytes_behind(position),
            "bytes_waiting": 0 if sink is None else sink.waiting,
            "age": _age(self._manager.clock() - handle.begun_at),
        }

    def _position(self, handle: SubscriptionHandle) -> int | None:
        """Up to where all has been handed over; None before a snapshot's first page."""
        if handle.state is SubscriptionState.LIVE:
            return self._standing.position
        return handle.position

    def _index_of(self, plan: Plan) -> FilterIndex[FilterNode] | None:
        plans = self._manager.plans(plan.table.id, plan.owner)
        return None if plans is None else plans.index

    def _table(self, table: TableDef) -> dict[str, Any]:
        columns = table.columns
        return {
            "table": table.id,
            "type": table.kind,
            "access": table.access if table.is_shared else None,
            "primary_key": table.primary_key,
            "columns": None
            if columns is None
            else [{"name": name, "type": str(one)} for name, one in columns.items()],
            "seen_columns": self._seen_columns(table),
            "indexes": table.indexes,
            "policy": table.policy,
            "max_age": table.max_age,
            "declared": self._catalog.is_declared(table.id),
            "subscriptions": self._manager.count_of(table.id),
            "changes": self._ingested(table.id),
        }

    def _seen_columns(self, table: TableDef) -> list[str]:
        """What one of the newest rows has, where nothing is declared and everybody may know."""
        if table.columns is not None or not table.is_shared:
            return []
        try:
            return [*(self._newest_columns(table, SHARED) or ())]
        except LogUnavailable:
            return []


def found_connections(manager: ConnectionsManager, asked: Listing) -> Steps[list[Connection]]:
    """Those that belong on the page, and one more where there is one."""
    found: list[Connection] = []
    looks = 0
    for connection in _after(manager, asked):
        looks += 1
        if asked.lagging is not None:
            looks += len(connection.subscriptions)
        if _has_user(connection, asked) and _lags(connection, asked):
            found.append(connection)
            if len(found) > asked.limit:
                break
        if looks >= LOOKS:
            looks = 0
            yield
    return found


def found_subscriptions(
    manager: ConnectionsManager, asked: Listing
) -> Steps[list[SubscriptionHandle]]:
    """Those that belong on the page, and one more where there is one."""
    found: list[SubscriptionHandle] = []
    looks = 0
    for connection in _after(manager, asked, including=True):
        looks += 1 + len(connection.subscriptions)
        if _has_user(connection, asked):
            found += _wanted_of(connection, asked)
        if len(found) > asked.limit:
            break
        if looks >= LOOKS:
            looks = 0
            yield
    return found[: asked.limit + 1]


def _wanted_of(connection: Connection, asked: Listing) -> Iterator[SubscriptionHandle]:
    """A connection's subscriptions that are asked for, in order of their ids."""
    is_first = connection.connection_id == asked.after.number
    for name in sorted(connection.subscriptions):
        handle = connection.subscriptions[name]
        if is_first and name <= asked.after.name:
            continue
        if asked.table is not None and handle.plan.table.id != asked.table:
            continue
        is_lagging = handle.state is not SubscriptionState.LIVE
        if asked.lagging is None or asked.lagging is is_lagging:
            yield handle


def found_tables(catalog: Catalog, asked: Listing) -> Steps[list[TableDef]]:
    """Those that belong on the page, and one more where there is one."""
    names = {table.id: table for table in catalog.tables()}
    yield
    # Names are interned texts: ten thousand are in order after a millisecond or two.
    ordered = sorted(names)
    yield
    start = bisect_right(ordered, asked.after.name)
    return [names[name] for name in ordered[start : start + asked.limit + 1]]


def _after(
    manager: ConnectionsManager, asked: Listing, *, including: bool = False
) -> Iterator[Connection]:
    """The connections after a place, or from it on; those that go meanwhile are left out."""
    one = asked.connection
    # A connection's number is higher than all before it, so they stand in order.
    numbers = list(manager.connections) if one is None else [ConnectionId(one)]
    start = bisect_right(numbers, asked.after.number - including)
    for place in range(start, len(numbers)):
        connection = manager.connections.get(numbers[place])
        if connection is not None:
            yield connection


def waiting_bytes(manager: ConnectionsManager) -> Steps[int]:
    """Bytes that wait for all sockets."""
    total = 0
    for number, connection in enumerate(list(manager.connections.values()), 1):
        total += connection.waiting
        if number % LOOKS == 0:
            yield
    return total


def _has_user(connection: Connection, asked: Listing) -> bool:
    return asked.user is None or connection.identity.user_id == asked.user


def _lags(connection: Connection, asked: Listing) -> bool:
    if asked.lagging is None:
        return True
    handles = connection.subscriptions.values()
    return asked.lagging is any(handle.state is not SubscriptionState.LIVE for handle in handles)


def _place_of(connection: Connection) -> Place:
    return Place(connection.connection_id)


def _place_on(handle: SubscriptionHandle) -> Place:
    return Place(handle.live_query_id.connection_id, handle.id)


def _age(seconds: float) -> float:
    return round(max(seconds, 0.0), 3)
