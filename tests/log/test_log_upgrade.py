"""A data directory of the release before is taken over as it is."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from log_kit import NOTES, ORDERS, TABLES, everything, page_of, put, seqs

from kalam_notify.log import PageRequest, SqliteLog
from kalam_notify.model import SHARED
from kalam_notify.model.hints import ColumnIn, Hints
from kalam_notify.store import schema
from kalam_notify.store.checkup import findings

# What release 0.1 wrote (its own `sqlite3 kalam.db .dump`, with the two numbers in the header).
FORMAT_2 = Path(__file__).with_name("format_2.sql")
# The same of a log in format 4 with an index, whose first 8 changes retention had removed.
FORMAT_4 = Path(__file__).with_name("format_4.sql")


def written(directory: Path, version: int, dump: Path = FORMAT_2) -> None:
    with closing(sqlite3.connect(directory / "kalam.db", isolation_level=None)) as connection:
        connection.executescript(dump.read_text())
        connection.execute("PRAGMA journal_mode = WAL")
        if version == 1:
            connection.execute("ALTER TABLE state DROP COLUMN floor")
            connection.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize("version", [1, 2])
async def test_a_file_of_an_older_format_is_brought_to_this_one(
    tmp_path: Path, version: int
) -> None:
    written(tmp_path, version)
    log = SqliteLog(tmp_path / "kalam.db", durability="os")
    log.declare(TABLES)
    await log.start()
    changes = await everything(log)
    assert seqs(changes) == list(range(1, 12))
    assert [change.kind for change in changes[5:8]] == ["insert", "update", "delete"]
    assert seqs(await page_of(log)) == [1, 4, 5, 6, 7]
    assert seqs(await page_of(log, as_of=6)) == [1, 2, 3, 4, 5, 6]
    assert seqs(await page_of(log, NOTES, owner="bob")) == [10]
    again = await log.append([put(1, id="evt-1"), put(9)])
    assert (again.accepted, again.duplicates, again.first_seq) == (1, 1, 12)
    assert (await log.append([put(1)], "batch-1")).duplicates == 1
    await log.close()
    with closing(sqlite3.connect(tmp_path / "kalam.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.FORMAT_VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_indexes_are_built_for_the_rows_of_an_older_file(tmp_path: Path) -> None:
    written(tmp_path, 2)
    indexed = msgspec.structs.replace(ORDERS, indexes=(("status",),))
    hints: Hints = ((ColumnIn("status", ("paid",)),),)
    log = SqliteLog(tmp_path / "kalam.db", durability="os")
    log.declare([indexed])
    await log.start()
    while await log.access_path(indexed, SHARED, hints) != "index (status)":
        pass
    request = PageRequest(indexed, SHARED, lambda v: v["status"] == "paid", 0, None, 9, 999, hints)
    assert seqs(await log.page(request)) == [1, 5]
    await log.close()


async def test_rows_that_have_outlived_their_changes_are_taken_over(tmp_path: Path) -> None:
    written(tmp_path, 4, FORMAT_4)
    indexed = msgspec.structs.replace(ORDERS, indexes=(("status",),))
    log = SqliteLog(tmp_path / "kalam.db", durability="os")
    log.declare([indexed, *TABLES[1:]])
    await log.start()
    # Seqs 1, 4, 5 and 6 have left the log, 9 and 12 stand in it.
    assert [(seq, row.values) for seq, row in (await page_of(log)).rows] == [
        (1, {"id": 1, "status": "paid"}),
        (4, {"id": 4, "status": "open"}),
        (5, {"id": 5, "status": "paid"}),
        (6, {"id": 6, "status": "open"}),
        (9, {"id": 2, "status": "void"}),
        (12, {"id": 7, "status": "open"}),
    ]
    assert seqs(await page_of(log, as_of=9)) == [1, 3, 4, 5, 6, 9]
    assert [row.values["text"] for _, row in (await page_of(log, NOTES, owner="bob")).rows] == [
        "it's"
    ]
    hints: Hints = ((ColumnIn("status", ("open",)),),)
    request = PageRequest(indexed, SHARED, lambda v: v["status"] == "open", 0, None, 9, 999, hints)
    assert seqs(await log.page(request)) == [4, 6, 12]
    await log.append([put(4, status="void"), put(5, kind="delete")])
    changes = await everything(log, 13)
    assert [(change.old_seq, change.old and change.old.values["status"]) for change in changes] == [
        (4, "open"),
        (5, "paid"),
    ]
    assert seqs(await page_of(log)) == [1, 6, 9, 12, 14]
    await log.close()
    assert [text for text, cure in findings(tmp_path / "kalam.db") if cure is not None] == []
