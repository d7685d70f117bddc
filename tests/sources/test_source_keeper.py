"""Whose word counts about a source's tables: its session's while there is one, else the log's."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from list_source import KEYED, LOOSE, H, ListSession, ListSource, T
from msgspec.structs import replace

from kalam_notify.log import MemoryLog
from kalam_notify.model import TableDef, TableId
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.sources import keeper
from kalam_notify.sources.base import encode_definition
from kalam_notify.sources.keeper import Sources


class LateLog(MemoryLog):
    """Whoever asks for the tables of sources gets them late, as they were when they asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()

    async def sources(self) -> dict[str, SourceState]:
        states = {
            name: SourceState(state.position, dict(state.tables))
            for name, state in self._sources.items()
        }
        self.asked.set()
        await self.answers.wait()
        return states


class Keeping:
    """One worker's sources over such a log, and what they said of their tables."""

    def __init__(self, log: LateLog, directory: Path) -> None:
        self.log, self.source = log, ListSource()
        self.told: list[set[TableId]] = []
        self.sources = Sources(
            [self.source],  # type: ignore[list-item]
            log,
            directory,
            lambda name: None,
            self._tell,
            lambda table, count: None,
        )

    def _tell(self, tables: Sequence[TableDef]) -> None:
        self.log.declare(tables)
        self.told.append({table.id for table in tables})


@pytest.fixture
async def keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keeping]:
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.01)
    log = LateLog()
    await log.start()
    yield Keeping(log, tmp_path)
    await log.close()


async def test_a_look_from_before_a_table_was_stored_does_not_take_it_away(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch asked the log between two tables, and has its answer after both are told."""
    source, log = keeping.source, keeping.log
    source.tables = {H: LOOSE, T: KEYED}
    source.rows[H] = []
    streams = asyncio.Event()

    async def stream(self: ListSession) -> AsyncIterator[None]:
        streams.set()
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(ListSession, "stream", stream)
    store = log.append

    async def append(*args: object, **more: object) -> object:
        answer = await store(*args, **more)  # type: ignore[arg-type]
        if not looks and await log.source_version() == 1:
            # The first table is stored: the watch asks now, and is answered when all are.
            log.answers.clear()
            log.asked.clear()
            look = asyncio.ensure_future(keeping.sources._look())
            await log.asked.wait()
            looks.append(look)
        return answer

    looks: list[asyncio.Future[None]] = []
    monkeypatch.setattr(log, "append", append)
    async with asyncio.TaskGroup() as tasks:
        followers = keeping.sources.start(tasks)
        await streams.wait()
        log.answers.set()
        for look in looks:
            await look
        assert looks
        assert {table.id for table in keeping.sources.tables()} == {H, T}
        assert keeping.told[-1] == {H, T}
        for follower in followers:
            follower.cancel()


async def test_what_the_log_knows_counts_once_the_session_is_over(keeping: Keeping) -> None:
    """Another node may have gone on: what a session here told last does not outlive it."""
    await keeping.log.append(
        [], mark=SourceMark("shop", defined=((T, encode_definition(replace(KEYED, cut="1"))),))
    )
    keeping.sources.defined("shop", {H: LOOSE})
    await keeping.sources._look()
    assert [table.id for table in keeping.sources.tables()] == [H]
    keeping.sources.session_over("shop")
    await keeping.sources._look()
    assert [table.id for table in keeping.sources.tables()] == [T]
