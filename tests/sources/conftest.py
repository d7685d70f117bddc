"""One PostgreSQL for all tests of a process; a database for each test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_kit import Database, Followed, running_cluster

from loadtest.harness.postgres import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as one:
        yield one


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    one = Database(cluster)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def follow(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Followed]]:
    """Makes a database with some statements run in it, and a server that follows it."""
    made: list[Followed] = []

    def make(*statements: str, start: bool = True, **settings: Any) -> Followed:
        database = Database(cluster)
        followed = Followed(database, tmp_path / f"s{len(made)}", settings)
        made.append(followed)
        database.run(*statements)
        return followed.start() if start else followed

    yield make
    for one in made:
        one.close()
