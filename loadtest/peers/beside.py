"""The figures of `--beside`, question by question, taken as our own are."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from loadtest.client import Delays
from loadtest.harness.blocks import ServerSide, alternate
from loadtest.harness.cpu import Cores
from loadtest.harness.report import Measurement, median
from loadtest.harness.stage import Bench, Stage
from loadtest.peers.library import Broadcast
from loadtest.peers.nats import Nats
from loadtest.peers.nchan import Nchan
from loadtest.peers.peer import Absent, Peer, PeerProducer, meter, plan, resident

PEERS: dict[str, Callable[[Path], Awaitable[Peer]]] = {
    "nchan": Nchan.start,
    "nats": Nats.start,
    "websockets": Broadcast.start,
}


@contextlib.asynccontextmanager
async def running(bench: Bench, stage: Stage, name: str) -> AsyncIterator[Peer | None]:
    """The peer on the server's core; None, and a note, where it is not installed."""
    try:
        with Cores.inherit(bench.cores.server):
            peer = await PEERS[name](stage.directory())
    except Absent as absent:
        bench.note(f"{name} was left out: {absent}")
        yield None
        return
    try:
        yield peer
    finally:
        with contextlib.suppress(ProcessLookupError):
            peer.process.kill()
        await peer.process.wait()


def chosen(bench: Bench) -> Iterator[str]:
    if bench.options.beside and bench.uses_python:
        bench.note("--beside needs the C client: nobody was measured beside")
        return
    for name in bench.options.beside or ():
        bench.progress.step(f"beside: {name}")
        yield name


async def fanout(bench: Bench, sizes: Sequence[int], block: int) -> list[Measurement]:
    told = []
    for name in chosen(bench):
        for subscribers in sizes:
            async with bench.stage() as stage, running(bench, stage, name) as peer:
                if peer is None:
                    break
                client = await stage.subscribers(peer, plan(peer, subscribers))
                side = ServerSide(PeerProducer(peer), client, meter(peer))
                changes = max(1, block // subscribers) if not bench.options.small else 3
                with stage.watching_client(name):
                    block_of = partial(side.one_at_a_time, changes)
                    pairs = await alternate(bench.options.time(8), block_of, None)
                await side.check()
            case = f"{name}, {subscribers} subscribers"
            told.append(Measurement(case, pairs.us_per_row, "µs CPU per delivery"))
    return told


async def burst(bench: Bench, subscribers: int, batches: int, size: int) -> list[Measurement]:
    told = []
    batches = max(1, batches // 5)  # they send row by row: a block takes its time
    for name in chosen(bench):
        async with bench.stage() as stage, running(bench, stage, name) as peer:
            if peer is None:
                continue
            client = await stage.subscribers(peer, plan(peer, subscribers))
            side = ServerSide(PeerProducer(peer), client, meter(peer))
            with stage.watching_client(name):
                pairs = await alternate(
                    bench.options.time(10),
                    partial(side.as_fast_as_accepted, batches, size),
                    None,
                )
            await side.check()
        rate = median(cost.rows_per_cpu_second for cost in pairs.server)
        case = f"{name}, {subscribers} subscribers"
        told.append(Measurement(case, rate, "row-changes per CPU second"))
    return told


async def memory(bench: Bench, connections: int) -> list[Measurement]:
    told = []
    for name in chosen(bench):
        async with bench.stage() as stage, running(bench, stage, name) as peer:
            if peer is None:
                continue
            await stage.subscribers(peer, plan(peer, max(10, connections // 20)))
            before = resident(peer)
            await stage.subscribers(peer, plan(peer, connections))
            kib = (resident(peer) - before) / 1024 / connections
        told.append(
            Measurement(f"{name}, {connections} connections", kib, "KiB resident per connection")
        )
    return told


async def latency(
    bench: Bench, subscribers: int, rate: int, rounds: int, seconds: float
) -> list[Measurement]:
    told = []
    for name in chosen(bench):
        async with bench.stage() as stage, running(bench, stage, name) as peer:
            if peer is None:
                continue
            client = await stage.subscribers(peer, plan(peer, subscribers))
            producer = PeerProducer(peer)
            seen: list[Delays] = []
            for _ in range(rounds + 1):
                await client.command("reset")
                first = producer.rows.made + 1
                await producer.post_at(rate, seconds)
                rows = producer.rows.made - first + 1
                client.expect(rows * subscribers)
                await client.arrived()
                report = await client.report()
                report.require_each(rows, producer.rows.sum_between(first, producer.rows.made))
                seen.append(report.delay)
        delays = Delays.merge(seen[1:])  # the first round warms up
        for percent in (50, 99):
            case = f"{name}, p{percent} to {subscribers} subscribers"
            told.append(Measurement(case, delays.percentile(percent), "ms"))
    return told
