"""When memory that lies idle is given back."""

import pytest

from kalam_notify.memory import LEAST_BYTES, PART, Keeper, open_keeper, resident_bytes

MIB = 1 << 20


class Heap:
    """A heap that counts pages it has given back as free, as glibc's does."""

    def __init__(self) -> None:
        self.free = 0
        self.trimmed = 0

    def free_bytes(self) -> int:
        return self.free

    def trim(self) -> None:
        self.trimmed += 1


def look(keeper: Keeper) -> bool:
    """What is done once a period; whether anything was given back."""
    due = keeper.is_due()
    if due:
        keeper.give_back()
    return due


@pytest.fixture
def heap() -> Heap:
    return Heap()


@pytest.fixture
def keeper(heap: Heap) -> Keeper:
    return Keeper(heap, lambda: 200 * MIB)


@pytest.mark.parametrize(("free", "trims"), [(LEAST_BYTES - 1, 0), (LEAST_BYTES, 1)])
def test_what_lies_idle_for_a_period_is_given_back_if_it_is_enough(
    heap: Heap, keeper: Keeper, free: int, trims: int
) -> None:
    heap.free = free
    assert not look(keeper), "it has just become free"
    assert look(keeper) is bool(trims)
    assert heap.trimmed == trims


def test_it_must_be_a_good_part_of_what_the_process_takes(heap: Heap) -> None:
    resident = 100 * LEAST_BYTES
    keeper = Keeper(heap, lambda: resident)
    heap.free = resident // PART - 1
    look(keeper)
    assert not look(keeper)
    heap.free += 1
    look(keeper)
    assert look(keeper)


def test_what_is_used_again_at_once_is_kept(heap: Heap, keeper: Keeper) -> None:
    for _ in range(10):
        heap.free = 100 * MIB
        look(keeper)
        heap.free = 10 * MIB
        look(keeper)
    assert heap.trimmed == 0


def test_what_was_given_back_is_not_given_back_again(heap: Heap, keeper: Keeper) -> None:
    heap.free = 100 * MIB
    for _ in range(10):
        look(keeper)
    assert heap.trimmed == 1


def test_what_was_used_again_and_freed_again_is(heap: Heap, keeper: Keeper) -> None:
    for _ in range(3):
        heap.free = 100 * MIB
        look(keeper)
        look(keeper)
        heap.free = 20 * MIB
        look(keeper)
    assert heap.trimmed == 3


def test_this_process_can_be_looked_at() -> None:
    keeper = open_keeper()
    if keeper is not None:
        assert look(keeper) in (True, False)
    assert resident_bytes() >= 0
