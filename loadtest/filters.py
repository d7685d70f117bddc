"""What does a change cost when 10, 1,000 or 100,000 distinct filters wait for it?

Every subscription has a filter of its own, and every change matches exactly one. The changes of a
batch of 100 go to ten filters, ten each, other ones in each batch, so that the number of sends is
the same for every number of filters, and only finding them differs. Rates are changes per second
of the server's CPU, which is the rate on one core.

The column `floor` holds the rate of the same kind at the smallest number of filters, except where a
line says otherwise. Memory per distinct filter is what a server with distinct filters takes beyond
one with as many subscriptions that all have the same.

policy: each connection has a tenant of its own in its token, the table's policy demands it, and
the own filters tell the subscriptions of a connection apart.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.client import Client, ClientPlan
from loadtest.filter_kinds import (
    BATCH,
    KINDS,
    NAMES,
    SAME,
    Kind,
    placed_between,
    policed,
    shape_of,
    spread,
)
from loadtest.harness import plot
from loadtest.harness.producer import Producer
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, Result
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import Server
from loadtest.harness.stage import Bench, Stage


def plan_of(kind: Kind, server: Server, connections: int, per_connection: int) -> ClientPlan:
    count = connections * per_connection
    sql = [f"SELECT * FROM {kind.table} WHERE {kind.where(k)}" for k in range(count)]
    tokens = [server.token_for(f"user{n}", tenant=f"t{n}") for n in range(connections)]
    return ClientPlan(connections, sql, tokens, subscriptions=per_connection)


async def subscribed(
    bench: Bench, stage: Stage, kind: Kind, count: int
) -> tuple[Server, Client, float]:
    """A fresh server with `count` subscriptions, and what they took of its memory, in KiB."""
    connections, per_connection = spread(count)
    room = max(100, per_connection) + bench.options.silent
    server = await stage.server(max_subscriptions_per_connection=room)
    bench.progress.step(f"{count} filters, {kind.name}")
    before = server.resident_bytes()
    client = await stage.client(server, plan_of(kind, server, connections, per_connection))
    await client.ready(900)
    return server, client, (server.resident_bytes() - before) / 1024


async def post_while(bench: Bench, seconds: float, producer: Producer, client: Client) -> None:
    """Batches, each when the one before has arrived, at least one."""
    until = time.monotonic() + seconds
    while True:
        client.expect(producer.rows.made + BATCH)
        await producer.post(BATCH)
        await client.arrived(300)
        bench.progress.detail(f"{producer.rows.made} changes")
        if time.monotonic() > until:
            return


@dataclass(frozen=True)
class Figures:
    """One kind at one number of filters."""

    kind: str
    count: int
    rate: float  # changes per second of server CPU
    evaluations: float  # per change
    kib: float  # of all subscriptions


async def measure(bench: Bench, name: str, count: int) -> Figures:
    connections, per_connection = spread(count)
    count = connections * per_connection
    kind = next((kind for kind in KINDS if kind.name == name), policed(per_connection))
    async with bench.stage() as stage:
        server, client, kib = await subscribed(bench, stage, kind, count)
        rows = RowMaker(shape_of(kind, count))
        producer = await stage.producer(server, rows, table=kind.table)
        await post_while(bench, 0, producer, client)
        warm, evaluated = rows.made, await server.metric("filter_evaluations_total")
        meter = server.meter()
        with stage.watching_client(f"{name}, {count} filters"):
            await post_while(bench, bench.options.time(5, 0.2), producer, client)
        used, changes = meter.lap(), rows.made - warm
        evaluated = await server.metric("filter_evaluations_total") - evaluated
        report = await client.report()
        report.require_all(rows.made, rows.sum_between(1, rows.made))
        report.require_placed(placed_between(1, rows.made, count))
    return Figures(name, count, changes * 1e9 / used, evaluated / changes, kib)


async def kib_of_look_alikes(bench: Bench, count: int) -> float:
    """Memory of as many subscriptions that all share one filter."""
    async with bench.stage() as stage:
        return (await subscribed(bench, stage, SAME, count))[2]


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    usual = (40,) if bench.options.small else (10, 1000, 100_000)
    counts = sorted(bench.options.counts or usual)
    chosen = bench.options.kinds or tuple(NAMES)
    figures = [await measure(bench, kind, count) for kind in chosen for count in counts]
    alike = await kib_of_look_alikes(bench, max(f.count for f in figures))
    return [*rates(figures), *against_equality(figures), *memory(figures, alike)]


def rates(figures: list[Figures]) -> list[Measurement]:
    told = []
    for f in figures:
        least = min((g for g in figures if g.kind == f.kind), key=lambda g: g.count)
        most = max(g.count for g in figures)
        bar = Bar("at least", 0.5, "ratio") if f.kind == "equality" and f.count == most else None
        details = {"kind": f.kind, "count": f.count, "evaluations_per_change": f.evaluations}
        case = f"{f.kind}, {f.count} filters ({f.evaluations:.1f} evaluations per change)"
        told.append(
            Measurement(
                case,
                f.rate,
                "changes per CPU second",
                least.rate,
                f.rate / least.rate,
                bar,
                details,
            )
        )
    return told


def against_equality(figures: list[Figures]) -> list[Measurement]:
    """The bars that are not about the smallest number."""
    most = max(f.count for f in figures)
    top = {f.kind: f.rate for f in figures if f.count == most}
    told = []
    if "equality" in top:
        unit, rate = "changes per CPU second", top["equality"]
        told.append(
            Measurement(f"equality alone, {most} filters", rate, unit, bar=Bar("at least", 5000))
        )
        if "range" in top:
            case = f"range, {most} filters (floor: equality)"
            bar = Bar("at least", 1 / 3, "ratio")
            told.append(Measurement(case, top["range"], unit, rate, top["range"] / rate, bar))
    return told


def memory(figures: list[Figures], alike: float) -> list[Measurement]:
    most = max(f.count for f in figures)
    return [
        Measurement(
            f"{f.kind}, {most} filters (floor: a look-alike)",
            (f.kib - alike) / most,
            "KiB per distinct filter",
            alike / most,
            bar=Bar("at most", 2),
        )
        for f in figures
        if f.count == most
    ]


def draw(result: Result, path: Path) -> None:
    """Rate over the number of filters, a line per kind."""
    figure, axes = plot.canvas(result.title)
    curves: dict[str, list[tuple[int, float]]] = {}
    for m in result.measurements:
        if "count" in m.details:
            curves.setdefault(m.details["kind"], []).append((m.details["count"], m.value))
    for kind, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=kind)
    axes.axhline(5000, color="black", linewidth=1, linestyle="--", label="bar at the most filters")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("distinct filters")
    axes.set_ylabel("changes per second of server CPU")
    axes.legend()
    figure.savefig(path, dpi=110)


QUESTION = Question("filters", "Changes per second with many distinct filters", run, draw)
