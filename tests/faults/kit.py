"""A producer that never gives up, clients that always come back, what must be true at the end."""

import asyncio
import os
import random
from typing import Any

from helpers.server import Server, delete, insert
from helpers.views import View
from helpers.wire import wire
from websockets.exceptions import WebSocketException

TABLE = "app.orders"
KEYS = 40
FILTERS = {
    "": lambda row: True,
    "WHERE v >= 3": lambda row: row["v"] >= 3,
    "WHERE v % 2 = 0": lambda row: row["v"] % 2 == 0,
}
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))


def drawn_seed() -> int:
    """FAULT_SEED, or a fresh one; printed, for whoever has to do it again."""
    seed = int(os.environ.get("FAULT_SEED", random.randrange(2**32)))
    print(f"again with FAULT_SEED={seed}")
    return seed


class Producer:
    """Posts batches one after the other, each until it is acknowledged; keeps what they make."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self._server, self._rng = server, rng
        self.rows: dict[Any, dict[str, Any]] = {}
        self.acknowledged = 0
        self.refused = 0

    def _change(self, number: int) -> dict[str, Any]:
        key = self._rng.randrange(KEYS)
        if self._rng.random() < 0.2:
            self.rows.pop(key, None)
            return delete(TABLE, {"id": key}, id=f"c{number}")
        row = {"id": key, "v": self._rng.randrange(6), "pad": "x" * self._rng.choice([0, 50, 9000])}
        self.rows[key] = row
        return insert(TABLE, row, id=f"c{number}")

    async def post(self, batches: int) -> None:
        """Post so many batches."""
        for _ in range(batches):
            size = self._rng.randint(1, 8)
            batch = [self._change(self.acknowledged + n) for n in range(size)]
            await self._surely(batch)
            self.acknowledged += size

    async def end(self) -> None:
        """Post the row that tells followers that nothing comes after it."""
        self.rows["end"] = {"id": "end", "v": 4}
        await self._surely([insert(TABLE, self.rows["end"], id="end")])

    async def _surely(self, batch: list[dict[str, Any]]) -> None:
        while not await asyncio.to_thread(self._is_taken, batch):
            self.refused += 1
            await asyncio.sleep(0.05)

    def _is_taken(self, batch: list[dict[str, Any]]) -> bool:
        try:
            answer = self._server.post(*batch)
        except (OSError, EOFError, AssertionError):
            return False
        # A lost answer is made good by the ids: nothing of the batch is stored twice.
        assert answer["accepted"] + answer["duplicates"] == len(batch)
        assert answer["accepted"] in (0, len(batch)), "half of a batch was stored"
        return True


class Follower:
    """A client that comes again whenever it is dropped, and resumes; its view is strict."""

    def __init__(self, server: Server, where: str, url: str = "") -> None:
        self._server, self.where, self._url = server, where, url
        self.view = View()
        self.returns = 0

    async def follow(self) -> None:
        """Until the end has come."""
        options: dict[str, Any] = {"batch_size": 7, "on_gap": "snapshot"}
        while not self._has_ended():
            try:
                async with wire(self._address(), self._server.token(), open_timeout=60) as client:
                    await client.subscribe("s", f"SELECT * FROM {TABLE} {self.where}", options)
                    while not self._has_ended():
                        self.view.apply(await client.hear(60))
                        options = {**options, "from": self.view.last_seq}
            except (OSError, EOFError, WebSocketException, TimeoutError):
                self.returns += 1
                await asyncio.sleep(0.05)

    def _address(self) -> str:
        return self._url or self._server.ws_url

    def _has_ended(self) -> bool:
        return self.view.ready and "end" in self.view.rows


def assert_exact(followers: list[Follower], producer: Producer) -> None:
    """Every view is what a database would answer."""
    for follower in followers:
        matches = FILTERS[follower.where]
        held = {
            key: {name: value for name, value in row.items() if name != "_seq"}
            for key, row in follower.view.rows.items()
        }
        assert held == {key: row for key, row in producer.rows.items() if matches(row)}


def new_followers(server: Server, count: int, url: str = "") -> list[Follower]:
    names = list(FILTERS)
    return [Follower(server, names[number % len(names)], url) for number in range(count)]
