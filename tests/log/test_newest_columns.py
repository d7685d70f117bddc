"""The columns of a table's newest rows, which tell a mistyped one."""

from pathlib import Path

import pytest
from log_kit import EVENTS, FOREVER, ORDERS, TABLES, Clock, event, new_log, put

from kalam_notify.log import Retention
from kalam_notify.model import SHARED
from kalam_notify.model.tables import SeenColumns
from kalam_notify.store.sampling import LARGE_ROW


def seen(*names: str, are_all: bool = True) -> SeenColumns:
    return SeenColumns(frozenset(names), are_all)


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_the_newest_rows_tell_their_columns(kind: str, tmp_path: Path) -> None:
    log = new_log(kind, tmp_path, Clock(), FOREVER)
    log.declare(TABLES)
    await log.start()
    try:
        assert log.newest_columns(ORDERS, SHARED) is None
        await log.append([put(1, old="gone")])
        assert log.newest_columns(ORDERS, SHARED) == seen("id", "old")
        await log.append([put(number, status="open") for number in range(1, 30)])
        assert log.newest_columns(ORDERS, SHARED) == seen("id", "status")
        assert log.newest_columns(EVENTS, SHARED) is None
    finally:
        await log.close()


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_large_rows_are_passed_over_and_the_table_is_there_all_the_same(
    kind: str, tmp_path: Path
) -> None:
    log = new_log(kind, tmp_path, Clock(), FOREVER)
    log.declare(TABLES)
    await log.start()
    try:
        large = "x" * LARGE_ROW
        await log.append([put(number, pad=large) for number in range(30)])
        await log.append([event(pad=large)])
        assert log.newest_columns(ORDERS, SHARED) == seen(are_all=False)
        assert log.newest_columns(EVENTS, SHARED) == seen(are_all=False)
        await log.append([put(100, small=1)])
        assert log.newest_columns(ORDERS, SHARED) == seen("id", "small", are_all=False)
    finally:
        await log.close()


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_rows_that_have_outlived_their_changes_tell_their_columns(
    kind: str, tmp_path: Path
) -> None:
    clock = Clock()
    log = new_log(kind, tmp_path, clock, Retention(60.0, 1 << 30))
    log.declare(TABLES)
    await log.start()
    try:
        await log.append([put(number, old=1) for number in range(5)])
        clock.now += 1000
        await log.trim()
        found = log.newest_columns(ORDERS, SHARED)
        assert found is not None
        assert found.names == {"id", "old"}
        # What has not all been looked at tells nobody that a column is missing.
        assert found.are_all is (kind == "memory")
        await log.append([put(100, new=1)])
        found = log.newest_columns(ORDERS, SHARED)
        assert found is not None
        assert {"id", "new"} <= found.names
        assert found.are_all is (kind == "memory")
    finally:
        await log.close()
