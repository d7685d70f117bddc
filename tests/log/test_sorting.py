"""Values as bytes: equal ones are equal, greater ones never below."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.store.sorting import NOTHING, beginning, between, encode, merged

numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 2**53, 2**53 + 1, 10**400, -(10**400), 5e-324, 1.7e308]),
)
texts = st.text("aZ\0\x01é\uffff\U0010ffff", max_size=70)


@given(one=numbers, other=numbers)
def test_numbers_sort_as_they_compare(one: Any, other: Any) -> None:
    assert encode(one) == encode(other) or (encode(one) < encode(other)) == (one < other)
    assert one != other or encode(one) == encode(other)


@given(one=texts, other=texts, behind=texts)
def test_texts_sort_as_they_compare_also_before_others(one: str, other: str, behind: str) -> None:
    if one < other:
        assert encode(one) <= encode(other)
    if encode(one) < encode(other):
        assert encode(one) + encode(behind) < encode(other) + encode("")


@given(prefix=texts, rest=texts, begin=st.sampled_from([b"", encode(1), encode("a\0")]))
def test_a_prefix_spans_all_texts_that_begin_so(prefix: str, rest: str, begin: bytes) -> None:
    low, high = beginning(begin, prefix)
    assert low <= begin + encode(prefix + rest) + encode("behind") < high


@given(ends=st.one_of(st.tuples(numbers, numbers), st.tuples(texts, texts)), data=st.data())
def test_a_range_spans_what_lies_in_it(ends: Any, data: st.DataObject) -> None:
    low, value, high = sorted([*ends, data.draw(texts if isinstance(ends[0], str) else numbers)])
    for first, last in ((low, high), (None, high), (low, None)):
        begin, end = between(b"", first, last)
        assert begin <= encode(value) + encode("behind") < end
        other = encode(1) if isinstance(value, str) else encode("")
        assert not begin <= other < end
        assert not begin <= encode(True) < end


@pytest.mark.parametrize("value", [None, [], {}, [1], {"a": 1}])
def test_what_equals_nothing_has_no_bytes_of_its_own(value: Any) -> None:
    assert encode(value) is NOTHING


def test_kinds_stand_apart() -> None:
    assert encode(False) < encode(True) < encode(-(10**400)) < encode(10**400) < encode("")


def test_overlapping_spans_are_one() -> None:
    spans = [(b"a", b"c"), (b"b", b"d"), (b"x", b"y"), (b"z", b"a")]
    assert merged(spans) == [(b"a", b"d"), (b"x", b"y")]
