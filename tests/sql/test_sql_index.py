"""The index: filters found by what the row holds, asked only where that does not decide."""

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_helpers import where

from kalam_notify.filters import Filter, FilterIndex
from kalam_notify.filters.lookups import Interval, Ranges
from kalam_notify.filters.query import forget_bound
from kalam_notify.sql.parsing import forget_parsed
from kalam_notify.sql.tree import Call, Column, constant


def index_of(*conditions: str) -> FilterIndex[str]:
    index: FilterIndex[str] = FilterIndex()
    for condition in conditions:
        index.add(where(condition), condition)
    return index


EXPLAINED = [
    ("a = 1", "hash a = 1", None),
    ("status IN ('x', 'y')", "hash status IN ('x', 'y')", None),
    ("f", "hash f = TRUE", None),
    ("a = 1 AND b = 'x'", "hash a = 1", "b = 'x'"),
    ("a > 1 AND b = 'x'", "hash b = 'x'", "a > 1"),
    ("f AND a BETWEEN 1 AND 5", "range a >= 1 AND <= 5", "f = TRUE"),
    ("a >= 1 AND a < 5 AND a > 2", "range a > 2 AND < 5", None),
    ("a > 1", "range a > 1", None),
    ("s < 'm'", "range s < 'm'", None),
    ("name LIKE 'abc%'", "prefix name 'abc'", None),
    ("name LIKE 'abc%d'", "prefix name 'abc'", "name LIKE 'abc%d'"),
    ("name LIKE 'a%' AND a > 5 AND a < 9", "range a > 5 AND < 9", "name LIKE 'a%'"),
    ("a = 1 OR b = 2", "hash a = 1 or hash b = 2", None),
    ("a = 1 OR name LIKE 'x%' OR b > 2", "hash a = 1 or prefix name 'x' or range b > 2", None),
    (
        "a = 1 AND c IS NULL OR b = 2",
        "hash a = 1 or hash b = 2",
        "a = 1 AND c IS NULL OR b = 2",
    ),
    ("a IN (1, NULL)", "hash a = 1", None),
    ("a <> 1", "scan", "a <> 1"),
    ("name LIKE '%x'", "scan", "name LIKE '%x'"),
    ("name ILIKE 'x%'", "scan", "name ILIKE 'x%'"),
    ("a IS NULL OR b = 1", "scan", "(a IS NULL) OR (b = 1)"),
    ("a = b", "scan", "a = b"),
    ("LOWER(name) = 'x'", "scan", "LOWER(name) = 'x'"),
    ("TRUE", "every row", None),
    ("FALSE", "no row", None),
]


@pytest.mark.parametrize(("condition", "used", "residual"), EXPLAINED)
def test_explain_tells_how_a_filter_is_found(
    condition: str, used: str, residual: str | None
) -> None:
    index = index_of(condition)
    explanation = index.explain(where(condition))
    assert explanation.index == used
    if residual is None:
        assert explanation.residual is None
    else:
        assert explanation.residual is not None
        assert where(explanation.residual) == where(residual)
    assert explanation.shared == 1


def test_what_the_index_decides_is_not_asked() -> None:
    index = index_of(
        *(f"a = {value}" for value in range(200)),
        *(f"b BETWEEN {value} AND {value + 1}" for value in range(200)),
        *(f"s LIKE 'p{value}-%'" for value in range(200)),
        "a IN (7, 8)",
    )
    found = index.matching({"a": 7, "b": 150, "s": "p33-x"})
    assert sorted(found) == [
        "a = 7",
        "a IN (7, 8)",
        "b BETWEEN 149 AND 150",
        "b BETWEEN 150 AND 151",
        "s LIKE 'p33-%'",
    ]
    assert index.evaluations == 0


def test_a_residual_is_asked_once_for_each_filter_that_was_met() -> None:
    index = index_of("a = 1 AND b <> 1", "a = 1 AND b <> 2", "a = 2 AND b <> 1", "b <> 3")
    for item in range(50):
        index.add(where("a = 1 AND b <> 1"), f"another {item}")
    assert len(index.matching({"a": 1, "b": 2})) == 1 + 50 + 1
    assert index.evaluations == 3


def test_values_are_met_by_their_type() -> None:
    index = index_of("a = 1", "a = '1'", "a = TRUE", "a = 0", "a = FALSE", "a > 0", "a < 'z'")
    for value, expected in [
        (1, {"a = 1", "a > 0"}),
        (1.0, {"a = 1", "a > 0"}),
        ("1", {"a = '1'", "a < 'z'"}),
        (True, {"a = TRUE"}),
        (False, {"a = FALSE"}),
        (0, {"a = 0"}),
        (None, set()),
        ([1], set()),
        ({"a": 1}, set()),
    ]:
        assert set(index.matching({"a": value})) == expected, value
    assert index.matching({}) == []


def test_an_item_met_by_several_terms_is_given_once() -> None:
    index = index_of("a = 1 OR b = 1 OR s LIKE 'x%' OR s LIKE 'xy%' OR c > 5")
    assert len(index.matching({"a": 1, "b": 1, "s": "xyz", "c": 9})) == 1


def test_items_come_and_go_under_one_filter() -> None:
    index: FilterIndex[int] = FilterIndex()
    for item in range(5):
        index.add(where("a = 1"), item)
        index.add(where("a IN (1.0)"), item)
    assert len(index) == 1
    assert index.explain(where("a = 1")).shared == 5
    index.discard(where("a = 1"), 3)
    index.discard(where("a = 1"), 99)
    index.discard(where("a = 99"), 1)
    assert sorted(index.matching({"a": 1})) == [0, 1, 2, 4]
    for item in range(5):
        index.discard(where("a = 1"), item)
    assert len(index) == 0
    assert index.matching({"a": 1}) == []


ALL_KINDS = [condition for condition, _, _ in EXPLAINED]


def test_nothing_is_left_when_all_filters_have_gone() -> None:
    index = index_of(*ALL_KINDS)
    rows: list[dict[str, Any]] = [{"a": 1, "b": 2, "s": "a", "name": "abcd", "f": True}]
    assert len(index.matching(rows[0])) > 5
    for condition in ALL_KINDS:
        index.discard(where(condition), condition)
    assert len(index) == 0
    for row in rows:
        assert index.matching(row) == []


def test_a_filter_that_raises_is_reported_and_hurts_no_other() -> None:
    reported: list[tuple[str, str]] = []
    index: FilterIndex[str] = FilterIndex(
        on_broken=lambda item, error: reported.append((item, type(error).__name__))
    )
    # A tree that the parser never makes stands for the unforeseen.
    broken = Filter(Call("is null", (Call("like", (Column("s"), constant("a"), Column("e"))),)))
    index.add(broken, "broken")
    index.add(broken, "broken too")
    index.add(where("s <> 'x'"), "whole")
    index.add(where("s = 'ab'"), "indexed")
    assert sorted(index.matching({"s": "ab", "e": ["unhashable"]})) == ["indexed", "whole"]
    assert reported == [("broken", "TypeError"), ("broken too", "TypeError")]
    index.discard(broken, "broken")
    index.discard(broken, "broken too")
    assert sorted(index.matching({"s": "ab", "e": ["unhashable"]})) == ["indexed", "whole"]
    assert len(reported) == 2


@pytest.mark.parametrize(
    "condition",
    [
        "s = 'value-{}'",
        "s IN ('v{}', 'w{}', 'x{}')",
        "n BETWEEN {} AND {}",
        "s LIKE 'p{}-%'",
        "s = 'value-{}' AND gone IS NULL",
        "s LIKE '%{}x%'",
    ],
)
def test_a_filter_takes_little_memory(condition: str) -> None:
    # Everything that all filters share is made first.
    index = index_of(*(condition.replace("{}", str(value)) for value in range(5)))
    count = 200
    filters = []
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for value in range(10_000, 10_000 + count):
            found = where(condition.replace("{}", str(value)))
            filters.append(Filter(found.predicate))
            index.add(filters[-1], condition)
        forget_parsed()
        forget_bound()
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / count < 1536


BOUNDS = st.tuples(st.integers(0, 12), st.sampled_from([0, 1]))
INTERVALS = st.builds(
    Interval,
    st.one_of(st.none(), BOUNDS),
    st.one_of(st.none(), BOUNDS.map(lambda bound: (bound[0], -bound[1]))),
).filter(lambda interval: interval != (None, None))


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), INTERVALS), max_size=40),
    points=st.lists(st.sampled_from([value / 2 for value in range(-1, 27)]), min_size=1),
)
def test_ranges_give_exactly_the_intervals_around_a_point(
    steps: list[tuple[bool, Interval]], points: list[float]
) -> None:
    ranges: Ranges[Interval] = Ranges()
    kept: set[Interval] = set()
    for is_added, interval in steps:
        assert ranges.get(interval) == (interval if interval in kept else None)
        if is_added:
            ranges[interval] = interval
            kept.add(interval)
        elif interval in kept:
            del ranges[interval]
            kept.remove(interval)
    assert bool(ranges) == bool(kept)
    for point in points:
        around = {
            interval
            for interval in kept
            if (interval.low is None or interval.low <= (point, 0))
            and (interval.high is None or (point, 0) <= interval.high)
        }
        found = list(ranges.containing(point))
        assert len(found) == len(set(found))
        assert set(found) == around


def test_of_two_equalities_the_less_crowded_one_is_taken() -> None:
    """One tenant with many ids, or many tenants with one id each: both are found by one look-up."""
    by_id: FilterIndex[int] = FilterIndex()
    by_tenant: FilterIndex[int] = FilterIndex()
    for number in range(200):
        by_id.add(where(f"tenant = 'acme' AND g = {number}"), number)
        by_tenant.add(where(f"tenant = 't{number}' AND g = 7"), number)
    assert by_id.matching({"tenant": "acme", "g": 150}) == [150]
    assert by_tenant.matching({"tenant": "t150", "g": 7}) == [150]
    assert by_id.evaluations <= 4
    assert by_tenant.evaluations <= 4
    for number in range(200):
        by_id.discard(where(f"tenant = 'acme' AND g = {number}"), number)
    assert by_id.matching({"tenant": "acme", "g": 150}) == []
    assert len(by_id) == 0
