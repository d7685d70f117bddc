"""The Python client under test in a process of its own, for test_through_cuts.py.

Prints a line of JSON each time all queries have seen the next marker, as clients/js/tests/watch.mjs
does: [number, rows of each query].
"""

import asyncio
import json
import sys
from typing import Any

from kalam_notify.client import Backoff, Client, Subscription


async def watch(url: str, token: str, queries: list[tuple[str, list[Any]]]) -> None:
    quick = Backoff(base=0.02, cap=0.2, pause=0.02)
    async with Client(url, token=token, backoff=quick) as client, asyncio.TaskGroup() as tasks:
        watcher = Watcher(
            [
                await client.subscribe(sql, params=params, options={"batch_size": 50})
                for sql, params in queries
            ]
        )
        for subscription in watcher.subscriptions:
            tasks.create_task(watcher.follow(subscription))


class Watcher:
    def __init__(self, subscriptions: list[Subscription]) -> None:
        self.subscriptions = subscriptions
        self.expected = 1

    async def follow(self, subscription: Subscription) -> None:
        async for _ in subscription:
            self.look()

    def look(self) -> None:
        views = [subscription.view for subscription in self.subscriptions]
        markers = [view.get("marker") for view in views]
        if all(marker and marker["number"] == self.expected for marker in markers):
            print(json.dumps([self.expected, [view.rows() for view in views]]), flush=True)
            self.expected += 1


if __name__ == "__main__":
    settings: dict[str, Any] = json.loads(sys.argv[1])
    asyncio.run(watch(settings["url"], settings["token"], settings["queries"]))
