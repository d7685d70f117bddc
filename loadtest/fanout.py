"""One change at a time to many subscribers: what does a delivery cost?

Each change is posted when the one before has reached everybody, so nothing can be merged: one
send per subscriber and change, as in the floor's loop. Taken twice: with equal subscriptions (one
id, one query), and with every subscriber's own id, half of them on one of 20 projections.
"""

from collections.abc import Sequence

from loadtest.client import ClientPlan
from loadtest.harness.blocks import FloorSide, ServerSide, alternate
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import TABLE
from loadtest.harness.stage import Bench, Stage
from loadtest.peers import beside

BLOCK = 20_000  # deliveries, so that a block lasts about 0.1 s of CPU
ALL = f"SELECT * FROM {TABLE}"


def projections(count: int) -> list[str]:
    """Distinct column lists, each with the columns that the client checks."""
    columns = ["g", "c0", "c1", "c2", "c3", "c4", "c5"]
    pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    return [f"SELECT id, x_load, {a}, {b} FROM {TABLE}" for a, b in pairs[:count]]


def mixed(count: int) -> list[str]:
    """Every second subscription takes all columns, the others one of `count` projections."""
    return [sql for projection in projections(count) for sql in (ALL, projection)]


async def measure(bench: Bench, subscribers: int, *, own: bool) -> Measurement:
    async with bench.stage() as stage:
        server = await stage.server()
        sql = mixed(20) if own else [ALL]
        plan = ClientPlan(subscribers, sql, unique_ids=own, contiguous=True, shape="spread")
        client = await stage.subscribers(server, plan)
        producer = await stage.producer(server, RowMaker())
        side = ServerSide(producer, client, server.meter())
        bare = await floor_side(stage, subscribers, RowMaker())
        changes = max(1, BLOCK // subscribers) if not bench.options.small else 3
        kind = "own ids, 20 projections" if own else "same id"
        bench.progress.step(f"{subscribers} subscribers, {kind}")
        with stage.watching_client(kind):
            pairs = await alternate(
                bench.options.time(8),
                lambda: side.one_at_a_time(changes),
                (lambda: bare.one_at_a_time(changes)) if bare else None,
            )
        await side.check()
        if bare:
            await bare.check()
    return Measurement(
        f"{subscribers} subscribers, {kind}",
        pairs.us_per_row,
        "µs CPU per delivery",
        pairs.floor_us_per_row,
        pairs.ratio,
        Bar("at most", 1.4 if own else 1.25, "ratio"),
        {"blocks": len(pairs.server), "changes_per_block": changes},
    )


async def floor_side(
    stage: Stage, subscribers: int, rows: RowMaker, per_message: int = 1
) -> FloorSide | None:
    """A floor with as many sockets, sending messages of `per_message` such rows."""
    floor = await stage.floor([rows.row() for _ in range(per_message)])
    if floor is None:
        return None
    client = await stage.subscribers(floor, ClientPlan(subscribers, [ALL], contiguous=True))
    return FloorSide(floor, client, per_message)


async def run(bench: Bench) -> Sequence[Measurement]:
    sizes = bench.options.sizes((1000, 5000), 20)
    ours = [await measure(bench, n, own=own) for own in (False, True) for n in sizes]
    return [*ours, *await beside.fanout(bench, sizes, BLOCK)]


QUESTION = Question("fanout", "One change at a time: CPU per row-change delivered", run)
