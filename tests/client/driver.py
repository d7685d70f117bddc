"""The Python client under test in a process of its own, for test_through_cuts.py.

Prints a line of JSON each time all queries have seen the next marker, as clients/js/tests/watch.mjs
does: [number, rows of each query].
"""

import asyncio
import json
import sys
from typing import Any

from kalam_notify.client import Backoff, Client, Subscription, connect

QUICK = Backoff(base=0.02, cap=0.2, pause=0.02)


async def watch(url: str, token: str, queries: list[tuple[str, list[Any]]]) -> None:
    async with Client(url, token=token, backoff=QUICK) as client, asyncio.TaskGroup() as tasks:
        watcher = Watcher(
            [
                await client.subscribe(sql, params=params, options={"batch_size": 50})
                for sql, params in queries
            ]
        )
        for subscription in watcher.subscriptions:
            tasks.create_task(watcher.follow(subscription))


async def watch_views(url: str, token: str, queries: list[tuple[str, list[Any]]]) -> None:
    """The same with live views."""
    expected = 1
    async with connect(url, token=token, backoff=QUICK) as db:
        views = [db.live(sql, params, batch_size=50) for sql, params in queries]

        def look(_: object) -> None:
            nonlocal expected
            found = [[row for row in view.rows if row["id"] == "marker"] for view in views]
            if all(row and row[0]["number"] == expected for row in found):
                print(json.dumps([expected, [view.rows for view in views]]), flush=True)
                expected += 1

        for view in views:
            view.subscribe(look)
        await asyncio.gather(*(view.until(lambda _: False) for view in views))


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
    follow = watch_views if settings.get("views") else watch
    asyncio.run(follow(settings["url"], settings["token"], settings["queries"]))
