"""Figures, bars, and the accounting under them."""

import subprocess
import sys

import pytest

from loadtest.client import Delays
from loadtest.client.reading import Histogram, bucket_edge
from loadtest.filter_kinds import AT_ONCE, BATCH, filter_of
from loadtest.harness.cpu import CpuMeter, cpu_ns, process_tree, resident_bytes
from loadtest.harness.report import Bar, Measurement, medians, number
from loadtest.harness.rows import RowMaker, change_payload

BUSY_GRANDCHILD = """
import subprocess, sys, time
if len(sys.argv) > 1:
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    print(flush=True)
    sys.stdin.read()
else:
    subprocess.run([sys.executable, "-c", sys.argv[0], "leaf"])
"""


def test_a_ratio_is_judged_only_beside_a_floor() -> None:
    bar = Bar("at most", 1.25, "ratio")
    assert Measurement("a", 5, "µs", 4, 1.25, bar).verdict == "met"
    assert Measurement("a", 6, "µs", 4, 1.5, bar).verdict == "missed"
    assert Measurement("a", 6, "µs", bar=bar).verdict == ""
    assert Measurement("a", 2999, "/s", bar=Bar("at least", 3000)).verdict == "missed"
    assert Measurement("a", 2999, "/s").verdict == ""


def test_runs_are_told_as_the_median_of_each_column() -> None:
    runs = [[Measurement("a", v, "µs", f, v / f)] for v, f in ((6, 4), (9, 5), (7, 2))]
    (told,) = medians(runs)
    assert (told.value, told.floor, told.ratio) == (7, 4, 9 / 5)
    assert told.spread == (6, 9)


def test_percentiles_come_within_a_bucket_of_the_truth() -> None:
    histogram = Histogram()
    for n in range(1, 1001):
        histogram.add(n * 1_000_000)
    told = histogram.told()
    delays = Delays(told["count"], told["max"], told["buckets"])
    for percent in (1, 50, 99, 99.9, 100):
        assert delays.percentile(percent) == pytest.approx(percent * 10, rel=0.04)
    twice = Delays.merge([delays, delays])
    assert (twice.count, twice.max) == (2000, 1_000_000_000)
    assert Delays().percentile(50) == 0


@pytest.mark.parametrize("ns", [0, 1, 31, 32, 33, 63, 64, 10**6, 2**40, 2**50 + 12345])
def test_a_bucket_holds_its_values_within_three_percent(ns: int) -> None:
    assert bucket_edge(ns) <= ns <= bucket_edge(ns) * (1 + 1 / 32)


def test_a_plain_row_is_two_hundred_bytes_long() -> None:
    maker = RowMaker()
    assert len(maker.row()) == 200
    assert maker.made == 1
    assert RowMaker.sum_between(3, 5) == 12
    assert change_payload([maker.row()]).count(b'"_seq":"') == 1


def test_cpu_time_counts_the_descendants_of_a_process() -> None:
    code = f"import sys; sys.argv[0] = {BUSY_GRANDCHILD!r}; exec(sys.argv[0])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        meter, parent_alone = CpuMeter(parent.pid), CpuMeter(alone=parent.pid)
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(process_tree(parent.pid)) == 2
        assert meter.lap() >= 50_000_000
        assert parent_alone.lap() < cpu_ns(process_tree(parent.pid)[1])
        assert resident_bytes(parent.pid) > 1_000_000
        parent.communicate()
    assert meter.lap() == 0


@pytest.mark.parametrize("count", [10, 1000, 100_000])
def test_a_batch_of_changes_always_goes_to_ten_filters(count: int) -> None:
    for batch in range(3):
        rows = range(batch * BATCH + 1, (batch + 1) * BATCH + 1)
        assert 1 < len({filter_of(n, count) for n in rows}) <= AT_ONCE


def test_numbers_are_told_with_three_digits() -> None:
    assert [number(v) for v in (1234567.8, 12.345, 0.00123456, None)] == [
        "1,234,568",
        "12.3",
        "0.00123",
        "-",
    ]
