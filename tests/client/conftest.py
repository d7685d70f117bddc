"""A whole server for the client's own tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Server, running_server
from scripted import Scripted, scripted_server


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of the test's own."""
    servers: list[Server] = []

    def start(**settings: Any) -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        servers.append(Server(directory, settings))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is only asked for what it refuses."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """An HTTP server that answers what the test tells it to answer."""
    with scripted_server() as script:
        yield script
