"""What does compressed delivery cost, and what does it save on the wire?

Two groups of subscribers on two tables of the same server, one of which negotiated
permessage-deflate; both get the same number of posts of ten order-like rows, in turn. In this
table the floor is the plain group; the bare send loop stands beside it in a line of its own.
"""

import time
from collections.abc import Sequence

from loadtest.client import Client, ClientPlan
from loadtest.fanout import floor_side
from loadtest.harness.blocks import Cost, FloorSide, ServerSide
from loadtest.harness.faults import LoadTestFault
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, median
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import FLOOD, TABLE, Server
from loadtest.harness.stage import Bench, Stage

ROWS = 10  # per post
BLOCK = 10_000  # messages

STATES = ["received", "paid", "packed", "shipped", "delivered", "returned"]
NAMES = [
    "Ada",
    "Grace",
    "Edsger",
    "Barbara",
    "Donald",
    "Frances",
    "Alan",
    "Radia",
    "Tony",
    "Leslie",
]
GOODS = ["kettle", "lamp", "notebook", "bicycle bell", "umbrella", "chess set", "blanket", "atlas"]


def order_shape(n: int, text: str) -> str:
    """A row such as shops have: names repeat, values vary."""
    mixed = n * 2654435761 % 2**32
    return (
        f'{{"id":{n},"x_load":"{text}","customer":"{NAMES[mixed % 10]} {NAMES[mixed // 10 % 10]}",'
        f'"status":"{STATES[mixed // 100 % 6]}","item":"{GOODS[mixed // 1000 % 8]}",'
        f'"price":{mixed % 9973 / 100},"quantity":{mixed // 7 % 9 + 1},"note":null}}'
    )


def order_rows() -> RowMaker:
    return RowMaker(order_shape, padding=0)


async def group(
    bench: Bench, stage: Stage, server: Server, table: str, *, deflate: bool
) -> ServerSide:
    """Subscribers of one table, and their producer."""
    subscribers = bench.options.many(500, 10)
    sql = [f"SELECT * FROM {table}"]
    plan = ClientPlan(subscribers, sql, contiguous=True, deflate=deflate)
    client = await stage.client(server, plan)
    told = await client.ready()
    if deflate and told["deflated"] < subscribers:
        bench.note("the server did not negotiate permessage-deflate: both groups are plain")
    producer = await stage.producer(server, order_rows(), table=table)
    return ServerSide(producer, client, server.meter())


async def run(bench: Bench) -> Sequence[Measurement]:
    subscribers = bench.options.many(500, 10)
    batches = 3 if bench.options.small else max(1, BLOCK // subscribers)
    if bench.uses_python:
        raise LoadTestFault("compression is measured with the C client only")
    async with bench.stage() as stage:
        server = await stage.server()
        plain = await group(bench, stage, server, TABLE, deflate=False)
        packed = await group(bench, stage, server, FLOOD, deflate=True)
        bare = await floor_side(stage, subscribers, order_rows(), ROWS)
        bench.progress.step(f"posts of {ROWS} to {subscribers} subscribers, plain and compressed")
        before = await bytes_of(plain.client), await bytes_of(packed.client)
        with stage.watching_client("compression"):
            costs = await in_turn(bench.options.time(10), batches, plain, packed, bare)
        after = await bytes_of(plain.client), await bytes_of(packed.client)
        await plain.check()
        await packed.check()
        if bare:
            await bare.check()
    rows = plain.producer.rows.made * subscribers
    wire = ((then - at_first) / rows for at_first, then in zip(before, after, strict=True))
    return figures(subscribers, *costs, *wire)


async def bytes_of(client: Client) -> int:
    return (await client.report()).bytes


async def in_turn(
    seconds: float, batches: int, plain: ServerSide, packed: ServerSide, bare: FloorSide | None
) -> tuple[list[Cost], list[Cost], list[Cost]]:
    """Blocks of the three kinds, the first ones not counted."""
    costs: tuple[list[Cost], list[Cost], list[Cost]] = ([], [], [])
    until = time.monotonic() + seconds
    while len(costs[0]) < 2 or time.monotonic() < until:
        costs[0].append(await posts_in_turn(plain, batches))
        costs[1].append(await posts_in_turn(packed, batches))
        if bare:
            costs[2].append(await bare.one_at_a_time(batches))
    return costs[0][1:], costs[1][1:], costs[2][1:]


async def posts_in_turn(side: ServerSide, batches: int) -> Cost:
    """Each post when the one before has arrived, so that one post is one message."""
    costs = [await side.as_fast_as_accepted(1, ROWS) for _ in range(batches)]
    return Cost(
        sum(c.cpu_ns for c in costs), sum(c.rows for c in costs), sum(c.wall_ns for c in costs)
    )


def figures(
    subscribers: int,
    plain: list[Cost],
    packed: list[Cost],
    bare: list[Cost],
    plain_bytes: float,
    packed_bytes: float,
) -> list[Measurement]:
    unit = "µs CPU per row-change delivered"
    usual = median(cost.us_per_row for cost in plain)
    dense = median(cost.us_per_row for cost in packed)
    ratio = median(b.us_per_row / a.us_per_row for a, b in zip(plain, packed, strict=True))
    least = median(cost.us_per_row for cost in bare) if bare else None
    return [
        Measurement(
            f"plain, {subscribers} subscribers (floor: bare loop)",
            usual,
            unit,
            least,
            usual / least if least else None,
        ),
        Measurement(
            f"compressed, {subscribers} subscribers (floor: plain)",
            dense,
            unit,
            usual,
            ratio,
            Bar("at most", 1.5, "ratio"),
        ),
        Measurement(
            "on the wire (floor: plain)",
            packed_bytes,
            "bytes per row-change",
            plain_bytes,
            packed_bytes / plain_bytes,
            Bar("at most", 0.5, "ratio"),
        ),
    ]


QUESTION = Question("compression", "permessage-deflate against plain delivery", run)
