"""The client: live queries that survive lost connections, and the views they add up to.

    async with Client("http://127.0.0.1:2900", token=token) as client:
        orders = await client.subscribe("SELECT * FROM app.orders WHERE status = 'open'")
        async for event in orders:
            print(event, len(orders.view))

`cursor`, `view` and `following` are plain synchronous code; `client` is their socket.
"""

from kalam_notify.client.backoff import Backoff
from kalam_notify.client.client import Client
from kalam_notify.client.cursor import Cursor
from kalam_notify.client.events import Acknowledged, Changed, Event, Loaded
from kalam_notify.client.faults import ConnectionLost
from kalam_notify.client.subscription import Subscription
from kalam_notify.client.view import View

__all__ = [
    "Acknowledged",
    "Backoff",
    "Changed",
    "Client",
    "ConnectionLost",
    "Cursor",
    "Event",
    "Loaded",
    "Subscription",
    "View",
]
