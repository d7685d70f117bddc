"""Files that are removed, replaced or moved while a log is open; disks that take nothing."""

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from log_kit import TABLES, Clock, everything, new_log, put, seqs

from kalam_notify.errors import LogUnavailable, StorageFault
from kalam_notify.log import SqliteLog
from kalam_notify.log import stored as stored_log
from kalam_notify.logs import Complaints
from kalam_notify.store.files import entries_state


def settled(directory: Path) -> None:
    """As if nothing had come or gone in a directory for an hour."""
    hour_ago = directory.stat().st_mtime - 3600
    os.utime(directory, (hour_ago, hour_ago))


@pytest.fixture(params=["young", "settled"])
async def log(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SqliteLog]:
    """A log with one change, in a directory whose names are looked at one by one, or as a whole."""
    monkeypatch.setattr(stored_log, "WATCH_SECONDS", 0.01)
    (tmp_path / "data").mkdir()
    log = new_log("sqlite", tmp_path / "data", Clock())
    assert isinstance(log, SqliteLog)
    log.declare(TABLES)
    await log.start()
    await log.append([put(1)])
    if request.param == "settled":
        settled(tmp_path / "data")
        # A transaction that finds everything where it was.
        await log.trim()
        assert log._files._sound is not None
    yield log
    await log.close()


async def told(log: SqliteLog, expected: str | None) -> str | None:
    """Wait until readiness says so, or that there is nothing to say."""
    async with asyncio.timeout(30):
        while True:
            why = log.why_not_ready()
            if (why is None) if expected is None else expected in (why or ""):
                return why
            await asyncio.sleep(0.01)


def removed(path: Path) -> None:
    if path.is_dir():
        # In one step: the log may be writing its mark anew while its files go one by one.
        path = path.rename(path.with_name("trash"))
        shutil.rmtree(path)
    else:
        path.unlink()


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    pipes = shutil.ignore_patterns("doorbell-*")
    shutil.copytree(path, copy, ignore=pipes) if path.is_dir() else shutil.copy(path, copy)
    removed(path)
    copy.rename(path)


@pytest.mark.parametrize("change", [removed, replaced])
@pytest.mark.parametrize(
    "name", ["data", "data/kalam.db", "data/kalam.db-wal", "data/kalam.db-shm"]
)
async def test_nothing_is_acknowledged_into_files_that_nobody_will_find(
    log: SqliteLog, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(tmp_path / name)
    with pytest.raises(LogUnavailable, match="put it back, or restart"):
        await log.append([put(2)])
    assert str(tmp_path / name.split("/")[0]) in (await told(log, "put it back") or "")
    assert log.last_seq == 1


def test_the_state_of_a_directory_tells_what_becomes_of_its_names(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.mkdir()
    (names / "one").touch()
    assert entries_state(str(names)) is None
    settled(names)
    before = entries_state(str(names))
    assert before is not None
    (names / "one").write_text("what is in a file is not what it is called")
    assert entries_state(str(names)) == before
    for change in (
        lambda: (names / "two").touch(),
        lambda: (names / "two").rename(names / "one"),
        lambda: (names / "one").unlink(),
    ):
        change()
        assert entries_state(str(names)) is None
        later = names.stat().st_mtime_ns + 4_000_000_000
        assert entries_state(str(names), partial(int, later)) not in (None, before)
    names.rename(tmp_path / "away")
    assert entries_state(str(names)) is None


async def test_a_directory_that_is_put_back_is_used_again(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "away")
    await told(log, f"{tmp_path / 'data'} is gone")
    with pytest.raises(LogUnavailable):
        await log.append([put(2)])
    (tmp_path / "away").rename(tmp_path / "data")
    await told(log, None)
    assert (await log.append([put(2)])).first_seq == 2
    assert seqs(await everything(log)) == [1, 2]


async def test_a_mark_that_was_removed_is_written_anew(log: SqliteLog, tmp_path: Path) -> None:
    mark = tmp_path / "data" / "kalam.mark"
    mark.unlink()
    await log.append([put(2)])
    assert int(mark.read_text()) == 2
    replaced(mark)
    await log.append([put(3)])
    assert int(mark.read_text()) == 3


async def test_a_mark_that_says_more_is_not_written_over(log: SqliteLog, tmp_path: Path) -> None:
    mark = tmp_path / "data" / "kalam.mark"
    mark.unlink()
    mark.write_text("1000")
    with pytest.raises(LogUnavailable, match="says more"):
        await log.append([put(2)])
    assert log.why_not_ready() is not None
    assert mark.read_text() == "1000"


async def test_a_mark_that_says_more_is_told_before_anybody_posts(
    log: SqliteLog, tmp_path: Path
) -> None:
    mark = tmp_path / "data" / "kalam.mark"
    sound = mark.read_bytes()
    # In one step: an empty one is written anew.
    more = mark.with_name("more")
    more.write_text(f"{2**51:016}\n")
    more.rename(mark)
    await told(log, "says more")
    mark.write_bytes(sound)
    await told(log, None)
    await log.append([put(2)])


async def test_a_mark_that_another_worker_wrote_anew_is_everybodys(
    log: SqliteLog, tmp_path: Path
) -> None:
    other = new_log("sqlite", tmp_path / "data", Clock())
    other.declare(TABLES)
    await other.start()
    await other.append([put(2)])
    (tmp_path / "data" / "kalam.mark").unlink()
    for turn in range(4):
        await (log, other)[turn % 2].append([put(turn)])
    await told(log, None)
    await other.close()
    await log.append([put(9)])
    assert int((tmp_path / "data" / "kalam.mark").read_text()) == log.last_seq == 7


async def test_a_disk_that_takes_nothing_is_told_until_it_does_again(
    log: SqliteLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert log.why_not_ready() is None
    full = True
    begin = log._writer._transaction

    def transaction() -> object:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        return begin()

    monkeypatch.setattr(log._writer, "_transaction", transaction)
    for _ in range(20):
        with pytest.raises(LogUnavailable):
            await log.append([put(2)])
    await told(log, "disk is full")
    # Twenty posts were refused, which is one complaint; an index that is built has its own.
    assert caplog.text.count("changes could not be stored") == 1
    full = False
    # No post is needed for it to be found out.
    await told(log, None)
    assert (await log.append([put(2)])).first_seq == 2


async def test_an_append_that_hangs_is_told(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_log, "HANGING_SECONDS", 0.0)
    with log._writer._write_lock.turn():
        pass
    connection = sqlite3.connect(log._path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    posted = asyncio.create_task(log.append([put(2)]))
    await told(log, "has not stored a change")
    connection.execute("COMMIT")
    connection.close()
    await posted
    assert log.why_not_ready() is None


async def test_a_log_that_is_closed_is_not_ready(log: SqliteLog) -> None:
    await log.close()
    assert log.why_not_ready() == "the log is closed"


@pytest.mark.parametrize("kind", ["file", "foreign", "noise"])
async def test_a_refused_start_tells_the_path_and_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data" / "kalam.db"
    match kind:
        case "file":
            path.parent.write_text("")
        case "foreign":
            path.parent.mkdir()
            sqlite3.connect(path).executescript("CREATE TABLE t (a)").connection.close()
        case "noise":
            path.parent.mkdir()
            path.write_bytes(b"noise" * 1000)
    with pytest.raises(StorageFault) as fault:
        await SqliteLog(path).start()
    assert str(path) in str(fault.value)
    assert any(
        word in str(fault.value) for word in ("choose another", "another data_dir", "doctor")
    )


def test_the_first_complaint_is_said_at_once_and_the_others_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = iter((0.0, 1.0, 59.9, 60.0, 60.5, 130.0, 131.0, 132.0))
    complaints = Complaints(logging.getLogger("test"), clock=lambda: next(times))
    for _ in range(6):
        complaints.say("full", "the disk is full")
    complaints.say("other", "something else")
    complaints.over()
    complaints.say("full", "the disk is full")
    assert [record.getMessage() for record in caplog.records] == [
        "the disk is full",
        "the disk is full (and 2 times more since it was said last)",
        "the disk is full (and 1 times more since it was said last)",
        "something else",
        "the disk is full",
    ]
