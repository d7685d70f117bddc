"""Buckets: fine where the server lives, and right at their edges."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from kalam_notify.metrics.registry import BOUNDS, SecondsHistogram


def test_from_1_to_30_ms_a_step_is_a_third_at_most() -> None:
    fine = [bound for bound in BOUNDS if 0.001 <= bound <= 0.03]
    assert fine[0] == 0.001
    assert fine[-1] == 0.03
    for lower, upper in pairwise(fine):
        assert upper / lower <= 4 / 3 + 1e-9, (lower, upper)


def test_bounds_rise() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0.0, "0.0005"), (0.0005, "0.0005"), (0.0051, "0.0065"), (99.0, "+Inf")]
)
def test_a_duration_is_counted_up_to_its_bound(seconds: float, bound: str) -> None:
    histogram = SecondsHistogram("s", "Seconds")
    histogram.observe(seconds)
    registry = CollectorRegistry()
    registry.register(histogram)
    (family,) = registry.collect()
    counted = {one.labels["le"]: one.value for one in family.samples if "le" in one.labels}
    first = next(le for le, count in counted.items() if count == 1)
    assert first == bound
    assert counted["+Inf"] == 1
