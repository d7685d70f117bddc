"""The message rate, counted and by work, on a clock moved by hand."""

import pytest

from kalam_notify.protocol.session import MESSAGE_WORK, MessageRate, Verdict

NOW = 1_000_000.0


def verdicts(rate: MessageRate, count: int, now: float = NOW) -> list[Verdict]:
    return [rate.judge(now, 50, 200) for _ in range(count)]


def test_the_burst_passes_and_one_more_is_dropped() -> None:
    found = verdicts(MessageRate(), 201)
    assert found == [Verdict.PASS] * 200 + [Verdict.DROP]


def test_ten_times_the_burst_is_abuse() -> None:
    found = verdicts(MessageRate(), 2001)
    assert found[-2:] == [Verdict.DROP, Verdict.ABUSE]


def test_a_steady_client_at_the_rate_is_never_over_it() -> None:
    rate = MessageRate()
    assert {rate.judge(NOW + n / 50, 50, 200) for n in range(5000)} == {Verdict.PASS}


def test_a_client_that_slows_down_is_heard_again_at_once() -> None:
    rate = MessageRate()
    verdicts(rate, 500)
    assert rate.judge(NOW + 1 / 50, 50, 200) is Verdict.PASS


def test_work_within_the_burst_is_free() -> None:
    rate = MessageRate()
    assert [rate.charge(MESSAGE_WORK, NOW, 50, 200) for _ in range(200)] == [0.0] * 200
    assert rate.charge(MESSAGE_WORK, NOW, 50, 200) == pytest.approx(1 / 50)


def test_more_work_is_paid_off_at_the_rate() -> None:
    rate = MessageRate()
    assert rate.charge(400 * MESSAGE_WORK, NOW, 50, 200) == pytest.approx(4.0)
    assert rate.charge(0, NOW + 3, 50, 200) == pytest.approx(1.0)
    assert rate.charge(0, NOW + 4, 50, 200) == 0.0
    assert rate.charge(MESSAGE_WORK, NOW + 5, 50, 200) == 0.0


def test_work_and_messages_are_counted_apart() -> None:
    rate = MessageRate()
    rate.charge(10_000 * MESSAGE_WORK, NOW, 50, 200)
    assert rate.judge(NOW, 50, 200) is Verdict.PASS


def test_frames_are_counted_a_hundredth() -> None:
    rate = MessageRate()
    assert all(rate.judge_frame(NOW, 50, 200) for _ in range(20_000))
    assert not rate.judge_frame(NOW, 50, 200)
