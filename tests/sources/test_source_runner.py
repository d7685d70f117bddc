"""The runner over a source that is a few lists: what it asks of any source, and does with it."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from list_source import KEYED, LOOSE, H, ListSession, ListSource, T, change
from msgspec.structs import replace

from kalam_notify.log import MemoryLog, PageRequest
from kalam_notify.model import TableDef, TableId
from kalam_notify.sources.base import (
    Altered,
    Definition,
    Piece,
    TableMoved,
    Truncated,
)
from kalam_notify.sources.runner import Runner


class Stage:
    """A source, a log, and a runner between them that runs until the list is at its end."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.source = ListSource()
        self.told: list[set[TableId]] = []
        self._runner = Runner(
            self.source,  # type: ignore[arg-type]
            log,
            lambda name, definition: definition.table(name, "public", None),
            self._on_tables,
            lambda table, count: None,
        )

    def _on_tables(self, tables: Mapping[TableId, Definition]) -> None:
        self.log.declare(one.table(name, "public", None) for name, one in tables.items())
        self.told.append(set(tables))

    async def run(self) -> int:
        """One session to its end; the number of changes that came of it."""
        before = self.log.last_seq
        with pytest.raises(BaseExceptionGroup):
            await self._runner.run(lambda: None)
        return self.log.last_seq - before

    async def rows(self, name: TableId = T, definition: Definition = KEYED) -> list[Any]:
        table: TableDef = definition.table(name, "public", None)
        page = await self.log.page(PageRequest(table, "", None, 0, None, 100, 10**6))
        return [row.values for _, row in page.rows]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    log = MemoryLog()
    await log.start()
    yield Stage(log)
    await log.close()


async def test_a_new_table_is_declared_copied_and_noted_with_its_cut(stage: Stage) -> None:
    assert await stage.run() == 2
    assert await stage.rows() == stage.source.rows[T]
    assert stage.told == [{T}]
    assert stage.source.known == {T: replace(KEYED, cut="cut 1")}


async def test_a_copy_is_not_made_again(stage: Stage) -> None:
    await stage.run()
    assert await stage.run() == 0
    assert (stage.source.cuts, stage.source.closed) == (1, 2)


async def test_a_copy_that_broke_off_is_made_again_and_only_the_rest_is_new(stage: Stage) -> None:
    stage.source.breaks_after = 1
    assert await stage.run() == 1
    stage.source.breaks_after = -1
    assert await stage.run() == 1
    assert await stage.rows() == stage.source.rows[T]


async def test_a_stream_goes_on_from_what_was_stored(stage: Stage) -> None:
    stage.source.events = [
        Piece([change(T, {"id": 3, "v": 3})], "5", 0.0),
        Piece([change(T, {"id": 4, "v": 4})], "6", 0.0),
        # Behind it everything before has been stored.
        Altered(),
    ]
    assert await stage.run() == 4
    stage.source.events = []
    await stage.run()
    assert (stage.source.stored[-1], stage.source.asked) == ("6", ["0", "6"])


async def test_where_the_place_is_lost_everything_is_compared(stage: Stage) -> None:
    await stage.run()
    stage.source.rows[T] = [{"id": 2, "v": 9}, {"id": 3, "v": 3}]
    stage.source.has_lost_its_place = True
    assert await stage.run() == 3  # an update, an insert, a delete
    assert await stage.rows() == [{"id": 2, "v": 9}, {"id": 3, "v": 3}]


async def test_a_table_that_reads_otherwise_is_copied_and_told_anew(stage: Stage) -> None:
    await stage.run()
    stage.source.tables[T] = replace(KEYED, columns={"id": "Int"}, fingerprint="2")
    stage.source.rows[T] = [{"id": 1}, {"id": 2}]
    assert await stage.run() == 2
    assert (stage.told, stage.source.known[T].fingerprint) == ([{T}] * 3, "2")


async def test_a_table_that_is_gone_loses_its_rows(stage: Stage) -> None:
    await stage.run()
    stage.source.tables = {}
    assert await stage.run() == 2
    assert stage.told[-1] == set()
    assert await stage.rows() == []


async def test_a_table_with_another_key_begins_as_if_it_were_new(stage: Stage) -> None:
    await stage.run()
    other = replace(KEYED, primary_key=("v", "id"))
    stage.source.tables[T] = other
    stage.source.rows[T] = []
    await stage.run()
    assert await stage.rows(T, other) == []
    assert stage.log.horizon(T) > 0


async def test_a_table_without_a_key_is_copied_at_one_stroke_and_once(stage: Stage) -> None:
    stage.source.tables, stage.source.rows = {H: LOOSE}, {H: [{"id": 1, "v": 1}] * 3}
    stage.source.breaks_after = 2
    assert await stage.run() == 0
    stage.source.breaks_after = -1
    assert await stage.run() == 3
    assert await stage.run() == 0
    stage.source.has_lost_its_place = True
    assert await stage.run() == 0


async def test_a_table_without_a_key_that_was_never_copied_is_so_in_another_stream(
    stage: Stage,
) -> None:
    stage.source.tables, stage.source.rows = {H: LOOSE}, {H: [{"id": 1, "v": 1}] * 3}
    stage.source.breaks_after = 2
    assert await stage.run() == 0
    stage.source.breaks_after, stage.source.has_lost_its_place = -1, True
    assert await stage.run() == 3


async def test_a_table_that_moves_while_it_is_copied_is_looked_at_again(stage: Stage) -> None:
    stage.source.breaks_after, stage.source.fault = 1, TableMoved("no such column")

    async def refresh(self: ListSession) -> None:
        stage.source.breaks_after = -1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ListSession, "refresh", refresh)
        assert await stage.run() == 2
    assert await stage.rows() == stage.source.rows[T]


async def test_a_truncate_deletes_what_is_there_and_then_stores_its_position(stage: Stage) -> None:
    stage.source.events = [Truncated((T,), "9"), Altered()]
    assert await stage.run() == 4
    assert await stage.rows() == []
    assert (await stage.log.sources())["shop"].position == "9"
