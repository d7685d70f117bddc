"""Indexes at the bounds of their steps, and while what keeps them fails."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from log_kit import NOTES, ORDERS, PLENTY, Clock, gone, new_log, put, row, values

from kalam_notify.log import Page, PageRequest, SqliteLog, writing
from kalam_notify.model import SHARED, Owner, PostedChange, TableDef, TableId
from kalam_notify.model.changes import key_text
from kalam_notify.model.hints import ColumnIn, ColumnRange, Hint, Hints
from kalam_notify.store import access, indexing, pages, rows
from kalam_notify.store.access import Entries, Index, IndexColumn, KeyRanges, Keys, Prefilter
from kalam_notify.store.access import lookups as ways_to
from kalam_notify.store.rows import Indexes

BY_S = msgspec.structs.replace(ORDERS, indexes=(("s",),))
NOTES_BY_S = msgspec.structs.replace(NOTES, indexes=(("s",),))


def equals(column: str, *found: Any) -> Hints:
    return ((ColumnIn(column, found),),)


async def started(directory: Path, *tables: TableDef) -> SqliteLog:
    log = new_log("sqlite", directory, Clock())
    assert isinstance(log, SqliteLog)
    log.declare(tables or (BY_S,))
    await log.start()
    return log


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def path_of(log: SqliteLog, hints: Hints, table: TableDef = BY_S, owner: str = SHARED) -> str:
    return await log.access_path(table, owner, hints)


async def built(log: SqliteLog, hints: Hints, table: TableDef = BY_S, owner: str = SHARED) -> str:
    """How rows are found once every index that is wanted is ready, and no other is there."""
    wanted = len(log._declared[table.id].indexes)
    states = "SELECT count(*), count(*) FILTER (WHERE state = 'ready') FROM indexes"
    async with asyncio.timeout(10):
        while await log._pool.run(lambda it: it.execute(states).fetchone()) != (wanted, wanted):
            await asyncio.sleep(0.001)
    return await path_of(log, hints, table, owner)


async def ids(
    log: SqliteLog, hints: Hints, table: TableDef = BY_S, owner: Owner = SHARED
) -> list[int]:
    """The rows of which the hints hold, as a page finds them."""

    def matches(values: dict[str, Any]) -> bool:
        asked = (hint for (hint,) in hints if isinstance(hint, ColumnIn))
        return all(values.get(hint.column) in hint.values for hint in asked)

    found: Page = await log.page(
        PageRequest(table, owner, matches, 0, None, 100_000, PLENTY, hints)
    )
    return [values["id"] for values in values(found)]


# Building, step by step


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
async def test_an_index_is_complete_whether_or_not_the_last_step_was_full(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_WALK_ROWS", 4)
    log = await started(tmp_path, ORDERS)
    await log.append([put(id, s=7) for id in range(count)] or [gone(1)])
    log.declare([BY_S])
    hints = equals("s", 7)
    assert await built(log, hints) == "index (s)"
    assert await ids(log, hints) == list(range(count))
    await log.close()


@pytest.mark.parametrize("less", [-1, 0, 1])
async def test_an_index_over_large_rows_is_complete_though_few_fit_into_a_step(
    less: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = len(row(id=1, s=7).json)
    monkeypatch.setattr(indexing, "_WALK_BYTES", 2 * one - less)
    log = await started(tmp_path, ORDERS)
    await log.append([put(id, s=7) for id in range(4)])
    log.declare([BY_S])
    hints = equals("s", 7)
    assert await built(log, hints) == "index (s)"
    assert await ids(log, hints) == [0, 1, 2, 3]
    await log.close()


async def test_the_walk_goes_through_every_owners_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_WALK_ROWS", 2)
    log = await started(tmp_path, NOTES)
    for owner in ("", "alice", "bob"):
        await log.append([put(id, table=NOTES, owner=owner or "zoe", s=7) for id in range(3)])
    log.declare([NOTES_BY_S])
    hints = equals("s", 7)
    for owner in ("alice", "bob", "zoe"):
        assert await built(log, hints, NOTES_BY_S, owner) == "index (s)"
        assert await ids(log, hints, NOTES_BY_S, owner) == [0, 1, 2]
    assert await ids(log, hints, NOTES_BY_S, "nobody") == []
    await log.close()


async def test_an_index_that_is_wanted_again_while_it_is_emptied_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_WALK_ROWS", 1)
    log = await started(tmp_path, ORDERS)
    await log.append([put(id, s=7) for id in range(20)])
    log.declare([BY_S])
    hints = equals("s", 7)
    assert await built(log, hints) == "index (s)"
    log.declare([ORDERS])
    log.declare([BY_S])
    await log.append([put(id, s=8) for id in range(0, 20, 2)])
    assert await built(log, hints) == "index (s)"
    assert await ids(log, hints) == list(range(1, 20, 2))
    await log.close()


async def test_an_index_that_could_not_be_built_is_built_after_the_next_trim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = await started(tmp_path, ORDERS)
    await log.append([put(id, s=id % 2) for id in range(10)])

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    hints = equals("s", 1)
    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(indexing, "_walk_step", fail)
        log.declare([BY_S])
        await until(lambda: "an index could not be built; it is tried again" in caplog.text)
        # Changes are taken, and rows are found, if slower.
        await log.append([put(11, s=1)])
        assert await ids(log, hints) == [1, 3, 5, 7, 9, 11]
    assert await path_of(log, hints) == "scan"
    await log.trim()
    assert await built(log, hints) == "index (s)"
    assert await ids(log, hints) == [1, 3, 5, 7, 9, 11]
    await log.close()


async def test_rows_that_the_indexes_do_not_know_are_found_when_following_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = await started(tmp_path)
    await log.append([put(1, s=1)])
    hints = equals("s", 7)
    assert await built(log, hints) == "index (s)"
    attempts = 0
    follow_step = writing.follow_step

    def fails_once(connection: sqlite3.Connection) -> bool:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise sqlite3.OperationalError("database or disk is full")
        return follow_step(connection)

    monkeypatch.setattr(rows, "MERGE_CHANGES", 10)
    monkeypatch.setattr(writing, "follow_step", fails_once)
    await log.append([put(id, s=7) for id in range(10, 20)])
    await until(lambda: attempts == 1)
    await log.append([put(1, s=7)])
    assert "the indexes could not be brought on" in caplog.text
    assert await ids(log, hints) == [*range(10, 20), 1]
    # Not at once, but when as much has come again.
    assert attempts == 1
    await log.append([put(id, s=7) for id in range(20, 30)])
    await until(lambda: attempts == 2)
    assert await ids(log, hints) == [*range(10, 20), 1, *range(20, 30)]
    await log.close()


@pytest.mark.parametrize(
    ("added", "size", "are_behind"),
    [
        (rows.MERGE_CHANGES - 1, 0, False),
        (rows.MERGE_CHANGES, 0, True),
        (1, rows.MERGE_BYTES - 1, False),
        (1, rows.MERGE_BYTES, True),
    ],
)
def test_indexes_follow_when_enough_has_been_written(
    added: int, size: int, are_behind: bool, tmp_path: Path
) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE indexes (state TEXT)")
    knows = Indexes()
    knows.refresh(connection, 0, 0)
    knows.grown(added, size)
    # Without an index there is nothing to follow.
    assert not knows.are_behind
    connection.execute("INSERT INTO indexes VALUES ('building')")
    knows.refresh(connection, 1, 0)
    assert knows.are_behind is are_behind
    # Another process has brought them on.
    knows.refresh(connection, 1, 5)
    assert not knows.are_behind


# How much a lookup may be


PAIRS = TableDef(TableId("app.pairs"), "shared", primary_key=("a", "b"))
INDEX = Index(1, (IndexColumn("x"), IndexColumn("y")))


def lists(a: int, b: int, *columns: str) -> list[tuple[Hint, ...]]:
    first, second = columns
    return [(ColumnIn(first, tuple(range(a))),), (ColumnIn(second, tuple(range(b))),)]


@pytest.mark.parametrize(("second", "is_key"), [(3, True), (4, True), (5, False)])
def test_lists_of_key_columns_make_at_most_so_many_keys(
    second: int, is_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_PLACES", 12)
    found = ways_to(PAIRS, [], tuple(lists(3, second, "a", "b")))
    if not is_key:
        assert found == []
        return
    ((part,),) = found[0]
    assert isinstance(part, Keys)
    assert set(part.keys) == {key_text((a, b)) for a in range(3) for b in range(second)}
    assert found[0].is_exact


@pytest.mark.parametrize("first", [11, 12, 13])
def test_a_leading_part_of_the_key_makes_at_most_so_many_runs(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_PLACES", 12)
    found = ways_to(PAIRS, [], equals("a", *range(first)))
    assert [str(way) for way in found] == ["primary key, leading part"] * (first <= 12)
    if found:
        ((part,),) = found[0]
        assert isinstance(part, KeyRanges)
        assert len(part.ranges) == first


@pytest.mark.parametrize(("second", "spans"), [(3, 9), (4, 12), (5, 3)])
def test_lists_of_an_index_go_as_far_as_they_make_few_spans(
    second: int, spans: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond that the first column leads to more rows, of which the filter is asked."""
    monkeypatch.setattr(access, "MAX_PLACES", 12)
    found = ways_to(ORDERS, [INDEX], tuple(lists(3, second, "x", "y")))
    ((part,),) = found[0]
    assert isinstance(part, Entries)
    assert len(part.spans) == spans


def test_a_list_of_the_first_column_that_is_too_long_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "MAX_PLACES", 12)
    assert ways_to(ORDERS, [INDEX], equals("x", *range(13))) == []
    assert len(ways_to(ORDERS, [INDEX], equals("x", *range(12)))) == 1


@pytest.mark.parametrize(("count", "is_looked_up"), [(19, True), (20, True), (21, False)])
async def test_a_lookup_of_too_many_rows_is_a_scan(
    count: int, is_looked_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_ROWS", 20)
    pages._count_template.cache_clear()
    log = await started(tmp_path)
    await log.append([put(id, s=7) for id in range(count)])
    hints = equals("s", 7)
    assert await built(log, hints) == ("index (s)" if is_looked_up else "scan")
    assert await ids(log, hints) == list(range(count))
    await log.close()
    pages._count_template.cache_clear()


@pytest.mark.parametrize(("count", "is_quick"), [(4, True), (5, True), (6, False)])
async def test_few_rows_are_read_beside_the_scans_of_others_and_many_among_them(
    count: int, is_quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "QUICK_ROWS", 5)
    log = await started(tmp_path)
    await log.append([put(id, s=7) for id in range(count)])
    hints = equals("s", 7)
    await built(log, hints)
    scans = 0
    scan = log._pool.scan

    async def counted(*args: Any, **named: Any) -> Any:
        nonlocal scans
        scans += 1
        return await scan(*args, **named)

    monkeypatch.setattr(log._pool, "scan", counted)
    assert await ids(log, hints) == list(range(count))
    assert scans == (0 if is_quick else 1)
    await log.close()


@pytest.mark.parametrize(("count", "is_said"), [(511, True), (512, True), (513, False)])
def test_a_list_is_put_into_sql_while_that_spares_more_than_it_costs(
    count: int, is_said: bool
) -> None:
    prefilter = Prefilter(equals("s", *(f"v{n}" for n in range(count))))
    assert bool(prefilter.on("row")) is is_said
    assert len(prefilter.parameters) == (count + 1 if is_said else 0)


@pytest.mark.parametrize("column", ["with space", 'quo"te', "dotted.name", "ünï", "0th"])
def test_a_column_whose_name_needs_care_in_a_path_is_left_to_the_filter(column: str) -> None:
    assert Prefilter(((ColumnRange(column, 1, None),),)).on("row") == ""
    both = Prefilter(((ColumnRange(column, 1, None),), (ColumnRange("plain", 1, None),)))
    assert both.on("row").count("AND (") == 1


async def test_rows_of_columns_with_strange_names_are_found_by_their_index(tmp_path: Path) -> None:
    name = 'a "b\\c'
    table = msgspec.structs.replace(ORDERS, indexes=((name,),))
    log = await started(tmp_path, table)

    def posted(id: int, value: object) -> PostedChange:
        return PostedChange(
            ORDERS.id, SHARED, "insert", row(id=id, **{name: value}), None, f"[{id}]"
        )

    await log.append([posted(1, 7), posted(2, 8), posted(3, 7)])
    hints = equals(name, 7)
    assert await built(log, hints, table) == f"index ({name})"
    assert await ids(log, hints, table) == [1, 3]
    await log.append([posted(1, 8), posted(2, 7)])
    assert await ids(log, hints, table) == [3, 2]
    await log.close()
