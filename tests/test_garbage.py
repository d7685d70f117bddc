"""Collecting in small steps: what is looked at when, and what is found."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kalam_notify import garbage


class Node:
    """Something that may hold itself."""

    def __init__(self) -> None:
        self.me: Any = None


class Walks:
    """The collections that have been made: generation, and how many objects it looked at."""

    def __init__(self) -> None:
        self.made: list[tuple[int, int]] = []

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generation = info["generation"]
            size = sum(len(gc.get_objects(number)) for number in range(generation + 1))
            self.made.append((generation, size))


@pytest.fixture
async def walks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Walks]:
    """The collector as a worker sets it, with rounds that follow each other at once."""
    monkeypatch.setattr(garbage, "YOUNG_SECONDS", 0.001)
    monkeypatch.setattr(garbage, "FULL_SECONDS", 1.0)
    before = gc.get_threshold()
    collecting = asyncio.create_task(garbage.collect_in_small_steps())
    await asyncio.sleep(0)
    walks = Walks()
    gc.callbacks.append(walks)
    yield walks
    gc.callbacks.remove(walks)
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)
    gc.set_threshold(*before)
    gc.unfreeze()


async def rounds(walks: Walks, count: int) -> None:
    before = len(walks.made)
    async with asyncio.timeout(20):
        while len(walks.made) < before + count:
            await asyncio.sleep(0.001)


async def test_half_a_million_new_objects_are_looked_at_in_small_lots(walks: Walks) -> None:
    kept = [[number] for number in range(500_000)]
    await rounds(walks, 2)
    assert len(kept) == 500_000
    assert len(walks.made) > 40
    assert max(size for _, size in walks.made) < 3 * garbage.YOUNG_OBJECTS


async def test_a_cycle_that_was_left_in_a_calm_is_found(walks: Walks) -> None:
    node = Node()
    node.me = node
    gone = weakref.ref(node)
    del node
    await rounds(walks, 2)
    assert gone() is None


async def test_a_cycle_that_was_frozen_is_found_when_everything_is_looked_at(
    walks: Walks,
) -> None:
    node = Node()
    node.me = node
    gone = weakref.ref(node)
    await rounds(walks, 2)
    assert gc.get_freeze_count() > 0
    del node
    async with asyncio.timeout(20):
        while gone() is not None:
            await asyncio.sleep(0.01)
