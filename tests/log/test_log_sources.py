"""What a log does for sources: marks stored with their batches, rows told in part or again."""

from pathlib import Path

import msgspec
import pytest
from log_kit import ORDERS, TABLES, Clock, LogKind, everything, gone, new_log, page_of, put, row

from kalam_notify.errors import Compacted, StorageFault
from kalam_notify.log import Appended, EventLog, SqliteLog
from kalam_notify.model import PostedChange, Row, TableId
from kalam_notify.model.changes import MovedRow
from kalam_notify.model.sourced import SourceMark, SourceState


def told(
    id: int,
    json: bytes,
    *unchanged: str,
    base: int | None = None,
    again: bool = False,
) -> PostedChange:
    change = PostedChange(
        ORDERS.id, "", "update", Row(json), None, f"[{id}]", None, unchanged, only_if_new=again
    )
    if base is None:
        return change
    return MovedRow(*msgspec.structs.astuple(change), base=f"[{base}]")


async def test_a_mark_is_stored_with_its_batch(log: EventLog) -> None:
    mark = SourceMark("shop", "7", defined=((ORDERS.id, "{}"),))
    assert await log.append([put(1)], mark=mark) == Appended(1, 0, 1, 1)
    assert await log.sources() == {"shop": SourceState("7", {ORDERS.id: "{}"})}
    await log.append([], mark=SourceMark("shop", "8"))
    assert await log.sources() == {"shop": SourceState("8", {ORDERS.id: "{}"})}
    await log.append([], mark=SourceMark("mill", None, defined=((TableId("a.b"), "x"),)))
    assert (await log.sources())["mill"] == SourceState(None, {TableId("a.b"): "x"})
    await log.append([], mark=SourceMark("shop", dropped=(ORDERS.id,)))
    assert (await log.sources())["shop"] == SourceState("8", {})


async def test_the_version_rises_with_definitions_and_not_with_positions(log: EventLog) -> None:
    before = await log.source_version()
    await log.append([], mark=SourceMark("shop", "7"))
    assert await log.source_version() == before
    await log.append([], mark=SourceMark("shop", defined=((ORDERS.id, "{}"),)))
    defined = await log.source_version()
    assert defined > before
    await log.append([], mark=SourceMark("shop", dropped=(ORDERS.id,)))
    assert await log.source_version() > defined


async def test_a_mark_of_a_refused_batch_is_not_kept(tmp_path: Path, clock: Clock) -> None:
    log = new_log("sqlite", tmp_path, clock)
    log.declare(TABLES)
    await log.start()
    await log.append([put(1)])
    log.declare([])  # unchanged
    with pytest.raises(ValueError, match="declared"):
        await log.append(
            [msgspec.structs.replace(put(2), table=TableId("no.such"))], mark=SourceMark("s", "1")
        )
    assert await log.sources() == {}
    await log.close()


async def test_marks_survive_a_restart_and_come_with_the_changes_of_their_transaction(
    tmp_path: Path, clock: Clock
) -> None:
    log = new_log("sqlite", tmp_path, clock)
    log.declare(TABLES)
    await log.start()
    await log.append([put(1)], mark=SourceMark("shop", "7"))
    await log.close()
    again = SqliteLog(tmp_path / "kalam.db")
    await again.start()
    assert (await again.sources())["shop"].position == "7"
    await again.close()


async def test_what_was_not_told_is_taken_from_the_stored_row(log: EventLog) -> None:
    await log.append([put(1, v="a", long="x" * 100)])
    await log.append([told(1, b'{"id":1,"v":"b"}', "long")])
    after = (await everything(log))[-1]
    assert after.row is not None
    assert after.row.values == {"id": 1, "v": "b", "long": "x" * 100}
    assert after.old_seq == 1


async def test_what_was_not_told_may_come_from_a_change_of_the_same_batch(log: EventLog) -> None:
    await log.append([put(1, long="x"), told(1, b'{"id":1}', "long"), told(1, b"{}", "id", "long")])
    assert (await everything(log))[-1].row == Row(b'{"id":1,"long":"x"}')


async def test_a_row_that_changes_its_key_takes_its_values_along(log: EventLog) -> None:
    await log.append([put(1, long="x")])
    await log.append([told(2, b'{"id":2}', "long", base=1), gone(1)])
    assert [one.row for one in await everything(log)] == [
        row(id=1, long="x"),
        Row(b'{"id":2,"long":"x"}'),
        None,
    ]


async def test_a_value_that_nobody_knows_is_left_out(log: EventLog) -> None:
    await log.append([told(1, b'{"id":1}', "long")])
    assert [one.row for one in await everything(log)] == [Row(b'{"id":1}')]


async def test_a_row_told_again_is_no_change(log: EventLog) -> None:
    await log.append([put(1, v="a"), put(2, v="a")])
    same = [told(1, b'{"v":"a","id":1}', again=True), told(2, b'{"id":2,"v":"b"}', again=True)]
    assert await log.append(same) == Appended(1, 1, 3, 3)
    assert (await everything(log))[-1].row == Row(b'{"id":2,"v":"b"}')


async def test_a_value_of_another_type_is_another_value(log: EventLog) -> None:
    await log.append([put(1, v=1)])
    for number, text in enumerate((b"1.0", b"true", b'"1"'), 2):
        stored = await log.append([told(1, b'{"id":1,"v":%b}' % text, again=True)])
        assert stored.last_seq == number


async def test_a_forgotten_table_may_be_declared_in_another_shape(
    log_kind: LogKind, tmp_path: Path, clock: Clock
) -> None:
    log = new_log(log_kind, tmp_path, clock)
    log.declare(TABLES)
    await log.start()
    await log.append([put(1), gone(1)])
    other = msgspec.structs.replace(ORDERS, primary_key=("sku",))
    with pytest.raises(StorageFault):
        log.declare([other])
    await log.append([], mark=SourceMark("shop", forgotten=(ORDERS.id,)))
    log.declare([other])
    stored = await log.append(
        [msgspec.structs.replace(put(1), row=Row(b'{"sku":"a"}'), key='["a"]')]
    )
    assert stored.first_seq == 3
    with pytest.raises(Compacted):
        await log.read(1, limit=10, max_bytes=1000, table=ORDERS.id)
    assert [
        one.seq for one in (await log.read(2, limit=9, max_bytes=999, table=ORDERS.id)).changes
    ] == [3]
    assert [seq for seq, _ in (await page_of(log, other)).rows] == [3]
    await log.close()
