from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from log_kit import LOG_KINDS, TABLES, Clock, LogKind, new_log

from kalam_notify.log import MemoryLog, SqliteLog


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=LOG_KINDS)
def log_kind(request: pytest.FixtureRequest) -> LogKind:
    kind: LogKind = request.param
    return kind


@pytest.fixture
async def log(
    log_kind: LogKind, tmp_path: Path, clock: Clock
) -> AsyncIterator[MemoryLog | SqliteLog]:
    """A started log of each kind, which keeps everything, with the kit's tables declared."""
    log = new_log(log_kind, tmp_path, clock)
    log.declare(TABLES)
    await log.start()
    yield log
    await log.close()
