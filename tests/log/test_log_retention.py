"""What every log promises of retention: what leaves, what stays, and what is said about it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from log_kit import (
    EVENTS,
    ORDERS,
    PLENTY,
    TABLES,
    Clock,
    LogKind,
    event,
    everything,
    gone,
    new_log,
    page_of,
    put,
    seqs,
    values,
)

from kalam_notify.errors import Compacted
from kalam_notify.log import Appended, EventLog, MemoryLog, Retention, SqliteLog
from kalam_notify.model import TableDef

HOUR = 3600.0


class Kept:
    """Opens logs that keep what a test says."""

    def __init__(self, kind: LogKind, directory: Path, clock: Clock) -> None:
        self._kind, self._directory, self._clock = kind, directory, clock

    @asynccontextmanager
    async def log(
        self, retention: Retention, tables: Sequence[TableDef] = TABLES
    ) -> AsyncIterator[MemoryLog | SqliteLog]:
        log = new_log(self._kind, self._directory, self._clock, retention)
        log.declare(tables)
        await log.start()
        yield log
        await log.close()


@pytest.fixture
def kept(log_kind: LogKind, tmp_path: Path, clock: Clock) -> Kept:
    return Kept(log_kind, tmp_path, clock)


AN_HOUR = Retention(max_age=HOUR, max_bytes=None)


async def refusal(log: EventLog, after: int, table: TableDef | None = None) -> int:
    """The horizon with which a read after a position is refused."""
    with pytest.raises(Compacted) as edge:
        await log.read(after, limit=1, max_bytes=1, table=table.id if table else None)
    return edge.value.horizon


async def test_changes_leave_at_their_age_and_not_before(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([put(1), put(2)])
        clock.advance(HOUR)
        await log.append([put(3)])
        assert await log.trim() == 0
        clock.advance(0.001)
        assert await log.trim() == 2
        assert (log.first_seq, log.last_seq, log.horizon()) == (3, 3, 2)
        assert await refusal(log, 1) == 2
        assert seqs(await everything(log, 2)) == [3]


async def test_current_rows_outlive_their_changes(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([put(1, v=1), put(2, v=1), gone(2)])
        clock.advance(2 * HOUR)
        assert await log.trim() == 3
        page = await page_of(log)
        assert (page.as_of, seqs(page), values(page)) == (3, [1], [{"id": 1, "v": 1}])
        await log.append([put(1, v=2)])
        assert (await everything(log, 3))[0].old_seq == 1


async def test_an_emptied_log_goes_on_counting(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([event(), event()])
        clock.advance(2 * HOUR)
        await log.trim()
        assert (log.first_seq, log.last_seq) == (3, 2)
        assert await log.append([event()]) == Appended(1, 0, 3, 3)
        assert (log.first_seq, log.last_seq) == (3, 3)


async def test_a_table_is_trimmed_by_its_own_age(kept: Kept, clock: Clock) -> None:
    short = msgspec.structs.replace(EVENTS, max_age=60.0)
    async with kept.log(AN_HOUR, [ORDERS, short]) as log:
        await log.append([put(1), event(), put(2), event(), put(3)])
        clock.advance(61)
        assert await log.trim() == 2
        assert (log.horizon(ORDERS.id), log.horizon(EVENTS.id), log.horizon()) == (0, 4, 4)
        assert await refusal(log, 3, EVENTS) == 4
        assert await refusal(log, 3) == 4
        span = await log.read(0, limit=9, max_bytes=PLENTY, table=ORDERS.id)
        assert (seqs(span.changes), span.upto) == ([1, 3, 5], 5)
        assert seqs(await everything(log, 4)) == [5]
        clock.advance(HOUR)
        assert await log.trim() == 3
        assert log.horizon(ORDERS.id) == 5


async def test_a_table_may_be_kept_longer_than_the_log(kept: Kept, clock: Clock) -> None:
    long = msgspec.structs.replace(ORDERS, max_age=3 * HOUR)
    async with kept.log(AN_HOUR, [long, EVENTS]) as log:
        await log.append([event(), put(1), event(), put(2)])
        clock.advance(2 * HOUR)
        assert await log.trim() == 2
        assert (log.first_seq, log.horizon(), log.horizon(ORDERS.id)) == (2, 3, 0)
        await log.append([event()])
        clock.advance(2 * HOUR)
        assert await log.trim() == 3
        assert log.first_seq == 6


async def test_the_oldest_changes_leave_when_bytes_run_out(kept: Kept) -> None:
    async with kept.log(Retention(max_age=None, max_bytes=10_000)) as log:
        for n in range(30):
            await log.append([put(n, pad="x" * 800), event(pad="x" * 100)])
        await log.trim()
        held = await everything(log, log.horizon())
        assert sum(change.size for change in held) == log.statistics()["log_bytes"] <= 10_000
        assert log.statistics()["log_bytes"] > 8_500
        assert seqs(held) == list(range(log.first_seq, 61))
        assert log.horizon() == log.first_seq - 1
        assert len((await page_of(log)).rows) == 30


async def test_many_changes_leave_in_one_go(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        for _ in range(5):
            await log.append([event(n=n) for n in range(700)])
        clock.advance(HOUR + 1)
        await log.append([event()])
        assert await log.trim() == 3500
        assert (log.first_seq, log.horizon()) == (3501, 3500)


async def test_bytes_are_freed_however_many_changes_that_takes(kept: Kept) -> None:
    async with kept.log(Retention(max_age=None, max_bytes=0)) as log:
        await log.append([event(n=n) for n in range(2500)])
        assert await log.trim() == 2500
        assert log.statistics()["log_bytes"] == 0


async def test_ids_are_forgotten_with_their_changes(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([event(id="a"), event()], "key")
        clock.advance(HOUR)
        await log.append([event(id="b")], "later")
        await log.trim()
        assert (await log.append([event(id="a")], "key")).accepted == 0
        clock.advance(1)
        assert await log.trim() == 2
        assert (await log.append([event(id="b")])).duplicates == 1
        assert (await log.append([event()], "later")).duplicates == 1
        assert (await log.append([event(id="a")], "key")).accepted == 1


async def test_a_batch_key_stays_as_long_as_the_last_change_of_its_batch(
    kept: Kept, clock: Clock
) -> None:
    short = msgspec.structs.replace(EVENTS, max_age=60.0)
    async with kept.log(AN_HOUR, [ORDERS, short]) as log:
        await log.append([event(id="e"), put(1)], "long")
        await log.append([put(2), event()], "short")
        clock.advance(61)
        await log.trim()
        assert (await log.append([event(id="e")])).accepted == 1
        assert (await log.append([put(3)], "long")).duplicates == 1
        assert (await log.append([put(4)], "short")).accepted == 1


async def test_a_page_as_of_a_trimmed_position_is_refused(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([put(1), put(2)])
        first = await page_of(log, limit=1)
        await log.append([put(2, v=2)])
        assert values(await page_of(log, after=1, as_of=first.as_of)) == [{"id": 2}]
        clock.advance(2 * HOUR)
        await log.append([event()])
        await log.trim()
        with pytest.raises(Compacted) as edge:
            await page_of(log, after=1, as_of=first.as_of)
        assert edge.value.horizon == 3
        assert values(await page_of(log, as_of=3)) == [{"id": 1}, {"id": 2, "v": 2}]


async def test_entries_of_a_table_without_key_are_told_or_refused_never_skipped(
    kept: Kept, clock: Clock
) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([event(n=1), event(n=2)])
        clock.advance(HOUR)
        await log.append([event(n=3), event(n=4)])
        as_of, after = await log.newest(EVENTS, "", None, 3)
        assert (as_of, after) == (4, 1)
        clock.advance(1)
        await log.trim()
        with pytest.raises(Compacted):
            await page_of(log, EVENTS, after=after, as_of=as_of)
        assert seqs(await page_of(log, EVENTS)) == [3, 4]
        assert await log.newest(EVENTS, "", None, 3) == (4, 2)


async def test_retention_may_change_while_the_log_runs(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([event(), event()])
        clock.advance(60)
        assert await log.trim() == 0
        log.retain(Retention(max_age=30.0, max_bytes=None))
        assert await log.trim() == 2


async def test_appends_go_on_while_retention_works(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        for _ in range(4):
            await log.append([event(n=n) for n in range(1000)])
        clock.advance(HOUR + 1)
        removed, *answers = await asyncio.gather(
            log.trim(), *(log.append([event()]) for _ in range(20))
        )
        assert removed == 4000
        assert seqs(await everything(log, 4000)) == list(range(4001, 4021))
        assert len(answers) == 20


async def test_producers_that_never_pause_do_not_hold_retention_up(
    kept: Kept, clock: Clock
) -> None:
    async with kept.log(AN_HOUR) as log:
        for _ in range(3):
            await log.append([event(n=n) for n in range(1500)])
        clock.advance(HOUR + 1)
        trim = asyncio.create_task(log.trim())

        async def producer() -> None:
            while not trim.done():
                await log.append([event()])
                await asyncio.sleep(0)

        async with asyncio.timeout(60):
            await asyncio.gather(*(producer() for _ in range(8)))
        assert trim.result() == 4500


async def test_age_counts_on_while_the_clock_is_back(kept: Kept, clock: Clock) -> None:
    async with kept.log(AN_HOUR) as log:
        await log.append([put(1)])
        clock.put_back(1000 * HOUR)
        await log.append([put(2)])
        clock.advance(HOUR + 1)
        await log.append([put(3)])
        assert await log.trim() == 2
        assert seqs(await everything(log, after=2)) == [3]


async def test_age_counts_on_after_a_restart_with_the_clock_back(
    tmp_path: Path, clock: Clock
) -> None:
    kept = Kept("sqlite", tmp_path, clock)
    async with kept.log(AN_HOUR) as log:
        await log.append([put(1)])
    clock.put_back(1000 * HOUR)
    async with kept.log(AN_HOUR) as log:
        clock.advance(HOUR + 1)
        assert await log.trim() == 1
