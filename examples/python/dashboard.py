"""Orders by status, live, in a terminal.

Start a server (`kalam-notify serve --dev`), take the token it prints, and run

    KALAM_NOTIFY_TOKEN=... python examples/python/dashboard.py [URL]

Then post changes to app.orders and kill the server, if you like: the figures stay right.
"""

import asyncio
import os
import sys
from collections import Counter

from kalam_notify.client import Client, View


def render(view: View) -> str:
    """One line: how many orders there are of each status."""
    counts = Counter(str(row.get("status")) for row in view)
    parts = [f"{status} {count}" for status, count in sorted(counts.items())]
    return f"{len(view)} orders  {'  '.join(parts)}"


async def main(url: str) -> None:
    async with Client(url, token=os.environ.get("KALAM_NOTIFY_TOKEN")) as client:
        orders = await client.subscribe("SELECT id, status FROM app.orders")
        async for _ in orders:
            if orders.view.ready:
                print(f"\r{render(orders.view)}\x1b[K", end="", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:2900"))
    except KeyboardInterrupt:
        print()
