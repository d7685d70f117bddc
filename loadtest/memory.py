"""Resident memory of an idle, authenticated connection with one subscription."""

from collections.abc import Callable, Sequence

from loadtest.client import Client, ClientPlan
from loadtest.fanout import ALL
from loadtest.floor import Floor
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import Server
from loadtest.harness.stage import Bench, Stage


async def grown(
    stage: Stage, target: Server | Floor, connections: int, resident: Callable[[], int]
) -> tuple[float, list[Client]]:
    """KiB per connection, after as many as warm the allocators up; and all the clients."""
    warm = await stage.subscribers(target, ClientPlan(max(10, connections // 20), [ALL]))
    before = resident()
    client = await stage.subscribers(target, ClientPlan(connections, [ALL]))
    return (resident() - before) / 1024 / connections, [warm, client]


async def all_hear(producer: Producer, clients: list[Client]) -> None:
    """The idle connections are no dummies: one change reaches each of them."""
    for client in clients:
        client.expect(client.plan.total)
    await producer.post(1)
    for client in clients:
        await client.arrived()
        (await client.report()).require_each(1, 1)


async def run(bench: Bench) -> Sequence[Measurement]:
    connections = bench.options.many(5000, 50)
    async with bench.stage() as stage:
        server = await stage.server()
        kib, clients = await grown(stage, server, connections, server.resident_bytes)
        floor = await stage.floor([RowMaker().row()])
        bare = None
        if floor:
            bare, _ = await grown(stage, floor, connections, floor.resident_bytes)
        await all_hear(await stage.producer(server, RowMaker()), clients)
    return [
        Measurement(
            f"{connections} connections, one subscription each",
            kib,
            "KiB resident per connection",
            bare,
            None,
            Bar("at most", 8),
        )
    ]


QUESTION = Question("memory", "Memory of an idle subscriber", run)
