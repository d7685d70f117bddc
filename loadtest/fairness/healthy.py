"""The healthy crowd: what it gets, and how late.

- live: 20 subscribers of the table that is written, `RATE` changes a second; the delay of each
  from the moment its post was built. Posts go over so many connections that a server that stands
  still for a second does not hold back the next ones, and with them their delays.
- /readyz, asked 40 times a second.
- a snapshot of 50 rows, a resume over 50 changes, and a newcomer who connects, authenticates and
  subscribes, each five times a second, one after the other.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from loadtest.client import Client, ClientPlan, Delays
from loadtest.fanout import ALL
from loadtest.harness.faults import DeliveryFault
from loadtest.harness.http import HttpConnection
from loadtest.harness.producer import Producer
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import SMALL, Server
from loadtest.harness.stage import Bench, Stage

LIVE = 20
RATE = 20
ROWS = 50
PATIENCE = 60.0  # seconds for what must come some time

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Rows:
    """What is written live."""

    maker: Callable[[], RowMaker] = RowMaker
    rate: float = RATE
    subscribers: int = LIVE


@dataclass
class Seen:
    """Delays in one stretch."""

    live: Delays
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def milliseconds(self) -> dict[str, float]:
        """Live as p50, p99 and worst; of what is asked for the worst."""
        told = {f"live change p{p}": self.live.percentile(p) for p in (50, 99)}
        told["live change, worst"] = self.live.max / 1e6
        return told | {f"{name}, worst": max(all_) * 1000 for name, all_ in self.seconds.items()}


class Crowd:
    """All of them, on one server."""

    def __init__(
        self, server: Server, live: Client, producer: Producer, rows: Rows, asker: "Asker"
    ) -> None:
        self.server, self.live, self.producer = server, live, producer
        self._rows, self._asker = rows, asker
        self._ready = HttpConnection(server.base)

    @classmethod
    async def gather(cls, bench: Bench, stage: Stage, server: Server, rows: Rows) -> Self:
        small = await stage.producer(server, RowMaker(), table=SMALL)
        await small.post(1)
        before = small.last_seq
        await small.post(ROWS)
        subscribers = bench.options.many(rows.subscribers, 3)
        live = await stage.subscribers(server, ClientPlan(subscribers, [ALL], shape="spread"))
        producer = await stage.producer(server, rows.maker(), connections=64)
        asker = await stage.enter(asking(server, before))
        return cls(server, live, producer, rows, asker)

    async def watch(self, seconds: float) -> Seen:
        """What everybody sees for so long; what is then on the way is waited for."""
        await self.live.command("reset")
        first = self.producer.rows.made + 1
        until = time.monotonic() + seconds
        asked: dict[str, Act] = {
            "/readyz": self._readyz,
            "snapshot of 50 rows": self._asker.snapshot,
            "resume over 50 changes": self._asker.resume,
            "newcomer's acknowledgement": self._asker.newcomer,
        }
        async with asyncio.TaskGroup() as group:
            group.create_task(self.producer.post_at(self._rows.rate, seconds))
            ready = group.create_task(repeated(until, 0.025, {"/readyz": asked.pop("/readyz")}))
            others = group.create_task(repeated(until, 0.07, asked))
        rows = self.producer.rows.made - first + 1
        self.live.expect(rows * self.live.plan.total)
        await self.live.arrived(3 * PATIENCE)
        report = await self.live.report()
        report.require_each(rows, self.producer.rows.sum_between(first, first + rows - 1))
        return Seen(report.delay, ready.result() | others.result())

    async def _readyz(self) -> None:
        await self._ready.request("GET", "/readyz")

    async def check(self) -> None:
        """One more change reaches everybody."""
        await self.watch(0.1)


async def repeated(until: float, pause: float, acts: dict[str, Act]) -> dict[str, list[float]]:
    """Each act in turn until the time is over, at least once; how long each took, in seconds."""
    took: dict[str, list[float]] = {name: [] for name in acts}
    while time.monotonic() < until or not all(took.values()):
        for name, act in acts.items():
            begun = time.monotonic()
            with contextlib.suppress(TimeoutError):  # so long it took, at least
                async with asyncio.timeout(PATIENCE):
                    await act()
            took[name].append(time.monotonic() - begun)
            await asyncio.sleep(pause)
    return took


class Asker:
    """Asks for things that end: a snapshot, a resume, a place."""

    def __init__(self, server: Server, client: ClientConnection, before: int) -> None:
        self._server, self._client, self._before = server, client, before
        self._asked = 0

    async def snapshot(self) -> None:
        """Until the ready batch."""
        name = await self._subscribe({})
        rows = 0
        while True:
            batch = await self._heard(name, "subscription_ack", "initial_data_batch")
            rows += len(batch.get("rows", ()))
            if batch["type"] == "initial_data_batch" and not batch["batch_control"]["has_more"]:
                break
        if rows != ROWS + 1:
            raise DeliveryFault(f"a snapshot of {ROWS + 1} rows had {rows}")
        await self._unsubscribe(name)

    async def resume(self) -> None:
        """Until the last of the changes."""
        name = await self._subscribe({"from": self._before})
        rows = 0
        while rows < ROWS:
            told = await self._heard(name, "subscription_ack", "initial_data_batch", "change")
            rows += len(told.get("rows", ()))
        await self._unsubscribe(name)

    async def newcomer(self) -> None:
        """A connection of its own, until its subscription is acknowledged."""
        async with connected(self._server) as client:
            other = Asker(self._server, client, 0)
            name = await other._subscribe(None)
            await other._heard(name, "subscription_ack")

    async def _subscribe(self, options: dict[str, int] | None) -> str:
        self._asked += 1
        name = f"asked{self._asked}"
        subscription = {"id": name, "sql": f"SELECT * FROM {SMALL}", "options": options}
        await self._client.send(json.dumps({"type": "subscribe", "subscription": subscription}))
        return name

    async def _unsubscribe(self, name: str) -> None:
        await self._client.send(json.dumps({"type": "unsubscribe", "subscription_id": name}))

    async def _heard(self, name: str, *kinds: str) -> dict[str, Any]:
        while True:
            told: dict[str, Any] = json.loads(await self._client.recv())
            if told["type"] == "error" or told.get("subscription_id") == name:
                break
        if told["type"] not in kinds:
            raise DeliveryFault(f"{name} was told {str(told)[:200]}")
        return told


@contextlib.asynccontextmanager
async def connected(server: Server) -> AsyncIterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {server.token_for('asker')}"}
    url = server.base.replace("http", "ws", 1) + "/v1/ws"
    async with connect(
        url,
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=PATIENCE,
        ping_interval=None,
    ) as client:
        await client.recv()  # auth_success
        yield client


@contextlib.asynccontextmanager
async def asking(server: Server, before: int) -> AsyncIterator[Asker]:
    async with connected(server) as client:
        yield Asker(server, client, before)
