"""How many of our files must be read to follow a change to a socket, and a subscribe to its rows?

The server runs under a profile hook (`harness/recorder.py`) that notes which functions of
`kalam_notify` are entered, on all its threads. Two walks are taken: one post with one live
subscriber, until the subscriber holds the bytes and the producer its answer; and one subscribe with
a snapshot of a few rows, until its ready batch. Connections are made before, their queries have
never been seen. A walk is taken several times, and what is entered in most of them counts: the
server's clockwork ticks into some.

    python -m loadtest paths                        # of the checkout that is installed
    python -m loadtest paths --source ../other      # of another checkout's kalam_notify
    python -m loadtest paths --verbose              # and every file with its functions, in order

A hop is a call from a function of ours into one of another file of ours, directly or through code
that is not ours; each pair counts once.
"""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from loadtest.harness.faults import DeliveryFault, LoadTestFault
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement
from loadtest.harness.rows import RowMaker
from loadtest.harness.server import KEYED, Server, scratch_directory
from loadtest.harness.stage import Bench, Stage

ROOT = Path(__file__).resolve().parent.parent
RECORDER = ROOT / "loadtest" / "harness" / "recorder.py"
TIMES = 5
ROWS = 3
SECONDS = 60.0


@dataclass
class Walk:
    """What one recording saw, or what most of several did."""

    functions: list[tuple[str, str]]
    hops: list[tuple[tuple[str, str], tuple[str, str]]]
    files: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.files = list(dict.fromkeys(file for file, _ in self.functions))

    def lines(self) -> list[str]:
        """Every file in the order of entering, with its functions."""
        return [
            f"{file}: {', '.join(name for where, name in self.functions if where == file)}"
            for file in self.files
        ]


def usual(walks: Sequence[Walk]) -> Walk:
    """What more than half of the walks have in common, in the order of the last one."""

    def most(found: Sequence[Sequence[Any]]) -> list[Any]:
        seen = Counter(one for walk in found for one in walk)
        return [one for one in found[-1] if seen[one] * 2 > len(walks)]

    return Walk(most([walk.functions for walk in walks]), most([walk.hops for walk in walks]))


class Recorded:
    """A server under the hook."""

    def __init__(self, server: Server, process: Process) -> None:
        self.server, self._process = server, process

    async def walk(self, act: Callable[[], Awaitable[None]]) -> Walk:
        """What the server enters while `act` goes on."""
        await self._ask("begin")
        await act()
        told = await self._ask("end")
        functions = [(file, name) for file, name in told["functions"]]
        hops = [((a, b), (c, d)) for (a, b), (c, d) in told["hops"]]
        return Walk(functions, hops)

    async def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        answer = await asyncio.wait_for(self._process.stdout.readline(), SECONDS)
        if not answer:
            raise LoadTestFault("the recorded server ended")
        told: dict[str, Any] = json.loads(answer)
        return told


@contextlib.asynccontextmanager
async def recorded(bench: Bench) -> AsyncIterator[Recorded]:
    source = bench.options.source or ROOT
    if not await asyncio.to_thread((source / "kalam_notify").is_dir):
        raise LoadTestFault(f"{source} holds no kalam_notify")
    environment = {**os.environ, "PYTHONPATH": str(source)}
    with scratch_directory(bench.options) as directory:
        server = await Server.start(
            directory,
            bench.cores.all,
            command=(sys.executable, str(RECORDER)),
            environment=environment,
        )
        try:
            yield Recorded(server, server.own_process)
        finally:
            await server.close()


async def heard(client: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next message, which must be of one of these types."""
    message: dict[str, Any] = json.loads(await asyncio.wait_for(client.recv(), SECONDS))
    if message["type"] not in kinds:
        raise DeliveryFault(f"expected {' or '.join(kinds)}, got {message}")
    return message


async def until_ready(client: ClientConnection, number: int, options: dict[str, int]) -> None:
    """Subscribe with a query that was never seen, until its ready batch."""
    sql = f"SELECT id, x_load, g FROM {KEYED} WHERE g >= 0 AND c0 <> {1000 + number}"
    subscription = {"id": f"live{number}", "sql": sql, "options": options}
    await client.send(json.dumps({"type": "subscribe", "subscription": subscription}))
    await heard(client, "subscription_ack")
    while (await heard(client, "initial_data_batch"))["batch_control"]["has_more"]:
        pass


async def walks(stage: Stage, it: Recorded) -> tuple[Walk, Walk]:
    producer = await stage.producer(it.server, RowMaker(), table=KEYED)
    await producer.post(ROWS)
    token = it.server.token_for("subscriber")
    headers = {"Authorization": f"Bearer {token}"}
    url = it.server.base.replace("http", "ws", 1) + "/v1/ws"
    async with connect(url, additional_headers=headers, compression=None, proxy=None) as client:
        await heard(client, "auth_success")

        async def post() -> None:
            await producer.post(1)
            await heard(client, "change")

        await until_ready(client, 0, {})
        await post()
        posts = [await it.walk(post) for _ in range(TIMES)]
    async with connect(url, additional_headers=headers, compression=None, proxy=None) as client:
        await heard(client, "auth_success")
        await until_ready(client, TIMES, {})
        subscribes = [
            await it.walk(lambda n=n: until_ready(client, n, {}))  # type: ignore[misc]
            for n in range(TIMES)
        ]
    return usual(posts), usual(subscribes)


def told(bench: Bench, case: str, walk: Walk, most: int) -> list[Measurement]:
    if bench.options.verbose:
        for line in walk.lines():
            bench.note(f"{case}: {line}")
    details = {"files": walk.files, "functions": walk.functions, "hops": walk.hops}
    return [
        Measurement(case, len(walk.files), "files entered", bar=Bar("at most", most)),
        Measurement(case, len(walk.functions), "functions entered", details=details),
        Measurement(case, len(walk.hops), "hops between files"),
    ]


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    async with bench.stage() as stage, recorded(bench) as it:
        post, subscribe = await walks(stage, it)
    return [
        *told(bench, "a post, until a live subscriber's socket has it", post, 25),
        *told(bench, "a subscribe with a snapshot, until its ready batch", subscribe, 30),
    ]


QUESTION = Question("paths", "Files of ours entered by a post and by a subscribe", run)
