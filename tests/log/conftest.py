from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cluster.conftest import nats_server, stream  # noqa: F401
from cluster.nats_kit import NatsServer
from cluster.nodes import level, new_node
from log_kit import LOG_KINDS, TABLES, Clock, LogKind, new_log

from kalam_notify.log import EventLog
from kalam_notify.log.nats.nats_log import NatsLog


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=LOG_KINDS)
def log_kind(request: pytest.FixtureRequest) -> LogKind:
    kind: LogKind = request.param
    return kind


@pytest.fixture(params=[*LOG_KINDS, "nats"])
async def log(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[EventLog]:
    """A started log of each kind, which keeps everything, with the kit's tables declared."""
    log: EventLog
    if request.param == "nats":
        server: NatsServer = request.getfixturevalue("nats_server")
        log = new_node(server.url, request.getfixturevalue("stream"), tmp_path)
    else:
        log = new_log(request.param, tmp_path, clock)
    log.declare(TABLES)
    await log.start()
    if isinstance(log, NatsLog):
        await level(log)
    yield log
    await log.close()
