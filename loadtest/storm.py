"""Everybody comes, goes, and comes back at once.

First all clients connect, authenticate and subscribe: how many per second of CPU? Then all hang up
at the same moment, changes are posted that nobody hears, and all return at once and resume: how
long until every one of them has caught up and is live?

Taken twice: all with one query, each change due to everybody; and each with queries of its own, as
people have who look at their own things, each change due to one. The silent subscriptions beside
are alike in the first and of the client's own in the second.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.client import Client, ClientPlan
from loadtest.client.driver import Report
from loadtest.fanout import ALL
from loadtest.filter_kinds import BATCH, KINDS, placed_between, shape_of
from loadtest.harness.faults import DeliveryFault
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import SILENT
from loadtest.harness.stage import Bench, Stage

OWN = KINDS[0]


@dataclass(frozen=True)
class Crowd:
    """Clients of one kind, and what is due to them."""

    name: str
    plan: ClientPlan
    rows: RowMaker
    missed: int  # changes posted while they are away
    due: int  # rows that one change brings to all of them together

    def check(self, report: Report) -> None:
        """Every row that was ever posted has reached whom it was for, and nobody else."""
        made = self.rows.made
        if self.due == 1:
            report.require_all(made, RowMaker.sum_between(1, made))
            report.require_placed(placed_between(1, made, self.plan.connections))
        else:
            report.require_each(made, RowMaker.sum_between(1, made))
        if report.not_resumed:
            raise DeliveryFault(f"{report.not_resumed} were not resumed but sent a snapshot")


def alike(bench: Bench, clients: int) -> Crowd:
    plan = ClientPlan(clients, [ALL], contiguous=True, ramp=clients)
    return Crowd("one query", plan, RowMaker(), 20, clients)


def distinct(bench: Bench, clients: int) -> Crowd:
    sql = [f"SELECT * FROM {OWN.table} WHERE {OWN.where(k)}" for k in range(clients)]
    beside = [f"SELECT * FROM {table} WHERE g = {{n}}" for table in SILENT[: bench.options.silent]]
    plan = ClientPlan(clients, sql, beside=beside, shape="fixed", ramp=clients)
    missed = BATCH if bench.options.small else 20 * BATCH
    return Crowd("own queries", plan, RowMaker(shape_of(OWN, clients)), missed, 1)


async def arrive(bench: Bench, stage: Stage, crowd: Crowd) -> tuple[Client, Producer, Measurement]:
    clients = crowd.plan.connections
    server = await stage.server()
    warm = await stage.subscribers(server, ClientPlan(10, [ALL]))
    bench.progress.step(f"{clients} clients arrive, {crowd.name}")
    meter = server.meter()
    with stage.watching_client("arrival"):
        client = await stage.subscribers(server, crowd.plan)
    rate = clients * 1e9 / meter.lap()
    floor = await stage.floor([RowMaker().row()])
    bare = None
    if floor:
        bare_meter = floor.meter()
        await stage.subscribers(floor, ClientPlan(clients, [ALL], ramp=clients))
        bare = clients * 1e9 / bare_meter.lap()
    await warm.command("drop")
    producer = await stage.producer(server, crowd.rows)
    figure = Measurement(
        f"{clients} clients connect, authenticate, subscribe: {crowd.name}",
        rate,
        "clients per CPU second",
        bare,
        rate / bare if bare else None,
        Bar("at least", 3000) if crowd.due > 1 else None,
    )
    return client, producer, figure


async def come_back(bench: Bench, crowd: Crowd, client: Client, producer: Producer) -> Measurement:
    clients = crowd.plan.connections
    bench.progress.step(f"{clients} clients return at once, {crowd.name}")
    await heard(crowd, client, producer)
    await client.command("drop")
    for _ in range(crowd.missed // 20):
        await producer.post(20)
    begun = time.monotonic()
    client.expect(crowd.due * crowd.rows.made)
    await client.command("return")
    await client.ready()
    await client.arrived()
    seconds = time.monotonic() - begun
    await heard(crowd, client, producer)
    crowd.check(await client.report())
    return Measurement(
        f"{clients} return at once, {crowd.missed} changes missed: {crowd.name}",
        seconds,
        "seconds until all are live",
        bar=Bar("at most", 10),
    )


async def heard(crowd: Crowd, client: Client, producer: Producer) -> None:
    """One change, live."""
    client.expect(crowd.due * (crowd.rows.made + 1))
    await producer.post(1)
    await client.arrived()


async def run(bench: Bench) -> Sequence[Measurement]:
    clients = bench.options.many(5000, 50)
    figures = []
    for crowd in (alike(bench, clients), distinct(bench, clients)):
        async with bench.stage() as stage:
            client, producer, figure = await arrive(bench, stage, crowd)
            figures += [figure, await come_back(bench, crowd, client, producer)]
    return figures


QUESTION = Question("storm", "A storm of connections", run)
