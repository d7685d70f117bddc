"""The loads, and what the healthy crowd is held to meanwhile."""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loadtest.client import Client, ClientPlan
from loadtest.fairness import frames
from loadtest.fairness.healthy import Crowd, Rows
from loadtest.filter_kinds import KINDS, shape_of
from loadtest.harness.cpu import cpu_ns
from loadtest.harness.lines import LineProcess
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import BIG, FLOOD, TABLE, Server
from loadtest.harness.stage import Bench, Stage

P50, P99, WORST = "live change p50", "live change p99", "live change, worst"
READY, SNAPSHOT = "/readyz, worst", "snapshot of 50 rows, worst"
RESUME, NEWCOMER = "resume over 50 changes, worst", "newcomer's acknowledgement, worst"


def at_most(milliseconds: float) -> Bar:
    return Bar("at most", milliseconds)


def times_calm(factor: float) -> Bar:
    return Bar("at most", factor, "ratio")


class Load(Protocol):
    """One load, prepared."""

    async def begin(self) -> None: ...

    async def end(self) -> list[Measurement]:
        """Leave off; what else is to be told."""


Prepare = Callable[[Bench, Stage, Server, Crowd], Awaitable[Load]]


@dataclass(frozen=True)
class Scenario:
    """`load` prepares, while nobody is watched; `bars` by figure."""

    name: str
    load: Prepare
    bars: Mapping[str, Bar]
    rows: Callable[[], Rows] = Rows
    seconds: float = 8


# Frames of one attacker or several


@dataclass
class Frames:
    """Prepared frames, sent by a process of their own."""

    name: str
    process: LineProcess

    async def begin(self) -> None:
        self.process.send("go")

    async def end(self) -> list[Measurement]:
        told = await self.process.ask("report", "report")
        await self.process.ask("stop", "stopped")
        closed = ", ".join(f"{n} closed {code}" for code, n in told["closed"].items())
        heard = ", ".join(f"{n} {kind}" for kind, n in told["heard"].items())
        case = f"{self.name}: sent ({closed or 'not closed'}; heard {heard or 'nothing'})"
        return [Measurement(case, told["sent"], "frames", details=told)]


async def attacker(
    bench: Bench, stage: Stage, server: Server, made: Sequence[bytes], name: str, **flags: object
) -> Frames:
    directory = stage.directory()
    path = frames.write(directory / "frames", made)
    host, port = server.address
    command = [sys.executable, "-m", "loadtest.fairness.attacker", "--host", host]
    command += ["--port", str(port), "--token", server.token_for("attacker")]
    command += ["--frames", str(path)]
    if bench.options.small and "rounds" in flags:
        flags["rounds"] = 20
    for flag, value in flags.items():
        command += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    process = await stage.process(command)
    await process.wait("connected", 60)
    return Frames(name, process)


def sending(name: str, make: Callable[[Bench], Sequence[bytes]], **flags: object) -> Prepare:
    async def load(bench: Bench, stage: Stage, server: Server, crowd: Crowd) -> Load:
        return await attacker(bench, stage, server, make(bench), name, **flags)

    return load


def distinct_queries(bench: Bench) -> list[bytes]:
    """200 texts of 2-4 KB that have nothing in common."""
    rng = random.Random(1)

    def text(n: int) -> str:
        sql = f"SELECT * FROM {FLOOD} WHERE g = {n}"
        while len(sql) < rng.randint(2000, 4000):
            sql += f" OR (c0 = {rng.randrange(10**6)} AND c3 <> 'v{rng.randrange(10**6)}')"
        return sql

    return [
        frames.subscribe(f"q{n % 100}", text(n)) for n in range(5 if bench.options.small else 200)
    ]


def nested_functions(bench: Bench) -> list[bytes]:
    """Texts of 16 KB that nest one function in another; each is new."""
    most = 16 * 1024 - 200

    def text(n: int) -> str:
        depth = most // len("LOWER()")
        return f"SELECT * FROM {FLOOD} WHERE {'LOWER(' * depth}c3{')' * depth} = '{n}'"

    return [frames.subscribe("q", text(n)) for n in range(3 if bench.options.small else 60 * 45)]


def likes(n: int, count: int, column: str = "x_load") -> str:
    """A filter of so many LIKEs, none of which ever matches."""
    return " OR ".join(f"{column} LIKE '%{n}x%{k}y%z%'" for k in range(count))


def dear_snapshots(bench: Bench) -> list[bytes]:
    return [
        frames.subscribe(f"s{n}", f"SELECT * FROM {BIG} WHERE {likes(n, 60)}", {})
        for n in range(3 if bench.options.small else 60)
    ]


def dear_filters(count: int) -> Callable[[Bench], list[bytes]]:
    return lambda bench: [
        frames.subscribe(f"f{n}", f"SELECT * FROM {TABLE} WHERE {likes(n, 255)}")
        for n in range(min(count, 3) if bench.options.small else count)
    ]


def bombs(bench: Bench) -> list[bytes]:
    # Less than max_message_bytes, 1 MiB.
    return [frames.bomb(1_000_000)]


def pings_of_the_protocol(bench: Bench) -> list[bytes]:
    return [frames.frame(b"12345678", frames.PING) * 100]


def pings(bench: Bench) -> list[bytes]:
    return [frames.message(type="ping") * 100]


def fragments(bench: Bench) -> list[bytes]:
    """Messages in fragments of one byte."""
    text = b'{"type":"ping"}'
    first = frames.frame(text[:1], fin=False)
    rest = [frames.frame(text[n : n + 1], frames.CONTINUATION, fin=False) for n in range(1, 14)]
    return [(first + b"".join(rest) + frames.frame(text[14:], frames.CONTINUATION)) * 20]


# Loads that are more than frames


async def snapshots(bench: Bench, stage: Stage, server: Server, crowd: Crowd) -> Load:
    """60 snapshots with dear filters over a big table, by one connection."""
    rows = 2000 if bench.options.small else 60_000
    producer = await stage.producer(server, RowMaker(), table=BIG)
    await producer.post_many(rows // 1000, 1000)
    sender = await attacker(bench, stage, server, dear_snapshots(bench), "60 dear snapshots")
    return Leaving(sender, server)


@dataclass
class Leaving:
    """Frames whose sender's work must end when it leaves."""

    sender: Frames
    server: Server

    async def begin(self) -> None:
        await self.sender.begin()

    async def end(self) -> list[Measurement]:
        told = await self.sender.end()
        left = time.monotonic()
        seconds = (await self._busy_until() - left) if self.server.pid else 0.0
        case = f"{self.sender.name}: scans end after it has gone"
        return [*told, Measurement(case, max(0.0, seconds), "seconds", bar=at_most(0.1))]

    async def _busy_until(self) -> float:
        """When the server last used more than a fifth of a core for 20 ms; nobody else asks.

        Until it has not for a fifth of a second: what it does later, such as giving memory back, is
        no scan.
        """
        assert self.server.pid is not None
        last = time.monotonic()
        quiet_since = last
        used = cpu_ns(self.server.pid)
        while time.monotonic() - quiet_since < 0.2 and time.monotonic() - last < 60:
            begun = time.monotonic()
            await asyncio.sleep(0.02)
            now, before = cpu_ns(self.server.pid), used
            if now - before > 0.2e9 * (time.monotonic() - begun):
                quiet_since = time.monotonic()
            used = now
        return quiet_since


OWN = KINDS[0]


def own_rows(count: int) -> Callable[[], Rows]:
    """Rows of which each matches one of so many filters."""
    return lambda: Rows(lambda: RowMaker(shape_of(OWN, count)))


def returning(name: str, count: int, behind: int, within: float) -> Prepare:
    """So many subscriptions, each its own filter and 50 on a connection, come back at once."""

    async def load(bench: Bench, stage: Stage, server: Server, crowd: Crowd) -> Load:
        scale = 20 if bench.options.small else 1
        subscriptions = count // scale
        sql = [f"SELECT * FROM {TABLE} WHERE {OWN.where(k)}" for k in range(subscriptions)]
        per = min(50, subscriptions)
        plan = ClientPlan(subscriptions // per, sql, subscriptions=per, shape="fixed")
        client = await stage.client(server, plan)
        await client.ready()
        await client.command("drop")
        for _ in range(behind // scale // 100):
            await crowd.producer.post(100)
        return Returning(name, client, within)

    return load


@dataclass
class Returning:
    """A crowd that has been away."""

    name: str
    client: Client
    within: float
    task: "asyncio.Task[float] | None" = field(default=None)

    async def begin(self) -> None:
        self.task = asyncio.create_task(self._level())

    async def _level(self) -> float:
        begun = time.monotonic()
        await self.client.command("return")
        await self.client.ready(600)
        return time.monotonic() - begun

    async def end(self) -> list[Measurement]:
        assert self.task is not None
        seconds = await self.task
        await self.client.report()  # and no row came twice, altered or out of order
        case = f"{self.name}: all are level"
        return [Measurement(case, seconds, "seconds", bar=at_most(self.within))]


async def resumes_of_nothing(bench: Bench, stage: Stage, server: Server, crowd: Crowd) -> Load:
    """64 resumes that match nothing over 150,000 changes."""
    producer = await stage.producer(server, RowMaker(), table=FLOOD)
    await producer.post(1)
    before = producer.last_seq
    await producer.post_many(3 if bench.options.small else 150, 1000)
    made = [
        frames.subscribe(f"r{n}", f"SELECT * FROM {FLOOD} WHERE c3 = 'never{n}'", {"from": before})
        for n in range(64)
    ]
    return await attacker(bench, stage, server, made, "64 resumes of nothing")


BIG_ROWS = Rows(lambda: RowMaker(size=500_000), rate=2, subscribers=5)
_RATE_BARS = {WORST: at_most(100), READY: at_most(100)}
_FLOOD_BARS = {P99: times_calm(3)}
_LIKE_BARS = {P50: times_calm(2)}
ENDLESS = 10**9

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("queries", sending("200 queries of 2-4 KB", distinct_queries), _RATE_BARS),
        Scenario(
            "nested",
            sending("45 queries of 16 KB a second", nested_functions, rate=45),
            _RATE_BARS,
            seconds=20,
        ),
        Scenario("snapshots", snapshots, {SNAPSHOT: at_most(1000), RESUME: at_most(500)}),
        Scenario(
            "likes",
            sending("100 filters of 255 LIKEs, 1 KB", dear_filters(100)),
            _LIKE_BARS,
            lambda: Rows(lambda: RowMaker(size=1024)),
        ),
        Scenario(
            "likes-10k",
            sending("100 filters of 255 LIKEs, 10 KB", dear_filters(100)),
            _LIKE_BARS,
            lambda: Rows(lambda: RowMaker(size=10_240)),
        ),
        Scenario(
            "likes-500k",
            sending("a filter of 255 LIKEs, 500 KB", dear_filters(1)),
            _LIKE_BARS,
            lambda: BIG_ROWS,
        ),
        Scenario(
            "return-far",
            returning("2,000 return, 20,000 behind", 2000, 20_000, 10),
            {WORST: at_most(150)},
            own_rows(2000),
        ),
        Scenario(
            "return-many",
            returning("20,000 return, 1,000 behind", 20_000, 1000, 20),
            {WORST: at_most(150)},
            own_rows(20_000),
        ),
        Scenario("resumes", resumes_of_nothing, {NEWCOMER: at_most(200)}),
        Scenario(
            "bombs",
            sending("400 bombs a second", bombs, rate=400, rounds=ENDLESS, deflate=True),
            _FLOOD_BARS,
        ),
        Scenario("messages", sending("a flood of messages", pings, rounds=ENDLESS), _FLOOD_BARS),
        Scenario(
            "pings", sending("a flood of pings", pings_of_the_protocol, rounds=ENDLESS), _FLOOD_BARS
        ),
        Scenario(
            "fragments", sending("a flood of fragments", fragments, rounds=ENDLESS), _FLOOD_BARS
        ),
    )
}
