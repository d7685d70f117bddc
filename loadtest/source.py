"""How long from a commit in PostgreSQL to 500 sockets, and how many rows a second are followed?

A private PostgreSQL with fsync, a server that follows one table of it, and a writer. The stamp of a
row is taken before its INSERT is sent, so that PostgreSQL's own commit is in the delay. For the
second figure a writer inserts in transactions of a hundred, ten thousand rows a second, and one
subscriber reads them all: what counts is whether the last row arrives when its writer ends.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadtest.client import Client, ClientPlan
from loadtest.harness import plot
from loadtest.harness.postgres import Cluster
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, median
from loadtest.harness.rows import RowMaker, load_text
from loadtest.harness.server import Server
from loadtest.harness.stage import Bench

RATE = 100
ROWS_PER_SECOND, PER_TRANSACTION = 10_000, 100
_TABLE = "CREATE TABLE rows (id bigint PRIMARY KEY, x_load text, g int, c text)"
_INSERT = "INSERT INTO rows SELECT * FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::text[])"
ALL = "SELECT * FROM public.rows"


@contextmanager
def database() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="kalam-source-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o711)
        cluster = Cluster(directory / "c")
        cluster.start()
        try:
            with cluster.connect() as connection:
                connection.execute(_TABLE)
            yield cluster
        finally:
            cluster.stop()


class Writer:
    """Inserts numbered rows; blocking, for a thread."""

    def __init__(self, cluster: Cluster) -> None:
        self._connection = cluster.connect()
        self.made = 0
        # How long each transaction took, commit included, in milliseconds.
        self.took: list[float] = []

    def write(self, count: int) -> None:
        """One transaction."""
        first, self.made = self.made + 1, self.made + count
        numbers = list(range(first, self.made + 1))
        stamp = time.monotonic_ns()
        texts = [load_text(n, stamp, 60) for n in numbers]
        fillers = ([n % 1000 for n in numbers], ["some text" for _ in numbers])
        self._connection.execute(_INSERT, (numbers, texts, *fillers))
        self.took.append((time.monotonic_ns() - stamp) / 1e6)

    def at_rate(self, transactions: float, count: int, seconds: float) -> float:
        """So many transactions a second; by how much it was late at the end, in seconds."""
        begin = time.monotonic()
        for number in range(round(transactions * seconds)):
            ahead = begin + number / transactions - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            self.write(count)
        return time.monotonic() - begin - seconds

    def close(self) -> None:
        self._connection.close()


async def run(bench: Bench) -> Sequence[Measurement]:
    with database() as cluster:
        async with bench.stage() as stage:
            sources = {"bench": {"postgres": cluster.dsn(), "access": "public"}}
            server = await stage.server(sources=sources)
            writer = Writer(cluster)
            many = bench.options.many(500, 20)
            plan = ClientPlan(many, [ALL], shape="fixed")
            client = await stage.subscribers(server, plan)
            await _delays(writer, client, 1)
            delays = await _delays(writer, client, bench.options.time(16))
            await client.process.close()
            one = await stage.subscribers(server, ClientPlan(1, [ALL], shape="fixed"))
            followed = await _rows(writer, server, one, bench.options.time(30))
            writer.close()
    return [*delays, *followed]


async def _delays(writer: Writer, client: Client, seconds: float) -> Sequence[Measurement]:
    await client.command("reset")
    writer.took.clear()
    first = writer.made + 1
    expected = max(1, round(RATE * seconds))
    client.expect(expected * client.plan.total)
    await asyncio.to_thread(writer.at_rate, RATE, 1, seconds)
    await client.arrived()
    report = await client.report()
    report.require_each(expected, RowMaker.sum_between(first, writer.made))
    itself = Measurement("p50 of the INSERT itself", median(writer.took), "ms")
    to = f"from before the INSERT to {client.plan.total} subscribers"
    bars = ((50, 10), (99, 30))
    return [
        itself,
        *(
            Measurement(
                f"p{percent} {to}", report.delay.percentile(percent), "ms", bar=Bar("at most", bar)
            )
            for percent, bar in bars
        ),
    ]


async def _rows(
    writer: Writer, server: Server, client: Client, seconds: float
) -> Sequence[Measurement]:
    await client.command("reset")
    first = writer.made + 1
    transactions = ROWS_PER_SECOND / PER_TRANSACTION
    expected = round(transactions * seconds) * PER_TRANSACTION
    client.expect(expected)
    meter = server.meter()
    meter.lap()
    begin = time.monotonic()
    late = await asyncio.to_thread(writer.at_rate, transactions, PER_TRANSACTION, seconds)
    written = time.monotonic()
    await client.arrived(600)
    arrived = time.monotonic()
    report = await client.report()
    report.require_each(expected, RowMaker.sum_between(first, writer.made))
    cpu = meter.lap() / 1e9
    return [
        Measurement(
            "rows followed", expected / (arrived - begin), "rows/s", bar=Bar("at least", 9500)
        ),
        Measurement("last row after its writer", arrived - written, "s"),
        Measurement("writer late by", max(late, 0.0), "s"),
        Measurement("server's CPU per row", cpu / expected * 1e6, "us"),
    ]


QUESTION = Question("source", "A PostgreSQL table followed", run, plot.bars)
