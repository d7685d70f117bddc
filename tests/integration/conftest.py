"""Servers for tests that speak to a whole one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.ports import reserve
from helpers.server import Server, merged, running_server


@pytest.fixture(scope="module")
def workers() -> int:
    """Worker processes of the servers of a module, where nothing else is said."""
    return 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, workers: int) -> Iterator[Server]:
    """A server that the tests of a module share; each uses rows or tables of its own."""
    settings = {"server": {"workers": workers}, "tables": {"auto_create": True}}
    with running_server(tmp_path_factory.mktemp("server"), settings) as it:
        yield it


@pytest.fixture
def kept_port() -> Iterator[int]:
    """A port on 127.0.0.1 that nobody but the test's own servers will get."""
    with reserve() as kept:
        yield kept.getsockname()[1]


@pytest.fixture
def start_server(tmp_path: Path, workers: int) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of the test's own."""
    servers: list[Server] = []

    def start(**settings: Any) -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        server = Server(directory, merged({"server": {"workers": workers}}, settings))
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.close()
