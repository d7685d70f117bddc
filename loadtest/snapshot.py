"""How long does a filtered snapshot of a big table take, and whom does it disturb?

One table of 100,000 rows. Three queries on it: one that the server's index of filters would find
(200 rows), one of whose filter nothing can be known beforehand, so that every row is asked (200
rows), and one that wants all rows. Each is taken once, then by 20 clients at the same time (with
different filters), then again and again while 100 subscribers of another table receive 100 changes
a second: their delays, and the slowest pong, tell whether the snapshots held the server's loop up.

The floor is the same without a snapshot: a client that connects and subscribes to live changes
only, and the delays while nobody takes snapshots.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.client import Client, ClientPlan, Delays
from loadtest.fanout import ALL
from loadtest.harness.faults import DeliveryFault
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, median
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import KEYED, Server
from loadtest.harness.stage import Bench, Stage
from loadtest.latency import PING_US, server_round

MATCHING = 200
AT_ONCE = 20
TURNS = 3


@dataclass(frozen=True)
class Kind:
    """A query on the big table; `sql(i)` is the i-th of its kind. `rows`: None is all."""

    name: str
    sql: Callable[[int], str]
    rows: int | None = MATCHING


def kinds(total: int) -> list[Kind]:
    start = f"SELECT * FROM {KEYED}"
    stride = total // MATCHING
    return [
        Kind(
            "a range",
            lambda i: f"{start} WHERE id BETWEEN {i * MATCHING + 1} AND {(i + 1) * MATCHING}",
        ),
        Kind("every row asked", lambda i: f"{start} WHERE id % {stride} = {i % stride}"),
        Kind("all rows", lambda i: start, None),
    ]


@dataclass
class Scene:
    """The server with its big table, and the subscribers of the other one."""

    bench: Bench
    server: Server
    total: int
    live: Client
    prober: Client
    producer: Producer

    async def taken(self, clients: int, kind: Kind | None) -> float:
        """Seconds until so many new clients have their snapshots; None: they want none."""
        sql = [kind.sql(i) for i in range(clients)] if kind else [f"SELECT * FROM {KEYED}"]
        plan = ClientPlan(clients, sql, options="{}" if kind else "null")
        async with self.bench.stage() as stage:
            begun = time.monotonic()
            client = await stage.client(self.server, plan)
            await client.ready()
            seconds = time.monotonic() - begun
            if kind:
                due = clients * (self.total if kind.rows is None else kind.rows)
                found = (await client.report()).snapshot_rows
                if found != due:
                    raise DeliveryFault(f"{due} rows of snapshots were due, {found} arrived")
        return seconds

    async def disturbed(self, kind: Kind | None, seconds: float) -> tuple[Delays, Delays]:
        """The live ones' delays and the pongs while snapshots are taken one after the other."""
        await self.prober.command("reset")
        async with asyncio.TaskGroup() as group:
            live = group.create_task(server_round(self.producer, self.live, seconds))
            while kind and not live.done():
                await self.taken(1, kind)
        delays, _ = live.result()
        return delays, (await self.prober.report()).ping


async def filled(bench: Bench, stage: Stage, server: Server, total: int) -> None:
    bench.progress.step(f"a table of {total} rows")
    producer = await stage.producer(server, RowMaker(), table=KEYED)
    await producer.post_many(total // 1000, 1000)


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    total = AT_ONCE * MATCHING if bench.options.small else 100_000
    plan = ClientPlan(bench.options.many(100, 5), [ALL], shape="spread")
    async with bench.stage() as stage:
        server = await stage.server()
        await filled(bench, stage, server, total)
        live = await stage.subscribers(server, plan)
        probe = ClientPlan(1, [ALL], subscriptions=0, ping_us=PING_US)
        prober = await stage.subscribers(server, probe)
        producer = await stage.producer(server, RowMaker(), connections=8)
        scene = Scene(bench, server, total, live, prober, producer)
        await scene.disturbed(None, bench.options.time(1))  # the first rows find all cold
        bare = await figures_of(scene, None)
        return [
            measurement
            for kind in kinds(total)
            for measurement in told(kind, await figures_of(scene, kind), bare)
        ]


@dataclass(frozen=True)
class Figures:
    """Seconds for one and for several at once; delays of the others, and pongs, meanwhile."""

    one: float
    several: float
    delays: Delays
    pings: Delays


async def figures_of(scene: Scene, kind: Kind | None) -> Figures:
    options = scene.bench.options
    what = f"snapshots: {kind.name}" if kind else "no snapshots"
    scene.bench.progress.step(what)
    await scene.taken(1, kind)
    one = [await scene.taken(1, kind) for _ in range(TURNS)]
    several = await scene.taken(AT_ONCE, kind)
    with scene.bench.watching_client(what, scene.live.process.pid):
        delays, pings = await scene.disturbed(kind, options.time(5))
    return Figures(median(one), several, delays, pings)


def told(kind: Kind, found: Figures, bare: Figures) -> list[Measurement]:
    def compared(case: str, unit: str, value: float, floor: float, bar: Bar | None) -> Measurement:
        return Measurement(f"{kind.name}: {case}", value, unit, floor, value / floor, bar)

    quick = Bar("at most", 0.5) if kind.rows else None
    p50, p99 = ((found.delays.percentile(p), bare.delays.percentile(p)) for p in (50, 99))
    slowest = found.pings.max / 1e6, bare.pings.max / 1e6
    return [
        compared("one snapshot", "seconds", found.one, bare.one, quick),
        compared(f"{AT_ONCE} at once", "seconds", found.several, bare.several, None),
        compared("others' delay meanwhile, p50", "ms", *p50, None),
        compared("others' delay meanwhile, p99", "ms", *p99, Bar("at most", p99[1] + 5)),
        compared("slowest pong meanwhile", "ms", *slowest, Bar("at most", 20)),
    ]


QUESTION = Question("snapshot", "Filtered snapshots of a big table", run)
