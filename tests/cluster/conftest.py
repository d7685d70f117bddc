"""A nats-server for all tests of a process, and a stream's name for each."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest
from cluster.nats_kit import Gate, NatsCluster, NatsServer

from kalam_notify.log.nats.link import Link, NatsPlace

_numbers = count(1)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server, which tests leave running; they have streams of their own."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.close()


@pytest.fixture
def stream(nats_server: NatsServer) -> Iterator[str]:
    """The name of a stream that is not there yet, and is removed at the end."""
    name = f"T{next(_numbers)}"
    yield name
    nats_server.delete_stream(name)


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that the test may stop, kill and freeze."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.close()


@pytest.fixture
def gate(nats_server: NatsServer) -> Iterator[Gate]:
    """What stands before the common server and can be shut."""
    between = Gate(nats_server.port)
    yield between
    between.close()


@pytest.fixture
def nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Three servers that the test may stop, kill and freeze."""
    servers = NatsCluster(tmp_path_factory.mktemp("cluster")).start()
    yield servers
    servers.close()


@pytest.fixture
async def make_link(
    nats_server: NatsServer, stream: str
) -> AsyncIterator[Callable[..., Awaitable[Link]]]:
    """Makes links to the test's stream on the common server, or on `servers`; all connected."""
    made: list[Link] = []

    async def make(*servers: str, **options: Any) -> Link:
        link = Link(NatsPlace(servers or (nats_server.url,), stream), **options)
        made.append(link)
        await link.start()
        assert await link.wait_connected(30)
        return link

    yield make
    for link in made:
        await link.close()
