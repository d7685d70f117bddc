"""ConnectionsManager: every connection, every subscription, and the indexes they are found by.

SHARED and USER subscriptions are indexed apart, so that no look-up for one can meet the other:

    shared_table_subscriptions  TableId           -> {LiveQueryId: SubscriptionHandle}
    user_table_subscriptions    (UserId, TableId) -> {LiveQueryId: SubscriptionHandle}

subscribe, unsubscribe and disconnect cost O(1) per subscription. The manager decides and returns;
whoever called it acts (sends, closes, wakes).
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from kalam_notify.errors import SubscriptionRefused
from kalam_notify.filters import Query
from kalam_notify.model import (
    SHARED,
    ConnectionId,
    Identity,
    LiveQueryId,
    Owner,
    TableId,
    UserId,
)
from kalam_notify.protocol.messages import Options
from kalam_notify.subscriptions.plans import (
    Counts,
    FilterNode,
    Plan,
    Sink,
    SubscriptionHandle,
    TablePlans,
    payer_of,
)
from kalam_notify.subscriptions.routing import NEVER

K = TypeVar("K")


class Connection(Sink, Protocol):
    """What the manager asks of a connection."""

    connection_id: ConnectionId
    # Where the client is, as far as proxies tell; and since when it is here, by `clock`.
    address: str
    opened_at: float

    @property
    def identity(self) -> Identity: ...

    @property
    def waiting(self) -> int:
        """Bytes that wait for the socket."""


class Subscribed(NamedTuple):
    """A new handle, and the one of the same id that it replaced (already closed)."""

    handle: SubscriptionHandle
    replaced: SubscriptionHandle | None


class ConnectionsManager:
    """All connections and subscriptions of one worker process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # In seconds; ages of connections and subscriptions are told by it.
        self.clock = clock
        self.shared_table_subscriptions: dict[TableId, dict[LiveQueryId, SubscriptionHandle]] = {}
        self.user_table_subscriptions: dict[
            tuple[UserId, TableId], dict[LiveQueryId, SubscriptionHandle]
        ] = {}
        self.connections: dict[ConnectionId, Connection] = {}
        self.peak_connections = 0
        self.peak_subscriptions = 0
        self._plans: dict[tuple[TableId, Owner], TablePlans] = {}
        self._last_connection_id = 0
        self._shared_count = 0
        self._user_count = 0
        # How many are LIVE, kept by the plans as handles join and leave.
        self.counts = Counts()
        # Filter evaluations of indexes that are gone.
        self._past_evaluations = 0
        self._broken: list[tuple[FilterNode, Exception]] = []
        # When a demoted filter is to be asked again.
        self.promotion_due = NEVER
        # Subscriptions per USER table, and per user over all connections.
        self._by_user_table: Counter[TableId] = Counter()
        self._by_user: Counter[UserId] = Counter()

    # Connections

    def connect(self, connection: Connection) -> ConnectionId:
        """Take a connection in and give it its id."""
        self._last_connection_id += 1
        connection_id = ConnectionId(self._last_connection_id)
        connection.connection_id = connection_id
        connection.opened_at = self.clock()
        self.connections[connection_id] = connection
        self.peak_connections = max(self.peak_connections, len(self.connections))
        return connection_id

    def disconnect(self, connection_id: ConnectionId) -> list[SubscriptionHandle]:
        """Forget a connection; its subscriptions, now closed, are returned. Safe to repeat."""
        connection = self.connections.pop(connection_id, None)
        if connection is None:
            return []
        handles = list(connection.subscriptions.values())
        for handle in handles:
            self._remove(handle)
        return handles

    def shutdown(self) -> list[Connection]:
        """Close every subscription and empty every index; the connections are returned."""
        connections = list(self.connections.values())
        for connection in connections:
            self.disconnect(connection.connection_id)
        return connections

    # Subscriptions

    def subscribe(
        self,
        connection: Connection,
        subscription_id: str,
        query: Query,
        options: Options | None,
        *,
        sql: str = "",
        params: Sequence[Any] = (),
        max_per_connection: int = 0,
        max_per_user: int = 0,
    ) -> Subscribed:
        """Index a new subscription; one of the same id is closed and replaced at one stroke.

        `sql` and `params` are kept with the handle. A maximum of 0 is no limit. Raises
        SubscriptionRefused (SUBSCRIPTION_LIMIT_EXCEEDED) and leaves everything as it was.
        """
        old = connection.subscriptions.get(subscription_id)
        user_id = connection.identity.user_id
        self._check_limits(connection, user_id, old, max_per_connection, max_per_user)
        if old is not None:
            self._remove(old)
        live_query_id = LiveQueryId(user_id, connection.connection_id, subscription_id)
        owner = SHARED if query.table.is_shared else user_id
        plan = self._acquire(query, owner, payer_of(live_query_id))
        handle = SubscriptionHandle(
            live_query_id, connection, plan, sql, options, params, self.clock()
        )
        self._add(handle)
        return Subscribed(handle, old)

    def _check_limits(
        self,
        connection: Connection,
        user_id: UserId,
        old: SubscriptionHandle | None,
        max_per_connection: int,
        max_per_user: int,
    ) -> None:
        own = len(connection.subscriptions) - (old is not None)
        if max_per_connection and own >= max_per_connection:
            raise SubscriptionRefused(
                "SUBSCRIPTION_LIMIT_EXCEEDED",
                f"a connection holds at most {max_per_connection} subscriptions",
            )
        users = self._by_user[user_id] - (old is not None and old.live_query_id.user_id == user_id)
        if max_per_user and user_id and users >= max_per_user:
            raise SubscriptionRefused(
                "SUBSCRIPTION_LIMIT_EXCEEDED", f"a user holds at most {max_per_user} subscriptions"
            )

    def unsubscribe(
        self, connection: Connection, subscription_id: str
    ) -> SubscriptionHandle | None:
        """Close one subscription; None when there is none of that id."""
        handle = connection.subscriptions.get(subscription_id)
        if handle is not None:
            self._remove(handle)
        return handle

    def close(self, handle: SubscriptionHandle) -> None:
        """Close one subscription, unless it is closed already."""
        if not handle.is_closed:
            self._remove(handle)

    def find(self, live_query_id: LiveQueryId) -> SubscriptionHandle | None:
        """The subscription of an id. O(1)."""
        connection = self.connections.get(live_query_id.connection_id)
        if connection is None:
            return None
        handle = connection.subscriptions.get(live_query_id.subscription_id)
        if handle is None or handle.live_query_id != live_query_id:
            return None
        return handle

    def count_of(self, table: TableId) -> int:
        """Subscriptions to a table, of either kind."""
        return len(self.shared_table_subscriptions.get(table, ())) + self._by_user_table[table]

    def has_subscribers(self, table: TableId, owner: Owner | None = None) -> bool:
        """Whether anybody, SHARED or USER, wants this table's changes.

        With an `owner` (SHARED, or a user id) only those that would see that owner's rows count.
        """
        if owner is not None:
            return (table, owner) in self._plans
        return table in self.shared_table_subscriptions or self._by_user_table[table] > 0

    def plans(self, table: TableId, owner: Owner) -> TablePlans | None:
        """The plans that a change of this table and owner concerns; None: nobody's."""
        return self._plans.get((table, owner))

    def table_plans(self, table: TableId, owner: Owner) -> TablePlans:
        """The same where `has_subscribers` has said so; raises KeyError where nobody is."""
        return self._plans[table, owner]

    def all_plans(self) -> Iterator[TablePlans]:
        return iter(self._plans.values())

    def take_broken(self) -> list[tuple[FilterNode, Exception]]:
        """Filters whose evaluation has raised since the last call, for the caller to disable."""
        broken, self._broken = self._broken, []
        return broken

    def _note_broken(self, node: FilterNode, error: Exception) -> None:
        self._broken.append((node, error))

    def handles(self, table: TableId) -> Iterable[SubscriptionHandle]:
        """Every subscription to a table, of either kind."""
        yield from self.shared_table_subscriptions.get(table, {}).values()
        if self._by_user_table[table]:
            for (_, user_table), handles in self.user_table_subscriptions.items():
                if user_table == table:
                    yield from handles.values()

    def demote(self, node: FilterNode, now: float) -> list[SubscriptionHandle]:
        """Have the fan-out ask a filter no more; those that are live by it, to be set behind.

        Only while nothing is under way to them.
        """
        if not node.plans:
            return []
        plan = node.plans[0]
        plans = self._plans[plan.table.id, plan.owner]
        if not plans.demote(node, now):
            return []
        self.promotion_due = min(self.promotion_due, plans.shares.demoted[node])
        return [handle for plan in node.plans for handle in plan.live if handle is not None]

    def promote(self, now: float) -> None:
        """Have the fan-out ask demoted filters again whose time has come."""
        self.promotion_due = NEVER
        for plans in self._plans.values():
            if plans.shares.demoted:
                plans.promote(now)
                self.promotion_due = min([self.promotion_due, *plans.shares.demoted.values()])

    # Counts

    @property
    def shared_count(self) -> int:
        return self._shared_count

    @property
    def user_count(self) -> int:
        return self._user_count

    @property
    def filter_evaluations(self) -> int:
        """Filters evaluated on a row since the start, index look-ups not counted."""
        present = sum(plans.index.evaluations for plans in self._plans.values())
        return self._past_evaluations + present

    @property
    def lagging_count(self) -> int:
        """Subscriptions that are not at the head: loading, catching up or too slow."""
        return self._shared_count + self._user_count - self.counts.live

    def statistics(self) -> dict[str, int]:
        """Counts for /health and metrics."""
        return {
            "connections": len(self.connections),
            "peak_connections": self.peak_connections,
            "shared_subscriptions": self._shared_count,
            "user_subscriptions": self._user_count,
            "peak_subscriptions": self.peak_subscriptions,
            "plans": sum(sum(1 for _ in plans) for plans in self._plans.values()),
        }

    # The indexes

    def _acquire(self, query: Query, owner: Owner, payer: Hashable) -> Plan:
        key = (query.table.id, owner)
        plans = self._plans.get(key)
        if plans is None:
            plans = self._plans[key] = TablePlans(owner, self.counts)
            plans.index.on_broken = self._note_broken
        return plans.acquire(query, payer)

    def _release(self, plan: Plan) -> None:
        key = (plan.table.id, plan.owner)
        plans = self._plans[key]
        plans.release(plan)
        if not plans:
            self._past_evaluations += plans.index.evaluations
            del self._plans[key]

    def _add(self, handle: SubscriptionHandle) -> None:
        live_query_id, table = handle.live_query_id, handle.plan.table
        handle.sink.subscriptions[handle.id] = handle
        _note_siblings(handle)
        if table.is_shared:
            self.shared_table_subscriptions.setdefault(table.id, {})[live_query_id] = handle
            self._shared_count += 1
        else:
            key = (live_query_id.user_id, table.id)
            self.user_table_subscriptions.setdefault(key, {})[live_query_id] = handle
            self._by_user_table[table.id] += 1
            self._user_count += 1
        self._by_user[live_query_id.user_id] += 1
        self.peak_subscriptions = max(
            self.peak_subscriptions, self._shared_count + self._user_count
        )

    def _remove(self, handle: SubscriptionHandle) -> None:
        live_query_id, table = handle.live_query_id, handle.plan.table
        handle.ended()
        del handle.sink.subscriptions[handle.id]
        _note_siblings(handle)
        if table.is_shared:
            _discard(self.shared_table_subscriptions, table.id, live_query_id)
            self._shared_count -= 1
        else:
            key = (live_query_id.user_id, table.id)
            _discard(self.user_table_subscriptions, key, live_query_id)
            self._user_count -= 1
            _decrement(self._by_user_table, table.id)
        _decrement(self._by_user, live_query_id.user_id)
        self._release(handle.plan)


def _note_siblings(handle: SubscriptionHandle) -> None:
    """A subscription has come to its connection, or gone: who has a sibling there now?"""
    plan, subscriptions = handle.plan, handle.sink.subscriptions
    if handle.is_closed and not handle.has_sibling:
        return
    alike = [
        other
        for other in subscriptions.values()
        if other.plan.table.id == plan.table.id and other.plan.owner == plan.owner
    ]
    for other in alike:
        _set_sibling(other, len(alike) > 1)
    if handle.is_closed:
        _set_sibling(handle, False)


def _set_sibling(handle: SubscriptionHandle, has_sibling: bool) -> None:
    if handle.has_sibling is not has_sibling:
        handle.has_sibling = has_sibling
        handle.plan.siblings += 1 if has_sibling else -1


def _discard(
    index: dict[K, dict[LiveQueryId, SubscriptionHandle]], key: K, live_query_id: LiveQueryId
) -> None:
    handles = index[key]
    del handles[live_query_id]
    if not handles:
        del index[key]


def _decrement(counter: "Counter[K]", key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
