"""Filters are asked on the event loop in slices, one a turn, and what they raise comes back."""

import asyncio
from typing import Any

import pytest
from log_kit import ORDERS, page_of, put, seqs

from kalam_notify.log import EventLog
from kalam_notify.model import Row
from kalam_notify.store.filtering import Candidate, LoopFilter


def candidates(count: int) -> list[Candidate]:
    return [(n, Row(b'{"n":%d}' % n)) for n in range(count)]


def odd(values: dict[str, Any]) -> bool:
    return bool(values["n"] % 2)


class Ticking:
    """A clock on which every look is a tenth of a millisecond later."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks / 10_000


async def count_turns(write_lock: list[int]) -> None:
    while True:
        write_lock[0] += 1
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
async def test_those_that_match_are_kept_in_order(count: int) -> None:
    row_filter = LoopFilter()
    kept = await asyncio.to_thread(row_filter, candidates(count), odd)
    assert [seq for seq, _ in kept] == list(range(1, count, 2))


async def test_the_loop_has_a_turn_after_every_slice_of_any_scan() -> None:
    clock, write_lock = Ticking(), [0]
    row_filter = LoopFilter(clock)
    others = asyncio.create_task(count_turns(write_lock))
    scans = [asyncio.to_thread(row_filter, candidates(1000), odd) for _ in range(3)]
    kept = await asyncio.gather(*scans)
    others.cancel()
    assert [len(found) for found in kept] == [500, 500, 500]
    # A slice is over when the clock has moved a quarter of a millisecond: after three rows.
    assert write_lock[0] >= 3 * 1000 / 3


async def test_what_a_filter_raises_comes_back_to_the_reader() -> None:
    def broken(values: dict[str, Any]) -> bool:
        raise ZeroDivisionError(values)

    row_filter = LoopFilter()
    for count in (1, 1000):
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(row_filter, candidates(count), broken)
    assert len(await asyncio.to_thread(row_filter, candidates(1000), odd)) == 500


async def test_closing_waits_for_a_page_that_is_being_read(log: EventLog) -> None:
    await log.append([put(n, n=n) for n in range(3000)])
    page = asyncio.create_task(page_of(log, ORDERS, matches=odd, limit=5000))
    await asyncio.sleep(0)
    await log.close()
    assert seqs(await page) == list(range(2, 3001, 2))


async def test_a_scan_of_one_page_is_no_hindrance_to_another(log: EventLog) -> None:
    await log.append([put(n, n=n) for n in range(2000)])
    pages = await asyncio.gather(
        *(page_of(log, ORDERS, matches=odd, limit=5000) for _ in range(20))
    )
    assert all(seqs(page) == list(range(2, 2001, 2)) for page in pages)
