"""Two servers on one stream, killed under load: views are exact while clients move between them."""

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cluster.nats_kit import NatsCluster, NatsServer
from faults.kit import FILTERS, Follower, Producer, assert_exact, drawn_seed
from helpers.server import Server

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
FOLLOWERS = 6


class Nodes:
    """Servers that share a stream."""

    def __init__(self, directory: Path, urls: Sequence[str], replicas: int) -> None:
        hosts = ",".join(url.removeprefix("nats://") for url in urls)
        settings = {"log": {"url": f"nats://{hosts}/KALAM", "nats": {"replicas": replicas}}}
        self.servers: list[Server] = []
        for name in "ab":
            (directory / name).mkdir()
            self.servers.append(Server(directory / name, settings))

    def start(self) -> "Nodes":
        for server in self.servers:
            server.start()
        return self

    def wait_ready(self) -> None:
        for server in self.servers:
            _until(lambda server=server: server.request("GET", "/readyz").status == 200)

    def digests(self) -> list[Any]:
        """Of each node, once all have applied the whole stream."""
        _until(lambda: len({state[0] for state in map(_state, self.servers)}) == 1)
        return [_state(server) for server in self.servers]

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def _state(server: Server) -> Any:
    with closing(sqlite3.connect(server.directory / "data" / "node-KALAM.db")) as connection:
        query = "SELECT applied, digest, epoch, last_seq, bytes FROM stream, state"
        return connection.execute(query).fetchone()


def _until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up, "it has not come to this"
        time.sleep(0.02)


class Spread(Producer):
    """Posts each batch to one of the nodes, and what is not taken there to another."""

    def __init__(self, nodes: Nodes, rng: random.Random) -> None:
        super().__init__(nodes.servers[0], rng)
        self._nodes = nodes

    def _is_taken(self, batch: list[dict[str, Any]]) -> bool:
        self._server = self._rng.choice(self._nodes.servers)
        return super()._is_taken(batch)


class Wanderer(Follower):
    """Comes back to any of the nodes."""

    def __init__(self, nodes: Nodes, where: str, rng: random.Random) -> None:
        super().__init__(nodes.servers[0], where)
        self._nodes, self._rng = nodes, rng

    def _address(self) -> str:
        return self._rng.choice(self._nodes.servers).ws_url


@pytest.fixture
def make_nodes(tmp_path: Path) -> Iterator[Callable[..., Nodes]]:
    made: list[Nodes] = []

    def make(urls: Sequence[str], replicas: int = 1) -> Nodes:
        made.append(Nodes(tmp_path, urls, replicas))
        return made[-1].start()

    yield make
    for nodes in made:
        nodes.stop()


async def exact_through(
    nodes: Nodes, rng: random.Random, rounds: int, disturb: Callable[[], Awaitable[None]]
) -> list[Wanderer]:
    """Post and follow through so many disturbances; views, digests and counts have to be right."""
    await asyncio.to_thread(nodes.wait_ready)
    producer = Spread(nodes, rng)
    wheres = list(FILTERS)
    followers = [Wanderer(nodes, wheres[n % len(wheres)], rng) for n in range(FOLLOWERS)]
    following = [asyncio.create_task(one.follow()) for one in followers]
    for _ in range(rounds):
        posting = asyncio.create_task(producer.post(12))
        await disturb()
        await posting
    await asyncio.to_thread(nodes.wait_ready)
    await producer.end()
    async with asyncio.timeout(300):
        await asyncio.gather(*following)
    assert_exact(followers, producer)
    one, other = await asyncio.to_thread(nodes.digests)
    assert one == other
    return followers


async def test_views_are_exact_while_nodes_are_killed(
    own_server: NatsServer, make_nodes: Callable[..., Nodes]
) -> None:
    rng = random.Random(drawn_seed())
    nodes = await asyncio.to_thread(make_nodes, [own_server.url])

    async def kill_one() -> None:
        victim = rng.choice(nodes.servers)
        victim.kill()
        await asyncio.to_thread(victim.start)

    followers = await exact_through(nodes, rng, 4 * ROUNDS, kill_one)
    assert sum(one.returns for one in followers) > 0


@pytest.mark.long
async def test_views_are_exact_while_leaders_of_the_stream_are_killed_and_frozen(
    nats_cluster: NatsCluster, make_nodes: Callable[..., Nodes]
) -> None:
    rng = random.Random(drawn_seed())
    nodes = await asyncio.to_thread(make_nodes, nats_cluster.urls, 3)
    disturbances = iter(["kill", "stop", "freeze"] * ROUNDS)

    def disturb() -> None:
        leader = nats_cluster.leader_of("KALAM")
        match next(disturbances):
            case "kill":
                leader.kill()
                leader.restart()
            case "stop":
                leader.stop()
                leader.restart()
            case "freeze":
                leader.freeze()
                # Until the others have done without it.
                _until(lambda: nats_cluster.leader_of("KALAM") is not leader)
                leader.thaw()

    await exact_through(nodes, rng, 3 * ROUNDS, lambda: asyncio.to_thread(disturb))
