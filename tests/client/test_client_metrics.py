"""Readings of /metrics, and what two of them tell."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from kalam_notify.client.metrics import Between, Reading

TEXT = """\
# HELP x_total Things
# TYPE x_total counter
x_total{table="a.b",kind="one \\"two\\" \\\\ \\n"} 5
x_total{table="c.d",kind=""} 1e3
plain 2.5 1700000000
broken line of text
"""


def test_samples_are_read_with_their_labels() -> None:
    reading = Reading.of(TEXT, 0.0)
    assert reading.value("x_total", table="a.b", kind='one "two" \\ \n') == 5
    assert reading.total("x_total") == 1005
    assert reading.by("x_total", "table") == {"a.b": 5, "c.d": 1000}
    assert reading.value("plain") == 2.5
    assert reading.value("absent") == 0


def test_what_the_servers_library_writes_is_read() -> None:
    registry = CollectorRegistry()
    counter = Counter("n", "text", ["table"], registry=registry)
    counter.labels('public."User"').inc(3)
    reading = Reading.of(generate_latest(registry).decode(), 0.0)
    assert reading.by("n_total", "table") == {'public."User"': 3}


def test_a_rate_is_of_the_time_between_and_survives_a_counter_that_begins_anew() -> None:
    before, after = Reading.of("n 10\nm 10\n", 1.0), Reading.of("n 30\nm 4\nnew 8\n", 3.0)
    between = Between(before, after)
    assert (between.rate("n"), between.rate("m"), between.rate("new")) == (10, 2, 4)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.15), (0.99, 0.2), (0.0, 0.0)])
def test_a_quantile_is_of_what_was_observed_between(share: float, expected: float) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("t", "text", buckets=(0.1, 0.2, 0.4), registry=registry)
    for value in (0.05, 0.3, 0.35):
        histogram.observe(value)
    before = Reading.of(generate_latest(registry).decode(), 0.0)
    for _ in range(100):
        histogram.observe(0.15)
    between = Between(before, Reading.of(generate_latest(registry).decode(), 1.0))
    assert between.quantile(share, "t") == pytest.approx(expected, abs=0.11)
    assert between.quantile(0.5, "t") == pytest.approx(0.15)
    assert Between(before, before).quantile(0.5, "t") is None


def test_beyond_the_last_bucket_a_quantile_is_its_bound() -> None:
    before = Reading.of("", 0.0)
    after = Reading.of('t_bucket{le="0.1"} 0\nt_bucket{le="+Inf"} 4\n', 1.0)
    assert Between(before, after).quantile(0.5, "t") == 0.1
