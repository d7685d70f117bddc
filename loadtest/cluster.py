"""Several nodes with one log in a stream of NATS JetStream: what do they cost beside one server?

    apply      CPU of a node that applies another's changes, beside `append` of a log in SQLite, in
               turn; no server, no sockets
    ingest     two servers that take posts of 100 both: changes per CPU second of each, which
               applies its own and the other's
    delay      from a post at one node to a socket of the other, the stream on three NATS servers
               (no fsync per message) and on one; a single server with SQLite beside it
    away       a node that was stopped while changes came: from its start until it is ready
    join       a node that has nothing, and a stream that has lost its beginning: it copies another
               node's file
    fan-out    subscribers at both nodes, posts at one: CPU per delivery, beside two single servers
               with as many subscribers, each of which is posted the same, in turn

Nothing is pinned but the fan-out's floor: NATS, two nodes, producers and clients share all cores.
Rates by the wall clock are therefore those of a crowded machine; CPU is what counts.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from loadtest.client import Client, ClientPlan
from loadtest.fanout import ALL
from loadtest.harness import plot
from loadtest.harness.cpu import CpuMeter
from loadtest.harness.faults import LoadTestFault
from loadtest.harness.http import HttpConnection
from loadtest.harness.lines import LineProcess
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, Result, median
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import Server
from loadtest.harness.stage import Bench, Stage
from loadtest.harness.waiting import until
from loadtest.latency import RATE, curve, server_round

KINDS = {"events": "of events", "inserts": "of new keys", "updates": "of rows that replace others"}
SECONDS = 300.0


# -- apply ------------------------------------------------------------------------------------


async def log_process(stage: Stage, url: str, directory: Path) -> LineProcess:
    """A log without a server, started."""
    command = (sys.executable, "-m", "loadtest.harness.logging_node", url, str(directory))
    process = await stage.process(command, pinned=False)
    await process.ask("start 0", "start", SECONDS)
    return process


async def told(process: LineProcess, what: str, number: int = 0) -> float:
    return float((await process.ask(f"{what} {number}", what, SECONDS))["value"])


async def apply(bench: Bench) -> list[Measurement]:
    count, blocks = (400, 2) if bench.options.small else (20_000, 7)
    async with bench.stage() as stage:
        streams = await stage.streams(1)
        alone = await log_process(stage, "sqlite:", stage.scratch())
        writer = await log_process(stage, streams.url, stage.scratch())
        reader = await log_process(stage, streams.url, stage.scratch())
        measurements = []
        for kind, name in KINDS.items():
            bench.progress.step(f"apply {name}")
            pairs, publishing = [], []
            for _ in range(blocks):
                floor = await told(alone, kind, count)
                await told(reader, "lap")
                publishing.append(await told(writer, kind, count))
                spent = await told(reader, "reach", int(await told(writer, "latest")))
                pairs.append((spent / count, floor))
            pairs, publishing = pairs[1:], publishing[1:]
            measurements.append(
                Measurement(
                    f"apply changes {name}, beside SqliteLog.append",
                    median(value for value, _ in pairs),
                    "µs CPU per change",
                    median(floor for _, floor in pairs),
                    median(value / floor for value, floor in pairs),
                    Bar("at most", 1.15, "ratio"),
                    {"publish_and_apply_us": median(publishing)},
                )
            )
    return measurements


# -- ingest -----------------------------------------------------------------------------------


async def nodes(
    stage: Stage, log: dict[str, object], count: int = 2, *, pinned: bool = False
) -> list[Server]:
    """One by one: the first makes the stream."""
    found = []
    for _ in range(count):
        server = await stage.server(log=log, pinned=pinned)
        await ready(server)
        found.append(server)
    return found


async def ready(server: Server, seconds: float = SECONDS) -> None:
    """Until it has applied what the stream has."""
    connection = HttpConnection(server.base)

    async def is_ready() -> bool:
        return (await connection.request("GET", "/readyz"))[0] == 200

    try:
        await until(is_ready, "a node is ready", seconds)
    finally:
        connection.close()


async def has_applied(server: Server, seq: int) -> bool:
    return await server.metric("log_last_seq") >= seq


async def ingest(bench: Bench) -> list[Measurement]:
    rounds = 1 if bench.options.small else 3
    seconds = bench.options.time(9) / rounds
    async with bench.stage() as stage:
        streams = await stage.streams(1)
        both = await nodes(stage, streams.log())
        producers = [await stage.producer(one, RowMaker(), connections=4) for one in both]
        meters, nats = [one.meter() for one in both], streams.meter()
        bench.progress.step("posts of 100 at two nodes")
        per_second: list[list[float]] = []
        walls, shares = [], []
        for _ in range(rounds):
            for meter in (*meters, nats):
                meter.lap()
            before, begun = sum(one.rows.made for one in producers), time.monotonic()
            await asyncio.gather(*(one.post_for(seconds, 100) for one in producers))
            head = max(one.last_seq for one in producers)
            for one in both:
                await until(partial(has_applied, one, head), "a node is level", SECONDS)
            changes = sum(one.rows.made for one in producers) - before
            walls.append(changes / (time.monotonic() - begun))
            per_second.append([changes * 1e9 / meter.lap() for meter in meters])
            shares.append(nats.lap() / 1000 / changes)
    worst = [min(pair) for pair in per_second]
    return [
        Measurement(
            "posts of 100 at two nodes, each applies all",
            median(worst),
            "changes per CPU second and node",
            bar=Bar("at least", 25_000),
            details={
                "nodes": per_second,
                "changes_per_second_wall": walls,
                "nats_us_per_change": median(shares),
            },
        )
    ]


# -- delay ------------------------------------------------------------------------------------


async def delay(bench: Bench) -> list[Measurement]:
    found = []
    for servers in (3, 1, 0):
        found += await delay_over(bench, servers)
    return found


async def delay_over(bench: Bench, servers: int) -> list[Measurement]:
    subscribers = 20
    rounds = 1 if bench.options.small else 3
    async with bench.stage() as stage:
        if servers:
            at, to = await nodes(stage, (await stage.streams(servers)).log())
            name = f"post at one node, socket at the other, {servers} NATS server"
            name += "s" if servers > 1 else ""
        else:
            at = to = await stage.server(pinned=False)
            name = "post and socket at a single server"
        plan = ClientPlan(subscribers, [ALL], shape="fixed")
        client = await stage.subscribers(to, plan, pinned=False)
        producer = await stage.producer(at, RowMaker(), connections=8)
        await server_round(producer, client, bench.options.time(1))
        bench.progress.step(name)
        delays = [
            (await server_round(producer, client, bench.options.time(12) / rounds))[0]
            for _ in range(rounds)
        ]
    whole = type(delays[0]).merge(delays)
    measurements = []
    for percent in (50, 99):
        each = [one.percentile(percent) for one in delays]
        measurements.append(
            Measurement(
                f"{name}, p{percent}",
                median(each),
                f"ms at {RATE} changes a second",
                bar=Bar("at most", 5) if percent == 50 and servers == 3 else None,
                details={"curve": curve(whole), "name": name} if percent == 50 else {},
                spread=(min(each), max(each)),
            )
        )
    return measurements


# -- away and join ----------------------------------------------------------------------------


async def away(bench: Bench) -> list[Measurement]:
    count = 2000 if bench.options.small else 100_000
    async with bench.stage() as stage:
        log = (await stage.streams(1)).log()
        (stays,) = await nodes(stage, log, 1)
        directory = stage.scratch()
        goes = await stage.server(log=log, directory=directory, pinned=False)
        await ready(goes)
        producer = await stage.producer(stays, RowMaker(), connections=4)
        await producer.post(100)
        times: list[float] = []
        for missed in (0, count):
            await goes.close()
            bench.progress.step(f"{missed} changes while a node is away")
            await producer.post_many(missed // 1000, 1000)
            begun = time.monotonic()
            goes = await stage.server(log=log, directory=directory, pinned=False)
            await ready(goes)
            times.append(time.monotonic() - begun)
            if not await has_applied(goes, producer.last_seq):
                raise LoadTestFault("a node said that it was ready, and was not level")
    empty, whole = times
    return [
        Measurement(
            f"a node that was away for {count:,} changes, from its start until it is level",
            *(whole, "seconds"),
            bar=Bar("at most", 5),
            details={"away_for_none": empty},
        )
    ]


async def join(bench: Bench) -> list[Measurement]:
    count = 2000 if bench.options.small else 400_000
    async with bench.stage() as stage:
        streams = await stage.streams(1)
        place = stage.scratch()
        first = await log_process(stage, streams.url, place)
        bench.progress.step(f"a file of {count} changes to copy")
        await told(first, "inserts", count // 2)
        await told(first, "updates", count // 2)
        # What is left of the stream is too little for a node that begins with nothing.
        await streams.keep_at_most(100_000)
        command = (sys.executable, "-m", "loadtest.harness.logging_node", streams.url)
        joins = await stage.process((*command, str(stage.scratch())), pinned=False)
        bench.progress.step("a node joins")
        seconds = await told(joins, "start")
        received = await told(joins, "received")
        if not received:
            raise LoadTestFault("the node that joined copied nothing")
    return [
        Measurement(
            f"a node joins by a copy of {received / 1e6:.0f} MB, from its start until it is ready",
            received / 1e6 / seconds,
            "MB/s",
            bar=Bar("at least", 100),
            details={"seconds": seconds, "bytes": received},
        )
    ]


# -- fan-out ----------------------------------------------------------------------------------


class Side:
    """Two servers with as many subscribers each, and posts at one of them, or the same at both."""

    def __init__(
        self, servers: Sequence[Server], producers: Sequence[Producer], clients: Sequence[Client]
    ) -> None:
        self._producers, self._clients = producers, clients
        self._meter = CpuMeter(*(one.pid for one in servers if one.pid is not None))

    async def block(self, batches: int, size: int) -> float:
        """CPU microseconds of one delivery, both servers together."""
        rows = self._producers[0].rows
        self._meter.lap()
        for _ in range(batches):
            for client in self._clients:
                client.expect((rows.made + size) * client.plan.total)
            await asyncio.gather(*(one.post(size) for one in self._producers))
            for client in self._clients:
                await client.arrived(120)
        deliveries = batches * size * sum(client.plan.total for client in self._clients)
        return self._meter.lap() / 1000 / deliveries

    async def check(self) -> None:
        made = self._producers[0].rows.made
        for client in self._clients:
            (await client.report()).require_each(made, RowMaker.sum_between(1, made))


async def fan_out(bench: Bench) -> list[Measurement]:
    subscribers = bench.options.many(1000, 20)
    blocks = 2 if bench.options.small else 13
    plan = ClientPlan(subscribers, [ALL], shape="spread")
    async with bench.stage() as stage:
        streams = await stage.streams(1)
        both = await nodes(stage, streams.log(), pinned=True)
        singles = [await stage.server() for _ in both]
        pair, alone = [
            Side(
                servers,
                [await stage.producer(one, RowMaker()) for one in to],
                [await stage.subscribers(one, plan) for one in servers],
            )
            for servers, to in ((both, both[:1]), (singles, singles))
        ]
        measurements = []
        for size in (1, 10):
            batches = 2 if bench.options.small else 20
            bench.progress.step(f"changes {size} at a time to {subscribers} at each node")
            found = [
                (await pair.block(batches, size), await alone.block(batches, size))
                for _ in range(blocks)
            ][1:]
            name = "one change" if size == 1 else f"{size} changes"
            measurements.append(
                Measurement(
                    f"{name} at a time, {subscribers} subscribers at each of two nodes",
                    median(ours for ours, _ in found),
                    "µs CPU per delivery",
                    median(floor for _, floor in found),
                    median(ours / floor for ours, floor in found),
                    Bar("at most", 1.05, "ratio"),
                )
            )
        await pair.check()
        await alone.check()
    return measurements


def draw(result: Result, path: Path) -> None:
    """The figures as bars, and the delays as curves in a file beside them."""
    plot.bars(result, path)
    plot.delays(result, path.with_name(f"{path.stem}-delay.png"))


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    parts = (apply, ingest, delay, away, join, fan_out)
    return [figure for part in parts for figure in await part(bench)]


QUESTION = Question("cluster", "Several nodes on NATS JetStream", run, draw)
