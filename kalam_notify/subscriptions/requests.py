"""Where requests about subscriptions become handles, or refusals.

What an acknowledgement tells of a query that is likely to be a slip.

Where a table declares no columns any name may be right, and a mistyped one, or text in double
quotes, is a column that no row has. So is a mistyped table where tables are created by their first
change. Neither can be refused; both can be told.

subscribe = parse the SQL -> find the table -> check access -> bind policy and identity -> index
the handle -> let the feeder begin it. Parsing and binding take long for long texts, so what needs
them comes as steps of the budget; whoever does them sees to it that requests of a connection take
effect in the order they came.
"""

import time
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from kalam_notify.budget import Steps
from kalam_notify.errors import LogUnavailable, SubscriptionRefused
from kalam_notify.filters import FilterIndex, Query, bind
from kalam_notify.model import SHARED, Identity, Owner, TableDef, TableId
from kalam_notify.model.tables import Catalog, SeenColumns
from kalam_notify.protocol import messages
from kalam_notify.protocol.messages import (
    UNREACHABLE,
    NextBatch,
    Options,
    SubscriptionRequest,
    parse_options,
    parse_seq,
)
from kalam_notify.sql import Limits, Select, nearest, parse, parse_explain, parse_policy
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager
from kalam_notify.subscriptions.plans import FilterNode, SubscriptionHandle

MAX_KEPT = 1000
_SHORT = 200
# Characters of a query that is parsed, bound and begun in one step, of less than a millisecond.

SECONDS = 1.0
"""A table's newest rows are looked at no more often than this."""

ColumnsOf = Callable[[TableDef, Owner], SeenColumns | None]


class Notices:
    """Knows what the newest rows of tables look like, by asking once in a while."""

    def __init__(self, columns_of: ColumnsOf, clock: Callable[[], float] = time.monotonic) -> None:
        self._columns_of = columns_of
        self._clock = clock
        # When it was asked, and the names that were there then or before; None: there is no table.
        self._known: dict[tuple[TableId, Owner], tuple[float, SeenColumns | None]] = {}

    def of(
        self, select: Select, table: TableDef, identity: Identity, *, is_declared: bool
    ) -> Sequence[str]:
        """What to tell whoever subscribes to this; nearly always nothing."""
        if table.columns is not None or (is_declared and not select.names_any):
            return ()
        try:
            return self._look(select, table, identity, is_declared=is_declared)
        except LogUnavailable:  # a slip is not worth a fault
            return ()

    def _look(
        self, select: Select, table: TableDef, identity: Identity, *, is_declared: bool
    ) -> Sequence[str]:
        owner = SHARED if table.is_shared else identity.user_id
        named = set(select.named) - set(table.primary_key)
        known = self._names(table, owner, named, is_declared=is_declared)
        if known is None:
            return () if is_declared else (f"{table.id} does not exist yet: {_CREATED}",)
        return [_missing(name, table, known) for name in select.named if name in named - known]

    def _names(
        self, table: TableDef, owner: Owner, named: set[str], *, is_declared: bool
    ) -> frozenset[str] | None:
        """The names of the table's rows, `named` where they are not known; None: no such table."""
        asked, known = self._known.get((table.id, owner), (-SECONDS, None))
        if known is not None and known.names >= named:
            return known.names
        now = self._clock()
        if now - asked >= SECONDS and (named or not is_declared):
            found = self._columns_of(table, owner)
            if found is not None:
                before = frozenset[str]() if known is None else known.names
                known = SeenColumns(found.names | before, found.are_all)
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            self._known[table.id, owner] = now, known
        if known is None:
            return None
        # Rows that were passed over may have what the others have not, and no rows tell nothing.
        return known.names if known.names and known.are_all else frozenset(named)


_CREATED = "its first change will create it, so look at the name if you expect rows"


def _missing(name: str, table: TableDef, known: Collection[str]) -> str:
    hint = nearest(name, known) or f"text is written in single quotes, '{name}'"
    return f'none of the newest rows of {table.id} has a column "{name}"; {hint}'


__all__ = ["RequestLimits", "SubscriptionRequests"]

_parse_policy = lru_cache(maxsize=1024)(parse_policy)


class RequestLimits(Protocol):
    """What requests read of a configuration."""

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

    def next_batch(self, handle: SubscriptionHandle, last_seq: int | None) -> bool:
        """False: no page was to be asked for."""


class SubscriptionRequests:
    """Serves the subscribe, next_batch and unsubscribe requests of all connections."""

    def __init__(
        self,
        catalog: Catalog,
        manager: ConnectionsManager,
        starter: Starter,
        columns_of: ColumnsOf = lambda table, owner: None,
    ) -> None:
        self._catalog = catalog
        self._manager = manager
        self._starter = starter
        self._notices = Notices(columns_of)

    def configure(self, limits: RequestLimits, subscriptions_per_user: int) -> None:
        """Take the limits of a (re)loaded configuration; a count of 0 is no limit."""
        self._limits = limits
        self._sql_limits = Limits(limits.max_sql_bytes, limits.max_sql_terms)
        self._subscriptions_per_user = subscriptions_per_user

    def subscribe(self, connection: Connection, request: SubscriptionRequest) -> Steps[None]:
        """Start a subscription, in place of one with the same id; raises SubscriptionRefused."""
        limits = self._limits
        options = parse_options(
            request.options, batch_size=limits.batch_size, max_batch_size=limits.max_batch_size
        )
        rests = len(request.sql) > _SHORT
        select, params = self._parse(request.sql), _params(request.params)
        if rests:
            yield
        identity = connection.identity
        query = _encoded(self._bind(select, identity, params), options)
        if rests:
            yield
            while self._catalog.get(query.table.id) != query.table:
                # Defined anew meanwhile: those who are subscribed already are told, and only they.
                query = _encoded(self._bind(select, identity, params), options)
                yield
        handle = self._start(connection, request.id, select.source.text, params, query, options)
        is_declared = self._catalog.is_declared(query.table.id)
        handle.notices = self._notices.of(select, query.table, identity, is_declared=is_declared)
        self._starter.begin(handle)

    def explain(
        self, sql: str, identity: Identity, params: object = None
    ) -> Steps[tuple[Query, dict[str, Any]]]:
        """The query, and how its live changes would be served: index, residual and company.

        `sql` is a SELECT, with or without EXPLAIN before it. Raises SubscriptionRefused.
        """
        starts = sql.lstrip()[:7].upper() == "EXPLAIN"
        select = (parse_explain if starts else parse)(sql, self._sql_limits)
        yield
        query = self._bind(select, identity, _params(params))
        yield
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
            "demoted": plan is not None and plan.node.is_demoted,
        }

    def limits(self) -> Limits:
        """What a query may be."""
        return self._sql_limits

    def _parse(self, sql: str) -> Select:
        return parse(sql, self._sql_limits)

    def _bind(self, select: Select, identity: Identity, params: Sequence[Any]) -> Query:
        table = self._admitted(select.table, identity)
        policy = None
        if table.policy is not None:
            policy = _parse_policy(table.policy, self._sql_limits)
        return bind(select, table, identity, policy, params)

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
        params: Sequence[Any],
        query: Query,
        options: Options | None,
    ) -> SubscriptionHandle:
        if name in connection.subscriptions:
            # What the old one of this name still holds back goes out before the new ack.
            connection.flush()
        handle, _ = self._manager.subscribe(
            connection,
            name,
            query,
            options,
            sql=sql,
            params=params,
            max_per_connection=self._limits.max_subscriptions_per_connection,
            max_per_user=self._subscriptions_per_user,
        )
        return handle

    def next_batch(self, connection: Connection, request: NextBatch) -> bool:
        """Send the next page of a snapshot; raises SubscriptionRefused.

        False: the client has not been sent the page that it answers, or has answered it before.
        """
        handle = connection.subscriptions.get(request.subscription_id)
        if handle is None:
            raise SubscriptionRefused("BATCH_FETCH_FAILED", "there is no such subscription")
        last_seq = None
        if request.last_seq_id is not None:
            last_seq = parse_seq("last_seq_id", request.last_seq_id)
        return self._starter.next_batch(handle, last_seq)

    def unsubscribe(self, connection: Connection, name: str) -> None:
        """End a subscription; one that is not there is no fault."""
        connection.flush()
        self._manager.unsubscribe(connection, name)

    def identity_changed(self, connection: Connection) -> Steps[None]:
        """The user showed a token with another role or other claims: check every subscription anew.

        One that may see what it saw goes on. One that may see other rows has to begin afresh: with
        `on_gap: snapshot` it is replaced by its successor, with `resumed: false` and a full
        snapshot, else it ends with RESUME_EXPIRED; one that has lost its table ends with an error.
        """
        for handle in list(connection.subscriptions.values()):
            yield from self._renew(connection, handle)

    def tables_changed(self, tables: Collection[TableId]) -> Steps[None]:
        """The definitions of these tables have changed: check their subscriptions anew."""
        for connection in list(self._manager.connections.values()):
            for handle in list(connection.subscriptions.values()):
                if handle.plan.table.id in tables:
                    yield from self._renew(connection, handle)
            yield

    def _renew(self, connection: Connection, handle: SubscriptionHandle) -> Steps[None]:
        plan = handle.plan
        try:
            select = self._parse(handle.sql)
            yield
            query = self._bind(select, connection.identity, handle.params)
            query = _encoded(query, handle.options)
            if handle.is_closed:
                return
            if (
                query.table.reads_as(plan.table)
                and query.filter.key == plan.filter.key
                and query.projection == plan.projection
            ):
                # Whatever else has changed of it, such as its indexes.
                plan.table = query.table
                return
            options = _afresh(handle.options)
            renewed = self._start(connection, handle.id, handle.sql, handle.params, query, options)
            self._starter.begin(renewed)
        except SubscriptionRefused as refusal:
            if not handle.is_closed:
                connection.flush()
                self._manager.close(handle)
                connection.send(messages.error(handle.id, refusal.code, refusal.message))

    def disconnect(self, connection: Connection) -> None:
        """End all subscriptions of a connection. Safe to repeat."""
        self._manager.disconnect(connection.connection_id)


def _afresh(options: Options | None) -> Options:
    """How a subscription begins that cannot go on from where it was; raises SubscriptionRefused."""
    if options is None or options.on_gap == "error":
        why = "what you may see of it has changed; subscribe again without `from`"
        raise SubscriptionRefused("RESUME_EXPIRED", why)
    return msgspec.structs.replace(options, last_rows=None, from_seq=UNREACHABLE)


def _encoded(query: Query, options: Options | None) -> Query:
    """The query, its rows written as the options ask."""
    if options is None or not options.bigints_as_text:
        return query
    # Another one: subscribers of the same text may share what was bound.
    projection = query.projection._replace(bigints_as_text=True)
    return Query(query.table, query.filter, projection, query.depends_on_identity)


def _params(given: object) -> Sequence[Any]:
    """The values of a request's parameters; None is none."""
    if given is None:
        return ()
    if not isinstance(given, list):
        raise SubscriptionRefused("INVALID_SQL", "params is a list: the value of $1, of $2, ...")
    return tuple(given)
