"""How many changes a second are durably accepted while 20 subscribers receive all of them?

The floor is SQLite itself on the same disk: a bare loop that inserts the same rows with one fsync
per batch, in turn with the server.
"""

import sys
import tempfile
import time
from collections.abc import Sequence

from loadtest.client import ClientPlan
from loadtest.harness.cpu import CpuMeter
from loadtest.harness.lines import LineProcess
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, median
from loadtest.harness.rows import RowMaker, plain_shape
from loadtest.harness.server import KEYED, TABLE
from loadtest.harness.stage import Bench

ROUNDS = 3
KEYS = 10_000


def replacing(n: int, text: str) -> str:
    """Row n under one of KEYS keys, in no order."""
    return plain_shape(n, text).replace(f'"id":{n},', f'"id":{n * 7919 % KEYS},', 1)


SHAPES = {
    "of events": (TABLE, plain_shape),
    "of new keys": (KEYED, plain_shape),
    "of rows that replace others": (KEYED, replacing),
}


async def bare_sqlite(bench: Bench, seconds: float, batch: int) -> float:
    """Rows per second of the bare loop."""
    with tempfile.TemporaryDirectory(prefix="kalam-load-", dir=bench.options.scratch) as path:
        command = (sys.executable, "-m", "loadtest.floor.bare_sqlite", path, str(seconds))
        process = await LineProcess.start([*command, str(batch)], bench.cores.server)
        try:
            return float((await process.wait("stored", seconds + 60))["rows_per_second"])
        finally:
            await process.close()


async def measure(
    bench: Bench, subscribers: int, kind: str, *, batch: int, producers: int, bar: float
) -> Measurement:
    table, shape = SHAPES[kind]
    rounds = 1 if bench.options.small else ROUNDS
    seconds = bench.options.time(9) / rounds
    async with bench.stage() as stage:
        server = await stage.server()
        plan = ClientPlan(subscribers, [f"SELECT * FROM {table}"], shape="spread")
        client = await stage.subscribers(server, plan)
        rows = RowMaker(shape)
        producer = await stage.producer(server, rows, table=table, connections=producers)
        bench.progress.step(f"posts of {batch} {kind} from {producers} producers")
        rates, floors = [], []
        meter, cpu = server.meter() if server.pid else CpuMeter(), 0
        for _ in range(rounds):
            meter.lap()
            made, begun = producer.rows.made, time.monotonic()
            with stage.watching_client(f"posts of {batch}"):
                await producer.post_for(seconds, batch)
                rates.append((producer.rows.made - made) / (time.monotonic() - begun))
            client.expect(producer.rows.made * subscribers)
            await client.arrived(120)
            cpu += meter.lap()
            floors.append(await bare_sqlite(bench, seconds, batch))
        made = producer.rows.made
        (await client.report()).require_each(made, producer.rows.sum_between(1, made))
    return Measurement(
        f"posts of {batch} {kind} from {producers} producers, {subscribers} subscribers",
        median(rates),
        "changes per second",
        median(floors),
        median(rate / floor for rate, floor in zip(rates, floors, strict=True)),
        Bar("at least", bar),
        {"server_cpu_us_per_change": cpu / 1000 / made if server.pid else None, "changes": made},
    )


async def run(bench: Bench) -> Sequence[Measurement]:
    subscribers = bench.options.many(20, 5)
    return [
        *[
            await measure(bench, subscribers, kind, batch=100, producers=4, bar=30_000)
            for kind in SHAPES
        ],
        await measure(bench, subscribers, "of events", batch=1, producers=32, bar=2_000),
    ]


QUESTION = Question("ingest", "Changes durably accepted and delivered", run)
