"""How many bytes a position is behind: its share of what the log holds."""

from types import SimpleNamespace
from typing import Any

import pytest

from kalam_notify.administration.standing import Standing


def standing(first: int, last: int, held: int) -> Standing:
    log: Any = SimpleNamespace(
        first_seq=first, last_seq=last, statistics=lambda: {"log_bytes": held}
    )
    return Standing(log, lambda: 42, lambda position: 1.5)


@pytest.mark.parametrize(
    ("position", "expected"),
    [(110, 0), (200, 0), (109, 100), (105, 500), (100, 1000), (99, 1000), (0, 1000)],
)
def test_it_is_the_share_of_the_log_beyond_the_position(position: int, expected: int) -> None:
    assert standing(101, 110, 1000).bytes_behind(position) == expected


def test_of_an_empty_log_nothing_is_behind() -> None:
    assert standing(111, 110, 0).bytes_behind(50) == 0


def test_position_and_seconds_are_those_it_was_given() -> None:
    it = standing(1, 2, 3)
    assert (it.position, it.seconds_behind(1)) == (42, 1.5)
