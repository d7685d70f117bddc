"""How old a position is, told from notes of the log's end."""

from kalam_notify.metrics.ages import Ages


def test_a_position_is_as_old_as_the_first_note_beyond_it() -> None:
    ages = Ages()
    for second, last_seq in enumerate([10, 20, 30]):
        ages.note(last_seq, float(second))
    assert [ages.of(position, 5.0) for position in (0, 9, 10, 19, 20, 29)] == [5, 5, 4, 4, 3, 3]


def test_the_end_of_the_log_has_no_age() -> None:
    ages = Ages()
    assert ages.of(0, 9.0) == 0.0
    ages.note(10, 0.0)
    assert ages.of(10, 9.0) == 0.0
    assert ages.of(11, 9.0) == 0.0


def test_a_log_that_stands_still_is_noted_once() -> None:
    ages = Ages()
    for second in range(100):
        ages.note(7, float(second))
    assert len(ages) == 1
    assert ages.of(6, 100.0) == 100.0


def test_thinned_notes_stay_bounded_and_never_tell_an_age_too_long() -> None:
    ages = Ages(most=64)
    for second in range(10_000):
        ages.note(second + 1, float(second))
        assert len(ages) <= 64
    now = 10_000.0
    told = [ages.of(position, now) for position in range(10_000)]
    assert told == sorted(told, reverse=True)
    assert all(age <= now - position for position, age in enumerate(told))
    # What has just happened is told exactly.
    assert [ages.of(position, now) for position in range(9_980, 10_000)] == [
        now - position for position in range(9_980, 10_000)
    ]


def test_the_newest_notes_survive_thinning() -> None:
    ages = Ages(most=4)
    for second in range(5):
        ages.note(second + 1, float(second))
    assert ages.of(4, 10.0) == 6.0
