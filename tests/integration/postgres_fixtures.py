"""Fixtures of the PostgreSQL tests; a plugin, never imported by a test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_feed import Feed
from postgres_receiver import Receiver
from rehearsal.cluster import Cluster, NoPostgres, programs


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        programs()
    except NoPostgres as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    # Not below pytest's own directory, which only the user who runs the tests may enter.
    directory = Path(tempfile.mkdtemp(prefix="kalam-pg-"))
    directory.chmod(0o711)
    server = Cluster(directory / "c", durable=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def feed(cluster: Cluster, tmp_path: Path, receiver: Receiver) -> Iterator[Feed]:
    one = Feed(cluster, tmp_path, receiver)
    yield one
    one.close()
