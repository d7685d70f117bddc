"""The desk: where requests about subscriptions become handles, or refusals.

subscribe = parse the SQL -> find the table -> check access -> bind policy and identity -> index
the handle -> let the feeder begin it. All of it in one turn of the event loop, so that requests of
a connection take effect in the order they came.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Protocol

from kalam_notify.errors import SubscriptionRefused
from kalam_notify.model import SHARED, Identity, TableDef, TableId
from kalam_notify.model.catalog import Catalog
from kalam_notify.protocol import messages
from kalam_notify.protocol.messages import NextBatch, SubscriptionRequest
from kalam_notify.protocol.options import UNREACHABLE, Options, parse_options, parse_seq
from kalam_notify.sql import (
    FilterIndex,
    Limits,
    Query,
    Select,
    bind,
    parse,
    parse_explain,
    parse_policy,
)
from kalam_notify.subscriptions.handle import SubscriptionHandle
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode

__all__ = ["RequestLimits", "SubscriptionRequests"]

_parse_policy = lru_cache(maxsize=1024)(parse_policy)


class RequestLimits(Protocol):
    """What the desk reads of the configuration; read anew at every request."""

    @property
    def batch_size(self) -> int: ...
    @property
    def max_batch_size(self) -> int: ...
    @property
    def max_sql_bytes(self) -> int: ...
    @property
    def max_sql_terms(self) -> int: ...
    @property
    def max_subscriptions_per_connection(self) -> int: ...


class Starter(Protocol):
    """Who brings a new subscription to its first rows, and to the next page of them."""

    def begin(self, handle: SubscriptionHandle) -> None: ...

    def next_batch(self, handle: SubscriptionHandle, last_seq: int | None) -> None: ...


class SubscriptionRequests:
    """Serves the subscribe, next_batch and unsubscribe requests of all connections."""

    def __init__(self, catalog: Catalog, manager: ConnectionsManager, starter: Starter) -> None:
        self._catalog = catalog
        self._manager = manager
        self._starter = starter

    def configure(self, limits: RequestLimits, subscriptions_per_user: int) -> None:
        """Take the limits of a (re)loaded configuration; a count of 0 is no limit."""
        self._limits = limits
        self._subscriptions_per_user = subscriptions_per_user

    def subscribe(self, connection: Connection, request: SubscriptionRequest) -> None:
        """Start a subscription, in place of one with the same id; raises SubscriptionRefused."""
        limits = self._limits
        options = parse_options(
            request.options, batch_size=limits.batch_size, max_batch_size=limits.max_batch_size
        )
        select = self._parse(request.sql)
        query = self._bind(select, connection.identity)
        self._start(connection, request.id, select.source.text, query, options)

    def query(self, sql: str, identity: Identity) -> Query:
        """What this identity may see of what `sql` asks for; raises SubscriptionRefused."""
        return self._bind(self._parse(sql), identity)

    def explain(self, sql: str, identity: Identity) -> tuple[Query, dict[str, Any]]:
        """The query, and how its live changes would be served: index, residual and company.

        `sql` is a SELECT, with or without EXPLAIN before it. Raises SubscriptionRefused.
        """
        limits = Limits(self._limits.max_sql_bytes, self._limits.max_sql_terms)
        starts = sql.lstrip()[:7].upper() == "EXPLAIN"
        query = self._bind((parse_explain if starts else parse)(sql, limits), identity)
        owner = SHARED if query.table.is_shared else identity.user_id
        plans = self._manager.plans(query.table.id, owner)
        index = FilterIndex[FilterNode]() if plans is None else plans.index
        explanation = index.explain(query.filter)
        plan = None if plans is None else plans.find(query)
        return query, {
            "table": query.table.id,
            "index": explanation.index,
            "residual": explanation.residual,
            "plans": 0 if plans is None else sum(1 for _ in plans),
            "subscribers_of_this_plan": 0 if plan is None else plan.subscribers,
            "live_subscribers_of_this_plan": 0 if plan is None else plan.live_count,
        }

    def _parse(self, sql: str) -> Select:
        return parse(sql, Limits(self._limits.max_sql_bytes, self._limits.max_sql_terms))

    def _bind(self, select: Select, identity: Identity) -> Query:
        table = self._admitted(select.table, identity)
        policy = None
        if table.policy is not None:
            limits = Limits(self._limits.max_sql_bytes, self._limits.max_sql_terms)
            policy = _parse_policy(table.policy, limits)
        return bind(select, table, identity, policy)

    def _admitted(self, table_id: TableId, identity: Identity) -> TableDef:
        table = self._catalog.get(table_id)
        if table is None:
            raise SubscriptionRefused("NOT_FOUND", f"there is no table {table_id}")
        if not table.admits(identity):
            raise SubscriptionRefused("UNAUTHORIZED", f"no access to table {table_id}")
        return table

    def _start(
        self,
        connection: Connection,
        name: str,
        sql: str,
        query: Query,
        options: Options | None,
    ) -> None:
        # What an old subscription of this name still holds back goes out before the new ack.
        connection.flush()
        handle, _ = self._manager.subscribe(
            connection,
            name,
            query,
            options,
            sql=sql,
            max_per_connection=self._limits.max_subscriptions_per_connection,
            max_per_user=self._subscriptions_per_user,
        )
        self._starter.begin(handle)

    def next_batch(self, connection: Connection, request: NextBatch) -> None:
        """Send the next page of a snapshot; raises SubscriptionRefused."""
        handle = connection.subscriptions.get(request.subscription_id)
        if handle is None:
            raise SubscriptionRefused("BATCH_FETCH_FAILED", "there is no such subscription")
        last_seq = None
        if request.last_seq_id is not None:
            last_seq = parse_seq("last_seq_id", request.last_seq_id)
        self._starter.next_batch(handle, last_seq)

    def unsubscribe(self, connection: Connection, name: str) -> None:
        """End a subscription; one that is not there is no fault."""
        connection.flush()
        self._manager.unsubscribe(connection, name)

    def identity_changed(self, connection: Connection) -> None:
        """The user showed a token with another role or other claims: judge every subscription anew.

        One that may see what it saw goes on; one that may see other rows is replaced by its
        successor, with a fresh ack and, if it ever had rows, a full snapshot; one that has lost
        its table ends with an error.
        """
        for handle in list(connection.subscriptions.values()):
            self._renew(connection, handle)

    def tables_changed(self, tables: Collection[TableId]) -> None:
        """The definitions of these tables have changed: judge their subscriptions anew."""
        for connection in list(self._manager.connections.values()):
            for handle in list(connection.subscriptions.values()):
                if handle.plan.table.id in tables:
                    self._renew(connection, handle)

    def _renew(self, connection: Connection, handle: SubscriptionHandle) -> None:
        plan, options = handle.plan, handle.options
        try:
            query = self.query(handle.sql, connection.identity)
            if (
                query.table == plan.table
                and query.filter.key == plan.filter.key
                and query.projection.key == plan.projection.key
            ):
                return
            if options is not None:
                options = Options(batch_size=options.batch_size, from_seq=UNREACHABLE)
            self._start(connection, handle.id, handle.sql, query, options)
        except SubscriptionRefused as refusal:
            connection.flush()
            self._manager.close(handle)
            connection.send(messages.error(handle.id, refusal.code, refusal.message))

    def disconnect(self, connection: Connection) -> None:
        """End all subscriptions of a connection. Safe to repeat."""
        self._manager.disconnect(connection.connection_id)
