"""Queries of the file that nobody waits for any more."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kalam_notify.errors import LogUnavailable
from kalam_notify.store.reader import ReaderPool

# Counts for minutes.
ENDLESS = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 4e9)
SELECT count(*) FROM numbers
"""


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[ReaderPool]:
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    pool = ReaderPool(path)
    yield pool
    async with asyncio.timeout(20):
        await pool.close()


class Endless:
    """A statement that ends only when it is interrupted; tells when it runs, and that it ended."""

    def __init__(self) -> None:
        self.begun: list[bool] = []
        self.ended: list[str] = []

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.begun.append(True)
        try:
            connection.execute(ENDLESS).fetchone()
        except sqlite3.OperationalError as error:
            self.ended.append(str(error))
            raise


async def until(wanted: list[bool] | list[str], count: int) -> None:
    async with asyncio.timeout(20):
        while len(wanted) < count:
            await asyncio.sleep(0)


async def test_a_statement_that_nobody_waits_for_is_interrupted(pool: ReaderPool) -> None:
    endless = Endless()
    scan = asyncio.create_task(pool.scan(endless))
    await until(endless.begun, 1)
    scan.cancel()
    await until(endless.ended, 1)
    assert endless.ended == ["interrupted"]


async def test_one_that_has_not_begun_gives_up_its_place(pool: ReaderPool) -> None:
    endless = Endless()
    scans = [asyncio.create_task(pool.scan(endless)) for _ in range(60)]
    await until(endless.begun, 3)
    for scan in scans:
        scan.cancel()
    await asyncio.gather(*scans, return_exceptions=True)
    assert await pool.scan(lambda c: c.execute("SELECT 1").fetchone()) == (1,)
    await until(endless.ended, len(endless.begun))
    assert len(endless.begun) <= 6


async def test_an_interrupted_statement_harms_no_other(pool: ReaderPool) -> None:
    endless = Endless()
    for _ in range(20):
        scan = asyncio.create_task(pool.scan(endless))
        count = len(endless.begun)
        await until(endless.begun, count + 1)
        others = [
            asyncio.create_task(pool.scan(lambda c: c.execute("SELECT count(*) FROM t").fetchone()))
            for _ in range(6)
        ]
        scan.cancel()
        assert await asyncio.gather(*others) == [(0,)] * 6


async def test_a_fault_of_a_statement_is_told_as_the_log_s(pool: ReaderPool) -> None:
    with pytest.raises(LogUnavailable, match="no such table"):
        await pool.scan(lambda c: c.execute("SELECT * FROM nowhere").fetchone())
