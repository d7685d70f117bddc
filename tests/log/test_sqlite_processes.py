"""The SQLite log with real processes: killed ones, full disks, several writers on one file."""

import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from log_child import BATCH
from log_kit import EVENTS, ORDERS, TABLES, Clock, everything, files, page_of, put

from kalam_notify.log import SqliteLog
from kalam_notify.log.following import Doorbell
from kalam_notify.model import Change

Said = dict[str, Any]


class Child:
    """A running log_child."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def run(cls, *arguments: str) -> "Child":
        here = Path(__file__).parent
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(here / "log_child.py"),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(here)},
        )
        return cls(process)

    async def says(self) -> AsyncIterator[Said]:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield json.loads(line)

    async def kill_after(self, count: int) -> list[Said]:
        """Everything it said until it was killed, right after it had said `count` things."""
        said = []
        async for one in self.says():
            said.append(one)
            if len(said) == count:
                self._process.kill()
        assert await self._process.wait() == -9
        return said

    async def finish(self) -> list[Said]:
        said = [one async for one in self.says()]
        assert await self._process.wait() == 0
        return said


async def reopened(directory: Path) -> SqliteLog:
    log = SqliteLog(directory / "kalam.db", trim_seconds=3600)
    log.declare(TABLES)
    await log.start()
    return log


def batches_of(changes: list[Change]) -> dict[tuple[str, int], int]:
    """(producer, number) -> last seq, of every batch that the log holds."""
    return {
        (change.row.values["by"], change.row.values["n"]): change.seq
        for change in changes
        if change.table == EVENTS.id and change.row is not None
    }


async def current_rows_agree(log: SqliteLog, changes: list[Change]) -> bool:
    rows: dict[str, tuple[int, bytes]] = {}
    for change in changes:
        if change.table == ORDERS.id and change.row is not None:
            rows[change.row.values["id"]] = (change.seq, change.row.json)
    page = await page_of(log, ORDERS)
    return [(seq, row.json) for seq, row in page.rows] == sorted(rows.values())


@pytest.mark.parametrize("count", [1, 10, 60, 200])
async def test_a_killed_process_leaves_whole_batches_and_all_it_acknowledged(
    tmp_path: Path, count: int
) -> None:
    child = await Child.run("write", str(tmp_path), "a", "100000")
    acknowledged = await child.kill_after(count)
    log = await reopened(tmp_path)
    changes = await everything(log)
    batches = batches_of(changes)
    assert len(changes) == BATCH * len(batches) == log.last_seq
    assert sorted(batches.values()) == list(range(BATCH, log.last_seq + 1, BATCH))
    for said in acknowledged:
        assert batches[said["by"], said["n"]] == said["last_seq"]
    assert await current_rows_agree(log, changes)
    assert (await log.append([put(1)])).last_seq == len(changes) + 1
    await log.close()


async def test_a_full_disk_stores_nothing_and_is_got_over(tmp_path: Path) -> None:
    fault, full, after, rows = await (await Child.run("fill", str(tmp_path))).finish()
    assert "could not store" in fault["fault"]
    assert full["stored"] == full["last_seq"] == full["held"] > 10
    assert after["stored"] == after["last_seq"] == after["held"] == full["stored"] + 2
    assert rows["rows"] == ["before", full["stored"] - 2, "after"]
    log = await reopened(tmp_path)
    assert len(await everything(log)) == after["held"]
    await log.close()


async def test_processes_that_write_at_once_are_followed_in_order(tmp_path: Path) -> None:
    log = await reopened(tmp_path)
    children = [await Child.run("write", str(tmp_path), name, "20") for name in "ab"]
    writing = [asyncio.create_task(child.finish()) for child in children]
    followed: list[Change] = []
    total = 2 * 3 * 20 * BATCH
    own = 0
    async with asyncio.timeout(60):
        while len(followed) < total + own:
            await log.wait_beyond(len(followed))
            followed += log.recent(len(followed)) or ()
            if own < 10:
                own += (await log.append([put("mine", n=own)])).accepted
        said = [one for each in await asyncio.gather(*writing) for one in each]
    assert [change.seq for change in followed] == list(range(1, total + 11))
    assert followed == await everything(log)
    assert {(one["by"], one["n"]): one["last_seq"] for one in said} == batches_of(followed)
    order = defaultdict(list)
    for (by, n), _ in sorted(batches_of(followed).items(), key=lambda found: found[1]):
        order[by].append(n)
    assert len(order) == 6
    assert all(numbers == list(range(20)) for numbers in order.values())
    assert await current_rows_agree(log, followed)
    await log.close()


async def test_ids_are_told_apart_across_processes(tmp_path: Path) -> None:
    children = [await Child.run("write", str(tmp_path), name, "15", "ids") for name in "ab"]
    said = [one for child in children for one in await child.finish()]
    assert sum(one["duplicates"] for one in said) == 45
    log = await reopened(tmp_path)
    assert len(batches_of(await everything(log))) == 45
    await log.close()


async def test_two_logs_on_one_file_ring_each_other(tmp_path: Path) -> None:
    one, other = await reopened(tmp_path), await reopened(tmp_path)
    async with asyncio.timeout(30):
        for n in range(20):
            writer, follower = (one, other) if n % 2 else (other, one)
            await writer.append([put(n)])
            await follower.wait_beyond(n)
    assert list(one.recent(0) or ()) == list(other.recent(0) or ()) == await everything(one)
    await one.close()
    await other.close()
    assert files(tmp_path) == ["kalam.db", "kalam.mark"]


async def test_a_follower_beyond_retention_goes_on_behind_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (
        SqliteLog(tmp_path / "kalam.db", clock=clock, trim_seconds=3600) for _ in range(2)
    )
    one.declare(TABLES)
    await one.start()
    await other.start()
    with monkeypatch.context() as patch:
        patch.setattr(Doorbell, "ring_others", lambda bell: 0)
        await one.append([put(1), put(2)])
        clock.advance(48 * 3600)
        assert await one.trim() == 2
    assert other.last_seq == 0
    await one.append([put(3)])
    async with asyncio.timeout(30):
        await other.wait_beyond(2)
    assert other.last_seq == 3
    assert other.recent(1) is None
    assert [change.seq for change in other.recent(2) or ()] == [3]
    await one.close()
    await other.close()
