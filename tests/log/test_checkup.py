"""A data directory looked at from outside: every fault is told with what to do."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from log_kit import put

from kalam_notify.cli import main
from kalam_notify.log import FILE_NAME, open_log
from kalam_notify.model import TableDef, TableId
from kalam_notify.store.checkup import findings
from kalam_notify.store.files import mark_path

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A data directory with some changes, and nobody at it."""
    log = open_log("sqlite:", tmp_path)
    log.declare([ORDERS])
    await log.start()
    await log.append([put(number) for number in range(50)])
    await log.close()
    return tmp_path


def faults(directory: Path) -> list[str]:
    return [text for text, cure in findings(directory / FILE_NAME) if cure is not None]


async def test_a_sound_directory_has_no_faults(directory: Path) -> None:
    assert faults(directory) == []
    told = " ".join(text for text, _ in findings(directory / FILE_NAME))
    assert "50 changes and 50 rows" in told


async def test_a_server_may_be_running(directory: Path) -> None:
    log = open_log("sqlite:", directory)
    log.declare([ORDERS])
    await log.start()
    try:
        await log.append([put(1000)])
        assert faults(directory) == []
        await log.append([put(1001)])
    finally:
        await log.close()


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    assert "is no directory" in faults(tmp_path / "nowhere")[0]
    assert "there is no kalam.db" in faults(tmp_path)[0]


async def test_a_file_of_another_program(directory: Path) -> None:
    with sqlite3.connect(directory / FILE_NAME) as connection:
        connection.execute("PRAGMA application_id = 7")
    assert "another program" in faults(directory)[0]


async def test_a_format_of_a_later_release(directory: Path) -> None:
    with sqlite3.connect(directory / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "format 99" in faults(directory)[0]


async def test_torn_pages(directory: Path) -> None:
    path = directory / FILE_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 4))
    assert faults(directory)


async def test_text_in_place_of_a_database(directory: Path) -> None:
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        if (directory / name).exists():
            (directory / name).write_text("this is no database, whatever its name says " * 100)
    assert "cannot be read" in faults(directory)[0]


async def test_rows_beyond_the_last_seq(directory: Path) -> None:
    with sqlite3.connect(directory / FILE_NAME) as connection:
        connection.execute("UPDATE state SET last_seq = 5")
    assert len([fault for fault in faults(directory) if "beyond the last seq" in fault]) == 2


async def test_an_older_copy(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / FILE_NAME
    shutil.copy(directory / FILE_NAME, copy)
    mark_path(copy).write_text(f"{2**51:016}\n")
    assert "an older copy" in faults(copy.parent)[0]


async def test_the_verb_tells_and_counts(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(directory)]) == 0
    assert "50 changes" in capsys.readouterr().out
    assert main(["doctor", str(directory / "nowhere")]) == 1
    assert "FAULT" in capsys.readouterr().out
