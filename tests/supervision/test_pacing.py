"""When a worker that has died is started again."""

from kalam_notify.supervision.pacing import FIRST_DELAY, LONG_LIFE, MAX_DELAY, Pacing


def test_the_first_death_is_made_good_at_once() -> None:
    assert Pacing().delay(0.1) == 0


def test_short_lives_are_followed_by_ever_longer_pauses_up_to_a_bound() -> None:
    pacing = Pacing()
    delays = [pacing.delay(0.1) for _ in range(50)]
    assert delays[:4] == [0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY


def test_a_long_life_is_made_good_at_once_again() -> None:
    pacing = Pacing()
    for _ in range(10):
        pacing.delay(0.1)
    assert pacing.delay(LONG_LIFE - 0.001) == MAX_DELAY
    assert pacing.delay(LONG_LIFE) == 0
    assert pacing.delay(0.1) == FIRST_DELAY
