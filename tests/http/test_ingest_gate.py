"""The gate: what is let in, and that everything is given back."""

import pytest

from kalam_notify.errors import ChangeRefused
from kalam_notify.http.ingest import Gate


def test_bytes_are_let_in_up_to_the_capacity() -> None:
    gate = Gate()
    with gate.reserve(100) as first, gate.reserve(100) as second:
        first.grow(60)
        second.grow(39)
        second.grow(1)
        with pytest.raises(ChangeRefused) as caught:
            second.grow(1)
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        assert gate.held == 100
        assert gate.statistics() == {"held_bytes": 100, "open_posts": 2, "refused": 1}
    assert gate.statistics() == {"held_bytes": 0, "open_posts": 0, "refused": 1}


def test_what_is_expected_is_refused_before_it_comes_and_takes_nothing() -> None:
    gate = Gate()
    with gate.reserve(100) as first, gate.reserve(100) as second:
        first.grow(60)
        second.expect(40)
        with pytest.raises(ChangeRefused):
            second.expect(41)
        assert gate.held == 60


def test_a_post_alone_is_let_in_whatever_its_size() -> None:
    gate = Gate()
    with gate.reserve(100) as only:
        only.grow(80)
        only.grow(80)
        with gate.reserve(100) as late, pytest.raises(ChangeRefused):
            late.grow(1)


def test_a_post_that_fails_gives_its_bytes_back() -> None:
    gate = Gate()

    def fail() -> None:
        with gate.reserve(100) as reservation:
            reservation.grow(50)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert gate.held == 0


def test_a_closed_gate_refuses_everybody() -> None:
    gate = Gate()
    gate.close()
    with pytest.raises(ChangeRefused):
        gate.reserve(100)
