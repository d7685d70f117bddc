"""Resident memory of an idle, authenticated connection: with one subscription, and with several.

The several are on tables of their own, all but the first silent, and every connection has the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from loadtest.client import Client, ClientPlan
from loadtest.fanout import ALL
from loadtest.floor import Floor
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import Server
from loadtest.harness.stage import Bench, Stage
from loadtest.peers import beside


async def grown(
    stage: Stage, target: Server | Floor, plan: ClientPlan, resident: Callable[[], int]
) -> tuple[float, list[Client]]:
    """KiB per connection, after as many as warm the allocators up; and all the clients."""
    connections = plan.connections
    warm = await stage.subscribers(target, replace(plan, connections=max(10, connections // 20)))
    before = resident()
    client = await stage.subscribers(target, plan)
    return (resident() - before) / 1024 / connections, [warm, client]


async def all_hear(producer: Producer, clients: list[Client]) -> None:
    """The idle connections are no dummies: one change reaches each of them."""
    for client in clients:
        client.expect(client.plan.total)
    await producer.post(1)
    for client in clients:
        await client.arrived()
        (await client.report()).require_each(1, 1)


async def measure(bench: Bench, plan: ClientPlan, each: str, bar: Bar | None) -> Measurement:
    async with bench.stage() as stage:
        server = await stage.server()
        kib, clients = await grown(stage, server, plan, server.resident_bytes)
        floor = await stage.floor([RowMaker().row()])
        bare = None
        if floor:
            bare, _ = await grown(stage, floor, plan, floor.resident_bytes)
        await all_hear(await stage.producer(server, RowMaker()), clients)
    case = f"{plan.connections} connections, {each}"
    return Measurement(case, kib, "KiB resident per connection", bare, None, bar)


async def run(bench: Bench) -> Sequence[Measurement]:
    alone = ClientPlan(bench.options.many(5000, 50), [ALL], shape="fixed")
    told = [await measure(bench, alone, "one subscription each", Bar("at most", 8))]
    several = bench.options.subscriptions
    if several > 1:
        plan = replace(alone, shape="spread")
        told.append(await measure(bench, plan, f"{several} subscriptions each", None))
    return [*told, *await beside.memory(bench, alone.connections)]


QUESTION = Question("memory", "Memory of an idle subscriber", run)
