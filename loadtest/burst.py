"""Posts of 100 changes as fast as they are accepted: how many row-changes per CPU second?

Here the server may merge what is waiting. The floor sends the hundred rows of one post as one
message, which is the fewest sends that loses no order between posts.
"""

from collections.abc import Sequence

from loadtest.client import ClientPlan
from loadtest.fanout import ALL, floor_side
from loadtest.harness.blocks import ServerSide, alternate
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, median
from loadtest.harness.rows import RowMaker
from loadtest.harness.stage import Bench
from loadtest.peers import beside

BATCH = 100
PRODUCERS = 4


async def run(bench: Bench) -> Sequence[Measurement]:
    subscribers = bench.options.many(500, 10)
    batches = 4 if bench.options.small else max(PRODUCERS, 10_000 // subscribers)
    async with bench.stage() as stage:
        server = await stage.server()
        client = await stage.subscribers(server, ClientPlan(subscribers, [ALL], shape="spread"))
        producer = await stage.producer(server, RowMaker(), connections=PRODUCERS)
        side = ServerSide(producer, client, server.meter())
        bare = await floor_side(stage, subscribers, RowMaker(), BATCH)
        bench.progress.step(f"posts of {BATCH} to {subscribers} subscribers")
        with stage.watching_client("burst"):
            pairs = await alternate(
                bench.options.time(10),
                lambda: side.as_fast_as_accepted(batches, BATCH),
                (lambda: bare.walk(batches)) if bare else None,
            )
        await side.check()
        if bare:
            await bare.check()
    floor = median(cost.rows_per_cpu_second for cost in pairs.floor) if pairs.floor else None
    rate = median(cost.rows_per_cpu_second for cost in pairs.server)
    ours = Measurement(
        f"{subscribers} subscribers, posts of {BATCH}",
        rate,
        "row-changes per CPU second",
        floor,
        rate / floor if floor else None,
        Bar("at least", 3_000_000),
        {"blocks": len(pairs.server), "batches_per_block": batches, "producers": PRODUCERS},
    )
    return [ours, *await beside.burst(bench, subscribers, batches, BATCH)]


QUESTION = Question("burst", "Bursts: row-changes delivered per second of CPU", run)
