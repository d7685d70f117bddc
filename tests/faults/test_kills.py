"""SIGKILL under load: nothing that was acknowledged is lost, doubled or out of order."""

import asyncio
import os
import random
import signal
from collections.abc import Callable

import pytest
from helpers.server import Server
from integration.workers_kit import all_run, replaced, worker_pids

from faults.kit import ROUNDS, Producer, assert_exact, drawn_seed, new_followers

StartServer = Callable[..., Server]


def kill_all(server: Server, rng: random.Random) -> None:
    """The whole server, and a new one in its place."""
    server.kill()
    server.start()


def kill_one(server: Server, rng: random.Random) -> None:
    """One worker of several, which its supervisor replaces."""
    worker, pid = rng.choice(sorted(worker_pids(server).items()))
    os.kill(pid, signal.SIGKILL)
    replaced(server, worker, pid)
    all_run(server)


@pytest.mark.parametrize(("count", "kill"), [(1, kill_all), (3, kill_one)])
async def test_views_are_exact_through_kills_under_load(
    start_server: StartServer, count: int, kill: Callable[[Server, random.Random], None]
) -> None:
    rng = random.Random(drawn_seed())
    server = await asyncio.to_thread(start_server, server={"workers": count})
    producer, followers = Producer(server, rng), new_followers(server, 6)
    following = [asyncio.create_task(one.follow()) for one in followers]
    for _ in range(3 * ROUNDS):
        posting = asyncio.create_task(producer.post(12))
        await asyncio.to_thread(kill, server, rng)
        await posting
    await producer.end()
    async with asyncio.timeout(300):
        await asyncio.gather(*following)
    assert_exact(followers, producer)
    if kill is kill_all:
        # Of several workers the one that is killed may have had nobody.
        assert sum(one.returns for one in followers) > 0
