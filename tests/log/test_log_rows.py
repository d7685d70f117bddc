"""Where rows stand in the file, whatever becomes of them and of the changes that wrote them."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from log_kit import NOTES, ORDERS, TABLES, Clock, gone, new_log, page_of, put, seqs

from kalam_notify.log import FILE_NAME, Retention, SqliteLog
from kalam_notify.model import SHARED, Owner, PostedChange, TableId
from kalam_notify.store.checkup import findings

Held = dict[tuple[TableId, Owner], dict[int, tuple[int, int]]]
"""Table and owner -> key -> seq and value of the row."""

PLACES = ((ORDERS, SHARED), (NOTES, "alice"), (NOTES, "bob"))


@pytest.fixture(autouse=True)
def everything_is_taken_out_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kalam_notify.store.rows.LATELY", 6)
    monkeypatch.setattr("kalam_notify.store.rows._MOST_STALE", 5)


async def opened(directory: Path, clock: Clock) -> SqliteLog:
    log = new_log("sqlite", directory, clock, Retention(max_age=60, max_bytes=None))
    assert isinstance(log, SqliteLog)
    log.declare(TABLES)
    await log.start()
    return log


def change(rng: random.Random, held: Held, seq: int) -> PostedChange:
    """A change that gets this seq, and what it makes of the rows."""
    table, owner = rng.choice(PLACES)
    rows = held.setdefault((table.id, owner), {})
    key, value = rng.randrange(12), rng.randrange(1000)
    if rng.random() < 0.2:
        rows.pop(key, None)
        return gone(key, table=table, owner=owner)
    rows[key] = (seq, value)
    return put(key, table=table, owner=owner, v=value)


async def assert_holds(log: SqliteLog, held: Held, as_of: int | None = None) -> None:
    for table, owner in PLACES:
        rows = (await page_of(log, table, owner=owner, as_of=as_of)).rows
        expected = [(s, key, v) for key, (s, v) in held.get((table.id, owner), {}).items()]
        assert [(s, row.values["id"], row.values["v"]) for s, row in rows] == sorted(expected)


def assert_agrees(path: Path) -> None:
    """The doctor finds nothing, and nothing stays behind but what is to be taken out."""
    assert [text for text, cure in findings(path) if cure is not None] == []
    with closing(sqlite3.connect(path)) as connection:
        standing = "SELECT seq FROM rows UNION SELECT seq FROM stale"
        for table in ("rows_by_seq", "kept"):
            left = connection.execute(f"SELECT * FROM {table} WHERE seq NOT IN ({standing})")
            assert left.fetchall() == []
        (twice,) = connection.execute("SELECT count(*) FROM kept JOIN log USING (seq)").fetchone()
        assert twice == 0
        (stale,) = connection.execute("SELECT count(*) FROM stale").fetchone()
        assert stale < 5


@pytest.mark.parametrize("seed", range(12))
async def test_rows_stand_through_changes_trims_and_truncates(tmp_path: Path, seed: int) -> None:
    rng, clock = random.Random(seed), Clock()
    log = await opened(tmp_path, clock)
    held: Held = {}
    before = 0
    for turn in range(60):
        past = {place: dict(rows) for place, rows in held.items()}
        if rng.random() < 0.05:
            table, owner = rng.choice(PLACES)
            held[table.id, owner] = {}
            batch = [PostedChange(table.id, owner, "truncate", None, None)]
        else:
            batch = [change(rng, held, before + 1 + n) for n in range(rng.randint(1, 9))]
        appended = await log.append(batch)
        await assert_holds(log, held)
        # As it was before this post.
        await assert_holds(log, past, before)
        assert appended.last_seq is not None
        before = appended.last_seq
        clock.advance(rng.randrange(30))
        if rng.random() < 0.4:
            await log.trim()
            await assert_holds(log, held)
        if turn % 20 == 19:
            await log.close()
            assert_agrees(tmp_path / FILE_NAME)
            log = await opened(tmp_path, clock)
    await log.close()


async def test_a_row_outlives_its_change_and_leaves_when_it_is_replaced(tmp_path: Path) -> None:
    clock = Clock()
    log = await opened(tmp_path, clock)
    await log.append([put(n, v=n) for n in range(8)])
    clock.advance(100)
    assert await log.trim() == 8
    assert seqs(await page_of(log)) == [*range(1, 9)]
    assert kept(tmp_path) == [*range(1, 9)]
    await log.append([put(n, v=-n) for n in range(5)])
    assert kept(tmp_path) == [6, 7, 8]
    assert [row.values["v"] for _, row in (await page_of(log)).rows] == [5, 6, 7, 0, -1, -2, -3, -4]
    await log.close()


def kept(directory: Path) -> list[int]:
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM kept ORDER BY seq")]


async def test_the_doctor_tells_a_row_without_a_text(tmp_path: Path) -> None:
    log = await opened(tmp_path, Clock())
    await log.append([put(n, v=n) for n in range(3)])
    await log.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute("DELETE FROM log WHERE seq = 2")
    (told,) = [text for text, cure in findings(tmp_path / FILE_NAME) if cure is not None]
    assert told.startswith("1 rows have no text")
