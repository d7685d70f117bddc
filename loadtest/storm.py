"""Everybody comes, goes, and comes back at once.

First all clients connect, authenticate and subscribe: how many per second of CPU? Then all hang up
at the same moment, changes are posted that nobody hears, and all return at once and resume: how
long until every one of them has caught up and is live?
"""

import time
from collections.abc import Sequence

from loadtest.client import Client, ClientPlan
from loadtest.fanout import ALL
from loadtest.harness.faults import DeliveryFault
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.stage import Bench, Stage

MISSED = 20


async def arrive(bench: Bench, stage: Stage, clients: int) -> tuple[Client, Producer, Measurement]:
    server = await stage.server()
    warm = await stage.subscribers(server, ClientPlan(10, [ALL]))
    bench.progress.step(f"{clients} clients arrive")
    meter = server.meter()
    with stage.watching_client("arrival"):
        plan = ClientPlan(clients, [ALL], contiguous=True, ramp=clients)
        client = await stage.subscribers(server, plan)
    rate = clients * 1e9 / meter.lap()
    floor = await stage.floor([RowMaker().row()])
    bare = None
    if floor:
        bare_meter = floor.meter()
        await stage.subscribers(floor, ClientPlan(clients, [ALL], ramp=clients))
        bare = clients * 1e9 / bare_meter.lap()
    await warm.command("drop")
    producer = await stage.producer(server, RowMaker())
    figure = Measurement(
        f"{clients} clients connect, authenticate, subscribe",
        rate,
        "clients per CPU second",
        bare,
        rate / bare if bare else None,
        Bar("at least", 3000),
    )
    return client, producer, figure


async def come_back(bench: Bench, client: Client, producer: Producer) -> Measurement:
    clients = client.plan.connections
    bench.progress.step(f"{clients} clients return at once")
    client.expect(clients)
    await producer.post(1)
    await client.arrived()
    await client.command("drop")
    for _ in range(MISSED):
        await producer.post(1)
    begun = time.monotonic()
    client.expect(clients * (1 + MISSED))
    await client.command("return")
    await client.ready()
    await client.arrived()
    seconds = time.monotonic() - begun
    client.expect(clients * (2 + MISSED))
    await producer.post(1)
    await client.arrived()
    report = await client.report()
    report.require_each(producer.rows.made, producer.rows.sum_between(1, producer.rows.made))
    if report.not_resumed:
        raise DeliveryFault(f"{report.not_resumed} clients were not resumed but sent a snapshot")
    return Measurement(
        f"{clients} return at once, {MISSED} changes missed",
        seconds,
        "seconds until all are live",
        bar=Bar("at most", 10),
    )


async def run(bench: Bench) -> Sequence[Measurement]:
    clients = bench.options.many(5000, 50)
    async with bench.stage() as stage:
        client, producer, figure = await arrive(bench, stage, clients)
        return [figure, await come_back(bench, client, producer)]


QUESTION = Question("storm", "A storm of connections", run)
