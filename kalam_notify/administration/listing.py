"""One worker's connections, subscriptions and tables as rows of JSON, in steps of the budget.

What belongs on a page is found first (finding.py); then each is told, with a rest after each.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson

from kalam_notify.administration.finding import (
    found_connections,
    found_subscriptions,
    found_tables,
)
from kalam_notify.administration.questions import Answer, ConnectionName, Listing, Place
from kalam_notify.administration.standing import Standing
from kalam_notify.budget import Budget, Steps
from kalam_notify.errors import LogUnavailable
from kalam_notify.filters import Explanation, FilterIndex
from kalam_notify.model import SHARED, ConnectionId, Owner, TableDef, TableId
from kalam_notify.model.tables import Catalog, SeenColumns
from kalam_notify.sql.tree import Call, Expression
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode, Plan, SubscriptionHandle, SubscriptionState

LARGE_FILTER = 1000
"""Operands from which on a filter takes milliseconds to be described: a thread's business."""

LONGEST_TEXT = 2000
"""Characters of a filter in normal form that are told."""

OWNER = ("administration",)
"""Who the budget counts all of it for: no user has this name."""

T = TypeVar("T")


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
        newest_columns: Callable[[TableDef, Owner], SeenColumns | None],
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
        known: dict[Plan, Described] = {}
        for plan in {handle.plan for handle in handles}:
            index = self._index_of(plan)
            if is_large(plan.filter.predicate) and index is not None:
                known[plan] = await asyncio.to_thread(described, plan, index)

        def tell(handle: SubscriptionHandle) -> dict[str, Any]:
            return self._subscription(handle, known.get(handle.plan))

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

    def _subscription(self, handle: SubscriptionHandle, known: Described | None) -> dict[str, Any]:
        plan, connection = handle.plan, handle.live_query_id.connection_id
        position = self._position(handle)
        sink = self._manager.connections.get(connection)
        index = self._index_of(plan)
        known = known or described(plan, FilterIndex() if index is None else index)
        standing = self._standing
        return {
            "id": handle.id,
            "connection": self.name_of(connection),
            "user": handle.live_query_id.user_id or None,
            "address": None if sink is None else sink.address,
            "table": plan.table.id,
            "sql": handle.sql,
            "plan": {
                "filter": known.sql,
                "columns": plan.projection.columns,
                "subscribers": plan.subscribers,
                "live_subscribers": plan.live_count,
                "demoted": plan.node.is_demoted,
            },
            "index": known.explanation.index,
            "residual": known.explanation.residual,
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
            seen = self._newest_columns(table, SHARED)
            return [] if seen is None else sorted(seen.names)
        except LogUnavailable:
            return []


def _place_of(connection: Connection) -> Place:
    return Place(connection.connection_id)


def _place_on(handle: SubscriptionHandle) -> Place:
    return Place(handle.live_query_id.connection_id, handle.id)


def _age(seconds: float) -> float:
    return round(max(seconds, 0.0), 3)
