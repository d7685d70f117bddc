"""The SQLite log's file: what it survives, what it refuses, what goes back into it."""

import asyncio
import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from log_kit import (
    EVENTS,
    ORDERS,
    TABLES,
    Clock,
    event,
    everything,
    gone,
    page_of,
    put,
    seqs,
)

from kalam_notify.errors import LogUnavailable, StorageFault
from kalam_notify.log import EventLog, MemoryLog, Retention, SqliteLog, open_log
from kalam_notify.model import PostedChange, Row, TableDef
from kalam_notify.store import schema

HOUR = 3600.0


async def opened(
    directory: Path, clock: Clock | None = None, retention: Retention | None = None
) -> SqliteLog:
    log = SqliteLog(
        directory / "kalam.db",
        clock=clock or Clock(),
        retention=retention,
        trim_seconds=3600,
        durability="os",
    )
    log.declare(TABLES)
    await log.start()
    return log


def tamper(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / "kalam.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def refused(directory: Path, **options: Any) -> str:
    log = SqliteLog(directory / "kalam.db", **options)
    with pytest.raises(StorageFault) as fault:
        await log.start()
    return str(fault.value)


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.append([put(1, v=1, id="a"), put(2, v=1), event(v=1)], "key")
    await log.append([put(1, v=2), gone(2)])
    before, rows = await everything(log), await page_of(log)
    await log.close()
    log = await opened(tmp_path)
    assert (log.first_seq, log.last_seq, log.recent(0)) == (1, 5, None)
    assert log.recent(5) == ()
    assert await everything(log) == before
    assert await page_of(log) == rows
    assert (await log.append([put(1, id="a")])).duplicates == 1
    assert (await log.append([put(5), put(6)], "key")).duplicates == 2
    assert (await log.append([put(1, v=3)])).first_seq == 6
    assert (await everything(log, 5))[0].old_seq == 4
    await log.close()


async def test_retention_is_remembered_over_a_restart(tmp_path: Path, clock: Clock) -> None:
    keep = Retention(max_age=HOUR, max_bytes=None)
    log = await opened(tmp_path, clock, keep)
    await log.append([put(1), event(), put(2)])
    clock.advance(2 * HOUR)
    await log.trim()
    await log.close()
    log = await opened(tmp_path, clock, keep)
    assert (log.first_seq, log.last_seq) == (4, 3)
    assert (log.horizon(), log.horizon(ORDERS.id), log.horizon(EVENTS.id)) == (3, 3, 2)
    assert log.statistics()["log_bytes"] == 0
    assert (await log.append([event()])).first_seq == 4
    await log.close()


async def test_bytes_are_counted_exactly_over_restarts(tmp_path: Path) -> None:
    for _ in range(3):
        log = await opened(tmp_path)
        await log.append([put(1, pad="x" * 50), gone(1), event(v=1)])
        held = sum(change.size for change in await everything(log))
        assert log.statistics()["log_bytes"] == held
        await log.close()


class NoticedLog(SqliteLog):
    """Tells when something has left it."""

    async def trim(self) -> int:
        removed = await super().trim()
        if removed:
            self.trimmed.set()
        return removed

    def __init__(self, path: Path, clock: Clock) -> None:
        keep = Retention(max_age=HOUR, max_bytes=None)
        super().__init__(path, clock=clock, retention=keep, trim_seconds=0.01)
        self.trimmed = asyncio.Event()


async def test_retention_runs_by_itself(tmp_path: Path, clock: Clock) -> None:
    log = NoticedLog(tmp_path / "kalam.db", clock)
    log.declare(TABLES)
    await log.start()
    await log.append([event()])
    clock.advance(2 * HOUR)
    async with asyncio.timeout(30):
        await log.trimmed.wait()
    assert (log.first_seq, log.horizon()) == (2, 1)
    await log.close()


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    tamper(tmp_path, f"PRAGMA user_version = {schema.FORMAT_VERSION + 1}")
    assert f"data format {schema.FORMAT_VERSION + 1}" in await refused(tmp_path)


async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    tamper(tmp_path, "CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES (1)")
    before = (tmp_path / "kalam.db").read_bytes()
    assert "another program" in await refused(tmp_path)
    assert (tmp_path / "kalam.db").read_bytes() == before


@pytest.mark.parametrize(
    "garbage", [b"not a database " * 500, b"SQLite format 3\x00" + b"\xff" * 9000]
)
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "kalam.db").write_bytes(garbage)
    assert "kalam.db" in await refused(tmp_path)
    assert (tmp_path / "kalam.db").read_bytes() == garbage


async def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.append([event(pad="x" * 5000) for _ in range(10)])
    await log.close()
    content = (tmp_path / "kalam.db").read_bytes()
    (tmp_path / "kalam.db").write_bytes(content[:100] + b"\xee" * (len(content) - 100))
    assert "kalam.db" in await refused(tmp_path)


async def test_a_log_without_its_state_is_refused(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    tamper(tmp_path, "DELETE FROM state")
    assert "kalam.db" in await refused(tmp_path)


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be opened" in await refused(tmp_path / "file" / "data")


async def test_an_empty_file_becomes_a_log(tmp_path: Path) -> None:
    (tmp_path / "kalam.db").touch()
    log = await opened(tmp_path)
    assert (await log.append([put(1)])).first_seq == 1
    await log.close()


async def test_a_table_that_changed_its_key_over_a_restart_is_refused(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.append([put(1)])
    await log.close()
    changed = TableDef(ORDERS.id, "shared", primary_key=("id", "at"))
    log = SqliteLog(tmp_path / "kalam.db")
    log.declare([changed])
    with pytest.raises(StorageFault, match=r"app\.orders.*primary key id, at"):
        await log.start()
    log = await opened(tmp_path)
    with pytest.raises(StorageFault, match=r"app\.orders"):
        log.declare([changed])
    await log.close()


async def test_a_table_emptied_by_deletes_and_retention_may_change_its_key(
    tmp_path: Path, clock: Clock
) -> None:
    log = await opened(tmp_path, clock, Retention(max_age=HOUR))
    await log.append([put(1), gone(1)])
    changed = TableDef(ORDERS.id, "shared")
    with pytest.raises(StorageFault):
        log.declare([changed])
    clock.advance(2 * HOUR)
    await log.trim()
    log.declare([changed])
    await log.append([event(table=changed, v=1)])
    await log.close()
    log = SqliteLog(tmp_path / "kalam.db")
    log.declare([changed])
    await log.start()
    assert seqs(await page_of(log, changed)) == [3]
    await log.close()


@pytest.mark.parametrize(
    "bad",
    [
        put(1, id="\ud800"),
        PostedChange(ORDERS.id, "", "insert", Row(cast(bytes, [1, 2])), None, key="[1]"),
    ],
    ids=["surrogate", "no bytes"],
)
async def test_a_batch_that_cannot_be_stored_costs_the_others_nothing(
    tmp_path: Path, bad: PostedChange
) -> None:
    log = await opened(tmp_path)
    batches = [[put(n), event(n=n)] for n in range(30)]
    batches[12].append(bad)
    answers = await asyncio.gather(*map(log.append, batches), return_exceptions=True)
    assert isinstance(answers.pop(12), LogUnavailable)
    assert [one.first_seq for one in answers if not isinstance(one, BaseException)] == list(
        range(1, 59, 2)
    )
    assert len(await everything(log)) == 58
    assert log.statistics()["append_faults"] == 1
    assert not log.waiting
    await log.close()


async def test_a_table_new_in_a_transaction_undone_is_new_again(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    with pytest.raises(LogUnavailable):
        await log.append([put(1, id="\ud800")])
    assert (await log.append([event(), put(1)])).accepted == 2
    assert [change.table for change in await everything(log)] == [EVENTS.id, ORDERS.id]
    await log.close()


async def test_batches_and_bytes_that_wait_are_those_not_yet_durable(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    posted = put(1, pad="x" * 1000)
    assert posted.row is not None
    appends = [asyncio.create_task(log.append([posted])) for _ in range(5)]
    await asyncio.sleep(0)
    assert len(log.waiting) == 5
    assert log.statistics()["waiting_bytes"] == 5 * len(posted.row.json)
    await asyncio.gather(*appends)
    assert not log.waiting
    assert log.statistics()["waiting_bytes"] == 0
    await log.close()


async def test_the_window_is_bounded_and_the_file_takes_over(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "kalam.db", window_bytes=20_000)
    log.declare(TABLES)
    await log.start()
    for n in range(100):
        await log.append([event(n=n, pad="x" * 1000)])
    assert log.recent(0) is None
    assert 15_000 < log.statistics()["window_bytes"] <= 20_000
    assert seqs(list(log.recent(95) or ())) == [96, 97, 98, 99, 100]
    assert len(await everything(log)) == 100
    await log.close()


async def test_durability_is_what_was_asked_for(tmp_path: Path) -> None:
    schema.prepare(tmp_path / "kalam.db")
    for durability, expected in (("commit", 2), ("os", 1)):
        connection = schema.open_writer(tmp_path / "kalam.db", cast(schema.Durability, durability))
        assert connection.execute("PRAGMA synchronous").fetchone() == (expected,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
        connection.close()


def test_a_file_that_another_worker_creates_meanwhile_is_no_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ours = tmp_path / "kalam.db", threading.get_ident()
    other = threading.Thread(target=schema.prepare, args=(path,))
    number = schema._number

    def interrupted(connection: sqlite3.Connection, query: str) -> int:
        found = number(connection, query)
        if other.ident is None and threading.get_ident() == ours:
            # Between one look at the file and the next; where it is kept out, it goes on waiting.
            other.start()
            other.join(1)
        return found

    monkeypatch.setattr(schema, "_number", interrupted)
    schema.prepare(path)
    other.join()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM state").fetchone() == (1,)


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    log = await opened(tmp_path / ("d" * 120) / ("e" * 120))
    assert (await log.append([put(1)])).accepted == 1
    await log.close()


def test_a_url_names_the_log(tmp_path: Path) -> None:
    logs: list[EventLog] = [
        open_log("sqlite:", tmp_path),
        open_log(f"sqlite:{tmp_path}/x.db", tmp_path, "os", Retention()),
        open_log("memory:", tmp_path),
    ]
    assert [type(log) for log in logs] == [SqliteLog, SqliteLog, MemoryLog]
    for url in ("", "sqlite", "memory:x", "kafka://host"):
        with pytest.raises(ValueError, match="is no log"):
            open_log(url, tmp_path)


def link_to_elsewhere(directory: Path) -> None:
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    (directory / "kalam.db").symlink_to(elsewhere / "log.db")


def nothing_special(directory: Path) -> None:
    pass


@pytest.mark.parametrize("prepare", [nothing_special, link_to_elsewhere])
async def test_the_write_ahead_log_has_its_length_before_it_is_written(
    prepare: Callable[[Path], None], tmp_path: Path
) -> None:
    prepare(tmp_path)
    log = SqliteLog(tmp_path / "kalam.db", durability="commit")
    log.declare(TABLES)
    await log.start()
    length = log.statistics()["file_bytes"]
    assert length > 16 * 1024 * 1024
    for n in range(20):
        await log.append([put(n)])
    # What is appended goes where the zeros are; nothing has come into the log itself.
    assert log.statistics()["file_bytes"] == length
    assert len(await everything(log)) == 20
    await log.close()


async def test_where_the_write_ahead_log_cannot_be_laid_out_changes_are_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, whole: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(schema, "_lengthen", refuse)
    log = SqliteLog(tmp_path / "kalam.db", durability="commit")
    log.declare(TABLES)
    await log.start()
    await log.append([put(1)])
    assert len(await everything(log)) == 1
    await log.close()


async def test_frames_that_a_killed_writer_left_survive_the_laying_out(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "kalam.db", durability="commit")
    log.declare(TABLES)
    await log.start()
    for n in range(30):
        await log.append([put(n)])
    # What a killed process leaves: the file and its write-ahead log, not copied back.
    left = tmp_path / "left"
    left.mkdir()
    for name in ("kalam.db", "kalam.db-wal"):
        shutil.copy(tmp_path / name, left / name)
    await log.close()
    os.truncate(left / "kalam.db-wal", 1_000_000)
    log = SqliteLog(left / "kalam.db", durability="commit")
    log.declare(TABLES)
    await log.start()
    assert len(await everything(log)) == 30
    await log.close()
