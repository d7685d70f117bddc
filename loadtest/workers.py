"""What do all cores of one machine deliver, with one worker process and with several?

Nothing is pinned: server, clients and producers share all cores, as they would on one machine. So
rates by the wall clock stand here, beside the CPU time of all the server's processes; and the same
bare loop (one process) is the floor.
"""

from collections.abc import Sequence

from loadtest.client import ClientPlan
from loadtest.fanout import ALL
from loadtest.harness.blocks import FloorSide, ServerSide, alternate
from loadtest.harness.cpu import process_tree
from loadtest.harness.question import Question
from loadtest.harness.report import Measurement, median
from loadtest.harness.rows import RowMaker
from loadtest.harness.stage import Bench

BATCH = 10
PRODUCERS = 4


async def measure(bench: Bench, workers: int, subscribers: int) -> list[Measurement]:
    batches = PRODUCERS if bench.options.small else max(PRODUCERS, 40_000 // subscribers)
    plan = ClientPlan(subscribers, [ALL], shape="spread")
    async with bench.stage() as stage:
        server = await stage.server(workers=workers, pinned=False)
        client = await stage.subscribers(server, plan, pinned=False)
        producer = await stage.producer(server, RowMaker(), connections=PRODUCERS)
        side = ServerSide(producer, client, server.meter())
        floor = await stage.floor([RowMaker().row() for _ in range(BATCH)], pinned=False)
        bare = None
        if floor:
            bare = FloorSide(floor, await stage.subscribers(floor, plan, pinned=False), BATCH)
        bench.progress.step(f"{workers} workers, {subscribers} subscribers")
        pairs = await alternate(
            bench.options.time(8),
            lambda: side.as_fast_as_accepted(batches, BATCH),
            (lambda: bare.walk(batches)) if bare else None,
        )
        await side.check()
        processes = len(process_tree(server.pid)) if server.pid else 0
        if bare:
            await bare.check()
    rate = median(cost.rows_per_second for cost in pairs.server)
    floor_rate = median(cost.rows_per_second for cost in pairs.floor) if pairs.floor else None
    details = {"server_processes": processes}
    case = f"{workers} worker{'s' if workers > 1 else ''}, {subscribers} subscribers"
    ratio = rate / floor_rate if floor_rate else None
    return [
        Measurement(case, rate, "row-changes per second (wall)", floor_rate, ratio, None, details),
        Measurement(
            case, pairs.us_per_row, "µs CPU per delivery", pairs.floor_us_per_row, pairs.ratio
        ),
    ]


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    subscribers = bench.options.many(1000, 20)
    numbers = bench.options.counts or tuple(dict.fromkeys((1, max(2, len(bench.cores.all)))))
    figures = [await measure(bench, workers, subscribers) for workers in numbers]
    return [m for case in figures for m in case]


QUESTION = Question("workers", "All cores of one machine", run)
