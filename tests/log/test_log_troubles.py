"""Troubles that pass: what fails once is told, costs what it must, and is got over."""

import asyncio
import errno
import functools
import io
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from log_kit import (
    EVENTS,
    FOREVER,
    ORDERS,
    PLENTY,
    TABLES,
    Clock,
    LogKind,
    event,
    everything,
    new_log,
    page_of,
    put,
    seqs,
)

from kalam_notify.errors import LogUnavailable
from kalam_notify.log import FILE_NAME, Retention, SqliteLog, following, open_log, stored_sources
from kalam_notify.log import soundness as log_soundness
from kalam_notify.log import sqlite as sqlite_log
from kalam_notify.log.nats.applying import prepare_state
from kalam_notify.log.soundness import Soundness
from kalam_notify.model import TableId
from kalam_notify.model.sourced import SourceMark
from kalam_notify.store import checkup, schema, soundness
from kalam_notify.store.files import cure
from kalam_notify.store.reader import Chunking

NOTHING_KEPT = Retention(max_age=None, max_bytes=0)
FULL = sqlite3.OperationalError("database or disk is full")


async def started(directory: Path, retention: Retention = FOREVER) -> SqliteLog:
    log = new_log("sqlite", directory, Clock(), retention)
    assert isinstance(log, SqliteLog)
    log.declare(TABLES)
    await log.start()
    return log


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def fails_once(fault: Exception, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    faults = [fault]

    def function(*args: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return otherwise(*args, **named)

    return function


# Writing


async def test_retention_that_fails_is_told_takes_nothing_and_is_applied_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = await started(tmp_path, NOTHING_KEPT)
    await log.append([put(1), put(2)])
    monkeypatch.setattr(sqlite_log, "follow_all", fails_once(FULL, sqlite_log.follow_all))
    assert await log.trim() == 0
    assert "retention could not be applied: OperationalError: database or disk" in caplog.text
    assert seqs(await everything(log)) == [1, 2]
    assert (await log.append([put(3)])).accepted == 1
    assert await log.trim() == 3
    assert (log.first_seq, log.horizon()) == (4, 3)
    await log.close()


class Erring(sqlite3.Connection):
    """Fails at these statements, once each."""

    faults: list[str] = []  # noqa: RUF012 (of all connections: which one is met is the log's)

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if self.faults and sql == self.faults[0]:
            self.faults.pop(0)
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *args)


@pytest.mark.parametrize("statements", [["COMMIT"], ["COMMIT", "ROLLBACK"], ["BEGIN IMMEDIATE"]])
async def test_a_batch_whose_transaction_fails_is_stored_not_at_all_and_the_next_one_whole(
    statements: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = functools.partial(sqlite3.connect, factory=Erring)
    monkeypatch.setattr(sqlite3, "connect", connect)
    log = await started(tmp_path)
    await log.append([put(1)])
    # Indexes are built by transactions of the same connection.
    await until(lambda: not log._writer._indexes_due)
    Erring.faults[:] = statements
    with pytest.raises(LogUnavailable, match="could not store the changes"):
        await log.append([put(2, id="a"), put(3)], "key")
    assert Erring.faults == []
    assert log.why_not_ready() is not None
    # The same again is no duplicate: nothing of it was stored.
    answer = await log.append([put(2, id="a"), put(3)], "key")
    assert (answer.accepted, answer.first_seq) == (2, 2)
    assert log.why_not_ready() is None
    assert seqs(await everything(log)) == [1, 2, 3]
    await log.close()


async def test_a_log_that_is_closed_while_it_is_trimmed_keeps_nobody_waiting(
    tmp_path: Path,
) -> None:
    log = await started(tmp_path, NOTHING_KEPT)
    for first in range(0, 5000, 500):
        await log.append([event(n=n) for n in range(first, first + 500)])
    trims = [asyncio.create_task(log.trim()) for _ in range(3)]
    await asyncio.sleep(0)
    await log.close()
    async with asyncio.timeout(10):
        removed = sum(await asyncio.gather(*trims))
    log = await started(tmp_path)
    assert log.first_seq == removed + 1
    assert seqs(await everything(log, removed)) == list(range(removed + 1, 5001))
    await log.close()


def reading(path: Path) -> sqlite3.Connection:
    """A connection that has the file open for reading, as a copying tool may."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (a)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM t").fetchall()
    return connection


def test_a_file_that_others_have_open_is_waited_for_until_they_have_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kalam.db"
    waits: list[float] = []
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.5)
    with closing(reading(path)) as other:

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                other.execute("COMMIT")

        clock = SimpleNamespace(monotonic=lambda: sum(waits), sleep=sleep)
        monkeypatch.setattr(schema, "time", clock)
        with closing(schema.open_writer(path, "os")) as writer:
            assert writer.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
    assert len(waits) == 3


def test_a_file_that_others_keep_open_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kalam.db"
    now = 0.0
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.5)

    def sleep(_: float) -> None:
        nonlocal now
        now += 0.2

    monkeypatch.setattr(schema, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    with closing(reading(path)), pytest.raises(sqlite3.OperationalError) as fault:
        schema.open_writer(path, "os")
    assert schema.BUSY_SECONDS < now <= schema.BUSY_SECONDS + 0.2
    assert cure(path, fault.value) == "another program holds the file: end it"


@pytest.mark.parametrize("writes", [0, 1, 3])
def test_where_the_disk_is_full_the_write_ahead_log_gets_no_zeros_at_all(
    writes: int, tmp_path: Path
) -> None:
    """What is left of the disk is for changes."""
    path = tmp_path / "kalam.db-wal"
    path.write_bytes(b"frames" * 100)

    class Filling(io.FileIO):
        left = writes

        def write(self, data: Any, /) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= 1
            return super().write(data) or 0

    with Filling(path, "r+") as file, pytest.raises(OSError, match="No space"):
        schema._lengthen(file, 4 * schema._ZEROS)
    assert path.read_bytes() == b"frames" * 100


# Reading


SMALL, LARGE, HUGE = 10, 300_000, 3_000_000


@pytest.mark.parametrize(
    "sizes",
    [
        [SMALL] * 40 + [LARGE] * 9 + [SMALL] * 3,
        [SMALL] * 3 + [HUGE] + [SMALL] * 3,
        [LARGE] * 7 + [HUGE, HUGE],
    ],
    ids=["suddenly large", "one huge", "large and huge"],
)
async def test_rows_that_are_suddenly_large_are_read_like_others(
    sizes: list[int], tmp_path: Path
) -> None:
    log = await started(tmp_path)
    for number, size in enumerate(sizes):
        await log.append([put(number, pad="x" * size)])
    whole = list(range(1, len(sizes) + 1))
    span = await log.read(0, limit=1000, max_bytes=PLENTY)
    assert seqs(span.changes) == whole
    assert [len(change.row.values["pad"]) for change in span.changes if change.row] == sizes
    page = await page_of(log)
    assert seqs(page) == whole
    assert [len(row.values["pad"]) for _, row in page.rows] == sizes
    for count in (1, 5, len(sizes)):
        _, after = await log.newest(ORDERS, "", None, count)
        assert after == len(sizes) - count
    await log.close()


@pytest.mark.parametrize(
    ("rows", "size", "then"),
    [
        (8, 80, 32),  # four times as many at most
        (8, 8 * 256 * 1024, 1),
        (8, 8 * 256 * 1024 * 100, 1),  # never none
        (8, 0, 32),
    ],
)
def test_how_many_rows_are_asked_for_follows_their_size(rows: int, size: int, then: int) -> None:
    chunking = Chunking()
    chunking.learn(rows, size)
    assert chunking.rows == then
    for _ in range(10):
        chunking.learn(chunking.rows, chunking.rows)
    assert chunking.rows == 512


@pytest.mark.parametrize("fault", [sqlite3.OperationalError("disk I/O error"), ValueError("ours")])
async def test_what_others_wrote_arrives_with_the_next_ring_when_it_could_not_be_read(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = await started(tmp_path), await started(tmp_path)
    await writer.append([put(1)])
    async with asyncio.timeout(10):
        await reader.wait_beyond(0)
    failing = fails_once(fault, following.reader.follow)
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def follow(*args: Any) -> Any:
        try:
            return failing(*args)
        except Exception:
            loop.call_soon_threadsafe(failed.set)
            raise

    monkeypatch.setattr(following.reader, "follow", follow)
    await writer.append([put(2)])
    async with asyncio.timeout(10):
        await failed.wait()
    await writer.append([put(3)])
    async with asyncio.timeout(10):
        await reader.wait_beyond(2)
    assert seqs(reader.recent(0) or ()) == [1, 2, 3]
    await reader.close()
    await writer.close()


async def test_a_file_that_cannot_be_checked_for_a_while_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = await started(tmp_path)
    await log.close()
    monkeypatch.setattr(log_soundness, "SMALL_BYTES", -1)
    monkeypatch.setattr(log_soundness, "AGAIN_SECONDS", 0)
    monkeypatch.setattr(log_soundness, "AGAIN_TIMES", 0)
    unreadable = sqlite3.OperationalError("disk I/O error")
    monkeypatch.setattr(soundness, "slices", fails_once(unreadable, soundness.slices))
    checked: list[str] = []
    check = soundness.check_politely

    def noted(connection: sqlite3.Connection, table: str) -> str | None:
        checked.append(table)
        return check(connection, table)

    monkeypatch.setattr(soundness, "check_politely", noted)
    watched = Soundness(tmp_path / FILE_NAME)
    with caplog.at_level(logging.WARNING):
        assert await watched.start() is None
        await until(lambda: "entries" in checked)
        await watched.close()
    assert "kalam.db could not be checked: the log could not be read: disk I/O" in caplog.text
    assert watched.reason is None


# What an operator is told to do


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (sqlite3.DatabaseError("file is not a database"), "restore a copy, or see what `kalam-"),
        (FULL, "free some space on the disk of"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space on the disk of"),
        (OSError(errno.EIO, "Input/output error"), "see the kernel's log (dmesg)"),
        (sqlite3.OperationalError("disk I/O error"), "see the kernel's log (dmesg)"),
        (sqlite3.OperationalError("database is locked"), "another program holds the file"),
        (OSError(errno.EROFS, "Read-only file system"), "is read-only: mount it for writing"),
        (OSError(errno.EEXIST, "File exists"), "has to be a directory"),
        (OSError(errno.ENOTDIR, "Not a directory"), "has to be a directory"),
        (OSError(errno.EACCES, "Permission denied"), "writable for user"),
        (sqlite3.OperationalError("unable to open database file"), "writable for user"),
    ],
    ids=str,
)
def test_each_fault_of_a_file_has_its_cure(fault: Exception, words: str, tmp_path: Path) -> None:
    assert words in cure(tmp_path / "kalam.db", fault)


def test_what_stands_in_the_way_is_named_before_permissions_are_blamed(tmp_path: Path) -> None:
    fault = sqlite3.OperationalError("unable to open database file")
    (tmp_path / "kalam.db").mkdir()
    assert "kalam.db is a directory: move it away" in cure(tmp_path / "kalam.db", fault)
    (tmp_path / "data").write_text("")
    assert "has to be a directory" in cure(tmp_path / "data" / "kalam.db", fault)


# A look from outside


def told(directory: Path) -> list[checkup.Finding]:
    return list(checkup.findings_in(directory, FILE_NAME))


def prepare_node(directory: Path, stream: str) -> Path:
    path = directory / f"node-{stream}.db"
    schema.prepare(path, heeds_mark=False)
    with closing(schema.open_writer(path, "os")) as connection:
        prepare_state(connection, stream)
    return path


async def test_the_doctor_looks_at_the_files_of_nodes_and_at_the_servers_own_if_there_is_one(
    tmp_path: Path,
) -> None:
    assert "there is no kalam.db" in told(tmp_path)[0].text
    node = prepare_node(tmp_path, "orders")
    found = told(tmp_path)
    assert [finding for finding in found if finding.cure] == []
    assert "nothing of the stream orders has been applied to it yet" in found[2].text
    with closing(sqlite3.connect(node, isolation_level=None)) as connection:
        connection.execute("UPDATE stream SET created = 'noon', applied = 7, epoch = 3")
    texts = [finding.text for finding in told(tmp_path)]
    assert "it has applied the stream orders, created at noon, up to message 7, in epoch 3" in texts
    log = await started(tmp_path)
    await log.close()
    texts = [finding.text for finding in told(tmp_path)]
    assert sum("has format" in text for text in texts) == 2
    assert str(tmp_path / FILE_NAME) in texts[0]


def test_a_directory_that_cannot_be_written_is_told_and_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.prepare(tmp_path / FILE_NAME)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    first, *others = told(tmp_path)
    assert "cannot be written by user" in first.text
    assert first.cure is not None
    assert "make it writable" in first.cure
    assert others
    assert {finding.cure for finding in others} == {None}


@pytest.mark.parametrize(("free", "is_fault"), [(-1, True), (0, False), (1, False)])
def test_little_space_is_a_fault(
    free: int, is_fault: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.prepare(tmp_path / FILE_NAME)
    left = SimpleNamespace(free=checkup._LITTLE_SPACE + free)
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: left)
    last = told(tmp_path)[-1]
    assert f"{left.free:,} bytes free" in last.text
    assert (last.cure is not None) is is_fault


# Sources


async def test_a_table_that_a_source_drops_is_not_among_its_tables_any_more(
    log_kind: LogKind, tmp_path: Path
) -> None:
    log = new_log(log_kind, tmp_path, Clock())
    log.declare(TABLES)
    await log.start()
    first, second = TableId("app.first"), TableId("app.second")
    await log.append([], mark=SourceMark("db", "1", defined=((first, "a"), (second, "b"))))
    await log.append([], mark=SourceMark("other", "9", defined=((first, "c"),)))
    version = await log.source_version()
    await log.append([], mark=SourceMark("db", "2", dropped=(first, TableId("app.none"))))
    assert await log.source_version() > version
    known = await log.sources()
    assert (known["db"].position, known["db"].tables) == ("2", {second: "b"})
    assert known["other"].tables == {first: "c"}
    await log.close()


async def test_the_sources_of_a_log_are_told_without_opening_it(tmp_path: Path) -> None:
    assert stored_sources("sqlite:", tmp_path) == set()
    log = await started(tmp_path)
    for name in ("db", "other"):
        await log.append([], mark=SourceMark(name, "1"))
    assert stored_sources("sqlite:", tmp_path) == {"db", "other"}
    await log.close()
    elsewhere = f"sqlite:{tmp_path / FILE_NAME}"
    assert stored_sources(elsewhere, tmp_path / "nowhere") == {"db", "other"}
    assert stored_sources("memory:", tmp_path) == set()
    assert stored_sources("nats://127.0.0.1:4222/ORDERS", tmp_path) == set()
    (tmp_path / FILE_NAME).write_bytes(b"noise" * 1000)
    assert stored_sources("sqlite:", tmp_path) == set()


@pytest.mark.parametrize("url", ["memory:x", "sqlite", "postgres://here", "", "memory"])
def test_a_url_that_is_no_log_says_which_there_are(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use sqlite:, nats://… or memory:"):
        open_log(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Keys of batches that stored nothing


async def test_a_key_whose_batch_stored_nothing_leaves_the_log_with_what_is_older(
    log_kind: LogKind, tmp_path: Path, clock: Clock
) -> None:
    """It has no change of its own to leave with; here the newest has gone before the others."""
    brief = ORDERS.__class__(EVENTS.id, "shared", max_age=60.0)
    log = new_log(log_kind, tmp_path, clock, Retention(max_age=3600.0, max_bytes=None))
    log.declare([ORDERS, brief])
    await log.start()
    await log.append([put(1, id="a")])
    await log.append([event()])
    clock.advance(61)
    assert await log.trim() == 1
    assert (await log.append([put(1, id="a")], "key")).duplicates == 1
    assert (await log.append([put(2)], "key")).duplicates == 1
    clock.advance(3600)
    await log.trim()
    await log.append([put(3)])
    clock.advance(3601)
    await log.trim()
    assert (await log.append([put(2)], "key")).accepted == 1
    await log.close()
