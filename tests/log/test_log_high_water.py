"""A log that is older than what was given here: noticed, and no client is resumed into it."""

import asyncio
import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from log_kit import EVENTS, ORDERS, TABLES, Clock, event, everything, put

from kalam_notify.log import SqliteLog


async def opened(directory: Path) -> SqliteLog:
    log = SqliteLog(directory / "kalam.db", clock=Clock(), trim_seconds=3600, durability="os")
    log.declare(TABLES)
    await log.start()
    return log


def copy_of(directory: Path) -> Path:
    copy = directory / "copy"
    with closing(sqlite3.connect(directory / "kalam.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


async def test_an_older_copy_goes_on_behind_every_seq_that_was_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = await opened(tmp_path)
    await log.append([put(n) for n in range(10)])
    copy = copy_of(tmp_path)
    await log.append([put(1, v=2), event()])
    await log.close()
    shutil.move(copy, tmp_path / "kalam.db")
    log = await opened(tmp_path)
    assert "older copy" in caplog.text
    assert log.last_seq == 13
    # Nothing of before is told as a resume, of tables that the copy has never seen neither.
    assert [log.horizon(table) for table in (None, ORDERS.id, EVENTS.id)] == [13, 13, 13]
    assert (await log.append([event(), put(1, v=2)])).first_seq == 14
    assert [change.seq for change in await everything(log, 13)] == [14, 15]
    assert (await everything(log, 14))[0].old_seq == 2
    await log.close()
    caplog.clear()
    log = await opened(tmp_path)
    assert (log.last_seq, log.horizon(EVENTS.id), caplog.text) == (15, 13, "")
    await log.close()


async def test_a_lost_file_goes_on_behind_its_mark(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.append([put(1), put(2)])
    await log.close()
    (tmp_path / "kalam.db").unlink()
    log = await opened(tmp_path)
    assert (log.last_seq, log.first_seq, log.horizon(ORDERS.id)) == (3, 4, 3)
    assert (await log.append([put(1)])).first_seq == 4
    await log.close()


async def test_an_operators_number_is_a_mark(tmp_path: Path) -> None:
    (tmp_path / "kalam.mark").write_text("1000000")
    log = await opened(tmp_path)
    assert (log.last_seq, log.horizon(EVENTS.id)) == (1_000_001, 1_000_001)
    assert (await log.append([event()])).first_seq == 1_000_002
    await log.close()
    assert (tmp_path / "kalam.mark").read_text() == "0000000001000002\n"


@pytest.mark.parametrize("text", ["", "a lot", "-1", str(2**53), "1.5", "\udcff"])
async def test_a_mark_that_is_no_seq_is_told_and_not_heeded(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "kalam.mark").write_bytes(text.encode(errors="surrogateescape"))
    log = await opened(tmp_path)
    assert log.last_seq == 0
    assert "kalam.mark" in caplog.text
    await log.close()


async def test_a_directory_where_a_mark_cannot_be_written_takes_changes_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "kalam.mark").mkdir()
    log = await opened(tmp_path)
    assert (await log.append([put(1)])).accepted == 1
    await log.close()


async def test_two_logs_on_one_file_keep_one_mark(tmp_path: Path) -> None:
    logs = [await opened(tmp_path) for _ in range(2)]
    await asyncio.gather(*(log.append([put(n)]) for n in range(20) for log in logs))
    assert int((tmp_path / "kalam.mark").read_text()) == 40
    for log in logs:
        await log.close()
    log = await opened(tmp_path)
    assert (log.last_seq, log.horizon()) == (40, 0)
    await log.close()
