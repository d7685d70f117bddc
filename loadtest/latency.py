"""How long from the post of a change to its arrival at 1,000 subscribers, at 100 changes a second?

The stamp is taken when the producer builds the post, the arrival when the client's read returns,
both on the same monotonic clock. The floor's stamp is taken right before its loop starts. Beside
the subscribers one more connection pings every ten milliseconds: its slowest pong shows the longest
time for which the server's loop did not turn (and for which the client's core was busy otherwise).

How full the server's core was is told as well, for beyond some eighty percent changes overlap, and
each walk over the subscribers serves several of them.
"""

import time
from collections.abc import Sequence

from loadtest.client import Client, ClientPlan, Delays
from loadtest.fanout import ALL
from loadtest.floor import Floor
from loadtest.harness import plot
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, median
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import Server
from loadtest.harness.stage import Bench
from loadtest.peers import beside

RATE = 100
ROUNDS = 4
PING_US = 10_000  # more would load the server by themselves


async def server_round(producer: Producer, client: Client, seconds: float) -> tuple[Delays, float]:
    """Delays of one stretch, and how late the producer itself was, in seconds."""
    await client.command("reset")
    first = producer.rows.made + 1
    expected = max(1, round(RATE * seconds))
    client.expect(expected * client.plan.total)
    late = await producer.post_at(RATE, seconds)
    await client.arrived()
    report = await client.report()
    report.require_each(expected, producer.rows.sum_between(first, producer.rows.made))
    return report.delay, late


async def floor_round(floor: Floor, client: Client, seconds: float) -> Delays:
    await client.command("reset")
    messages = max(1, round(RATE * seconds))
    client.expect(messages * client.plan.total)
    walk = await floor.send(messages, 1_000_000 // RATE)
    await client.arrived()
    report = await client.report()
    report.require_each(messages, RowMaker.sum_between(walk.first_n, walk.last_n))
    return report.delay


def curve(delays: Delays) -> list[tuple[float, int]]:
    return [(edge / 1e6, count) for edge, count in delays.buckets]


async def run(bench: Bench) -> Sequence[Measurement]:
    subscribers = bench.options.many(1000, 20)
    plan = ClientPlan(subscribers, [ALL], shape="spread")
    async with bench.stage() as stage:
        server = await stage.server()
        client = await stage.subscribers(server, plan)
        producer = await stage.producer(server, RowMaker(), connections=8)
        floor = await stage.floor([RowMaker().row()])
        bare = (floor, await stage.subscribers(floor, plan)) if floor else None
        probe = ClientPlan(1, [ALL], subscriptions=0, ping_us=PING_US)
        prober = await stage.subscribers(server, probe)
        await server_round(producer, client, bench.options.time(1))
        await prober.command("reset")
        meter = ServerLoad(server)
        bench.progress.step(f"{RATE} changes a second to {subscribers} subscribers")
        delays = await in_turn(bench, producer, client, bare, meter)
        ping = (await prober.report()).ping
    seconds = bench.options.time(16) / ROUNDS
    others = await beside.latency(bench, subscribers, RATE, ROUNDS, seconds)
    return [*figures(subscribers, *delays, ping), *meter.measurements(), *others]


class ServerLoad:
    """How much of a core the server used during its own rounds; nothing without its pid."""

    def __init__(self, server: Server) -> None:
        self._meter = None if server.pid is None else server.meter()
        self._busy: list[float] = []

    def begin(self) -> None:
        if self._meter is not None:
            self._meter.lap()
        self._begun = time.monotonic_ns()

    def end(self) -> None:
        if self._meter is not None:
            self._busy.append(100 * self._meter.lap() / (time.monotonic_ns() - self._begun))

    def measurements(self) -> list[Measurement]:
        if not self._busy:
            return []
        details = {"rounds": [round(busy, 1) for busy in self._busy]}
        return [Measurement("server's CPU", median(self._busy), "% of a core", details=details)]


async def in_turn(
    bench: Bench,
    producer: Producer,
    client: Client,
    bare: tuple[Floor, Client] | None,
    load: ServerLoad,
) -> tuple[Delays, Delays]:
    """Rounds of the server and of the floor; all delays of each."""
    seconds = bench.options.time(16) / ROUNDS
    served, floored, latest = [], [], 0.0
    for _ in range(ROUNDS):
        with bench.watching_client("latency", client.process.pid):
            load.begin()
            delays, late = await server_round(producer, client, seconds)
            load.end()
        served.append(delays)
        latest = max(latest, late)
        if bare:
            floored.append(await floor_round(*bare, seconds))
    if latest > 0.005:
        bench.note(f"the producer was up to {latest * 1000:.0f} ms late with a post")
    return Delays.merge(served), Delays.merge(floored)


def figures(subscribers: int, served: Delays, bare: Delays, ping: Delays) -> list[Measurement]:
    def quantile(percent: float, bar: float | None) -> Measurement:
        value, floor = served.percentile(percent), bare.percentile(percent) or None
        return Measurement(
            f"p{percent:g} to {subscribers} subscribers",
            value,
            "ms",
            floor,
            value / floor if floor else None,
            Bar("at most", bar) if bar else None,
            {"curve": curve(served), "name": "server"} if percent == 50 else {},
        )

    return [
        quantile(50, 6),
        quantile(99, 15),
        quantile(99.9, None),
        Measurement(
            "slowest arrival",
            served.max / 1e6,
            "ms",
            bare.max / 1e6 or None,
            details={"curve": curve(bare), "name": "floor"},
        ),
        Measurement(
            f"slowest of {ping.count} pongs",
            ping.max / 1e6,
            "ms",
            bar=Bar("at most", 20),
            details={"p99_ms": ping.percentile(99)},
        ),
    ]


QUESTION = Question("latency", "Delay from post to socket", run, plot.delays)
