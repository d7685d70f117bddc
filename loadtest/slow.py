"""Does one slow reader among 10,000 cost the others anything?

The slow one also subscribes to a second table, into which megabytes are posted while it does not
read: its socket fills and the server has to set it aside. The others' delays are taken in turn
while it reads and while it does not, both right after the megabytes were posted, for storing them
is felt for a while; at the end it reads on and must have lost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.client import Client, ClientPlan, Delays
from loadtest.fanout import ALL
from loadtest.harness import plot
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import FLOOD, Server
from loadtest.harness.stage import Bench, Stage
from loadtest.latency import curve

ROUNDS = 3
FLOOD_ROW = 8192  # bytes
FLOOD_ROWS = 1500  # 12 MB: more than the socket's buffers and the server's own hold
SMALL_BUFFER = 8192


@dataclass
class Scene:
    """The others, the slow one, and who posts to whom."""

    server: Server
    others: Client
    slow: Client
    producer: Producer
    flood: Producer

    async def others_delays(self, changes: int) -> Delays:
        """One change after the other, each when the one before has reached all the others."""
        await self.others.command("reset")
        first = self.producer.rows.made + 1
        for n in range(changes):
            self.others.expect((n + 1) * self.others.plan.total)
            await self.producer.post(1)
            await self.others.arrived()
        report = await self.others.report()
        report.require_each(changes, self.producer.rows.sum_between(first, first + changes - 1))
        return report.delay

    async def pour(self, rows: int) -> None:
        """Post megabytes that only the slow one gets."""
        for _ in range(rows // 100):
            await self.flood.post(100)

    async def clog(self, rows: int) -> float:
        """Stop the slow one's reading and fill its socket; how many subscriptions then lag."""
        await self.slow.command("stall")
        await self.pour(rows)
        return await self.server.metric("lagging_subscriptions")

    async def unclog(self) -> None:
        """Let it read on, and demand every row of both tables."""
        self.slow.expect(self.producer.rows.made + self.flood.rows.made)
        await self.slow.command("read")
        await self.slow.arrived(120)

    async def check(self) -> None:
        made = [self.producer.rows, self.flood.rows]
        total = sum(rows.sum_between(1, rows.made) for rows in made)
        (await self.slow.report()).require_all(sum(rows.made for rows in made), total)


async def scene_of(stage: Stage, subscribers: int) -> Scene:
    server = await stage.server()
    both = [ALL, f"SELECT * FROM {FLOOD}"]
    slow = ClientPlan(1, both, subscriptions=2, contiguous=True, receive_buffer=SMALL_BUFFER)
    return Scene(
        server,
        await stage.subscribers(server, ClientPlan(subscribers, [ALL], contiguous=True)),
        await stage.subscribers(server, slow),
        await stage.producer(server, RowMaker()),
        await stage.producer(server, RowMaker(size=FLOOD_ROW), table=FLOOD),
    )


async def run(bench: Bench) -> Sequence[Measurement]:
    subscribers = bench.options.many(10_000, 30)
    # about eight changes a second reach 10,000
    changes = 3 if bench.options.small else max(5, round(bench.options.time(24) / ROUNDS / 2 * 8))
    fluent: list[Delays] = []
    clogged: list[Delays] = []
    async with bench.stage() as stage:
        scene = await scene_of(stage, subscribers)
        await scene.others_delays(changes)
        for _ in range(ROUNDS):
            bench.progress.step("everybody reads")
            await scene.pour(FLOOD_ROWS)
            await scene.unclog()
            with stage.watching_client("everybody reads"):
                fluent.append(await scene.others_delays(changes))
            bench.progress.step("one does not")
            if not await scene.clog(FLOOD_ROWS):
                bench.note("the server told of no lagging subscription while one did not read")
            clogged.append(await scene.others_delays(changes))
            await scene.unclog()
        await scene.check()
    return figures(subscribers, Delays.merge(fluent), Delays.merge(clogged))


def figures(subscribers: int, fluent: Delays, clogged: Delays) -> list[Measurement]:
    def quantile(percent: float, bar: Bar | None) -> Measurement:
        value, floor = clogged.percentile(percent), fluent.percentile(percent)
        drawn, name = (fluent, "everybody reads") if percent == 50 else (clogged, "one does not")
        return Measurement(
            f"p{percent:g} of {subscribers} others (floor: everybody reads)",
            value,
            "ms",
            floor,
            value / floor if floor else None,
            bar,
            {"curve": curve(drawn), "name": name},
        )

    return [quantile(50, None), quantile(99, Bar("at most", 1.1, "ratio"))]


QUESTION = Question("slow", "One slow reader among many", run, plot.delays)
