"""What belongs on a page of connections, subscriptions or tables, in steps of the budget.

There may be tens of thousands, of which a page wants some hundred. Each is looked at, which costs a
microsecond, with a rest after every so many. Order is that of connection numbers, which rise, so
that a page goes on after the one before whatever has come or gone meanwhile.
"""

from bisect import bisect_right
from collections.abc import Iterator

from kalam_notify.administration.questions import Listing
from kalam_notify.budget import Steps
from kalam_notify.model import ConnectionId, TableDef
from kalam_notify.model.tables import Catalog
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager
from kalam_notify.subscriptions.plans import SubscriptionHandle, SubscriptionState

CHECKS_PER_STEP = 128
"""Connections and subscriptions that are looked at between two rests."""


def found_connections(manager: ConnectionsManager, asked: Listing) -> Steps[list[Connection]]:
    """Those that belong on the page, and one more where there is one."""
    found: list[Connection] = []
    checks = 0
    for connection in _after(manager, asked):
        checks += 1
        if asked.lagging is not None:
            checks += len(connection.subscriptions)
        if _has_user(connection, asked) and _lags(connection, asked):
            found.append(connection)
            if len(found) > asked.limit:
                break
        if checks >= CHECKS_PER_STEP:
            checks = 0
            yield
    return found


def found_subscriptions(
    manager: ConnectionsManager, asked: Listing
) -> Steps[list[SubscriptionHandle]]:
    """Those that belong on the page, and one more where there is one."""
    found: list[SubscriptionHandle] = []
    checks = 0
    for connection in _after(manager, asked, including=True):
        checks += 1 + len(connection.subscriptions)
        if _has_user(connection, asked):
            found += _wanted_of(connection, asked)
        if len(found) > asked.limit:
            break
        if checks >= CHECKS_PER_STEP:
            checks = 0
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
        if number % CHECKS_PER_STEP == 0:
            yield
    return total


def _has_user(connection: Connection, asked: Listing) -> bool:
    return asked.user is None or connection.identity.user_id == asked.user


def _lags(connection: Connection, asked: Listing) -> bool:
    if asked.lagging is None:
        return True
    handles = connection.subscriptions.values()
    return asked.lagging is any(handle.state is not SubscriptionState.LIVE for handle in handles)
