"""The budget on an event loop, and slots."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from kalam_notify.budget import Budget, Slots, Steps


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def budget() -> AsyncIterator[Budget]:
    budget = Budget(Clock(), quantum=1.0)
    running = asyncio.create_task(budget.run())
    yield budget
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def steps(budget: Budget, turns: list[int], count: int) -> Steps[int]:
    clock = budget._clock
    assert isinstance(clock, Clock)
    for number in range(count):
        clock.now += 1.0
        turns.append(number)
        yield
    return count


async def test_work_for_an_idle_budget_begins_at_once(budget: Budget) -> None:
    done: list[int] = []
    work = budget.enter(steps(budget, done, 0), "x")
    assert work.is_over


async def test_only_one_slice_is_done_in_the_turn_that_work_comes(budget: Budget) -> None:
    done: list[int] = []
    first = budget.enter(steps(budget, done, 1), "x")
    second = budget.enter(steps(budget, done, 1), "x")
    assert not second.is_over
    assert await budget.do(steps(budget, done, 2), "x") == 2
    assert first.is_over
    assert second.is_over


async def test_works_that_take_a_part_of_a_slice_are_over_at_once_until_it_is_used(
    budget: Budget,
) -> None:
    clock = budget._clock
    assert isinstance(clock, Clock)

    def quarter() -> Steps[None]:
        clock.now += 0.25
        yield from ()

    for _ in range(3):  # A new slice with each turn of the loop.
        works = [budget.enter(quarter(), number) for number in range(6)]
        assert [work.is_over for work in works] == [True] * 4 + [False] * 2
        while not works[-1].is_over:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_a_turn_begins_with_half_a_slice_at_least_and_never_has_more_than_one(
    budget: Budget,
) -> None:
    clock = budget._clock
    assert isinstance(clock, Clock)

    def eighth() -> Steps[None]:
        clock.now += 0.125
        yield from ()

    for before in range(1, 8):
        first = [budget.enter(eighth(), number) for number in range(before)]
        assert all(work.is_over for work in first)
        await asyncio.sleep(0)
        later = [budget.enter(eighth(), number) for number in range(12)]
        assert 4 <= sum(work.is_over for work in later) <= 8
        while not later[-1].is_over:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_what_a_work_hands_in_is_begun_in_the_same_turn(budget: Budget) -> None:
    inner = []

    def outer() -> Steps[None]:
        inner.append(budget.enter(steps(budget, [], 0), "inner"))
        yield

    budget.enter(outer(), "outer")
    assert inner[0].is_over


async def test_the_loop_turns_between_slices(budget: Budget) -> None:
    turns: list[int] = []
    seen: list[int] = []

    async def look() -> None:
        while len(turns) < 10:
            seen.append(len(turns))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await budget.do(steps(budget, turns, 10), "x")
    await looking
    assert all(after - before <= 1 for before, after in itertools.pairwise(seen))


async def test_an_error_is_raised_where_the_result_is_awaited(budget: Budget) -> None:
    def fails() -> Steps[int]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await budget.do(fails(), "x")


async def test_who_waits_no_more_has_no_work_done(budget: Budget) -> None:
    turns: list[int] = []
    waiting = asyncio.create_task(budget.do(steps(budget, turns, 1_000_000), "x"))
    while not turns:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    before = len(turns)
    await budget.do(steps(budget, [], 3), "y")
    assert len(turns) == before


async def test_no_owner_takes_the_last_slot() -> None:
    slots = Slots(3)
    inside: list[str] = []
    may_end = asyncio.Event()

    async def use(owner: str) -> None:
        async with slots.hold(owner):
            inside.append(owner)
            await may_end.wait()

    greedy = [asyncio.create_task(use("greedy")) for _ in range(60)]
    await asyncio.sleep(0)
    assert inside == ["greedy"] * 2
    modest = asyncio.create_task(use("modest"))
    await asyncio.sleep(0)
    assert inside == ["greedy", "greedy", "modest"]
    may_end.set()
    await asyncio.gather(modest, *greedy)
    assert len(inside) == 61


async def test_those_who_wait_for_slots_take_turns_by_owner() -> None:
    slots = Slots(1)
    order: list[str] = []

    async def use(owner: str) -> None:
        async with slots.hold(owner):
            order.append(owner)
            await asyncio.sleep(0)

    await asyncio.gather(*(use(owner) for owner in "aaaabb"))
    assert order == ["a", "a", "b", "a", "b", "a"]


async def test_who_waits_no_more_for_a_slot_gives_its_place_up() -> None:
    slots = Slots(1)

    async def use() -> None:
        async with slots.hold("x"):
            pass

    async with slots.hold("y"):
        waiting = [asyncio.create_task(use()) for _ in range(10)]
        await asyncio.sleep(0)
        assert slots.waiting == 10
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert slots.waiting == 0
    async with asyncio.timeout(5), slots.hold("z"):
        pass
