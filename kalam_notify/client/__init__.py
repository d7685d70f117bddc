"""The Python client: live queries that survive lost connections, and the rows they add up to.

    async with connect("http://127.0.0.1:2900", token=token) as db:
        orders = await db.live("SELECT * FROM app.orders WHERE status = $1", ["open"])
        async for rows in orders:
            print(len(rows), "open orders")

`connect_sync` is the same for scripts, web frameworks and notebooks without an event loop.
docs/python.md is a tutorial. From the socket to the reader: `client` keeps one socket up and deals
its messages out; `following` knows where a query stands; `query` keeps its rows (`rows`,
`row_types`) and tells its `changes`; `live` is what a reader holds; `posting` posts. `Client` with
its subscriptions is the level below `connect`: the events themselves, in the reader's own time.
"""

from kalam_notify.client.address import BadAddress
from kalam_notify.client.backoff import Backoff
from kalam_notify.client.changes import Change, Changes, Delete, Insert, Ready, Reset, Update
from kalam_notify.client.client import Client
from kalam_notify.client.connection import Connection, connect
from kalam_notify.client.credentials import BadCredential
from kalam_notify.client.cursor import Cursor
from kalam_notify.client.events import Acknowledged, Changed, Event, Loaded
from kalam_notify.client.faults import (
    Closed,
    ConnectionLost,
    ConnectTimeout,
    RowMismatch,
    Unreachable,
)
from kalam_notify.client.live import Live
from kalam_notify.client.posting import Published
from kalam_notify.client.query import Status
from kalam_notify.client.subscription import Subscription
from kalam_notify.client.sync import SyncConnection, SyncLive, connect_sync
from kalam_notify.client.view import View
from kalam_notify.errors import (
    AuthenticationFailed,
    ChangeRefused,
    KalamNotifyError,
    SubscriptionRefused,
)

__all__ = [
    "Acknowledged",
    "AuthenticationFailed",
    "Backoff",
    "BadAddress",
    "BadCredential",
    "Change",
    "ChangeRefused",
    "Changed",
    "Changes",
    "Client",
    "Closed",
    "ConnectTimeout",
    "Connection",
    "ConnectionLost",
    "Cursor",
    "Delete",
    "Event",
    "Insert",
    "KalamNotifyError",
    "Live",
    "Loaded",
    "Published",
    "Ready",
    "Reset",
    "RowMismatch",
    "Status",
    "Subscription",
    "SubscriptionRefused",
    "SyncConnection",
    "SyncLive",
    "Unreachable",
    "Update",
    "View",
    "connect",
    "connect_sync",
]
