"""Server and floor in turn, so that whatever disturbs the machine disturbs both.

A block is a number of messages to all subscribers on one side. Blocks alternate until the time is
over; the first pair warms up and is not counted. The ratio is taken pair by pair.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadtest.client import Client
from loadtest.floor import Floor
from loadtest.harness.cpu import CpuMeter
from loadtest.harness.producer import Producer
from loadtest.harness.report import median


@dataclass(frozen=True)
class Cost:
    """CPU of one block, the row-changes it delivered, and from first post to last arrival."""

    cpu_ns: int
    rows: int
    wall_ns: int

    @property
    def us_per_row(self) -> float:
        return self.cpu_ns / 1000 / self.rows

    @property
    def rows_per_second(self) -> float:
        return self.rows * 1e9 / self.wall_ns

    @property
    def rows_per_cpu_second(self) -> float:
        return self.rows * 1e9 / self.cpu_ns


Block = Callable[[], Awaitable[Cost]]


class ServerSide:
    """Blocks of posts to the server, each waited for until all rows have arrived."""

    def __init__(self, producer: Producer, client: Client, meter: CpuMeter) -> None:
        self.producer, self.client, self._meter = producer, client, meter

    async def one_at_a_time(self, changes: int) -> Cost:
        """Single changes, each posted when the one before has reached everybody."""
        begun = self._begin()
        for _ in range(changes):
            self.client.expect((self.producer.rows.made + 1) * self.client.plan.total)
            await self.producer.post(1)
            await self.client.arrived()
        return self._cost(begun, changes)

    async def as_fast_as_accepted(self, batches: int, size: int) -> Cost:
        """Batches over all of the producer's connections; then wait for the last row."""
        begun = self._begin()
        made = self.producer.rows.made + batches * size
        self.client.expect(made * self.client.plan.total)
        await self.producer.post_many(batches, size)
        await self.client.arrived(120)
        return self._cost(begun, batches * size)

    def _begin(self) -> int:
        self._meter.lap()
        return time.monotonic_ns()

    def _cost(self, begun: int, changes: int) -> Cost:
        wall = time.monotonic_ns() - begun
        return Cost(self._meter.lap(), changes * self.client.plan.total, wall)

    async def check(self) -> None:
        """Every subscription got every row that was posted."""
        made = self.producer.rows.made
        (await self.client.report()).require_each(made, self.producer.rows.sum_between(1, made))


class FloorSide:
    """Blocks of bare sends."""

    def __init__(self, floor: Floor, client: Client, rows_per_message: int = 1) -> None:
        self._floor, self._client, self._per = floor, client, rows_per_message
        self._last = 0

    async def one_at_a_time(self, messages: int) -> Cost:
        walks = [await self.walk(1) for _ in range(messages)]
        return Cost(
            sum(walk.cpu_ns for walk in walks),
            sum(walk.rows for walk in walks),
            sum(walk.wall_ns for walk in walks),
        )

    async def walk(self, messages: int) -> Cost:
        """Messages one right after the other, then wait until all have arrived."""
        total, begun = self._client.plan.total, time.monotonic_ns()
        self._client.expect((self._last + messages * self._per) * total)
        walk = await self._floor.send(messages)
        self._last = walk.last_n
        await self._client.arrived()
        return Cost(walk.cpu_ns, messages * self._per * total, time.monotonic_ns() - begun)

    async def check(self) -> None:
        (await self._client.report()).require_each(
            self._last, self._last * (self._last + 1) // 2 % 2**64
        )


@dataclass(frozen=True)
class Pairs:
    """What alternating blocks came to. Without a floor the floors are empty."""

    server: list[Cost]
    floor: list[Cost]

    @property
    def us_per_row(self) -> float:
        return median(cost.us_per_row for cost in self.server)

    @property
    def floor_us_per_row(self) -> float | None:
        return median(cost.us_per_row for cost in self.floor) if self.floor else None

    @property
    def ratio(self) -> float | None:
        """Server's cost per row to the floor's."""
        if not self.floor:
            return None
        pairs = zip(self.server, self.floor, strict=True)
        return median(server.us_per_row / floor.us_per_row for server, floor in pairs)


async def alternate(seconds: float, server: Block, floor: Block | None) -> Pairs:
    """Pairs of blocks for so many seconds, at least one counted."""
    pairs = Pairs([], [])
    until = None
    while until is None or not pairs.server or time.monotonic() < until:
        costs = [await server(), await floor()] if floor else [await server()]
        if until is None:
            until = time.monotonic() + seconds
            continue
        pairs.server.append(costs[0])
        pairs.floor.extend(costs[1:])
    return pairs
