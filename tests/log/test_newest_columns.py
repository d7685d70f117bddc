"""The columns of a table's newest rows, which tell a mistyped one."""

from pathlib import Path

import pytest
from log_kit import EVENTS, FOREVER, ORDERS, TABLES, Clock, new_log, put

from kalam_notify.model import SHARED


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_the_newest_rows_tell_their_columns(kind: str, tmp_path: Path) -> None:
    log = new_log(kind, tmp_path, Clock(), FOREVER)
    log.declare(TABLES)
    await log.start()
    try:
        assert log.newest_columns(ORDERS, SHARED) is None
        await log.append([put(1, old="gone")])
        assert log.newest_columns(ORDERS, SHARED) == {"id", "old"}
        await log.append([put(number, status="open") for number in range(1, 30)])
        assert log.newest_columns(ORDERS, SHARED) == {"id", "status"}
        assert log.newest_columns(EVENTS, SHARED) is None
    finally:
        await log.close()
