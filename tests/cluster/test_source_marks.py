"""Several nodes that tell of one source: whatever they do, it is told once and in order."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cluster.nats_kit import NatsServer
from cluster.nodes import all_equal, new_node, started
from faults.kit import drawn_seed
from log.log_kit import everything, put

from kalam_notify.config import NatsSettings
from kalam_notify.errors import KalamNotifyError, LogUnavailable, SourceOvertaken
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.model import PostedChange, Row, TableDef, TableId
from kalam_notify.model.sourced import SourceMark
from kalam_notify.sources.base import Caught, Definition, Event, Lag, Piece
from kalam_notify.sources.runner import Runner

HISTORY = TableId("shop.history")
COPIED = TableId("shop.copied")
DEFINITIONS = {
    HISTORY: Definition((), {"n": "Int"}, "1"),
    COPIED: Definition(("id",), {"id": "Int"}, "1"),
}
PIECES = 150
ROWS = 60


def told(n: int) -> PostedChange:
    return PostedChange(HISTORY, "", "insert", Row(b'{"n":%d}' % n), None)


def copied(id: int) -> PostedChange:
    row = Row(b'{"id":%d}' % id)
    return PostedChange(COPIED, "", "insert", row, None, f"[{id}]", only_if_new=True)


class OpenSource:
    """A source that lets everybody follow at once: nothing but the log stands in between."""

    name = "shop"
    access = "public"

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.sessions = 0
        self.turns = self.guards = 0

    @asynccontextmanager
    async def alone(self, cluster: str, on_wait: Callable[[], None]) -> AsyncIterator[None]:
        self.turns += 1
        yield

    async def guard(self) -> None:
        self.guards += 1

    async def connect(self, position: str | None, largest: int | None = None) -> "OpenSession":
        self.sessions += 1
        return OpenSession(self, position)

    def lag(self) -> Lag:
        return Lag(0, 0.0)


class OpenCopy:
    cut = "cut"

    def __init__(self, source: OpenSource, table: TableId) -> None:
        self._source, self._table = source, table

    async def batches(self) -> AsyncIterator[list[PostedChange]]:
        # What has no key was empty at the beginning.
        for first in range(0, ROWS if self._table == COPIED else 0, 5):
            await asyncio.sleep(self._source.dice.uniform(0, 0.002))
            yield [copied(id) for id in range(first, first + 5)]


class OpenSession:
    definitions: Mapping[TableId, Definition] = DEFINITIONS

    def __init__(self, source: OpenSource, position: str | None) -> None:
        self._source = source
        self.begins_anew = position is None
        self._position = int(position or 0)

    def know(self, definitions: Mapping[TableId, Definition]) -> None:
        pass

    async def copy(self, table: TableId) -> OpenCopy:
        return OpenCopy(self._source, table)

    async def end_copies(self) -> None:
        pass

    async def stream(self) -> AsyncIterator[Event]:
        for n in range(self._position + 1, PIECES + 1):
            yield Piece([told(n)], str(n), 0.0)
            await asyncio.sleep(self._source.dice.uniform(0, 0.004))
        while True:
            yield Caught(str(PIECES))
            await asyncio.sleep(0.01)

    def stored(self, position: str) -> None:
        pass

    def position(self) -> str:
        return str(self._position)

    async def close(self) -> None:
        pass


def runner(source: OpenSource, log: NatsLog) -> Runner:
    def table_of(name: TableId, definition: Definition) -> TableDef:
        return definition.table(name, "public", None)

    return Runner(
        source,  # type: ignore[arg-type]
        log,
        table_of,
        lambda tables: log.declare(table_of(name, one) for name, one in tables.items()),
        lambda table, count: None,
    )


def flat(faults: list[BaseException]) -> Iterator[BaseException]:
    for fault in faults:
        if isinstance(fault, BaseExceptionGroup):
            yield from flat(list(fault.exceptions))
        else:
            yield fault


async def follow(source: OpenSource, log: NatsLog, faults: list[BaseException]) -> None:
    """As a keeper does it, for ever."""
    one = runner(source, log)
    while True:
        try:
            await one.run(lambda: None)
        except* KalamNotifyError as group:
            faults += group.exceptions
        await asyncio.sleep(source.dice.uniform(0.01, 0.1))


async def position(log: NatsLog) -> str | None:
    states = await log.sources()
    return states["shop"].position if "shop" in states else None


async def test_nodes_that_follow_at_once_tell_everything_once_and_in_order(
    nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    dice = random.Random(drawn_seed())
    source = OpenSource(dice)
    nodes = [await started(nats_server.url, stream, tmp_path / name) for name in "abc"]
    faults: list[BaseException] = []
    following = [asyncio.create_task(follow(source, node, faults)) for node in nodes]
    async with asyncio.timeout(120):
        while await position(nodes[0]) != str(PIECES):
            await asyncio.sleep(0.02)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    await all_equal(*nodes)
    changes = await everything(nodes[0])
    rows = [change.row.values for change in changes if change.table == HISTORY and change.row]
    assert [row["n"] for row in rows] == list(range(1, PIECES + 1))
    assert len([change for change in changes if change.table == COPIED]) == ROWS
    # They have been in each other's way.
    assert source.sessions > len(nodes)
    assert any(isinstance(fault, SourceOvertaken) for fault in flat(faults))
    for node in nodes:
        await node.close()


async def test_whoever_was_overtaken_is_told_so_and_stores_nothing(
    nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    a, b = [await started(nats_server.url, stream, tmp_path / name) for name in "ab"]
    await a.append([put(1)], mark=SourceMark("shop", "1", follows="", id="a1"))
    await b.append([], mark=SourceMark("shop", follows="a1", id="b1"))
    with pytest.raises(SourceOvertaken):
        await a.append([put(2)], mark=SourceMark("shop", "2", follows="a1", id="a2"))
    # Others' posts in the same message are not concerned.
    stale = a.append([put(3)], mark=SourceMark("shop", "3", follows="a2", id="a3"))
    refused, other = await asyncio.gather(stale, a.append([put(4)]), return_exceptions=True)
    assert isinstance(refused, SourceOvertaken)
    assert not isinstance(other, BaseException)
    await b.append([put(5)], mark=SourceMark("shop", "5", follows="b1", id="b2"))
    await all_equal(a, b)
    for node in (a, b):
        state = (await node.sources())["shop"]
        assert (state.position, state.last_mark) == ("5", "b2")
        rows = [change.row.values for change in await everything(node) if change.row]
        assert [row["id"] for row in rows] == [1, 4, 5]
        await node.close()


async def test_a_node_that_has_not_caught_up_does_not_begin(
    nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    source = OpenSource(random.Random(1))
    node = new_node(nats_server.url, stream, tmp_path / "late")
    with pytest.raises(LogUnavailable):
        await runner(source, node).run(lambda: None)
    assert (source.turns, source.sessions, source.guards) == (0, 0, 1)


async def test_a_node_that_cannot_store_leaves_the_source_to_others(
    own_server: NatsServer, tmp_path: Path
) -> None:
    source = OpenSource(random.Random(1))
    settings = NatsSettings(append_timeout=0.5)
    node = await started(own_server.url, "AWAY", tmp_path / "a", settings=settings)
    is_up = asyncio.Event()
    running = asyncio.create_task(runner(source, node).run(is_up.set))
    await is_up.wait()
    own_server.kill()
    with pytest.raises(BaseExceptionGroup) as raised:
        await running
    assert raised.group_contains(LogUnavailable)
    own_server.restart()
    await node.close()
