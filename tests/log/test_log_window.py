"""The window: contiguous, in order, bounded."""

import tracemalloc

import pytest
from log_kit import EVENTS, row, seqs

from kalam_notify.log.following import Window
from kalam_notify.model import Change, Row, TableId
from kalam_notify.model.changes import memory_of


def change(seq: int, size: int = 200) -> Change:
    plain = row(pad="x" * (size - 138))
    made = Change(seq, EVENTS.id, "", "insert", plain, None)
    assert made.size == size
    return made


def changes(*numbers: int) -> list[Change]:
    return [change(seq) for seq in numbers]


def test_a_new_window_stands_at_its_position() -> None:
    window = Window(7)
    assert (window.start, window.last_seq, window.first_seq, len(window)) == (7, 7, 8, 0)
    assert window.after(6) is None
    assert window.after(7) == window.after(8) == ()


def test_it_gives_everything_after_a_position_gaps_in_the_seqs_or_not() -> None:
    window = Window(10)
    window.extend(changes(11, 12, 20))
    assert window.after(9) is None
    found = {after: seqs(list(window.after(after) or ())) for after in (10, 11, 12, 15, 19, 20)}
    assert found == {10: [11, 12, 20], 11: [12, 20], 12: [20], 15: [20], 19: [20], 20: []}


@pytest.mark.parametrize(("count", "dropped"), [(4, False), (5, False), (6, True)])
def test_it_drops_the_oldest_only_when_full(count: int, dropped: bool) -> None:
    window = Window(max_bytes=5 * memory_of(change(1)))
    for seq in range(1, count + 1):
        window.extend([change(seq)])
    assert (window.start > 0) is dropped
    assert window.memory == memory_of(change(1)) * len(window)
    assert window.first_seq == window.start + 1
    assert window.last_seq == count


def test_a_change_larger_than_the_window_leaves_it_empty_but_in_place() -> None:
    window = Window(max_bytes=1000)
    window.extend([change(1), change(2, 5000)])
    assert (len(window), window.bytes, window.start, window.last_seq) == (0, 0, 2, 2)
    window.extend([change(3)])
    assert seqs(list(window.after(2) or ())) == [3]


def test_bytes_and_what_entered_survive_dropping_and_reset() -> None:
    window = Window()
    window.extend(changes(1, 2, 3, 4))
    assert seqs(window.drop_upto(2)) == [1, 2]
    assert (window.bytes, window.entered, window.start) == (400, 800, 2)
    window.reset(9)
    assert (window.bytes, window.entered, window.start, window.last_seq) == (0, 800, 9, 9)
    window.extend(changes(10))
    assert (window.bytes, window.entered) == (200, 1000)


def test_a_span_keeps_to_its_limits_and_gives_at_least_one() -> None:
    window = Window()
    window.extend(changes(1, 2, 3, 4, 5))
    assert seqs(window.span(1, 2, 10_000)) == [2, 3]
    assert seqs(window.span(0, 10, 1)) == [1]
    assert seqs(window.span(0, 10, 400)) == [1, 2]
    assert seqs(window.span(0, 10, 401)) == [1, 2, 3]
    assert seqs(window.span(4, 10, 10_000)) == [5]
    assert seqs(window.span(5, 10, 10_000)) == []


@pytest.mark.parametrize("size", [10, 200, 2000])
@pytest.mark.parametrize("with_old", [False, True])
@pytest.mark.parametrize("owner", ["", "alice@example.com"])
def test_what_is_counted_is_what_python_takes(size: int, with_old: bool, owner: str) -> None:
    def row(number: int) -> Row:
        return Row(b'{"n":%d,"x":"%s"}' % (number, b"y" * size))

    window = Window(max_bytes=1 << 40)
    tracemalloc.start()
    try:
        for seq in range(10**15, 10**15 + 1000):
            old = row(seq) if with_old else None
            user = owner and f"{owner}{seq}"
            made = Change(seq, TableId("app.t"), user, "update", row(seq), old, seq - 1)
            window.extend([made])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.85 < window.memory / taken < 1.3
