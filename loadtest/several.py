"""What do further subscriptions on a connection cost?

People hold several subscriptions on one socket. On one server, in turn, block by block, one change
at a time goes to as many connections that hold

- one subscription (the floor of this table),
- one that gets the rows and silent ones beside it, on tables that nobody writes,
- as many active ones, each on a table of its own, to which the rows are shared out,
- as many plans of the same table (other columns each), all of which see every change.

A delivery is one row at one connection; the last kind delivers a row as often as it has plans.
"""

import time
from collections.abc import Sequence

from loadtest.client import ClientPlan
from loadtest.fanout import ALL, projections
from loadtest.harness.blocks import Cost, ServerSide
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, median
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import ACTIVE, FLOOD, SILENT, TABLE, Server
from loadtest.harness.stage import Bench, Stage

BLOCK = 10_000  # deliveries
UNIT = "µs CPU per delivery"
# Tables that only one of the kinds subscribes to.
ALONE, BESIDE, SAME = FLOOD, SILENT[-2], SILENT[-1]


def plans(connections: int, several: int) -> dict[str, tuple[ClientPlan, Sequence[str]]]:
    """Each kind's clients, and the tables that its rows go to."""
    silent = [f"SELECT * FROM {table}" for table in SILENT[: several - 1]]
    columns = [sql.replace(TABLE, SAME) for sql in projections(several)]
    own = ACTIVE[:several]

    def plan(sql: Sequence[str], **more: object) -> ClientPlan:
        return ClientPlan(connections, sql, shape="fixed", **more)  # type: ignore[arg-type]

    return {
        "one": (plan([f"SELECT * FROM {ALONE}"], contiguous=True), [ALONE]),
        f"one and {several - 1} silent": (
            plan([f"SELECT * FROM {BESIDE}"], contiguous=True, beside=silent),
            [BESIDE],
        ),
        f"{several} active on {several} tables": (plan([ALL], tables=own), own),
        f"{several} plans of one table": (plan(columns, subscriptions=several), [SAME]),
    }


class Kind:
    """One kind's blocks."""

    def __init__(self, side: ServerSide, plans_of_a_row: int) -> None:
        self.side = side
        self._plans = plans_of_a_row
        self.costs: list[Cost] = []

    async def block(self, changes: int) -> None:
        self.costs.append(await self.side.one_at_a_time(changes))

    async def check(self) -> None:
        rows = self.side.producer.rows
        report = await self.side.client.report()
        report.require_each(
            rows.made * self._plans, rows.sum_between(1, rows.made) * self._plans % 2**64
        )


async def kind(stage: Stage, server: Server, plan: ClientPlan, tables: Sequence[str]) -> Kind:
    client = await stage.subscribers(server, plan)
    producer = Producer(server.base, server.producer_token, tables, RowMaker())
    stage.closes(producer)
    return Kind(ServerSide(producer, client, server.meter()), plan.subscriptions)


async def run(bench: Bench) -> Sequence[Measurement]:
    connections = bench.options.many(1000, 20)
    several = max(2, bench.options.subscriptions)
    changes = 3 if bench.options.small else max(2, BLOCK // connections)
    wanted = plans(connections, several)
    async with bench.stage() as stage:
        server = await stage.server()
        kinds = {name: await kind(stage, server, *of) for name, of in wanted.items()}
        bench.progress.step(f"{connections} connections, in turn")
        until = time.monotonic() + bench.options.time(20)
        with stage.watching_client("several"):
            while time.monotonic() < until or len(kinds["one"].costs) < 2:
                for one in kinds.values():
                    await one.block(changes)
        for one in kinds.values():
            await one.check()
    bars = [None, Bar("at most", 1.1, "ratio"), Bar("at most", 1.25, "ratio")]
    # Several plans of one connection that see one change are written at once: that costs less.
    bars.append(Bar("at most", 1.0, "ratio"))
    return [
        figure(name, connections, one, kinds["one"], bar)
        for (name, one), bar in zip(kinds.items(), bars, strict=True)
    ]


def figure(name: str, connections: int, one: Kind, alone: Kind, bar: Bar | None) -> Measurement:
    """The first blocks warm up and are not counted."""
    pairs = list(zip(one.costs[1:], alone.costs[1:], strict=True))
    return Measurement(
        f"{name}, {connections} connections",
        median(cost.us_per_row for cost, _ in pairs),
        UNIT,
        median(floor.us_per_row for _, floor in pairs),
        median(cost.us_per_row / floor.us_per_row for cost, floor in pairs),
        bar,
        {"blocks": len(pairs)},
    )


QUESTION = Question("several", "Several subscriptions on a connection (floor: one)", run)
