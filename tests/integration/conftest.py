"""Servers for tests that speak to a whole one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Server, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share; each uses rows or tables of its own."""
    with running_server(tmp_path_factory.mktemp("server"), {"tables": {"auto_create": True}}) as it:
        yield it


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of the test's own."""
    servers: list[Server] = []

    def start(**settings: Any) -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        server = Server(directory, settings)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.close()
