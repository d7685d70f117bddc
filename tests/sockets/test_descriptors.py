"""Few descriptors left: who is turned away, and how often the log is told."""

import logging
import resource

import pytest

from kalam_notify.sockets.descriptors import LINE_SECONDS, RESERVE, Descriptors


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("limit", "kept"), [(1024, RESERVE), (100, 12), (64, 8)])
def test_the_last_ones_are_the_servers_own(limit: int, kept: int) -> None:
    descriptors = Descriptors(Clock(), limit)
    assert descriptors.admits(limit - kept - 1)
    assert not descriptors.admits(limit - kept)
    assert not descriptors.admits(limit - 1)


def test_without_a_limit_everybody_is_admitted() -> None:
    assert Descriptors(Clock(), resource.RLIM_INFINITY).admits(1_000_000)


def test_the_log_is_told_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    descriptors = Descriptors(clock, 100)
    with caplog.at_level(logging.ERROR):
        for _ in range(50):
            descriptors.admits(99)
        assert len(caplog.records) == 1
        clock.now += LINE_SECONDS
        descriptors.admits(99)
    assert len(caplog.records) == 2
    assert "turned away: 50" in caplog.text
