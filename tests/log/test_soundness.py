"""Damaged files: a small one is refused, a large one told beside the server, a mended one taken."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from helpers.damage import settle, turn_bytes
from log_kit import ORDERS, TABLES, event, everything, page_of, put

from kalam_notify.errors import DamagedFile, LogUnavailable
from kalam_notify.log import FILE_NAME, SqliteLog
from kalam_notify.model import PostedChange, Row
from kalam_notify.store import soundness
from kalam_notify.store.checkup import findings

SECONDS = 30.0
TREES = (
    *("rows", "rows_by_seq", "kept", "stale", "log", "log_by_owner", "log_by_id"),
    *("state", "tables", "batch_keys"),
)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """The file of a log with some thousand changes, and nobody at it."""
    log = await opened(tmp_path)
    for begin in range(0, 1000, 100):
        batch = [put(n, id=f"c{n}", pad="x" * 100) for n in range(begin, begin + 100)]
        await log.append([*batch, event(pad="y" * 9000)], f"key {begin}")
    await log.close()
    settle(tmp_path / FILE_NAME)
    return tmp_path / FILE_NAME


@pytest.fixture
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kalam_notify.log.soundness.SMALL_BYTES", -1)


async def opened(directory: Path) -> SqliteLog:
    log = SqliteLog(directory / FILE_NAME, durability="os", trim_seconds=3600)
    log.declare(TABLES)
    await log.start()
    return log


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


def content(path: Path) -> bytes:
    return path.read_bytes()


def assert_tells(text: str, path: Path) -> None:
    assert text.startswith(f"{path} is damaged (")
    assert f"`kalam-notify doctor {path.parent}`" in text


@pytest.mark.parametrize("tree", TREES)
async def test_a_small_file_with_a_damaged_page_starts_nothing(path: Path, tree: str) -> None:
    turn_bytes(path, tree)
    before = content(path)
    with pytest.raises(DamagedFile) as refusal:
        await opened(path.parent)
    assert_tells(str(refusal.value), path)
    assert content(path) == before
    assert any(cure is not None for _, cure in findings(path))


@pytest.mark.usefixtures("every_file_is_large")
@pytest.mark.parametrize("tree", ["rows", "log", "log_by_id", "batch_keys"])
async def test_damage_of_a_large_file_is_told_beside_the_start(path: Path, tree: str) -> None:
    turn_bytes(path, tree, middle=True)
    log = await opened(path.parent)
    await until(lambda: "is damaged" in (log.why_not_ready() or ""))
    assert_tells(log.why_not_ready() or "", path)
    with pytest.raises(LogUnavailable, match="is damaged"):
        await log.append([put(1)])
    await log.close()


@pytest.mark.usefixtures("every_file_is_large")
async def test_a_sound_large_file_is_checked_by_its_tables(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str | None] = []
    check = soundness.check

    def noted(connection: sqlite3.Connection, table: str | None = None) -> str | None:
        checked.append(table)
        return check(connection, table)

    monkeypatch.setattr(soundness, "check", noted)
    log = await opened(path.parent)
    await until(lambda: len(checked) == 13)
    assert {"sqlite_schema", "log", "rows", "entries", "state"} < set(checked)
    assert log.why_not_ready() is None
    await log.append([put(1)])
    await log.close()


async def test_damage_that_a_reader_meets_is_told(path: Path) -> None:
    log = await opened(path.parent)
    turn_bytes(path, "log")
    with pytest.raises(LogUnavailable):
        await everything(log)
    await until(lambda: "is damaged" in (log.why_not_ready() or ""))
    assert_tells(log.why_not_ready() or "", path)
    await log.close()


@pytest.mark.usefixtures("every_file_is_large")
async def test_damage_that_the_writer_meets_is_told_and_refuses_every_batch(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turn_bytes(path, "log_by_id")
    log = await opened(path.parent)
    batches = [[put(n, id=f"c{n}")] for n in range(20)]
    answers = await asyncio.gather(*map(log.append, batches), return_exceptions=True)
    assert all(isinstance(answer, LogUnavailable) for answer in answers)
    await until(lambda: "is damaged" in (log.why_not_ready() or ""))
    told = [one for one in caplog.records if "is damaged" in one.getMessage()]
    assert len(told) == 1
    await log.close()


@pytest.mark.usefixtures("every_file_is_large")
async def test_what_can_be_read_of_a_damaged_file_is_read(path: Path) -> None:
    turn_bytes(path, "batch_keys")
    log = await opened(path.parent)
    await until(lambda: "is damaged" in (log.why_not_ready() or ""))
    assert len((await page_of(log)).rows) == 1000
    await log.close()


@pytest.mark.usefixtures("every_file_is_large")
async def test_a_file_that_is_found_sound_again_is_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kalam_notify.log.soundness.AGAIN_SECONDS", 0.01)
    sound = content(path)
    turn_bytes(path, "batch_keys")
    log = await opened(path.parent)
    await until(lambda: "is damaged" in (log.why_not_ready() or ""))
    with path.open("r+b") as file:
        file.write(sound)
    await until(lambda: log.why_not_ready() is None)
    assert (await log.append([put(1)])).accepted == 1
    await log.close()


@pytest.mark.usefixtures("every_file_is_large")
async def test_a_check_under_way_ends_with_the_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def check(connection: sqlite3.Connection, table: str | None = None) -> str | None:
        loop.call_soon_threadsafe(began.set)
        connection.execute(endless)
        return None

    monkeypatch.setattr(soundness, "check", check)
    log = await opened(path.parent)
    async with asyncio.timeout(SECONDS):
        await began.wait()
        await log.close()


def test_faults_of_the_disk_are_no_damage() -> None:
    full = sqlite3.OperationalError("database or disk is full")
    assert not soundness.is_damage(full)
    assert not soundness.is_damage(OSError(5, "Input/output error"))
    assert not soundness.is_damage(None)


async def test_the_doctor_tells_an_index_that_disagrees_with_its_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        theirs = connection.execute("SELECT * FROM sqlite_schema WHERE name = 'log_by_id'")
        index = theirs.fetchone()
        connection.execute("DELETE FROM sqlite_schema WHERE name = 'log_by_id'")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO kept SELECT seq, row FROM log WHERE id = 'c5'")
        connection.execute("DELETE FROM log WHERE id = 'c5'")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", index)
    cures = [cure for _, cure in findings(path) if cure is not None]
    assert cures
    assert "REINDEX" in cures[0]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("REINDEX")
    assert [cure for _, cure in findings(path) if cure is not None] == []


ROW = b'{"id":7,"pad"'


def spoil(path: Path, spoiled: bytes) -> None:
    """Another text of the same length in the change that wrote a row, all around it sound."""
    whole = path.read_bytes()
    assert whole.count(ROW) == 1
    path.write_bytes(whole.replace(ROW, spoiled))


@pytest.mark.parametrize("spoiled", [b'\xff"id":7,"pad"', b'{"id":7,"pad\x00'])
async def test_a_row_whose_text_is_no_json_any_more_is_damage(path: Path, spoiled: bytes) -> None:
    assert len(spoiled) == len(ROW)
    spoil(path, spoiled)
    with pytest.raises(DamagedFile) as refusal:
        await opened(path.parent)
    assert_tells(str(refusal.value), path)
    assert "is no JSON" in str(refusal.value)
    assert any("is no JSON" in text for text, cure in findings(path) if cure is not None)


@pytest.mark.parametrize(
    "text",
    ['"\\ud800"', "1E30", "-0", "18446744073709551615", "[" * 60 + "]" * 60, '"\\u0000"', '"\x7f"'],
)
async def test_whatever_json_a_row_may_hold_is_none(tmp_path: Path, text: str) -> None:
    log = await opened(tmp_path)
    row = Row(f'{{ "id" : 1 ,\n"a":{text}}}'.encode())
    await log.append([PostedChange(ORDERS.id, "", "insert", row, None, key="[1]")])
    await log.close()
    await (await opened(tmp_path)).close()
    assert [text for text, cure in findings(tmp_path / FILE_NAME) if cure is not None] == []
