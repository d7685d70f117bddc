"""What one process knows of a log that another one writes: never less than was acknowledged."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from log_kit import EVENTS, FOREVER, ORDERS, PLENTY, TABLES, Clock, event, page_of, put

from kalam_notify.errors import Compacted
from kalam_notify.log import EventLog, Retention, SqliteLog
from kalam_notify.log.following import Doorbell, ring_all
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.log.writing import WriteLock
from kalam_notify.model import TableDef
from kalam_notify.singleflight import FreshCall

Pair = tuple[SqliteLog, SqliteLog]


def sharer(directory: Path, clock: Clock) -> SqliteLog:
    log = SqliteLog(
        directory / "kalam.db",
        durability="os",
        retention=FOREVER,
        clock=clock,
        trim_seconds=3600,
    )
    log.declare(TABLES)
    return log


@pytest.fixture
async def pair(tmp_path: Path, clock: Clock) -> AsyncIterator[Pair]:
    """Two logs on one file, as two processes have them."""
    logs = sharer(tmp_path, clock), sharer(tmp_path, clock)
    for log in logs:
        await log.start()
    yield logs
    for log in logs:
        await log.close()


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody rings: what is known elsewhere has to be asked for."""
    monkeypatch.setattr(Doorbell, "ring_others", lambda bell: 0)


async def test_a_log_is_shared_from_the_moment_that_another_process_opens_it(
    tmp_path: Path, clock: Clock
) -> None:
    one, other = sharer(tmp_path, clock), sharer(tmp_path, clock)
    await one.start()
    assert not one.is_shared
    await other.start()
    assert other.is_shared
    async with asyncio.timeout(30):
        while not one.is_shared:
            await asyncio.sleep(0)
    await one.close()
    await other.close()


async def test_the_latest_of_a_log_of_ones_own_is_told_without_a_turn_of_the_loop(
    tmp_path: Path, clock: Clock
) -> None:
    log = sharer(tmp_path, clock)
    await log.start()
    await log.append([put(1), put(2)])
    with pytest.raises(StopIteration) as told:
        log.latest().send(None)
    assert told.value.value == 2
    await log.close()


async def test_where_nobody_else_writes_what_is_known_is_the_latest(log: EventLog) -> None:
    if isinstance(log, NatsLog):
        # Another node may always have written.
        assert log.is_shared
        assert await log.latest() == log.last_seq == 0
        return
    assert not log.is_shared
    assert await log.latest() == 0
    await log.append([put(1), put(2)])
    assert await log.latest() == log.last_seq == 2


@pytest.mark.usefixtures("deaf")
async def test_latest_is_what_another_process_has_been_acknowledged(pair: Pair) -> None:
    one, other = pair
    other._follower._others_write = True
    for number in range(1, 20):
        await one.append([put(number)])
        assert await other.latest() == number


@pytest.mark.usefixtures("deaf")
async def test_whoever_learns_of_more_brings_it_here(pair: Pair) -> None:
    one, other = pair
    other._follower._others_write = True
    await one.append([put(1)])
    assert await other.latest() == 1
    async with asyncio.timeout(30):
        await other.wait_beyond(0)
        await one.append([put(2)])
        assert (await page_of(other)).as_of == 2
        await other.wait_beyond(1)


async def test_a_trim_of_one_process_moves_the_horizon_of_the_other(
    pair: Pair, clock: Clock
) -> None:
    one, other = pair
    await one.append([put(1), put(2)])
    clock.advance(100)
    await one.append([put(3)])
    one.retain(Retention(max_age=50, max_bytes=None))
    assert await one.trim() == 2
    async with asyncio.timeout(30):
        while other.horizon(ORDERS.id) != 2:
            await asyncio.sleep(0)
    assert (other.horizon(), other.first_seq) == (2, 3)


@pytest.mark.usefixtures("deaf")
async def test_the_horizon_of_a_table_that_trails_the_others_is_learned_too(
    pair: Pair, clock: Clock
) -> None:
    one, other = pair
    other._follower._others_write = True
    await one.append([put(1), event(n=1)])
    # First the younger entry's table alone, then the older one's.
    clock.advance(100)
    await one.append([put(2)])
    one.declare([TableDef(EVENTS.id, "shared", max_age=10)])
    assert await one.trim() == 1
    assert await other.latest() == 3
    assert (other.horizon(EVENTS.id), other.horizon(ORDERS.id)) == (2, 0)
    one.retain(Retention(max_age=50, max_bytes=None))
    assert await one.trim() == 1
    assert await other.latest() == 3
    assert (other.horizon(EVENTS.id), other.horizon(ORDERS.id)) == (2, 1)


@pytest.mark.usefixtures("deaf")
async def test_whoever_is_told_compacted_knows_the_horizon_from_then_on(
    pair: Pair, clock: Clock
) -> None:
    one, other = pair
    await one.append([put(1), put(2)])
    clock.advance(100)
    one.retain(Retention(max_age=50, max_bytes=None))
    assert await one.trim() == 2
    assert other.horizon(ORDERS.id) == 0
    with pytest.raises(Compacted):
        await other.read(0, limit=1, max_bytes=PLENTY, table=ORDERS.id)
    assert other.horizon(ORDERS.id) == 2


@pytest.mark.usefixtures("deaf")
async def test_everybody_can_be_rung_for_a_process_that_died_before_it_rang(
    pair: Pair, tmp_path: Path
) -> None:
    one, other = pair
    await one.append([put(1)])
    assert ring_all(tmp_path) == 2
    async with asyncio.timeout(30):
        await other.wait_beyond(0)


async def test_a_look_under_way_does_not_serve_those_who_come_later() -> None:
    begun: list[asyncio.Future[int]] = []

    async def look() -> int:
        begun.append(asyncio.get_running_loop().create_future())
        return await begun[-1]

    async def write_lock() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    looks = FreshCall(look)
    early = asyncio.gather(looks(), looks())
    await write_lock()
    late = asyncio.gather(looks(), looks(), looks())
    await write_lock()
    assert len(begun) == 1
    begun[0].set_result(1)
    assert list(await early) == [1, 1]
    await write_lock()
    assert len(begun) == 2
    begun[1].set_result(2)
    assert list(await late) == [2, 2, 2]


async def test_a_turn_is_waited_for_and_passed_on(tmp_path: Path) -> None:
    mine, theirs, taken = WriteLock(tmp_path), WriteLock(tmp_path), asyncio.Event()
    loop = asyncio.get_running_loop()

    def take() -> None:
        with theirs.turn():
            loop.call_soon_threadsafe(taken.set)

    with mine.turn():
        taking = asyncio.create_task(asyncio.to_thread(take))
        await asyncio.sleep(0)
        assert not taken.is_set()
    await taking
    assert taken.is_set()
    mine.close()
    theirs.close()


def test_without_a_directory_to_lock_there_is_a_turn_all_the_same(tmp_path: Path) -> None:
    write_lock = WriteLock(tmp_path / "absent")
    with write_lock.turn():
        pass
    write_lock.close()
