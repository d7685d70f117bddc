"""What every log promises of a truncate, and of rows that leave out what has not changed."""

from pathlib import Path

import pytest
from log_kit import (
    EVENTS,
    NOTES,
    ORDERS,
    TABLES,
    Clock,
    event,
    everything,
    gone,
    new_log,
    page_of,
    put,
    row,
    seqs,
    values,
)
from msgspec import structs

from kalam_notify.log import Appended, EventLog
from kalam_notify.model import SHARED, Change, Owner, PostedChange, Row, TableDef
from kalam_notify.store import storing


def truncate(
    table: TableDef = ORDERS, *, owner: Owner = SHARED, id: str | None = None
) -> PostedChange:
    return PostedChange(table.id, owner, "truncate", None, None, id=id)


def partial(key: int, *unchanged: str, old: Row | None = None, **given: object) -> PostedChange:
    """A row under a key of ORDERS, some of whose columns keep what is stored."""
    new = row(id=key, **given)
    return PostedChange(ORDERS.id, SHARED, "update", new, old, f"[{key}]", unchanged=unchanged)


async def test_a_truncate_deletes_each_row_in_the_order_they_were_written(log: EventLog) -> None:
    await log.append([put(1, v="a"), put(2), put(3), put(1, v="b"), gone(3)])
    assert await log.append([truncate()]) == Appended(1, 0, 6, 8)
    assert (await everything(log, 5)) == [
        Change(6, ORDERS.id, "", "delete", None, None),
        Change(7, ORDERS.id, "", "delete", None, row(id=2), 2),
        Change(8, ORDERS.id, "", "delete", None, row(id=1, v="b"), 4),
    ]
    assert values(await page_of(log)) == []


async def test_what_stood_before_a_truncate_can_still_be_told(log: EventLog) -> None:
    await log.append([put(1), put(2)])
    await log.append([truncate()])
    assert values(await page_of(log, as_of=2)) == [{"id": 1}, {"id": 2}]


async def test_a_truncate_in_a_batch_takes_what_came_before_it_and_not_what_follows(
    log: EventLog,
) -> None:
    answer = await log.append([put(1), truncate(), put(1, v="new"), put(2), truncate(), put(3)])
    assert answer == Appended(6, 0, 1, 9)
    found = await everything(log)
    assert seqs(found) == list(range(1, 10))
    assert [(c.kind, c.old_seq) for c in found] == [
        ("insert", None),
        ("delete", None),
        ("delete", 1),
        ("insert", None),
        ("insert", None),
        ("delete", None),
        ("delete", 4),
        ("delete", 5),
        ("insert", None),
    ]
    assert values(await page_of(log)) == [{"id": 3}]


async def test_the_end_of_the_log_is_not_before_a_truncate_that_was_acknowledged(
    log: EventLog,
) -> None:
    """Its changes are too many to be handed over, and are read back a little later."""
    for _ in range(3):
        appended = await log.append([put(1), put(2), truncate()])
        assert appended.last_seq is not None
        assert log.is_shared or log.last_seq >= appended.last_seq
        assert await log.latest() >= appended.last_seq


async def test_a_truncate_of_an_empty_table_takes_a_seq_and_changes_nothing(log: EventLog) -> None:
    assert await log.append([truncate()]) == Appended(1, 0, 1, 1)
    assert await log.append([truncate(EVENTS)]) == Appended(1, 0, 2, 2)
    await log.append([put(1)])
    assert values(await page_of(log)) == [{"id": 1}]


async def test_a_truncate_posted_again_with_its_id_is_a_duplicate(log: EventLog) -> None:
    await log.append([put(1)])
    assert await log.append([truncate(id="t")]) == Appended(1, 0, 2, 3)
    await log.append([put(2)])
    assert await log.append([truncate(id="t"), put(3)]) == Appended(1, 1, 5, 5)
    assert await log.append([truncate(id="u"), truncate(id="u")]) == Appended(1, 1, 6, 8)
    assert values(await page_of(log)) == []


async def test_a_truncate_by_a_batch_key_is_known_again(log: EventLog) -> None:
    await log.append([put(1)])
    assert (await log.append([truncate()], "k")).accepted == 1
    await log.append([put(2)])
    assert await log.append([truncate()], "k") == Appended(0, 1, None, None)
    assert values(await page_of(log)) == [{"id": 2}]


async def test_a_truncate_is_of_one_table_and_one_owner(log: EventLog) -> None:
    await log.append([put(1), put(1, table=NOTES, owner="alice"), put(1, table=NOTES, owner="bob")])
    await log.append([truncate(NOTES, owner="alice")])
    assert values(await page_of(log)) == [{"id": 1}]
    assert values(await page_of(log, NOTES, owner="alice")) == []
    assert values(await page_of(log, NOTES, owner="bob")) == [{"id": 1}]


async def test_a_truncate_leaves_the_statistics_true(log: EventLog) -> None:
    await log.append([put(1, v="é" * 100), truncate(), put(2)])
    await log.wait_beyond(3)
    held = sum(change.size for change in await everything(log))
    assert log.statistics()["log_bytes"] == held


async def test_unchanged_columns_keep_what_is_stored(log: EventLog) -> None:
    await log.append([put(1, big="x" * 5000, n=1.50, note=None)])
    await log.append([partial(1, "big", "note", "n", v=2)])
    await log.append([partial(1, "big", "unheard_of", v=3)])
    last = (await everything(log))[-1]
    assert last.row is not None
    assert last.row.json == b'{"id":1,"v":3,"big":"' + b"x" * 5000 + b'"}'
    assert last.old is not None
    assert last.old.values["n"] == 1.5
    assert values(await page_of(log))[0]["big"] == "x" * 5000


async def test_unchanged_columns_are_looked_for_in_the_same_batch_too(log: EventLog) -> None:
    await log.append([put(1, a=1, b=2), partial(1, "a", b=3), partial(1, "a", "b", c=4)])
    assert values(await page_of(log)) == [{"id": 1, "c": 4, "a": 1, "b": 3}]


async def test_unchanged_columns_of_no_row_are_absent(log: EventLog) -> None:
    await log.append([partial(1, "a", b=3), gone(1), partial(1, "b")])
    assert [change.row for change in await everything(log)] == [
        row(id=1, b=3),
        None,
        row(id=1),
    ]


async def test_without_a_key_unchanged_columns_are_those_of_the_old_row(log: EventLog) -> None:
    change = PostedChange(
        EVENTS.id, SHARED, "update", row(a=1), row(a=0, b="kept"), unchanged=("b",)
    )
    await log.append([change, event(v=1)])
    assert (await everything(log))[0].row == row(a=1, b="kept")


async def test_names_and_values_are_taken_over_byte_for_byte(log: EventLog) -> None:
    kept = b'{"id":1,"a\\"b":18446744073709551615,"\xc3\xa9":[1.0,{"x":"\\u0000"}]}'
    await log.append([PostedChange(ORDERS.id, SHARED, "insert", Row(kept), None, "[1]")])
    await log.append([partial(1, 'a"b', "é")])
    last = (await everything(log))[-1]
    assert last.row is not None
    assert last.row.json == kept


def unnamed(change: PostedChange) -> PostedChange:
    """The same, from a producer that gives its changes no ids."""
    return structs.replace(change, only_if_new=True)


async def test_without_ids_what_makes_of_the_row_what_it_is_is_a_duplicate(log: EventLog) -> None:
    first, second = unnamed(put(1, v="a")), unnamed(put(1, v="b"))
    assert await log.append([first, first]) == Appended(1, 1, 1, 1)
    assert await log.append([first]) == Appended(0, 1, None, None)
    assert await log.append([second, first, first, second]) == Appended(3, 1, 2, 4)
    assert await log.append([unnamed(partial(1, "v"))]) == Appended(0, 1, None, None)
    assert await log.append([unnamed(gone(1)), unnamed(gone(1))]) == Appended(1, 1, 5, 5)
    assert await log.append([unnamed(event(v=1)), unnamed(event(v=1))]) == Appended(2, 0, 6, 7)
    assert await log.append([unnamed(truncate())]) == Appended(0, 1, None, None)
    assert await log.append([put(1), unnamed(truncate()), unnamed(truncate())]) == Appended(
        2, 1, 8, 10
    )
    assert [change.kind for change in await everything(log)] == [
        *("insert", "update", "update", "update", "delete"),
        *("insert", "insert"),
        *("insert", "delete", "delete"),
    ]


async def test_many_rows_made_of_a_long_one_are_not_held_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post of a few kilobytes must not become gigabytes on its way into the file."""
    monkeypatch.setattr(storing, "_MOST_HELD", 100_000)
    written: list[int] = []
    write = storing.write_entries

    def watched(connection: object, numbers: object, entries: storing.Entries) -> None:
        written.append(sum(entries.sizes))
        write(connection, numbers, entries)  # type: ignore[arg-type]

    monkeypatch.setattr(storing, "write_entries", watched)
    log = new_log("sqlite", tmp_path, Clock())
    log.declare(TABLES)
    await log.start()
    await log.append([put(1, big="x" * 10_000, id="first")])
    batch = [partial(1, "big", n=n) for n in range(50)]
    assert await log.append(batch) == Appended(50, 0, 2, 51)
    assert max(written) < 100_000
    found = await everything(log, 1)
    assert [change.row and change.row.values["n"] for change in found] == list(range(50))
    assert all(change.row and len(change.row.json) > 10_000 for change in found)
    await log.close()
